"""Corruptions that move things or draw over them: affine maps, mud, lines, edges.

Each takes images, float64 [N,C,H,W] in [0,1], a severity from 1 to 5 and a generator for each image, and returns images
of the same shape. Mu & Gilmer 2019 (MNIST-C), after Hendrycks & Dietterich 2019 (ImageNet-C); Canny 1986.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.data.damage import Random, blurred, mapped, places, signs, stroked, uniform, unit

# --- affine maps ----------------------------------------------------------------------------------------------------

ANGLES = (0.2, 0.4, 0.6, 0.8, 1.0)  # radians
STILL = torch.eye(2, dtype=torch.float64)[None]


def shear(x: Tensor, severity: int, random: Random) -> Tensor:
    """Shear along the rows by an angle, one way or the other, and stretch the height by 1 / cos of it.

    This is scikit-image's map in the year of MNIST-C; today's does not stretch.
    """
    angle = ANGLES[severity - 1]
    matrix = STILL.repeat(len(x), 1, 1)
    matrix[:, 0, 1] = -math.sin(angle) * signs(random)[:, 0]
    matrix[:, 1, 1] = math.cos(angle)
    return mapped(x, matrix)


def scale(x: Tensor, severity: int, random: Random) -> Tensor:
    """Make the image smaller, in the middle of black."""
    return mapped(x, STILL / (0.9, 0.8, 0.7, 0.6, 0.5)[severity - 1])


def rotate(x: Tensor, severity: int, random: Random) -> Tensor:
    """Turn the image by an angle, one way or the other."""
    angle = ANGLES[severity - 1] * signs(random)[:, 0]
    cos, sin = angle.cos(), angle.sin()
    return mapped(x, torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1))


def translate(x: Tensor, severity: int, random: Random) -> Tensor:
    """Move the image along both axes by 1 to 5 of MNIST's pixels, rounded to whole pixels of the image."""
    return mapped(x, STILL, max(1, round(severity * unit(x))) * signs(random, 2))


# --- things in the way ----------------------------------------------------------------------------------------------

MUD = (63 / 255, 42 / 255, 20 / 255)  # ImageNet-C's; the first is MNIST-C's grey


def spatter(x: Tensor, severity: int, random: Random) -> Tensor:
    """Spatter drops of mud where blurred noise exceeds a threshold, and soften their edges."""
    mean, deviation, sigma, threshold, softness = SPATTER[severity - 1]
    size = unit(x)
    noise = torch.stack([torch.randn(x.shape[2:], generator=g, dtype=torch.float64) for g in random])[:, None]
    # Noise on `size` times as many pixels is blurred `size` times as far. Its deviation must grow, so that it stays.
    drops = (mean + blurred(size * deviation * noise, sigma * size) > threshold).double()
    drops = blurred(drops, softness * size)
    drops = torch.where(drops < 0.8, 0.0, drops)
    mud = torch.tensor(MUD[: x.shape[1]], dtype=torch.float64).view(-1, 1, 1)
    return x * (1 - drops) + mud * drops


SPATTER = (
    (0.65, 0.3, 4, 0.69, 0.6),
    (0.65, 0.3, 3, 0.68, 0.6),
    (0.65, 0.3, 2, 0.68, 0.5),
    (0.65, 0.3, 1.5, 0.67, 0.5),
    (0.67, 0.4, 1.5, 0.66, 0.5),
)  # mean, deviation and blur of the noise; threshold; softness

LINE = 2.3 / 3  # width of a line at severity 1; at severity 3 it is three times as wide, as in MNIST-C


def dotted_line(x: Tensor, severity: int, random: Random) -> Tensor:
    """Draw a dashed white line between random heights, from the left edge nearly to the right."""
    rows, columns = places(x.shape[2]), places(x.shape[3])
    start, end = (uniform(random, 2) * 27).floor().unbind(1)
    height = start[:, None] + (end - start)[:, None] * columns / 27
    dashes = ((columns + 0.5) / 2).floor() % 2 == 1
    distance = (rows[:, None] - height[:, None]).abs()
    return stroked(x, torch.where(dashes & (columns < 26.5), distance, torch.inf)[:, None], LINE * severity)


