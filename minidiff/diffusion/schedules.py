"""Chapter 1: the noise schedule, which says how much of the image is left at every timestep, and how to skip timesteps.

Rests on nothing but torch and numpy.
Ho et al. 2020 (DDPM); Nichol & Dhariwal 2021 (cosine); Song et al. 2021 (DDIM, skipping); Lin et al. 2024 (zero SNR);
Karras et al. 2022 (EDM: sigma, and steps that grow with it); Lu et al. 2022a (DPM-Solver: steps even in log SNR).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minidiff.errors import UserError, lookup

BETA_START, BETA_END = 1e-4, 0.02  # DDPM, section 4, for T = 1000
SCALED_START, SCALED_END = 0.00085, 0.012  # of Stable Diffusion, for T = 1000
MAX_BETA = 0.999  # Nichol & Dhariwal, section 3.2: no single step may wipe out the image
RHO = 7  # EDM, table 1: of `karras`
PURE_NOISE = 160  # a sigma over DDPM's last, 157: no step is worth taking above. See `by_level`


class Level(NamedTuple):
    """What the schedule says about timestep t, in the paper's symbols: one number a sample, shaped to multiply images.

    `var` is the variance of the noise in x_t. It has a name because 1 - alpha_bar must be taken in float64:
    in float32 the 1e-6 that some schedules leave at t = 0 comes out 1.3% wrong.
    """

    beta: Tensor  # beta_t
    alpha: Tensor  # alpha_t = 1 - beta_t
    alpha_bar: Tensor  # alpha_1 ... alpha_t
    alpha_bar_prev: Tensor  # the same of t - 1; 1 at t = 0, where the level below is the image itself
    var: Tensor  # 1 - alpha_bar_t
    var_prev: Tensor  # 1 - alpha_bar_{t-1}


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """The T noise levels of a diffusion. Timesteps count from 0 (almost clean) to T-1 (almost pure noise).

    betas, alphas_cumprod: float64 [T], in (0, 1] and [0, 1). Build one with `linear`, `cosine` or `from_betas`.
    It lives on the CPU in float64; a value is cast once, where it meets an image, see `at`.
    """

    betas: Tensor
    alphas_cumprod: Tensor

    @staticmethod
    def linear(T: int = 1000, beta_start: float | None = None, beta_end: float | None = None) -> "Schedule":
        """Betas evenly spaced from beta_start (1e-4) to beta_end (0.02): DDPM, section 4.

        A range that is given is taken as it is. With neither end given the range is scaled by 1000 / T, so that the
        last alpha_cumprod hardly depends on T: 100 unscaled steps would leave 37% of the image's variance in x_T.
        """
        at_least_one(T)
        if beta_start is None and beta_end is None:
            betas = 1000 / T * torch.linspace(BETA_START, BETA_END, T, dtype=torch.float64)
            return Schedule.from_betas(betas.clamp(max=MAX_BETA))  # reached only with T <= 20
        start = BETA_START if beta_start is None else beta_start
        end = BETA_END if beta_end is None else beta_end
        return Schedule.from_betas(torch.linspace(start, end, T, dtype=torch.float64))

    @staticmethod
    def scaled_linear(T: int = 1000, beta_start: float | None = None, beta_end: float | None = None) -> "Schedule":
        """Betas whose roots are evenly spaced, from 0.00085 to 0.012 unless given: Rombach et al. 2022.

        The range is taken or scaled as in `linear`. The default is Stable Diffusion's: x_{T-1} keeps 7% of the image.
        """
        at_least_one(T)
        given = beta_start is not None or beta_end is not None
        start = SCALED_START if beta_start is None else beta_start
        end = SCALED_END if beta_end is None else beta_end
        betas = torch.linspace(math.sqrt(max(start, 0)), math.sqrt(max(end, 0)), T, dtype=torch.float64) ** 2
        return Schedule.from_betas(betas if given else (1000 / T * betas).clamp(max=MAX_BETA))

    @staticmethod
    def cosine(T: int = 1000, s: float = 0.008) -> "Schedule":
        """alpha_bar falls as a squared cosine: Nichol & Dhariwal 2021, eq. 17. Betas are held under 0.999.

        The small offset s keeps the first betas from vanishing.
        """
        at_least_one(T)
        time = torch.arange(T + 1, dtype=torch.float64) / T  # t / T for t = 0 ... T
        f = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2  # eq. 17; f(0) cancels in the next line
        return Schedule.from_betas((1 - f[1:] / f[:-1]).clamp(max=MAX_BETA))

    @staticmethod
    def from_betas(betas: Tensor | Sequence[float]) -> "Schedule":
        """The schedule of any betas [T] in (0, 1], 1 only at the last. UserError otherwise."""
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) == 0:
            raise UserError(f"betas have the shape {list(betas.shape)}: give one number for each timestep, [T]")
        if not bool(((betas > 0) & (betas <= 1)).all()) or bool((betas[:-1] == 1).any()):
            low, high = betas.min().item(), betas.max().item()
            raise UserError(f"betas run from {low:g} to {high:g}: each must lie in (0, 1), only the last may be 1")
        return Schedule(betas, torch.cumprod(1 - betas, dim=0))  # DDPM, above eq. 4

    def zero_terminal_snr(self) -> "Schedule":
        """The same schedule stretched so that x_{T-1} is pure noise: Lin et al. 2024, algorithm 1.

        The first level stays, the last alpha_cumprod becomes exactly 0. There eps says nothing about x0, so such a
        schedule needs a network that predicts v or x0, and a spacing that calls it at T-1 (trailing or linspace).
        """
        if self.T < 2:
            raise UserError("a schedule of 1 timestep has no first and last level to stretch between. Take T >= 2.")
        root = self.alphas_cumprod.sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))  # algorithm 1: shift, then scale
        alphas_cumprod = root**2
        alphas = alphas_cumprod / previous(alphas_cumprod)
        return Schedule(1 - alphas, alphas_cumprod)

    @property
    def T(self) -> int:
        """How many timesteps there are."""
        return len(self.betas)

    def __len__(self) -> int:
        return self.T

    def __repr__(self) -> str:
        first, last, left = self.betas[0].item(), self.betas[-1].item(), self.alphas_cumprod[-1].item()
        return f"Schedule(T={self.T}, betas {first:.3g} to {last:.3g}, last alpha_cumprod {left:.3g})"

    @property
    def snr(self) -> Tensor:
        """Signal to noise, alpha_bar / (1 - alpha_bar): float64 [T], falling."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    @property
    def sigmas(self) -> Tensor:
        """The noise in x_t / sqrt(alpha_bar), sqrt((1 - alpha_bar) / alpha_bar): float64 [T], rising. EDM's sigma.

        With zero terminal SNR the last is infinite.
        """
        return self.snr.rsqrt()

    def to(self, device: torch.device | str) -> "Schedule":
        """The same numbers on another device: for training on a GPU, where a look-up must not wait for the CPU."""
        if torch.device(device).type == "mps":  # which has no float64; `at` then looks up on the CPU
            return self
        return Schedule(self.betas.to(device), self.alphas_cumprod.to(device))

    def at(self, t: Tensor, like: Tensor) -> Level:
        """The level of each sample, see `Level`.

        t: int64 [N] in [0, T). like: the images [N,...] it will meet; every field comes out as [N,1,...] with as many
        dimensions, in their dtype and on their device. For images that is [N,1,1,1].
        """
        t = t.to(self.betas.device)
        beta, alpha_bar, alpha_bar_prev = (
            table[t].reshape(-1, *[1] * (like.ndim - 1))
            for table in (self.betas, self.alphas_cumprod, previous(self.alphas_cumprod))
        )
        exact = (beta, 1 - beta, alpha_bar, alpha_bar_prev, 1 - alpha_bar, 1 - alpha_bar_prev)
        return Level(*(value.to(like) for value in exact))

    def timesteps(self, steps: int | None = None, start_t: int | None = None, spacing: str = "trailing") -> list[int]:
        """The timesteps at which a reverse chain calls the network, falling; its last result is the image.

        steps: how many; None is every one. start_t: the first one, at whose noise level x then has to be.
        start_t None, with steps: the published grids on all T timesteps, see SPACINGS: not all begin at T-1.
        start_t given: the grid is laid on [0, start_t], and the first call is at start_t whatever the spacing.
        UserError: start_t outside [0, T), steps outside [1, start_t + 1], unknown spacing.
        """
        grid = lookup("spacing", spacing, SPACINGS)
        top = self.T - 1 if start_t is None else start_t
        if not 0 <= top < self.T:
            raise UserError(f"start_t {start_t} is outside this schedule's timesteps. Take 0 to {self.T - 1}.")
        if steps is None:
            return list(range(top, -1, -1))
        if not 1 <= steps <= top + 1:
            raise UserError(f"{steps} steps do not fit in {top + 1} timesteps ({top} to 0). Take 1 to {top + 1}.")
        rising = grid(self, steps, top, start_t is not None)
        return [int(t) for t in reversed(rising)]


