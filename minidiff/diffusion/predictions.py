"""Chapter 2, what a network can learn to predict: eps, x0, v, ... As x_t is known, each of them gives the others.

Rests on levels. A kind of prediction is one entry of PREDICTIONS; to add a kind, add an entry.
Ho et al. 2020 (DDPM); Salimans & Ho 2022 (v prediction); Hang et al. 2023 (min-SNR weights); Lipman et al. 2023 (flow
matching); Karras et al. 2022 (EDM).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minidiff.diffusion.levels import NoiseSchedule, Rate
from minidiff.errors import UserError, listed, lookup

SIGMA_DATA = 0.5  # the deviation of the pixels of images in [-1,1]: EDM, table 1
Model = Callable[[Tensor, Tensor], Tensor]  # the network: model(x_t [N,C,H,W], t int64 [N]) -> output [N,C,H,W]


@dataclass(frozen=True)
class Prediction:
    """What the output of a network means, as formulas. Images are [N,C,H,W], and x_t = signal * x0 + noise * eps."""

    x0: Callable[[Tensor, Tensor, Rate, Rate], Tensor]  # (x_t, output, signal, noise) -> the image it stands for
    eps: Callable[[Tensor, Tensor, Rate, Rate], Tensor]  # (x_t, output, signal, noise) -> the noise it stands for
    target: Callable[[Tensor, Tensor, Rate, Rate], Tensor]  # (x0, eps, signal, noise) -> the right output
    weight: Callable[[Tensor, float], Tensor]  # (SNR [N], gamma) -> min-SNR-gamma, of the squared error of the output
    needs_signal: bool = False  # whether x0 cannot be found where no signal is left
    needs_power_1: bool = False  # whether the formulas hold only where signal^2 + noise^2 = 1


# The weight amounts to min(SNR, gamma) on the squared error of x0 in every kind (Hang et al., section 3.4): an error in
# x0 is sqrt(SNR) times smaller than the error in eps it comes from, and sqrt(SNR + 1) times smaller than in v.
PREDICTIONS = {
    "eps": Prediction(
        x0=lambda x_t, eps, signal, noise: (x_t - noise * eps) / signal,  # DDPM eq. 15
        eps=lambda x_t, eps, signal, noise: eps,
        target=lambda x0, eps, signal, noise: eps,
        weight=lambda snr, gamma: (gamma / snr).clamp(max=1),  # min(SNR, gamma) / SNR, and 1 where SNR is 0
        needs_signal=True,
    ),
    "x0": Prediction(
        x0=lambda x_t, x0, signal, noise: x0,
        eps=lambda x_t, x0, signal, noise: (x_t - signal * x0) / noise,  # DDPM eq. 4, solved for eps
        target=lambda x0, eps, signal, noise: x0,
        weight=lambda snr, gamma: snr.clamp(max=gamma),  # min(SNR, gamma)
    ),
    "v": Prediction(  # where signal^2 + noise^2 = 1
        x0=lambda x_t, v, signal, noise: signal * x_t - noise * v,  # Salimans & Ho, section 4
        eps=lambda x_t, v, signal, noise: noise * x_t + signal * v,  # Salimans & Ho, appendix D
        target=lambda x0, eps, signal, noise: signal * eps - noise * x0,  # Salimans & Ho, section 4
        weight=lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),  # min(SNR, gamma) / (SNR + 1)
        needs_power_1=True,
    ),
    # The direction from the image to the noise. Where signal + noise = 1, x_t moves that way as t grows.
    "velocity": Prediction(
        x0=lambda x_t, u, signal, noise: (x_t - noise * u) / (signal + noise),  # x_t = signal x0 + noise (x0 + u)
        eps=lambda x_t, u, signal, noise: (x_t + signal * u) / (signal + noise),
        target=lambda x0, eps, signal, noise: eps - x0,  # Lipman et al. 2023, eq. 23, with their time turned round
        weight=lambda snr, gamma: snr.clamp(max=gamma) / (snr.sqrt() + 1) ** 2,
    ),
    # EDM's F: x0 = c_skip x_t / signal + c_out F, whose target has variance 1 at every level. With a SIGMA_DATA of 1
    # and signal^2 + noise^2 = 1, F would be -v.
    "F": Prediction(
        x0=lambda x_t, f, signal, noise: (
            SIGMA_DATA**2 * signal / spread(signal, noise) ** 2 * x_t + noise * SIGMA_DATA / spread(signal, noise) * f
        ),
        eps=lambda x_t, f, signal, noise: (
            noise / spread(signal, noise) ** 2 * x_t - signal * SIGMA_DATA / spread(signal, noise) * f
        ),
        target=lambda x0, eps, signal, noise: (  # EDM eq. 8: (x0 - c_skip x_t / signal) / c_out
            (noise * x0 - SIGMA_DATA**2 * signal * eps) / (SIGMA_DATA * spread(signal, noise))
        ),
        weight=lambda snr, gamma: snr.clamp(max=gamma) * SIGMA_DATA**2 / (1 + SIGMA_DATA**2 * snr),
    ),
}


def spread(signal: Rate, noise: Rate) -> Any:
    """Give the deviation of x_t's pixels, if those of the image have SIGMA_DATA. A number or a tensor, as the rates."""
    return (noise**2 + SIGMA_DATA**2 * signal**2) ** 0.5


def check_prediction(schedule: NoiseSchedule, kind: str) -> None:
    """Raise UserError if `kind` is unknown, or its formulas do not hold on this schedule. Call once, before a loop.

    Where alpha_bar is 0, x_t is all noise: eps is x_t itself and says nothing about x0. And v belongs to schedules
    whose squared rates add up to 1.
    """
    lookup("prediction", kind, PREDICTIONS)
    half, last = schedule.levels([schedule.T // 2, schedule.T - 1])
    no_signal, preserving = last.alpha_bar == 0, abs(half.power - 1) < 1e-9

    def fits(prediction: Prediction) -> bool:
        return not (prediction.needs_signal and no_signal) and (preserving or not prediction.needs_power_1)

    if fits(PREDICTIONS[kind]):
        return
    able = [name for name, prediction in PREDICTIONS.items() if fits(prediction)]
    if no_signal and PREDICTIONS[kind].needs_signal:
        why = f"a network that predicts {kind} cannot find x0 where the schedule has zero SNR (t = T-1)."
    else:
        why = f"{kind} belongs to schedules whose squared rates of signal and noise add up to 1, and here they do not."
    raise UserError(f"{why} Predict {listed(able, 'or')}.")


def prediction_of(model: Model, schedule: NoiseSchedule, prediction: str | None = None) -> Prediction:
    """Look up what the model predicts: what the caller says, or else `model.prediction`, or else eps. Checked."""
    kind: str = prediction or getattr(model, "prediction", None) or "eps"
    check_prediction(schedule, kind)
    return PREDICTIONS[kind]
