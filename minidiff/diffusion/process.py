"""Chapter 2: the forward process, its posterior, and what a network can be asked to predict.

Rests on schedules. A network is any callable `(x_t, t) -> prediction`; nothing here knows how it is built.
Ho et al. 2020 (DDPM); Salimans & Ho 2022 (v prediction); Hang et al. 2023 (min-SNR weights).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError, suggestion

Denoiser = Callable[[Tensor, Tensor], Tensor]  # model(x_t [N,C,H,W], t int64 [N]) -> prediction [N,C,H,W]
Rate = float | Tensor  # a number, or one for each sample [N,1,1,1]

PREDICTIONS = ("eps", "x0", "v")


def check_prediction(schedule: Schedule, kind: str) -> None:
    """UserError if `kind` is unknown, or is eps on a schedule with zero terminal SNR. Call once, before a loop.

    Where alpha_bar is 0, x_t is all noise: eps is x_t itself and says nothing about x0.
    """
    if kind not in PREDICTIONS:
        raise UserError(f"unknown prediction '{kind}'. {suggestion(kind, PREDICTIONS)}")
    if kind == "eps" and float(schedule.alphas_cumprod[-1]) == 0:
        raise UserError("eps prediction cannot find x0 where the schedule has zero SNR (t = T-1). Predict v or x0.")


def q_sample(schedule: Schedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t drawn from q(x_t | x_0): the image at noise level t, in one jump.

    x0, noise: float [N,C,H,W], x0 in [-1,1] and noise standard normal; t: int64 [N] in [0,T).
    Also the way to begin a reverse chain in the middle: the samplers' `start_t=t` expects this x_t.
    Ho et al. 2020, eq. 4.
    """
    signal_rate, noise_rate = rates(schedule, t, like=x0)
    return signal_rate * x0 + noise_rate * noise  # eq. 4


def q_posterior(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_{t-1} | x_t, x_0): what one reverse step samples from when x_0 is known.

    x0, x_t: float [N,C,H,W] in [-1,1] and at the noise level of t; t: int64 [N] in [0,T).
    Returns mean [N,C,H,W] and variance [N,1,1,1]; at t = 0 the mean is x0 and the variance 0.
    Ho et al. 2020, eq. 6 and 7, with var = 1 - alpha_bar.
    """
    beta, alpha, _, alpha_bar_prev, var, var_prev = schedule.at(t, like=x_t)  # each [N,1,1,1]
    mean = alpha_bar_prev.sqrt() * beta / var * x0 + alpha.sqrt() * var_prev / var * x_t  # eq. 7, left
    variance = var_prev / var * beta  # eq. 7, right
    return mean, variance


def rates(schedule: Schedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), each [N,1,1,1]: x_t = signal_rate * x0 + noise_rate * eps.

    Their squares add up to 1. Salimans & Ho call them alpha_t and sigma_t.
    """
    level = schedule.at(t, like)
    return level.alpha_bar.sqrt(), level.var.sqrt()


# Three ways to say the same thing. Any of eps, x0 and v gives the other two, as x_t is known.


def x0_from(x_t: Tensor, prediction: Tensor, kind: str, signal_rate: Rate, noise_rate: Rate) -> Tensor:
    """The image [N,C,H,W] that a prediction of this kind stands for. UserError on an unknown kind.

    eps is divided by signal_rate, so it must not be 0 there: see `check_prediction`.
    """
    if kind == "eps":
        return (x_t - noise_rate * prediction) / signal_rate  # DDPM eq. 15
    if kind == "x0":
        return prediction
    if kind == "v":
        return signal_rate * x_t - noise_rate * prediction  # Salimans & Ho, section 4
    raise UserError(f"unknown prediction '{kind}'. {suggestion(kind, PREDICTIONS)}")


