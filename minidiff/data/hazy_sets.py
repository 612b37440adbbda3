"""The sets of hazy pictures with their truth: `hazy_pairs("hazy-photos", 128)[[0, 1, 2]]` is a batch of three pairs.

Rests on haze, depth, photos. Pair i of a set is a function of (set, size, split, seed, i) alone, so that a training can
be resumed to the bit.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidiff.data.config import Haze
from minidiff.data.corrupted import seed_of
from minidiff.data.crops import chances, detail
from minidiff.data.depth import plausible
from minidiff.data.haze import FARTHEST, Floats, HazyPair, add_haze, join
from minidiff.data.image_data import LoadRequest
from minidiff.data.photos import open_photographs
from minidiff.errors import UserError, lookup
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.convert import Pixels

STREAM = 0x4A  # what a seed is for: keeps these numbers apart from those of other random things
COUNTS = {"train": 100_000, "test": 1_000}  # pairs, which are an epoch

Scene = Callable[[np.random.Generator], tuple[Pixels, Floats]]  # a picture [S,S,3] and its depth [S,S] to FARTHEST


class Source(NamedTuple):
    """Where the clear pictures of a set come from, opened for one size and split."""

    scene: Scene
    digest: str  # a text that differs for other pictures
    notes: list[str]


class HazyPairs:
    """Read random pairs like an array: `pairs[7]`, `pairs[:16]` and `pairs[[3, 1]]` are batches, see `HazyPair`."""

    def __init__(self, source: Source, haze: Haze, split: str, seed: int) -> None:
        self.source, self.haze, self.split, self.seed = source, haze, split, seed

    def __len__(self) -> int:
        return COUNTS[self.split]

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[np.integer]) -> HazyPair:
        """Make the pairs of these numbers."""
        return join([self.pair(int(row)) for row in np.arange(len(self))[index].flat])

    def pair(self, row: int) -> HazyPair:
        """Make one pair, a batch of one."""
        random = np.random.default_rng([self.seed, STREAM, seed_of(self.split), row])
        picture, depth = self.source.scene(random)
        return add_haze(picture, depth, self.haze, random)

    @property
    def notes(self) -> list[str]:
        """What the user should know about the pictures, a line each."""
        return self.source.notes

    def fingerprint(self) -> str:
        """Return a digest by which the same pairs can be recognised."""
        text = f"{self.source.digest} {self.haze} {self.split} {self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- The sources -------------------------------------------------------------------------------------------------------


def open_photos(request: LoadRequest) -> Source:
    """Open crops of photographs, upright, with plausible depth. See `data/photos.py` for the photographs."""
    photographs, notes = open_photographs(request)
    size = request.image_size
    fitting = [number for number, place in enumerate(photographs.places) if min(place.height, place.width) >= size]
    if not fitting:
        raise UserError(f"no photograph has {size}x{size} pixels. Take a smaller `image_size`.")
    photographs = photographs.of(fitting)
    shares = chances(np.array([(place.height, place.width) for place in photographs.places])).cumsum()[:-1]

    def scene(random: np.random.Generator) -> tuple[Pixels, Floats]:
        squares = []
        for which, top, left in random.random((2, 3)):
            picture = photographs[int(np.searchsorted(shares, which, side="right"))]
            row, column = int(top * (picture.shape[0] - size + 1)), int(left * (picture.shape[1] - size + 1))
            squares.append(picture[row : row + size, column : column + size])
        square = max(squares, key=detail)  # as data/crops.py chooses
        if random.random() < 0.5:
            square = square[:, ::-1]
        square = np.ascontiguousarray(square)
        return square, FARTHEST * plausible(square, random)

    return Source(scene, f"photos {size} {' '.join(place.digest for place in photographs.places)}", notes)


HAZY_SETS: dict[str, Callable[[LoadRequest], Source]] = {"hazy-photos": open_photos}


def hazy_pairs(
    source: str = "hazy-photos",
    size: int = 128,
    seed: int = 0,
    *,
    split: str = "train",
    haze: Haze | None = None,
    data_dir: str | Path | None = None,
    on_bad: str = "skip",
    max_pixels: int = MAX_PIXELS,
) -> HazyPairs:
    """Open a set of hazy pictures with their truth, by its name in HAZY_SETS.

    size: pixels a side. seed: other seeds give other pictures, depths and haze. split: train or test, which share no
    picture. haze: the ranges; those of `Haze` by default. data_dir: a folder of photographs of your own.
    Raises UserError.
    """
    lookup("hazy set", source, HAZY_SETS)
    lookup(f"split of {source}", split, COUNTS)
    folder = Path(data_dir).expanduser() if data_dir else None
    opened = HAZY_SETS[source](LoadRequest(source, split, size, folder, on_bad, max_pixels))
    return HazyPairs(opened, haze or Haze(), split, seed)
