"""The data sets, by name: `load_data("fashion-mnist")` gives images and labels as plain uint8 arrays.

Rests on images and shapes; torchvision is used for its checksummed downloads and CIFAR's files. Whatever takes time to
decode is decoded once, into an .npy file under the cache folder.
LeCun et al. 1998 (MNIST and its IDX files), Xiao et al. 2017 (FashionMNIST), Krizhevsky 2009 (CIFAR), Liu et al. 2015
(CelebA).
"""

import gzip
import hashlib
import json
import math
import os
import shutil
import socket
import struct
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minidiff import shapes
from minidiff.errors import UserError, lookup
from minidiff.images import IMAGE_SUFFIXES, crop_resize, read_image, write_image

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

    def rgb(self, index: slice | Sequence[int] | NDArray[np.intp]) -> Pixels:
        """Some of the images as uint8 [n,H,W,3]: grey is repeated."""
        chosen = np.array(self.images[index])
        return chosen if chosen.shape[3] == 3 else chosen.repeat(3, axis=3)

    def names_of(self, index: int) -> list[str]:
        """The labels of one image, in words."""
        return [self.label_names[i] for i in np.flatnonzero(self.labels[index])]


@dataclass(frozen=True)
class Want:
    """What a loader is asked for."""

    name: str
    split: str
    image_size: int
    data_dir: Path | None  # as the user gave it
    on_bad: str  # what to do about an image that cannot be read: "skip" or "stop"

    @property
    def root(self) -> Path:
        return self.data_dir or cache_dir()


