"""Hazy pairs as an array of pictures with ten channels, so that the training loop reads them like any other images.

Rests on haze. The channels are I (3), J (3), A (3, the same at every pixel) and T (1); of pairs that a camera took, of
which T and A are not known, I and J alone. Eight bits are enough for all of them: T is wrong by at most 1/510.
"""

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from minidiff.data.haze import HazyPair
from minidiff.images.convert import Pixels, to_uint8

IN_FULL, IN_PART = 10, 6  # channels: with T and A, and without


class Pairs(Protocol):
    """Pairs that can be read by their numbers; `hazy_sets` opens some."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> HazyPair: ...
    def fingerprint(self) -> str: ...


class PackedPairs:
    """Read uint8 [N,S,S,10], or [N,S,S,6], like an array. The pairs are made when they are read."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.shape: tuple[int, ...] = (len(pairs), *pack(pairs[[0]]).shape[1:])
        self.dtype, self.ndim = np.dtype(np.uint8), 4
        self.nbytes = math.prod(self.shape)  # of an array that held all pairs

    @property
    def digest(self) -> str:
        """A text that differs for other pairs."""
        return f"hazy pairs {self.pairs.fingerprint()}"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Pixels:
        """Return a pair, a slice, or the pairs of a list or array of numbers."""
        rows: NDArray[np.intp] = np.arange(len(self))[index]
        return pack(self.pairs[np.atleast_1d(rows)]).reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all pairs."""
        every = self[:]
        return every if dtype is None else every.astype(dtype)


def pack(pair: HazyPair) -> Pixels:
    """Put what is known of N pictures into channels: uint8 [N,S,S,10 or 6]."""
    parts = [to_uint8(pair.hazy), to_uint8(pair.clear)]
    if pair.transmission is not None and pair.airlight is not None:
        airlight = pair.airlight[:, :, None, None].expand_as(pair.hazy)
        parts += [to_uint8(airlight), to_uint8(2 * pair.transmission - 1)[..., :1]]
    return np.concatenate(parts, axis=3)


def unpack(packed: Tensor) -> HazyPair:
    """Read the channels of float [N,10 or 6,S,S] in [-1,1] again; the depth is not kept."""
    hazy, clear = packed[:, :3], packed[:, 3:6]
    if packed.shape[1] == IN_PART:
        return HazyPair(hazy, clear, None, None, None)
    return HazyPair(hazy, clear, (packed[:, 9:] + 1) / 2, packed[:, 6:9, 0, 0], None)
