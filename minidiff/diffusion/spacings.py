"""Chapter 1, second part: how to skip timesteps. Each spacing picks `steps` timesteps out of 0 ... top.

Rests on errors. The first four spacings go by the number of a timestep, the last two by how noisy it is (sigma).
Song et al. 2021 (DDIM); Lin et al. 2024 (table 2); Karras et al. 2022 (EDM); Lu et al. 2022a (DPM-Solver).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from minidiff.errors import UserError, lookup

RHO = 7  # EDM, table 1: of `karras`
PURE_NOISE = 160  # a sigma over DDPM's last, 157: no step is worth taking above. See `by_level`


def spaced(
    sigmas: Tensor, steps: int | None = None, start_t: int | None = None, spacing: str = "trailing"
) -> list[int]:
    """List the timesteps at which a reverse chain calls the network, falling. See `Schedule.timesteps`.

    sigmas: float64 [T], rising; the noise level of each timestep, the last of which may be infinite.
    """
    spread, T = lookup("spacing", spacing, SPACINGS), len(sigmas)
    top = T - 1 if start_t is None else start_t
    if not 0 <= top < T:
        raise UserError(f"`start_t` {start_t} is outside this schedule's timesteps. Take 0 to {T - 1}.")
    if steps is None:
        return list(range(top, -1, -1))
    if not 1 <= steps <= top + 1:
        raise UserError(f"{steps} steps do not fit in {top + 1} timesteps ({top} to 0). Take 1 to {top + 1}.")
    return [int(t) for t in reversed(spread(sigmas, steps, top, start_t is not None))]


# Each returns `steps` rising timesteps out of 0 ... top. If `exact`, the last of them has to be top itself.


def leading(sigmas: Tensor, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Take multiples of (top + 1) // steps from 0, as DDIM's "linear": 50 of 1000 start at 980, not at 999.

    With a given top, space evenly from 0 to it and round down.
    """
    if exact:
        return [top] if steps == 1 else [i * top // (steps - 1) for i in range(steps)]
    return [i * ((top + 1) // steps) for i in range(steps)]


def trailing(sigmas: Tensor, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Space evenly down from the top, so the first call is at the noise x starts from: Lin et al. 2024, table 2."""
    falling = np.arange(top + 1, 0, -(top + 1) / steps)[:steps]  # [:steps]: rounding may add one near 0
    return [round(t) - 1 for t in reversed(falling.tolist())]


def linspace(sigmas: Tensor, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Space evenly with both ends, and round to the nearest: Lin et al. 2024, table 2."""
    if exact and steps == 1:
        return [top]
    return [round(t) for t in np.linspace(0, top, steps).tolist()]


def quadratic(sigmas: Tensor, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Go densely near the image: squares of even steps up to sqrt(0.8 T), or sqrt(top) if given: DDIM, appendix D.2.

    Rounded down. DDIM's code then calls small timesteps twice (0 already with 50 steps); here they move up by one.
    """
    if exact and steps == 1:
        return [top]
    squares = np.linspace(0, math.sqrt(top if exact else 0.8 * (top + 1)), steps) ** 2
    rising = [max(i, int(square)) for i, square in enumerate(squares.tolist())]
    return [*rising[:-1], top] if exact else rising  # the root of top, squared, may fall short of it by 1e-13


def karras(sigmas: Tensor, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Space evenly in sigma^(1/7), from the sigma of 0 to that of top, so steps shrink with the noise: EDM eq. 5.

    Each is rounded to the timestep with the nearest sigma: the network knows no others (EDM, table 1, iDDPM).
    """
    return by_level(sigmas, steps, top, exact, lambda sigma: sigma ** (1 / RHO))


def logsnr(sigmas: Tensor, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Space evenly in log SNR, each rounded to the nearest timestep: DPM-Solver, Lu et al. 2022a."""
    return by_level(sigmas, steps, top, exact, lambda sigma: -2 * sigma.log())  # SNR = 1 / sigma^2


def by_level(sigmas: Tensor, steps: int, top: int, exact: bool, scale: Callable[[Tensor], Tensor]) -> Sequence[int]:
    """Pick `steps` timesteps of 0 ... top that are even on a scale of sigma. Where two coincide, one moves up.

    Without a given top the highest is where sigma is PURE_NOISE, if it goes further: the cosine schedule's last sigma
    is 20,000, and of ten karras steps six would be above 100. With zero terminal SNR sigma is infinite at T-1. There
    the network has to be called at T-1, and the other steps are laid below.
    """
    sigmas = sigmas[: top + 1]
    pure_noise = bool(sigmas[-1].isinf())
    if pure_noise and steps == 1:
        return [top]
    if pure_noise:
        sigmas, steps = sigmas[:-1], steps - 1
    if pure_noise or not exact:
        highest = int((sigmas - sigmas[-1].clamp(max=PURE_NOISE)).abs().argmin())
        sigmas = sigmas[: max(steps - 1, highest) + 1]
    levels = scale(sigmas)
    shares = torch.linspace(0, 1, steps, dtype=levels.dtype) if steps > 1 else torch.ones(1, dtype=levels.dtype)
    wanted = levels[0] + shares * (levels[-1] - levels[0])
    rising = (wanted[:, None] - levels).abs().argmin(dim=1).tolist()
    for i in range(1, steps):
        rising[i] = max(rising[i], rising[i - 1] + 1)
    room = len(levels) - steps  # rising[i] has to leave room for those above
    return [*(min(t, room + i) for i, t in enumerate(rising)), *[top] * pure_noise]


SPACINGS: dict[str, Callable[[Tensor, int, int, bool], Sequence[int]]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "quadratic": quadratic,
    "karras": karras,
    "logsnr": logsnr,
}
