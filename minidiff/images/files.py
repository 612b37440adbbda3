"""Images at the edge of the package: files, uint8 arrays, and grids with names to look at.

Inside minidiff an image is float32 [N,C,H,W] in [-1, 1]; on disk and in metrics it is uint8 [N,H,W,3].
This chapter is the only one that turns one into the other, and the only one that knows Pillow.
"""

import io
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from minidiff.errors import UserError, one_line

Pixels = NDArray[np.uint8]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


# --- between the two forms ----------------------------------------------------------------------------------------


def to_float(images: Pixels | Tensor) -> Tensor:
    """uint8 [N,H,W,C] -> float32 [N,C,H,W] in [-1, 1]: 0 becomes -1, 255 becomes 1. Stays on its device."""
    tensor = torch.as_tensor(images)
    if tensor.dtype != torch.uint8 or tensor.ndim != 4:
        raise ValueError(f"to_float takes uint8 [N,H,W,C], not {tensor.dtype} {list(tensor.shape)}")
    return tensor.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Pixels:
    """float [N,C,H,W] in [-1, 1] -> uint8 [N,H,W,3]: rounded and clipped; one channel is repeated to three."""
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"to_uint8 takes float [N,1 or 3,H,W], not {images.dtype} {list(images.shape)}")
    bytes_ = images.detach().float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return bytes_.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


# What arrays from elsewhere hold, and how their values become bytes: value * scale + shift, rounded and clipped.
VALUE_RANGES = {"[0, 1]": (255.0, 0.0), "[-1, 1]": (127.5, 127.5), "[0, 255]": (1.0, 0.0)}


def value_range(low: float, high: float) -> str:
    """Which of VALUE_RANGES an array of floats from `low` to `high` holds; 0.1 beyond an end is resizing's overshoot.

    Raises UserError for values that fit none.
    """
    if low >= -0.1 and high <= 1.1:
        return "[0, 1]"
    if low >= -1.1 and high <= 1.1:
        return "[-1, 1]"
    if low >= -0.5 and 2 < high <= 255.5:
        return "[0, 255]"
    known = ", ".join(VALUE_RANGES)
    raise UserError(f"values from {low:.4g} to {high:.4g} are in none of {known}. Rescale or clip them.")


def as_bytes(values: NDArray[Any], held: str) -> Pixels:
    """Numbers of one of VALUE_RANGES as uint8, whatever their shape: rounded and clipped."""
    scale, shift = VALUE_RANGES[held]
    return np.clip(np.rint(values.astype(np.float32) * scale + shift), 0, 255).astype(np.uint8)


# --- files --------------------------------------------------------------------------------------------------------


def read_image(path: str | Path, channels: int = 3) -> Pixels:
    """One image file as uint8 [H,W,channels], upright.

    The EXIF rotation is applied, transparent pixels are laid over white, palettes are looked up and 16-bit grey is
    reduced to 8 bits by dividing by 257, so that full scale stays full scale. Of an animation, the first frame.
    Raises UserError, naming the file, when it is missing, truncated, not an image, or too large to be safe.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):
                wide = np.asarray(image, dtype=np.int64)
                image = Image.fromarray((np.clip(wide, 0, 65535) // 257).astype(np.uint8))
            elif image.mode == "F":
                raise UserError(f"{path} holds floating-point pixels of unknown range. Save it as 8 or 16 bit.")
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
    """Height and width of an image file, from its first bytes alone. Raises UserError, naming the file."""
    try:
        with Image.open(path) as file:
            return file.height, file.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({one_line(error)}).") from None


def crop_resize(image: Pixels, size: int) -> Pixels:
    """The largest centred square of uint8 [H,W,C], as uint8 [size,size,C]: antialiased, bicubic."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return squeeze(image[top : top + side, left : left + side], size)


def squeeze(image: Pixels, size: int) -> Pixels:
    """All of uint8 [H,W,C], its proportions given up, as uint8 [size,size,C]: antialiased, bicubic."""
    height, width, channels = image.shape
    if (height, width) == (size, size):
        return np.ascontiguousarray(image)
    resized = Image.fromarray(image if channels == 3 else image[..., 0]).resize((size, size), Image.Resampling.BICUBIC)
    return np.array(resized).reshape(size, size, channels)


def image_files(folder: str | Path) -> list[Path]:
    """The image files of a folder, in the order of their names. Raises UserError when it has none, or is not there."""
    folder = Path(folder)
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}.") from None
    if not files:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def read_images(source: str | Path | Sequence[Path], size: int, channels: int = 3) -> Pixels:
    """A file, every image of a folder in the order of its names, or a list of files: uint8 [N,size,size,channels]."""
    if isinstance(source, str | Path):
        source = image_files(source) if Path(source).is_dir() else [Path(source)]
    return np.stack([crop_resize(read_image(path, channels), size) for path in source])


