"""Chapter 5: classifier-free guidance. Labels go into the network, and guidance makes the samples follow them.

Rests on predictions (what a sampler takes for a model).
Ho & Salimans 2022 (classifier-free guidance).
"""

from typing import Protocol

import torch
from torch import Tensor

from minidiff.diffusion.predictions import Model

GUIDANCE_SCALE = 2.0  # unless the user gives another: docs/results.md


class Conditional(Protocol):
    """A network that takes labels: see `UNet.forward`."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Tensor: ...


def guided(model: Conditional, labels: Tensor, guidance_scale: float = 1.0) -> Model:
    """Put labels into a network and steer it towards them, as a model that samplers can call: (x_t, t) -> prediction.

    labels: multi-hot float [N,L], for batches of N images.
    guidance_scale: 0 ignores the labels and 1 is the conditional network as it is. Above 1 the prediction goes on in
    the same direction, past the conditional one and away from the unconditional. This works for eps, and so for x0 and
    v, which are linear in eps at a given x_t.
    Both predictions come out of one call with twice the batch, which takes less time than two calls.
    """
    if guidance_scale == 1:
        return lambda x, t: model(x, t, labels)
    twice = torch.cat([labels, labels])
    keep = torch.arange(len(twice), device=labels.device) < len(labels)

    def call(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = model(torch.cat([x, x]), torch.cat([t, t]), twice, keep).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)  # eq. 6, guidance_scale = 1 + w

    return call
