"""What can be compared: a folder, an array, a data set or a trained run, each as a stream of uint8 images.

Files from elsewhere hold images in many forms; here each becomes uint8 [n,H,W,3], by a stated rule, and what was
changed is kept to be said. Statistics (`mu`, `sigma`) stand for images that are not at hand. Rests on images, data and
pipeline. A batch at a time is all that is ever held, and under torchrun each process takes its share of the batches.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from minidiff.data.cache import image_paths, threads
from minidiff.data.datasets import ImageData, read_place
from minidiff.errors import UserError, one_line
from minidiff.files import printable, write_atomically
from minidiff.images.convert import Pixels, as_bytes, value_range
from minidiff.images.files import image_shape, read_image
from minidiff.runtime import distributed
from minidiff.training.job import load_together

Batch = Pixels | list[Pixels]  # uint8 [n,H,W,3], or where sizes differ a list of uint8 [H,W,3]


@dataclass
class Source:
    """Images to be measured.

    batches: given a batch size, this process's batches in order; every process gets as many, the last may be empty.
    changes: what was done to make the images uint8 RGB, in words. held: the range of values they came in.
    fingerprint: the same for the same images, where that is known without reading them all; else None.
    sampled: whether they are drawn from a model as they are asked for. same: equal for the same images, however they
    were named.
    """

    name: str  # as it was asked for
    count: int
    size: str  # height x width, in words
    batches: Callable[[int], Iterator[Batch]]
    changes: list[str] = field(default_factory=list)
    held: str = "bytes"
    fingerprint: str | None = None
    sampled: bool = False
    same: str | None = None


@dataclass
class Stored:
    """Mean and covariance of features, out of a file, in place of images.

    count: of how many images, where the file says it. about: the feature network and mode, where it says them.
    """

    name: str
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int | None = None
    about: dict[str, Any] = field(default_factory=dict)


def shares(count: int, batch_size: int) -> Iterator[slice]:
    """This process's batches of `count` images, as slices; see `distributed.shares`."""
    return (slice(batch.start, batch.stop) for batch in distributed.shares(count, batch_size))


# --- data sets and runs -------------------------------------------------------------------------------------------


def open_dataset(place: str, data_dir: str | Path | None, image_size: int | None) -> Source:
    """`dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`; the training split when none is named."""
    name, split, corruption = read_place(place)
    data = load_together(name, data_dir=data_dir, image_size=image_size, split=split or "train", **corruption)
    source = of_data(place, data)
    if name == "folder":
        source.changes.append(f"cut to the centre square and resized to {source.size}, as for a training")
    return source


def of_data(name: str, data: ImageData) -> Source:
    """The images of a data set that is loaded."""
    height, width, channels = data.images.shape[1:]
    fingerprint = data.fingerprint()
    return Source(
        name, len(data), f"{height}x{width}",
        lambda batch_size: (data.rgb(part) for part in shares(len(data), batch_size)),
        data.notes + ["grey repeated to RGB"] * (channels == 1), fingerprint=fingerprint, same=fingerprint,
    )  # fmt: skip


# --- folders ------------------------------------------------------------------------------------------------------


def open_folder(place: str) -> Source:
    """Every image file below a folder, sub-folders included. All must be readable; the first that is not is named."""
    root = Path(place).expanduser()
    paths = [root / path for path in image_paths(root)]
    if not paths:
        raise UserError(f"{place} holds no images. Give a folder of .png or .jpg files.")
    with ThreadPoolExecutor(threads()) as pool:  # the headers first: most bad files are found before the long work
        shapes = set(pool.map(named(image_shape), paths))
    sizes = sorted(shapes)
    size = "x".join(map(str, sizes[0])) + (f" to {'x'.join(map(str, sizes[-1]))}" if len(sizes) > 1 else "")
    folders = {path.parent for path in paths}
    changes = [f"{len(sizes)} different sizes"] * (len(sizes) > 1) + [f"in {len(folders)} folders"] * (len(folders) > 1)
    batches = partial(decoded_ahead, paths)
    return Source(place, len(paths), size, batches, changes, same=str(root.resolve()))


