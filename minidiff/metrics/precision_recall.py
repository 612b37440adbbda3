"""The relatives of FID, which need the features of every image where FID needs their mean and covariance only.

Rests on frechet (FID itself, and features in pieces), numpy and scipy. All in float64, in blocks of rows.
Binkowski et al. 2018 (KID); Salimans et al. 2016 (Inception Score); Kynkaanniemi et al. 2019 (precision and recall);
Chong & Forsyth 2020 (FID of infinitely many images).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.errors import UserError
from minidiff.metrics.estimates import Progress, comparable
from minidiff.metrics.frechet import Features, blocks, rows

NORMAL_95 = 1.959964  # 95% of a normal distribution lie within so many standard deviations


# FID of infinitely many images


# KID


# Inception Score


# Precision and recall


def precision_recall(a: Features, b: Features, k: int = 3, progress: Progress | None = None) -> tuple[float, float]:
    """Precision and recall of generated features a [N,d] against real ones b [M,d], each in [0,1].

    Precision: the share of generated images that lie among the real ones, no farther from one of them than that one's
    k-th neighbour. Recall: the share of real images that lie so among the generated. Kynkaanniemi et al. 2019, eq. 1
    and 2. UserError unless each side has more than k images.
    """
    n, m = comparable(a, b)
    if not 1 <= k < min(n, m):
        raise UserError(f"k = {k} neighbours among {n} and {m} images: k must be 1 or more, and less than either.")
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
        x = rows(a, i)
        for j in blocks(m):
            distances = squared_distances(x, rows(b, j))
            precise[i] |= (distances <= radius_b[j]).any(dim=1)
            recalled[j] |= (distances <= radius_a[i, None]).any(dim=0)
            one_more()
    return precise.double().mean().item(), recalled.double().mean().item()


def radii(features: Features, k: int, one_more: Callable[[], None]) -> Tensor:
    """Squared distance of every row to its k-th neighbour, itself not counted: float64 [N]."""
    found = []
    for i in blocks(len(features)):
        x = rows(features, i)
        nearest = torch.full((len(x), k + 1), math.inf, dtype=torch.float64)  # with itself, at distance 0
        for j in blocks(len(features)):
            distances = squared_distances(x, rows(features, j))
            nearest = torch.cat([nearest, distances], dim=1).topk(k + 1, largest=False).values
            one_more()
        found.append(nearest[:, k])
    return torch.cat(found)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[n,m]. What rounding leaves between equal rows counts as 0, so that copies of an image are at one point."""
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    distances = torch.addmm(squares, x, y.T, alpha=-2)
    return torch.where(distances < 1e-12 * squares, 0.0, distances)
