"""Chapter 7: the same process, written two more ways. Flow matching's straight line, and EDM's sigma.

Rests on schedules, spacings and predictions. All three notations say x_t = signal * x0 + noise * eps. DDPM lets the
squares of the two rates add up to 1. On flow matching's straight line the rates themselves add up to 1. EDM leaves the
image as it is, and only the noise grows. At timesteps with the same sigma = noise / signal, x_t of one is x_t of
another times a number. So whatever is true of one chain is true of all. What differs is where a training looks, and
what its network is shown.

Here t is a real number, so a training draws any. A chain calls whole ones, from T-1 down to 0, as everywhere in the
package. docs/processes.md has the three side by side.
Lipman et al. 2023, Liu et al. 2023 (flow matching); Esser et al. 2024 (SD3); Karras et al. 2022 (EDM).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minidiff.diffusion.levels import Level, Rate
from minidiff.diffusion.predictions import Model, prediction_of, spread
from minidiff.diffusion.schedules import Process, at_least_one, over_batch
from minidiff.diffusion.spacings import RHO, spaced
from minidiff.errors import UserError, lookup

SIGMA_MIN, SIGMA_MAX = 0.002, 80  # EDM, table 1
LOG_MEAN, LOG_DEVIATION = -1.2, 1.2  # of sigma in an EDM training: table 1
TOLD = 1000  # networks embed a time by waves that are made for numbers up to about 1000, DDPM's timesteps


@dataclass(frozen=True, eq=False, repr=False)
class Continuous:
    """A process that has a noise level at every real t in (-1, T-1]. Build one with `flow` or `edm`.

    It serves wherever a `Schedule` does, except for what belongs to DDPM's single steps, such as `q_posterior`.
    """

    name: str
    T: int
    rates_at: Callable[[Tensor], tuple[Tensor, Tensor]]  # float64 t -> the rates of signal and noise
    # (signal, noise), each [N,1,1,1] -> what x_t is multiplied with before a network sees it, and the time it is told.
    shown: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __repr__(self) -> str:
        return f"{self.name}(T={self.T})"

    @property
    def sigmas(self) -> Tensor:
        """The deviation of the noise in x_t / signal at each timestep: float64 [T], rising. The last of flow is inf."""
        signal, noise = self.rates_at(torch.arange(self.T, dtype=torch.float64))
        return noise / signal

    def levels(self, timesteps: Sequence[int]) -> list[Level]:
        """List the levels of these timesteps, in plain numbers."""
        signal, noise = self.rates_at(torch.tensor(timesteps, dtype=torch.float64))
        return [Level(t, s**2, n**2) for t, s, n in zip(timesteps, signal.tolist(), noise.tolist(), strict=True)]

    def rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Give the rates of signal and noise, each [N,1,...] in the dtype of `like`. t: [N], whole or real numbers."""
        signal, noise = self.rates_at(exact(t))
        return over_batch(signal, like), over_batch(noise, like)

    def to(self, device: torch.device | str) -> "Continuous":
        """Return itself: there are no tables to move."""
        return self

    def timesteps(self, steps: int | None = None, start_t: int | None = None, spacing: str = "trailing") -> list[int]:
        """List the timesteps at which a reverse chain calls the network, falling: see `Schedule.timesteps`."""
        return spaced(self.sigmas, steps, start_t, spacing)


def exact(values: Tensor) -> Tensor:
    """Return numbers in float64: on their device, or on the CPU where that has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def flow(T: int = 1000, shift: float = 1.0) -> Continuous:
    """Go from the image to noise in a straight line: x_t = (1 - tau) x0 + tau eps, with tau = (t + 1) / T.

    At t = T-1 all is noise. shift: above 1, all timesteps become noisier, tau = shift s / (1 + (shift - 1) s) with
    s = (t + 1) / T. Large images need that, as many pixels tell more of an image than few: Esser et al. 2024, eq. 23,
    who take 3 at 1024x1024. The network is told 1000 tau, so it can be sampled with another shift than it was trained
    with. Raises UserError for T < 1 and a shift that is not above 0.
    """
    at_least_one(T)
    if not shift > 0:
        raise UserError(f"a `shift` of {shift:g} does not keep the order of the timesteps. Take a number above 0.")

    def rates_at(t: Tensor) -> tuple[Tensor, Tensor]:
        share = (t + 1) / T
        tau = shift * share / (1 + (shift - 1) * share)
        return 1 - tau, tau

    return Continuous("flow", T, rates_at, shown=lambda signal, noise: (torch.ones_like(noise), TOLD * noise))


def edm(T: int = 1000, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> Continuous:
    """Leave the image as it is and let the noise grow: x_t = x0 + sigma eps, sigma from sigma_min to sigma_max.

    sigma^(1/7) grows evenly with t, EDM's own steps (eq. 5): so `trailing` spacing is `karras`. The network is shown
    x_t with a variance of 1, and told 1000 c_noise = 250 log(sigma) (EDM, table 1). Raises UserError for T < 2 and
    sigmas that do not rise.
    """
    if T < 2 or not 0 < sigma_min < sigma_max:
        raise UserError(
            f"edm with T = {T} and sigma from {sigma_min:g} to {sigma_max:g}: give T >= 2, and rising sigmas."
        )
    low, high = sigma_min ** (1 / RHO), sigma_max ** (1 / RHO)

    def rates_at(t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = (low + t / (T - 1) * (high - low)) ** RHO  # eq. 5
        return torch.ones_like(sigma), sigma

    def shown(signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / spread(signal, noise), TOLD * noise.log() / 4  # table 1: c_in and c_noise

    return Continuous("edm", T, rates_at, shown)


def facing(model: Callable[..., Tensor], process: Process) -> Callable[..., Tensor]:
    """Put a network before a process: what comes out takes x_t and t, and shows the network what it is made for.

    On a `Schedule` that is x_t and t themselves. Further arguments, such as labels, are handed on.
    """
    if not isinstance(process, Continuous):
        return model

    def call(x: Tensor, t: Tensor, *others: Any, **named: Any) -> Tensor:
        scale, told = process.shown(*process.rates(t, like=x))
        return model(scale * x, told.flatten(), *others, **named)

    call.prediction = getattr(model, "prediction", None)  # type: ignore[attr-defined]
    return call


# --- where a training looks ---------------------------------------------------------------------------------------


def timestep_at(process: Continuous, sigma: Tensor) -> Tensor:
    """Find the real t [N] of edm's process that has this sigma [N]; the nearest end, where none has."""
    first, last = (level.sigma ** (1 / RHO) for level in process.levels([0, process.T - 1]))
    share: Tensor = (sigma ** (1 / RHO) - first) / (last - first)
    return share.clamp(0, 1) * (process.T - 1)


