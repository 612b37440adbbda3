"""A data set in memory, an entry of the table of data sets, and the options of a loader.

Rests on cache, corrupted and crops. The loaders are in small_sets and picture_sets, the table in datasets.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from minidiff.data.cache import Pictures, cache_dir, threads
from minidiff.data.corrupted import Corrupted
from minidiff.data.crops import Crops
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.convert import Pixels
from minidiff.images.files import crop_resize


class Made(Protocol):
    """Images that are made when they are read, like `Crops`: hazy pairs, see packed_pairs."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.uint8]
    ndim: int
    nbytes: int

    @property
    def digest(self) -> str: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any) -> Pixels: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]: ...


@dataclass
class ImageData:
    """One split of a data set.

    images: uint8 [N,H,W,C]. They are in memory, or a read-only map of a file beyond 512 MB. Under a corruption, and as
    crops of photographs, they can be read like an array; so can hazy pairs, whose channels are more.
    labels: uint8 [N,L] of zeros and ones, any number of ones in a row; L may be 0. label_names: the names of the L.
    flip: whether a mirrored image is as good as the original. notes: what the user should know, a line each.
    corruption: a word such as `motion_blur-3`, or nothing.
    """

    name: str
    images: Pixels | Crops | Corrupted | Made
    labels: Pixels
    label_names: list[str]
    flip: bool
    notes: list[str] = field(default_factory=list)
    corruption: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def rgb(self, index: slice | Sequence[int] | NDArray[np.intp]) -> Pixels:
        """Return some of the images as uint8 [n,H,W,3]; grey is repeated."""
        chosen = np.array(self.images[index])
        return chosen if chosen.shape[3] == 3 else chosen.repeat(3, axis=3)

    @property
    def clean(self) -> Pixels | Crops | Made:
        """The images without their corruption, uint8 [N,H,W,C]."""
        return self.images.clean if isinstance(self.images, Corrupted) else self.images

    def fingerprint(self) -> str:
        """Return a digest of the images, by which the same data can be recognised.

        It covers all images, or 4,096 evenly spread ones beyond 512 MB. For crops it covers the photographs and how
        they are cropped. For corrupted images it covers the clean ones and the corruption.
        """
        images = self.clean
        count = len(images)
        chosen = range(count) if images.nbytes <= 512 << 20 else np.linspace(0, count - 1, 4096).astype(int)
        digest = hashlib.sha256(str(images.shape).encode())
        if isinstance(images, np.ndarray):
            for index in chosen:
                digest.update(images[index].tobytes())
        else:
            digest.update(images.digest.encode())
        if isinstance(self.images, Corrupted):
            digest.update(self.images.digest.encode())
        return digest.hexdigest()[:16]

    @property
    def place(self) -> str:
        """The name of its training images for `minidiff fid`."""
        return f"dataset:{self.name}" + (f":train:{self.corruption}" if self.corruption else "")

    def names_of(self, index: int) -> list[str]:
        """Return the labels of one image, in words."""
        return [self.label_names[i] for i in np.flatnonzero(self.labels[index])]


@dataclass(frozen=True)
class LoadRequest:
    """The options of a loader. Every value is decided."""

    name: str
    split: str
    image_size: int
    data_dir: Path | None  # as the user gave it
    on_bad: str  # what to do about an image that cannot be read: skip or stop
    max_pixels: int = MAX_PIXELS  # a picture that declares more counts as one that cannot be read

    @property
    def root(self) -> Path:
        """The folder for files: the user's, or the cache."""
        return self.data_dir or cache_dir()


@dataclass(frozen=True)
class DataSet:
    """An entry of DATASETS: how to load a set, and what can be known before it is loaded."""

    load: Callable[[LoadRequest], ImageData]
    splits: dict[str, int | None]  # the number of images; None where the user's files decide
    image_size: int | None  # when the user does not say; None: see `size_in`
    channels: int
    labels: str
    origin: str
    present: Callable[[Path | None], bool]  # whether it is on this machine, given the data folder
    splits_in: Callable[[Path], list[str]] | None = None  # for a set whose files say which splits there are
    size_in: Callable[[Path | None], int] | None = None  # for a set whose files say how large its images are


def one_hot(classes: Sequence[int] | NDArray[np.integer], count: int) -> Pixels:
    """Turn class numbers [N], -1 for none, into uint8 [N,count]."""
    found: Pixels = (np.asarray(classes)[:, None] == np.arange(count)).astype(np.uint8)
    return found


def to_size(originals: Pixels, request: LoadRequest) -> Pixels:
    """Bring small square images [N,h,h,C] to the size asked for: leave them, pad from 28 to 32, or resize."""
    size, native = request.image_size, originals.shape[1]
    if size == native:
        return originals
    if (native, size) == (28, 32):
        return np.pad(originals, ((0, 0), (2, 2), (2, 2), (0, 0)))
    place, key = (
        f"{request.name}-{request.split}-{size}",
        hashlib.sha256(np.ascontiguousarray(originals).data).hexdigest(),
    )
    shape = (size, size, originals.shape[3])
    return Pictures(place, key, len(originals), shape, lambda i: crop_resize(originals[i], size)).load(threads()).images
