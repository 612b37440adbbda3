"""The loss, the augmentation and the accuracy of a classifier.

Rests on rng alone: a model is any callable.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.rng import Draws


def shifted(x: Tensor, most: int, draws: Draws) -> Tensor:
    """Move each image by its own 0 to `most` pixels up or down, and left or right. The border is repeated.

    x [n,C,H,W] -> [n,C,H,W].
    """
    n, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) + (draws.randint(2 * most + 1) - most)[:, None]  # [n,H]
    columns = torch.arange(width, device=x.device) + (draws.randint(2 * most + 1) - most)[:, None]  # [n,W]
    rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    return x[torch.arange(n, device=x.device)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def classifier_loss(one_hot: bool, shift: int) -> Callable[[nn.Module, Tensor, Tensor, Draws], Tensor]:
    """Make the closure that `Trainer` calls: the cross entropy of the logits.

    one_hot: whether an image has exactly one label, so that the outputs compete for it. Otherwise each output says yes
    or no for itself. shift: how far images are moved, in pixels.
    """

    def loss(model: nn.Module, x: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        logits = model(shifted(x, shift, draws) if shift else x).float()
        if one_hot:
            return F.cross_entropy(logits, labels.argmax(dim=1))
        return F.binary_cross_entropy_with_logits(logits, labels)

    return loss


def highest(logits: Tensor, labels: Tensor) -> Tensor:
    """Find the k highest outputs of each image with k labels: bool, of the shape of both, [...,L]."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)  # of each output, from 0 for the highest
    return rank < labels.bool().sum(dim=-1, keepdim=True)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of an image's k labels that are among its k highest outputs: the mean over images with labels.

    With one label each this is the usual accuracy. logits: float [n,L]. labels: zeros and ones [n,L].
    """
    labels = labels.bool()
    k = labels.sum(dim=1)
    right = (highest(logits, labels) & labels).sum(dim=1).double()
    return (right / k)[k > 0].mean().item()


def exact(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images whose labels are all right, by the signs of the outputs. Shapes as in `accuracy`."""
    return ((logits > 0) == labels.bool()).all(dim=1).double().mean().item()
