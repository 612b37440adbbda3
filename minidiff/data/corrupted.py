"""A whole data set under a corruption: an array that corrupts images when they are read, and the corruption's name.

Rests on corruptions and crops. The word, `motion_blur-3`, is part of the names of run folders, and of
`dataset:NAME:SPLIT:`.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.data.corruptions import CORRUPTIONS, SEVERITIES, VERSIONS, check, corrupt
from minidiff.data.crops import Crops
from minidiff.errors import UserError

KEPT = 512 << 20  # bytes; the images of a smaller set stay in memory once they are corrupted
AT_ONCE = 1 << 20  # values corrupted at a time, which bounds the memory that a read needs beyond its result


def written(name: str, severity: int) -> str:
    """Write a corruption as a word such as `motion_blur-3`; identity is the empty word."""
    return "" if name == "identity" else f"{name}-{severity}"


def read(word: str) -> dict[str, Any]:
    """Read a word such as `motion_blur-3` as `load_data` takes it: corruption and severity. Raises UserError."""
    name, dash, number = word.rpartition("-")
    if not dash or not number.isdecimal():
        raise UserError(f"'{word}' is not a corruption with a severity of 1 to 5. Write it as in motion_blur-3.")
    check(name, int(number))
    return {"corruption": name, "severity": int(number)}


def seed_of(split: str) -> int:
    """Return a seed for a split, so that no two splits have the same damage in the same order."""
    return zlib.crc32(split.encode())


def all_of(image: NDArray[np.uint8], index: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Apply every corruption to one image, uint8 [H,W,C], number `index` of its set.

    Returns uint8 [6 n,H,W,3], the clean image and severities 1 to 5 for each of n corruptions, and the n names.
    """
    names = [name for name in CORRUPTIONS if name != "identity"]
    under = [[corrupt(image[None], name, severity, [index], seed)[0] for severity in SEVERITIES] for name in names]
    shown = np.stack([each for row in under for each in (image, *row)])
    return np.broadcast_to(shown, (*shown.shape[:3], 3)), names


class Corrupted:
    """Read uint8 [N,H,W,C] like an array, each image under a corruption; it is the same whenever it is read.

    clean: the images without damage. seed: see `seed_of`. Raises UserError for an unknown corruption or severity.
    """

    def __init__(self, clean: NDArray[np.uint8] | Crops, name: str, severity: int, seed: int = 0) -> None:
        check(name, severity)
        self.clean, self.name, self.severity, self.seed = clean, name, severity, seed
        self.shape, self.dtype, self.nbytes, self.ndim = clean.shape, clean.dtype, clean.nbytes, clean.ndim
        self.kept = np.empty(clean.shape, np.uint8) if clean.nbytes <= KEPT else None
        self.done = np.zeros(len(clean), bool)  # which rows of `kept` have been read

    @property
    def digest(self) -> str:
        """A text that differs from the clean images' text and from every other corruption's."""
        return f"{self.name}-{self.severity} seed {self.seed} version {VERSIONS.get(self.name, 1)}"

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Return a copy of an image, a slice, or the images of a list or array of numbers or bools."""
        rows: NDArray[np.intp] = np.arange(len(self))[index]
        if self.kept is None:
            return self.corrupted(rows.reshape(-1)).reshape(*rows.shape, *self.shape[1:])
        new = np.unique(rows[~self.done[rows]])
        self.kept[new] = self.corrupted(new)
        self.done[new] = True
        found: NDArray[np.uint8] = self.kept[rows.reshape(-1)].reshape(*rows.shape, *self.shape[1:])
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all images."""
        images = self[:]
        return images if dtype is None else images.astype(dtype)

    def corrupted(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Corrupt the images of these numbers [n], now: uint8 [n,H,W,C]."""
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        step = max(1, AT_ONCE // max(1, int(np.prod(self.shape[1:]))))
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            out[part] = corrupt(self.clean[rows[part]], self.name, self.severity, rows[part], self.seed)
        return out
