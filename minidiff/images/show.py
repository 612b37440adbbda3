"""Images in a notebook: what `_repr_png_` returns is drawn below a cell.

Rests on convert, grid and files.

minidiff.show(images)        # float [N,C,H,W] in [-1, 1], uint8 [N,H,W,3], or what `run.sample` yields
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from minidiff.errors import UserError
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import grid

MOST = 64  # images in a grid, unless more are asked for
LARGEST = 64 << 20  # bytes of a picture of a run that is shown


@dataclass(frozen=True, repr=False)
class Picture:
    """Many images as one picture, uint8 [H,W,3], which shows itself in a notebook."""

    pixels: Pixels
    about: str  # what it shows, in words

    def __repr__(self) -> str:
        return f"Picture({self.about})"

    def _repr_png_(self) -> bytes:
        return as_png(self.pixels)

    def save(self, path: str | Path) -> None:
        """Write the picture to an image file. Raises UserError."""
        write_image(path, self.pixels)


def show(images: Any, columns: int | None = None, most: int = MOST) -> Picture:
    """Lay out images as a grid that shows itself in a notebook. Raises UserError for what holds no images.

    images: float [N,C,H,W] in [-1, 1]; uint8 [N,H,W], [N,H,W,1] or [N,H,W,3]; a single image of these shapes without N;
    or a list or a generator of any of them. columns: see `grid`. most: at most so many images, the first ones.
    """
    found: list[Pixels] = []
    total = 0
    for batch in images if isinstance(images, Iterable) and not isinstance(images, Tensor | np.ndarray) else [images]:
        pixels = in_colour(batch)
        total += len(pixels)
        found += [pixels[: max(0, most + len(pixels) - total)]]
        if total > most:  # the rest of a generator may take hours to draw
            break
    if not total:
        raise UserError("there are no images to show. Give at least one.")
    if len({pixels.shape[1:] for pixels in found}) > 1:
        raise UserError("the images are of different sizes. Show those of one size at a time.")
    shown = np.concatenate(found)
    height, width = shown.shape[1:3]
    count = f"the first {len(shown)} images" if total > most else f"{total} image{'s' * (total != 1)}"
    return Picture(grid(shown, columns), f"{count}, {height}x{width}")


def in_colour(images: Any) -> Pixels:
    """Turn images of the forms of `show` into uint8 [N,H,W,3]. Raises UserError."""
    if isinstance(images, Tensor) and images.is_floating_point():
        x = images[None] if images.ndim == 3 else images
        if x.ndim == 4 and x.shape[1] in (1, 3):
            return to_uint8(x)
    elif isinstance(images, Tensor | np.ndarray):
        values: NDArray[Any] = images.cpu().numpy() if isinstance(images, Tensor) else images
        if values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3)):
            values = values[None]
        values = values[..., None] if values.ndim == 3 else values
        if values.dtype == np.uint8 and values.ndim == 4 and values.shape[3] in (1, 3):
            return np.broadcast_to(values, (*values.shape[:3], 3))
    said = f"{images.dtype} {list(images.shape)}" if hasattr(images, "shape") else f"a {type(images).__name__}"
    raise UserError(f"{said} cannot be shown. Give float tensors [N,C,H,W] in [-1, 1], or uint8 [N,H,W,3].")


# --- what shows itself --------------------------------------------------------------------------------------------


def as_png(pixels: Pixels) -> bytes:
    """Compress uint8 [H,W,3] to the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


def png_of(x: Tensor) -> bytes | None:
    """Draw images [N,C,H,W] in [-1, 1] as a grid. Returns None if they are not grey or colour."""
    return as_png(show(x).pixels) if x.ndim == 4 and len(x) and x.shape[1] in (1, 3) else None


def png_file(path: Path) -> bytes | None:
    """Return the bytes of a .png file; None if there is none, or it is none."""
    if path.suffix != ".png" or not path.is_file() or path.stat().st_size > LARGEST:
        return None
    content = path.read_bytes()
    return content if content.startswith(b"\x89PNG\r\n\x1a\n") else None


def newest_png(folder: Path) -> bytes | None:
    """Return the last picture of a folder by name; None if it has none."""
    pictures = sorted(folder.glob("*.png")) if folder.is_dir() else []
    return png_file(pictures[-1]) if pictures else None
