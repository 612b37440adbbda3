"""What several metrics share: a value with its interval, and checks on features."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from minidiff.errors import UserError
from minidiff.metrics.frechet import Features, different_networks

Gaussian = tuple[Tensor, Tensor]  # mean [d] and covariance [d,d]


Progress = Callable[[int, int], None]  # told how many of how many pieces of the work are done


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
