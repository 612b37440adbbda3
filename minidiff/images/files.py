"""Image files: read any of them upright, bring them to size, write them whole.

Rests on convert, which says what `Pixels` are, on budget, files, and Pillow.
"""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from minidiff.errors import NoMemory, UserError, one_line
from minidiff.files import regular, replacing, write_errors
from minidiff.images.budget import A_PIXEL, DECODING, LARGE, MAX_PIXELS
from minidiff.images.convert import Pixels
from minidiff.images.declared import shortage

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


# The formats that are opened, whatever a file is called. For some others Pillow calls a program of the system.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
GAP = 4.0  # a large picture is first reduced to at least so many times the size, where the resize does the rest
STRIP = 1 << 22  # pixels that are brought from Pillow's form into an array at a time


@cache
def known_formats() -> list[str]:
    """List the formats of FORMATS that this Pillow can open."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


class PillowLimit:
    """Raises Pillow's own limit to ours as long as any thread is inside. It is one for the whole process.

    Up to its limit Pillow does not warn, and above twice as much it refuses. So it still judges the pictures inside of
    pictures, as in .ico files, whose sizes the first header does not say.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    @contextmanager
    def at(self, max_pixels: int) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.before = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS or 0)
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    Image.MAX_IMAGE_PIXELS = self.before


PILLOW = PillowLimit()


@contextmanager
def opened(path: str | Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image file, of which only the header is read. Raises UserError, also for what is met in the block."""
    try:
        with PILLOW.at(max_pixels), Image.open(regular(path), formats=known_formats()) as file:
            if file.width * file.height > max_pixels:
                raise too_large(path, f"{file.width} x {file.height} pixels", max_pixels)
            if short := shortage(file):
                raise UserError(f"{path} is not a readable image (it {short}; it is damaged or cut short).")
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such image file.") from None
    except MemoryError:
        raise NoMemory(f"the memory does not suffice to decode {path}. Close other programs, or shrink it.") from None
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the warning, where it is made an error
        raise too_large(path, "too many pixels", max_pixels) from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a readable image (it is in no format that is known here).") from None
    except Exception as error:  # there is no end to what Pillow raises on damaged files
        raise UserError(f"{path} is not a readable image ({one_line(error)}).") from None


def too_large(path: str | Path, declared: str, max_pixels: int) -> UserError:
    """Make the error for a picture above the limit."""
    return UserError(
        f"{path} declares {declared}; the limit is {max_pixels:,}. If it should hold so many, raise `max_pixels`."
    )


def read_image(path: str | Path, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read an image file as uint8 [H,W,channels], upright.

    The EXIF rotation is applied, transparent pixels are laid over white, and palettes are looked up. 16-bit grey is
    divided by 257, so that full scale stays full scale. An animation gives its first frame. Raises UserError for a
    file that is missing, truncated, not an image, or declares more than `max_pixels`.
    """
    with ExitStack() as held:  # until all that was decoded is gone, with the variables of the function
        return read_whole(path, channels, max_pixels, held)


def read_whole(path: str | Path, channels: int, max_pixels: int, held: ExitStack) -> Pixels:
    """Do the work of `read_image`. The memory for decoding is taken into `held`."""
    with opened(path, max_pixels) as file:
        held.enter_context(DECODING.take(A_PIXEL * file.width * file.height))
        image = upright(file)
        array = np.empty((image.height, image.width, channels), np.uint8)
        for top, strip in strips(image, path):
            array[top : top + strip.height] = as_array(strip, channels)
        return array


def read_fitted(
    path: str | Path, size: int, channels: int = 3, squeezed: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[Pixels, int]:
    """Read an image file at [size,size,channels], and the shorter side that the file has.

    The image is what `read_image` and then `crop_resize`, or `squeeze`, give: to the byte up to LARGE pixels. A larger
    picture is reduced first, to at least GAP times the size: a JPEG while it is decoded, to a half, a quarter or an
    eighth, and any by averages over blocks. Raises UserError.
    """
    with ExitStack() as held:
        return read_reduced(path, size, channels, squeezed, max_pixels, held)


def read_reduced(
    path: str | Path, size: int, channels: int, squeezed: bool, max_pixels: int, held: ExitStack
) -> tuple[Pixels, int]:
    """Do the work of `read_fitted`. The memory for decoding is taken into `held`."""
    with opened(path, max_pixels) as file:
        shorter, large = min(file.size), file.width * file.height > LARGE
        if large:  # by the shorter side, which the resize shrinks least
            file.draft(None, (round(GAP * size / shorter * file.width), round(GAP * size / shorter * file.height)))
        held.enter_context(DECODING.take(A_PIXEL * file.width * file.height))
        image = in_eight_bits(upright(file), channels, path)
        whole = (0, 0, *image.size)
        box = whole if squeezed else centre_square(*image.size)
        if large:
            image = image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=GAP)
        else:
            image = image if box == whole else image.crop(box)
            image = image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)
        return as_array(image, channels), shorter