def decoded_ahead(paths: Sequence[Path], batch_size: int) -> Iterator[Batch]:
    """Batches of image files, the next one decoded by threads while this one is in use."""
    waiting: list[list[Future[Pixels]]] = []
    with ThreadPoolExecutor(threads()) as pool:
        for part in shares(len(paths), batch_size):
            waiting.append([pool.submit(named(read_image), path) for path in paths[part]])
            if len(waiting) > 1:
                yield together([future.result() for future in waiting.pop(0)])
        for futures in waiting:
            yield together([future.result() for future in futures])


def together(images: list[Pixels]) -> Batch:
    """A list of images as one array, where they are of one size."""
    return np.stack(images) if len({image.shape for image in images}) == 1 else images


def named(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """`read`, with any failure as one line that says which file, and the mend."""

    def reading(path: Path) -> Any:
        try:
            return read(path)
        except Exception as error:  # there is no end to what Pillow raises on damaged files
            message = str(error) if isinstance(error, UserError) else f"{path} is not readable ({one_line(error)})."
            raise UserError(printable(f"{message} Mend or remove it.")) from None

    return reading


# --- arrays -------------------------------------------------------------------------------------------------------

BLOCK = 256  # images looked at at a time


class Rows:
    """The rows of an array in a .npy, or of one in a .npz: read a few at a time, never all. Nothing is unpickled."""

    def __init__(self, path: Path, member: str | None = None) -> None:
        self.path, self.member = path, member
        with self.opened() as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, fortran, self.dtype = header(file)
            self.start = file.tell()
        if self.dtype.hasobject:
            raise UserError(f"{self} holds Python objects. Save it as an array of numbers.")
        if fortran and len(self.shape) > 1:
            raise UserError(f"{self} is in Fortran order. Save np.ascontiguousarray of it.")

    def __str__(self) -> str:
        return f"{self.path}" + (f" ({self.member.removesuffix('.npy')})" if self.member else "")

    def opened(self) -> IO[bytes]:
        if self.member is None:
            return open(self.path, "rb")
        return zipfile.ZipFile(self.path).open(self.member)

    def read(self, parts: Iterable[slice]) -> Iterator[NDArray[Any]]:
        """These rows, which must come in ascending order. Raises UserError when the file ends too early."""
        row = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        with self.opened() as file:
            for part in parts:
                first, last, _ = part.indices(self.shape[0])
                size = max(0, last - first) * row
                try:
                    if size:  # none, for the last process of torchrun, lies beyond the end
                        file.seek(self.start + first * row)
                    content = file.read(size)
                except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
                    raise UserError(f"{self} is damaged ({one_line(error)}). Write it again.") from None
                if len(content) < size:
                    raise UserError(f"{self} ends before its last image: the file is cut short. Write it again.")
                yield np.frombuffer(content, self.dtype).reshape(max(0, last - first), *self.shape[1:])


def open_file(place: str) -> Source | Stored:
    """A .npy or .npz: images, or the statistics of a feature network."""
    path = Path(place).expanduser()
    try:
        if path.suffix.lower() == ".npy":
            return open_array(place, Rows(path))
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        for dimensions in ((4,), (3,)):  # an array [N,H,W,3], wherever it stands, is images before one [N,H,W] is
            for name in ("images", "arr_0", *members):
                if name in members and len((rows := Rows(path, members[name])).shape) in dimensions:
                    return open_array(place, rows)
        if {"mu", "sigma"} <= members.keys():
            return open_statistics(place)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, UserError):
            raise
        mend = "Write it again with np.save or np.savez"
        raise UserError(f"{place} cannot be read ({one_line(error)}). {mend}.") from None
    raise UserError(
        f"{place} holds {', '.join(members) or 'nothing'}: neither images [N,H,W,3] nor the statistics mu and sigma."
    )


