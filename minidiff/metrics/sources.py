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
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from minidiff.data.cache import image_paths, left_out, threads
from minidiff.data.config import called
from minidiff.data.datasets import ImageData, read_place
from minidiff.errors import NoMemory, UserError, one_line
from minidiff.images.budget import LARGE, MAX_PIXELS
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.files import image_shape, read_image
from minidiff.metrics.statistics import StoredStatistics
from minidiff.runtime import distributed
from minidiff.training.data import load_together

Batch = Pixels | list[Pixels]  # uint8 [n,H,W,3], or a list of uint8 [H,W,3] where the sizes differ
Value = TypeVar("Value")

HELD = 1 << 30  # bytes of decoded files at a time: the batch in use twice, as images and as an array, and the next one


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
    data: str | None = None  # the data set they are of, or were trained on, as `called` names it; None: not known
    arrays: str = ""  # the name of the array, out of a .npz
    unused: list[str] = field(default_factory=list)  # the names of the other arrays there
    files: "ImageFiles | None" = None  # of a folder; some can turn out to be bad while they are read
    most: int | None = None  # of its images that fit into memory together, if they are files; None: any number
    statistics: StoredStatistics | None = None  # that lie beside the images in one file, as in ADM's reference batches


def own_slices(count: int, batch_size: int) -> Iterator[slice]:
    """Return this process's batches of `count` images, as slices. See `distributed.shares`."""
    return (slice(batch.start, batch.stop) for batch in distributed.shares(count, batch_size))


# --- models that draw ---------------------------------------------------------------------------------------------


def drawn_source(
    name: str, count: int, shape: Sequence[int], draw: Callable[..., Tensor], how: list[str], same: str, of: str | None
) -> ImageSource:
    """Make a source of `count` images that a model draws when they are read. shape: C, H and W.

    draw(indices, batch_size=...): draw the images with these numbers, float [n,C,H,W] in [-1,1]; image k is always the
    same. how: how it draws, in words. same: see `ImageSource`. of: the data set that it was trained on.
    """

    def batches(batch_size: int) -> Iterator[Batch]:
        for mine in distributed.shares(count, batch_size):
            yield to_uint8(draw(mine, batch_size=batch_size))

    channels, height, width = shape
    changes = how + ["grey repeated to RGB"] * (channels == 1)
    return ImageSource(name, count, f"{height}x{width}", batches, changes, sampled=True, same=same, data=of)


# --- data sets ----------------------------------------------------------------------------------------------------


def open_dataset(
    place: str,
    data_dir: str | Path | None,
    image_size: int | None,
    on_bad: Literal["skip", "stop"] = "skip",
    max_pixels: int = MAX_PIXELS,
) -> ImageSource:
    """Open `dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`. Without a SPLIT it is the training split."""
    name, split, corruption = read_place(place)
    data = load_together(
        name,
        data_dir=data_dir,
        image_size=image_size,
        split=split or "train",
        on_bad=on_bad,
        max_pixels=max_pixels,
        **corruption,
    )
    source = dataset_source(place, data, called(name, data_dir))
    if name == "folder":
        source.changes.append(f"cut to the centre square and resized to {source.size}, as for a training")
    if name == "photos":
        source.changes.append("crops of photographs, as for a training")
    return source


def dataset_source(name: str, data: ImageData, of: str) -> ImageSource:
    """Return the images of a loaded data set as a source. of: the data set, as `called` names it."""
    height, width, channels = data.images.shape[1:]
    fingerprint = data.fingerprint()
    return ImageSource(
        name, len(data), f"{height}x{width}",
        lambda batch_size: (data.rgb(part) for part in own_slices(len(data), batch_size)),
        data.notes + ["grey repeated to RGB"] * (channels == 1), fingerprint=fingerprint, same=fingerprint, data=of,
    )  # fmt: skip


# --- folders ------------------------------------------------------------------------------------------------------


