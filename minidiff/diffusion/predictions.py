"""Chapter 2, what a network can learn to predict: eps, x0 or v. As x_t is known, each of them gives the others.

Rests on levels. A kind of prediction is one entry of PREDICTIONS; to add a kind, add an entry.
Ho et al. 2020 (DDPM); Salimans & Ho 2022 (v prediction); Hang et al. 2023 (min-SNR weights).
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from minidiff.diffusion.levels import NoiseSchedule, Rate
from minidiff.errors import UserError, lookup

Model = Callable[[Tensor, Tensor], Tensor]  # the network: model(x_t [N,C,H,W], t int64 [N]) -> output [N,C,H,W]


@dataclass(frozen=True)
class Prediction:
    """What the output of a network means, as formulas. Images are [N,C,H,W], and x_t = signal * x0 + noise * eps."""

    x0: Callable[[Tensor, Tensor, Rate, Rate], Tensor]  # (x_t, output, signal, noise) -> the image it stands for
    eps: Callable[[Tensor, Tensor, Rate, Rate], Tensor]  # (x_t, output, signal, noise) -> the noise it stands for
    target: Callable[[Tensor, Tensor, Rate, Rate], Tensor]  # (x0, eps, signal, noise) -> the right output
    weight: Callable[[Tensor, float], Tensor]  # (SNR [N], gamma) -> min-SNR-gamma, of the squared error of the output
    needs_signal: bool = False  # whether x0 cannot be found where no signal is left


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
    ),
}


def check_prediction(schedule: NoiseSchedule, kind: str) -> None:
    """Raise UserError if `kind` is unknown, or cannot find x0 at zero terminal SNR, as eps. Call once, before a loop.

    Where alpha_bar is 0, x_t is all noise: eps is x_t itself and says nothing about x0.
    """
    if lookup("prediction", kind, PREDICTIONS).needs_signal and schedule.levels([schedule.T - 1])[0].alpha_bar == 0:
        able = " or ".join(name for name, other in reversed(PREDICTIONS.items()) if not other.needs_signal)
        raise UserError(
            f"a network that predicts {kind} cannot find x0 where the schedule has zero SNR (t = T-1). Predict {able}."
        )


def prediction_of(model: Model, schedule: NoiseSchedule, prediction: str | None = None) -> Prediction:
    """Look up what the model predicts: what the caller says, or else `model.prediction`, or else eps. Checked."""
    kind: str = prediction or getattr(model, "prediction", None) or "eps"
    check_prediction(schedule, kind)
    return PREDICTIONS[kind]
