"""Chapter 5: classifier-free guidance. Labels go into the network, and guidance makes the samples follow them.

Rests on predictions (what a sampler takes for a model).
Ho & Salimans 2022 (classifier-free guidance).
"""

from typing import Protocol

import torch
from torch import Tensor

from minidiff.diffusion.predictions import Model

GUIDANCE_SCALE = 2.0  # when nothing else is asked for; docs/results.md


class Conditional(Protocol):
    """A network that takes labels: see `UNet.forward`."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Tensor: ...


def guided(model: Conditional, labels: Tensor, guidance_scale: float = 1.0) -> Model:
    """The network as samplers call it, (x_t, t) -> prediction, with these labels put in: classifier-free guidance.

    labels: multi-hot float [N,L], for batches of N images. guidance_scale: 1 is the conditional network as it is; 0
    does not listen to the labels; from there on the prediction is carried past the conditional one, away from the
    unconditional. What holds for eps holds for x0 and v, which are linear in eps at a given x_t.
    Both predictions come out of one call with twice the batch, which takes less than two calls.
    """
    if guidance_scale == 1:
        return lambda x, t: model(x, t, labels)
    twice = torch.cat([labels, labels])
    keep = torch.arange(len(twice), device=labels.device) < len(labels)

    def call(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), twice, keep).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)  # eq. 6, guidance_scale = 1 + w

    return call
