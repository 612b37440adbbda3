"""Corrupted images: MNIST-C's fifteen kinds of damage at five severities, for grey and colour images of any size.

Rests on damage_light and damage_shape, which have a function for each kind. Random damage depends on the
number of an image, so the image has the same damage in any batch. It does not depend on the severity: a higher severity
only makes it stronger. Mu & Gilmer 2019 (MNIST-C), after Hendrycks & Dietterich 2019 (ImageNet-C).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff.data import damage_light as light
from minidiff.data import damage_shape as shape
from minidiff.data.damage import Random
from minidiff.errors import UserError, lookup
from minidiff.rng import seed_from

Corruption = Callable[[Tensor, int, Random], Tensor]  # images float64 [N,C,H,W] in [0,1], severity 1 to 5 -> the same

VERSIONS = {"dotted_line": 2, "zigzag": 2}  # of each other corruption 1; raise it when an image comes out differently
STREAM = 0xC0  # what a seed is for: keeps these numbers apart from those of sampling
SEVERITIES = range(1, 6)

CORRUPTIONS: dict[str, Corruption] = {
    "identity": light.identity,
    "shot_noise": light.shot_noise,
    "impulse_noise": light.impulse_noise,
    "glass_blur": light.glass_blur,
    "motion_blur": light.motion_blur,
    "shear": shape.shear,
    "scale": shape.scale,
    "rotate": shape.rotate,
    "brightness": light.brightness,
    "translate": shape.translate,
    "stripe": light.stripe,
    "fog": light.fog,
    "spatter": shape.spatter,
    "dotted_line": shape.dotted_line,
    "zigzag": shape.zigzag,
    "canny_edges": shape.canny_edges,
}
ONE_WAY = {"motion_blur", "dotted_line", "zigzag"}  # a mirrored image would show these the other way round


def corrupt(
    images: NDArray[np.uint8], name: str, severity: int, indices: Sequence[int] | NDArray[np.integer], seed: int = 0
) -> NDArray[np.uint8]:
    """Corrupt images, uint8 [N,H,W,C] with 1 or 3 channels, by one of CORRUPTIONS.

    severity: 1 to 5. indices: their numbers in the data set, [N]; image k of a seed always has the same damage.
    Raises UserError.
    """
    check(name, severity)
    if len(indices) != len(images):
        raise ValueError(f"{len(indices)} numbers for {len(images)} images: give one for each")
    if not len(images):
        return np.array(images)
    random = [torch.Generator().manual_seed(seed_from(seed, STREAM, int(index))) for index in indices]
    # In double precision, sums differ between batches of different sizes by much less than a byte.
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).double() / 255
    x = (CORRUPTIONS[name](x, severity, random) * 255 + 0.5 + 1e-6).floor().clamp(0, 255)
    result: NDArray[np.uint8] = x.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return result


def check(name: str, severity: int) -> None:
    """Raise UserError unless there is a corruption of this name, and the severity is 1 to 5."""
    lookup("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} is not one of 1 to 5. Try 3.")
