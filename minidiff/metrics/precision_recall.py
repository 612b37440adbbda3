"""Precision and recall: how many generated images look real, and how much of the real images is generated.

Rests on pieces (features, a block of rows at a time). Kynkaanniemi et al. 2019.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.errors import UserError
from minidiff.metrics.estimates import Progress
from minidiff.metrics.pieces import Features, blocks, check_features, read_rows


def precision_recall(a: Features, b: Features, k: int = 3, progress: Progress | None = None) -> tuple[float, float]:
    """Return precision and recall of generated features a [N,d] against real ones b [M,d], each in [0,1].

    A generated image counts as precise if some real image is at least as near to it as to its own k-th real neighbour.
    Precision is the share of generated images that are (Kynkaanniemi et al. 2019, eq. 1). Recall is the same with the
    sides exchanged (eq. 2).
    Raise UserError unless each side has more than k images.
    """
    n, m = check_features(a, b)
    if not 1 <= k < min(n, m):
        raise UserError(f"k = {k} neighbours are too many for {n} and {m} images. Take a k from 1 to {min(n, m) - 1}.")
    work = len(blocks(n)) ** 2 + len(blocks(m)) ** 2 + len(blocks(n)) * len(blocks(m))
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, work)

    radius_a, radius_b = radii(a, k, one_more), radii(b, k, one_more)
    precise, recalled = torch.zeros(n, dtype=torch.bool), torch.zeros(m, dtype=torch.bool)
    for i in blocks(n):
        x = read_rows(a, i)
        for j in blocks(m):
            distances = squared_distances(x, read_rows(b, j))
            precise[i] |= (distances <= radius_b[j]).any(dim=1)
            recalled[j] |= (distances <= radius_a[i, None]).any(dim=0)
            one_more()
    return precise.double().mean().item(), recalled.double().mean().item()


def radii(features: Features, k: int, one_more: Callable[[], None]) -> Tensor:
    """Return the squared distance of every row to its k-th neighbour, not counting itself: float64 [N]."""
    found = []
    for i in blocks(len(features)):
        x = read_rows(features, i)
        nearest = torch.full((len(x), k + 1), math.inf, dtype=torch.float64)  # k, and the row itself
        for j in blocks(len(features)):
            distances = squared_distances(x, read_rows(features, j))
            nearest = torch.cat([nearest, distances], dim=1).topk(k + 1, largest=False).values
            one_more()
        found.append(nearest[:, k])
    return torch.cat(found)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distances [n,m]. What rounding leaves between equal rows becomes 0: copies are one point."""
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    distances = torch.addmm(squares, x, y.T, alpha=-2)
    return torch.where(distances < 1e-12 * squares, 0.0, distances)
