"""The data sets, by name: `load_data("fashion-mnist")` gives images and labels as plain uint8 arrays.

Rests on images and shapes; torchvision is used for its checksummed downloads alone. Sets that take time to decode are
decoded once, into a `.npy` file under the cache folder, and mapped from there.
LeCun et al. 1998 (MNIST, the IDX format), Xiao et al. 2017 (FashionMNIST), Krizhevsky 2009 (CIFAR), Liu et al. 2015
(CelebA).
"""

import gzip
import hashlib
import json
import math
import os
import pickle
import shutil
import socket
import struct
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minidiff import shapes
from minidiff.errors import UserError, lookup
from minidiff.images import IMAGE_SUFFIXES, crop_resize, read_image

Pixels = NDArray[np.uint8]


@dataclass
class ImageData:
    """One split of a data set.

    images: uint8 [N,H,W,C], in memory, or a read-only map of a file when there are more than 512 MB of them.
    labels: uint8 [N,L] of zeros and ones, any number of ones in a row; L may be 0. label_names: what the L are.
    flip: whether a mirrored image is as good as the original. notes: what the user should know, a line each.
    """

    name: str
    images: Pixels
    labels: Pixels
    label_names: list[str]
    flip: bool
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def names_of(self, index: int) -> list[str]:
        """The labels of one image, in words."""
        return [self.label_names[i] for i in np.flatnonzero(self.labels[index])]


@dataclass(frozen=True)
class Want:
    """What a loader is asked for; every field is filled in."""

    name: str
    split: str
    image_size: int
    data_dir: Path | None  # as the user gave it
    on_bad: str  # an image that cannot be read: "skip" or "stop"

    @property
    def root(self) -> Path:
        return self.data_dir or cache_dir()


@dataclass(frozen=True)
class Source:
    """One entry of DATASETS: how to load a set, and what there is to know about it before doing so."""

    load: Callable[[Want], ImageData]
    splits: dict[str, int | None]  # number of images; None where it depends on the user's files
    image_size: int  # when the user does not say
    channels: int
    labels: str
    origin: str
    present: Callable[[Path | None], bool]  # whether it is on this machine, given --data-dir


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    split: str = "train",
    on_bad: str = "skip",
) -> ImageData:
    """One split of a data set of DATASETS.

    data_dir: where its files are or will be put; the cache folder when left out. image_size: the height and width
    wanted; see DATASETS for each set's own. Sets of 28x28 are padded with zeros to 32, anything else is resized.
    Raises UserError when files are missing, damaged, or cannot be downloaded or stored.
    """
    source = lookup("data set", name, DATASETS)
    lookup(f"split of {name}", split, source.splits)
    lookup("answer to bad files", on_bad, dict.fromkeys(("skip", "stop")))
    size = source.image_size if image_size is None else image_size
    if not 8 <= size <= 1024:
        raise UserError(f"image size {size} is outside 8 to 1024. Try {source.image_size}.")
    return source.load(Want(name, split, size, Path(data_dir).expanduser() if data_dir else None, on_bad))


def cache_dir() -> Path:
    """Where downloads and decoded images are kept: $MINIDIFF_CACHE, or ~/.cache/minidiff."""
    return Path(os.environ.get("MINIDIFF_CACHE") or "~/.cache/minidiff").expanduser()


def one_hot(classes: NDArray[np.integer], count: int) -> Pixels:
    """Class numbers [N] -> uint8 [N,count]."""
    return (np.asarray(classes)[:, None] == np.arange(count)).astype(np.uint8)


# -- Decoded once, kept on disk ----------------------------------------------------------------------------------------

IN_MEMORY = 512 << 20  # bytes of images up to which a set is held in memory
BLOCK = 256  # images decoded at a time: what bounds the memory
HEADER = 128  # bytes of .npy header, always the same, so that it can be written after the images


