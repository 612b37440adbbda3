"""Features in pieces: what every metric reads, a block of rows at a time, from memory or from a file.

Rests on torch and numpy. A block becomes float64 on the CPU when it is read, so memory does not grow with the images.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff.errors import UserError

BLOCK = 2048  # rows in memory as float64 at a time: 34 MB at d = 2048


class FeatureFile(Protocol):
    """Features [N,d] in a file. Rows are read when they are asked for, by a slice or by their numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, chosen: slice | NDArray[np.int64], /) -> NDArray[np.floating]: ...


Features = Tensor | NDArray[np.floating] | FeatureFile  # [N,d], float32 or float64


def read_rows(features: Features, chosen: slice | NDArray[np.int64]) -> Tensor:
    """Return the chosen rows as float64 [n,d] on the CPU. Only these rows of a file are read."""
    if isinstance(features, Tensor):
        return features[chosen].detach().to("cpu", torch.float64)
    return torch.from_numpy(np.array(features[chosen], dtype=np.float64))  # a copy: files are often read-only


def blocks(count: int) -> list[slice]:
    """Cut 0 ... count into slices of at most BLOCK rows."""
    return [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def check_same_network(dims_a: int, dims_b: int) -> None:
    """Raise UserError unless both sides have as many features."""
    if dims_a != dims_b:
        raise UserError(
            f"an image has {dims_a} features on one side and {dims_b} on the other. "
            "Measure both sides with the same feature network."
        )


def check_features(a: Features, b: Features) -> tuple[int, int]:
    """Return how many rows each side has. Raise UserError unless both are [N,d] with the same d."""
    for name, features in (("a", a), ("b", b)):
        if len(features.shape) != 2:
            shape = list(features.shape)
            raise UserError(f"the features of {name} have the shape {shape}. Give [N,d], a row an image.")
    check_same_network(a.shape[1], b.shape[1])
    return len(a), len(b)
