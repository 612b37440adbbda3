"""Chapter 2: the forward process, its posterior, and the loss.

Rests on schedules and predictions. A network is any callable `(x_t, t) -> output`; nothing here knows how it is built.
Ho et al. 2020 (DDPM); Hang et al. 2023 (min-SNR weights).
"""

import math

import torch
from torch import Tensor

from minidiff.diffusion.levels import Jump, Number
from minidiff.diffusion.predictions import PREDICTIONS, Model
from minidiff.diffusion.schedules import Process, Schedule
from minidiff.errors import lookup


def q_sample(schedule: Process, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Draw x_t from q(x_t | x_0): the image at noise level t, in one jump.

    x0, noise: float [N,C,H,W], x0 in [-1,1] and noise standard normal; t: int64 [N] in [0,T).
    Also the way to begin a reverse chain in the middle: the samplers' `start_t=t` expects this x_t.
    Ho et al. 2020, eq. 4.
    """
    signal_rate, noise_rate = rates(schedule, t, like=x0)
    return signal_rate * x0 + noise_rate * noise  # eq. 4


def noise_in_file(schedule: Process, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Find what is left of the noise when the noisy image is stored in a file: cut to [-1,1], in 256 steps.

    x0, noise: float [N,C,H,W]; t: int64 [N]. With the result [N,C,H,W], q_sample(schedule, x0, t, result) is
    sqrt(alpha_bar_t) times the image of the file, as the init mode "scale" makes it. Where x0 is dark or bright, this
    noise is no longer normal, and its mean is not 0.
    """
    signal_rate, noise_rate = rates(schedule, t, like=x0)
    sigma = noise_rate / signal_rate
    stored = (x0 + sigma * noise).clamp(-1, 1)
    stored = stored.add(1).mul(127.5).round().div(127.5).sub(1)
    return (stored - x0) / sigma


def q_posterior(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean and variance of q(x_{t-1} | x_t, x_0), from which one reverse step draws when x_0 is known.

    x0, x_t: float [N,C,H,W] in [-1,1] and at the noise level of t; t: int64 [N] in [0,T).
    Returns mean [N,C,H,W] and variance [N,1,1,1]; at t = 0 the mean is x0 and the variance 0.
    Ho et al. 2020, eq. 6 and 7.
    """
    jump = schedule.at(t, like=x_t)
    return posterior_mean(x0, x_t, jump), jump.variance


def posterior_mean(x0: Tensor, x_t: Tensor, jump: Jump[Number]) -> Tensor:
    """Give the mean [N,C,H,W] of q(x_{t-1} | x_t, x_0), for one step or for a jump over several: DDPM eq. 7, left."""
    towards_x0 = root(jump.alpha_bar_prev) * jump.beta / jump.var
    towards_x_t = root(jump.alpha) * jump.var_prev / jump.var
    return towards_x0 * x0 + towards_x_t * x_t  # eq. 7, left


def root(value: Number) -> Number:
    """Take the square root of a number, or of every number of a tensor."""
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def rates(schedule: Process, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Give the rates of signal and noise, each [N,1,1,1]: x_t = signal_rate * x0 + noise_rate * eps.

    On a `Schedule` they are sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), and their squares add up to 1. Salimans & Ho
    call them alpha_t and sigma_t.
    """
    return schedule.rates(t, like)


# What a network's output stands for, on a schedule. kind: one of PREDICTIONS; a UserError names an unknown one.


def predict_x0(schedule: Process, x_t: Tensor, t: Tensor, output: Tensor, kind: str = "eps") -> Tensor:
    """Find the image [N,C,H,W] behind a network's output. x_t, output: [N,C,H,W]; t: int64 [N].

    Not clipped to [-1,1]: a sampler does that, if asked.
    """
    return lookup("prediction", kind, PREDICTIONS).x0(x_t, output, *rates(schedule, t, like=x_t))


def predict_eps(schedule: Process, x_t: Tensor, t: Tensor, output: Tensor, kind: str = "eps") -> Tensor:
    """Find the noise [N,C,H,W] behind a network's output. x_t, output: [N,C,H,W]; t: int64 [N]."""
    return lookup("prediction", kind, PREDICTIONS).eps(x_t, output, *rates(schedule, t, like=x_t))


def target(schedule: Process, x0: Tensor, t: Tensor, noise: Tensor, kind: str = "eps") -> Tensor:
    """Give the right answer to q_sample(schedule, x0, t, noise): [N,C,H,W]."""
    return lookup("prediction", kind, PREDICTIONS).target(x0, noise, *rates(schedule, t, like=x0))


def loss_weight(schedule: Process, t: Tensor, kind: str = "eps", min_snr_gamma: float | None = None) -> Tensor:
    """Weigh each sample's squared error, float64 [N]: 1, or min-SNR-gamma (gamma = 5 in Hang et al. 2023)."""
    prediction = lookup("prediction", kind, PREDICTIONS)
    of_each = torch.ones(len(t), dtype=torch.float64, device="cpu" if t.device.type == "mps" else t.device)
    if min_snr_gamma is None:
        return of_each
    signal, noise = schedule.rates(t, like=of_each)
    return prediction.weight((signal / noise) ** 2, min_snr_gamma)


def diffusion_loss(
    model: Model,
    schedule: Process,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    kind: str = "eps",
    min_snr_gamma: float | None = None,
) -> Tensor:
    """Measure the squared error of each sample, averaged over its pixels and weighted: [N].

    x0, noise: float [N,C,H,W], x0 in [-1,1]; t: int64 [N] in [0,T), usually uniform. kind: what the model predicts.
    The mean over the batch is left to the caller. Ho et al. 2020, eq. 14 (for eps, without weights).
    """
    x_t = q_sample(schedule, x0, t, noise)  # algorithm 1, line 5: what the network is shown
    error = model(x_t, t).to(x0.dtype) - target(schedule, x0, t, noise, kind)  # eq. 14
    per_sample = error.square().flatten(1).mean(1)
    return per_sample * loss_weight(schedule, t, kind, min_snr_gamma).to(per_sample)
