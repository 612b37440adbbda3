"""Images in .npy and .npz files: read a few at a time, and brought to uint8 RGB whatever form they came in.

Rests on arrays, sources (what an image source is), statistics (a .npz can hold these, too) and images.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.arrays import ArrayFile, open_npy, open_npz
from minidiff.errors import UserError, lookup, shown
from minidiff.images.convert import Pixels, as_bytes, value_range
from minidiff.metrics.sources import ImageSource, own_slices
from minidiff.metrics.statistics import DESCRIPTION, StoredStatistics, read_statistics

BLOCK = 1 << 24  # bytes that are checked at a time
STATISTICS = ("mu", "sigma")
SHOWN = 5  # arrays that a message names


def split_place(place: str) -> tuple[str, str | None]:
    """Split `FILE.npz:NAME` into the file and the name of one of its arrays; None if there is no name."""
    found = re.fullmatch(r"(.+\.npz):([^/]+)", place, re.IGNORECASE | re.DOTALL)
    if found is None or Path(place).expanduser().exists():
        return place, None
    return found[1], found[2]


def open_file(place: str, array: str | None = None) -> ImageSource | StoredStatistics:
    """Open a .npy or .npz file: images, or the statistics of their features, or images that have statistics.

    array: which array of a .npz is meant; None: the only one that it can be. Raise UserError.
    """
    path = Path(place).expanduser()
    if path.suffix.lower() == ".npy":
        return open_array(place, open_npy(path))
    arrays = open_npz(path)
    if array is not None:
        lookup(f"array of {place}", array, arrays)
        if array in STATISTICS and set(STATISTICS) <= arrays.keys():
            return chosen_statistics(place, arrays)
        return chosen_images(place, arrays, array)
    images = [name for name, found in arrays.items() if can_be_images(found)]
    statistics = set(STATISTICS) <= arrays.keys()
    if len(images) > 1:
        some = ", ".join(f"{place}:{name}" for name in [*STATISTICS[:1] * statistics, *images][:SHOWN])
        raise UserError(f"{place} holds {listing(arrays, images)}. Say which is meant: {some}.")
    if not images and statistics:
        return chosen_statistics(place, arrays)
    if not images:
        raise UserError(
            f"{place} holds {listing(arrays, list(arrays)) or 'no arrays'}. "
            "Give images [N,H,W,3], or statistics as mu and sigma."
        )
    source = chosen_images(place, arrays, images[0])
    if statistics:
        source.statistics = chosen_statistics(place, arrays)
        source.unused = [name for name in source.unused if name not in STATISTICS]
    return source


def listing(arrays: Mapping[str, ArrayFile], names: list[str]) -> str:
    """Name arrays with their types and shapes, the first of them if there are many."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"{name} ({arrays[name].described})" for name in names[:SHOWN]) + more


def chosen_statistics(place: str, arrays: Mapping[str, ArrayFile]) -> StoredStatistics:
    """Read the statistics of a .npz, and note which of its arrays are not used."""
    stored = read_statistics(place, arrays)
    stored.unused = [name for name in arrays if name not in (*STATISTICS, DESCRIPTION)]
    return stored


def chosen_images(place: str, arrays: Mapping[str, ArrayFile], name: str) -> ImageSource:
    """Open one array of a .npz as images, and note which of its arrays are not used."""
    source = open_array(place, arrays[name])
    source.arrays, source.unused = name, [other for other in arrays if other not in (name, DESCRIPTION)]
    return source


def can_be_images(array: ArrayFile) -> bool:
    """Tell whether an array has the shape and the type of images, see `open_array`."""
    shape = array.shape
    many = len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3) or shape[1] in (1, 3)))
    return many and array.dtype.kind in "fiub" and 0 not in shape


def open_array(place: str, array: ArrayFile) -> ImageSource:
    """Open an array as images: [N,H,W,3], [N,H,W,1], [N,H,W] or channels first; of bytes, other integers or floats."""
    array.check_plain()
    shape = list(array.shape)
    channels_first = len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3)
    if not (channels_first or len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))) or 0 in shape:
        raise UserError(f"{array} is {shown(shape)}. Images are [N,H,W,3], [N,H,W,1], [N,H,W] or [N,3,H,W].")
    if len(shape) == 3 and shape[2] == 3:
        raise UserError(f"{array} is {shape}, a single image. A distance needs many. Give [N,H,W,3].")
    height, width = shape[2:] if channels_first else shape[1:3]
    grey = len(shape) == 3 or shape[1 if channels_first else 3] == 1
    held = value_range_of(array)
    changes = [f"{array.dtype} in {held} to bytes"] * (held != "bytes")
    changes += ["channels first to last"] * channels_first + ["grey repeated to RGB"] * grey

    def as_rgb(block: NDArray[Any]) -> Pixels:
        images = block if held == "bytes" else as_bytes(block, held)
        images = images.reshape(len(block), height, width, 1) if grey else images
        images = images.transpose(0, 2, 3, 1) if channels_first and not grey else images
        return np.ascontiguousarray(np.broadcast_to(images, (len(block), height, width, 3)))

    return ImageSource(
        place, shape[0], f"{height}x{width}",
        lambda batch_size: (as_rgb(block) for block in array.read(own_slices(shape[0], batch_size))), changes, held,
        same=f"{array.path.resolve()}:{array.member or ''}",
    )  # fmt: skip


def value_range_of(array: ArrayFile) -> str:
    """Return `bytes` for uint8; else read all values once, and return the one of VALUE_RANGES that holds them."""
    if array.dtype == np.uint8:
        return "bytes"
    if array.dtype.kind not in "fiub":
        raise UserError(f"{array} is of type {array.dtype}. Give uint8, or floats in [0, 1] or [-1, 1].")
    low, high = np.inf, -np.inf
    rows = max(1, BLOCK // (array.dtype.itemsize * math.prod(array.shape[1:])))
    parts = [slice(first, first + rows) for first in range(0, array.shape[0], rows)]
    for part, block in zip(parts, array.read(parts), strict=True):
        least, most = float(block.min()), float(block.max())
        if not np.isfinite([least, most]).all():
            bad = np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(axis=1))[0]
            raise UserError(f"{array}: image {part.start + bad} has values that are not finite numbers (NaN or inf).")
        low, high = min(low, least), max(high, most)
    if array.dtype.kind in "iu" and not (low >= 0 and 1 < high <= 255):
        raise UserError(f"{array} holds integers from {low:g} to {high:g}. Images are bytes, 0 to 255.")
    if array.dtype.kind in "iu":
        return "[0, 255]"
    try:
        return value_range(low, high)
    except UserError as error:
        raise UserError(f"{array}: {error}") from None