def write_image(path: str | Path, image: Pixels) -> None:
    """uint8 [H,W,3] to a file, whole or not at all; the format follows the suffix. Raises UserError."""
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"'{path.name}' has no image suffix. Try {path.stem}.png.")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=Image.registered_extensions()[path.suffix.lower()])
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Choose another place.") from None
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def as_webp(image: Pixels, quality: int) -> bytes:
    """uint8 [H,W,3] as the bytes of a WebP file, for a page that is to stay small. quality: 0 to 100."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="WEBP", quality=quality)
    return buffer.getvalue()


def free_name(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that is not taken."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


# --- to look at ---------------------------------------------------------------------------------------------------


def grid(images: Pixels, columns: int | None = None, pad: int = 2) -> Pixels:
    """uint8 [N,H,W,3] laid out row by row on white, uint8 [H',W',3].

    columns: the square root of N when left out. Images under 64 pixels are enlarged by a whole factor without
    smoothing, so that a grid of 32x32 samples can be judged on a screen.
    """
    count, height, width, _ = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    scale = max(1, 64 // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale + pad, width * scale + pad
    canvas = np.full((rows * height + pad, columns * width + pad, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * height + pad, (index % columns) * width + pad
        canvas[top : top + height - pad, left : left + width - pad] = image
    return canvas


def cut(picture: Pixels, size: int, pad: int = 2) -> Pixels:
    """The images that `grid` laid out, uint8 [N,size,size,3], with the white of empty places at the end."""
    scale = max(1, 64 // size)
    side = size * scale + pad
    rows, columns = ((length - pad) // side for length in picture.shape[:2])
    cells = picture[pad : pad + rows * side, pad : pad + columns * side].reshape(rows, side, columns, side, 3)
    shown = cells[:, : side - pad : scale, :, : side - pad : scale]
    return shown.transpose(0, 2, 1, 3, 4).reshape(-1, size, size, 3)


LEADING = 4  # pixels by which Pillow's lines are higher than their letters


def label_rows(picture: Pixels, labels: Sequence[str], size: int = 15) -> Pixels:
    """A grid, uint8 [H,W,3], with a margin at its left that names its rows, which are of equal height.

    size: of the letters, in pixels; lines of a label are parted by a newline. Where a row is too low for all of them
    the letters are smaller, and where even 9 pixels are too many, the last line says how many are left out.
    """
    height = picture.shape[0] // len(labels)
    most = max(label.count("\n") + 1 for label in labels)
    size = max(min(size, 9), min(size, height // most - LEADING))
    labels = [first_lines(label, max(2, height // (size + LEADING))) for label in labels]
    font = ImageFont.load_default(size)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [measure.multiline_textbbox((0, 0), label, font=font) for label in labels]
    margin = 2 * size // 3
    width = int(max(box[2] for box in boxes)) + 2 * margin
    canvas = Image.new("RGB", (picture.shape[1] + width, picture.shape[0]), "white")
    canvas.paste(Image.fromarray(picture), (width, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (label, box) in enumerate(zip(labels, boxes, strict=True)):
        middle = (row + 0.5) * picture.shape[0] / len(labels)
        draw.multiline_text((margin, middle - (box[1] + box[3]) / 2), label, fill="black", font=font)
    return np.array(canvas)


def first_lines(text: str, count: int) -> str:
    """A text of at most `count` lines; of a longer one the first, and how many more there are."""
    lines = text.split("\n")
    if len(lines) <= count:
        return text
    return "\n".join([*lines[: count - 1], f"and {len(lines) - count + 1} more"])


def captioned(images: Pixels, captions: Sequence[str], columns: int | None = None, size: int = 12) -> Pixels:
    """uint8 [N,H,W,3] laid out as in `grid`, each with words below it, in a cell wide enough for them: [H',W',3].

    size: of the letters, in pixels; lines of a caption are parted by a newline.
    """
    font = ImageFont.load_default(size)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [measure.multiline_textbbox((0, 0), caption, font=font) for caption in captions]
    scale, pad = max(1, 96 // max(images.shape[1:3])), size // 2
    height, width = images.shape[1] * scale, images.shape[2] * scale
    cell = np.full((len(images), height + int(max(box[3] for box in boxes)) + 2 * pad,
                    max(width, int(max(box[2] for box in boxes))) + pad, 3), 255, np.uint8)  # fmt: skip
    left = (cell.shape[2] - width) // 2
    cell[:, :height, left : left + width] = images.repeat(scale, axis=1).repeat(scale, axis=2)
    for row, (caption, box) in enumerate(zip(captions, boxes, strict=True)):
        canvas = Image.fromarray(cell[row])
        middle = (cell.shape[2] - (box[2] - box[0])) / 2 - box[0]
        at = (middle, height + pad // 2)
        ImageDraw.Draw(canvas).multiline_text(at, caption, fill="black", font=font, align="center")
        cell[row] = np.array(canvas)
    return grid(cell, columns)
