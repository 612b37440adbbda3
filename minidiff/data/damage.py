"""Tools that the corruptions share: random numbers, lengths, blurs, maps and strokes.

The constants of MNIST-C are for 28x28 pixels, so every length grows with the image. Rests on torch alone.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Random = list[torch.Generator]  # one for each image


def uniform(random: Random, *shape: int) -> Tensor:
    """Draw numbers in [0,1), float64 [N,*shape]."""
    return torch.stack([torch.rand(shape, generator=generator, dtype=torch.float64) for generator in random])


def signs(random: Random, count: int = 1) -> Tensor:
    """Draw -1 or 1, float64 [N,count]."""
    return torch.where(uniform(random, count) < 0.5, -1.0, 1.0).double()


def unit(x: Tensor) -> float:
    """Return how many pixels of this image make up one pixel of MNIST."""
    return min(x.shape[2:]) / 28


def places(count: int) -> Tensor:
    """Place `count` pixels in a row among MNIST's 28; for a count of 28 these are the numbers 0 to 27."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * 28 / count - 0.5


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Blur [N,C,H,W] with a Gaussian, cut at 4 sigma. At an edge, the weights inside the image sum to 1."""
    return blurring(x.shape[2], sigma) @ x @ blurring(x.shape[3], sigma).T


@lru_cache
def blurring(count: int, sigma: float) -> Tensor:
    """Return the matrix [count,count] that blurs a column of pixels."""
    apart = (torch.arange(count)[:, None] - torch.arange(count)).double()
    weights = torch.exp(-(apart**2) / (2 * sigma**2)) * (apart.abs() <= int(4 * sigma + 0.5))
    return weights / weights.sum(dim=1, keepdim=True)


def mapped(x: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Fill each pixel p with the value at matrix (p - c) + c + shift, where c is the centre.

    Values are interpolated bilinearly, and are black outside the image. matrix: [N or 1,2,2]; shift: [N,2] in pixels;
    both for (column, row).
    """
    half = torch.tensor([x.shape[3] - 1, x.shape[2] - 1], dtype=torch.float64) / 2
    rows, columns = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2 for count in x.shape[2:])
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    sources = points.flatten(0, 1) @ matrix.mT
    if shift is not None:
        sources = sources + shift[:, None]
    grid = (sources / half).view(-1, *x.shape[2:], 2).expand(len(x), -1, -1, -1)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=True)


def stroked(x: Tensor, distances: Tensor, width: float) -> Tensor:
    """Add white along lines. distances: [N,K,H,W] from each of K, in MNIST's pixels; white fades out at 0.63 width.

    Where lines overlap their light adds up, so values can exceed 1.
    """
    light = 1 + torch.log1p(-(distances / width).clamp(max=1 - 1e-9))
    return x + light.clamp(0, 1).sum(1, keepdim=True)
