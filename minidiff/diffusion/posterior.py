"""Chapter 6, the posterior: a reverse chain that ends at pictures which explain a measurement y = A x0 + sigma_y n.

Rests on measurements, denoiser and chain. The network stays as it is: at each level its guess is corrected by y.
Zhang et al. 2025 (DAPS); Zhu et al. 2023 (DiffPIR); Song et al. 2023 (PiGDM); Papandreou & Yuille 2010 (draws).
"""

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minidiff.diffusion.chain import Step
from minidiff.diffusion.denoiser import Denoise, denoiser
from minidiff.diffusion.levels import Level, Levels, NoiseSchedule, Plan
from minidiff.diffusion.measurements import Measurement
from minidiff.diffusion.predictions import Model, prediction_of
from minidiff.errors import UserError
from minidiff.rng import Noise, randn

Doubt = Callable[[Level], float]  # r: the root mean squared error of the network's guess at a level, per pixel

POSTERIOR_PLAN = Plan(20, "karras")


@dataclass(frozen=True)
class Evidence:
    """What is known of an image x0, and how much a guess at it may be changed to agree.

    Given x_t alone, x0 is taken as N(guess, r^2 I): the network's guess, with an error as large as it has on average.
    Given y as well, x0 is again Gaussian. Its mean and its draws have closed forms.
    """

    measurement: Measurement
    y: Tensor  # as A gives it
    sigma_y: float  # deviation of the noise in y, of images in [-1,1]; 0: y is exact
    doubt: Doubt  # r of a level: `white_doubt`, `measured_doubt`, or any function

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_y < math.inf:
            raise UserError(f"`sigma_y` {self.sigma_y} is not a deviation. Give 0 or more, for an image in [-1, 1].")

    def mean(self, guess: Tensor, level: Level) -> Tensor:
        """Give the mean of p(x0 | x_t, y), for the network's guess [N,C,H,W] at a level."""
        return self._nearer(guess, self.y, self.doubt(level))

    def draw(self, guess: Tensor, level: Level, noise: Noise = None, spread: float = 1.0) -> Tensor:
        """Draw from p(x0 | x_t, y), with `spread` times its deviation: 1 is a draw, 0 the mean.

        A draw from a Gaussian prior, brought to agree with a y that has its own noise drawn anew, is a draw from the
        posterior (Papandreou & Yuille 2010): no root of a matrix is needed.
        """
        r = self.doubt(level)
        guess = guess + spread * r * randn(guess.shape, noise, like=guess)
        y = self.y.expand(len(guess), *self.y.shape[1:])
        if self.sigma_y > 0:
            y = y + spread * self.sigma_y * randn(y.shape, noise, like=guess)
        return self._nearer(guess, y, r)

    def _nearer(self, guess: Tensor, y: Tensor, r: float) -> Tensor:
        """Correct a guess by what it leaves unexplained: guess + r^2 A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A guess)."""
        A = self.measurement
        return guess + r**2 * A.transpose(A.solve(y - A.forward(guess), r, self.sigma_y))


def posterior_rule(
    denoise: Denoise,
    x: Tensor,
    levels: Levels,
    noise: Noise,
    evidence: Evidence,
    zeta: float = 1.0,
    spread: float = 1.0,
) -> Iterator[Step]:
    """Draw x0 from p(x0 | x_t, y), and give it the noise of the level below (Zhang et al. 2025, algorithm 1).

    zeta: the share of this noise, in variance, that is fresh; the rest is the eps that leads from x0 to x_t (Zhu et
    al. 2023, algorithm 1). 1 forgets x_t, and with it the faults of earlier levels and of the start.
    spread: how much of the variety of x0 is drawn, see `Evidence.draw`. 0 takes its mean at every level (Zhu et al.
    2023): the answer is smoother, and nearer to the truth. What follows holds for 1.
    If p(x0 | x_t) is N(guess, r^2 I), then x has exactly the distribution p(x_s | y) at every level, with any zeta, in
    any number of calls. The last step gives the mean and adds nothing, so one call is E[x0 | x_t, y].
    """
    if not 0 <= zeta <= 1:
        raise UserError(f"zeta {zeta} is outside [0, 1]. Take 1 for fresh noise only, 0 for none.")
    if not 0 <= spread <= 1:
        raise UserError(f"spread {spread} is outside [0, 1]. Take 1 for draws, 0 for their mean.")
    for level, below in levels:
        guess, _ = denoise(x, level)
        mean = evidence.mean(guess, level)
        if below.var == 0:
            x = below.signal * mean
        else:
            x0 = evidence.draw(guess, level, noise, spread)
            eps = (x - level.signal * x0) / level.noise  # DDPM eq. 4, solved for eps
            fresh = randn(x.shape, noise, like=x)
            x = below.signal * x0 + below.noise * (math.sqrt(1 - zeta) * eps + math.sqrt(zeta) * fresh)
        yield Step(level.t, x, mean)


