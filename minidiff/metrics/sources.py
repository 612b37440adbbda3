"""Images to be measured: a folder, an array or a data set, each as a stream of batches of uint8 images.

Files from elsewhere hold images in many forms. Here each becomes uint8 [n,H,W,3] by a stated rule, and what was changed
is kept, to be told. One batch at a time is held, and under torchrun each process takes its share of the batches.
Rests on images and data. Statistics in place of images: `statistics`. Arrays in files: `array_files`.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from minidiff.data.cache import image_paths, threads
from minidiff.data.datasets import ImageData, read_place
from minidiff.errors import UserError, one_line
from minidiff.images.convert import Pixels
from minidiff.images.files import image_shape, read_image
from minidiff.metrics.statistics import StoredStatistics
from minidiff.runtime import distributed
from minidiff.training.data import load_together

Batch = Pixels | list[Pixels]  # uint8 [n,H,W,3], or a list of uint8 [H,W,3] where the sizes differ
Value = TypeVar("Value")


@dataclass
class ImageSource:
    """A set of images that can be read batch by batch.

    batches: takes a batch size and yields this process's batches in order. Every process gets equally many; the last
    one can be empty.
    """

    name: str  # as it was asked for
    count: int
    size: str  # height x width, in words
    batches: Callable[[int], Iterator[Batch]]
    changes: list[str] = field(default_factory=list)  # what was done to make the images uint8 RGB, in words
    held: str = "bytes"  # the range of values that the images came in
    fingerprint: str | None = None  # equal for equal images, if it can be known without reading all of them; else None
    sampled: bool = False  # whether a model draws the images when they are asked for
    same: str | None = None  # equal for the same images, however they were named; None if that is not known
    arrays: str = ""  # the name of the array, out of a .npz
    unused: list[str] = field(default_factory=list)  # the names of the other arrays there
    statistics: StoredStatistics | None = None  # that lie beside the images in one file, as in ADM's reference batches


def own_slices(count: int, batch_size: int) -> Iterator[slice]:
    """Return this process's batches of `count` images, as slices. See `distributed.shares`."""
    return (slice(batch.start, batch.stop) for batch in distributed.shares(count, batch_size))


# --- data sets ----------------------------------------------------------------------------------------------------


def open_dataset(place: str, data_dir: str | Path | None, image_size: int | None) -> ImageSource:
    """Open `dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`. Without a SPLIT it is the training split."""
    name, split, corruption = read_place(place)
    data = load_together(name, data_dir=data_dir, image_size=image_size, split=split or "train", **corruption)
    source = dataset_source(place, data)
    if name == "folder":
        source.changes.append(f"cut to the centre square and resized to {source.size}, as for a training")
    return source


def dataset_source(name: str, data: ImageData) -> ImageSource:
    """Return the images of a loaded data set as a source."""
    height, width, channels = data.images.shape[1:]
    fingerprint = data.fingerprint()
    return ImageSource(
        name, len(data), f"{height}x{width}",
        lambda batch_size: (data.rgb(part) for part in own_slices(len(data), batch_size)),
        data.notes + ["grey repeated to RGB"] * (channels == 1), fingerprint=fingerprint, same=fingerprint,
    )  # fmt: skip


# --- folders ------------------------------------------------------------------------------------------------------


def open_folder(place: str) -> ImageSource:
    """Open every image file in a folder and its sub-folders. Raise UserError for the first one that is not readable."""
    root = Path(place).expanduser()
    paths = [root / path for path in image_paths(root)]
    if not paths:
        raise UserError(f"{place} holds no images. Give a folder of .png or .jpg files.")
    with ThreadPoolExecutor(threads()) as pool:  # the headers first: most bad files are found before the long work
        shapes = set(pool.map(naming_the_file(image_shape), paths))
    sizes = sorted(shapes)
    size = "x".join(map(str, sizes[0])) + (f" to {'x'.join(map(str, sizes[-1]))}" if len(sizes) > 1 else "")
    folders = {path.parent for path in paths}
    changes = [f"{len(sizes)} different sizes"] * (len(sizes) > 1) + [f"in {len(folders)} folders"] * (len(folders) > 1)
    return ImageSource(place, len(paths), size, partial(decode_ahead, paths), changes, same=str(root.resolve()))


def decode_ahead(paths: Sequence[Path], batch_size: int) -> Iterator[Batch]:
    """Yield batches of image files. While one is in use, threads decode the next."""
    waiting: list[list[Future[Pixels]]] = []
    with ThreadPoolExecutor(threads()) as pool:
        for part in own_slices(len(paths), batch_size):
            waiting.append([pool.submit(naming_the_file(read_image), path) for path in paths[part]])
            if len(waiting) > 1:
                yield as_batch([future.result() for future in waiting.pop(0)])
        for futures in waiting:
            yield as_batch([future.result() for future in futures])


def as_batch(images: list[Pixels]) -> Batch:
    """Stack the images into one array if they are of one size; else return the list."""
    return np.stack(images) if len({image.shape for image in images}) == 1 else images


def naming_the_file(read: Callable[[Path], Value]) -> Callable[[Path], Value]:
    """Wrap `read` so that any failure becomes one line that names the file and the mend."""

    def reading(path: Path) -> Value:
        try:
            return read(path)
        except Exception as error:  # there is no end to what Pillow raises on damaged files
            message = str(error) if isinstance(error, UserError) else f"{path} is not readable ({one_line(error)})."
            raise UserError(f"{message} Mend or remove it.") from None

    return reading
