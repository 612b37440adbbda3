"""What is no image is noticed, and real pictures are not accused."""

from pathlib import Path

import numpy as np
import pytest

from minidiff.images.faults import faults, neighbour_correlation, problems


def test_noise_constants_and_saturation_are_noticed() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    clipped = (255 * (random.random((20, 32, 32, 3)) > 0.5)).astype(np.uint8)
    flat = np.full((20, 32, 32, 3), 90, np.uint8)
    y, x = np.mgrid[0:32, 0:32]
    ramp = np.stack([y * 255 // 32, x * 255 // 32, (x + y) * 127 // 32], axis=2).astype(np.uint8)
    good = np.stack([np.roll(ramp, k, axis=1) for k in range(20)])
    assert "20 of 20 images are noise" in problems(noise)[0]
    assert "noise" in problems(clipped)[0] and "saturated" in problems(clipped)[1]
    assert "one flat colour" in problems(flat)[0]
    assert problems(noise[:1])[0].startswith("the image is noise (")
    assert problems(np.concatenate([noise[:1], good[:7]]))[0].startswith("1 of 8 images is noise (")
    assert problems(noise, expected=["noise"]) == []
    assert problems(good) == []
    assert problems(np.concatenate([good, good, noise[:3]])) == []  # under a tenth
    assert abs(neighbour_correlation(noise).mean()) < 0.02


def test_real_clothing_is_not_called_noise() -> None:
    """The most textured of 10,000 real images still correlates well above the threshold's neighbourhood."""
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    from minidiff.data.datasets import load_data

    data = load_data("fashion-mnist", split="test")
    assert problems(np.repeat(data.images[:2000], 3, axis=3)) == []


def test_a_line_of_pixels_is_not_called_noise() -> None:
    """It has no neighbours one way, so nothing can be said, and no division by zero is attempted."""
    for shape in ((5, 1, 16, 3), (5, 16, 1, 3), (5, 1, 1, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        assert not faults(images)["noise"].any()
