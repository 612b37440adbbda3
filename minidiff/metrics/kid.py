"""KID: the squared maximum mean discrepancy of features, with a cubic kernel.

Binkowski et al. 2018; Gretton et al. 2012.
"""

import math

import numpy as np
import torch
from torch import Tensor

from minidiff.errors import UserError
from minidiff.metrics.estimates import Estimate, Progress, comparable
from minidiff.metrics.frechet import Features, blocks, rows
from minidiff.metrics.precision_recall import NORMAL_95


def kid(
    a: Features,
    b: Features,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    progress: Progress | None = None,
) -> Estimate:
    """Kernel Inception Distance of features [N,d] and [M,d]: the unbiased MMD^2 of random subsets, averaged.

    Binkowski et al. 2018, section 3; with the defaults, the very subsets of torch-fidelity. Unbiased, so it may fall
    below 0. `std` is its spread over subsets (with subset_size), `se` that of the value over fresh images and fresh
    subsets. UserError if a side has fewer rows than a subset.
    """
    n, m = comparable(a, b)
    if not 2 <= subset_size <= min(n, m):
        raise UserError(
            f"KID with subsets of {subset_size}: there are {n} and {m} images. Take subsets of 2 to {min(n, m)}."
        )
    if subset_size == n == m:
        subsets = 1  # all of them are the whole set
    random = np.random.RandomState(seed)
    values, squares = [], torch.zeros(3, dtype=torch.float64)
    for done in range(subsets):
        x = rows(a, random.choice(n, subset_size, replace=False))
        y = rows(b, random.choice(m, subset_size, replace=False))
        k_xx, k_yy, k_xy = kernel(x, x).fill_diagonal_(0), kernel(y, y).fill_diagonal_(0), kernel(x, y)
        pairs = subset_size * (subset_size - 1)
        values.append((k_xx.sum() / pairs + k_yy.sum() / pairs - 2 * k_xy.mean()).item())  # Gretton et al. 2012, eq. 3
        squares += torch.stack([degenerate(k_xx), degenerate(k_yy), mean_square(double_centred(k_xy))]) / subsets
        if progress:
            progress(done + 1, subsets)
    value, std = float(np.mean(values)), float(np.std(values))
    variance = mmd_variance(a, b, squares.tolist(), random)
    if subsets > 1:
        variance += std**2 / (subsets - 1)  # of the mean of the subsets about the MMD of all images
    se = math.sqrt(variance)
    return Estimate(value, se, value - NORMAL_95 * se, value + NORMAL_95 * se, std)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / d + 1)^3 of all pairs, [n,m]. Binkowski et al. 2018, eq. 4."""
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)  # in place: these are the largest arrays here


def double_centred(k: Tensor) -> Tensor:
    """What is left of a kernel [n,m] without the mean of its row and column."""
    return k - k.mean(dim=1, keepdim=True) - k.mean(dim=0, keepdim=True) + k.mean()


def mean_square(k: Tensor) -> Tensor:
    return k.square().mean()


def degenerate(k: Tensor) -> Tensor:
    """Mean square of a kernel among one set, [n,n] with zeros on the diagonal, about the means of row and column."""
    n = len(k)
    means = k.sum(dim=1) / (n - 1)
    return (k - means[:, None] - means[None] + means.mean()).fill_diagonal_(0).square().sum() / (n * (n - 1))


WITNESSES = 1000  # images whose variance is taken in `mmd_variance`: known to 5 or 10% from so many


def mmd_variance(a: Features, b: Features, squares: list[float], random: np.random.RandomState) -> float:
    """The variance, over fresh images, of the unbiased MMD^2 between all n images of a and all m of b.

    Hoeffding's decomposition: MMD^2 is a sum over single images (of the witness function, which is how much nearer an
    image lies to its own set than to the other) and a sum over pairs, uncorrelated. The first decides between
    different sets; between sets of one distribution it vanishes, and the pairs are all there is.
    squares: the mean squares of the pairs' part within a, within b and across.
    """
    n, m = len(a), len(b)
    aa, bb, ab = squares
    single_a = max(0.0, witness_variance(a, b, random) - aa / (n - 1) - ab / m)  # less the noise of the means in it
    single_b = max(0.0, witness_variance(b, a, random) - bb / (m - 1) - ab / n)
    pairs = 2 * aa / (n * (n - 1)) + 2 * bb / (m * (m - 1)) + 4 * ab / (n * m)
    return 4 * single_a / n + 4 * single_b / m + pairs


def witness_variance(a: Features, b: Features, random: np.random.RandomState) -> float:
    """Variance over images of a of: mean kernel with the others of a, less mean kernel with all of b."""
    x = rows(a, random.permutation(len(a))[:WITNESSES])
    own, others = -kernel_diagonal(x), torch.zeros(len(x), dtype=torch.float64)
    for block in blocks(len(a)):
        own += kernel(x, rows(a, block)).sum(dim=1)
    for block in blocks(len(b)):
        others += kernel(x, rows(b, block)).sum(dim=1)
    return (own / (len(a) - 1) - others / len(b)).var().item()


def kernel_diagonal(x: Tensor) -> Tensor:
    """The kernel of every row with itself, [n]."""
    return (x.square().sum(dim=1) / x.shape[1] + 1) ** 3
