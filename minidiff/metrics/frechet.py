"""FID: the mean and covariance of features that come in batches, and the Frechet distance of two Gaussians.

Rests on pieces (features, a block of rows at a time); knows no image and no network. All of it is computed in float64.
Heusel et al. 2017 (FID); Dowson & Landau 1982 (the distance); Chan, Golub & LeVeque 1983 (mean and covariance).
"""

import math

import numpy as np
import torch
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from minidiff.errors import UserError
from minidiff.metrics.pieces import Features, blocks, check_same_network, read_rows

Gaussian = tuple[Tensor, Tensor]  # mean [d] and covariance [d,d]

# Mean and covariance


class FeatureStatistics:
    """Gather the mean and covariance of features that come in batches. Its memory does not grow with their number.

    count: images so far. mean: float64 [d]. scatter: float64 [d,d], the sum of (x - mean)(x - mean)^T.
    `merge` joins two of these into exactly the statistics of both sets, so each process can gather its own.
    Chan, Golub & LeVeque 1983 sum about the mean, because sums of squares lose digits when the mean is large.
    """

    def __init__(self, dims: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dims, dtype=torch.float64)
        self.scatter = torch.zeros(dims, dims, dtype=torch.float64)

    @classmethod
    def of(cls, features: Features) -> "FeatureStatistics":
        """Return the statistics of features [N,d]."""
        return cls(features.shape[1]).update(features)

    @classmethod
    def from_parts(cls, count: Tensor | int, mean: Tensor, scatter: Tensor) -> "FeatureStatistics":
        """Build the statistics from what `parts` returned."""
        statistics = cls(len(mean))
        statistics.count = int(count)
        statistics.mean, statistics.scatter = mean.to("cpu", torch.float64), scatter.to("cpu", torch.float64)
        return statistics

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return all of it as tensors, for sending: count int64 [], mean float64 [d], scatter float64 [d,d]."""
        return torch.tensor(self.count), self.mean, self.scatter

    def update(self, features: Features) -> "FeatureStatistics":
        """Add features [n,d] and return itself. Raise UserError if d differs, or if a value is NaN or infinite."""
        if len(features.shape) != 2 or features.shape[1] != len(self.mean):
            raise UserError(
                f"features have the shape {list(features.shape)}. Give [n,{len(self.mean)}], a row an image."
            )
        for block in blocks(len(features)):
            x = read_rows(features, block)
            finite = x.isfinite().all(dim=1)
            if not bool(finite.all()):
                row = block.start + int(finite.logical_not().nonzero()[0])
                raise UserError(f"image {self.count + row - block.start} has features that are not finite. Look at it.")
            mean = x.mean(dim=0)
            centred = torch.cat([x - mean, self.step(len(x), mean)])
            self.scatter.addmm_(centred.T, centred)
            self.mean = self.mean + len(x) / (self.count + len(x)) * (mean - self.mean)
            self.count += len(x)
        return self

    def step(self, count: int, mean: Tensor) -> Tensor:
        """Return the vector [1,d] whose square is the scatter between the two means when `count` images join these."""
        return (math.sqrt(self.count * count / (self.count + count)) * (mean - self.mean))[None]

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Add all that the other holds, and return itself."""
        self.same_network(other)
        if other.count:
            between = self.step(other.count, other.mean)
            self.scatter = (self.scatter + other.scatter).addmm_(between.T, between)
            self.count += other.count
            self.mean = self.mean + other.count / self.count * (other.mean - self.mean)
        return self

    def without(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Return new statistics, without the images that the other holds. All of them must be among these."""
        self.same_network(other)
        count = self.count - other.count
        mean = self.mean + other.count / count * (self.mean - other.mean)
        left = FeatureStatistics.from_parts(count, mean, self.scatter - other.scatter)
        between = left.step(other.count, other.mean)
        left.scatter.addmm_(between.T, between, alpha=-1)
        return left

    def same_network(self, other: "FeatureStatistics") -> None:
        """Raise UserError unless the other has as many features."""
        check_same_network(len(self.mean), len(other.mean))

    @property
    def covariance(self) -> Tensor:
        """Return the covariance, float64 [d,d]. It divides by count - 1, as all of the FID literature does.

        Raise UserError below 2 images.
        """
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 images, and there are {self.count}. Give more.")
        return self.scatter / (self.count - 1)


# FID


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Return the squared Frechet distance of two Gaussians, which is FID if they are of Inception's features.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), Dowson & Landau 1982, eq. 4; Heusel et al. 2017, eq. 6.
    mean: [d]; cov: [d,d], which may be singular. The distance is at least 0.
    Raise UserError if the shapes do not fit together, or if one matrix is not a covariance.
    """
    mean_a, mean_b = mean_a.to("cpu", torch.float64), mean_b.to("cpu", torch.float64)
    cov_a, cov_b = cov_a.to("cpu", torch.float64), cov_b.to("cpu", torch.float64)
    check_same_network(len(mean_a), len(mean_b))
    check_gaussian(mean_a, cov_a)
    check_gaussian(mean_b, cov_b)
    means = (mean_a - mean_b).square().sum()
    distance = means + cov_a.trace() + cov_b.trace() - 2 * trace_of_root(cov_a, cov_b)
    return max(0.0, distance.item())  # below 0 only by rounding


def check_gaussian(mean: Tensor, covariance: Tensor) -> None:
    """Raise UserError unless these are [d] and [d,d] and finite, and the covariance is symmetric."""
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise UserError(f"mean and covariance have the shapes {shapes}. Give [d] and [d,d].")
    if not math.isfinite(mean.sum() + covariance.sum()):
        raise UserError("mean or covariance hold NaN or infinity. Compute them again from finite features.")
    weights = torch.linspace(1, 2, len(mean), dtype=torch.float64)  # sums of rows against sums of columns: quick
    if (covariance @ weights - weights @ covariance).norm() > 1e-5 * (covariance @ weights).norm():
        raise UserError(
            "the matrix is not symmetric, so it is not a covariance. Check which array of the file was meant."
        )


def trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """Return tr (A^1/2 B A^1/2)^1/2 of two covariances [d,d], to a relative 1e-9. Nothing is complex on the way.

    With a Cholesky factor, A = L L^T, it is the sum of the roots of the eigenvalues of L^T B L, which is symmetric.
    Rounding moves an eigenvalue w by eps * max(w), and so its root by eps * max(w) / (2 sqrt(w)). These errors add up
    if a covariance is singular or nearly so. Then the second way is taken: with A = F F^T and B = G G^T, the trace is
    also the sum of the singular values of F^T G, which need no root. Those that are 0 are left out from the start.
    """
    root, failed = torch.linalg.cholesky_ex(a)
    if not failed:
        left = dtrmm(1.0, root.numpy(), b.numpy(), trans_a=1, lower=1)  # half the work of a product of full matrices
        squares: Tensor = torch.linalg.eigvalsh(torch.from_numpy(dtrmm(1.0, root.numpy(), left, side=1, lower=1)))
        roots = squares.clamp(min=0).sqrt()
        error = (torch.finfo(torch.float64).eps * squares[-1] / (2 * roots)).sum()
        if 0 <= error <= 1e-9 * roots.sum():  # below 0 if b has no positive eigenvalue: no covariance
            return roots.sum()
    singular: Tensor = torch.linalg.svdvals(factor(a).T @ factor(b))
    return singular.sum()


def factor(covariance: Tensor) -> Tensor:
    """Return F, float64 [d,rank], with F F^T = covariance.

    The first way is a Cholesky factor with pivots, which ends at the rank. A covariance that was rounded, say to
    float32, can have eigenvalues a little below 0, which no Cholesky factor has. Then F is made from the eigenvectors,
    without the eigenvalues that are as near to 0 as the most negative one.
    Raise UserError if that one is too large to be a rounding error.
    """
    packed, pivots, rank, _ = dpstrf(covariance.numpy(), lower=0)
    root = torch.empty(len(covariance), rank, dtype=torch.float64)
    root[torch.from_numpy(pivots.astype(np.int64) - 1)] = torch.from_numpy(np.triu(packed[:rank]).T.copy())
    if (root.square().sum() - covariance.trace()).abs() <= 1e-10 * covariance.trace():
        return root
    values: Tensor
    vectors: Tensor
    values, vectors = torch.linalg.eigh(covariance)
    smallest, largest = values[0].item(), values[-1].item()
    if smallest < -1e-4 * largest:
        raise UserError(f"the matrix has the eigenvalues {smallest:g} and {largest:g}. A covariance has none below 0.")
    kept = values > max(-smallest, len(values) * torch.finfo(torch.float64).eps * largest)
    return vectors[:, kept] * values[kept].sqrt()