@dataclass(frozen=True)
class Source:
    """An entry of DATASETS: how to load a set, and what there is to know about it before doing so."""

    load: Callable[[Want], ImageData]
    splits: dict[str, int | None]  # number of images; None where the user's files decide
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
    wanted, by default the set's own; 28x28 images become 32x32 by a margin of zeros, all else is resized.
    on_bad: leave out images that cannot be read, and say so in `notes`, or stop at the first.
    Raises UserError when files are missing or damaged, or cannot be downloaded or stored.
    """
    source = lookup("data set", name, DATASETS)
    lookup(f"split of {name}", split, source.splits)
    lookup("on_bad", on_bad, {"skip": True, "stop": True})
    size = source.image_size if image_size is None else image_size
    if not 8 <= size <= 1024:
        raise UserError(f"image size {size} is outside 8 to 1024. Try {source.image_size}.")
    return source.load(Want(name, split, size, Path(data_dir).expanduser() if data_dir else None, on_bad))


def cache_dir() -> Path:
    """Where downloads and decoded images are kept: $MINIDIFF_CACHE, or ~/.cache/minidiff."""
    return Path(os.environ.get("MINIDIFF_CACHE") or "~/.cache/minidiff").expanduser()


def one_hot(classes: Sequence[int] | NDArray[np.integer], count: int) -> Pixels:
    """Class numbers [N], -1 for none -> uint8 [N,count]."""
    return (np.asarray(classes)[:, None] == np.arange(count)).astype(np.uint8)


# --- decoded once, kept on disk -----------------------------------------------------------------------------------

IN_MEMORY = 512 << 20  # bytes of images up to which a set is held in memory
BLOCK = 256  # images decoded at a time: this, not the size of the set, bounds the memory
HEADER = 128  # bytes of an .npy header, always the same, so that it can be written after the images


class Pictures:
    """Images that come one at a time: `picture(i)` is uint8 of `shape`, or None where there is none to be had.

    place: the name of the file in the cache. key: anything JSON can hold that changes whenever a picture does; images
    stored under another key are replaced. After `load`: images [N,H,W,C]; kept, which pictures they are; notes.
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
        """From the cache when it is there and right, otherwise decoded and stored."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow grumbles about metadata; what counts is whether there is a picture
            if not self.read():
                try:
                    self.write(workers)
                except OSError as error:
                    self.do_without(error, workers)
        return self

    def blocks(self, workers: int) -> Iterator[Pixels]:
        """Decode all pictures, BLOCK at a time, noting which were kept; a bar appears when it takes two seconds."""
        self.kept = []
        name = f"decoding {self.path.stem}"
        bar = tqdm(total=self.count, desc=name, unit="image", delay=2, leave=False, disable=None)
        with bar, ThreadPoolExecutor(workers) as pool:
            for start in range(0, self.count, BLOCK):
                indices = range(start, min(start + BLOCK, self.count))
                found = list((pool.map if workers > 1 else map)(self.picture, indices))
                self.kept += [i for i, picture in zip(indices, found, strict=True) if picture is not None]
                yield np.array([picture for picture in found if picture is not None], np.uint8).reshape(-1, *self.shape)
                bar.update(len(indices))
        self.notes = self.remarks()

    def remarks(self) -> list[str]:
        """What was noticed while decoding, to be kept with the images."""
        return []

    def read(self) -> bool:
        """Take the stored images, if they are of this key, whole, and three of them decoded again agree."""
        try:
            about = json.loads(self.path.with_suffix(".json").read_text())
            kept, notes = about["kept"], about["notes"]
            kept = list(range(self.count)) if kept is None else kept
            shape = (len(kept), *self.shape)
            if about["key"] != self.key or self.path.stat().st_size != HEADER + math.prod(shape):
                return False
            images = self.opened(len(kept))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if images.shape != shape or images.dtype != np.uint8:
            return False
        for row in {0, len(kept) // 2, len(kept) - 1} if kept else ():
            again = self.picture(kept[row])  # two levels of grace: another processor may round differently
            if again is None or np.abs(again.astype(int) - images[row]).max() > 2:
                return False
        self.images, self.kept, self.notes = images, kept, notes
        return True

    def write(self, workers: int) -> None:
        """Decode everything into the cache; the .json beside it comes last and vouches for it. Leaves no fragments."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        needed = HEADER + self.count * math.prod(self.shape)
        if shutil.disk_usage(self.path.parent).free < needed + (64 << 20):
            raise OSError(28, f"{needed / 1e9:.1f} GB are needed and not free")
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

    def opened(self, count: int) -> Pixels:
        """The stored file: read when it is small, mapped when it is not."""
        large = count * math.prod(self.shape) > IN_MEMORY
        return np.asarray(np.load(self.path, mmap_mode="r")) if large else np.load(self.path)

    def do_without(self, error: OSError, workers: int) -> None:
        """No place to store: a set small enough is decoded into memory, and will be again the next time."""
        if self.count * math.prod(self.shape) > IN_MEMORY:
            raise UserError(
                f"cannot store the decoded images in {self.path.parent}: {error.strerror}. "
                "Set MINIDIFF_CACHE to a folder with room, or take a smaller --image-size."
            ) from None
        self.images = np.concatenate([np.empty((0, *self.shape), np.uint8), *self.blocks(workers)])


def npy_header(shape: Sequence[int]) -> bytes:
    """The header of an .npy file, version 1.0, of uint8: numpy's own, at a fixed length."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", HEADER - 10) + text.ljust(HEADER - 11).encode() + b"\n"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and vanishes when it does not."""
    for left_over in path.parent.glob(f".{path.name}.tmp*"):  # by a process that was killed, a day ago or more
        with suppress(FileNotFoundError):
            if time.time() - left_over.stat().st_mtime > 86_400:
                left_over.unlink()
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
    """Small square images [N,h,h,C] at the size wanted: as they are, padded from 28 to 32, or resized."""
    size, native = want.image_size, originals.shape[1]
    if size == native:
        return originals
    if (native, size) == (28, 32):
        return np.pad(originals, ((0, 0), (2, 2), (2, 2), (0, 0)))
    place, key = f"{want.name}-{want.split}-{size}", hashlib.sha256(np.ascontiguousarray(originals).data).hexdigest()
    shape = (size, size, originals.shape[3])
    return Pictures(place, key, len(originals), shape, lambda i: crop_resize(originals[i], size)).load(threads()).images


def threads() -> int:
    """Pillow decodes and resizes outside Python's lock, so threads are enough."""
    return min(8, os.cpu_count() or 1)


# --- shapes -------------------------------------------------------------------------------------------------------


