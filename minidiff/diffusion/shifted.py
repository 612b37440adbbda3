"""Chapter 2, a shifted process: the noise does not end at zero, but around a picture that is known beforehand.

Rests on process and predictions. A prior u, such as a hazy or blurred picture or the output of a deep image prior, is
added to x_t with a weight k that depends on the timestep. Take it off again, and what is left is the plain process: so
the loss, the samplers and all their options stay as they are, and only what the network is shown changes.

Zhang et al. 2023 (ShiftDDPMs); Lee et al. 2022 (PriorGrad); Luo et al. 2023 (IR-SDE); Pandey et al. 2022 (DiffuseVAE).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minidiff.diffusion.predictions import Model
from minidiff.diffusion.process import q_posterior, q_sample, rates, root
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import lookup

# k as a function of the signal rate sqrt(alpha_bar), which falls from 1 at the image to about 0 at t = T-1.
SHIFTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda signal: torch.zeros_like(signal),  # the plain process
    "prior": lambda signal: 1 - signal,  # from the image to the prior: ShiftDDPMs' prior shift, IR-SDE's mean
    "data": lambda signal: -signal,  # the process of x0 - u, the image's difference from the prior: PriorGrad
    "quadratic": lambda signal: signal * (1 - signal),  # the prior is strongest half way: ShiftDDPMs
    "constant": lambda signal: torch.ones_like(signal),  # the prior is in every x_t alike: DiffuseVAE's second form
}


@dataclass(frozen=True)
class Shifted:
    """A forward process that is shifted by s_t = k_t u: x_t is N(sqrt(alpha_bar_t) x0 + s_t, (1 - alpha_bar_t) I).

    u: the prior, float [N,C,H,W], one for each image, in [-1,1] as they are. kind: how k depends on t, one of SHIFTS.
    Raises UserError for an unknown kind.
    """

    schedule: Schedule
    u: Tensor
    kind: str = "prior"

    def __post_init__(self) -> None:
        lookup("shift", self.kind, SHIFTS)

    def shift(self, t: Tensor) -> Tensor:
        """Give s_t [N,C,H,W] for each image's timestep, t int64 [N] in [0,T)."""
        signal, _ = rates(self.schedule, t, like=self.u)
        return SHIFTS[self.kind](signal) * self.u

    def shift_below(self, t: Tensor) -> Tensor:
        """Give s_{t-1} [N,C,H,W]. Below t = 0 lies the image, whose signal rate is 1: there `prior` has no shift."""
        signal = root(self.schedule.at(t, like=self.u).alpha_bar_prev)
        return SHIFTS[self.kind](signal) * self.u

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x_0, u), [N,C,H,W]. Arguments as of `process.q_sample`: ShiftDDPMs eq. 4."""
        return q_sample(self.schedule, x0, t, noise) + self.shift(t)

    def step_mean(self, x_prev: Tensor, t: Tensor) -> Tensor:
        """Give the mean of the forward step q(x_t | x_{t-1}, u), whose variance is beta_t: ShiftDDPMs eq. 5."""
        alpha = self.schedule.at(t, like=x_prev).alpha
        return root(alpha) * (x_prev - self.shift_below(t)) + self.shift(t)

    def q_posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and variance of q(x_{t-1} | x_t, x_0, u): the plain posterior between the shifts of two levels.

        Arguments and results as of `process.q_posterior`. At t = 0 the mean is x0 and what shift the image itself has.
        """
        mean, variance = q_posterior(self.schedule, x0, x_t - self.shift(t), t)
        return mean + self.shift_below(t), variance

    def unshifted(self, model: Model) -> Model:
        """Make of a network for shifted x_t one for plain x_t, which every loss and sampler takes.

        The network is shown x_t + s_t. What it has to predict is the same: eps, x0 and v of the image and the noise.
        So a chain of any sampler begins with plain x_t, and ends at the image.
        """

        def call(x: Tensor, t: Tensor) -> Tensor:
            return model(x + self.shift(t), t)

        call.prediction = getattr(model, "prediction", None)  # type: ignore[attr-defined]
        return call