def npy_header(shape: Sequence[int]) -> bytes:
    """The header of a version 1.0 .npy file of uint8, padded to HEADER bytes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER - 10) + text.ljust(HEADER - 11).encode() + b"\n"


@dataclass
class Decoded:
    """Pictures in the order asked for, less those that could not be had."""

    images: Pixels
    kept: list[int]  # which of the pictures asked for these are
    notes: list[str]


class Pictures:
    """Where images come from one at a time: `self[i]` is uint8 [H,W,C], or a UserError.

    key: anything JSON can hold that changes whenever a picture does. place: names the file in the cache folder; a set
    decoded for another key in the same place is replaced.
    """

    def __init__(self, place: str, key: object, count: int, shape: tuple[int, int, int],
                 picture: Callable[[int], Pixels], workers: int = 1) -> None:
        self.place, self.count, self.shape, self.picture, self.workers = place, count, shape, picture, workers
        self.key = hashlib.sha256(json.dumps([key, count, shape]).encode()).hexdigest()

    def notes(self) -> list[str]:
        """What was noticed while decoding all of them."""
        return []

    def blocks(self) -> Iterator[tuple[list[int], Pixels]]:
        """All pictures, BLOCK at a time, with a progress bar when it takes more than two seconds."""
        bar = tqdm(total=self.count, desc=f"decoding {self.place}", unit="image", delay=2, leave=False, disable=None)
        with bar, warnings.catch_warnings(), ThreadPoolExecutor(self.workers) as pool:
            warnings.simplefilter("ignore")  # Pillow grumbles about metadata; whether there is a picture is what counts
            for start in range(0, self.count, BLOCK):
                indices = range(start, min(start + BLOCK, self.count))
                pictures = list(pool.map(self.picture, indices) if self.workers > 1 else map(self.picture, indices))
                got = [i for i, picture in zip(indices, pictures, strict=True) if picture.size]
                if got:
                    yield got, np.stack([picture for picture in pictures if picture.size])
                bar.update(len(indices))

    def load(self) -> Decoded:
        """From the cache when it is there and right, otherwise decoded and stored."""
        path = cache_dir() / "images" / f"{self.place}.npy"
        found = self.read(path)
        if found is None:
            try:
                self.write(path)
                found = self.read(path)
            except OSError as error:
                if self.count * math.prod(self.shape) > IN_MEMORY:
                    raise UserError(f"cannot store decoded images in {path.parent}: {error.strerror}. "
                                    "Set MINIDIFF_CACHE to a folder with room.") from None
        if found is None:  # a small set and no place to keep it
            blocks = list(self.blocks())
            images = np.concatenate([b for _, b in blocks]) if blocks else np.empty((0, *self.shape), np.uint8)
            found = Decoded(images, [i for kept, _ in blocks for i in kept], self.notes())
        return found

    def read(self, path: Path) -> Decoded | None:
        """The stored images, if they are those of this key, whole, and three of them decoded again agree."""
        try:
            about = json.loads(path.with_suffix(".json").read_text())
            kept, notes = about["kept"], about["notes"]
            if kept is None:
                kept = list(range(self.count))
            shape = (len(kept), *self.shape)
            if about["key"] != self.key or path.stat().st_size != HEADER + math.prod(shape):
                return None
            small = math.prod(shape) <= IN_MEMORY
            images = np.load(path, mmap_mode=None if small or not kept else "r")
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if images.shape != shape or images.dtype != np.uint8:
            return None
        for row in {0, len(kept) // 2, len(kept) - 1} if kept else ():
            again = self.picture(kept[row])
            # 2: another machine's arithmetic may round a pixel the other way
            if again.shape != self.shape or np.abs(again.astype(int) - images[row]).max() > 2:
                return None
        return Decoded(images, kept, notes)

    def write(self, path: Path) -> None:
        """Decode everything into `path` and, last, say so in the .json beside it. Raises OSError; leaves nothing."""
        needed = HEADER + self.count * math.prod(self.shape)
        path.parent.mkdir(parents=True, exist_ok=True)
        if needed > IN_MEMORY and shutil.disk_usage(path.parent).free < needed + (64 << 20):
            raise UserError(f"{needed / 1e9:.1f} GB of decoded images do not fit into {path.parent}. "
                            "Set MINIDIFF_CACHE to a folder with room, or take a smaller --image-size.")
        kept: list[int] = []
        with replacing(path) as file:
            file.seek(HEADER)
            for indices, images in self.blocks():
                kept += indices
                file.write(images.tobytes())
            file.seek(0)
            file.write(npy_header((len(kept), *self.shape)))
        about = {"key": self.key, "kept": None if len(kept) == self.count else kept, "notes": self.notes()}
        with replacing(path.with_suffix(".json")) as file:
            file.write(json.dumps(about).encode())


@contextmanager
def replacing(path: Path):  # type: ignore[no-untyped-def]
    """A file to write that takes the place of `path` when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fit(originals: Pixels, want: Want) -> Pixels:
    """A set of small square images [N,h,w,C] at the size wanted: as it is, padded from 28 to 32, or resized."""
    size, native = want.image_size, originals.shape[1]
    if size == native:
        return originals
    if (native, size) == (28, 32):
        return np.pad(originals, ((0, 0), (2, 2), (2, 2), (0, 0)))
    key = [want.name, want.split, hashlib.sha256(originals).hexdigest()]
    return Pictures(
        f"{want.name}-{want.split}-{size}", key, len(originals), (size, size, originals.shape[3]),
        lambda i: crop_resize(originals[i], size), workers=threads(),
    ).load().images  # fmt: skip


