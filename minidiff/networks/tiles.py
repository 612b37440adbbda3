"""A U-Net at any height and width: the image is padded to what its levels need, and a large one is cut into tiles.

Rests on configs and torch. It is for networks whose output depends on near pixels alone, see `UNetConfig.any_size`.
A tile is computed with the pixels around it that matter to it (`halo_of`). So the tiles fit together without a seam.
Luo et al. 2016 (Understanding the Effective Receptive Field: the weight of far pixels falls like a Gaussian).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.networks.configs import UNetConfig

AT_ONCE = 5 << 27  # bytes that the values inside a network may take in one call, as estimated: 0.7 GB
ENOUGH = 64  # pixels around a tile, or two thirds of the reach if that is more: see `halo_of`


def at_any_size(network: Callable[..., Tensor], config: UNetConfig, pixels: int | None = None) -> Callable[..., Tensor]:
    """Let a `UNet` with this config be called with images of any height and width; its output has the same size.

    The images are mirrored at the right and lower edge, up to a multiple of the stride, and the output is cropped. If a
    call would need more than AT_ONCE bytes, its images go through the network in turns, and a large one in tiles. The
    result is that of a single call, up to the rounding of float32.
    pixels: of all images of a call together, at most; None: as many as AT_ONCE allows, see `bytes_a_pixel`.
    """
    at_once = AT_ONCE // bytes_a_pixel(config) if pixels is None else pixels
    stride, halo = config.stride, halo_of(config)

    def call(x: Tensor, t: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        count, _, height, width = x.shape
        x, t = mirrored(x, stride), t.expand(count)
        tiles = cut(x.shape[2], x.shape[3], at_once, halo, stride)
        images = max(1, at_once // (x.shape[2] * x.shape[3]))  # in one call
        if count <= images and len(tiles) == 1:
            return network(x, t, labels, keep)[..., :height, :width]
        made = None
        for first in range(0, count, images):
            rows = slice(first, first + images)
            told = [None if given is None else given[rows] for given in (labels, keep)]
            for tile in tiles:
                seen = x[rows, :, tile.seen[0], tile.seen[1]].contiguous(memory_format=torch.channels_last)
                part = network(seen, t[rows], *told)[..., tile.inside[0], tile.inside[1]]
                if made is None:
                    shape = (count, part.shape[1], *x.shape[2:])
                    made = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
                made[rows, :, tile.place[0], tile.place[1]] = part
        assert made is not None, "there is at least one image and one tile"
        return made[..., :height, :width]

    return call


# --- how far a network looks ----------------------------------------------------------------------------------------


def reach(config: UNetConfig) -> int:
    """Return how far away from a pixel of the output the input still matters to it, in pixels, up, down and sideways.

    It is the largest distance over all places that a pixel can have between the pixels of the coarsest level.
    """
    sights = [(pixel, *sight(config, pixel)) for pixel in range(config.stride)]
    return max(max(pixel - first, last - pixel) for pixel, first, last in sights)


def sight(config: UNetConfig, pixel: int) -> tuple[int, int]:
    """Return the first and the last pixel of a line of the input that matter to a pixel of the output.

    The way goes back through the coarsest level. Every skip is a shorter way, so it sees less.
    """
    levels, layers = len(config.channels), config.layers_per_block
    first, last = pixel - 1, pixel + 1  # conv_out, of 3x3
    for level in range(levels):
        first, last = first - 2 * (layers + 1), last + 2 * (layers + 1)  # blocks of two 3x3 convolutions
        if level < levels - 1:
            first, last = (first - 1) // 2, (last + 1) // 2  # `Upsample`: 3x3, and pixel i before it was i // 2
    first, last = first - 4, last + 4  # the two blocks in the middle
    for level in reversed(range(levels)):
        first, last = first - 2 * layers, last + 2 * layers
        if level > 0:
            first, last = 2 * first - config.downsample_padding, 2 * last - config.downsample_padding + 2
    return first - 1, last + 1  # conv_in


def halo_of(config: UNetConfig) -> int:
    """Return how many pixels around a tile are computed with it: a multiple of the stride.

    Few ways through the layers lead to the farthest pixels of the reach, so these change a float32 number in its last
    bits alone. For the model `photos`, with a reach of 97, 64 pixels change an output of deviation 1 by at most 2e-6,
    as does the order in which its sums are taken; see docs/unet.md.
    """
    far = reach(config)
    return multiple(min(far, max(ENOUGH, far * 2 // 3)), config.stride)


# --- padding --------------------------------------------------------------------------------------------------------


def multiple(length: int, stride: int) -> int:
    """Round a length up to a multiple of the stride, of at least one stride."""
    return max(1, math.ceil(length / stride)) * stride


def mirrored(x: Tensor, stride: int) -> Tensor:
    """Continue x [N,C,H,W] beyond its right and lower edge by its mirror image, to multiples of the stride.

    The pixels of the edge are not repeated. An image that is smaller than what is missing is mirrored several times.
    """
    for dim in (2, 3):
        length = x.shape[dim]
        place = torch.arange(multiple(length, stride), device=x.device)
        if len(place) > length:
            period = max(1, 2 * (length - 1))  # there and back
            place = place % period
            x = x.index_select(dim, torch.minimum(place, period - place) % length)
    return x


# --- tiles ----------------------------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """A part of an image, as slices of height and width."""

    place: tuple[slice, slice]  # in the image
    seen: tuple[slice, slice]  # in the image, with the pixels around it that matter
    inside: tuple[slice, slice]  # in what is seen


def cut(height: int, width: int, at_once: int, halo: int, stride: int) -> list[Tile]:
    """Cut an image into tiles which, with a halo on each side, have at most `at_once` pixels, row by row.

    All lengths are multiples of the stride. An image that is small enough is one tile. Where the halo leaves no room
    for a tile, this is as wide as the halo, whatever it costs: the result must not depend on the tiles.
    """
    if height * width <= at_once:
        whole = (slice(0, height), slice(0, width))
        return [Tile(whole, whole, whole)]
    side = max(math.isqrt(at_once) - 2 * halo, halo) // stride * stride
    return [
        Tile(*zip(rows, columns, strict=True))
        for rows in spans(height, side, halo, stride)
        for columns in spans(width, side, halo, stride)
    ]


def spans(length: int, side: int, halo: int, stride: int) -> list[tuple[slice, slice, slice]]:
    """Cut a length into parts of at most `side`, at an edge one halo more: place, seen, inside of each, as in `Tile`.

    As much is seen of every part. So calls of one shape follow each other, and the memory of one fits the next.
    """
    count = max(1, math.ceil((length - 2 * halo) / side))
    each = multiple(math.ceil(max(length - 2 * halo, 0) / count), stride)
    window = min(each + 2 * halo, length)
    found, start = [], 0
    for number in range(count):
        first = min(number * each, length - window)
        stop = length if number == count - 1 else first + window - halo
        found.append((slice(start, stop), slice(first, first + window), slice(start - first, stop - first)))
        start = stop
    return found


def bytes_a_pixel(config: UNetConfig) -> int:
    """Estimate the memory that a call needs for each pixel of its images, in float32 and without gradients.

    On the way up, the first block of a level holds most: what comes from below, its concatenation with a skip, the norm
    and the SiLU of that, and all skips that are still to be used.
    """
    channels, layers = config.channels, config.layers_per_block
    most, skips = 0.0, 0.0  # numbers for each pixel of the image; the skips of the finer levels
    for level, (width, below) in enumerate(zip(channels, [*channels[1:], channels[-1]], strict=True)):
        pixels = 0.25**level
        most = max(most, skips + pixels * (3 * (width + below) + below + layers * width))
        skips += pixels * (layers + 1) * width
    return math.ceil(4 * most)
