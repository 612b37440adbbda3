"""The likeness of two pictures: PSNR and SSIM, on uint8 pixels as they are stored in files.

Rests on numpy and scipy. Wang et al. 2004 (SSIM).
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from minidiff.errors import UserError
from minidiff.images.convert import Pixels

PEAK = 255
K1, K2 = 0.01, 0.03  # Wang et al. 2004, section III.C
SIGMA, RADIUS = 1.5, 5  # of its Gaussian window of 11x11 pixels


def psnr(image: Pixels, reference: Pixels) -> float:
    """Return the peak signal to noise ratio in dB, over all pixels and channels; infinite for equal images.

    Both are uint8 of the same shape. Raises UserError if the shapes differ.
    """
    a, b = comparable(image, reference)
    error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(PEAK**2 / error) if error > 0 else math.inf


def ssim(image: Pixels, reference: Pixels) -> float:
    """Return the structural similarity, at most 1: the mean over channels and all 11x11 windows inside the image.

    Both are uint8 [H,W] or [H,W,C], and each side is at least 11. Raises UserError if the shapes differ or are smaller.
    """
    a, b = comparable(image, reference)
    if min(a.shape[:2]) < 2 * RADIUS + 1:
        raise UserError(
            f"SSIM looks at windows of 11x11 pixels, and an image of {list(a.shape)} has none. Use larger images."
        )
    mean_a, mean_b = window_mean(a), window_mean(b)
    variance_a = window_mean(a * a) - mean_a**2
    variance_b = window_mean(b * b) - mean_b**2
    covariance = window_mean(a * b) - mean_a * mean_b
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )  # eq. 13
    return float(similarity.mean())


def window_mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gaussian-weighted mean around every pixel whose window lies inside: [H-10,W-10,...]."""
    sigma = (SIGMA, SIGMA, *[0] * (x.ndim - 2))  # 0: channels stay apart
    blurred: NDArray[np.float64] = gaussian_filter(x, sigma, truncate=RADIUS / SIGMA)
    return blurred[RADIUS:-RADIUS, RADIUS:-RADIUS]


def comparable(image: Pixels, reference: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as float64, if they are uint8 of the same shape. Raises UserError if the shapes differ."""
    if image.dtype != np.uint8 or reference.dtype != np.uint8:
        raise ValueError(f"quality compares uint8 images, not {image.dtype} with {reference.dtype}")
    if image.shape != reference.shape:
        raise UserError(f"an image of {list(image.shape)} cannot be compared with one of {list(reference.shape)}.")
    return image.astype(np.float64), reference.astype(np.float64)
