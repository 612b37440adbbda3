"""Corrupted images: MNIST-C's fifteen kinds of damage at five severities, for grey and colour images of any size.

Mu & Gilmer 2019 (MNIST-C), after Hendrycks & Dietterich 2019 (ImageNet-C); Canny 1986. Their constants are for 28x28
pixels, and every length here grows with the image. What is drawn at random belongs to an image by its number, so it has
the same damage in any batch; and it does not depend on the severity, so that more of it is more of the same.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

from minidiff.errors import UserError, lookup
from minidiff.rng import seed_from

Random = list[torch.Generator]  # one for each image
Corruption = Callable[[Tensor, int, Random], Tensor]  # images float64 [N,C,H,W] in [0,1], severity 1 to 5 -> the same

VERSION = 1  # to be raised when an image would come out otherwise
STREAM = 0xC0  # what a seed is for: keeps these numbers apart from those of sampling
SEVERITIES = range(1, 6)


def corrupt(
    images: NDArray[np.uint8], name: str, severity: int, indices: Sequence[int] | NDArray[np.integer], seed: int = 0
) -> NDArray[np.uint8]:
    """The images, uint8 [N,H,W,C] with 1 or 3 channels, under one of CORRUPTIONS.

    severity: 1 to 5. indices: their numbers in the data set, [N]: image k of a seed has the same damage always.
    Raises UserError.
    """
    check(name, severity)
    if len(indices) != len(images):
        raise ValueError(f"{len(indices)} numbers for {len(images)} images: give one for each")
    if not len(images):
        return np.array(images)
    random = [torch.Generator().manual_seed(seed_from(seed, STREAM, int(index))) for index in indices]
    # In double precision: sums come out a little differently in a batch of another size, by much less than a byte.
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).double() / 255
    x = (CORRUPTIONS[name](x, severity, random) * 255 + 0.5 + 1e-6).floor().clamp(0, 255)
    return x.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def check(name: str, severity: int) -> None:
    """A UserError unless there is such a corruption and such a severity."""
    lookup("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} is not one of 1 to 5. Try 3.")


# --- what they share --------------------------------------------------------------------------------------------------


def uniform(random: Random, *shape: int) -> Tensor:
    """Numbers in [0,1), float64 [N,*shape]."""
    return torch.stack([torch.rand(shape, generator=generator, dtype=torch.float64) for generator in random])


def signs(random: Random, count: int = 1) -> Tensor:
    """-1 or 1, [N,count]."""
    return torch.where(uniform(random, count) < 0.5, -1.0, 1.0).double()


def unit(x: Tensor) -> float:
    """Pixels of this image for one of MNIST's."""
    return min(x.shape[2:]) / 28


def places(count: int) -> Tensor:
    """Where `count` pixels in a row lie among MNIST's 28: of 28, the numbers 0 to 27."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * 28 / count - 0.5


def blurred(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur, out to 4 sigma, of what lies in the image: at its edges the weights within make up the whole."""
    return blurring(x.shape[2], sigma) @ x @ blurring(x.shape[3], sigma).T


@lru_cache
def blurring(count: int, sigma: float) -> Tensor:
    """[count,count]: the matrix that blurs a column of pixels."""
    apart = (torch.arange(count)[:, None] - torch.arange(count)).double()
    weights = torch.exp(-(apart**2) / (2 * sigma**2)) * (apart.abs() <= int(4 * sigma + 0.5))
    return weights / weights.sum(dim=1, keepdim=True)