def eps_from(x_t: Tensor, prediction: Tensor, kind: str, signal_rate: Rate, noise_rate: Rate) -> Tensor:
    """The noise [N,C,H,W] that a prediction of this kind stands for. UserError on an unknown kind."""
    if kind == "eps":
        return prediction
    if kind == "x0":
        return (x_t - signal_rate * prediction) / noise_rate  # DDPM eq. 4, solved for eps
    if kind == "v":
        return noise_rate * x_t + signal_rate * prediction  # Salimans & Ho, appendix D
    raise UserError(f"unknown prediction '{kind}'. {suggestion(kind, PREDICTIONS)}")


def predict_x0(schedule: Schedule, x_t: Tensor, t: Tensor, prediction: Tensor, kind: str = "eps") -> Tensor:
    """The image [N,C,H,W] behind a network's output. x_t, prediction: [N,C,H,W]; t: int64 [N]; kind: PREDICTIONS.

    Not clipped to [-1,1]: a sampler does that, if asked.
    """
    return x0_from(x_t, prediction, kind, *rates(schedule, t, like=x_t))


def predict_eps(schedule: Schedule, x_t: Tensor, t: Tensor, prediction: Tensor, kind: str = "eps") -> Tensor:
    """The noise [N,C,H,W] behind a network's output. x_t, prediction: [N,C,H,W]; t: int64 [N]; kind: PREDICTIONS."""
    return eps_from(x_t, prediction, kind, *rates(schedule, t, like=x_t))


def target(schedule: Schedule, x0: Tensor, t: Tensor, noise: Tensor, kind: str = "eps") -> Tensor:
    """What a network of this kind should answer to q_sample(schedule, x0, t, noise): [N,C,H,W]."""
    if kind == "eps":
        return noise
    if kind == "x0":
        return x0
    if kind == "v":
        signal_rate, noise_rate = rates(schedule, t, like=x0)
        return signal_rate * noise - noise_rate * x0  # Salimans & Ho, section 4
    raise UserError(f"unknown prediction '{kind}'. {suggestion(kind, PREDICTIONS)}")


def loss_weight(schedule: Schedule, t: Tensor, kind: str = "eps", min_snr_gamma: float | None = None) -> Tensor:
    """The weight of each sample's squared error, float64 [N]: 1, or min-SNR-gamma (gamma = 5 in the paper).

    In all three kinds it amounts to min(SNR, gamma) on the squared error of x0, since an error in x0 is
    sqrt(SNR) times smaller than the error in eps it comes from, and sqrt(SNR + 1) times smaller than in v.
    Hang et al. 2023, section 3.4.
    """
    snr = schedule.snr[t.to(schedule.betas.device)]
    if min_snr_gamma is None:
        return torch.ones_like(snr)
    if kind == "eps":
        return (min_snr_gamma / snr).clamp(max=1)  # min(SNR, gamma) / SNR, and 1 where SNR is 0
    if kind == "x0":
        return snr.clamp(max=min_snr_gamma)  # min(SNR, gamma)
    if kind == "v":
        return snr.clamp(max=min_snr_gamma) / (snr + 1)  # min(SNR, gamma) / (SNR + 1)
    raise UserError(f"unknown prediction '{kind}'. {suggestion(kind, PREDICTIONS)}")


def diffusion_loss(
    model: Denoiser,
    schedule: Schedule,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    kind: str = "eps",
    min_snr_gamma: float | None = None,
) -> Tensor:
    """The squared error of each sample, meaned over its pixels and weighted: [N]. The batch mean is left to the caller.

    x0, noise: float [N,C,H,W], x0 in [-1,1]; t: int64 [N] in [0,T), usually uniform. kind: what the model predicts.
    Ho et al. 2020, eq. 14 (for eps, without weights).
    """
    x_t = q_sample(schedule, x0, t, noise)
    error = model(x_t, t).to(x0.dtype) - target(schedule, x0, t, noise, kind)  # eq. 14
    per_sample = error.square().flatten(1).mean(1)
    return per_sample * loss_weight(schedule, t, kind, min_snr_gamma).to(per_sample)
