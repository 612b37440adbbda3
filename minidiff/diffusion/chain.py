"""Chapter 3, the chain: how an update rule, a network and a schedule become a sampler that a user can call.

Rests on levels, predictions and denoiser. The update rules are in samplers and solvers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion.denoiser import denoiser
from minidiff.diffusion.levels import NoiseSchedule, Plan
from minidiff.diffusion.predictions import Model, prediction_of
from minidiff.errors import UserError
from minidiff.rng import Noise


class Step(NamedTuple):
    """What one call of the network led to. A sampler's tensors are yours: keep them or change them, the chain goes on.

    The network was called at t with the x of the step before. This x is what it will be called with next, and is at the
    noise level of that call; after the last call it is the image. x0 is the image predicted at t, clipped if asked.
    """

    t: int
    x: Tensor  # [N,C,H,W]
    x0: Tensor  # [N,C,H,W]

    def __repr__(self) -> str:
        return f"Step(t={self.t}, x={list(self.x.shape)}, x0={list(self.x0.shape)})"

    def _repr_png_(self) -> bytes | None:
        """Show the predicted images in a notebook."""
        from minidiff.images.show import png_of  # here alone, as the mathematics needs no pictures

        return png_of(self.x0)


# rule(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise) yields a Step after every call of denoise. Where its
# plan has the options `eta` or `variance`, they follow by name if the user gives them.
Rule = Callable[..., Iterator[Step]]


@dataclass(frozen=True)
class Sampler:
    """An update rule, and the timesteps it calls unless told otherwise. Called with a model, it draws images."""

    rule: Rule
    plan: Plan

    @torch.no_grad()
    def __call__(
        self,
        model: Model,
        schedule: NoiseSchedule,
        x: Tensor,
        *,
        steps: int | None = None,
        start_t: int | None = None,
        spacing: str | None = None,
        clip: bool | float = True,
        keep_eps: bool = False,
        prediction: str | None = None,
        generator: Noise = None,
        eta: float | None = None,
        variance: str | None = None,
    ) -> Iterator[Step]:
        """Go down from x to an image, and yield a `Step` after every call of the network.

        x: [N,C,H,W] at the noise level of the first timestep: standard normal for a whole chain, or
        `q_sample(schedule, image, start_t, noise)`. It is not modified.
        steps: calls of the network. start_t: the first timestep, else T-1. spacing: one of SPACINGS. None: see PLANS.
        clip: hold the predicted x0 in [-1,1], see `denoiser.clipped`. keep_eps: of ddim, see `denoiser.denoiser`.
        prediction: what the model predicts; None asks `model.prediction`, else eps.
        generator: None, one, or one for each sample. No noise is added in the last step.
        eta: of ddim, 0 to 1. variance: of ddpm, one of VARIANCES. Raises UserError for any value out of range.
        """
        own = {"eta": eta, "keep_eps": keep_eps or None, "variance": variance}
        given = {name: value for name, value in own.items() if value is not None}
        for name in given:
            if name not in self.plan.options:
                raise UserError(f"this sampler has no `{name}`. Leave it out.")
        given.pop("keep_eps", None)  # which is the denoiser's
        denoise = denoiser(model, prediction_of(model, schedule, prediction), clip, keep_eps)
        levels = self.plan.levels(schedule, steps, start_t, spacing)
        for step in self.rule(denoise, x, levels, generator, **given):
            yield Step(step.t, step.x.clone(), step.x0.clone())
