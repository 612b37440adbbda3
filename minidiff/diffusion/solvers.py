"""Chapter 4: the reverse chain in few calls. The way from noise to an image is a differential equation: solve it well.

Rests on chain. ddim keeps its guess at x0 over a whole step. The rules here let the guess change in a straight line,
which makes the error fall with steps^2 instead of steps.
Lu et al. 2022b (DPM-Solver++); Zhao et al. 2023 (UniPC); Karras et al. 2022 (EDM: Heun).
"""

import math
from collections.abc import Iterator

from torch import Tensor

from minidiff.diffusion.chain import Step
from minidiff.diffusion.denoiser import Denoise
from minidiff.diffusion.levels import Levels
from minidiff.rng import Noise, randn


def straight_on(x0: Tensor, x0_before: Tensor | None, h: float, h_before: float) -> Tensor:
    """Extend the line through the last two guesses [N,C,H,W] to the middle of a step of length h in lambda.

    h_before: the length of the step before. Without a guess before, and in the last step, which is infinitely long,
    the guess itself is returned. Lu et al. 2022b, algorithm 2, with r = h_before / h.
    """
    if x0_before is None or math.isinf(h):
        return x0
    return x0 + h / (2 * h_before) * (x0 - x0_before)  # algorithm 2: D_i


def dpm_solver(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise = None) -> Iterator[Step]:
    """Take DPM-Solver++'s step "2M": of second order with one call (Lu et al. 2022b, algorithm 2). Adds no noise."""
    x0_before, h_before = None, math.nan
    for level, below in levels:
        x0, _ = denoise(x, level)
        h = below.half_log_snr - level.half_log_snr
        middle = straight_on(x0, x0_before, h, h_before)
        x = math.sqrt(below.var / level.var) * x - below.signal * math.expm1(-h) * middle  # algorithm 2: x_i
        x0_before, h_before = x0, h
        yield Step(level.t, x, x0)


def sde_dpm_solver(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise = None) -> Iterator[Step]:
    """Take the same step for the equation with noise: SDE-DPM-Solver++ "2M" (Lu et al. 2022b).

    Its first order is ddim with eta = 1. New noise covers some of the network's earlier mistakes, so it forgives more,
    but needs more steps.
    """
    x0_before, h_before = None, math.nan
    for level, below in levels:
        x0, _ = denoise(x, level)
        h = below.half_log_snr - level.half_log_snr
        middle = straight_on(x0, x0_before, h, h_before)
        x = math.sqrt(below.var / level.var) * math.exp(-h) * x - below.signal * math.expm1(-2 * h) * middle
        if below.var > 0:
            x = x + math.sqrt(below.var * -math.expm1(-2 * h)) * randn(x.shape, noise, like=x)
        x0_before, h_before = x0, h
        yield Step(level.t, x, x0)


def unipc(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise = None) -> Iterator[Step]:
    """Take dpm_solver's step, and correct it after the next call: UniPC-2 (Zhao et al. 2023, algorithm 1).

    When the network has been called at the step's end, the new guess is known, too. The step is taken again, with x0 as
    a parabola through three guesses. The call is the next step's, so this costs nothing; but the x that comes next is
    not the one the network saw. Here x0 is predicted, and B(h) = e^h - 1. Adds no noise.
    """
    guesses: list[Tensor] = []  # x0 at the calls so far, the latest first: three at most
    lengths: list[float] = []  # of the steps between them in lambda
    x_above, above = x, levels[0][0]
    for level, below in levels:
        x0, _ = denoise(x, level)
        guesses = [x0, *guesses[:2]]
        if lengths:
            x = math.sqrt(level.var / above.var) * x_above + level.signal * integral(guesses, lengths)  # UniC
        h = below.half_log_snr - level.half_log_snr
        middle = straight_on(x0, guesses[1], h, lengths[0]) if lengths else x0
        x_above, above, lengths = x, level, [h, *lengths[:1]]
        x = math.sqrt(below.var / level.var) * x - below.signal * math.expm1(-h) * middle  # UniP
        yield Step(level.t, x, x0)


def integral(guesses: list[Tensor], lengths: list[float]) -> Tensor:
    """Integrate e^(tau - h) x0(tau) over a step, tau from 0 to h, with x0 a parabola through three guesses [N,C,H,W].

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


def heun(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise = None) -> Iterator[Step]:
    """Take ddim's step, call again at its end, and correct with the mean of both eps (EDM, algorithm 1: Heun).

    Every timestep but the first is called twice, so n timesteps are 2n - 1 calls. Adds no noise.
    """
    above, eps_above = None, x
    for level, below in levels:
        x0, eps = denoise(x, level)
        if above is not None:
            x = x + level.signal * (level.sigma - above.sigma) * (eps - eps_above) / 2  # algorithm 1, line 8
            yield Step(level.t, x, x0)
            x0, eps = denoise(x, level)
        x = below.signal * x0 + below.noise * eps  # algorithm 1, line 5
        above, eps_above = level, eps
        yield Step(level.t, x, x0)
