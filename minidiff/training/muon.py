"""Muon: every weight matrix is moved by an orthogonal matrix, the one that is nearest to its momentum.

Rests on torch alone. A matrix of gradients is mostly a few strong directions, and SGD or Adam hardly move the others.
Muon moves all directions alike, so a network learns more from each step: see docs/training.md.
Jordan et al. 2024 (Muon, https://kellerjordan.github.io/posts/muon); Liu et al. 2025, arXiv 2502.16982 (the scale);
Amsel et al. 2025, arXiv 2505.16932 (why each polynomial has numbers of its own).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import overload

import torch
from torch import Tensor, nn

from minidiff.errors import UserError

# s <- a s + b s^3 + c s^5 for every singular value s, with other a, b, c each time. The numbers are You Jiacheng's, of
# the record runs of modded-nanogpt (train_gpt_medium.py, 2025): of s from 0.01 to 1 they make 0.97 to 1.04, of 0.001
# still 0.47. A smaller s is multiplied by 493.
POLYNOMIALS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
SAFETY = 1.01  # how far rounding may lift a singular value above 1, where the polynomials grow (Amsel et al., 3.4)
TINY = 1e-30  # the least sum of squares that a matrix is divided by: zeros stay zeros


def orthogonalise(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Replace the singular values of matrices [n,m], each of its own shape, by numbers near 1: U S V^T becomes U V^T.

    U V^T is (X X^T)^(-1/2) X. So the work is done on the Gram matrices X X^T of the shorter side, and only the first
    and the last product are as long as X: a convolution's X is nine times as long. Gram matrices of one size go
    together.
    """
    wide = [x if x.shape[0] <= x.shape[1] else x.mT for x in matrices]
    results = list(wide)
    for size in sorted({len(x) for x in wide}):
        which = [number for number, x in enumerate(wide) if len(x) == size]
        roots = inverse_roots(torch.stack([wide[number] @ wide[number].mT for number in which]))
        for number, root in zip(which, roots, strict=True):
            results[number] = root @ wide[number]
    return [y if x.shape[0] <= x.shape[1] else y.mT for x, y in zip(matrices, results, strict=True)]


def inverse_roots(gram: Tensor) -> Tensor:
    """Compute about G^(-1/2) of each Gram matrix G = X X^T, [k,n,n] -> [k,n,n].

    A polynomial a s + b s^3 + c s^5 of all singular values is a product with P = a + b G + c G^2: X becomes P X, and
    its Gram matrix P G P. The product of all P is the result. Always in float32 or more: G holds the squares of the
    singular values, and of 0.001 against 1 bfloat16, of 8 bits, would leave nothing.
    """
    longest = SAFETY**2 * gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=TINY)[:, None, None]  # the sum of all s^2
    gram = gram / longest  # now no singular value of X is above 1 / SAFETY
    product: Tensor | None = None
    for number, (a, b, c) in enumerate(POLYNOMIALS, start=1):
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal(dim1=1, dim2=2).add_(a)
        product = step if product is None else step @ product
        if number < len(POLYNOMIALS):
            gram = step @ gram @ step
    assert product is not None
    return product / longest.sqrt()


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
        """Move every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            self.move(moved, group["lr"], group["momentum"], group["weight_decay"])
        return loss

    def move(self, weights: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        """Move the weights by their momentum, orthogonalised."""
        directions = []
        for weight in weights:
            assert weight.grad is not None
            average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            average.lerp_(weight.grad, 1 - momentum)
            directions.append(as_matrix(weight.grad.lerp(average, momentum)))  # Nesterov: one step ahead
        for weight, update in zip(weights, orthogonalise(directions), strict=True):
            scale = 0.2 * math.sqrt(max(update.shape))  # U V^T of [n,m] has the root mean square 1 / sqrt(max(n, m))
            if weight_decay:
                weight.mul_(1 - lr * weight_decay)
            weight.add_(as_weight(update, weight), alpha=-lr * scale)


def as_matrix(weight: Tensor) -> Tensor:
    """Return a weight [n,m,...] as a matrix [n,...*m]. In the layout channels last that is a view, and costs nothing.

    The order of the columns makes no difference to U V^T, if the result has the same.
    """
    return weight.movedim(1, -1).flatten(1)


def as_weight(matrix: Tensor, like: Tensor) -> Tensor:
    """Undo `as_matrix`: give a matrix the shape of this weight."""
    return matrix.reshape(like.movedim(1, -1).shape).movedim(-1, 1)


# --- which weights ------------------------------------------------------------------------------------------------


def hidden_weights(network: nn.Module) -> list[Tensor]:
    """Return the weights inside a network that Muon moves: of convolutions and linear layers, but not of all.

    The first and the last layer are left to AdamW, as Jordan et al. advise: what goes in and comes out there are pixels
    and not features. A network with a `hidden_weights` of its own says it itself. Weights that are not trained are left
    out. Raises UserError if nothing is left for Muon or for AdamW, or if the network names what is no weight of it.
    """
    name = type(network).__name__
    own: Callable[[], list[Tensor]] | None = getattr(network, "hidden_weights", None)
    if own is not None:
        found, known = list(own()), {id(parameter) for parameter in network.parameters()}
        if not all(id(weight) in known and weight.ndim > 1 for weight in found) or len(found) == len(known):
            raise UserError(f"`hidden_weights` of {name} must return some of its weights, each [n,m] or [n,m,k,k].")
    else:
        layers = [each for each in network.modules() if isinstance(each, nn.Linear | nn.modules.conv._ConvNd)]
        found = list(dict.fromkeys(layer.weight for layer in layers))[1:-1]  # a weight of two layers counts once
    found = [weight for weight in found if weight.requires_grad]
    if not found:
        raise UserError(f"{name} has no layer between its first and its last for `muon` to move. Train it without.")
    return found


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
    if muon:
        made["muon"] = Muon(hidden, lr, weight_decay=weight_decay)
    return made
