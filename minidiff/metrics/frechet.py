"""FID: features of images taken in as they come, their mean and covariance, and the distance of two such Gaussians.

Rests on torch, numpy and scipy; knows no image and no network. Everything is computed in float64, in blocks of rows.
Heusel et al. 2017 (FID); Dowson & Landau 1982 (the distance); Chan, Golub & LeVeque 1983 (mean and covariance).
"""

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from minidiff.errors import UserError

# Features in pieces


class Rows(Protocol):
    """Features [N,d] that lie in a file: rows are read when they are asked for, by a slice or by their numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, chosen: slice | NDArray[np.int64], /) -> NDArray[np.floating]: ...


Features = Tensor | NDArray[np.floating] | Rows  # [N,d], float32 or float64

BLOCK = 2048  # rows that are in memory as float64 at a time: 34 MB at d = 2048


def rows(features: Features, chosen: slice | NDArray[np.int64]) -> Tensor:
    """Some rows, as float64 [n,d] on the CPU. A file is read only there."""
    if isinstance(features, Tensor):
        return features[chosen].detach().to("cpu", torch.float64)
    return torch.from_numpy(np.array(features[chosen], dtype=np.float64))  # a copy: files are often read-only


def blocks(count: int) -> list[slice]:
    """0 ... count, BLOCK at a time."""
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def different_networks(dims_a: int, dims_b: int) -> str:
    return f"{dims_a} features an image beside {dims_b}: measure both sides with the same feature network."


# Mean and covariance


class FeatureStatistics:
    """Mean and covariance of features that come in pieces; what is held does not grow with their number.

    count: images so far. mean: float64 [d]. scatter: float64 [d,d], the sum of (x - mean)(x - mean)^T. Two of these
    together give exactly the statistics of both sets (`merge`), so each process may gather its own.
    Chan, Golub & LeVeque 1983: sums about the mean, since sums of squares lose digits when the mean is large.
    """

    def __init__(self, dims: int) -> None:
        self.count = 0
        self.mean = torch.zeros(dims, dtype=torch.float64)
        self.scatter = torch.zeros(dims, dims, dtype=torch.float64)

    @classmethod
    def of(cls, features: Features) -> "FeatureStatistics":
        """Those of features [N,d]."""
        return cls(features.shape[1]).update(features)

    @classmethod
    def from_parts(cls, count: Tensor | int, mean: Tensor, scatter: Tensor) -> "FeatureStatistics":
        """The inverse of `parts`."""
        statistics = cls(len(mean))
        statistics.count = int(count)
        statistics.mean, statistics.scatter = mean.to("cpu", torch.float64), scatter.to("cpu", torch.float64)
        return statistics

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """count int64 [], mean float64 [d], scatter float64 [d,d]: all there is, as processes can send it."""
        return torch.tensor(self.count), self.mean, self.scatter

    def update(self, features: Features) -> "FeatureStatistics":
        """Takes in features [n,d]. UserError if there are not d of them, or one is NaN or infinite. Returns itself."""
        if len(features.shape) != 2 or features.shape[1] != len(self.mean):
            raise UserError(
                f"features have the shape {list(features.shape)}: give [n,{len(self.mean)}], a row an image."
            )
        for block in blocks(len(features)):
            x = rows(features, block)
            finite = x.isfinite().all(dim=1)
            if not bool(finite.all()):
                row = block.start + int(finite.logical_not().nonzero()[0])
                raise UserError(f"the features of image {self.count + row - block.start} are not finite: look at it.")
            mean = x.mean(dim=0)
            centred = torch.cat([x - mean, self.step(len(x), mean)])
            self.scatter.addmm_(centred.T, centred)
            self.mean = self.mean + len(x) / (self.count + len(x)) * (mean - self.mean)
            self.count += len(x)
        return self

    def step(self, count: int, mean: Tensor) -> Tensor:
        """[1,d], whose square is the scatter between the two means when `count` images of that mean join these."""
        return (math.sqrt(self.count * count / (self.count + count)) * (mean - self.mean))[None]

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Takes in all that the other holds. Returns itself."""
        self.same_network(other)
        if other.count:
            between = self.step(other.count, other.mean)
            self.scatter = (self.scatter + other.scatter).addmm_(between.T, between)
            self.count += other.count
            self.mean = self.mean + other.count / self.count * (other.mean - self.mean)
        return self

    def without(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """What is left when the images that the other holds, all of them among these, are taken out: a new one."""
        self.same_network(other)
        count = self.count - other.count
        mean = self.mean + other.count / count * (self.mean - other.mean)
        left = FeatureStatistics.from_parts(count, mean, self.scatter - other.scatter)
        between = left.step(other.count, other.mean)
        left.scatter.addmm_(between.T, between, alpha=-1)
        return left

    def same_network(self, other: "FeatureStatistics") -> None:
        if len(self.mean) != len(other.mean):
            raise UserError(different_networks(len(self.mean), len(other.mean)))

    @property
    def covariance(self) -> Tensor:
        """float64 [d,d], divided by count - 1 as everywhere in the FID literature. UserError below 2 images."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 images, here is {self.count}.")
        return self.scatter / (self.count - 1)


# FID


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """The squared Frechet distance of two Gaussians, at least 0: FID, when these are statistics of Inception features.

    |mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), Dowson & Landau 1982, eq. 4; Heusel et al. 2017, eq. 6.
    mean: [d], cov: [d,d], singular ones too. UserError if they do not fit together, or one is no covariance.
    """
    mean_a, mean_b = mean_a.to("cpu", torch.float64), mean_b.to("cpu", torch.float64)
    cov_a, cov_b = cov_a.to("cpu", torch.float64), cov_b.to("cpu", torch.float64)
    if len(mean_a) != len(mean_b):
        raise UserError(different_networks(len(mean_a), len(mean_b)))
    check_gaussian(mean_a, cov_a)
    check_gaussian(mean_b, cov_b)
    means = (mean_a - mean_b).square().sum()
    distance = means + cov_a.trace() + cov_b.trace() - 2 * trace_of_root(cov_a, cov_b)
    return max(0.0, distance.item())  # below 0 only by rounding


def check_gaussian(mean: Tensor, covariance: Tensor) -> None:
    """UserError unless these are [d] and [d,d], finite, and the second is symmetric."""
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        shapes = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise UserError(f"mean and covariance have the shapes {shapes}: give [d] and [d,d].")
    if not math.isfinite(mean.sum() + covariance.sum()):
        raise UserError("mean or covariance hold NaN or infinity: compute them again from finite features.")
    weights = torch.linspace(1, 2, len(mean), dtype=torch.float64)  # sums of rows against sums of columns: quick
    if (covariance @ weights - weights @ covariance).norm() > 1e-5 * (covariance @ weights).norm():
        raise UserError("the covariance is not symmetric, so it is none: is it another matrix of the file?")


def trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """tr (A^1/2 B A^1/2)^1/2 of covariances [d,d], to a relative 1e-9: the product is never formed, nothing is complex.

    With a Cholesky factor, A = L L^T, it is the sum of the roots of the eigenvalues of L^T B L, which is symmetric.
    An eigenvalue w comes out eps * max(w) wrong, its root eps * max(w) / (2 sqrt(w)). Where that adds up, because a
    covariance is singular or nearly so: with A = F F^T and B = G G^T it is also the sum of the singular values of
    F^T G, which need no root, and of which those that are 0 are left out from the start.
    """
    root, failed = torch.linalg.cholesky_ex(a)
    if not failed:
        left = dtrmm(1.0, root.numpy(), b.numpy(), trans_a=1, lower=1)  # half the work of a product of full matrices
        squares = torch.linalg.eigvalsh(torch.from_numpy(dtrmm(1.0, root.numpy(), left, side=1, lower=1)))
        roots = squares.clamp(min=0).sqrt()
        error = (torch.finfo(torch.float64).eps * squares[-1] / (2 * roots)).sum()
        if 0 <= error <= 1e-9 * roots.sum():  # below 0 where none of b's eigenvalues is above it: no covariance
            return roots.sum()
    return torch.linalg.svdvals(factor(a).T @ factor(b)).sum()


def factor(covariance: Tensor) -> Tensor:
    """F [d,rank] with F F^T = covariance: float64.

    A Cholesky factor with pivots, which ends at the rank. A covariance that was rounded (say to float32) may have
    eigenvalues a little below zero, which no Cholesky factor has: then from the eigenvectors, without the eigenvalues
    that are as near to zero as the most negative one. UserError if that one is too large to be a rounding error.
    """
    packed, pivots, rank, _ = dpstrf(covariance.numpy(), lower=0)
    root = torch.empty(len(covariance), rank, dtype=torch.float64)
    root[torch.from_numpy(pivots.astype(np.int64) - 1)] = torch.from_numpy(np.triu(packed[:rank]).T.copy())
    if (root.square().sum() - covariance.trace()).abs() <= 1e-10 * covariance.trace():
        return root
    values, vectors = torch.linalg.eigh(covariance)
    smallest, largest = values[0].item(), values[-1].item()
    if smallest < -1e-4 * largest:
        raise UserError(
            f"the covariance has the eigenvalue {smallest:g} beside {largest:g}: none of it may be negative."
        )
    kept = values > max(-smallest, len(values) * torch.finfo(torch.float64).eps * largest)
    return vectors[:, kept] * values[kept].sqrt()