@torch.no_grad()
def sample_posterior(
    model: Model,
    schedule: NoiseSchedule,
    x: Tensor,
    evidence: Evidence,
    *,
    steps: int | None = None,
    start_t: int | None = None,
    spacing: str | None = None,
    clip: bool | float = True,
    prediction: str | None = None,
    generator: Noise = None,
    zeta: float = 1.0,
    spread: float = 1.0,
) -> Iterator[Step]:
    """Go down from x to an image that explains the evidence, and yield a `Step` after every call of the network.

    x: [N,C,H,W] at the noise level of the first timestep: standard normal for a whole chain, or
    `q_sample(schedule, guess, start_t, noise)` with a first guess, see docs/restoration.md for how high.
    Step.x0 is the mean of p(x0 | x_t, y). clip holds the network's own guess in [-1,1]; what y adds may exceed it.
    steps: 20 if None; spacing: karras if None. The other arguments, and the errors: see `chain.Sampler`, and for
    `zeta` and `spread` `posterior_rule`.
    """
    denoise = denoiser(model, prediction_of(model, schedule, prediction), clip)
    levels = POSTERIOR_PLAN.levels(schedule, steps, start_t, spacing)
    for step in posterior_rule(denoise, x, levels, generator, evidence, zeta, spread):
        yield Step(step.t, step.x.clone(), step.x0.clone())


# How far the network's guess is off: r of a level


def white_doubt(deviation: float) -> Doubt:
    """Give r for pixels that are independent and Gaussian with this deviation s: r^2 = s^2 sigma^2 / (s^2 + sigma^2).

    With the deviation of the data it is an upper bound for every other kind of data. PiGDM takes it with s = 1.
    """

    def doubt(level: Level) -> float:
        if math.isinf(level.sigma):
            return deviation
        return deviation * level.sigma / math.hypot(deviation, level.sigma)

    return doubt


def measured_doubt(sigmas: Sequence[float], errors: Sequence[float]) -> Doubt:
    """Give r between levels whose root mean squared error was measured (`guess_error`), log-log in straight lines.

    sigmas: rising, finite, above 0. Below the first, r falls with sigma; above the last it stays.
    """
    logs = [(math.log(sigma), math.log(error)) for sigma, error in zip(sigmas, errors, strict=True)]

    def doubt(level: Level) -> float:
        if level.sigma <= sigmas[0]:
            return errors[0] * level.sigma / sigmas[0]
        if level.sigma >= sigmas[-1]:
            return errors[-1]
        above = bisect.bisect_right(sigmas, level.sigma)
        (x_0, y_0), (x_1, y_1) = logs[above - 1], logs[above]
        return math.exp(y_0 + (y_1 - y_0) * (math.log(level.sigma) - x_0) / (x_1 - x_0))

    return doubt


@torch.no_grad()
def guess_error(denoise: Denoise, images: Tensor, level: Level, noise: Noise = None) -> float:
    """Measure the root mean squared error of the network's guess at a level, on images [N,C,H,W] it should know."""
    x_t = level.signal * images + level.noise * randn(images.shape, noise, like=images)
    guess, _ = denoise(x_t, level)
    return (guess - images).square().mean().sqrt().item()
