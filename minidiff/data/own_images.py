"""Images that a script brings along: arrays, tensors, pictures and torch's Datasets, each made an `ImageData`.

Rests on image_data and images. A set of images is held as bytes, so floats are rounded to 8 bits. Nothing is guessed:
images in another range than [-1, 1], of another shape or without a number in them are refused, with what to do.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from minidiff.data.crops import Crops
from minidiff.data.image_data import ImageData, one_hot
from minidiff.errors import UserError, listed, one_line, shown
from minidiff.files import size_in_words
from minidiff.images.convert import Pixels, as_bytes, value_range
from minidiff.images.files import crop_resize
from minidiff.runtime.progress import progress_bar

OWN = "array"  # the name of such a set
FORMS = "uint8 [N,H,W] or [N,H,W,C], or float [N,C,H,W] in [-1, 1], where C is 1 (grey) or 3 (colour)"
MAX_CLASSES = 1000
MOST_CROPS = 2 << 30  # bytes; crops of photographs become an array here, as all images do
BLOCK = 256  # images whose floats are held at a time
MENDS = {"[0, 1]": "images * 2 - 1", "[0, 255]": "images / 127.5 - 1, or give uint8"}


def own_images(
    images: Any,
    labels: Any = None,
    label_names: Sequence[str] | None = None,
    image_size: int | None = None,
    flip: bool | None = None,
) -> ImageData:
    """Turn images from a script into an `ImageData`.

    images: an array or a tensor, see FORMS; a torch Dataset or a list, of images or of pairs (image, label), where an
    image is an array, a tensor or a Pillow picture; or an `ImageData`.
    labels: whole numbers [N], or zeros and ones [N,L]. label_names: the names of the L; by default numbers.
    image_size: height and width; by default the images' own. Squares of 28 pixels become 32 by a margin of zeros; for
    any other size, the middle square of every image is resized. flip: whether training may mirror the images; by
    default it may not. Raises UserError.
    """
    if image_size is not None and not 8 <= image_size <= 1024:
        raise UserError(f"`image_size` {image_size} is outside 8 to 1024. Try {min(1024, max(8, image_size))}.")
    own_labels: Any = None
    own_names: Sequence[str] | None = None
    notes: list[str] = []
    if isinstance(images, ImageData):
        if images.corruption:
            raise UserError("these images are corrupted already. Load them without `corruption`, and give it here.")
        if isinstance(images.images, Crops) and images.images.nbytes > MOST_CROPS:
            size = size_in_words(images.images.nbytes)
            raise UserError(f"all crops of the photographs together are {size}. Give the data set by name: 'photos'.")
        pixels, flip = fitted(np.asarray(images.images), image_size), images.flip if flip is None else flip
        own_labels, own_names = (images.labels, images.label_names) if images.label_names else (None, None)
        notes = list(images.notes)
    elif isinstance(images, np.ndarray | torch.Tensor):
        pixels = fitted(as_pixels(as_array(images)), image_size)
    else:
        pixels, own_labels = read_items(images, image_size)
        own_names = class_names(images)
    if labels is not None and own_labels is not None:
        raise UserError("the images have labels of their own, so leave out `labels`.")
    if labels is None:
        labels, label_names = own_labels, own_names if label_names is None else label_names
    if labels is None:
        if label_names:
            raise UserError("`label_names` needs `labels`, the label of every image. Give both.")
        return ImageData(OWN, pixels, np.zeros((len(pixels), 0), np.uint8), [], bool(flip), notes)
    rows, names = as_labels(labels, len(pixels), label_names)
    return ImageData(OWN, pixels, rows, names, bool(flip), notes)


def own_size(images: Any) -> int:
    """Return the height and width of images from a script, from the first of them.

    Raises UserError for what holds no images, and for images that are not square.
    """
    if isinstance(images, ImageData):
        height, width = images.images.shape[1:3]
    elif isinstance(images, np.ndarray | torch.Tensor):
        height, width = channels_last(as_array(images)).shape[1:3]
    else:
        height, width = read_item(first_of(images), 0)[0].shape[:2]
    return square(height, width)


def square(height: int, width: int) -> int:
    """Return the height of images that are square. Raises UserError for others."""
    if height != width:
        raise UserError(
            f"the images are {height}x{width} and must be square. "
            f"Give `image_size`, such as {min(height, width)}: then the middle square of each is taken."
        )
    return height


# --- arrays -------------------------------------------------------------------------------------------------------


def as_array(values: Any) -> NDArray[Any]:
    """Return a tensor or an array as an array, without a copy where that can be. Raises UserError for what is none."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # which numpy does not have
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # a sparse tensor; rows of several lengths
        raise UserError(f"no array can be made of a {type(values).__name__}: {one_line(error)}.") from None


