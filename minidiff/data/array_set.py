"""The data set `array`: images in a .npy file, with their labels beside it, if they have any.

Rests on own_images, which says what the arrays may hold, and on files. A training on images from a script keeps them in
its run folder in this form, so that it can be resumed and measured without the script:

    data/images.npy         uint8 [N,H,W,C]
    data/labels.npy         whole numbers [N], or zeros and ones [N,L]
    data/label_names.json   the names of the L
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.arrays import open_npy
from minidiff.data.cache import IN_MEMORY
from minidiff.data.config import KEPT
from minidiff.data.image_data import ImageData, LoadRequest, to_size
from minidiff.data.own_images import OWN, as_labels, as_pixels, fitted, square
from minidiff.errors import UserError
from minidiff.files import read_any_json, replacing_folder, write_errors, write_json

IMAGES, LABELS, NAMES = "images.npy", "labels.npy", "label_names.json"
MOST = 1 << 30  # bytes of images that are kept in a run folder


def keep_images(folder: Path, data: ImageData) -> bool:
    """Keep the images and the labels of a training in its run folder. Returns whether the images are kept, too.

    They are kept as they were before any corruption. More than MOST bytes of them are not kept. Raises UserError.
    """
    images = data.clean
    small = images.nbytes <= MOST
    with write_errors(folder / KEPT), replacing_folder(folder / KEPT) as place:
        if small:
            np.save(place / IMAGES, images)
        if data.label_names:
            np.save(place / LABELS, data.labels)
            write_json(place / NAMES, data.label_names)
    return small


def load_array(request: LoadRequest) -> ImageData:
    """Load images from a .npy file, or from a folder with the three files above. Large files are mapped, not read."""
    place = found(request.data_dir)
    pixels = as_pixels(read_array(place))
    if pixels.shape[1] != pixels.shape[2]:
        pixels = fitted(pixels, request.image_size)
    rows, names = kept_labels(place.parent if place.name == IMAGES else place / "none", len(pixels))
    return ImageData(request.name, to_size(pixels, request), rows, names, flip=False)


def array_size(data_dir: Path | None) -> int:
    """Return the height and width of the images in a .npy file. Raises UserError, also where they are not square."""
    return square(*as_pixels(read_array(found(data_dir))[:1]).shape[1:3])


def found(data_dir: Path | None) -> Path:
    """Find the .npy file of the images. Raises UserError."""
    if data_dir is None:
        raise UserError(f"the data set '{OWN}' needs `data_dir`: a .npy file, or a folder with {IMAGES} in it.")
    place = data_dir / IMAGES if data_dir.is_dir() else data_dir
    if not place.is_file():
        raise UserError(f"{place} does not exist. Give a .npy file of images as `data_dir`, or a folder with {IMAGES}.")
    return place


def kept_labels(folder: Path, count: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Read the labels of `count` images that lie in a folder: uint8 [count,L] and L names. L is 0 if it has none."""
    if not (folder / LABELS).is_file():
        return np.zeros((count, 0), np.uint8), []
    names = read_any_json(folder / NAMES) if (folder / NAMES).is_file() else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{folder / NAMES} is no list of names.")
    try:
        return as_labels(read_array(folder / LABELS), count, names)
    except UserError as error:
        raise UserError(f"{folder / LABELS}: {error}") from None


def read_array(path: Path) -> NDArray[Any]:
    """Open a .npy file; a large one is mapped. Raises UserError."""
    array = open_npy(path)
    return array.mapped() if array.size > IN_MEMORY else array.whole()
