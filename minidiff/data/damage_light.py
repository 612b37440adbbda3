"""Corruptions that change values and leave things in their place: noise, blurs, light.

Each takes images, float64 [N,C,H,W] in [0,1], a severity from 1 to 5 and a generator for each image, and returns images
of the same shape. Mu & Gilmer 2019 (MNIST-C), after Hendrycks & Dietterich 2019 (ImageNet-C).
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from minidiff.data.damage import Random, blurred, uniform, unit

# --- noise ----------------------------------------------------------------------------------------------------------


def identity(x: Tensor, severity: int, random: Random) -> Tensor:
    """Return the images as they are."""
    return x


def shot_noise(x: Tensor, severity: int, random: Random) -> Tensor:
    """Let light arrive in few photons: each value v becomes Poisson(c v) / c."""
    pieces = (60, 25, 12, 5, 3)[severity - 1]
    level = (x * 255).round().long()
    # Look up the Poisson number that belongs to a uniform one: level + P(count <= k) ascends through the whole table.
    table = poisson_table(pieces)
    ranks = torch.searchsorted(table.flatten(), (level + uniform(random, *x.shape[1:])).contiguous())
    return (ranks - level * table.shape[1]).double() / pieces


@lru_cache
def poisson_table(pieces: int) -> Tensor:
    """Return level + P(Poisson(pieces level / 255) <= k) as [256,K], for each level and k."""
    level = torch.arange(256, dtype=torch.float64)[:, None]
    count = torch.arange(pieces + 10 * math.isqrt(pieces) + 20, dtype=torch.float64)
    shares: Tensor = torch.special.gammaincc(count + 1, pieces * level / 255)
    return level + shares


def impulse_noise(x: Tensor, severity: int, random: Random) -> Tensor:
    """Add salt and pepper: a share of the values becomes black or white."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit, white = uniform(random, 2, *x.shape[1:]).unbind(1)
    return torch.where(hit < share, (white < 0.5).double(), x)


# --- blur -----------------------------------------------------------------------------------------------------------


def glass_blur(x: Tensor, severity: int, random: Random) -> Tensor:
    """Look through frosted glass: blur, shuffle the pixels within a small distance, and blur again.

    MNIST-C goes through the pixels in order and swaps each with a near one. Here the rows, then the columns, are sorted
    by the places of their pixels plus noise, which moves a pixel as far (docs/corruptions.md).
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
    """Blur along a line within 45 degrees of the horizontal, with one side of a Gaussian."""
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
    """Share each point at `position` [N,K] linearly among the pixels of a row: [N,len(pixels),K]."""
    return (1 - (position[:, None] - pixels[:, None]).abs()).clamp(min=0)


def correlated(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate [N,C,H,W] with the kernel [N,1,h,w] where it fits, by Fourier transforms: [N,C,H-h+1,W-w+1]."""
    size = [next_fast_len(count, real=True) for count in x.shape[2:]]
    whole: Tensor = torch.fft.irfft2(torch.fft.rfft2(x, s=size) * torch.fft.rfft2(kernel, s=size).conj(), s=size)
    return whole[:, :, : x.shape[2] - kernel.shape[2] + 1, : x.shape[3] - kernel.shape[3] + 1]


# --- light ----------------------------------------------------------------------------------------------------------


def brightness(x: Tensor, severity: int, random: Random) -> Tensor:
    """Raise the value of HSV, which is the largest channel; hue and saturation stay."""
    value = x.amax(dim=1, keepdim=True)
    brighter = (value + severity / 10).clamp(max=1)
    return torch.where(value > 0, x * brighter / value.clamp(min=1e-9), brighter)


def stripe(x: Tensor, severity: int, random: Random) -> Tensor:
    """Invert a stripe at the left and one at the right: at severity 3, as in MNIST-C, a quarter of the width each."""
    width = round(x.shape[3] * severity / 12)
    columns = torch.arange(x.shape[3])
    return torch.where((columns < width) | (columns >= x.shape[3] - width), 1 - x, x)


FOG = 0.34  # the coarsest octave as a share of the range of the whole map, measured


def fog(x: Tensor, severity: int, random: Random) -> Tensor:
    """Put fog in front of the image: a fractal in which each octave is `decay`^2 weaker than the one before.

    MNIST-C makes a map of 256x256 by the diamond-square algorithm, scales it to [0, 1], and takes a corner of 28x28.
    Here only the corner is made, from midpoints and noise at 64 pixels down to 1, and FOG replaces the range of the
    whole. The fog is as dense, as varied and as rough (docs/corruptions.md).
    """
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.25, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    counts = [math.ceil(27 / step) + 1 for step in (64, 32, 16, 8, 4, 2, 1)]
    areas = [count**2 for count in counts]
    noise = torch.split(uniform(random, sum(areas)), areas, dim=1)
    bank = torch.full((len(x), 1, 2, 2), 0.5, dtype=torch.float64)
    for octave, (count, values) in enumerate(zip(counts, noise, strict=True)):
        if octave:
            finer = 2 * bank.shape[2] - 1
            bank = F.interpolate(bank, size=(finer, finer), mode="bilinear", align_corners=True)
        bank = bank[:, :, :count, :count] + FOG * decay ** (-2 * octave) * (2 * values.view(-1, 1, count, count) - 1)
    most = x.amax(dim=(1, 2, 3), keepdim=True)
    bank = F.interpolate(bank, size=x.shape[2:], mode="bilinear", align_corners=False)
    return (x + amount * bank).clamp(min=0) * most / (most + amount)