def read_shrunk(path: str | Path, shorter: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read an image file as uint8 [H,W,3], upright, and scale it down until its shorter side has `shorter` pixels.

    A smaller picture keeps its size. The filter is Lanczos's, three lobes wide: it keeps the edges sharp, and averages
    over enough pixels that the blocks of a JPEG and the noise of a camera are gone. Raises UserError, as `read_image`.
    """
    with ExitStack() as held:
        return read_and_shrink(path, shorter, max_pixels, held)


def read_and_shrink(path: str | Path, shorter: int, max_pixels: int, held: ExitStack) -> Pixels:
    """Do the work of `read_shrunk`. The memory for decoding is taken into `held`."""
    with opened(path, max_pixels) as file:
        large = file.width * file.height > LARGE
        if large:
            file.draft(None, (round(GAP * shorter), round(GAP * shorter)))
        held.enter_context(DECODING.take(A_PIXEL * file.width * file.height))
        image = in_eight_bits(upright(file), 3, path)
        scale = shorter / min(image.size)
        if scale < 1:
            size = scaled_size(*image.size, scale)
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=GAP if large else None)
        return as_array(image, 3)


def image_shape(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return height and width of an image file, from its first bytes alone. Raises UserError."""
    with opened(path, max_pixels) as file:
        return file.height, file.width


# --- from what Pillow decodes to bytes ----------------------------------------------------------------------------


def upright(file: Image.Image) -> Image.Image:
    """Decode a picture, and turn it as its EXIF data say, in place."""
    file.load()
    ImageOps.exif_transpose(file, in_place=True)
    return file


def strips(image: Image.Image, path: str | Path) -> Iterator[tuple[int, Image.Image]]:
    """Yield the first row and the picture of each strip, in 8 bits and opaque: copies stay as small as a strip."""
    rows = max(1, STRIP // max(1, image.width))
    for top in range(0, image.height, rows):
        whole = rows >= image.height
        yield top, opaque(image if whole else image.crop((0, top, image.width, min(top + rows, image.height))), path)


def in_eight_bits(image: Image.Image, channels: int, path: str | Path) -> Image.Image:
    """Bring a picture into 8 bits without transparency: L, if it is grey or grey is wanted, else RGB."""
    if image.mode in ("L", "RGB" if channels == 3 else "L") and "transparency" not in image.info:
        return image
    whole = Image.new("RGB" if channels == 3 else "L", image.size)
    for top, strip in strips(image, path):
        whole.paste(strip.convert(whole.mode), (0, top))
    return whole


def opaque(image: Image.Image, path: str | Path) -> Image.Image:
    """Bring a picture into 8 bits, and lay what is transparent over white."""
    if image.mode.startswith("I"):
        wide = np.asarray(image, dtype=np.int64)
        image = Image.fromarray((np.clip(wide, 0, 65535) // 257).astype(np.uint8))
    refuse_floats(image, path)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def refuse_floats(image: Image.Image, path: str | Path) -> None:
    """Raise UserError for floating-point pixels: nothing in the file says which values are black and white."""
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point pixels of unknown range. Save it with 8 or 16 bits.")


def as_array(image: Image.Image, channels: int) -> Pixels:
    """Turn a picture in 8 bits into uint8 [H,W,channels]."""
    mode = "RGB" if channels == 3 else "L"
    array: Pixels = np.array(image if image.mode == mode else image.convert(mode))
    return array.reshape(*array.shape[:2], channels)


def centre_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the largest centred square."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


# --- sizes --------------------------------------------------------------------------------------------------------


def crop_resize(image: Pixels, size: int) -> Pixels:
    """Resize the largest centred square of uint8 [H,W,C] to [size,size,C]: antialiased, bicubic."""
    left, top, right, bottom = centre_square(image.shape[1], image.shape[0])
    return squeeze(image[top:bottom, left:right], size)


def squeeze(image: Pixels, size: int) -> Pixels:
    """Resize all of uint8 [H,W,C] to [size,size,C], whatever its proportions: antialiased, bicubic."""
    height, width, channels = image.shape
    if (height, width) == (size, size):
        return np.ascontiguousarray(image)
    resized = Image.fromarray(image if channels == 3 else image[..., 0]).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(resized).reshape(size, size, channels)


def scaled_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Return width and height of a picture at a scale: rounded, and at least 1."""
    return max(1, round(scale * width)), max(1, round(scale * height))


def scaled(image: Pixels, scale: float) -> Pixels:
    """Resize uint8 [H,W,3] to uint8 [round(scale H),round(scale W),3] by Lanczos's filter."""
    size = scaled_size(image.shape[1], image.shape[0], scale)
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def image_files(folder: str | Path) -> list[Path]:
    """List the image files of a folder by name. Raises UserError when it has none, or does not exist."""
    folder = Path(folder)
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}.") from None
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def read_images(
    source: str | Path | Sequence[Path], size: int, channels: int = 3, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Read a file, all images of a folder by name, or a list of files: uint8 [N,size,size,channels]."""
    if isinstance(source, str | Path):
        source = image_files(source) if Path(source).is_dir() else [Path(source)]
    return np.stack([read_fitted(path, size, channels, max_pixels=max_pixels)[0] for path in source])


def write_image(path: str | Path, image: Pixels, flush: bool = True) -> None:
    """Write uint8 [H,W,3] to a file, whole or not at all; the format follows the suffix. Raises UserError.

    flush: see `files.replacing`.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"'{path.name}' has no image suffix. Try {path.stem}.png.")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=Image.registered_extensions()[path.suffix.lower()])
    write_encoded(path, buffer.getvalue(), flush)


def write_encoded(path: Path, encoded: bytes, flush: bool = True) -> None:
    """Write the bytes of an image file, whole or not at all. Folders on the way are made. Raises UserError."""
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, flush) as file:
            file.write(encoded)


def as_webp(image: Pixels, quality: int) -> bytes:
    """Compress uint8 [H,W,3] to the bytes of a WebP file, for a page that must stay small. quality: 0 to 100."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", quality=quality)
    return buffer.getvalue()


def free_name(path: Path) -> Path:
    """Return `path`, or the first of path-2, path-3, ... that is free."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