def load_shapes(want: Want) -> ImageData:
    """The embedded set, of `shapes.py`. Not to be mirrored: the lamp stands on the left."""
    count, size, split = shapes.COUNTS[want.split], want.image_size, want.split
    pictures = Pictures(
        f"shapes-{split}-{size}", [shapes.VERSION, split], count, (size, size, 3),
        lambda i: shapes.draw(i, size, split=split),
    )  # fmt: skip
    labels = shapes.make_labels(count, split=split)
    return ImageData(want.name, pictures.load().images, labels, shapes.NAMES, flip=False)


# --- MNIST and FashionMNIST: IDX files ----------------------------------------------------------------------------

DIGITS = list("0123456789")
CLOTHES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it
IDX_NAMES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> Pixels:
    """One IDX file of bytes, gzipped or not: [N,28,28] of images, [N] of labels. Raises UserError, naming the file.

    The format: two zero bytes, 8 for unsigned bytes, the number of dimensions; each dimension, 4 bytes, the highest
    first; the data.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be read ({reason}). Fetch it again.") from None
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    if content[:3] != b"\x00\x00\x08" or len(content) < start:
        raise UserError(f"{path} is not an IDX file of bytes: it begins with '{content[:4].hex()}'. Fetch it again.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise UserError(f"{path} is {list(shape)} but holds {len(content) - start} bytes. Fetch it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def find_idx(want: Want, folder: str, also: Sequence[Path] = ()) -> list[Path]:
    """The image and the label file of a split: in torchvision's folder, right in --data-dir, or in `also`."""
    ends = ("images-idx3-ubyte", "labels-idx1-ubyte")
    for place in [want.root / folder / "raw", *([want.data_dir] if want.data_dir else also)]:
        names = [[place / f"{IDX_NAMES[want.split]}-{end}{gz}" for gz in ("", ".gz")] for end in ends]
        pair = [next((path for path in either if path.is_file()), None) for either in names]
        found = [path for path in pair if path]
        if len(found) == 2:
            return found
    return []


def load_idx(want: Want, folder: str, classes: list[str], also: Sequence[Path] = (), hint: str = "") -> ImageData:
    """MNIST and its likes; `folder` is the name of the torchvision class, and of the folder it makes."""
    if not find_idx(want, folder, also):
        ends = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
        files = ", ".join([*ends, *(end.replace("train", "t10k") for end in ends)])
        where = f"{files} into {want.data_dir or want.root / folder / 'raw'}{hint}"
        download(want, folder, folder, where)
    pair = find_idx(want, folder, also)
    images, labels = read_idx(pair[0]), read_idx(pair[1])
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or not labels.size:
        raise UserError(
            f"{pair[0]} is {list(images.shape)} and {pair[1].name} {list(labels.shape)}; {want.name} needs [N, 28, 28] "
            "and [N]. Fetch both again."
        )
    if labels.max() >= len(classes):
        raise UserError(f"{pair[1]} has a label {labels.max()}; {want.name} ends at {len(classes) - 1}. Fetch it anew.")
    return ImageData(want.name, fit(images[..., None], want), one_hot(labels, len(classes)), classes, flip=False)


# --- CIFAR-10 and CIFAR-100 ---------------------------------------------------------------------------------------


