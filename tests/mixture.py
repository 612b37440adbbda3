"""Data that is a mixture of Gaussians in one dimension: its denoiser, its marginals and its reverse flow are formulas.

Samplers are compared with this exact answer in test_solvers.py and in benchmarks/convergence.py. Everything is float64
and in the coordinate x / sqrt(alpha_bar) = x0 + sigma * eps, where noise only widens the components.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff.diffusion.samplers import SAMPLERS, Step, calls
from minidiff.diffusion.schedules import Schedule, previous


class Mixture:
    """A mixture of K components with these shares, means and deviations."""

    def __init__(self, shares: list[float], means: list[float], deviations: list[float]) -> None:
        self.shares, self.means, self.deviations = (
            torch.tensor(values, dtype=torch.float64) for values in (shares, means, deviations)
        )

    def moments(self, sigma: float) -> tuple[float, float, float]:
        """Give mean, variance and fourth central moment of x0 + sigma * eps."""
        mean = (self.shares * self.means).sum()
        apart, variance = self.means - mean, self.deviations**2 + sigma**2
        second = (self.shares * (apart**2 + variance)).sum()
        fourth = (self.shares * (apart**4 + 6 * apart**2 * variance + 3 * variance**2)).sum()
        return mean.item(), second.item(), fourth.item()

    def guess(self, x: Tensor, sigma: float) -> Tensor:
        """Guess x0 from x = x0 + sigma * eps: the conditional mean, in the shape of x."""
        variance = self.deviations**2 + sigma**2
        x = x.unsqueeze(-1)
        share = (self.shares.log() - variance.log() / 2 - (x - self.means) ** 2 / (2 * variance)).softmax(-1)
        return (share * (self.means * sigma**2 + x * self.deviations**2) / variance).sum(-1)

    def below(self, x: Tensor, sigma: float) -> Tensor:
        """Give the share of x0 + sigma * eps that is below x (the distribution function), in the shape of x."""
        z = (x.unsqueeze(-1) - self.means) / (self.deviations**2 + sigma**2).sqrt()
        return (self.shares * torch.special.ndtr(z)).sum(-1)

    def quantiles(self, share: Tensor, sigma: float) -> Tensor:
        """Find the x that have this share of x0 + sigma * eps below them, by bisection. In the shape of share."""
        low, high = torch.full_like(share, -8 * (1 + sigma)), torch.full_like(share, 8 * (1 + sigma))
        for _ in range(70):  # 16 * 2^-70 is far below the rounding of x
            middle = (low + high) / 2
            left = self.below(middle, sigma) < share
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        return (low + high) / 2

    def flow(self, x: Tensor, sigma: float, sigma_after: float) -> Tensor:
        """Follow the probability-flow ODE from sigma to sigma_after exactly, with no step at all. x: any shape.

        In one dimension its paths do not cross, so each keeps its share below it.
        """
        return self.quantiles(self.below(x, sigma), sigma_after)

    def denoiser(self, schedule: Schedule):  # type: ignore[no-untyped-def]
        """Make the ideal network: x_t [N,...], t int64 [N] -> x0, for one t at a time."""

        def model(x_t: Tensor, t: Tensor) -> Tensor:
            alpha_bar = schedule.alphas_cumprod[int(t[0])].item()
            return self.guess(x_t / math.sqrt(alpha_bar), math.sqrt((1 - alpha_bar) / alpha_bar)).to(x_t.dtype)

        model.prediction = "x0"  # type: ignore[attr-defined]
        return model


def even_schedule(T: int, lowest: float = 0.01, highest: float = 100.0) -> Schedule:
    """Space T levels evenly in log SNR from one sigma to the other. Any even choice of them is even, too."""
    sigma = torch.linspace(math.log(lowest), math.log(highest), T, dtype=torch.float64).exp()
    alphas_cumprod = 1 / (1 + sigma**2)
    return Schedule(1 - alphas_cumprod / previous(alphas_cumprod), alphas_cumprod)


def path_error(
    sampler: str, mixture: Mixture, schedule: Schedule, steps: int, start_t: int | None = None,
    spacing: str | None = None, paths: int = 400, draw: Callable[..., Iterator[Step]] | None = None,
) -> float:  # fmt: skip
    """Measure how far x is from the exact path at the last call of the network: root mean square over `paths`.

    The paths start at even quantiles of the first level. The last step, to the image, is left out: it is of first order
    in every sampler, and the same in all that call the same last timestep.
    draw: a broken copy of the sampler, called in its place.
    """
    timesteps = calls(sampler, schedule, steps, start_t, spacing)
    sigma, sigma_after = (schedule.sigmas[t].item() for t in (timesteps[0], timesteps[-1]))
    start = mixture.quantiles((torch.arange(paths, dtype=torch.float64) + 0.5) / paths, sigma)
    x = last = (start / math.sqrt(1 + sigma**2)).view(1, 1, 1, -1)
    options = {"steps": steps, "start_t": start_t, "spacing": spacing, "clip": False}
    for step in (draw or SAMPLERS[sampler])(mixture.denoiser(schedule), schedule, x, **options):
        last, x = x, step.x
    error = last.flatten() * math.sqrt(1 + sigma_after**2) - mixture.flow(start, sigma, sigma_after)
    return error.square().mean().sqrt().item()


THREE = Mixture([0.3, 0.4, 0.3], [-0.6, 0.1, 0.6], [0.12, 0.2, 0.12])
