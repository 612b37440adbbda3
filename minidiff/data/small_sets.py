"""Sets of small images in files of their own kind: the embedded shapes, MNIST and FashionMNIST, CIFAR.

Rests on downloads (fetch and read), shapes (draw) and cache (keep what takes time).
LeCun et al. 1998 (MNIST), Xiao et al. 2017 (FashionMNIST), Krizhevsky 2009 (CIFAR).
"""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from minidiff.data import shapes
from minidiff.data.cache import Pictures, cache_dir
from minidiff.data.downloads import download, read_idx, reason_of
from minidiff.data.image_data import DataSet, ImageData, LoadRequest, one_hot, to_size
from minidiff.errors import UserError

# --- shapes ----------------------------------------------------------------------------------------------------------


def load_shapes(request: LoadRequest) -> ImageData:
    """Load the embedded set, which `shapes.py` draws. Its lamp stands on the left, so it must not be mirrored."""
    count, size, split = shapes.COUNTS[request.split], request.image_size, request.split
    pictures = Pictures(
        f"shapes-{split}-{size}", [shapes.VERSION, split], count, (size, size, 3),
        lambda i: shapes.draw(i, size, split=split),
    )  # fmt: skip
    labels = shapes.make_labels(count, split=split)
    return ImageData(request.name, pictures.load().images, labels, shapes.NAMES, flip=False)


# --- MNIST and FashionMNIST: IDX files -------------------------------------------------------------------------------

DIGITS = list("0123456789")
CLOTHES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package dataset-fashion-mnist puts it
IDX_NAMES = {"train": "train", "test": "t10k"}


def find_idx(request: LoadRequest, folder: str, also: Sequence[Path] = ()) -> list[Path]:
    """Find the image and the label file of a split: in torchvision's folder, in `data_dir` itself, or in `also`."""
    ends = ("images-idx3-ubyte", "labels-idx1-ubyte")
    for place in [request.root / folder / "raw", *([request.data_dir] if request.data_dir else also)]:
        names = [[place / f"{IDX_NAMES[request.split]}-{end}{gz}" for gz in ("", ".gz")] for end in ends]
        pair = [next((path for path in either if path.is_file()), None) for either in names]
        found = [path for path in pair if path]
        if len(found) == 2:
            return found
    return []


def load_idx(
    request: LoadRequest, folder: str, classes: list[str], also: Sequence[Path] = (), hint: str = ""
) -> ImageData:
    """Load a set in MNIST's format. folder: the name of the torchvision class, and of the folder that it makes."""
    if not find_idx(request, folder, also):
        ends = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
        files = ", ".join([*ends, *(end.replace("train", "t10k") for end in ends)])
        where = f"{files} into {request.data_dir or request.root / folder / 'raw'}{hint}"
        download(request.name, folder, request.root / folder, where)
    pair = find_idx(request, folder, also)
    images, labels = read_idx(pair[0], (28, 28)), read_idx(pair[1], ())
    if labels.shape != images.shape[:1] or not labels.size:
        raise UserError(
            f"{pair[0]} is {list(images.shape)} and {pair[1].name} {list(labels.shape)}; "
            f"{request.name} needs [N, 28, 28] and [N]. Fetch both again."
        )
    if labels.max() >= len(classes):
        raise UserError(
            f"{pair[1]} has a label {labels.max()}; {request.name} ends at {len(classes) - 1}. Fetch it anew."
        )
    return ImageData(
        request.name, to_size(images[..., None], request), one_hot(labels, len(classes)), classes, flip=False
    )


def mnist_like(
    folder: str, classes: list[str], labels: str, origin: str, also: Sequence[Path] = (), hint: str = ""
) -> DataSet:
    """Make an entry for a set in MNIST's format."""

    def present(data_dir: Path | None) -> bool:
        return all(find_idx(LoadRequest("", split, 32, data_dir, "skip"), folder, also) for split in IDX_NAMES)

    load = partial(load_idx, folder=folder, classes=classes, also=also, hint=hint)
    return DataSet(load, {"train": 60_000, "test": 10_000}, 32, 1, labels, origin, present)


# --- CIFAR-10 and CIFAR-100 ------------------------------------------------------------------------------------------


def load_cifar(request: LoadRequest, classes: str, folder: str, archive: str) -> ImageData:
    """Load a CIFAR set by torchvision, which checks each file against its checksum before it unpickles it."""
    import torchvision

    if not (request.root / folder).is_dir():
        where = f"{archive}, or the folder {folder} out of it, into {request.root}"
        download(request.name, classes, request.root / folder, where, archive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about the age of the pickles
            found = getattr(torchvision.datasets, classes)(str(request.root), train=request.split == "train")
    except (RuntimeError, OSError) as error:
        raise UserError(f"{request.root / folder} is incomplete or damaged ({reason_of(error)}). "
                        "Delete it, and it will be fetched again.") from None  # fmt: skip
    names = [name.replace("_", " ") for name in found.classes]
    images, labels = np.ascontiguousarray(found.data), one_hot(found.targets, len(names))
    return ImageData(request.name, to_size(images, request), labels, names, flip=True)


def cifar(classes: str, folder: str, archive: str, labels: str) -> DataSet:
    """Make an entry for CIFAR-10 or CIFAR-100."""
    load = partial(load_cifar, classes=classes, folder=folder, archive=archive)

    def present(data_dir: Path | None) -> bool:
        return ((data_dir or cache_dir()) / folder).is_dir()

    return DataSet(load, {"train": 50_000, "test": 10_000}, 32, 3, labels, "download, 170 MB", present)
