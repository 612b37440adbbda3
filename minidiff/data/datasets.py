"""The data sets by name: `load_data("fashion-mnist")` gives images and labels as plain uint8 arrays.

Rests on small_sets, picture_sets, photos and array_set, which have the loaders, on own_images, and on corrupted. To
add a set, write one function and one entry of DATASETS.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidiff.data import iclevr, shapes
from minidiff.data.array_set import array_size, load_array
from minidiff.data.corrupted import Corrupted, read, seed_of, written
from minidiff.data.corruptions import ONE_WAY, check
from minidiff.data.crops import Crops
from minidiff.data.image_data import DataSet, LoadRequest
from minidiff.data.image_data import ImageData as ImageData
from minidiff.data.own_images import own_images, own_size
from minidiff.data.photos import COUNTS, load_photos, present
from minidiff.data.picture_sets import CELEBA_COUNT, celeba_root, load_celeba, load_folder, load_iclevr
from minidiff.data.small_sets import CLOTHES, DEBIAN, DIGITS, cifar, load_shapes, mnist_like
from minidiff.errors import UserError, lookup
from minidiff.images.budget import MAX_PIXELS

LOG = logging.getLogger(__name__)

if TYPE_CHECKING:
    from minidiff.data.config import Images

DATASETS: dict[str, DataSet] = {
    "shapes": DataSet(
        load_shapes, dict(shapes.COUNTS), 32, 3, "24: 8 colours x 3 solids", "drawn by minidiff", lambda data_dir: True
    ),
    "mnist": mnist_like("MNIST", DIGITS, "10 digits", "download, 12 MB"),
    "fashion-mnist": mnist_like(
        "FashionMNIST", CLOTHES, "10 kinds of clothing", "Debian package or download, 31 MB", also=[DEBIAN],
        hint=", or on Debian and Ubuntu: apt install dataset-fashion-mnist",
    ),
    "cifar10": cifar("CIFAR10", "cifar-10-batches-py", "cifar-10-python.tar.gz", "10 animals and vehicles"),
    "cifar100": cifar("CIFAR100", "cifar-100-python", "cifar-100-python.tar.gz", "100 kinds of things"),
    "celeba": DataSet(
        load_celeba, dict(CELEBA_COUNT), 64, 3, "40 attributes", "download (needs gdown), 1.4 GB",
        lambda data_dir: celeba_root(data_dir) is not None,
    ),
    "iclevr": DataSet(
        load_iclevr, {"train": None}, 64, 3, "of objects.json: 8 colours x 3 solids", "`data_dir`",
        lambda data_dir: bool(data_dir and os.path.isfile(data_dir / iclevr.OBJECTS) and iclevr.splits_in(data_dir)),
        iclevr.splits_in,
    ),
    "photos": DataSet(
        load_photos, dict(COUNTS), 64, 3, "none", "Debian packages or `data_dir`",
        present, lambda data_dir: ["train"],
    ),
    "folder": DataSet(
        load_folder, {"train": None}, 64, 3, "first-level sub-folders", "`data_dir`",
        lambda data_dir: bool(data_dir and data_dir.is_dir()),
    ),
    "array": DataSet(
        load_array, {"train": None}, None, 3, "labels.npy beside it", "`data_dir`, a .npy file",
        lambda data_dir: bool(data_dir and data_dir.exists()), size_in=array_size,
    ),
}  # fmt: skip


def load_data(
    name: "Images",
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    split: str = "train",
    on_bad: str = "skip",
    corruption: str = "identity",
    severity: int = 3,
    flip: bool | None = None,
    max_pixels: int = MAX_PIXELS,
    labels: Any = None,
    label_names: Sequence[str] | None = None,
) -> ImageData:
    """Load one split of a data set of DATASETS; or a folder of images, a .npy file, or images that a script brings.

    name: a name of DATASETS, a path, or images in one of the forms of `own_images`.
    data_dir: where its files are or will be put; by default the cache folder. image_size: height and width; by default
    the set's own. 28x28 images become 32x32 by a margin of zeros; all other changes of size are a resize.
    on_bad: skip images that cannot be read, and say so in `notes`, or stop at the first.
    corruption, severity: one of CORRUPTIONS, done to every image when it is read, and how much of it, 1 to 5.
    flip: whether training may mirror the images; by default the set decides. max_pixels: a picture file that declares
    more is not read. labels, label_names: of images that a
    script brings, see `own_images`.
    Raises UserError when files are missing or damaged, or cannot be downloaded or stored, and for images in no form.
    """
    check(corruption, severity)
    check_brought(name, labels, label_names, data_dir)
    if brought(name):
        data = own_images(name, labels, label_names, image_size)
    else:
        data = load_named(*place_of(name, data_dir), image_size, split, on_bad, max_pixels)
    if flip is not None:
        data = replace(data, flip=flip)
    if corruption == "identity":
        return data
    assert isinstance(data.clean, np.ndarray | Crops), "hazy pairs are opened by hazy_sets"
    images = Corrupted(data.clean, corruption, severity, seed_of(split))
    mirrored = bool(flip) if flip is not None else data.flip and corruption not in ONE_WAY
    return replace(data, images=images, flip=mirrored, corruption=written(corruption, severity))


def load_named(
    name: str, data_dir: Path | None, image_size: int | None, split: str, on_bad: str, max_pixels: int
) -> ImageData:
    """Load a data set by its name. Raises UserError."""
    found = lookup("data set", name, DATASETS)
    if found.splits_in is None:
        lookup(f"split of {name}", split, found.splits)
    lookup("on_bad", on_bad, {"skip": True, "stop": True})
    if image_size is None:
        image_size = found.size_in(data_dir) if found.size_in else found.image_size
    assert image_size is not None
    if not 8 <= image_size <= 1024:
        raise UserError(f"image size {image_size} is outside 8 to 1024. Try {found.image_size or 64}.")
    began = time.perf_counter()
    data = found.load(LoadRequest(name, split, image_size, data_dir, on_bad, max_pixels))
    where = f" of {data_dir}" if data_dir else ""
    LOG.info(f"loaded {name} ({split}){where}: {len(data):,} images in {time.perf_counter() - began:.2f} s")
    return data


def brought(images: "Images") -> bool:
    """Tell whether images come from a script as they are, rather than as the name or the path of a data set."""
    return not isinstance(images, str | os.PathLike)


def check_brought(
    images: "Images", labels: object, label_names: Sequence[str] | None, data_dir: str | Path | None
) -> None:
    """Raise UserError for labels beside a data set that has its own, and for a place of images that need none."""
    if brought(images) and data_dir is not None:
        raise UserError("`data_dir` is for a data set by name, and here are the images themselves. Leave it out.")
    if not brought(images) and (labels is not None or label_names is not None):
        raise UserError("`labels` are for images that a script brings; a data set or a folder has its own.")


def place_of(images: "Images", data_dir: str | Path | None = None) -> tuple[str, Path | None]:
    """Return the data set of DATASETS that a name or a path means, and where its files are. Raises UserError.

    A path to a folder is the set `folder`, and to a .npy file `array`. A name of DATASETS is that set, also where a
    folder of the same name exists; write ./shapes for the folder.
    """
    where = Path(data_dir).expanduser() if data_dir else None
    if isinstance(images, str) and images in DATASETS:
        return images, where
    assert isinstance(images, str | os.PathLike)
    path = Path(images).expanduser()
    if not path.exists() and isinstance(images, str) and path.name == images:
        lookup("data set", images, DATASETS)  # raises, with the nearest name
    if where is not None:
        raise UserError(f"`data_dir` is for a data set by name, and {path} is a path. Leave it out.")
    if path.is_dir():
        return "folder", path
    if path.suffix == ".npz":
        raise UserError(f"{path} may hold several arrays. Give one of them: numpy.load({str(path)!r})['arr_0'].")
    return "array", path


def usual_size(images: "Images", data_dir: str | Path | None = None) -> int | None:
    """Return the size of images that have one of their own. None for a data set that has, or takes, any size.

    Raises UserError for images that are not square.
    """
    if brought(images):
        return own_size(images)
    name, where = place_of(images, data_dir)
    size_in = lookup("data set", name, DATASETS).size_in
    return size_in(where) if size_in else None


def splits_of(name: str, data_dir: str | Path | None = None) -> list[str]:
    """Return the splits of a data set. For some sets, the files in `data_dir` decide."""
    found = lookup("data set", name, DATASETS)
    listed = found.splits_in(Path(data_dir).expanduser()) if found.splits_in and data_dir else []
    return listed or list(found.splits)


def read_place(place: str) -> tuple[str, str | None, dict[str, Any]]:
    """Read `dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`: name, split or None, and corruption for `load_data`.

    Raises UserError.
    """
    _, name, *rest = place.split(":")
    lookup("data set", name, DATASETS)
    if len(rest) > 2:
        forms = "dataset:NAME, dataset:NAME:SPLIT or dataset:NAME:SPLIT:CORRUPTION-SEVERITY"
        raise UserError(f"{place} has too many colons. Write {forms}.")
    return name, rest[0] if rest else None, read(rest[1]) if rest[1:] else {}
