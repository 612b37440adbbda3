"""Plausible depth for pictures whose depth nobody knows, so that haze can be put over them.

Rests on numpy and Pillow. A network that takes haze off should see how far away things are by the haze, not by what
they are. So the depth need not be right. It has to vary as depth does: slowly along the ground and through a valley,
and in steps at the outlines of things. Each function returns float32 [H,W] in [0,1]: 0 is near and 1 is far.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from minidiff.images.convert import Pixels

Floats = NDArray[np.float32]

MOST_CELLS = 40
STRIP = 1 << 16  # pixels whose cells are found at a time, which bounds the memory


def field(picture: Pixels, random: np.random.Generator) -> Floats:
    """Draw a smooth random field, with two to five hills and hollows across the picture."""
    count, coarse = int(random.integers(2, 6)), random.random((6, 6), np.float32)
    coarse = np.ascontiguousarray(coarse[: count + 1, : count + 1])
    return spread(enlarged(coarse, picture))


def ground(picture: Pixels, random: np.random.Generator) -> Floats:
    """Lay a plane under the picture, up to a horizon, which may be tilted or above the upper edge.

    The depth of a point is inversely proportional to how far it lies below the horizon. What is above is far away.
    """
    horizon, tilt, nearest = random.uniform(-0.4, 0.7), random.uniform(-0.1, 0.1), random.uniform(0.05, 0.3)
    rows, columns = places(picture)
    below = rows - horizon - tilt * (columns - 0.5)
    return np.minimum(nearest * (1 - horizon) / np.maximum(below, 1e-3), 1).astype(np.float32)


def segments(picture: Pixels, random: np.random.Generator) -> Floats:
    """Cut the picture into cells of similar colour, each at a depth of its own. The lower ones tend to be nearer."""
    cells, middle = cells_of(picture, random)
    order, own = random.random(), random.random(MOST_CELLS)[: len(middle)]
    depths = order * (1 - middle) + (1 - order) * own
    return spread(depths.astype(np.float32)[cells])


def standing(picture: Pixels, random: np.random.Generator) -> Floats:
    """Cut half of the picture into cells of similar colour that stand on a plane, each as far away as its foot.

    The other half is the plane. Hoiem et al. 2005 fold photographs up in this way.
    """
    plane = ground(picture, random)
    cells, middle = cells_of(picture, random)
    upright = random.random(MOST_CELLS)[: len(middle)] < 0.5
    foot = np.zeros(len(middle), np.intp)
    foot[cells.ravel()] = np.arange(cells.size)  # of all pixels of a cell, the last one stays: it is in the lowest row
    return np.where(upright[cells], plane.ravel()[foot][cells], plane)


DEPTHS: tuple[Callable[[Pixels, np.random.Generator], Floats], ...] = (field, ground, segments, standing)


def plausible(picture: Pixels, random: np.random.Generator) -> Floats:
    """Draw a depth for uint8 [H,W,3]: one of DEPTHS or the mean of two, with some of the range from 0 to 1.

    In a small part of a photograph, everything may be equally far away. So the range may be narrow.
    """
    first, second = random.integers(len(DEPTHS), size=2)
    both, whole = random.random() < 0.3, random.random() < 0.5
    near, far = np.sort(random.random(2)).astype(np.float32)
    depth = DEPTHS[first](picture, random)
    if both:
        depth = (depth + DEPTHS[second](picture, random)) / 2
    part: Floats = depth if whole else near + (far - near) * depth
    return part


# -- Parts -------------------------------------------------------------------------------------------------------------


def cells_of(picture: Pixels, random: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Cut a picture into 10 to MOST_CELLS cells of similar place and colour.

    Each pixel belongs to the nearest of some random pixels, by place and colour together: the first step of superpixels
    (Achanta et al. 2012). Returns the cell of every pixel, [H,W], and how far down each cell's seed is, in [0,1].
    """
    count, weight = int(random.integers(10, MOST_CELLS + 1)), random.uniform(0.5, 2)
    seeds = random.random((MOST_CELLS, 2))[:count]
    height, width = picture.shape[:2]
    radius = max(1.0, min(height, width) / 64)  # finer grain is texture, not outline
    calm = np.asarray(Image.fromarray(picture).filter(ImageFilter.BoxBlur(radius)), np.float32) * (weight / 255)
    rows, columns = places(picture)
    features = np.concatenate(
        [calm, *np.broadcast_arrays(rows[..., None], columns[..., None])], axis=2, dtype=np.float32
    )
    flat = features.reshape(-1, 5)
    at = (seeds * (height, width)).astype(np.intp)
    centres = features[at[:, 0], at[:, 1]]
    half = (centres**2).sum(axis=1) / 2
    cells = np.concatenate(
        [(half - flat[first : first + STRIP] @ centres.T).argmin(axis=1) for first in range(0, len(flat), STRIP)]
    )
    return cells.reshape(height, width), seeds[:, 0]


def places(picture: Pixels) -> tuple[Floats, Floats]:
    """Return how far down and to the right each pixel's centre is, in [0,1]: [H,1] and [1,W]."""
    height, width = picture.shape[:2]
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width
    return rows[:, None], columns[None]


def enlarged(coarse: Floats, picture: Pixels) -> Floats:
    """Enlarge float32 [h,w] smoothly to the size of a picture."""
    size = (picture.shape[1], picture.shape[0])
    return np.array(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))


def spread(values: Floats) -> Floats:
    """Bring values linearly to the range from 0 to 1; all the same value become 0."""
    low, high = values.min(), values.max()
    spread_out: Floats = (values - low) / max(high - low, np.float32(1e-6))
    return spread_out