def as_pixels(values: NDArray[Any]) -> Pixels:
    """Turn images of one of the FORMS into uint8 [N,H,W,C]. Raises UserError for any other array."""
    values = channels_last(values)
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        bytes_fit = values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255
        mend = "Write images.astype('uint8')." if bytes_fit else f"Give {FORMS}."
        raise UserError(f"the images are numbers of the type {values.dtype}. {mend}")
    spans = [span_of(values[first : first + BLOCK], first) for first in range(0, len(values), BLOCK)]
    check_range(min(low for low, _ in spans), max(high for _, high in spans))
    pixels = np.empty(values.shape, np.uint8)
    for first in range(0, len(values), BLOCK):
        pixels[first : first + BLOCK] = as_bytes(values[first : first + BLOCK], "[-1, 1]")
    return pixels


def channels_last(values: NDArray[Any]) -> NDArray[Any]:
    """Bring the axes of images into the order [N,H,W,C]. No image is three pixels wide, so the order can be seen."""
    shape = list(values.shape)
    if 0 in shape:
        raise UserError(f"the images have the shape {shape}: there are none. Give at least one.")
    if values.ndim == 3:
        values = values[..., None]
    elif values.ndim == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        values = values.transpose(0, 2, 3, 1)
    if values.ndim != 4 or values.shape[3] not in (1, 3):
        mend = " Leave the alpha channel out." if values.ndim == 4 and 4 in (shape[1], shape[3]) else ""
        raise UserError(f"the images have the shape {shape}. Give {FORMS}.{mend}")
    if min(values.shape[1:3]) < 8:
        raise UserError(f"the images have the shape {shape}, and {FORMS} is needed, of at least 8 pixels each way.")
    return values


