"""The store of decoded images: images that take time to decode or draw are kept in an .npy file in the cache folder.

`Pictures` is the store. `Files` is a store of image files, some of which may be bad. Rests on images and files.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from minidiff.errors import NoMemory, UserError
from minidiff.files import replacing, size_in_words
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.convert import Pixels
from minidiff.images.files import IMAGE_SUFFIXES, read_fitted
from minidiff.runtime.progress import progress_bar

LOG = logging.getLogger(__name__)
Read = TypeVar("Read")

IN_MEMORY = 512 << 20  # bytes; a smaller set is held in memory, a larger one is mapped
BLOCK = 256  # images decoded at a time, which bounds the memory for a set of any size
HEADER = 128  # bytes of an .npy header; its length is fixed, so that it can be written after the images


def cache_dir() -> Path:
    """Return the folder of downloads and decoded images: $MINIDIFF_CACHE, or ~/.cache/minidiff."""
    return Path(os.environ.get("MINIDIFF_CACHE") or "~/.cache/minidiff").expanduser()


def threads() -> int:
    """Return how many threads decode. Pillow works outside Python's lock, so threads are enough."""
    return min(8, os.cpu_count() or 1)


class Pictures:
    """Images that come one at a time: `picture(i)` is uint8 of `shape`, or None if there is none.

    place: the name of the file in the cache. key: any JSON value that changes whenever a picture changes; images that
    were stored under another key are replaced. `load` sets `images` [N,H,W,C], `kept` (the numbers of the pictures
    they are), and `notes`.
    """

    def __init__(
        self, place: str, key: object, count: int, shape: tuple[int, int, int], picture: Callable[[int], Pixels | None]
    ) -> None:
        self.path = cache_dir() / "images" / f"{place}.npy"
        self.key = hashlib.sha256(json.dumps([key, count, shape]).encode()).hexdigest()
        self.count, self.shape, self.picture = count, shape, picture
        self.images: Pixels = np.empty((0, *shape), np.uint8)
        self.kept: list[int] = []
        self.notes: list[str] = []

    def load(self, workers: int = 1) -> "Pictures":
        """Take the images from the cache if it holds the right ones; otherwise decode and store them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; what counts is whether there is a picture
            if not self.read():
                try:
                    self.write(workers)
                except OSError as error:
                    self.do_without(error, workers)
        return self

    def blocks(self, workers: int) -> Iterator[Pixels]:
        """Decode all pictures, BLOCK at a time, and note which are kept. A bar appears after two seconds."""
        self.kept = []
        name = f"decoding {self.path.stem}"
        bar = progress_bar(self.count, name, unit="image", delay=2)
        with bar, ThreadPoolExecutor(workers) as pool:
            for start in range(0, self.count, BLOCK):
                indices = range(start, min(start + BLOCK, self.count))
                found = list((pool.map if workers > 1 else map)(self.picture, indices))
                self.kept += [i for i, picture in zip(indices, found, strict=True) if picture is not None]
                yield np.array([picture for picture in found if picture is not None], np.uint8).reshape(-1, *self.shape)
                bar.update(len(indices))
        self.notes = self.remarks()

    def remarks(self) -> list[str]:
        """Return what was noticed while decoding; it is stored with the images."""
        return []

    def read(self) -> bool:
        """Take the stored images if they have this key, are whole, and three of them agree when decoded again."""
        try:
            about = json.loads(self.path.with_suffix(".json").read_text())
            if about["key"] != self.key:
                return False
            notes, kept = list(map(str, about["notes"])), about["kept"]
            kept = list(range(self.count)) if kept is None else [range(self.count)[row] for row in kept]
            if any(row >= after for row, after in pairwise(kept)):
                return False
            shape = (len(kept), *self.shape)
            with open(self.path, "rb") as file:
                whole = os.fstat(file.fileno()).st_size == HEADER + math.prod(shape)
                if not whole or file.read(HEADER) != npy_header(shape):
                    return False
            images = self.opened(len(kept))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return False
        for row in {0, len(kept) // 2, len(kept) - 1} if kept else ():
            again = self.picture(kept[row])  # within two levels: another processor may round differently
            if again is None or np.abs(again.astype(int) - images[row]).max() > 2:
                return False
        self.images, self.kept, self.notes = images, kept, notes
        LOG.info(f"found {len(kept):,} decoded images in {self.path}")
        return True

    def write(self, workers: int) -> None:
        """Decode everything into the cache. The .json beside it is written last, and says that the images are whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        needed = HEADER + self.count * math.prod(self.shape)
        if shutil.disk_usage(self.path.parent).free < needed + (64 << 20):
            raise OSError(28, f"{size_in_words(needed)} are needed and not free")
        with replacing(self.path) as file:
            file.seek(HEADER)
            for block in self.blocks(workers):
                file.write(block.tobytes())
            file.seek(0)
            file.write(npy_header((len(self.kept), *self.shape)))
        about = {"key": self.key, "kept": None if len(self.kept) == self.count else self.kept, "notes": self.notes}
        with replacing(self.path.with_suffix(".json")) as file:
            file.write(json.dumps(about).encode())
        self.images = self.opened(len(self.kept))
        LOG.info(f"decoded {len(self.kept):,} images, and stored them in {self.path}")

    def opened(self, count: int) -> Pixels:
        """Open the stored file: read it when it is small, map it when it is not."""
        large = count * math.prod(self.shape) > IN_MEMORY
        shape = (count, *self.shape)
        if large:
            return np.asarray(np.memmap(self.path, np.uint8, "r", HEADER, shape))
        return np.fromfile(self.path, np.uint8, offset=HEADER).reshape(shape)

    def do_without(self, error: OSError, workers: int) -> None:
        """Decode into memory, because nothing can be stored. Raises UserError for a set that is too large for that."""
        if self.count * math.prod(self.shape) > IN_MEMORY:
            raise UserError(
                f"cannot store the decoded images in {self.path.parent}: {error.strerror}. "
                "Set MINIDIFF_CACHE to a folder with room, or take a smaller `image_size`."
            ) from None
        self.images = np.concatenate([np.empty((0, *self.shape), np.uint8), *self.blocks(workers)])