def mapped(x: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Each pixel p takes what lies at matrix (p - c) + c + shift, c the centre: bilinear, and black outside.

    matrix: [N or 1,2,2], shift: [N,2] in pixels, both for (column, row).
    """
    half = torch.tensor([x.shape[3] - 1, x.shape[2] - 1], dtype=torch.float64) / 2
    rows, columns = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2 for count in x.shape[2:])
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    sources = points.flatten(0, 1) @ matrix.mT
    if shift is not None:
        sources = sources + shift[:, None]
    grid = (sources / half).view(-1, *x.shape[2:], 2).expand(len(x), -1, -1, -1)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=True)


def stroked(x: Tensor, distance: Tensor, width: float) -> Tensor:
    """White added along a line: distance [N,H,W] from it in MNIST's pixels, where it fades out at 0.63 width."""
    light = 1 + torch.log1p(-(distance / width).clamp(max=1 - 1e-9))
    return x + light.clamp(0, 1)[:, None]


# --- noise ------------------------------------------------------------------------------------------------------------


def identity(x: Tensor, severity: int, random: Random) -> Tensor:
    """The images as they are."""
    return x


def shot_noise(x: Tensor, severity: int, random: Random) -> Tensor:
    """Light that comes in few pieces: each value v is Poisson(c v) / c."""
    pieces = (60, 25, 12, 5, 3)[severity - 1]
    level = (x * 255).round().long()
    # The Poisson number of a uniform one, looked up: level + P(count <= k) ascends through the whole table.
    table = poisson_table(pieces)
    ranks = torch.searchsorted(table.flatten(), (level + uniform(random, *x.shape[1:])).contiguous())
    return (ranks - level * table.shape[1]).double() / pieces


@lru_cache
def poisson_table(pieces: int) -> Tensor:
    """level + P(Poisson(pieces level / 255) <= k), [256,K]: level over k."""
    level = torch.arange(256, dtype=torch.float64)[:, None]
    count = torch.arange(pieces + 10 * math.isqrt(pieces) + 20, dtype=torch.float64)
    return level + torch.special.gammaincc(count + 1, pieces * level / 255)


def impulse_noise(x: Tensor, severity: int, random: Random) -> Tensor:
    """Salt and pepper: a share of the values is black or white."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit, white = uniform(random, 2, *x.shape[1:]).unbind(1)
    return torch.where(hit < share, (white < 0.5).double(), x)


# --- blur -------------------------------------------------------------------------------------------------------------


def glass_blur(x: Tensor, severity: int, random: Random) -> Tensor:
    """Frosted glass: the pixels are shuffled within a small distance, between two blurs.

    MNIST-C goes through the pixels in order and swaps each with a near one; here rows, then columns, are sorted by
    where their pixels are plus noise, which moves them as far (docs/corruptions.md).
    """
    sigma, distance, times = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]
    scale = unit(x)
    x = blurred(x, sigma * scale)
    jitters = 2 * (distance + 0.25) * scale * uniform(random, 2 * times, *x.shape[2:])
    for jitter, axis in zip(jitters.unbind(1), (3, 2) * times, strict=True):
        home = torch.arange(x.shape[axis], dtype=torch.float64)
        keys = jitter + (home if axis == 3 else home[:, None])
        order = torch.from_numpy(np.argsort(keys.numpy(), axis=axis - 1, kind="stable"))
        x = torch.take_along_dim(x, order[:, None], dim=axis)
    return blurred(x, sigma * scale)


def motion_blur(x: Tensor, severity: int, random: Random) -> Tensor:
    """A blur along a line within 45 degrees of the horizontal: a Gaussian, of which one side is there."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    reach = min(2 * radius, 4 * sigma) * unit(x)
    steps = torch.arange(int(reach) + 1, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / (2 * (sigma * unit(x)) ** 2))
    angle = (uniform(random, 1) - 0.5) * math.pi / 2
    up = math.ceil(len(steps) * math.sqrt(0.5))
    rows = hats(steps * angle.sin(), torch.arange(-up, up + 1))
    columns = hats(steps * angle.cos(), torch.arange(len(steps) + 1))
    kernel = (weights / weights.sum() * rows) @ columns.mT  # [N,2 up + 1,columns]: the line, drawn with soft ends
    return correlated(F.pad(x, (0, len(steps), up, up), mode="replicate"), kernel[:, None])


def hats(position: Tensor, pixels: Tensor) -> Tensor:
    """How much of a point at `position` [N,K] falls on each pixel of a row: linear, [N,len(pixels),K]."""
    return (1 - (position[:, None] - pixels[:, None]).abs()).clamp(min=0)


def correlated(x: Tensor, kernel: Tensor) -> Tensor:
    """The sum over the kernel [N,1,h,w] laid on [N,C,H,W], where it fits: [N,C,H-h+1,W-w+1]. By Fourier transforms."""
    size = [next_fast_len(count, real=True) for count in x.shape[2:]]
    whole = torch.fft.irfft2(torch.fft.rfft2(x, s=size) * torch.fft.rfft2(kernel, s=size).conj(), s=size)
    return whole[:, :, : x.shape[2] - kernel.shape[2] + 1, : x.shape[3] - kernel.shape[3] + 1]


# --- affine maps ------------------------------------------------------------------------------------------------------

ANGLES = (0.2, 0.4, 0.6, 0.8, 1.0)  # radians
STILL = torch.eye(2, dtype=torch.float64)[None]


def shear(x: Tensor, severity: int, random: Random) -> Tensor:
    """Sheared along the rows by an angle, one way or the other, and stretched to 1 / cos of it in height.

    The map of scikit-image in the year of MNIST-C; today's has no stretch.
    """
    angle = ANGLES[severity - 1]
    matrix = STILL.repeat(len(x), 1, 1)
    matrix[:, 0, 1] = -math.sin(angle) * signs(random)[:, 0]
    matrix[:, 1, 1] = math.cos(angle)
    return mapped(x, matrix)


def scale(x: Tensor, severity: int, random: Random) -> Tensor:
    """Made smaller, in the middle of black."""
    return mapped(x, STILL / (0.9, 0.8, 0.7, 0.6, 0.5)[severity - 1])


def rotate(x: Tensor, severity: int, random: Random) -> Tensor:
    """Turned by an angle, one way or the other."""
    angle = ANGLES[severity - 1] * signs(random)[:, 0]
    cos, sin = angle.cos(), angle.sin()
    return mapped(x, torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1))


