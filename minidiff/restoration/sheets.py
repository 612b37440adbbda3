"""Show what a restoration changed, on a sheet, and how, on a strip along the chain.

Rests on images and ddpm.moments. The sheet has the picture before and after, and the difference, exaggerated, as a
few grey values are hard to see. A large picture is scaled down to fit, and a row below it shows the centre of each as
it is, pixel by pixel.
"""

import numpy as np

from minidiff.ddpm.moments import Film
from minidiff.images.convert import Pixels
from minidiff.images.files import scaled
from minidiff.images.grid import grid, name_columns, table

PANEL = 480  # pixels: the longest side of a picture in a sheet, and the side of its detail
MOMENTS = 8  # columns of a strip, at most: fewer for fewer calls
LOUDER = 4  # times: how much a sheet exaggerates the difference


def enlarged(image: Pixels, times: int) -> Pixels:
    """Enlarge uint8 [H,W,3] by repeating each pixel."""
    return image.repeat(times, axis=0).repeat(times, axis=1)


def sheet_of(before: Pixels, after: Pixels) -> Pixels:
    """Put a picture, its answer and their difference beside each other; below, the centre of each, pixel by pixel."""
    gap = np.abs(after.astype(np.int16) - before).clip(0, 255 // LOUDER).astype(np.uint8) * LOUDER
    panels = (before, after, gap)
    height, width, _ = before.shape
    scale = min(1.0, PANEL / max(height, width))
    rows = [grid(np.stack([scaled(each, scale) for each in panels]), 3)]
    if scale < 1:
        across = rows[0].shape[1] // 3 - 4
        rows.append(grid(np.stack([centre(each, across) for each in panels]), 3))
        wide = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 0), (0, wide - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return name_columns(np.concatenate(rows), ["before", "after", f"difference, {LOUDER} times"], size=16)


def centre(image: Pixels, side: int) -> Pixels:
    """Cut out the middle of uint8 [H,W,3], at most `side` pixels each way."""
    height, width = (min(side, length) for length in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def strip_of(film: Film) -> Pixels:
    """Lay out the moments of a chain from left to right: above x_t, below it the x0 that was predicted from it."""
    pictures = np.concatenate([*film.x, *film.x0])
    return table(pictures, [[f"t = {t}" for t in film.t]], ["x_t", "x0"], rows_each=2)
