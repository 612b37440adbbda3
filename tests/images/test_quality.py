"""PSNR and SSIM against scikit-image, and against values that can be worked out by hand."""

import math

import numpy as np
import pytest

from minidiff.errors import UserError
from minidiff.images.quality import psnr, ssim


def pair(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture, and the same with noise."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(0, 9, shape), axis=0) + 128
    noisy = smooth + rng.normal(0, 20, shape)
    return tuple(np.clip(x, 0, 255).astype(np.uint8) for x in (smooth, noisy))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(11, 11), (40, 33), (40, 33, 3), (20, 64, 1)])
def test_equal_to_scikit_image(shape: tuple[int, ...]) -> None:
    """Fails on a window of another width (5e-3), a border counted in, the sample covariance, channels mixed."""
    metrics = pytest.importorskip("skimage.metrics")
    image, reference = pair(*shape)
    assert psnr(image, reference) == pytest.approx(metrics.peak_signal_noise_ratio(reference, image), abs=1e-10)
    theirs = metrics.structural_similarity(
        reference,
        image,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2 if len(shape) == 3 else None,
    )
    assert ssim(image, reference) == pytest.approx(theirs, abs=1e-10)


def test_by_hand() -> None:
    """Off by 5 everywhere: 10 log10(255^2 / 25) dB. Flat images: only the first factor of SSIM is left."""
    grey, lighter = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 105, np.uint8)
    assert psnr(lighter, grey) == pytest.approx(10 * math.log10(255**2 / 25))
    c1 = (0.01 * 255) ** 2
    assert ssim(lighter, grey) == pytest.approx((2 * 100 * 105 + c1) / (100**2 + 105**2 + c1))
    assert psnr(grey, grey) == math.inf and ssim(grey, grey) == 1


def test_what_cannot_be_compared() -> None:
    image, _ = pair(12, 12, 3)
    with pytest.raises(UserError, match="cannot be compared"):
        psnr(image, image[:, :11])
    with pytest.raises(UserError, match="11x11"):
        ssim(image[:10], image[:10])
    with pytest.raises(ValueError, match="uint8"):
        psnr(image / 255, image)  # type: ignore[arg-type]
