"""Chapter 1: the noise schedule, which says how much of the image is left at every timestep.

Rests on levels and spacings.
Ho et al. 2020 (DDPM); Nichol & Dhariwal 2021 (cosine); Rombach et al. 2022 (scaled linear); Lin et al. 2024 (zero SNR).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minidiff.diffusion.levels import Jump, Level, NoiseSchedule
from minidiff.diffusion.spacings import spaced
from minidiff.errors import UserError

BETA_START, BETA_END = 1e-4, 0.02  # DDPM, section 4, for T = 1000
SCALED_START, SCALED_END = 0.00085, 0.012  # of Stable Diffusion, for T = 1000
MAX_BETA = 0.999  # Nichol & Dhariwal, section 3.2: no single step may wipe out the image


class Process(NoiseSchedule, Protocol):
    """What a training needs of a schedule, beside what samplers need: `Schedule` has it, and so have flow and edm."""

    @property
    def sigmas(self) -> Tensor:
        """The deviation of the noise in x_t / signal at each timestep: float64 [T], rising."""

    def rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The rates of signal and noise at t [N], each [N,1,...]: x_t = signal_rate * x0 + noise_rate * eps."""

    def to(self, device: torch.device | str) -> "Process":
        """The same on another device."""


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """Holds the T noise levels of a diffusion. Timesteps count from 0 (almost clean) to T-1 (almost pure noise).

    betas, alphas_cumprod: float64 [T], in (0, 1] and [0, 1). Build one with `linear`, `cosine` or `from_betas`.
    A schedule lives on the CPU in float64. A value is cast once, where it meets an image: see `at`.
    """

    betas: Tensor
    alphas_cumprod: Tensor

    @staticmethod
    def linear(T: int = 1000, beta_start: float | None = None, beta_end: float | None = None) -> "Schedule":
        """Space the betas evenly from beta_start (1e-4) to beta_end (0.02): DDPM, section 4.

        A given range is taken as it is. If neither end is given, the range is scaled by 1000 / T, so that the last
        alpha_cumprod hardly depends on T: 100 unscaled steps would leave 37% of the image's variance in x_T.
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
        """Space the roots of the betas evenly, from 0.00085 to 0.012 unless given: Rombach et al. 2022.

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
        """Let alpha_bar fall as a squared cosine: Nichol & Dhariwal 2021, eq. 17. Betas are held under 0.999.

        The small offset s keeps the first betas from vanishing.
        """
        at_least_one(T)
        time = torch.arange(T + 1, dtype=torch.float64) / T  # t / T for t = 0 ... T
        f = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2  # eq. 17; f(0) cancels in the next line
        return Schedule.from_betas((1 - f[1:] / f[:-1]).clamp(max=MAX_BETA))

    @staticmethod
    def from_betas(betas: Tensor | Sequence[float]) -> "Schedule":
        """Build the schedule of any betas [T] in (0, 1], 1 only at the last. Raises UserError for others."""
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) == 0:
            raise UserError(f"betas have the shape {list(betas.shape)}: give one number for each timestep, [T]")
        if not bool(((betas > 0) & (betas <= 1)).all()) or bool((betas[:-1] == 1).any()):
            low, high = betas.min().item(), betas.max().item()
            raise UserError(f"betas run from {low:g} to {high:g}: each must lie in (0, 1), only the last may be 1")
        return Schedule(betas, torch.cumprod(1 - betas, dim=0))  # DDPM, above eq. 4

    def zero_terminal_snr(self) -> "Schedule":
        """Stretch the schedule so that x_{T-1} is pure noise: Lin et al. 2024, algorithm 1.

        The first level stays, and the last alpha_cumprod becomes exactly 0. At T-1 eps then says nothing about x0. So
        the network has to predict v or x0, and the chain has to call it at T-1, as all spacings but leading and
        quadratic do.
        """
        if self.T < 2:
            raise UserError(
                "a schedule of 1 timestep cannot be stretched between its first and last level. Take T >= 2."
            )
        root = self.alphas_cumprod.sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))  # algorithm 1: shift, then scale
        alphas_cumprod = root**2
        alphas = alphas_cumprod / previous(alphas_cumprod)
        return Schedule(1 - alphas, alphas_cumprod)

    @property
    def T(self) -> int:
        """The number of timesteps."""
        return len(self.betas)

    def __len__(self) -> int:
        return self.T

    def __repr__(self) -> str:
        first, last, left = self.betas[0].item(), self.betas[-1].item(), self.alphas_cumprod[-1].item()
        return f"Schedule(T={self.T}, betas {first:.3g} to {last:.3g}, last alpha_cumprod {left:.3g})"

    @property
    def snr(self) -> Tensor:
        """The signal-to-noise ratio alpha_bar / (1 - alpha_bar): float64 [T], falling."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    @property
    def sigmas(self) -> Tensor:
        """EDM's sigma: the deviation of the noise in x_t / sqrt(alpha_bar). float64 [T], rising.

        With zero terminal SNR the last is infinite.
        """
        return self.snr.rsqrt()

    def to(self, device: torch.device | str) -> "Schedule":
        """Copy the numbers to another device. Training on a GPU needs this: a look-up must not wait for the CPU."""
        if torch.device(device).type == "mps":  # which has no float64; `at` then looks up on the CPU
            return self
        return Schedule(self.betas.to(device), self.alphas_cumprod.to(device))

    def levels(self, timesteps: Sequence[int]) -> list[Level]:
        """List the levels of these timesteps, in plain numbers."""
        alpha_bars = self.alphas_cumprod[list(timesteps)].tolist()
        return [Level(t, alpha_bar, 1 - alpha_bar) for t, alpha_bar in zip(timesteps, alpha_bars, strict=True)]

    def at(self, t: Tensor, like: Tensor) -> Jump[Tensor]:
        """Look up the step from t to the level below it, for each sample: every field of `Jump` as a tensor.

        t: int64 [N] in [0, T). like: the images [N,...] that the result will be multiplied with. Every field comes out
        as [N,1,...] with as many dimensions as they have, in their dtype and on their device.
        """
        t = t.to(self.betas.device)
        beta, alpha_bar, alpha_bar_prev = (
            table[t] for table in (self.betas, self.alphas_cumprod, previous(self.alphas_cumprod))
        )
        exact = (beta, 1 - beta, alpha_bar, alpha_bar_prev, 1 - alpha_bar, 1 - alpha_bar_prev)
        return Jump(*(over_batch(value, like) for value in exact))

    def rates(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Give sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), each [N,1,...] in the dtype of `like`. t: int64 [N]."""
        jump = self.at(t, like)
        return jump.alpha_bar.sqrt(), jump.var.sqrt()

    def timesteps(self, steps: int | None = None, start_t: int | None = None, spacing: str = "trailing") -> list[int]:
        """List the timesteps at which a reverse chain calls the network, falling. After the last comes the image.

        steps: how many; None is every one. spacing: one of SPACINGS, how the skipped ones are spread.
        start_t: the first timestep; x has to be at its noise level. The others are laid on [0, start_t].
        Without start_t the list is the published one on all T timesteps, which does not always begin at T-1.
        Raises UserError for start_t outside [0, T), steps outside [1, start_t + 1] and an unknown spacing.
        """
        return spaced(self.sigmas, steps, start_t, spacing)


def previous(alphas_cumprod: Tensor) -> Tensor:
    """Shift to alpha_bar_{t-1} for every t: [T]. Below t = 0 lies the image, whose alpha_bar is 1."""
    return torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])


def over_batch(values: Tensor, like: Tensor) -> Tensor:
    """Turn one number for each sample, [N], into [N,1,...] that multiplies images: with their dtype and device."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like)


def at_least_one(T: int) -> None:
    """Raise UserError if there is no timestep."""
    if T < 1:
        raise UserError(f"a schedule of T = {T} timesteps is empty. Take T >= 1.")


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Schedule.linear, "scaled_linear": Schedule.scaled_linear, "cosine": Schedule.cosine,
}  # fmt: skip