def load_cifar(want: Want, classes: str, folder: str, archive: str) -> ImageData:
    """Read by torchvision, which holds each file against its checksum before it unpickles it."""
    import torchvision

    if not (want.root / folder).is_dir():
        download(want, classes, folder, f"{archive}, or the folder {folder} out of it, into {want.root}", archive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about the age of the pickles
            found = getattr(torchvision.datasets, classes)(str(want.root), train=want.split == "train")
    except (RuntimeError, OSError) as error:
        raise UserError(f"{want.root / folder} is incomplete or damaged ({reason_of(error)}). "
                        "Delete it, and it will be fetched again.") from None  # fmt: skip
    names = [name.replace("_", " ") for name in found.classes]
    images, labels = np.ascontiguousarray(found.data), one_hot(found.targets, len(names))
    return ImageData(want.name, fit(images, want), labels, names, flip=True)


# --- CelebA and folders: image files ------------------------------------------------------------------------------


class Files(Pictures):
    """Image files below `root`, cut to the centre square and brought to size; a bad one is left out, or stops."""

    def __init__(self, place: str, root: Path, paths: list[str], want: Want) -> None:
        size = want.image_size
        self.root, self.paths, self.stop = root, paths, want.on_bad == "stop"
        self.bad: dict[int, str] = {}
        self.small: set[int] = set()
        states = [(path, *state_of(root / path)) for path in paths]
        super().__init__(place, [str(root), states], len(paths), (size, size, 3), self.decode)

    def decode(self, index: int) -> Pixels | None:
        path = self.root / self.paths[index]
        try:
            image = read_image(path)
        except Exception as error:  # there is no end to what Pillow raises on damaged files
            if self.stop:
                message = str(error) if isinstance(error, UserError) else f"{path} is not a readable image ({error})."
                raise UserError(printable(f"{message} Mend or remove it, or let such files be skipped.")) from None
            self.bad[index] = self.paths[index]
            return None
        if min(image.shape[:2]) < self.shape[0]:
            self.small.add(index)
        return crop_resize(image, self.shape[0])

    def load(self, workers: int = 1) -> "Pictures":
        super().load(workers)
        if self.stop:  # the stored images may have been decoded with "skip"
            for index in sorted(set(range(self.count)) - set(self.kept)):
                self.decode(index)
        if not self.kept:
            first = printable(self.paths[0])
            raise UserError(f"none of the {self.count} image files in {self.root} can be read; {first} is the first.")
        return self

    def remarks(self) -> list[str]:
        remarks = []
        if self.bad:
            names = [self.bad[i] for i in sorted(self.bad)]
            some = printable(", ".join(names[:3])) + (", ..." if len(names) > 3 else "")
            remarks.append(f"{len(names)} of {self.count} files cannot be read and are left out: {some}")
        if self.small:
            size = f"{self.shape[0]}x{self.shape[1]}"
            remarks.append(f"{len(self.small)} of {len(self.kept)} images are smaller than {size} and were enlarged")
        return remarks


def printable(text: str) -> str:
    """File names may hold bytes that are no characters; a terminal takes them as question marks."""
    return text.encode(errors="replace").decode()


def state_of(path: Path) -> tuple[int, int]:
    """Size and time of change: what tells that a file is still the one that was decoded."""
    try:
        state = path.stat()
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns


def image_paths(root: Path) -> list[str]:
    """Every image file below a folder, relative and sorted. Hidden files and __MACOSX are passed over; links to folders
    are followed, but none is entered twice."""
    found: list[str] = []
    entered = set()

    def closed(error: OSError) -> None:  # a folder that cannot be opened goes with the files that cannot be read
        found.append(os.path.relpath(error.filename, root))

    for folder, inner, files in os.walk(root, followlinks=True, onerror=closed):
        real = os.path.realpath(folder)
        inner[:] = [] if real in entered else sorted(n for n in inner if not n.startswith(".") and n != "__MACOSX")
        if real not in entered:
            entered.add(real)
            names = [name for name in files if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)]
            found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(found)


MAX_FOLDER_LABELS = 1000  # more sub-folders than that are not classes


def load_folder(want: Want) -> ImageData:
    """Any tree of images; its first-level sub-folders, if there are two or more kinds, are the labels."""
    if want.data_dir is None:
        raise UserError("the data set 'folder' needs --data-dir, the folder with your images.")
    root = Path(os.path.abspath(want.data_dir))
    if not root.is_dir():
        raise UserError(f"--data-dir {want.data_dir} is {'a file, not a folder' if root.exists() else 'not there'}.")
    paths = image_paths(root)
    if not paths:
        raise UserError(f"{want.data_dir} holds no image files ({' '.join(IMAGE_SUFFIXES)}).")
    place = f"folder-{want.image_size}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
    files = Files(place, root, paths, want).load(threads())
    kinds = [printable(paths[i].split(os.sep)[0]) if os.sep in paths[i] else "" for i in files.kept]
    names, notes = sorted(set(kinds) - {""}), list(files.notes)
    if len(names) > MAX_FOLDER_LABELS:
        notes.append(f"{len(names)} sub-folders are too many for labels (at most {MAX_FOLDER_LABELS})")
    if len(set(kinds)) < 2 or len(names) > MAX_FOLDER_LABELS:
        names = []
    number = {name: i for i, name in enumerate(names)}
    labels = one_hot([number.get(kind, -1) for kind in kinds], len(names))
    return ImageData(want.name, files.images, labels, names, flip=True, notes=notes)


