"""FID without its bias of few images: extrapolated to infinitely many.

Rests on frechet. Chong & Forsyth 2020.
"""

import math

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import UserError
from minidiff.metrics.estimates import Estimate, Gaussian, Progress, comparable
from minidiff.metrics.frechet import Features, FeatureStatistics, blocks, frechet_distance, rows

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
