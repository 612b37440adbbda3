"""The data sets by name: `load_data("fashion-mnist")` gives images and labels as plain uint8 arrays.

Rests on small_sets and picture_sets, which have the loaders, and on corrupted. To add a set, write one function and one
entry of DATASETS.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minidiff.data import iclevr, shapes
from minidiff.data.corrupted import Corrupted, read, seed_of, written
from minidiff.data.corruptions import ONE_WAY, check
from minidiff.data.image_data import DataSet, LoadRequest
from minidiff.data.image_data import ImageData as ImageData
from minidiff.data.picture_sets import CELEBA_COUNT, celeba_root, load_celeba, load_folder, load_iclevr
from minidiff.data.small_sets import CLOTHES, DEBIAN, DIGITS, cifar, load_shapes, mnist_like
from minidiff.errors import UserError, lookup

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
    "folder": DataSet(
        load_folder, {"train": None}, 64, 3, "first-level sub-folders", "`data_dir`",
        lambda data_dir: bool(data_dir and data_dir.is_dir()),
    ),
}  # fmt: skip


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
    """Load one split of a data set of DATASETS.

    data_dir: where its files are or will be put; by default the cache folder. image_size: height and width; by default
    the set's own. 28x28 images become 32x32 by a margin of zeros; all other changes of size are a resize.
    on_bad: skip images that cannot be read, and say so in `notes`, or stop at the first.
    corruption, severity: one of CORRUPTIONS, done to every image when it is read, and how much of it, 1 to 5.
    Raises UserError when files are missing or damaged, or cannot be downloaded or stored.
    """
    found = lookup("data set", name, DATASETS)
    if found.splits_in is None:
        lookup(f"split of {name}", split, found.splits)
    lookup("on_bad", on_bad, {"skip": True, "stop": True})
    size = found.image_size if image_size is None else image_size
    if not 8 <= size <= 1024:
        raise UserError(f"image size {size} is outside 8 to 1024. Try {found.image_size}.")
    check(corruption, severity)
    data = found.load(LoadRequest(name, split, size, Path(data_dir).expanduser() if data_dir else None, on_bad))
    if corruption == "identity":
        return data
    images = Corrupted(np.asarray(data.images), corruption, severity, seed_of(split))
    flip = data.flip and corruption not in ONE_WAY
    return replace(data, images=images, flip=flip, corruption=written(corruption, severity))


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
