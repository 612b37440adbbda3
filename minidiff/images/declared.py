"""How many bytes the pixels that a picture declares take at least, however well they are compressed.

Rests on Pillow. A PNG of a hundred bytes can declare a hundred million pixels, for which room is made before the first
is missed. No coder packs without end, so a header that declares more than its file can hold is known from it alone.
"""

import os
import re

from PIL import Image

# Bytes of pixels out of one byte of the file, at most, for Pillow's names of the decoders and of TIFF's compressions.
# Deflate: 258 bytes in two bits. LZW: a string of 4096 bytes in 12 bits. JPEG: 64 values, of which the first alone
# takes a bit. What is not here has no such bound: an empty block of WebP, of JPEG 2000 or of a fax takes nothing.
MOST = {
    "raw": 1, "ppm": 1, "ppm_plain": 1, "zip": 1032, "tiff_adobe_deflate": 1032, "tiff_deflate": 1032,
    "tiff_lzw": 2731, "gif": 2731, "packbits": 64, "tga_rle": 128, "jpeg": 512,
}  # fmt: skip
PLAIN = ("raw", "ppm", "ppm_plain", "zip", "tga_rle")  # they hold every colour of every pixel
ARITHMETIC = [bytes([0xFF, code]) for code in (0xC9, 0xCA, 0xCD, 0xCE)]  # JPEGs that have no bound
OFFSETS = (273, 324)  # the tags of TIFF that say where its strips or tiles lie


def bits_of_a_pixel(form: object) -> int:
    """Count the bits of a pixel, at least, from Pillow's name of its form in the file: 1, L, P;4, BGRX, I;16B."""
    if not isinstance(form, str):
        return 8
    letters, _, depth = form.partition(";")
    digits = re.match(r"\d+", depth)
    return int(digits[0]) if digits else max(1, 8 * sum(letter.isupper() for letter in letters))


def fewest_bytes(file: Image.Image) -> int:
    """Count the bytes that the pixels of an opened picture take at least; 0 where there is no bound.

    What a part of it (a strip, a GIF's first frame) says of its place counts, so nothing is asked for a GIF's empty
    border. A TIFF whose strips share their bytes has no bound.
    """
    tags = getattr(file, "tag_v2", {})
    if any(len(set(tags.get(tag, ()))) < len(tags.get(tag, ())) for tag in OFFSETS):
        return 0
    total = 0.0
    for coder, (left, top, right, bottom), _, arguments in getattr(file, "tile", []):
        form = arguments[0] if isinstance(arguments, tuple) else arguments
        bits = bits_of_a_pixel(form)
        name = str(file.info.get("compression")) if coder == "libtiff" else coder
        if name not in MOST:
            return 0
        if coder not in PLAIN:  # their colours may be coarser than their brightness
            bits = min(bits, 8)
        total += (right - left) * (bottom - top) * bits / 8 / MOST[name]
    return int(total)


def shortage(file: Image.Image) -> str | None:
    """Say how a picture's header declares more than its file can hold; None if it does not."""
    fewest = fewest_bytes(file)
    stream = getattr(file, "fp", None)
    if not fewest or stream is None:
        return None
    there = os.fstat(stream.fileno()).st_size
    if there >= fewest:
        return None
    if file.format in ("JPEG", "MPO"):
        place = stream.tell()
        stream.seek(0)
        content = stream.read()
        stream.seek(place)
        if any(marker in content for marker in ARITHMETIC):
            return None
    return f"declares {file.width} x {file.height} pixels, which take at least {fewest:,} bytes, but has {there:,}"
