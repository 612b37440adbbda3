"""Image files: read any of them upright, bring them to size, write them whole.

Rests on convert, which says what `Pixels` are, on files, and on Pillow.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from minidiff.errors import UserError, one_line
from minidiff.files import regular, replacing, write_errors
from minidiff.images.convert import Pixels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


def read_image(path: str | Path, channels: int = 3) -> Pixels:
    """Read an image file as uint8 [H,W,channels], upright.

    The EXIF rotation is applied, transparent pixels are laid over white, and palettes are looked up. 16-bit grey is
    divided by 257, so that full scale stays full scale. An animation gives its first frame. Raises UserError for a
    file that is missing, truncated, not an image, or too large to be safe.
    """
    regular(path)
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):
                wide = np.asarray(image, dtype=np.int64)
                image = Image.fromarray((np.clip(wide, 0, 65535) // 257).astype(np.uint8))
            elif image.mode == "F":
                raise UserError(f"{path} holds floating-point pixels of unknown range. Save it with 8 or 16 bits.")
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            array = np.array(image.convert("RGB" if channels == 3 else "L"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image file.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a readable image ({one_line(error)}).") from None
    return array.reshape(*array.shape[:2], channels)


def image_shape(path: str | Path) -> tuple[int, int]:
    """Return height and width of an image file, from its first bytes alone. Raises UserError."""
    regular(path)
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({one_line(error)}).") from None


def crop_resize(image: Pixels, size: int) -> Pixels:
    """Resize the largest centred square of uint8 [H,W,C] to [size,size,C]: antialiased, bicubic."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return squeeze(image[top : top + side, left : left + side], size)


def squeeze(image: Pixels, size: int) -> Pixels:
    """Resize all of uint8 [H,W,C] to [size,size,C], whatever its proportions: antialiased, bicubic."""
    height, width, channels = image.shape
    if (height, width) == (size, size):
        return np.ascontiguousarray(image)
    resized = Image.fromarray(image if channels == 3 else image[..., 0]).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(resized).reshape(size, size, channels)


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


def read_images(source: str | Path | Sequence[Path], size: int, channels: int = 3) -> Pixels:
    """Read a file, all images of a folder by name, or a list of files: uint8 [N,size,size,channels]."""
    if isinstance(source, str | Path):
        source = image_files(source) if Path(source).is_dir() else [Path(source)]
    return np.stack([crop_resize(read_image(path, channels), size) for path in source])


def write_image(path: str | Path, image: Pixels, flush: bool = True) -> None:
    """Write uint8 [H,W,3] to a file, whole or not at all; the format follows the suffix. Raises UserError.

    flush: see `files.replacing`.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"'{path.name}' has no image suffix. Try {path.stem}.png.")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=Image.registered_extensions()[path.suffix.lower()])
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, flush) as file:
            file.write(buffer.getvalue())


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
