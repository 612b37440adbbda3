"""Muon: every weight matrix is moved by an orthogonal matrix, the one that is nearest to its momentum.

Rests on torch alone. A matrix of gradients is mostly a few strong directions, and SGD or Adam hardly move the others.
Muon moves all directions alike, so a network learns more from each step: see docs/training.md.
Jordan et al. 2024 (Muon, https://kellerjordan.github.io/posts/muon); Amsel et al. 2025 (Polar Express), arXiv
2505.16932; Liu et al. 2025, arXiv 2502.16982 (the scale).
"""

import math
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, overload

import torch
from torch import Tensor, nn

# X <- a X + b (X X^T) X + c (X X^T)^2 X, with other a, b, c each time: Amsel et al., algorithm 1. Singular values
# anywhere from 0.001 to 1 are near 1 after these five. The paper's own are for a norm of up to 1.01.
POLAR_EXPRESS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Replace the singular values of matrices [k,n,m] by numbers near 1: U S V^T becomes about U V^T.

    All steps are polynomials in the Gram matrix G = X X^T, so they are done on G, [n,n], and X is multiplied once. A
    convolution's X is nine times as wide as G: that saves more than half of the work.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalise(matrices.mT).mT
    x = matrices / (1.01 * torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)  # no singular value is above 1
    gram = x @ x.mT
    product = torch.eye(x.shape[1], device=x.device, dtype=x.dtype).expand_as(gram)  # X_k = product X
    for a, b, c in POLAR_EXPRESS:
        step = b * gram + c * (gram @ gram)
        step.diagonal(dim1=1, dim2=2).add_(a)
        product = step @ product
        gram = step @ gram @ step  # of X_k; they commute, as all are polynomials in the first G
    result: Tensor = product @ x
    return result


class Muon(torch.optim.Optimizer):
    """The optimizer of the weights inside a network: matrices [n,m], and convolutions [n,m,k,k] as [n, m*k*k].

    The update has the root mean square 0.2 that AdamW's updates usually have (Liu et al., eq. 4), so that both can
    have one learning rate. momentum: how much of the last steps' gradients is kept. weight_decay: as AdamW's.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every weight that has a gradient. Matrices of one shape are orthogonalised together."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            for _, alike in groupby(sorted(moved, key=shape_of), key=shape_of):
                self.move(list(alike), group["lr"], group["momentum"], group["weight_decay"])
        return loss

    def move(self, weights: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        """Move weights that are matrices of one shape [n,m]."""
        directions = []
        for weight in weights:
            assert weight.grad is not None
            average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            average.lerp_(weight.grad, 1 - momentum)
            directions.append(weight.grad.lerp(average, momentum).flatten(1))  # Nesterov: one step ahead
        n, m = shape_of(weights[0])
        scale = 0.2 * math.sqrt(max(n, m))  # an orthogonal matrix has the root mean square 1 / sqrt(max(n, m))
        for weight, update in zip(weights, orthogonalise(torch.stack(directions)), strict=True):
            weight.mul_(1 - lr * weight_decay)
            weight.add_(update.view_as(weight), alpha=-lr * scale)


def shape_of(weight: Tensor) -> tuple[int, int]:
    """Return the shape [n,m] of a weight as a matrix."""
    return weight.shape[0], weight[0].numel()


# --- which weights ------------------------------------------------------------------------------------------------


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """Return the weights inside a network that Muon moves: of convolutions and linear layers, but not of all.

    The first and the last layer are left to AdamW, as Jordan et al. advise: what goes in and comes out there are pixels
    and not features. A network with a `hidden_weights` of its own says it itself.
    """
    own: Callable[[], list[Tensor]] | None = getattr(network, "hidden_weights", None)
    if own is not None:
        return own()
    layers: list[Any] = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    return [layer.weight for layer in layers[1:-1]]


def optimizers(
    network: nn.Module, muon: bool, lr: float, weight_decay: float, fused: bool
) -> dict[str, torch.optim.Optimizer]:
    """Make the optimizers of a network: AdamW for all of it, or Muon for its hidden weights and AdamW for the rest.

    The keys are their places in a training's state: "optimizer" is AdamW.
    """
    hidden = hidden_weights(network) if muon else []
    known = {id(weight) for weight in hidden}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
    made: dict[str, torch.optim.Optimizer] = {
        "optimizer": torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, fused=fused)
    }
    if hidden:
        made["muon"] = Muon(hidden, lr, weight_decay=weight_decay)
    return made