def previous(alphas_cumprod: Tensor) -> Tensor:
    """alpha_bar_{t-1} for every t: [T]. Below t = 0 lies the image, whose alpha_bar is 1."""
    return torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])


def at_least_one(T: int) -> None:
    """UserError unless there is a timestep."""
    if T < 1:
        raise UserError(f"a schedule of T = {T} timesteps is empty. Take T >= 1.")


# The spacings: `steps` rising timesteps out of 0 ... top. With `exact` the last of them has to be top itself.
# The first four go by the number of the timestep alone, the others by how much noise there is.


def leading(schedule: Schedule, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Multiples of (top + 1) // steps from 0, as DDIM's "linear": 50 of 1000 start at 980, not at 999.

    With a given top, evenly spaced from 0 to it and rounded down.
    """
    if exact:
        return [top] if steps == 1 else [i * top // (steps - 1) for i in range(steps)]
    return [i * ((top + 1) // steps) for i in range(steps)]


def trailing(schedule: Schedule, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Evenly spaced down from the top, so the first call is at the noise x starts from: Lin et al. 2024, table 2."""
    falling = np.arange(top + 1, 0, -(top + 1) / steps)[:steps]  # [:steps]: rounding may add one near 0
    return [round(t) - 1 for t in reversed(falling.tolist())]


def linspace(schedule: Schedule, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Evenly spaced with both ends, rounded to the nearest: Lin et al. 2024, table 2."""
    if exact and steps == 1:
        return [top]
    return [round(t) for t in np.linspace(0, top, steps).tolist()]


def quadratic(schedule: Schedule, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Dense near the image: squares of even steps up to sqrt(0.8 T), or sqrt(top) if given: DDIM, appendix D.2.

    Rounded down. DDIM's code then calls small timesteps twice (0 already with 50 steps); here they move up by one.
    """
    if exact and steps == 1:
        return [top]
    squares = np.linspace(0, math.sqrt(top if exact else 0.8 * (top + 1)), steps) ** 2
    rising = [max(i, int(square)) for i, square in enumerate(squares.tolist())]
    return [*rising[:-1], top] if exact else rising  # the root of top, squared, may fall short of it by 1e-13


def karras(schedule: Schedule, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Even in sigma^(1/7), so that steps shrink with the noise, from the sigma of 0 to that of top: EDM eq. 5.

    Each is rounded to the timestep with the nearest sigma: the network knows no others (EDM, table 1, iDDPM).
    """
    return by_level(schedule, steps, top, exact, lambda sigmas: sigmas ** (1 / RHO))


def logsnr(schedule: Schedule, steps: int, top: int, exact: bool) -> Sequence[int]:
    """Even in log SNR, from that of 0 to that of top, each rounded to the nearest: DPM-Solver, Lu et al. 2022a."""
    return by_level(schedule, steps, top, exact, lambda sigmas: -2 * sigmas.log())  # SNR = 1 / sigma^2


def by_level(schedule: Schedule, steps: int, top: int, exact: bool, scale: Callable[[Tensor], Tensor]) -> Sequence[int]:
    """`steps` timesteps of 0 ... top, even on this scale of sigma, each at the nearest; where two coincide one moves.

    Without a given top the highest is where sigma is PURE_NOISE, if it goes further: the cosine schedule's last sigma
    is 20,000, and of ten karras steps six would be above 100. With zero terminal SNR, where sigma is infinite, the
    network has to be called at T-1, and this is done with the other steps.
    """
    sigmas = schedule.sigmas[: top + 1]
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


SPACINGS: dict[str, Callable[[Schedule, int, int, bool], Sequence[int]]] = {
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "quadratic": quadratic,
    "karras": karras,
    "logsnr": logsnr,
}

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Schedule.linear, "scaled_linear": Schedule.scaled_linear, "cosine": Schedule.cosine,
}  # fmt: skip
