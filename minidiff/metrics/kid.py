"""KID: the squared maximum mean discrepancy of features with a cubic kernel, and the error of its estimate.

Rests on pieces (features, a block of rows at a time).
Binkowski et al. 2018 (KID); Gretton et al. 2012 (the discrepancy and its estimate).
"""

import math

import numpy as np
import torch
from torch import Tensor

from minidiff.errors import UserError
from minidiff.metrics.estimates import NORMAL_95, Estimate, Progress
from minidiff.metrics.pieces import Features, blocks, check_features, read_rows


def kid(
    a: Features,
    b: Features,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    progress: Progress | None = None,
) -> Estimate:
    """Return the Kernel Inception Distance of features [N,d] and [M,d]: the mean of MMD^2 over random subsets.

    Binkowski et al. 2018, section 3. The defaults take the very subsets that torch-fidelity takes. The estimate is
    unbiased, so it can fall below 0. `std` is the spread over the subsets; `se` is the spread of the value over fresh
    images and fresh subsets.
    Raise UserError if a side has fewer rows than a subset.
    """
    n, m = check_features(a, b)
    if not 2 <= subset_size <= min(n, m):
        raise UserError(
            f"KID with subsets of {subset_size} needs as many images, and there are {n} and {m}. "
            f"Take subsets of 2 to {min(n, m)}."
        )
    if subset_size == n == m:
        subsets = 1  # every subset is the whole set
    random = np.random.RandomState(seed)
    values, squares = [], torch.zeros(3, dtype=torch.float64)
    for done in range(subsets):
        x = read_rows(a, random.choice(n, subset_size, replace=False))
        y = read_rows(b, random.choice(m, subset_size, replace=False))
        k_xx, k_yy, k_xy = kernel(x, x).fill_diagonal_(0), kernel(y, y).fill_diagonal_(0), kernel(x, y)
        pairs = subset_size * (subset_size - 1)
        mmd = k_xx.sum() / pairs + k_yy.sum() / pairs - 2 * k_xy.mean()  # Gretton et al. 2012, eq. 3
        values.append(mmd.item())
        squares += torch.stack([degenerate(k_xx), degenerate(k_yy), mean_square(double_centred(k_xy))]) / subsets
        if progress:
            progress(done + 1, subsets)
    value, std = float(np.mean(values)), float(np.std(values))
    variance = mmd_variance(a, b, squares.tolist(), random)
    if subsets > 1:
        variance += std**2 / (subsets - 1)  # the mean over the subsets, about the MMD of all images
    se = math.sqrt(variance)
    return Estimate(value, se, value - NORMAL_95 * se, value + NORMAL_95 * se, std)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return (x.y / d + 1)^3 for all pairs, [n,m]. Binkowski et al. 2018, eq. 4."""
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)  # in place: these are the largest arrays here


def double_centred(k: Tensor) -> Tensor:
    """Subtract from each entry of a kernel [n,m] the means of its row and of its column."""
    return k - k.mean(dim=1, keepdim=True) - k.mean(dim=0, keepdim=True) + k.mean()


def mean_square(k: Tensor) -> Tensor:
    """Return the mean of the squares of all entries."""
    return k.square().mean()


def degenerate(k: Tensor) -> Tensor:
    """Return the mean square of a kernel within one set, [n,n] with a diagonal of 0, about its row and column means."""
    n = len(k)
    means = k.sum(dim=1) / (n - 1)
    return (k - means[:, None] - means[None] + means.mean()).fill_diagonal_(0).square().sum() / (n * (n - 1))


WITNESSES = 1000  # images that `witness_variance` looks at: they give the variance to 5 or 10%


def mmd_variance(a: Features, b: Features, squares: list[float], random: np.random.RandomState) -> float:
    """Return the variance, over fresh images, of the unbiased MMD^2 between all n images of a and all m of b.

    Hoeffding's decomposition writes MMD^2 as two uncorrelated sums. The first goes over single images: it sums the
    witness function, which is how much nearer an image lies to its own set than to the other one. The second goes over
    pairs. Between different sets the first sum decides; between sets of one distribution it vanishes.
    squares: the mean squares of the pairs' part within a, within b, and across.
    """
    n, m = len(a), len(b)
    aa, bb, ab = squares
    single_a = max(0.0, witness_variance(a, b, random) - aa / (n - 1) - ab / m)  # without the noise of its means
    single_b = max(0.0, witness_variance(b, a, random) - bb / (m - 1) - ab / n)
    pairs = 2 * aa / (n * (n - 1)) + 2 * bb / (m * (m - 1)) + 4 * ab / (n * m)
    return 4 * single_a / n + 4 * single_b / m + pairs


def witness_variance(a: Features, b: Features, random: np.random.RandomState) -> float:
    """Return how much, over the images of a, the mean kernel with the rest of a less the mean kernel with b varies."""
    x = read_rows(a, random.permutation(len(a))[:WITNESSES])
    own, others = -kernel_diagonal(x), torch.zeros(len(x), dtype=torch.float64)
    for block in blocks(len(a)):
        own += kernel(x, read_rows(a, block)).sum(dim=1)
    for block in blocks(len(b)):
        others += kernel(x, read_rows(b, block)).sum(dim=1)
    return (own / (len(a) - 1) - others / len(b)).var().item()


def kernel_diagonal(x: Tensor) -> Tensor:
    """Return the kernel of every row with itself, [n]."""
    return (x.square().sum(dim=1) / x.shape[1] + 1) ** 3