def translate(x: Tensor, severity: int, random: Random) -> Tensor:
    """Moved by 1 to 5 of MNIST's pixels both ways, in whole pixels of the image."""
    return mapped(x, STILL, max(1, round(severity * unit(x))) * signs(random, 2))


# --- light ------------------------------------------------------------------------------------------------------------


def brightness(x: Tensor, severity: int, random: Random) -> Tensor:
    """The value of HSV, the largest channel, is raised; hue and saturation stay."""
    value = x.amax(dim=1, keepdim=True)
    brighter = (value + severity / 10).clamp(max=1)
    return torch.where(value > 0, x * brighter / value.clamp(min=1e-9), brighter)


def stripe(x: Tensor, severity: int, random: Random) -> Tensor:
    """Inverted at the left and at the right: in MNIST-C, and here at severity 3, a quarter of the width each."""
    width = round(x.shape[3] * severity / 12)
    columns = torch.arange(x.shape[3])
    return torch.where((columns < width) | (columns >= x.shape[3] - width), 1 - x, x)


def fog(x: Tensor, severity: int, random: Random) -> Tensor:
    """A bank of fog before the image: a fractal of octaves, `decay`^2 weaker from one to the next finer.

    MNIST-C takes a corner of 28x28 out of the diamond-square algorithm's 256x256, brought to [0, 1] as a whole. Here
    only what lies in the corner is made, midpoints and noise from 64 pixels down to 1, and FOG stands for the range of
    the whole: fog as dense, as varied and as rough (docs/corruptions.md).
    """
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.25, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    counts = [math.ceil(27 / step) + 1 for step in (64, 32, 16, 8, 4, 2, 1)]
    noise = uniform(random, sum(count**2 for count in counts)).split([count**2 for count in counts], dim=1)
    bank = torch.full((len(x), 1, 2, 2), 0.5, dtype=torch.float64)
    for octave, (count, values) in enumerate(zip(counts, noise, strict=True)):
        if octave:
            finer = 2 * bank.shape[2] - 1
            bank = F.interpolate(bank, size=(finer, finer), mode="bilinear", align_corners=True)
        bank = bank[:, :, :count, :count] + FOG * decay ** (-2 * octave) * (2 * values.view(-1, 1, count, count) - 1)
    most = x.amax(dim=(1, 2, 3), keepdim=True)
    bank = F.interpolate(bank, size=x.shape[2:], mode="bilinear", align_corners=False)
    return (x + amount * bank).clamp(min=0) * most / (most + amount)


FOG = 0.34  # of the range of the whole, the coarsest octave: measured