def logit_normal(process: Continuous, normal: Tensor) -> Tensor:
    """Turn standard normal numbers [N] into timesteps [N] of a flow, densest half way: Esser et al. 2024, eq. 19.

    At both ends there is little to learn: the answer is the mean of all images less the noise, or nearly x_t itself.
    """
    return process.T * exact(normal).sigmoid() - 1


def log_normal(process: Continuous, normal: Tensor) -> Tensor:
    """Turn standard normal numbers [N] into timesteps [N] whose sigma is log-normal: EDM, table 1."""
    return timestep_at(process, (LOG_MEAN + LOG_DEVIATION * exact(normal)).exp())


# --- one notation in another --------------------------------------------------------------------------------------

# What x_t is multiplied with, by the rates of signal and noise, to stand in each notation.
NOTATIONS: dict[str, Callable[[Rate, Rate], Rate]] = {
    "ddpm": lambda signal, noise: (signal**2 + noise**2) ** -0.5,
    "flow": lambda signal, noise: 1 / (signal + noise),
    "edm": lambda signal, noise: 1 / signal,
}


@dataclass(frozen=True, eq=False)
class Rewritten:
    """A process in another notation: the same timesteps, sigmas and guesses, and every x_t times a number.

    notation: one of NOTATIONS. It has what samplers need of a schedule; `rewritten` makes the network that goes with
    it.
    """

    process: Process
    notation: str

    @property
    def T(self) -> int:
        """The number of timesteps."""
        return self.process.T

    def levels(self, timesteps: Sequence[int]) -> list[Level]:
        """List the levels of these timesteps, in plain numbers."""
        levels = self.process.levels(timesteps)
        factors = [float(NOTATIONS[self.notation](level.signal, level.noise)) ** 2 for level in levels]
        return [Level(t, a * factor, v * factor) for (t, a, v), factor in zip(levels, factors, strict=True)]

    def timesteps(self, steps: int | None = None, start_t: int | None = None, spacing: str = "trailing") -> list[int]:
        """List the timesteps of a chain: those of the process."""
        return self.process.timesteps(steps, start_t, spacing)


def rewritten(model: Model, process: Process, notation: str) -> tuple[Model, Rewritten]:
    """Write a model and its process in another notation, so that samplers walk the same way there.

    model: takes x_t and t of the process, and says what it predicts in `model.prediction`; eps, if it does not. A chain
    starts from the x that the process would start from, times the number of NOTATIONS for its first level.
    Raises UserError for an unknown notation, and for edm where no signal is left, as sigma has no end there.
    """
    scale, kind = lookup("notation", notation, NOTATIONS), prediction_of(model, process)
    if notation == "edm" and process.levels([process.T - 1])[0].alpha_bar == 0:
        raise UserError(f"{process} ends in pure noise, whose sigma is infinite, so edm cannot write it.")

    def call(x: Tensor, t: Tensor) -> Tensor:
        signal, noise = process.rates(t, like=x)
        x = x / scale(signal, noise)
        output = model(x, t)
        if not kind.needs_power_1:  # the formulas of the others hold for any x_t times a number
            return output
        return kind.eps(x, output, signal, noise) - kind.x0(x, output, signal, noise)

    call.prediction = "velocity" if kind.needs_power_1 else getattr(model, "prediction", None)  # type: ignore[attr-defined]
    return call, Rewritten(process, notation)
