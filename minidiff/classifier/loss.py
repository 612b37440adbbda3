"""What a classifier learns from, and how well it does: loss, augmentation, accuracy.

Rests on networks.resnet.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.rng import Draws


def shifted(x: Tensor, most: int, draws: Draws) -> Tensor:
    """Each image moved by its own 0 to `most` pixels up or down, and left or right; the border is repeated.

    x [n,C,H,W] -> [n,C,H,W].
    """
    n, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) + (draws.randint(2 * most + 1) - most)[:, None]  # [n,H]
    columns = torch.arange(width, device=x.device) + (draws.randint(2 * most + 1) - most)[:, None]  # [n,W]
    rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    return x[torch.arange(n, device=x.device)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def classifier_loss(one_hot: bool, shift: int) -> Callable[[nn.Module, Tensor, Tensor, Draws], Tensor]:
    """The closure that `Trainer` calls: cross entropy of the logits.

    one_hot: whether an image has exactly one label, and the outputs compete for it; else each output says yes or no for
    itself. shift: of the augmentation, in pixels.
    """

    def loss(model: nn.Module, x: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        logits = model(shifted(x, shift, draws) if shift else x).float()
        if one_hot:
            return F.cross_entropy(logits, labels.argmax(dim=1))
        return F.binary_cross_entropy_with_logits(logits, labels)

    return loss


def highest(logits: Tensor, labels: Tensor) -> Tensor:
    """Which outputs are among the k highest, of an image with k labels: bool, of the shape of both, [...,L]."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)  # of each output, from 0 for the highest
    return rank < labels.bool().sum(dim=-1, keepdim=True)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Of an image with k labels, the share of them among the k highest outputs; the mean over the images that have any.

    With one label each this is the usual accuracy. logits: float [n,L]; labels: zeros and ones [n,L].
    """
    labels = labels.bool()
    k = labels.sum(dim=1)
    right = (highest(logits, labels) & labels).sum(dim=1).double()
    return (right / k)[k > 0].mean().item()


def exact(logits: Tensor, labels: Tensor) -> float:
    """The share of images of which every label is told rightly, by the sign of its output. Shapes as in `accuracy`."""
    return ((logits > 0) == labels.bool()).all(dim=1).double().mean().item()