def threads() -> int:
    return min(8, os.cpu_count() or 1)


# -- shapes ------------------------------------------------------------------------------------------------------------


def load_shapes(want: Want) -> ImageData:
    count, size = shapes.COUNTS[want.split], want.image_size
    pictures = Pictures(
        f"shapes-{want.split}-{size}", [shapes.VERSION, want.split], count, (size, size, 3),
        lambda i: shapes.make(1, size, split=want.split, start=i)[0][0],
    )  # fmt: skip
    labels = np.zeros((count, len(shapes.LABELS)), dtype=np.uint8)
    for i in range(count):
        labels[i, shapes.scene(i, split=want.split)] = 1
    # Never flipped: the lamp stands on the left.
    return ImageData("shapes", pictures.load().images, labels, shapes.NAMES, flip=False)


# -- MNIST and FashionMNIST: the IDX format ----------------------------------------------------------------------------

DIGITS = list("0123456789")
CLOTHES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
IDX_FILES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> Pixels:
    """One IDX file of bytes, .gz or not: [N,28,28] for images, [N] for labels. Raises UserError, naming the file.

    Two zero bytes, 8 for "unsigned bytes", the number of dimensions, each dimension as 4 big-endian bytes, the data.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}). Fetch it again.") from None
    if content[:3] != b"\x00\x00\x08" or len(content) < 4 or len(content) < 4 + 4 * content[3]:
        raise UserError(f"{path} is no IDX file of bytes: it begins with {content[:4].hex() or 'nothing'}. Fetch it again.")
    shape = struct.unpack(f">{content[3]}I", content[4 : 4 + 4 * content[3]])
    if len(content) != 4 + 4 * len(shape) + math.prod(shape):
        held = len(content) - 4 - 4 * len(shape)
        raise UserError(f"{path} should hold {math.prod(shape)} bytes for {shape}, not {held}. Fetch it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def find_idx(folders: Sequence[Path], split: str) -> tuple[Path, Path] | None:
    """The image and the label file of a split, in the first folder that has both."""
    names = [f"{IDX_FILES[split]}-images-idx3-ubyte", f"{IDX_FILES[split]}-labels-idx1-ubyte"]
    for folder in folders:
        found = [folder / (name + end) for name in names for end in (".gz", "") if (folder / (name + end)).is_file()]
        pair = [next((p for p in found if p.name.startswith(name)), None) for name in names]
        if pair[0] and pair[1]:
            return pair[0], pair[1]
    return None


def idx_folders(raw: str, data_dir: Path | None, also: Sequence[Path] = ()) -> list[Path]:
    """Where to look: the user's folder and what torchvision makes of it; without one, the cache and the system."""
    root = data_dir or cache_dir()
    return [root / raw, root, *(() if data_dir else also)] if data_dir else [root / raw, *also]


