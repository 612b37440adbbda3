"""Colour with 16 bits a channel, in PNG and TIFF: all of it read, and written.

Rests on Pillow, which opens these files but keeps the upper eight bits alone, and cannot write them. Two decodes, one
for the upper bytes and one for the lower, give the whole. The specifications: PNG (W3C 2003), TIFF 6.0 (Adobe 1992).
"""

import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from minidiff.images.convert import DeepPixels, Pixels

# Pillow's names of 16-bit samples, and the name of the same samples in the other byte order: its decoder keeps the byte
# that it takes for the upper one, so under this name it keeps the lower. N is the byte order of the machine.
NATIVE_SWAPPED = "B" if sys.byteorder == "little" else "L"
LOWER = {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBA", "RGBX")
    for order, other in (("L", "B"), ("B", "L"), ("N", NATIVE_SWAPPED))
}
GREY_ALPHA = "LA;16B"  # in a PNG; read as RGBA of 8 bits it gives both bytes of both
STRIP = 1 << 20  # pixels that are turned from one form into another at a time


# --- read ---------------------------------------------------------------------------------------------------------


def raw_modes(file: Image.Image) -> set[str]:
    """Return Pillow's names of the form that the pixels of an opened picture have in the file."""
    arguments = [tile[3] for tile in getattr(file, "tile", [])]
    return {str(found[0] if isinstance(found, tuple) else found) for found in arguments}


def is_deep_colour(file: Image.Image) -> bool:
    """Tell whether an opened picture has 16 bits a channel, of which Pillow would keep 8."""
    return file.mode in ("RGB", "RGBA", "RGBX") and any(";16" in mode for mode in raw_modes(file))


def can_be_read(file: Image.Image) -> bool:
    """Tell whether all 16 bits of such a picture can be read."""
    return raw_modes(file) <= {*LOWER, GREY_ALPHA}


def under_other_name(file: Image.Image, names: dict[str, str]) -> None:
    """Let an opened picture be decoded as if its pixels had another form."""

    def renamed(arguments: Any) -> Any:
        if isinstance(arguments, tuple):
            return (names[arguments[0]], *arguments[1:])
        return names[arguments]

    file.tile = [type(tile)(*tile[:3], renamed(tile[3])) for tile in file.tile]  # type: ignore[attr-defined]


def joined(upper: Image.Image, lower: Image.Image) -> DeepPixels:
    """Make uint16 [H,W,3 or 4] of the decode of the upper bytes and the decode of the lower ones."""
    whole = np.empty((upper.height, upper.width, len(upper.getbands())), np.uint16)
    for (rows, high), (_, low) in zip(row_strips(upper), row_strips(lower), strict=True):
        whole[rows] = high.astype(np.uint16) << 8 | low
    return whole


def grey_alpha(both: Image.Image) -> DeepPixels:
    """Make uint16 [H,W,2] of a picture whose four channels are the bytes of grey and alpha, the upper ones first."""
    whole = np.empty((both.height, both.width, 2), np.uint16)
    for rows, four in row_strips(both):
        whole[rows] = four[..., 0::2].astype(np.uint16) << 8 | four[..., 1::2]
    return whole


def row_strips(image: Image.Image) -> Iterator[tuple[slice, Pixels]]:
    """Yield the rows and the uint8 [rows,W,C] of each strip of a picture in 8 bits: copies stay small."""
    step = max(1, STRIP // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        yield slice(top, bottom), np.asarray(image.crop((0, top, image.width, bottom)))


# --- write --------------------------------------------------------------------------------------------------------

PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: the colour type of the header


def as_png(pixels: DeepPixels, icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """Write uint16 [H,W,C] as a PNG; C = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha."""
    height, width, channels = pixels.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packed, above = zlib.compressobj(), np.zeros((1, width * channels * 2), np.uint8)
    data = []
    for strip in strips_of(pixels):
        rows = np.frombuffer(strip.astype(">u2").tobytes(), np.uint8).reshape(len(strip), -1)
        filtered = np.full((len(rows), 1 + rows.shape[1]), 2, np.uint8)  # filter type 2, Up: less the byte above
        filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        data.append(packed.compress(filtered.tobytes()))
        above = rows[-1:]
    data.append(packed.flush())
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR[channels], 0, 0, 0))]
    if icc is not None:
        chunks.append(chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc)))
    if dpi is not None:
        a_metre = [round(value / 0.0254) for value in dpi]
        chunks.append(chunk(b"pHYs", struct.pack(">IIB", *a_metre, 1)))
    if exif is not None:
        chunks.append(chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks, chunk(b"IDAT", b"".join(data)), chunk(b"IEND", b"")])


def as_tiff(
    pixels: Pixels | DeepPixels, icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
    """Write uint8 or uint16 [H,W,C] as a TIFF, with 1 to 4 channels as in `as_png`.

    EXIF data are a small TIFF without a picture, so the tags of the picture are added to them, and the strips follow.
    """
    height, width, channels = pixels.shape
    tags = Image.Exif()
    if exif is None:
        tags.endian = "<"
    else:
        tags.load(exif)
        keep_letters(tags)
    stored = pixels.dtype.newbyteorder(
        "<" if tags.endian == "<" else ">"
    )  # a file has one byte order, that of its tags
    strips = []
    for strip in strips_of(pixels):
        differences = strip.copy()
        differences[:, 1:] -= strip[:, :-1]  # predictor 2: less the pixel to the left, modulo 2^8 or 2^16
        strips.append(zlib.compress(differences.astype(stored).tobytes()))
    lengths = [len(strip) for strip in strips]
    tags.update(
        {
            256: width, 257: height, 258: (8 * pixels.itemsize,) * channels, 259: 8,  # deflate
            262: 2 if channels > 2 else 1,  # RGB, or black is zero
            273: tuple(int(start) for start in np.cumsum([0, *lengths[:-1]])),  # Pillow counts from the end of the tags
            277: channels, 278: strip_rows(pixels), 279: tuple(lengths), 284: 1, 317: 2,
        }
    )  # fmt: skip
    if channels in (2, 4):
        tags[338] = 2  # the last channel is alpha, and the colours are not multiplied by it
    if icc is not None:
        tags[34675] = icc
    if dpi is not None:
        tags.update({282: dpi[0], 283: dpi[1], 296: 2})  # in inches
    return tags.tobytes().removeprefix(b"Exif\0\0") + b"".join(strips)


def keep_letters(exif: Image.Exif) -> None:
    """Turn texts with letters beyond ASCII into the bytes that they were.

    Pillow reads a text as Latin-1, whatever it is in, and would write a question mark for each letter beyond ASCII.
    """
    for tags in (exif, exif.get_ifd(ExifTags.IFD.Exif)):
        for tag, value in list(tags.items()):
            if isinstance(value, str) and not value.isascii():
                tags[tag] = value.encode("latin-1")


def strip_rows(pixels: NDArray[Any]) -> int:
    """Return the rows of a strip."""
    height, width = pixels.shape[:2]
    return int(min(height, max(1, STRIP // width)))


def strips_of(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the strips of [H,W,C], from the top."""
    rows = strip_rows(pixels)
    for top in range(0, len(pixels), rows):
        yield pixels[top : top + rows]