CELEBA_FIRST = {"train": 1, "valid": 162_771, "test": 182_638}  # list_eval_partition.txt of the authors, in short
CELEBA_COUNT = {"train": 162_770, "valid": 19_867, "test": 19_962}


def celeba_root(data_dir: Path | None) -> Path | None:
    root = data_dir or cache_dir()
    return next((folder for folder in (root / "celeba", root) if (folder / "img_align_celeba").is_dir()), None)


def load_celeba(want: Want) -> ImageData:
    """The aligned and cropped faces, 178x218; 40 attributes as labels, if their file is there."""
    if celeba_root(want.data_dir) is None:
        files = "the folder img_align_celeba (unzipped) and list_attr_celeba.txt"
        download(want, "CelebA", "celeba", f"{files} into {want.root / 'celeba'}")
    root = celeba_root(want.data_dir) or want.root
    pictures = root / "img_align_celeba"
    first = CELEBA_FIRST[want.split]
    names = {f"{number:06d}.jpg" for number in range(first, first + CELEBA_COUNT[want.split])}
    paths = sorted(name for name in os.listdir(pictures) if name in names)
    if not paths:
        raise UserError(f"{pictures} holds none of {min(names)} to {max(names)}. Unzip it again.")
    loaded = Files(f"celeba-{want.split}-{want.image_size}", pictures, paths, want).load(threads())
    kept, notes = [paths[i] for i in loaded.kept], list(loaded.notes)
    if len(paths) < len(names):
        notes.append(f"{len(names) - len(paths)} of the {len(names)} images of this split are not in {pictures}")
    listed = root / "list_attr_celeba.txt"
    if listed.is_file():
        labels, attributes = read_attributes(listed, kept)
    else:
        labels, attributes = np.zeros((len(kept), 0), np.uint8), []
        notes.append(f"without labels: there is no {listed}")
    return ImageData(want.name, loaded.images, labels, attributes, flip=True, notes=notes)


def read_attributes(path: Path, names: list[str]) -> tuple[Pixels, list[str]]:
    """CelebA's list of attributes: a count; the attributes' names; then a file name and a 1 or -1 for each of them."""
    try:
        lines = path.read_text().splitlines()
        attributes = lines[1].split()
        rows = dict(line.split(None, 1) for line in lines[2:] if line.strip())
        labels = np.array([[int(value) > 0 for value in rows[name].split()] for name in names], np.uint8)
        return labels.reshape(len(names), len(attributes)), [name.replace("_", " ") for name in attributes]
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"{path} is incomplete or damaged ({reason_of(error)}). Fetch it again.") from None


# --- downloads ----------------------------------------------------------------------------------------------------