def zigzag(x: Tensor, severity: int, random: Random) -> Tensor:
    """Draw a white line nearly from the left edge to the right, which goes up and down by 2 pixels within 8.

    Each of its pieces begins and ends with a whole column of MNIST's, so two pieces share the columns of a joint, where
    the line is brighter.
    """
    drawn = uniform(random, 2)
    top, rise = (drawn[:, 0] * 27).floor()[:, None], (drawn[:, 1] * 10).floor()[:, None] - 5
    length = (23**2 + rise**2).sqrt()
    along = torch.tensor([[0.0, 2, 6, 10, 14, 18, 22]], dtype=torch.float64).expand(len(x), -1)
    aside = torch.tensor([[0.0, 2, -2, 2, -2, 2, -2]], dtype=torch.float64).expand(len(x), -1)
    along, aside = torch.cat([along, length], dim=1), torch.cat([aside, -1 / (length - 20)], dim=1)
    column = 2 + (along * 23 - aside * rise) / length  # turned by the angle of the whole line, from (2, top)
    row = top + (along * rise + aside * 23) / length
    rows, columns = places(x.shape[2]), places(x.shape[3])
    first, last = column[:, :-1, None], column[:, 1:, None]
    height = row[:, :-1, None] + (row.diff() / column.diff())[..., None] * (columns - first)
    covered = (columns > first.floor() - 0.5) & (columns < last.ceil() - 0.5)
    distances = (rows[:, None] - height[:, :, None]).abs()
    return stroked(x, torch.where(covered[:, :, None], distances, torch.inf), LINE * severity)


# --- edges ----------------------------------------------------------------------------------------------------------


def canny_edges(x: Tensor, severity: int, random: Random) -> Tensor:
    """Mix the image with its edges, white on black; at severity 5 the edges are alone, as in MNIST-C."""
    grey = x if x.shape[1] == 1 else (x * torch.tensor([0.2125, 0.7154, 0.0721]).double().view(3, 1, 1)).sum(1, True)
    return x + severity / 5 * (canny(grey, unit(x)).double() - x)


def canny(grey: Tensor, sigma: float, low: float = 0.1, high: float = 0.2) -> Tensor:
    """Find the edges of [N,1,H,W] in [0,1], bool [N,1,H,W]: Canny 1986, with scikit-image's thresholds.

    A pixel is a candidate where the slope is a maximum across the edge and exceeds `low`. A candidate is an edge when
    other candidates connect it to one above `high`. Slopes are in units of the Sobel operator, 8 times the slope over
    `sigma` pixels.
    """
    smooth = blurred(grey, sigma)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64) * sigma
    slopes = F.conv2d(F.pad(smooth, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None])
    size = torch.hypot(slopes[:, :1], slopes[:, 1:])
    # Compare with the slopes one step up and down the hill, interpolated on the square around each pixel.
    step = (slopes / slopes.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)).permute(0, 2, 3, 1)
    half = torch.tensor([grey.shape[3] - 1, grey.shape[2] - 1], dtype=torch.float64) / 2
    rows, columns = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2 for count in grey.shape[2:])
    here = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    around = [F.grid_sample(size, (here + way * step) / half, align_corners=True) for way in (-1, 1)]
    weak = (size >= torch.maximum(*around) - 1e-9) & (size >= low)
    inside = torch.zeros_like(weak)
    inside[:, :, 1:-1, 1:-1] = True
    weak &= inside
    edges, before = weak & (size >= high), None
    while before is None or not torch.equal(edges, before):
        before, edges = edges, weak & widened(widened(edges, 2), 3)
    return edges


def widened(mask: Tensor, axis: int) -> Tensor:
    """Add the neighbours along an axis to a bool mask that is false at its ends."""
    return mask | mask.roll(1, axis) | mask.roll(-1, axis)
