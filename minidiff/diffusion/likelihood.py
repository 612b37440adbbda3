"""Chapter 4, the likelihood: how probable a picture is under the chain without new noise, in bits a dimension.

Rests on denoiser and levels. The chain is a differential equation, which carries a density along: where its flow
spreads, the density thins.
Song et al. 2021b (Score-based generative modeling through SDEs: section 4.3, appendix D.2); Chen et al. 2018 (neural
ODEs); Hutchinson 1990 (the trace); Karras et al. 2022 (EDM); Theis et al. 2016 (dequantisation).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion.denoiser import Denoise
from minidiff.diffusion.levels import Level, NoiseSchedule
from minidiff.errors import UserError

Trace = Callable[[Tensor, Tensor], Tensor]  # (eps [N,...], the x [N,...] it was found at) -> tr(d eps / d x) [N]

HALF = 127.5  # grey values in a unit of x: images are 0 to 255 outside and -1 to 1 inside


class Carried(NamedTuple):
    """A point on its way up, and how the density has changed since it began."""

    x: Tensor  # [N,C,H,W] at the noise level of `level`
    level: Level
    spread: Tensor  # float64 [N]: log of the factor by which the flow has spread space, in x / signal
    log_p: Tensor  # float64 [N]: log p of where it began, if x is a draw of the noise that chains begin with


def exact_trace(eps: Tensor, x: Tensor) -> Tensor:
    """Add up the diagonal of the Jacobian, one gradient for each dimension: for a few dimensions only."""
    outputs = eps.flatten(1)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for d in range(outputs.shape[1]):
        (row,) = torch.autograd.grad(outputs[:, d].sum(), x, retain_graph=True)
        total += row.flatten(1)[:, d]
    return total


def hutchinson(generators: Sequence[torch.Generator], probes: int = 1, fresh: bool = True) -> Trace:
    """Estimate a trace without bias: E[v . J v] = tr J for a v of random signs (Hutchinson 1990), one gradient a probe.

    generators: one for each sample. Fresh signs are drawn at every level, so that the errors of the levels average out.
    fresh: False keeps the first signs, so that what is left between two integrals is the error of their steps.
    """
    kept: dict[int, Tensor] = {}

    def signs(x: Tensor, probe: int) -> Tensor:
        if not fresh and probe in kept:
            return kept[probe]
        drawn = [torch.randint(0, 2, x.shape[1:], generator=own, device=own.device) for own in generators]
        kept[probe] = (2 * torch.stack(drawn) - 1).to(x)
        return kept[probe]

    def trace(eps: Tensor, x: Tensor) -> Tensor:
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for probe in range(probes):
            v = signs(x, probe)
            (product,) = torch.autograd.grad((v * eps).sum(), x, retain_graph=probe < probes - 1)  # v J
            total += (v * product).flatten(1).sum(1, dtype=torch.float64)  # v J v
        return total / probes

    return trace


def levels_for(schedule: NoiseSchedule, steps: int) -> list[Level]:
    """Choose `steps` levels, rising and even in log SNR. Where the first is pure noise, it is left out.

    Its sigma is infinite, and the level below it is as good as pure noise. Raises UserError for fewer than 3 steps,
    and for more than there are timesteps.
    """
    if steps < 3:
        raise UserError(f"`steps` {steps} are too few for an integral. Take 3 or more, such as 100.")
    rising = schedule.levels(schedule.timesteps(steps, None, "logsnr"))[::-1]
    return [level for level in rising if math.isfinite(level.sigma)]


def carry(denoise: Denoise, x: Tensor, levels: Sequence[Level], trace: Trace) -> Iterator[Carried]:
    """Carry pictures x [N,C,H,W] up the probability-flow ODE, and keep account of the density.

    levels: rising. x stands for x_t / signal at the lowest of them: see docs/likelihood.md for what this means.
    Yields after every level; the last `log_p` is the answer, log p(x) in nats. In x / signal and sigma the equation is
    dx/dsigma = eps (EDM eq. 1), and log p changes by -tr(d eps / d x) (Song et al. 2021b, eq. 39).
    x goes by Heun's steps in sigma; the trace is summed by the trapezoidal rule in log sigma, as sigma times the trace
    is smooth there: for a Gaussian it rises from 0 to 1 in each dimension. Both err with the square of the steps.
    """
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    eps, rate = guess_and_rate(denoise, x, levels[0], trace)
    yield carried(x, levels[0], total)
    for level, above in pairwise(levels):
        step = above.sigma - level.sigma
        with torch.no_grad():
            _, eps_above = denoise(above.signal * (x + step * eps), above)
        x = x + step * (eps + eps_above) / 2  # EDM, algorithm 1, line 8, upwards
        rate_before = rate
        eps, rate = guess_and_rate(denoise, x, above, trace)
        total = total + (rate_before + rate) / 2 * math.log(above.sigma / level.sigma)  # Song et al. 2021b, eq. 39
        yield carried(x, above, total)


def guess_and_rate(denoise: Denoise, x: Tensor, level: Level, trace: Trace) -> tuple[Tensor, Tensor]:
    """Return eps at x = x_t / signal, and how fast space spreads there: tr(d eps / d x) d sigma / d log sigma, [N]."""
    with torch.enable_grad():
        x_t = (level.signal * x.detach()).requires_grad_()
        _, eps = denoise(x_t, level)
        rate = level.noise * trace(eps, x_t)  # noise = sigma * signal
    return eps.detach(), rate.detach()


def carried(x: Tensor, level: Level, spread: Tensor) -> Carried:
    """Sum up: the density that noise has at x, by how much space has spread since the picture."""
    x_t = level.signal * x
    dims = x_t[0].numel()
    squares = x_t.flatten(1).double().square().sum(1)
    log_noise = -squares / (2 * level.power) - dims / 2 * math.log(2 * math.pi * level.power)  # N(0, power)
    return Carried(x_t, level, spread, log_noise + dims * math.log(level.signal) + spread)


def dequantised(pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Spread each grey value over the interval that rounds to it: uint8 [N,C,H,W] to float [N,C,H,W], about [-1, 1].

    Bytes have no density. The mean of log2 p over the interval is at most log2 of the probability of the byte, so bits
    are never flattered (Theis et al. 2016, section 3.1).
    """
    within = [torch.rand(pixels.shape[1:], generator=own) for own in generators]
    return (pixels + torch.stack(within).to(pixels.device) - 0.5) / HALF - 1


def bits_per_dimension(log_p: Tensor, dims: int) -> Tensor:
    """Turn log p(x) in nats, x in [-1, 1], into bits a dimension of images of 0 to 255: the convention of papers."""
    return (math.log(HALF) - log_p / dims) / math.log(2)