def download(want: Want, classes: str, folder: str, where: str, archive: str = "") -> None:
    """Let torchvision fetch `folder` into `want.root`, whole or not at all; an `archive` already there is unpacked.

    Raises UserError, telling `where` to put which files by hand.
    """
    import torchvision

    made = [parent for parent in (want.root, *want.root.parents) if not parent.exists()]
    timeout = socket.getdefaulttimeout()
    try:
        want.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=want.root) as temporary:
            if archive and (want.root / archive).is_file():
                os.symlink(os.path.abspath(want.root / archive), Path(temporary) / archive)
            socket.setdefaulttimeout(20)  # seconds of silence: a firewall must not look like a slow server
            getattr(torchvision.datasets, classes)(temporary, download=True)
            if (want.root / folder).exists():  # some of the files, not all
                shutil.copytree(
                    Path(temporary) / folder, want.root / folder, copy_function=os.replace, dirs_exist_ok=True
                )
            else:
                os.replace(Path(temporary) / folder, want.root / folder)
    except Exception as error:  # whatever went wrong in the net, the server or the disk, the mend is the same
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise UserError(
            f"{want.name} is not in {want.root} and cannot be downloaded ({reason_of(error)}). Put {where}."
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def reason_of(error: Exception) -> str:
    """The last line of an error's message, where torchvision puts the reason, without brackets and full stop."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip(" <>.") if lines else type(error).__name__


# --- files for others ---------------------------------------------------------------------------------------------


def check_new(folder: Path) -> None:
    """A UserError if there is anything in the way of a new folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder. Give another one.")


def export(data: ImageData, folder: str | Path, split: str = "train", count: int | None = None) -> Iterator[Path]:
    """Write the first `count` images as .png with their labels, in iCLEVR's format; yields each image's path.

    images/000000.png, ...; objects.json: label -> number; train.json (<split>-images.json for another split): file
    name -> labels. For `shapes` also test.json and new_test.json, 32 label lists each: what to draw, not what is there.
    """
    folder = Path(folder)
    check_new(folder)
    listing: dict[str, list[str]] = {}
    for index in range(min(len(data), count or len(data))):
        path = folder / "images" / f"{index:06d}.png"
        write_image(path, data.rgb([index])[0])
        listing[path.name] = data.names_of(index)
        yield path
    tables: dict[str, object] = {
        "objects": {name: number for number, name in enumerate(data.label_names)},
        "train" if split == "train" else f"{split}-images": listing,
    }
    if data.name == "shapes":
        for other in ("test", "new_test"):
            tables[other] = [[shapes.NAMES[label] for label in labels] for labels in shapes.conditions(other)]
    for name, table in tables.items():
        try:
            with replacing(folder / f"{name}.json") as file:
                file.write(json.dumps(table).encode())
        except OSError as error:
            raise UserError(f"cannot write {folder / name}.json: {error.strerror}.") from None


# --- the table ----------------------------------------------------------------------------------------------------


def mnist_like(
    folder: str, classes: list[str], labels: str, origin: str, also: Sequence[Path] = (), hint: str = ""
) -> Source:
    """An entry for a set in MNIST's format."""

    def present(data_dir: Path | None) -> bool:
        return all(find_idx(Want("", split, 32, data_dir, "skip"), folder, also) for split in IDX_NAMES)

    load = partial(load_idx, folder=folder, classes=classes, also=also, hint=hint)
    return Source(load, {"train": 60_000, "test": 10_000}, 32, 1, labels, origin, present)


def cifar(classes: str, folder: str, archive: str, labels: str) -> Source:
    """An entry for CIFAR-10 or CIFAR-100."""
    load = partial(load_cifar, classes=classes, folder=folder, archive=archive)

    def present(data_dir: Path | None) -> bool:
        return ((data_dir or cache_dir()) / folder).is_dir()

    return Source(load, {"train": 50_000, "test": 10_000}, 32, 3, labels, "download, 170 MB", present)


DATASETS: dict[str, Source] = {
    "shapes": Source(
        load_shapes, dict(shapes.COUNTS), 32, 3, "24: 8 colours x 3 solids", "drawn by minidiff", lambda data_dir: True
    ),
    "mnist": mnist_like("MNIST", DIGITS, "10 digits", "download, 12 MB"),
    "fashion-mnist": mnist_like(
        "FashionMNIST", CLOTHES, "10 kinds of clothing", "Debian package or download, 31 MB", also=[DEBIAN],
        hint=", or on Debian and Ubuntu: apt install dataset-fashion-mnist",
    ),
    "cifar10": cifar("CIFAR10", "cifar-10-batches-py", "cifar-10-python.tar.gz", "10 animals and vehicles"),
    "cifar100": cifar("CIFAR100", "cifar-100-python", "cifar-100-python.tar.gz", "100 kinds of things"),
    "celeba": Source(
        load_celeba, dict(CELEBA_COUNT), 64, 3, "40 attributes", "download (needs gdown), 1.4 GB",
        lambda data_dir: celeba_root(data_dir) is not None,
    ),
    "folder": Source(
        load_folder, {"train": None}, 64, 3, "first-level sub-folders", "--data-dir",
        lambda data_dir: bool(data_dir and data_dir.is_dir()),
    ),
}  # fmt: skip