def span_of(values: NDArray[Any], first: int) -> tuple[float, float]:
    """Return the lowest and the highest of the values of some images. Raises UserError for one that is no number.

    first: the number of the first of these images, for the message.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        sound = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        raise UserError(f"image {first + int(np.argmin(sound))} has values that are no numbers (nan or inf). Mend it.")
    return low, high


def check_range(low: float, high: float) -> None:
    """Raise UserError unless values from `low` to `high` are those of images in [-1, 1]."""
    held = value_range(low, high)
    if held != "[-1, 1]":
        raise UserError(
            f"the images go from {low:.4g} to {high:.4g}, so they lie in {held}, not in [-1, 1]. Give {MENDS[held]}."
        )


def fitted(pixels: Pixels, size: int | None) -> Pixels:
    """Bring uint8 [N,H,W,C] to a size: leave them, pad from 28 to 32, or resize their middle squares."""
    height, width = pixels.shape[1:3]
    size = square(height, width) if size is None else size
    if (height, width) == (size, size):
        return pixels
    if (height, width, size) == (28, 28, 32):
        return np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return np.stack([crop_resize(np.ascontiguousarray(image), size) for image in pixels])


# --- Datasets, lists and pictures -----------------------------------------------------------------------------------


def read_items(items: Any, size: int | None) -> tuple[Pixels, NDArray[Any] | None]:
    """Read a Dataset once: uint8 [N,S,S,C], and the labels of its pairs, if it has pairs."""
    first_of(items)
    spans: list[tuple[float, float]] = []
    labels: list[Any] = []
    pixels: Pixels = np.empty((0, 0, 0, 0), np.uint8)
    for number, item in enumerate(each_of(items)):
        image, label, span = read_item(item, number)
        if number == 0:
            image = fitted(image[None], size)[0]
            pixels = np.empty((len(items), *image.shape), np.uint8)
        elif size is not None and image.shape[2] == pixels.shape[3]:
            image = fitted(image[None], size)[0]
        if image.shape != pixels.shape[1:]:
            before, now = ("x".join(map(str, shape)) for shape in (pixels.shape[1:], image.shape))
            mend = (
                "all grey or all colour" if image.shape[2] != pixels.shape[3] else "of one size, or give `image_size`"
            )
            raise UserError(f"image {number} is {now}, and those before it are {before}. Make them {mend}.")
        if number and (label is None) != (not labels):
            raise UserError(f"item {number} has {'no' if label is None else 'a'} label, unlike the ones before it.")
        pixels[number] = image
        spans += [span] if span else []
        labels += [] if label is None else [label]
    if spans:
        check_range(min(low for low, _ in spans), max(high for _, high in spans))
    if len({label.shape for label in labels}) > 1:
        raise UserError(
            "the labels of the images have different shapes. Give whole numbers, or rows of zeros and ones."
        )
    return pixels, np.stack(labels) if labels else None


def first_of(items: Any) -> Any:
    """Return the first item of a Dataset or a list. Raises UserError for an empty one, and for anything else."""
    if isinstance(items, str | bytes | dict) or not (hasattr(items, "__getitem__") and hasattr(items, "__len__")):
        listable = hasattr(items, "__iter__") and not isinstance(items, str | bytes | dict)
        mend = " Read it into a list first." if listable else f" Give {FORMS}, or a Dataset of images."
        raise UserError(f"no images can be read from a {type(items).__name__}.{mend}")
    if len(items) == 0:
        raise UserError(f"the {type(items).__name__} of images is empty. Give at least one.")
    return items[0]


def each_of(items: Any) -> Iterator[Any]:
    """Yield every item of a Dataset. A bar appears after two seconds."""
    with progress_bar(len(items), "reading the images", unit="image", delay=2) as bar:
        for number in range(len(items)):
            yield items[number]
            bar.update()


def read_item(item: Any, number: int) -> tuple[Pixels, Any, tuple[float, float] | None]:
    """Read an item: its image as uint8 [H,W,C], its label or None, and the range of its values if it has floats.

    Whether floats lie in [-1, 1] can only be told from all images together: see `check_range`.
    """
    label = None
    if isinstance(item, tuple | list) and len(item) in (1, 2):
        label = as_array(item[1]) if len(item) == 2 else None
        item = item[0]
    if isinstance(item, Image.Image):
        return from_pillow(item), label, None
    if not isinstance(item, np.ndarray | torch.Tensor):
        raise UserError(
            f"item {number} is a {type(item).__name__}. Give images, or pairs (image, label), "
            "where an image is an array, a tensor or a Pillow picture."
        )
    values = as_array(item)
    if values.ndim not in (2, 3):
        raise UserError(f"image {number} has the shape {list(values.shape)}. Give [H,W], [H,W,C] or [C,H,W].")
    values = channels_last(values[None])
    if not np.issubdtype(values.dtype, np.floating):
        return as_pixels(values)[0], label, None
    span = span_of(values, number)
    return as_bytes(values, "[-1, 1]")[0], label, span


def from_pillow(picture: Image.Image) -> Pixels:
    """Turn a Pillow picture into uint8 [H,W,1] if it is grey, else [H,W,3]. What is transparent becomes white."""
    if picture.mode in ("1", "L"):
        return np.array(picture.convert("L"))[..., None]
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    elif picture.mode not in ("RGB", "P"):
        raise UserError(f"a picture of Pillow's mode {picture.mode} has no 8-bit colours. Convert it to L or RGB.")
    return np.array(picture.convert("RGB"))


# --- labels -------------------------------------------------------------------------------------------------------


def as_labels(labels: Any, count: int, names: Sequence[str] | None = None) -> tuple[Pixels, list[str]]:
    """Turn the labels of `count` images into zeros and ones, uint8 [count,L], and L names. Raises UserError.

    labels: whole numbers [count], or zeros and ones [count,L].
    """
    values = as_array(labels)
    forms = "Give whole numbers [N], or zeros and ones [N,L]"
    if values.ndim not in (1, 2) or values.dtype.kind not in "iufb":
        raise UserError(f"the labels have the shape {list(values.shape)} and the type {values.dtype}. {forms}.")
    if len(values) != count:
        raise UserError(f"there are {len(values)} labels for {count} images. {forms}, with N = {count}.")
    if values.ndim == 2:
        if not values.shape[1] or not np.isin(values, (0, 1)).all():
            raise UserError(f"the labels [{count},{values.shape[1]}] are not all 0 or 1. {forms}.")
        rows, needed = values.astype(np.uint8), values.shape[1]
    else:
        if values.dtype.kind == "f" or values.min() < 0:
            raise UserError(f"the label {shown(values.min().item())} is no number of a class. {forms}, from 0 on.")
        needed = int(values.max()) + 1
        if needed > MAX_CLASSES:
            raise UserError(f"the labels go up to {needed - 1}; at most {MAX_CLASSES} classes are told apart.")
        rows = one_hot(values, max(needed, len(names or ())))
    names = [str(number) for number in range(needed)] if names is None else [str(name) for name in names]
    if len(names) < needed or (values.ndim == 2 and len(names) > needed):
        raise UserError(f"there are {len(names)} `label_names` for {needed} labels. Give a name for each.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"`label_names` has {listed([shown(name) for name in twice])} twice. Give each its own name.")
    return rows, names


def class_names(items: Any) -> list[str] | None:
    """Return the names that a data set of torchvision gives its classes; None if it gives none."""
    names = getattr(items, "classes", None)
    return list(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
