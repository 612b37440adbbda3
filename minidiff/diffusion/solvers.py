"""Chapter 4: the reverse chain in few calls. An image from noise is the end of a differential equation; solve it well.

Rests on chain. Where ddim takes the guess at x0 to stay as it is over a step, these let it change in a straight line:
an error of order 2 in the size of the steps, not 1.
Lu et al. 2022b (DPM-Solver++); Zhao et al. 2023 (UniPC); Karras et al. 2022 (EDM: Heun).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from minidiff.diffusion.chain import Step, denoise, descend, prediction_kind
from minidiff.diffusion.process import Denoiser
from minidiff.diffusion.schedules import Schedule
from minidiff.rng import Noise, randn


def half_log_snr(alpha_bar: float) -> float:
    """lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)): rises down the chain, infinite at the image."""
    if alpha_bar in (0, 1):
        return math.copysign(math.inf, alpha_bar - 0.5)
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def straight_on(x0: Tensor, x0_before: Tensor | None, h: float, h_before: float) -> Tensor:
    """x0 in the middle of a step of length h in lambda, on the line through the last two guesses [N,C,H,W].

    h_before: how far in lambda the guess before is back. With none before, or in the last step, which is infinitely
    long, the guess itself. Lu et al. 2022b, algorithm 2, with r = h_before / h.
    """
    if x0_before is None or math.isinf(h):
        return x0
    return x0 + h / (2 * h_before) * (x0 - x0_before)  # algorithm 2: D_i


@torch.no_grad()
def dpm_solver(
    model: Denoiser,
    schedule: Schedule,
    x: Tensor,
    *,
    steps: int | None = None,
    start_t: int | None = None,
    spacing: str | None = None,
    clip: bool | float = True,
    prediction: str | None = None,
    generator: Noise = None,
) -> Iterator[Step]:
    """DPM-Solver++ (Lu et al. 2022b, algorithm 2), "2M": of second order with one call a step. No noise is added.

    steps: None is 20, or all of start_t + 1 if those are fewer. spacing: None is `logsnr`. The other options are those
    of `ddpm`; the generator is not used.
    """
    kind = prediction_kind(model, schedule, prediction)
    x0_before, h_before = None, math.nan
    for t, alpha_bar, alpha_bar_next in descend("dpm++", schedule, steps, start_t, spacing):
        x0, _ = denoise(model, x, t, alpha_bar, kind, clip)
        h = half_log_snr(alpha_bar_next) - half_log_snr(alpha_bar)
        middle = straight_on(x0, x0_before, h, h_before)
        x = (
            math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) * x - math.sqrt(alpha_bar_next) * math.expm1(-h) * middle
        )  # algorithm 2: x_i
        x0_before, h_before = x0, h
        yield Step(t, x.clone(), x0.clone())


@torch.no_grad()
def sde_dpm_solver(
    model: Denoiser,
    schedule: Schedule,
    x: Tensor,
    *,
    steps: int | None = None,
    start_t: int | None = None,
    spacing: str | None = None,
    clip: bool | float = True,
    prediction: str | None = None,
    generator: Noise = None,
) -> Iterator[Step]:
    """SDE-DPM-Solver++ (Lu et al. 2022b), "2M": the same for the equation with noise, whose first order is
    `ddim` with eta = 1.

    Some of what the network got wrong before is drowned in new noise; so it wants more steps, and forgives more.
    Options: see `dpm_solver`; but spacing: None is `karras`. generator: None, one, or one for each sample. No noise is
    added in the last step.
    """
    kind = prediction_kind(model, schedule, prediction)
    x0_before, h_before = None, math.nan
    for t, alpha_bar, alpha_bar_next in descend("dpm++sde", schedule, steps, start_t, spacing):
        x0, _ = denoise(model, x, t, alpha_bar, kind, clip)
        h = half_log_snr(alpha_bar_next) - half_log_snr(alpha_bar)
        middle = straight_on(x0, x0_before, h, h_before)
        x = (
            math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) * math.exp(-h) * x
            - math.sqrt(alpha_bar_next) * math.expm1(-2 * h) * middle
        )
        if alpha_bar_next < 1:
            sigma = math.sqrt((1 - alpha_bar_next) * -math.expm1(-2 * h))
            x = x + sigma * randn(x.shape, generator, like=x)
        x0_before, h_before = x0, h
        yield Step(t, x.clone(), x0.clone())


@torch.no_grad()
def unipc(
    model: Denoiser,
    schedule: Schedule,
    x: Tensor,
    *,
    steps: int | None = None,
    start_t: int | None = None,
    spacing: str | None = None,
    clip: bool | float = True,
    prediction: str | None = None,
    generator: Noise = None,
) -> Iterator[Step]:
    """UniPC-2 (Zhao et al. 2023, algorithm 1, with x0 and B(h) = e^h - 1): `dpm_solver`, and its last step mended.

    The predictor is the step of `dpm_solver`. When the network has been called at its end, the step is taken again:
    the new guess too is now known, so x0 can be a parabola through three. The call is the next step's, so this costs
    nothing. But the x that comes next is not the one the network saw. Options: see `dpm_solver`.
    """
    kind = prediction_kind(model, schedule, prediction)
    guesses: list[Tensor] = []  # x0 at the calls so far, the latest first: three at most
    lengths: list[float] = []  # of the steps between them in lambda
    x_before, alpha_bar_before = x, math.nan
    for t, alpha_bar, alpha_bar_next in descend("unipc", schedule, steps, start_t, spacing):
        x0, _ = denoise(model, x, t, alpha_bar, kind, clip)
        guesses = [x0, *guesses[:2]]
        if lengths:
            x = math.sqrt((1 - alpha_bar) / (1 - alpha_bar_before)) * x_before + math.sqrt(alpha_bar) * integral(
                guesses, lengths
            )  # UniC
        h = half_log_snr(alpha_bar_next) - half_log_snr(alpha_bar)
        middle = straight_on(x0, guesses[1] if lengths else None, h, lengths[0] if lengths else math.nan)
        x_before, alpha_bar_before, lengths = x, alpha_bar, [h, *lengths[:1]]
        x = (
            math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar)) * x - math.sqrt(alpha_bar_next) * math.expm1(-h) * middle
        )  # UniP
        yield Step(t, x.clone(), x0.clone())


def integral(guesses: list[Tensor], lengths: list[float]) -> Tensor:
    """Of e^(tau - h) x0(tau) over a step, tau from 0 to h, where x0 is the parabola through three guesses [N,C,H,W].

    guesses: at h, at 0 and before; lengths: of the step, and of the one before. In the first step there are two and
    one: then x0 is their mean.
    """
    h = lengths[0]
    moment_0 = -math.expm1(-h)  # of e^(tau - h)
    if len(guesses) == 2:
        return moment_0 * (guesses[0] + guesses[1]) / 2
    moment_1 = h - moment_0  # of tau e^(tau - h): by parts, h^k - k times the moment before
    moment_2 = h**2 - 2 * moment_1
    slope = (guesses[0] - guesses[1]) / h
    slope_before = (guesses[1] - guesses[2]) / lengths[1]
    bend = (slope - slope_before) / (h + lengths[1])
    return moment_0 * guesses[1] + moment_1 * (slope - bend * h) + moment_2 * bend


@torch.no_grad()
def heun(
    model: Denoiser,
    schedule: Schedule,
    x: Tensor,
    *,
    steps: int | None = None,
    start_t: int | None = None,
    spacing: str | None = None,
    clip: bool | float = True,
    prediction: str | None = None,
    generator: Noise = None,
) -> Iterator[Step]:
    """Heun's method (EDM: Karras et al. 2022, algorithm 1): a step of `ddim`, then the same with the mean of eps at its
    two ends. No noise is added.

    Every timestep but the first is called twice, n timesteps are 2n - 1 calls. steps: calls, of which an even number
    is one too many; None is 19. spacing: None is `karras`. The other options are those of `ddpm`; the generator is not
    used. UserError where the first sigma is beyond 1000: at zero terminal SNR, and cosine's T-1.
    """
    kind = prediction_kind(model, schedule, prediction)
    eps_above, sigma_above = None, math.nan
    for t, alpha_bar, alpha_bar_next in descend("heun", schedule, steps, start_t, spacing):
        sigma = math.sqrt((1 - alpha_bar) / alpha_bar)
        if eps_above is not None:
            x0, eps = denoise(model, x, t, alpha_bar, kind, clip)
            x = x + math.sqrt(alpha_bar) * (sigma - sigma_above) * (eps - eps_above) / 2  # algorithm 1, line 8
            yield Step(t, x.clone(), x0)
        x0, eps = denoise(model, x, t, alpha_bar, kind, clip)
        x = math.sqrt(alpha_bar_next) * x0 + math.sqrt(1 - alpha_bar_next) * eps  # algorithm 1, line 5
        eps_above, sigma_above = eps.clone(), sigma
        yield Step(t, x.clone(), x0)
