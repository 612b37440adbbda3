"""The data sets, by name: `load_data("fashion-mnist")` gives images and labels as plain uint8 arrays.

Rests on downloads and iclevr (files, fetched and read), decoded (what takes time, done once), images, shapes, and
corrupted (a set as it is under a corruption).
LeCun et al. 1998 (MNIST), Xiao et al. 2017 (FashionMNIST), Krizhevsky 2009 (CIFAR), Liu et al. 2015 (CelebA),
El-Nouby et al. 2019 (iCLEVR).
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.data import iclevr, shapes
from minidiff.data.cache import Files, Pictures, cache_dir, image_paths, threads
from minidiff.data.corrupted import Corrupted, read, seed_of, written
from minidiff.data.corruptions import ONE_WAY, check
from minidiff.data.downloads import download, read_attributes, read_idx, reason_of
from minidiff.errors import UserError, lookup
from minidiff.files import printable
from minidiff.images.convert import Pixels
from minidiff.images.files import IMAGE_SUFFIXES, crop_resize, squeeze


@dataclass
class ImageData:
    """One split of a data set.

    images: uint8 [N,H,W,C], in memory, or a read-only map of a file when there are more than 512 MB of them; under a
    corruption they are read like an array.
    labels: uint8 [N,L] of zeros and ones, any number of ones in a row; L may be 0. label_names: what the L are.
    flip: whether a mirrored image is as good as the original. notes: what the user should know, a line each.
    corruption: such as `motion_blur-3`, or nothing.
    """

    name: str
    images: Pixels | Corrupted
    labels: Pixels
    label_names: list[str]
    flip: bool
    notes: list[str] = field(default_factory=list)
    corruption: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def rgb(self, index: slice | Sequence[int] | NDArray[np.intp]) -> Pixels:
        """Some of the images as uint8 [n,H,W,3]: grey is repeated."""
        chosen = np.array(self.images[index])
        return chosen if chosen.shape[3] == 3 else chosen.repeat(3, axis=3)

    def fingerprint(self) -> str:
        """A digest of the images, to know the same data again: of all, or beyond 512 MB of 4,096 spread evenly. Of
        corrupted ones, of what they were, and of what was done to them."""
        images = self.images.clean if isinstance(self.images, Corrupted) else self.images
        count = len(images)
        chosen = range(count) if images.nbytes <= 512 << 20 else np.linspace(0, count - 1, 4096).astype(int)
        digest = hashlib.sha256(str(images.shape).encode())
        for index in chosen:
            digest.update(images[index].tobytes())
        if isinstance(self.images, Corrupted):
            digest.update(self.images.digest.encode())
        return digest.hexdigest()[:16]

    @property
    def place(self) -> str:
        """What to call its training images on the command line of `minidiff fid`."""
        return f"dataset:{self.name}" + (f":train:{self.corruption}" if self.corruption else "")

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
    splits_in: Callable[[Path], list[str]] | None = None  # where the files in --data-dir say which splits there are


def load_data(
    name: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    split: str = "train",
    on_bad: str = "skip",
    corruption: str = "identity",
    severity: int = 3,
) -> ImageData:
    """One split of a data set of DATASETS.

    data_dir: where its files are or will be put; the cache folder when left out. image_size: the height and width
    wanted, by default the set's own; 28x28 images become 32x32 by a margin of zeros, all else is resized.
    on_bad: leave out images that cannot be read, and say so in `notes`, or stop at the first.
    corruption, severity: a damage of CORRUPTIONS, 1 to 5 of it, done to every image when it is read.
    Raises UserError when files are missing or damaged, or cannot be downloaded or stored.
    """
    source = lookup("data set", name, DATASETS)
    if source.splits_in is None:
        lookup(f"split of {name}", split, source.splits)
    lookup("on_bad", on_bad, {"skip": True, "stop": True})
    size = source.image_size if image_size is None else image_size
    if not 8 <= size <= 1024:
        raise UserError(f"image size {size} is outside 8 to 1024. Try {source.image_size}.")
    check(corruption, severity)
    data = source.load(Want(name, split, size, Path(data_dir).expanduser() if data_dir else None, on_bad))
    if corruption == "identity":
        return data
    images = Corrupted(np.asarray(data.images), corruption, severity, seed_of(split))
    flip = data.flip and corruption not in ONE_WAY
    return replace(data, images=images, flip=flip, corruption=written(corruption, severity))


def splits_of(name: str, data_dir: str | Path | None = None) -> list[str]:
    """The splits a data set has: always the same, or those that the files in --data-dir list."""
    source = lookup("data set", name, DATASETS)
    found = source.splits_in(Path(data_dir).expanduser()) if source.splits_in and data_dir else []
    return found or list(source.splits)


def read_place(place: str) -> tuple[str, str | None, dict[str, Any]]:
    """`dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`: the name, the split if there is one, and what `load_data` is to be
    told of the corruption. Raises UserError."""
    _, name, *rest = place.split(":")
    lookup("data set", name, DATASETS)
    if len(rest) > 2:
        forms = "dataset:NAME, dataset:NAME:SPLIT or dataset:NAME:SPLIT:CORRUPTION-SEVERITY"
        raise UserError(f"{place} has too many colons. Write {forms}.")
    return name, rest[0] if rest else None, read(rest[1]) if rest[1:] else {}


def one_hot(classes: Sequence[int] | NDArray[np.integer], count: int) -> Pixels:
    """Class numbers [N], -1 for none -> uint8 [N,count]."""
    return (np.asarray(classes)[:, None] == np.arange(count)).astype(np.uint8)


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
        download(want.name, folder, want.root / folder, where)
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
        where = f"{archive}, or the folder {folder} out of it, into {want.root}"
        download(want.name, classes, want.root / folder, where, archive)
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


# --- folders, CelebA and iCLEVR: image files -------------------------------------------------------------------------

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
    files = Files(place, root, paths, want.image_size, want.on_bad).load(threads())
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
        download(want.name, "CelebA", want.root / "celeba", f"{files} into {want.root / 'celeba'}")
    root = celeba_root(want.data_dir) or want.root
    pictures = root / "img_align_celeba"
    first = CELEBA_FIRST[want.split]
    names = {f"{number:06d}.jpg" for number in range(first, first + CELEBA_COUNT[want.split])}
    paths = sorted(name for name in os.listdir(pictures) if name in names)
    if not paths:
        raise UserError(f"{pictures} holds none of {min(names)} to {max(names)}. Unzip it again.")
    place = f"celeba-{want.split}-{want.image_size}"
    loaded = Files(place, pictures, paths, want.image_size, want.on_bad).load(threads())
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


def load_iclevr(want: Want) -> ImageData:
    """iCLEVR's scenes, and what `minidiff data export` writes; see `iclevr.py` for the files.

    The 320x240 images are squeezed to a square, for a solid that stands outside the centre square is on its list of
    labels all the same. Not to be mirrored: the lamps have their sides.
    """
    if want.data_dir is None:
        raise UserError("the data set 'iclevr' needs --data-dir, the folder with objects.json, train.json and images.")
    root = Path(os.path.abspath(want.data_dir))
    names = iclevr.read_names(root)
    listed = iclevr.read_listing(root, want.split, names)
    folder, paths, notes = iclevr.find_images(root, iclevr.listing(want.split), list(listed), want.on_bad)
    place = f"iclevr-{want.split}-{want.image_size}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
    files = Files(place, folder, paths, want.image_size, want.on_bad, squeeze).load(threads())
    labels = np.zeros((len(files.kept), len(names)), np.uint8)
    for row, kept in enumerate(files.kept):
        labels[row, listed[paths[kept]]] = 1
    return ImageData(want.name, files.images, labels, names, flip=False, notes=notes + files.notes)


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
    "iclevr": Source(
        load_iclevr, {"train": None}, 64, 3, "of objects.json: 8 colours x 3 solids", "--data-dir",
        lambda data_dir: bool(data_dir and os.path.isfile(data_dir / iclevr.OBJECTS) and iclevr.splits_in(data_dir)),
        iclevr.splits_in,
    ),
    "folder": Source(
        load_folder, {"train": None}, 64, 3, "first-level sub-folders", "--data-dir",
        lambda data_dir: bool(data_dir and data_dir.is_dir()),
    ),
}  # fmt: skip