def load_idx(want: Want, torchvision_name: str, classes: list[str], also: Sequence[Path] = (), hint: str = "") -> ImageData:
    folders = idx_folders(f"{torchvision_name}/raw", want.data_dir, also)
    pair = find_idx(folders, want.split)
    if pair is None:
        download(want, torchvision_name, "the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
                 f"t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz{hint}")
        pair = find_idx(folders, want.split)
        if pair is None:
            raise UserError(f"torchvision's download of {want.name} brought no IDX files to {want.root}.")
    images, labels = (read_idx(path) for path in pair)
    if images.ndim != 3 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise UserError(f"{pair[0]} {list(images.shape)} and {pair[1].name} {list(labels.shape)} do not belong together: "
                        f"{want.name} has [N, 28, 28] and [N]. Fetch them again.")
    if labels.size and labels.max() >= len(classes):
        raise UserError(f"{pair[1]} holds the label {labels.max()}, but {want.name} has {len(classes)}. Fetch it again.")
    return ImageData(want.name, fit(images[..., None], want), one_hot(labels, len(classes)), classes, flip=False)


# -- Downloads ---------------------------------------------------------------------------------------------------------


def download(want: Want, torchvision_name: str, files: str) -> None:
    """Let torchvision fetch a set into `want.root`, whole or not at all. Raises UserError saying what to put where."""
    import torchvision

    problem = ""
    timeout = socket.getdefaulttimeout()
    try:
        want.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=want.root) as temporary:
            socket.setdefaulttimeout(20)
            getattr(torchvision.datasets, torchvision_name)(temporary, download=True)
            for item in Path(temporary).iterdir():
                if item.is_dir() and not (want.root / item.name).exists():
                    os.replace(item, want.root / item.name)
    except Exception as error:  # whatever the network, the server or the disk may do, the mend is the same
        problem = str(getattr(error, "reason", None) or error).strip().split("\n")[0] or type(error).__name__
    finally:
        socket.setdefaulttimeout(timeout)
    if problem:
        raise UserError(f"{want.name} is not in {want.root} and cannot be downloaded ({problem}). "
                        f"Put {files} there, or name their folder with --data-dir.")


# -- The table ---------------------------------------------------------------------------------------------------------

FASHION_HINT = " (Debian and Ubuntu: apt install dataset-fashion-mnist)"

DATASETS: dict[str, Source] = {
    "shapes": Source(load_shapes, dict(shapes.COUNTS), 32, 3, "24: 8 colours x 3 shapes, 1 to 3 in an image",
                     "drawn by minidiff", lambda data_dir: True),
    "mnist": Source(partial(load_idx, torchvision_name="MNIST", classes=DIGITS),
                    {"train": 60_000, "test": 10_000}, 32, 1, "10 digits", "download, 12 MB",
                    lambda data_dir: find_idx(idx_folders("MNIST/raw", data_dir), "train") is not None),
    "fashion-mnist": Source(partial(load_idx, torchvision_name="FashionMNIST", classes=CLOTHES, also=[DEBIAN], hint=FASHION_HINT),
                    {"train": 60_000, "test": 10_000}, 32, 1, "10 kinds of clothing", "Debian package or download, 31 MB",
                    lambda data_dir: find_idx(idx_folders("FashionMNIST/raw", data_dir, [DEBIAN]), "train") is not None),
}  # fmt: skip
