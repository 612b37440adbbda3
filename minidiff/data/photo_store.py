"""The store of photographs: pictures of different sizes, decoded and scaled down once, in one file of the cache folder.

Rests on images and on cache, whose `Pictures` keeps images of one size in the same way. The file is a flat array; the
.json beside it says where each photograph begins.
"""

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minidiff.data.cache import (
    HEADER,
    IN_MEMORY,
    cache_dir,
    if_readable,
    left_out,
    npy_header,
    state_of,
    threads,
)
from minidiff.errors import UserError
from minidiff.files import replacing, size_in_words
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.convert import Pixels
from minidiff.images.files import image_shape, read_shrunk, scaled, scaled_size
from minidiff.runtime.progress import progress_bar

LOG = logging.getLogger(__name__)

VERSION = 1  # of the rule below; raise it when other pixels come of the same files
SHORTER = 900  # pixels: the shorter side of a photograph that was larger
SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)  # of the copies that are kept of each photograph
BLOCK = 16  # photographs decoded at a time, which bounds the memory


class Place(NamedTuple):
    """Where a photograph lies in the flat array, and a digest of its pixels."""

    start: int
    height: int
    width: int
    digest: str


class Photographs(Sequence[Pixels]):
    """Photographs of any sizes in one flat array. Number k is uint8 [H,W,3], not a copy.

    flat: uint8 [total]. path: the file of which it is a map, if it is one. Then other processes that get this object
    map the file as well, instead of getting the pixels: all of them share one copy.
    """

    def __init__(self, flat: Pixels, places: Sequence[Place], path: Path | None = None) -> None:
        self.flat, self.places, self.path = flat, list(places), path
        self.state = state_of(path) if path else None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: Any) -> Any:
        start, height, width, _ = self.places[number]
        return self.flat[start : start + height * width * 3].reshape(height, width, 3)

    def of(self, numbers: Sequence[int]) -> "Photographs":
        """Return some of the photographs."""
        return Photographs(self.flat, [self.places[number] for number in numbers], self.path)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | ({"flat": None} if self.path else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.path:
            if state_of(self.path) != self.state:
                raise UserError(f"{self.path} was changed by another program while it was read. Start again.")
            self.flat = mapped(self.path)


class PhotoStore:
    """Photographs of image files, scaled down: see SHORTER and SCALES. Bad files are skipped, or stop the loading.

    place: the name of the file in the cache. names: of the image files, below `root`.
    `load` sets `photographs`, `kept` (the numbers of the files that they are of, each with all of its copies) and
    `notes`.
    """

    def __init__(
        self, place: str, root: Path, names: Sequence[str], on_bad: str = "skip", max_pixels: int = MAX_PIXELS
    ) -> None:
        self.path = cache_dir() / "images" / f"{place}.npy"
        self.root, self.names, self.stop, self.max_pixels = root, names, on_bad == "stop", max_pixels
        states = [(name, *state_of(root / name)) for name in names]
        key = [VERSION, SHORTER, SCALES, str(root), states, max_pixels]
        self.key = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        self.photographs = Photographs(np.empty(0, np.uint8), [])
        self.kept: list[int] = []
        self.notes: list[str] = []

    def load(self) -> "PhotoStore":
        """Take the photographs from the cache if it holds the right ones; otherwise decode and store them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; what counts is whether there is a picture
            if not self.read():
                try:
                    self.write()
                except OSError as error:
                    self.do_without(error)
            if self.stop:  # the stored photographs may have been decoded with "skip"
                for number in sorted(set(range(len(self.names))) - set(self.kept)):
                    self.decode(number)
        if not self.kept:
            count, first = len(self.names), self.names[0]
            raise UserError(f"none of the {count} image files in {self.root} can be read; {first} is the first.")
        return self

    def decode(self, number: int) -> Pixels | None:
        """Read a file at its largest scale. Returns None for one that cannot be read, or raises UserError."""
        path = self.root / self.names[number]
        return if_readable(path, lambda path: read_shrunk(path, SHORTER, self.max_pixels), self.stop)

    def copies(self, number: int) -> list[Pixels]:
        """Read a file at all scales; an empty list if it cannot be read."""
        found = self.decode(number)
        return [] if found is None else [found if scale == 1 else scaled(found, scale) for scale in SCALES]

    def decoded(self) -> Iterator[Pixels]:
        """Yield the photographs of all files, and note what they are. A bar appears after two seconds."""
        self.kept, places, end = [], [], 0
        bar = progress_bar(len(self.names), f"decoding {self.path.stem}", unit="photograph", delay=2)
        with bar, ThreadPoolExecutor(threads()) as pool:
            for first in range(0, len(self.names), BLOCK):
                numbers = range(first, min(first + BLOCK, len(self.names)))
                for number, copies in zip(numbers, pool.map(self.copies, numbers), strict=True):
                    self.kept += [number] if copies else []
                    for pixels in copies:
                        places.append(Place(end, pixels.shape[0], pixels.shape[1], digest_of(pixels)))
                        end += pixels.size
                        yield pixels
                    bar.update()
        self.photographs = Photographs(self.photographs.flat, places)
        bad = [name for number, name in enumerate(self.names) if number not in {*self.kept}]
        self.notes = [left_out(bad, len(self.names))] if bad else []

    def read(self) -> bool:
        """Take the stored photographs if they have this key, and if some agree with their digests and their file.

        The last is among those: so the file is whole.
        """
        try:
            about = json.loads(self.path.with_suffix(".json").read_text())
            if about["key"] != self.key:
                return False
            notes, kept = list(map(str, about["notes"])), [range(len(self.names))[number] for number in about["kept"]]
            places = [Place._make(place) for place in about["photographs"]]
            if len(places) != len(SCALES) * len(kept):
                return False
            photographs = Photographs(mapped(self.path), places, self.path)
            some = {0, len(places) // 2, len(places) - 1}
            if any(digest_of(photographs[number]) != places[number].digest for number in some):
                return False
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return False
        cheapest = min(range(len(kept)), key=lambda row: state_of(self.root / self.names[kept[row]]))
        again, stored = self.decode(kept[cheapest]), photographs[len(SCALES) * cheapest]
        # Within two levels, as another processor may round differently.
        if again is None or again.shape != stored.shape or np.abs(again.astype(int) - stored).max() > 2:
            return False
        self.photographs, self.kept, self.notes = photographs, kept, notes
        LOG.info(f"found {len(kept):,} photographs in {self.path}")
        return True

    def write(self) -> None:
        """Decode everything into the cache. The .json beside it is written last, and says that the rest is whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        needed = HEADER + self.bytes_needed()
        if shutil.disk_usage(self.path.parent).free < needed + (64 << 20):
            raise OSError(28, f"{size_in_words(needed)} are needed and not free")
        with replacing(self.path) as file:
            file.seek(HEADER)
            for pixels in self.decoded():
                file.write(pixels.tobytes())
            total = file.tell() - HEADER
            file.seek(0)
            file.write(npy_header((total,)))
        if not total:
            return
        places = self.photographs.places
        about = {"key": self.key, "kept": self.kept, "photographs": places, "notes": self.notes}
        with replacing(self.path.with_suffix(".json")) as file:
            file.write(json.dumps(about).encode())
        self.photographs = Photographs(mapped(self.path), places, self.path)
        LOG.info(f"decoded {len(self.kept):,} photographs, and stored them in {self.path}")

    def bytes_needed(self) -> int:
        """Return how many bytes all photographs take, from the first bytes of their files."""
        total = 0
        for name in self.names:
            if shape := if_readable(self.root / name, lambda path: image_shape(path, self.max_pixels), self.stop):
                largest = min(1.0, SHORTER / min(shape))
                sizes = [scaled_size(*shape, largest * scale) for scale in SCALES]
                total += sum(3 * height * width for height, width in sizes)
        return total

    def do_without(self, error: OSError) -> None:
        """Decode into memory, because nothing can be stored. Raises UserError for a set that is too large for that."""
        if self.bytes_needed() > IN_MEMORY:
            raise UserError(
                f"cannot store the decoded photographs in {self.path.parent}: {error.strerror}. "
                "Set MINIDIFF_CACHE to a folder with room, or take fewer photographs."
            ) from None
        flat = np.concatenate([np.empty(0, np.uint8), *(pixels.reshape(-1) for pixels in self.decoded())])
        self.photographs = Photographs(flat, self.photographs.places)


def mapped(path: Path) -> Pixels:
    """Map a stored file, so that all processes share one copy, and the system reads what is used."""
    return np.asarray(np.memmap(path, np.uint8, "r", HEADER))


def digest_of(pixels: Pixels) -> str:
    """Return a digest of uint8 [H,W,3]."""
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]