# --- things in the way ------------------------------------------------------------------------------------------------

MUD = (63 / 255, 42 / 255, 20 / 255)  # ImageNet-C's; MNIST-C's grey is the first


def spatter(x: Tensor, severity: int, random: Random) -> Tensor:
    """Drops of mud: where blurred noise is above a threshold, with its edges softened."""
    mean, deviation, sigma, threshold, softness = SPATTER[severity - 1]
    size = unit(x)
    noise = torch.stack([torch.randn(x.shape[2:], generator=g, dtype=torch.float64) for g in random])[:, None]
    # White noise of `size` times as many pixels, blurred as many times as far: its deviation must grow to stay.
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

LINE = 2.3 / 3  # width of a line at severity 1: three times it, MNIST-C's, at severity 3


def dotted_line(x: Tensor, severity: int, random: Random) -> Tensor:
    """A dashed white line from the left edge to the right, between random heights."""
    rows, columns = places(x.shape[2]), places(x.shape[3])
    start, end = (uniform(random, 2) * 27).floor().unbind(1)
    height = start[:, None] + (end - start)[:, None] * columns / 27
    dashes = ((columns + 0.5) / 2).floor() % 2 == 1
    distance = (rows[:, None] - height[:, None]).abs()
    return stroked(x, torch.where(dashes, distance, torch.inf), LINE * severity)


def zigzag(x: Tensor, severity: int, random: Random) -> Tensor:
    """A white line that goes up and down by 2 pixels within 8, nearly from the left edge to the right."""
    rows, columns = places(x.shape[2]), places(x.shape[3])
    drawn = uniform(random, 2)
    start, rise = (drawn[:, 0] * 27).floor(), (drawn[:, 1] * 10).floor() - 5
    slope = (rise / 23)[:, None]
    along = (columns - 2) * (1 + slope**2).sqrt()
    teeth = 4 / math.pi * torch.asin(torch.sin(math.pi / 4 * along))  # 2 at 2, -2 at 6, ...
    distance = (rows[:, None] - (start[:, None] + slope * (columns - 2) + teeth)[:, None]).abs()
    return stroked(x, torch.where((columns > 1.5) & (columns < 25), distance, torch.inf), LINE * severity)


# --- edges ------------------------------------------------------------------------------------------------------------


def canny_edges(x: Tensor, severity: int, random: Random) -> Tensor:
    """White edges on black instead of the image: mixed with it, and from severity 5 alone as in MNIST-C."""
    grey = x if x.shape[1] == 1 else (x * torch.tensor([0.2125, 0.7154, 0.0721]).double().view(3, 1, 1)).sum(1, True)
    return x + severity / 5 * (canny(grey, unit(x)).double() - x)


def canny(grey: Tensor, sigma: float, low: float = 0.1, high: float = 0.2) -> Tensor:
    """Edges, bool [N,1,H,W], of [N,1,H,W] in [0,1]: Canny 1986, with scikit-image's thresholds, of which lengths are
    `sigma` pixels.

    A pixel is an edge where the slope is a maximum across the edge and above `low`, and such pixels lead from it to one
    above `high`. In units of the Sobel operator, 8 times the slope.
    """
    smooth = blurred(grey, sigma)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64) * sigma
    slopes = F.conv2d(F.pad(smooth, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None])
    size = torch.hypot(slopes[:, :1], slopes[:, 1:])
    # The slopes one pixel further up and down the hill, on the square around this one, between its pixels.
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
    """A bool mask that is false at its ends, and its neighbours along an axis."""
    return mask | mask.roll(1, axis) | mask.roll(-1, axis)


# --- the table --------------------------------------------------------------------------------------------------------

CORRUPTIONS: dict[str, Corruption] = {
    "identity": identity,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "shear": shear,
    "scale": scale,
    "rotate": rotate,
    "brightness": brightness,
    "translate": translate,
    "stripe": stripe,
    "fog": fog,
    "spatter": spatter,
    "dotted_line": dotted_line,
    "zigzag": zigzag,
    "canny_edges": canny_edges,
}
ONE_WAY = {"motion_blur", "dotted_line", "zigzag"}  # that a mirrored image would show the other way round
