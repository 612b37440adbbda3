"""Images in .npy and .npz files: read a few at a time, and brought to uint8 RGB whatever form they came in.

Rests on sources (what an image source is), statistics (a .npz can hold these instead) and images.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import UserError, one_line
from minidiff.images.convert import Pixels, as_bytes, value_range
from minidiff.metrics.sources import ImageSource, own_slices
from minidiff.metrics.statistics import StoredStatistics, open_statistics

BLOCK = 256  # images that are checked at a time


class ArrayFile:
    """Reads an array in a .npy file, or one of those in a .npz file, a few rows at a time. Nothing is unpickled."""

    def __init__(self, path: Path, member: str | None = None) -> None:
        self.path, self.member = path, member
        with self.open() as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = header(file)
            self.start = file.tell()
        if self.dtype.hasobject:
            raise UserError(f"{self} holds Python objects. Save it as an array of numbers.")
        if fortran and len(self.shape) > 1:
            raise UserError(f"{self} is in Fortran order. Save np.ascontiguousarray(array) instead.")

    def __str__(self) -> str:
        return f"{self.path}" + (f" ({self.member.removesuffix('.npy')})" if self.member else "")

    def open(self) -> IO[bytes]:
        """Open the bytes of the array, header included."""
        if self.member is None:
            return open(self.path, "rb")
        return zipfile.ZipFile(self.path).open(self.member)

    def read(self, parts: Iterable[slice]) -> Iterator[NDArray[Any]]:
        """Yield these rows. The slices must ascend. Raise UserError if the file ends too early."""
        row = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        with self.open() as file:
            for part in parts:
                first, last, _ = part.indices(self.shape[0])
                size = max(0, last - first) * row
                try:
                    if size:  # torchrun's last process can have none, beyond the end
                        file.seek(self.start + first * row)
                    content = file.read(size)
                except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
                    raise UserError(f"{self} is damaged ({one_line(error)}). Write it again.") from None
                if len(content) < size:
                    raise UserError(f"{self} is cut short: it ends before its last image. Write it again.")
                yield np.frombuffer(content, self.dtype).reshape(max(0, last - first), *self.shape[1:])


def open_file(place: str) -> ImageSource | StoredStatistics:
    """Open a .npy or .npz file: images, or the statistics of their features."""
    path = Path(place).expanduser()
    try:
        if path.suffix.lower() == ".npy":
            return open_array(place, ArrayFile(path))
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        for dimensions in ((4,), (3,)):  # an array of four dimensions goes first, wherever it stands
            for name in ("images", "arr_0", *members):
                if name in members and len((array := ArrayFile(path, members[name])).shape) in dimensions:
                    return open_array(place, array)
        if {"mu", "sigma"} <= members.keys():
            return open_statistics(place)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        mend = "Write it again with np.save or np.savez"
        raise UserError(f"{place} cannot be read ({one_line(error)}). {mend}.") from None
    raise UserError(
        f"{place} holds {', '.join(members) or 'nothing'}. Give images [N,H,W,3], or statistics as mu and sigma."
    )


def open_array(place: str, array: ArrayFile) -> ImageSource:
    """Open an array as images: [N,H,W,3], [N,H,W,1], [N,H,W] or channels first; of bytes, other integers or floats."""
    shape = list(array.shape)
    channels_first = len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3)
    if not (channels_first or len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))) or 0 in shape:
        raise UserError(f"{array} is {shape}. Images are [N,H,W,3], [N,H,W,1], [N,H,W] or [N,3,H,W].")
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
        same=str(array.path.resolve()),
    )  # fmt: skip


def value_range_of(array: ArrayFile) -> str:
    """Return `bytes` for uint8; else read all values once, and return the one of VALUE_RANGES that holds them."""
    if array.dtype == np.uint8:
        return "bytes"
    if array.dtype.kind not in "fiub":
        raise UserError(f"{array} is of type {array.dtype}. Give uint8, or floats in [0, 1] or [-1, 1].")
    low, high = np.inf, -np.inf
    parts = [slice(first, first + BLOCK) for first in range(0, array.shape[0], BLOCK)]
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