def open_array(place: str, rows: Rows) -> Source:
    """Images in an array: [N,H,W,3], [N,H,W,1], [N,H,W], or channels first; bytes, other integers, or floats."""
    shape = list(rows.shape)
    channels_first = len(shape) == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3)
    if not (channels_first or len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))) or 0 in shape:
        raise UserError(f"{rows} is {shape}. Images are [N,H,W,3], [N,H,W,1], [N,H,W] or [N,3,H,W].")
    if len(shape) == 3 and shape[2] == 3:
        raise UserError(f"{rows} is {shape}, a single image. A distance is between many: give [N,H,W,3].")
    height, width = shape[2:] if channels_first else shape[1:3]
    grey = len(shape) == 3 or shape[1 if channels_first else 3] == 1
    held = range_held(rows)
    changes = [f"{rows.dtype} in {held} to bytes"] * (held != "bytes")
    changes += ["channels first to last"] * channels_first + ["grey repeated to RGB"] * grey

    def unified(block: NDArray[Any]) -> Pixels:
        images = block if held == "bytes" else as_bytes(block, held)
        images = images.reshape(len(block), height, width, 1) if grey else images
        images = images.transpose(0, 2, 3, 1) if channels_first and not grey else images
        return np.ascontiguousarray(np.broadcast_to(images, (len(block), height, width, 3)))

    return Source(
        place, shape[0], f"{height}x{width}",
        lambda batch_size: (unified(block) for block in rows.read(shares(shape[0], batch_size))), changes, held,
        same=str(rows.path.resolve()),
    )  # fmt: skip


def range_held(rows: Rows) -> str:
    """`bytes` for uint8, else the one of VALUE_RANGES that all values are in, found by reading them once."""
    if rows.dtype == np.uint8:
        return "bytes"
    if rows.dtype.kind not in "fiub":
        raise UserError(f"{rows} is of type {rows.dtype}. Give uint8, or floats in [0, 1] or [-1, 1].")
    low, high = np.inf, -np.inf
    parts = [slice(first, first + BLOCK) for first in range(0, rows.shape[0], BLOCK)]
    for part, block in zip(parts, rows.read(parts), strict=True):
        least, most = float(block.min()), float(block.max())
        if not np.isfinite([least, most]).all():
            bad = np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(axis=1))[0]
            raise UserError(f"{rows}: image {part.start + bad} has values that are not finite numbers (NaN or inf).")
        low, high = min(low, least), max(high, most)
    if rows.dtype.kind in "iu" and not (low >= 0 and 1 < high <= 255):
        raise UserError(f"{rows} holds integers from {low:g} to {high:g}. Images are bytes, 0 to 255.")
    if rows.dtype.kind in "iu":
        return "[0, 255]"
    try:
        return value_range(low, high)
    except UserError as error:
        raise UserError(f"{rows}: {error}") from None


# --- statistics ---------------------------------------------------------------------------------------------------


def open_statistics(place: str) -> Stored:
    """The .npz that pytorch-fid, clean-fid and `save_statistics` write: mu [d], sigma [d,d]."""
    path = Path(place).expanduser()
    try:
        with np.load(path, allow_pickle=False) as stored:
            mean, covariance = stored["mu"], stored["sigma"]
            about = json.loads(str(stored["minidiff"])) if "minidiff" in stored else {}
        if not isinstance(about, dict) or not isinstance(about.get("seen", {}), dict):
            raise ValueError("what it says of itself is no table")
    except (ValueError, KeyError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{place} is damaged ({one_line(error)}). Compute the statistics anew.") from None
    if mean.dtype.kind not in "fiu" or covariance.dtype.kind not in "fiu":
        raise UserError(f"{place}: mu is {mean.dtype} and sigma {covariance.dtype}. Statistics are real numbers.")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not len(mean):
        raise UserError(
            f"{place}: mu is {list(mean.shape)} and sigma {list(covariance.shape)}, which do not fit. "
            "Statistics are [d] and [d,d]."
        )
    mean, covariance = mean.astype(np.float64), np.ascontiguousarray(covariance, np.float64)
    if not np.isfinite(mean).all() or not np.isfinite(covariance).all():
        raise UserError(f"{place} holds values that are not finite numbers. Compute the statistics anew.")
    if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-6 * np.abs(covariance).max()):
        raise UserError(f"{place}: sigma is not symmetric, so it is no covariance. Compute the statistics anew.")
    if (covariance.diagonal() < 0).any():
        raise UserError(f"{place}: sigma has a negative variance, so it is no covariance. Compute the statistics anew.")
    return Stored(place, mean, covariance, about.get("count"), about)


def save_statistics(path: Path, stored: Stored) -> None:
    """mu and sigma in the .npz that pytorch-fid reads, with what they were computed with beside them."""
    mu, sigma = stored.mean, stored.covariance
    about = np.array(json.dumps(stored.about | {"count": stored.count}))
    write_atomically(path, lambda file: np.savez(file, mu=mu, sigma=sigma, minidiff=about))
