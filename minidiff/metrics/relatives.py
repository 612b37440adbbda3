"""The relatives of FID, which need the features of every image where FID needs their mean and covariance only.

Rests on frechet (FID itself, and features in pieces), numpy and scipy. All in float64, in blocks of rows.
Binkowski et al. 2018 (KID); Salimans et al. 2016 (Inception Score); Kynkaanniemi et al. 2019 (precision and recall);
Chong & Forsyth 2020 (FID of infinitely many images).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from minidiff.errors import UserError
from minidiff.metrics.frechet import Features, FeatureStatistics, blocks, different_networks, frechet_distance, rows

Gaussian = tuple[Tensor, Tensor]  # mean [d] and covariance [d,d]
Progress = Callable[[int, int], None]  # told how many of how many pieces of the work are done

NORMAL_95 = 1.959964  # 95% of a normal distribution lie within so many standard deviations


@dataclass(frozen=True)
class Estimate:
    """A number measured on a finite set of images, and how far it may lie from that of infinitely many."""

    value: float
    se: float  # standard error: the spread of `value` over repetitions with fresh images
    low: float  # of the 95% interval
    high: float
    std: float | None = None  # the spread that torch-fidelity prints beside the value: not an error of it


def comparable(a: Features, b: Features) -> tuple[int, int]:
    """How many rows each has. UserError unless both are [N,d] with one d."""
    for name, features in (("a", a), ("b", b)):
        if len(features.shape) != 2:
            raise UserError(
                f"the features of {name} have the shape {list(features.shape)}: give [N,d], a row an image."
            )
    if a.shape[1] != b.shape[1]:
        raise UserError(different_networks(a.shape[1], b.shape[1]))
    return len(a), len(b)


# FID of infinitely many images

RESAMPLES = 2000  # of the groups, for the interval: numbers only, so they cost nothing


def fid_infinity(
    a: Features, b: Features | Gaussian, groups: int = 20, seed: int = 2020, progress: Progress | None = None
) -> Estimate:
    """FID without its bias of few images, and a 95% interval for the distance of the two distributions themselves.

    a: [N,d]. b: [M,d], or (mean [d], covariance [d,d]) that is taken as the truth, with no error of its own.
    FID at N images lies above that of infinitely many by about c / N (Chong & Forsyth 2020, section 3). Every group of
    images in turn is left out on both sides: the line through FID at N and at N - N / groups, followed to 1/N = 0, is
    the jackknife (Quenouille 1956). Each group has so an estimate of its own, unbiased, whose mean is the value and
    whose spread is the error (Tukey 1958). The interval is a bootstrap of these, studentised: resampling
    the images instead would put copies of images into a set, whose FID is biased once more.

    Row i of a and row i of b are in one group if there are as many, so images may come in pairs. With 2 d images on
    each side, or 4 d on the smaller where the sides are unequal, the bias is a line; with fewer the value comes out too
    low. May fall below 0, like all that is unbiased.
    UserError if a side has fewer images than groups.
    """
    sides = [a] if isinstance(b, tuple) else [a, b]
    if not isinstance(b, tuple):
        comparable(a, b)
    counts = [len(side) for side in sides]
    if not 3 <= groups <= min(counts):
        raise UserError(
            f"FID-infinity with {groups} groups, {min(counts)} images: take 3 groups or more, an image each."
        )

    def distance(statistics: list[FeatureStatistics]) -> float:
        gaussians = [(one.mean, one.covariance) for one in statistics]
        return frechet_distance(*gaussians[0], *(b if isinstance(b, tuple) else gaussians[1]))

    whole = [FeatureStatistics.of(side) for side in sides]
    of_all, left_out = distance(whole), np.zeros(groups)
    orders = [np.random.RandomState(seed).permutation(count) for count in counts]  # the same for as many rows
    for group in range(groups):
        parts = [of_rows(s, np.array_split(order, groups)[group]) for s, order in zip(sides, orders, strict=True)]
        left_out[group] = distance([one.without(part) for one, part in zip(whole, parts, strict=True)])
        if progress:
            progress(group + 1, groups)
    return studentised(groups * of_all - (groups - 1) * left_out, np.random.RandomState(seed))


def of_rows(features: Features, chosen: NDArray[np.int64]) -> FeatureStatistics:
    """The statistics of some rows."""
    statistics, chosen = FeatureStatistics(features.shape[1]), np.sort(chosen)
    for block in blocks(len(chosen)):
        statistics.update(rows(features, chosen[block]))
    return statistics


def studentised(values: NDArray[np.float64], random: np.random.RandomState) -> Estimate:
    """The mean of independent estimates [n], with the bootstrap-t interval: Efron & Tibshirani 1993, section 12.5."""
    n = len(values)
    value, se = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n)
    again = values[random.randint(0, n, (RESAMPLES, n))]
    errors = again.std(axis=1, ddof=1) / math.sqrt(n)
    t = (again.mean(axis=1) - value)[errors > 0] / errors[errors > 0]
    if not len(t):  # all the same
        return Estimate(value, 0.0, value, value)
    below, above = np.quantile(t, [0.025, 0.975])
    return Estimate(value, se, value - float(above) * se, value - float(below) * se)


# KID


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


# Inception Score


def inception_score(logits: Features, splits: int = 10, seed: int = 2020) -> Estimate:
    """Inception Score of logits [N,classes]: exp of the mean KL divergence of p(y|x) from p(y), averaged over splits.

    Salimans et al. 2016, section 4; shuffled and split as torch-fidelity does. `std` is the spread over the splits,
    `se` the error of their mean. The interval is for the score at N / splits images, which is below that of more.
    UserError if there are fewer images than splits.
    """
    count = len(logits)
    if len(logits.shape) != 2 or splits < 2 or count < splits:
        raise UserError(
            f"an Inception Score in {splits} splits: logits are {list(logits.shape)}. Give [N,classes], N >= splits."
        )
    order = np.random.RandomState(seed).permutation(count)
    scores = []
    for split in range(splits):
        chosen = order[split * count // splits : (split + 1) * count // splits]
        marginal, negentropy = torch.zeros(logits.shape[1], dtype=torch.float64), 0.0
        for block in blocks(len(chosen)):
            log_p = rows(logits, chosen[block]).log_softmax(dim=1)
            marginal += log_p.exp().sum(dim=0) / len(chosen)
            negentropy += (log_p.exp() * log_p).sum().item() / len(chosen)
        scores.append(math.exp(negentropy - torch.xlogy(marginal, marginal).sum().item()))
    value, std = float(np.mean(scores)), float(np.std(scores))
    se = std / math.sqrt(splits - 1)
    reach = float(student.ppf(0.975, splits - 1)) * se  # few splits: Student's distribution
    return Estimate(value, se, value - reach, value + reach, std)


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
