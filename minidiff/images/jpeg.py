"""What a JPEG file says before it is turned into pixels: whole numbers, the quantised DCT coefficients of its blocks.

Rests on files and budget, and on the package jpeglib, which asks the C library libjpeg. Pillow gives pixels alone, in
which the numbers cannot be found again: colours were enlarged, values cut at black and white, and the blocks at the
border are not whole.

ITU-T T.81, 1992 (JPEG).
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags

from minidiff.errors import UserError, one_line
from minidiff.images.budget import DECODING, MAX_PIXELS
from minidiff.images.files import opened

FORMATS = ("JPEG", "MPO")  # as Pillow names them; an MPO begins with a JPEG
COEFFICIENT = 6  # bytes of memory for a coefficient while it is read: a number of two bytes, and its copies
COLOURS = {"JCS_GRAYSCALE": "grey", "JCS_YCbCr": "YCbCr", "JCS_RGB": "RGB"}


@dataclass(frozen=True, eq=False)
class Plane:
    """A channel of a JPEG file.

    numbers: int16 [rows,columns,8,8], for each block the quantised coefficients; frequencies rise downwards and to the
    right. steps: float64 [8,8], what a 1 means: the orthonormal DCT of pixels is about numbers * steps.
    down, across: blocks of this channel in a unit of the file; a channel with fewer than another is that much coarser.
    There are whole units: at the right and lower border blocks may be repeated, of which nothing is shown.
    """

    numbers: npt.NDArray[np.int16]
    steps: npt.NDArray[np.float64]
    down: int
    across: int


@dataclass(frozen=True, eq=False)
class JpegFile:
    """The planes of a JPEG file: Y; Y, Cb, Cr; or red, green, blue.

    height, width: of the pixels that are shown, before they are turned as `orientation`, 1 to 8 (EXIF), says.
    """

    planes: tuple[Plane, ...]
    height: int
    width: int
    colours: str  # "grey", "YCbCr" or "RGB"
    orientation: int = 1


def read_jpeg(path: str | Path, max_pixels: int = MAX_PIXELS) -> JpegFile:
    """Read the numbers of a JPEG file, baseline or progressive, in grey or colour.

    Raises UserError for another format, for rare kinds of JPEG (CMYK, channels whose sizes do not divide each other),
    for a file that is damaged or cut short, and without the package jpeglib.
    """
    with ExitStack() as held:
        with opened(path, max_pixels) as file:
            if file.format not in FORMATS:
                raise UserError(
                    f"{path} is a {file.format} file, which does not say how it was compressed. Give the JPEG file, or "
                    "denoise it with a `noise` of 10 to 20, by how bad it is."
                )
            orientation = int(file.getexif().get(ExifTags.Base.Orientation, 1))
            held.enter_context(DECODING.take(3 * COEFFICIENT * file.width * file.height))
            try:
                file.load()  # the whole file: libjpeg alone takes grey for what is missing
            except (OSError, SyntaxError, ValueError) as error:
                raise damaged(path, error) from None
        return read_planes(path, orientation if orientation in range(1, 9) else 1)


def read_planes(path: str | Path, orientation: int) -> JpegFile:
    """Ask libjpeg for the numbers of a file that Pillow could read."""
    try:
        import jpeglib
    except ImportError:
        raise UserError(
            "the numbers in a JPEG file are read by a further package, jpeglib. Install it: "
            "pip install 'minidiff[jpeg]', or pip install jpeglib."
        ) from None
    try:
        file = jpeglib.read_dct(str(path))
        colours, numbers = COLOURS.get(file.jpeg_color_space.name), [file.Y, file.Cb, file.Cr][: file.num_components]
    except (OSError, RuntimeError, ValueError) as error:
        raise damaged(path, error) from None
    if colours is None:
        raise rare(path, "in CMYK" if file.num_components == 4 else f"of {file.num_components} channels")
    # Of one channel alone a unit is a block, whatever the file says (A.2.2).
    sizes = [(1, 1)] if colours == "grey" else [(int(down), int(across)) for down, across in file.samp_factor]
    most = [max(sides) for sides in zip(*sizes, strict=True)]
    if any(most[0] % down or most[1] % across for down, across in sizes):
        raise rare(path, "whose channels have sizes that do not divide each other")
    units = [-(-side // (8 * blocks)) for side, blocks in zip((file.height, file.width), most, strict=True)]
    planes = tuple(
        Plane(whole_units(written, units[0] * down, units[1] * across), file.qt[table].astype(np.float64), down, across)
        for written, table, (down, across) in zip(numbers, file.quant_tbl_no, sizes, strict=True)
    )
    return JpegFile(planes, file.height, file.width, colours, orientation)


def whole_units(numbers: npt.NDArray[np.int16], rows: int, columns: int) -> npt.NDArray[np.int16]:
    """Repeat the last blocks of a channel, [.,.,8,8], up to so many rows and columns."""
    more = [(0, rows - numbers.shape[0]), (0, columns - numbers.shape[1]), (0, 0), (0, 0)]
    return np.pad(numbers, more, mode="edge")


def damaged(path: str | Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or cut short ({one_line(error)}), so its blocks cannot be read. Give the original file."
    )


def rare(path: str | Path, kind: str) -> UserError:
    return UserError(f"{path} is a JPEG {kind}, which cannot be restored as one. Convert it to PNG, and denoise it.")
