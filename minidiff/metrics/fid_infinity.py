"""FID without the bias that few images give it: a line through FID at two numbers, followed to infinitely many.

Rests on frechet (FID itself) and pieces.
Chong & Forsyth 2020 (the line); Quenouille 1956 and Tukey 1958 (the jackknife).
"""

import math

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import UserError
from minidiff.metrics.estimates import Estimate, Progress
from minidiff.metrics.frechet import FeatureStatistics, Gaussian, frechet_distance
from minidiff.metrics.pieces import Features, blocks, check_features, read_rows

RESAMPLES = 2000  # of the groups, for the interval; they are resampled as numbers, which costs nothing


def fid_infinity(
    a: Features, b: Features | Gaussian, groups: int = 20, seed: int = 2020, progress: Progress | None = None
) -> Estimate:
    """Return FID without the bias of few images, and a 95% interval for the distance of the two distributions.

    a: [N,d]. b: [M,d], or (mean [d], covariance [d,d]), which is then taken as the truth, without an error of its own.
    FID at N images lies above the FID of infinitely many by about c / N (Chong & Forsyth 2020, section 3). Each group
    of images is left out in turn, on both sides. The line through FID at N and at N - N / groups, followed to 1/N = 0,
    is the jackknife (Quenouille 1956). So each group gives an unbiased estimate. Their mean is the value, and their
    spread is its error (Tukey 1958). The interval is a studentised bootstrap of these estimates. Resampling the images
    instead would put copies of an image into a set, and bias its FID once more.

    If both sides have as many rows, row i of a and row i of b are in one group, so images can come in pairs. The bias
    is a line from 2 d images on each side, or from 4 d on the smaller side if they are unequal. With fewer images the
    value comes out too low. It can fall below 0, as any unbiased estimate can.
    Raise UserError if a side has fewer images than groups.
    """
    sides = [a] if isinstance(b, tuple) else [a, b]
    if not isinstance(b, tuple):
        check_features(a, b)
    counts = [len(side) for side in sides]
    if not 3 <= groups <= min(counts):
        raise UserError(
            f"FID-infinity cannot have {groups} groups of {min(counts)} images. "
            "Take 3 groups or more, with an image in each."
        )

    def distance(statistics: list[FeatureStatistics]) -> float:
        gaussians = [(one.mean, one.covariance) for one in statistics]
        return frechet_distance(*gaussians[0], *(b if isinstance(b, tuple) else gaussians[1]))

    whole = [FeatureStatistics.of(side) for side in sides]
    of_all, left_out = distance(whole), np.zeros(groups)
    orders = [np.random.RandomState(seed).permutation(count) for count in counts]  # equal counts, equal order
    for group in range(groups):
        chosen = [np.array_split(order, groups)[group] for order in orders]
        parts = [statistics_of_rows(side, rows) for side, rows in zip(sides, chosen, strict=True)]
        left_out[group] = distance([one.without(part) for one, part in zip(whole, parts, strict=True)])
        if progress:
            progress(group + 1, groups)
    return studentised(groups * of_all - (groups - 1) * left_out, np.random.RandomState(seed))


def statistics_of_rows(features: Features, chosen: NDArray[np.int64]) -> FeatureStatistics:
    """Return the statistics of the chosen rows."""
    statistics, chosen = FeatureStatistics(features.shape[1]), np.sort(chosen)
    for block in blocks(len(chosen)):
        statistics.update(read_rows(features, chosen[block]))
    return statistics


def studentised(values: NDArray[np.float64], random: np.random.RandomState) -> Estimate:
    """Return the mean of independent estimates [n] with its bootstrap-t interval (Efron & Tibshirani 1993, 12.5)."""
    n = len(values)
    value, se = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n)
    again = values[random.randint(0, n, (RESAMPLES, n))]
    errors = again.std(axis=1, ddof=1) / math.sqrt(n)
    t = (again.mean(axis=1) - value)[errors > 0] / errors[errors > 0]
    if not len(t):  # all the same
        return Estimate(value, 0.0, value, value)
    below, above = np.quantile(t, [0.025, 0.975])
    return Estimate(value, se, value - float(above) * se, value - float(below) * se)
