"""Random crops of photographs, read like an array of images: the photograph, place and turn of each are drawn first.

Rests on photo_store. `photos` has the data set; `corrupted` has the other array whose images are made when read.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.data.photo_store import Photographs
from minidiff.images.convert import Pixels

VERSION = 1  # of the rule by which crops are drawn; raise it when that changes


class Crops:
    """Read uint8 [N,S,S,3] like an array: random squares of photographs, the same whenever they are read.

    Half of all places in these photographs are sky, fog, or out of focus. A network learns those in its first minutes,
    so two squares are drawn for each crop, and the crop is the one with more detail.
    photographs: none of them is smaller than SxS. size: S. count: N. seed: crop i is a function of the photographs, S,
    the seed and i alone.
    """

    def __init__(self, photographs: Photographs, size: int, count: int, seed: int) -> None:
        self.photographs, self.size, self.seed = photographs, size, seed
        self.shape, self.dtype, self.ndim = (count, size, size, 3), np.dtype(np.uint8), 4
        self.nbytes = count * size * size * 3  # of an array that held all crops
        sides = np.array([(place.height, place.width) for place in photographs.places])
        draws = np.random.default_rng(seed).random((count, 7))  # row i does not depend on the number of rows
        photograph, place = draws[:, :2], draws[:, 2:6].reshape(count, 2, 2)
        self.which = np.searchsorted(chances(sides).cumsum()[:-1], photograph, side="right")  # [N,2]: of two candidates
        self.corner = (place * (sides[self.which] - size + 1)).astype(np.int32)  # [N,2,2]: top and left of each
        self.turn = (draws[:, 6] * 8).astype(np.int8)  # [N]

    @property
    def digest(self) -> str:
        """A text that differs for other photographs, another seed and another rule."""
        return f"crops {VERSION} seed {self.seed} of {' '.join(place.digest for place in self.photographs.places)}"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Pixels:
        """Return a crop, a slice, or the crops of a list or array of numbers or bools."""
        rows: NDArray[np.intp] = np.arange(len(self))[index]
        crops = np.empty((rows.size, *self.shape[1:]), np.uint8)
        for crop, row in zip(crops, rows.flat, strict=True):
            crop[:] = turned(max(self.candidates(row), key=detail), self.turn[row])
        return crops.reshape(*rows.shape, *self.shape[1:])

    def candidates(self, row: int) -> list[Pixels]:
        """Return the two squares of which crop `row` is the one with more detail."""
        return [
            self.photographs[which][top : top + self.size, left : left + self.size]
            for which, (top, left) in zip(self.which[row], self.corner[row], strict=True)
        ]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all crops."""
        crops = self[:]
        return crops if dtype is None else crops.astype(dtype)


def chances(sides: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return how probable a crop of each photograph is, from heights and widths [N,2].

    By area alone, the largest photographs would be seen most, and the small copies of each hardly; if all were equal,
    every corner of a small one would be seen many times. So it is the mean of both.
    """
    areas = sides.prod(axis=1)
    shares: NDArray[np.float64] = (areas / areas.sum() + 1 / len(areas)) / 2
    return shares


def detail(square: Pixels) -> int:
    """Return how much neighbours differ in uint8 [S,S,3]: summed over every fourth row and column, in green.

    It is a whole number, so that every machine chooses the same crop.
    """
    across, down = square[::4, :, 1].astype(np.int16), square[:, ::4, 1].astype(np.int16)
    return int(np.abs(across[:, 1:] - across[:, :-1]).sum() + np.abs(down[1:] - down[:-1]).sum())


def turned(square: Pixels, turn: int) -> Pixels:
    """Return one of the eight views of uint8 [S,S,3]: `turn` % 4 quarter turns to the left, mirrored from 4 on."""
    view = np.rot90(square, turn % 4)
    return view[:, ::-1] if turn >= 4 else view