def open_folder(place: str, on_bad: str = "skip", max_pixels: int = MAX_PIXELS) -> ImageSource:
    """Open every image file in a folder and its sub-folders.

    on_bad: skip the files that cannot be read, and name them in `changes`, or stop at the first of them. max_pixels: a
    file that declares more is one of these. Raise UserError.
    """
    root = Path(place).expanduser()
    names = image_paths(root)
    if not names:
        raise UserError(f"{place} holds no images. Give a folder of .png or .jpg files.")
    files = ImageFiles([root / name for name in names], names, on_bad == "stop", max_pixels)
    with ThreadPoolExecutor(threads()) as pool:  # the headers first: most bad files are found before the long work
        shapes = list(pool.map(partial(files.read, image_shape), range(len(names))))
    sound = [number for number, shape in enumerate(shapes) if shape is not None]
    if not sound:
        raise UserError(f"none of the {len(names)} image files in {place} can be read; {names[0]} is first.")
    largest = max(height * width for height, width in (shape for shape in shapes if shape is not None))
    sizes = sorted({shape for shape in shapes if shape is not None})
    size = "x".join(map(str, sizes[0])) + (f" to {'x'.join(map(str, sizes[-1]))}" if len(sizes) > 1 else "")
    folders = {files.paths[number].parent for number in sound}
    changes = [f"{len(sizes)} different sizes"] * (len(sizes) > 1) + [f"in {len(folders)} folders"] * (len(folders) > 1)
    batches = partial(decode_ahead, files, sound, int(largest <= LARGE))
    return ImageSource(
        place, len(sound), size, batches, changes, same=str(root.resolve()), files=files,
        most=max(1, HELD // (3 * 3 * largest)),
    )  # fmt: skip


@dataclass
class ImageFiles:
    """The image files of a folder. A bad one is noted and left out, or stops the reading."""

    paths: list[Path]
    names: list[str]  # of these, below the folder
    stop: bool  # at the first bad one
    max_pixels: int  # a file that declares more is a bad one
    bad: set[int] = field(default_factory=set)  # the numbers of those that could not be read, so far

    def read(self, how: Callable[..., Value], number: int) -> Value | None:
        """Return `how(path, max_pixels=...)` of a file, or None if it cannot be read.

        Raise UserError if that shall stop the reading, and NoMemory, of which the file is innocent.
        """
        path = self.paths[number]
        try:
            return how(path, max_pixels=self.max_pixels)
        except NoMemory:
            raise
        except Exception as error:  # there is no end to what Pillow raises on damaged files
            if self.stop:
                message = str(error) if isinstance(error, UserError) else f"{path} is not readable ({one_line(error)})."
                raise UserError(f"{message} Mend or remove it, or let `on_bad` skip such files.") from None
            self.bad.add(number)
            return None

    def remarks(self) -> list[str]:
        """Say which files were left out. Under torchrun every process learns what all of them have found."""
        mine = torch.tensor(sorted(self.bad), dtype=torch.int64)[:, None]
        self.bad = set(distributed.gather_rows(mine, len(self.paths))[:, 0].tolist())
        return [left_out([self.names[number] for number in sorted(self.bad)], len(self.names))] if self.bad else []


def decode_ahead(files: ImageFiles, numbers: Sequence[int], ahead: int, batch_size: int) -> Iterator[Batch]:
    """Yield batches of image files, without the bad ones.

    ahead: how many batches threads decode while one is in use; 0 for pictures of which memory has room for one batch.
    """
    waiting: list[list[Future[Pixels | None]]] = []
    with ThreadPoolExecutor(threads()) as pool:
        for part in own_slices(len(numbers), batch_size):
            waiting.append([pool.submit(files.read, read_image, number) for number in numbers[part]])
            if len(waiting) > ahead:
                yield as_batch([future.result() for future in waiting.pop(0)])
        for futures in waiting:
            yield as_batch([future.result() for future in futures])


def as_batch(found: list[Pixels | None]) -> Batch:
    """Stack the images that could be read into one array if they are of one size; else return the list."""
    images = [image for image in found if image is not None]
    if len(images) == 1:
        return images[0][None]
    return np.stack(images) if len({image.shape for image in images}) == 1 else images
