"""A whole data set under a corruption: an array that corrupts what is read of it, the word for it, and a look at all.

Rests on corruptions. The word, `motion_blur-3`, stands in names of run folders and after `dataset:NAME:SPLIT:`.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.data.corruptions import CORRUPTIONS, SEVERITIES, VERSION, check, corrupt
from minidiff.errors import UserError

KEPT = 512 << 20  # bytes: what is read of a smaller set stays in memory, and is read again for nothing
AT_ONCE = 1 << 20  # values corrupted at a time: all the memory that a large read needs beyond its result


def written(name: str, severity: int) -> str:
    """`motion_blur-3`; nothing for identity."""
    return "" if name == "identity" else f"{name}-{severity}"


def read(word: str) -> dict[str, Any]:
    """`motion_blur-3` as load_data takes it: the corruption and its severity. Raises UserError."""
    name, dash, number = word.rpartition("-")
    if not dash or not number.isdecimal():
        raise UserError(f"'{word}' is no corruption with a severity of 1 to 5. Write it as in motion_blur-3.")
    check(name, int(number))
    return {"corruption": name, "severity": int(number)}


def seed_of(split: str) -> int:
    """One for each split, so that no two have the same damage in the same order."""
    return zlib.crc32(split.encode())


def all_of(image: NDArray[np.uint8], index: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """One image, uint8 [H,W,C], number `index` of its set, under everything there is: uint8 [6 n,H,W,3], for each of n
    corruptions the clean image and severities 1 to 5; and the n names."""
    names = [name for name in CORRUPTIONS if name != "identity"]
    under = [[corrupt(image[None], name, severity, [index], seed)[0] for severity in SEVERITIES] for name in names]
    shown = np.stack([each for row in under for each in (image, *row)])
    return np.broadcast_to(shown, (*shown.shape[:3], 3)), names


class Corrupted:
    """uint8 [N,H,W,C], read like an array: each image as it is under a corruption, the same whenever it is read.

    clean: the images as they were. seed: see `seed_of`. Raises UserError for a corruption or a severity that is none.
    """

    def __init__(self, clean: NDArray[np.uint8], name: str, severity: int, seed: int = 0) -> None:
        check(name, severity)
        self.clean, self.name, self.severity, self.seed = clean, name, severity, seed
        self.shape, self.dtype, self.nbytes, self.ndim = clean.shape, clean.dtype, clean.nbytes, clean.ndim
        self.kept = np.empty(clean.shape, np.uint8) if clean.nbytes <= KEPT else None
        self.done = np.zeros(len(clean), bool)  # which rows of `kept` have been read

    @property
    def digest(self) -> str:
        """What sets these images apart from the clean ones: the same for the same corruption."""
        return f"{self.name}-{self.severity} seed {self.seed} version {VERSION}"

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """A copy of one image, a slice, or those of a list of numbers or an array of them or of bools."""
        rows = np.arange(len(self))[index]
        if self.kept is None:
            return self.corrupted(rows.reshape(-1)).reshape(*rows.shape, *self.shape[1:])
        new = np.unique(rows[~self.done[rows]])
        self.kept[new] = self.corrupted(new)
        self.done[new] = True
        return self.kept[rows.reshape(-1)].reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them."""
        return self[:] if dtype is None else self[:].astype(dtype)

    def corrupted(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """Some of the images, by their numbers [n]: uint8 [n,H,W,C], worked out here and now."""
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        step = max(1, AT_ONCE // max(1, int(np.prod(self.shape[1:]))))
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            out[part] = corrupt(self.clean[rows[part]], self.name, self.severity, rows[part], self.seed)
        return out