def npy_header(shape: Sequence[int]) -> bytes:
    """Return the header of an .npy file of uint8, version 1.0: numpy's own, at a fixed length."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER - 10) + text.ljust(HEADER - 11).encode() + b"\n"


# --- image files --------------------------------------------------------------------------------------------------


class Files(Pictures):
    """Image files below `root`, brought to size. A bad one is skipped, or stops the loading.

    squeezed: whether the whole picture is pressed into a square, rather than the square in its middle taken.
    max_pixels: a file that declares more is a bad one.
    """

    def __init__(
        self, place: str, root: Path, paths: list[str], size: int, on_bad: str,
        squeezed: bool = False, max_pixels: int = MAX_PIXELS,
    ) -> None:  # fmt: skip
        self.root, self.paths, self.stop = root, paths, on_bad == "stop"
        self.squeezed, self.max_pixels = squeezed, max_pixels
        self.bad: dict[int, str] = {}
        self.small: set[int] = set()
        states = [(path, *state_of(root / path)) for path in paths]
        limit = [max_pixels] * (max_pixels != MAX_PIXELS)
        super().__init__(place, [str(root), states, *limit], len(paths), (size, size, 3), self.decode)

    def decode(self, index: int) -> Pixels | None:
        size, squeezed, max_pixels = self.shape[0], self.squeezed, self.max_pixels
        found = if_readable(
            self.root / self.paths[index],
            lambda path: read_fitted(path, size, squeezed=squeezed, max_pixels=max_pixels),
            self.stop,
        )
        if found is None:
            self.bad[index] = self.paths[index]
            return None
        image, side = found
        if side < self.shape[0]:
            self.small.add(index)
        return image

    def load(self, workers: int = 1) -> "Pictures":
        super().load(workers)
        if self.stop:  # the stored images may have been decoded with "skip"
            for index in sorted(set(range(self.count)) - set(self.kept)):
                self.decode(index)
        if not self.kept:
            first = self.paths[0]
            raise UserError(f"none of the {self.count} image files in {self.root} can be read; {first} is the first.")
        return self

    def remarks(self) -> list[str]:
        remarks = []
        if self.bad:
            remarks.append(left_out([self.bad[i] for i in sorted(self.bad)], self.count))
        if self.small:
            size = f"{self.shape[0]}x{self.shape[1]}"
            remarks.append(f"{len(self.small)} of {len(self.kept)} images are smaller than {size} and were enlarged")
        return remarks


def if_readable(path: Path, read: Callable[[Path], Read], stop: bool) -> Read | None:
    """Read an image file. For one that cannot be read, return None; or, with `stop`, raise UserError."""
    try:
        return read(path)
    except NoMemory:
        raise
    except Exception as error:  # there is no end to what Pillow raises on damaged files
        if not stop:
            return None
        message = str(error) if isinstance(error, UserError) else f"{path} is not a readable image ({error})."
        raise UserError(f"{message} Mend or remove it, or let `on_bad` skip such files.") from None


def left_out(names: Sequence[str], count: int) -> str:
    """Say how many of `count` files cannot be read, and name the first of them."""
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} of {count} files cannot be read and are left out: {some}"


def state_of(path: Path) -> tuple[int, int]:
    """Return size and time of change, which tell whether a file is still the one that was decoded."""
    try:
        state = path.stat()
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns


def image_paths(root: Path) -> list[str]:
    """List every image file below a folder, relative and sorted.

    Hidden files and __MACOSX are ignored. Links to folders are followed, and no folder is entered twice.
    """
    found: list[str] = []
    entered = set()

    def closed(error: OSError) -> None:  # list a folder that cannot be opened with the files that cannot be read
        found.append(os.path.relpath(error.filename, root))

    for folder, inner, files in os.walk(root, followlinks=True, onerror=closed):
        real = os.path.realpath(folder)
        inner[:] = [] if real in entered else sorted(n for n in inner if not n.startswith(".") and n != "__MACOSX")
        if real not in entered:
            entered.add(real)
            names = [name for name in files if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)]
            found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)
