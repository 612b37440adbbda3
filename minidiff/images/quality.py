"""The likeness of two pictures: PSNR, SSIM and LPIPS, on uint8 pixels as they are stored in files.

Rests on numpy and scipy; LPIPS on the package of its authors, which is optional. Wang et al. 2004 (SSIM), Zhang et al.
2018 (LPIPS).
"""

import math
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from minidiff.errors import UserError, one_line
from minidiff.images.convert import Pixels, to_float

PEAK = 255
K1, K2 = 0.01, 0.03  # Wang et al. 2004, section III.C
SIGMA, RADIUS = 1.5, 5  # of its Gaussian window of 11x11 pixels
SMALLEST = 31  # pixels a side: AlexNet's third layer sees nothing of a smaller picture


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


def lpips(image: Pixels, reference: Pixels) -> float:
    """Return the perceptual distance of Zhang et al. 2018, eq. 1: 0 for equal images, about 0.7 for unrelated ones.

    It compares what the layers of AlexNet, trained on photographs, see of each picture: version 0.1, as most papers
    report it. Both are uint8 [H,W] or [H,W,1 or 3] of the same shape, and each side is at least 31; grey is shown to
    the network in three channels. Raises UserError if the shapes differ or are smaller, and if the package lpips or
    the weights of AlexNet are missing.
    """
    comparable(image, reference)
    if min(image.shape[:2]) < SMALLEST:
        raise UserError(
            f"LPIPS needs at least {SMALLEST} pixels a side, not {list(image.shape[:2])}. Use larger images."
        )
    network = lpips_network()
    pair = [to_float(x.reshape(1, *x.shape[:2], -1)).expand(-1, 3, -1, -1) for x in (image, reference)]
    with torch.inference_mode():
        return float(network(*pair))


@cache
def lpips_network() -> torch.nn.Module:
    """Open the network of LPIPS. The package holds its last layer alone; AlexNet is fetched by torchvision.

    Raises UserError if either is not there.
    """
    try:
        from lpips import LPIPS
    except ModuleNotFoundError:
        raise UserError(
            "LPIPS needs a further package, lpips. Install it: pip install 'minidiff[lpips]', or pip install lpips."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks torchvision for weights in a way that is deprecated
            network: torch.nn.Module = LPIPS(net="alex", version="0.1", verbose=False)
    except Exception as error:  # no net, no server, no room, other bytes, or a damaged file, of which torch says much
        from torchvision.models import AlexNet_Weights

        url = AlexNet_Weights.IMAGENET1K_V1.url
        name = url.rpartition("/")[2]
        raise UserError(
            f"LPIPS needs AlexNet's weights, which can be neither read nor downloaded ({one_line(error)}). "
            f"Put {name} (244 MB, from {url}) in {Path(torch.hub.get_dir()) / 'checkpoints'}."
        ) from None
    return network


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
