"""Where to enter the reverse chain: measure the noise in an image, and find the timestep that has as much.

Rests on schedules. Chen et al. 2015 (An Efficient Statistical Method for Image Noise Level Estimation).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.diffusion.schedules import Process
from minidiff.errors import UserError

MOST_PATCHES = 500_000  # that the noise is measured in: of a larger image, those of some rows
SMALLEST = 8  # pixels: the side of the smallest image whose noise is measured
HARDLY_ANY = 3 / 127.5  # the noise that clean photographs seem to have: up to 2.8 of 255 at 32x32
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, in what a JPEG file stores at full size (ITU-T T.871)
COARSER = 3  # times: how much stronger fine texture seems in pixels of twice the size; in photographs 2.2 to 5.4
# The noise of the luma counts if it is more than TEXTURE, as clean photographs seem to have up to 5.4 of 255, and if
# the colours show less than the share SMOOTH of it. They show 0.9 and more where they have noise, too.
TEXTURE, SMOOTH = 7 / 127.5, 0.75
# And if quiet places show the share EVERYWHERE of it: 0.5 and more in JPEG files, 0.1 at most with salt and pepper.
EVERYWHERE = 0.3


class Start(NamedTuple):
    """Where an image enters the reverse chain."""

    t: int  # the first timestep
    sigma: float  # deviation of the noise found in the image, whose range is [-1, 1]
    x: Tensor  # [1,C,H,W]: the image scaled to the level of t, what a sampler with start_t=t takes


def start_from(schedule: Process, image: Tensor) -> Start:
    """Measure the noise in `image` [1,C,H,W], and scale the image to the x_t that has this noise.

    A noisy image is x0 + sigma * eps, and x_t is signal * x0 + noise * eps. They differ only by the factor signal, at
    the t where sigma = noise / signal.
    """
    sigma = noise_sigma(image)
    t = timestep_for(schedule, sigma)
    (level,) = schedule.levels([t])
    return Start(t, sigma, level.signal * image)


def timestep_for(schedule: Process, sigma: float) -> int:
    """Find the t whose noise / signal is nearest to sigma, as a ratio. For sigma 0 it is 0."""
    if not 0 <= sigma < math.inf:
        raise UserError(f"a noise level of {sigma} is not a deviation. Give 0 or more, for an image in [-1, 1].")
    ratio = (schedule.sigmas / max(sigma, 1e-12)).log().abs()
    return int(ratio.argmin())


def noise_sigma(image: Tensor) -> float:
    """Measure the deviation of the white noise in an image [1,C,H,W], in the units of its pixels.

    Noise that is not white, as after a fit, is underestimated. In a JPEG file the noise of the colours is smooth, as
    they were stored at half the size, and that of the luma is white still. So where the luma has much more noise than
    the colours show, it counts: noise of deviation sigma in red, green and blue is 0.67 sigma in their weighted sum.

    Raises UserError for fewer than 8x8 pixels.
    """
    if image.ndim != 4 or len(image) != 1:
        raise ValueError(f"the noise of one image [1,C,H,W] can be measured, not of {list(image.shape)}")
    if min(image.shape[-2:]) < SMALLEST:
        raise UserError(
            f"an image of {list(image.shape[-2:])} is too small to tell noise from it. Take {SMALLEST} pixels a side, "
            "or more."
        )
    image = image.detach().cpu()
    if bool((image[:, :1] == image).all()):
        image = image[:, :1]  # grey repeated: three times the same noise would look like structure
    sigma = white_deviation(image)
    if image.shape[1] == len(LUMA) and min(image.shape[-2:]) >= 2 * SMALLEST:
        of_luma = luma_deviation(image)
        if of_luma > TEXTURE and sigma < SMOOTH * of_luma and quiet_deviation(image) > EVERYWHERE * of_luma:
            return of_luma
    return sigma


def luma_deviation(image: Tensor) -> float:
    """Measure the deviation of noise in red, green and blue, [1,3,H,W], in the luma alone.

    Fine texture looks like noise there. But white noise is equally strong in pixels of every size, s, once a mean of
    four is doubled; and texture, tau, is about three times as strong in pixels of twice the size. Two measurements tell
    them apart: fine^2 = s^2 + tau^2, coarse^2 = s^2 + 9 tau^2.
    """
    luma = luma_of(image)
    fine, coarse = white_deviation(luma), 2 * white_deviation(F.avg_pool2d(luma, 2))
    variance = (COARSER**2 * fine**2 - coarse**2) / (COARSER**2 - 1)
    return math.sqrt(max(variance, 0.0)) / math.hypot(*LUMA)


def quiet_deviation(image: Tensor) -> float:
    """Measure the same where the luma is quiet. Gaussian noise is everywhere; salt and pepper leave places without any.

    The diagonal difference of 2x2 pixels, halved, has the deviation of white noise. A fifth of the places have less
    than 0.253 times that. Even if salt fell on a fifth of the pixels, two in five places are untouched.
    """
    luma = luma_of(image)
    across = luma.diff(dim=3).diff(dim=2).abs().flatten().double().numpy() / 2
    return float(np.quantile(across, 0.2)) / 0.2533 / math.hypot(*LUMA)


def luma_of(image: Tensor) -> Tensor:
    """Weigh red, green and blue, [1,3,H,W], as a JPEG file does: [1,1,H,W]."""
    return (torch.tensor(LUMA).to(image).view(1, -1, 1, 1) * image).sum(1, keepdim=True)


def white_deviation(image: Tensor) -> float:
    """Measure the deviation of noise that is white, in place and from channel to channel, in an image [1,C,H,W].

    Chen et al. 2015: patches of a clean image fill few dimensions, white noise fills all. So the smallest eigenvalues
    of the patches' covariance are the variance of the noise alone. Patches are 3x3 in colour, 5x5 in grey.

    An image within [-1, 1] may have lost the peaks of its noise at these limits. Then only patches count whose mean
    stays 1.5 sigma away from them. This mends the estimate up to a sigma of about 0.3 (40 of 255).
    """
    channels = image.shape[1]
    every = math.ceil(image.shape[2] * image.shape[3] / MOST_PATCHES) | 1  # odd: at all places in a JPEG's 8x8 blocks
    patches = F.unfold(image, 5 if channels == 1 else 3, stride=(every, 1))[0].double()  # [d, number]
    sigma = smallest_deviation(patches)
    if image.abs().max() <= 1:
        means = patches.reshape(channels, -1, patches.shape[1]).mean(dim=1).abs().amax(dim=0)
        for _ in range(4):  # sigma grows, fewer remain, until both agree
            kept = patches[:, means < 1 - 1.5 * sigma]
            if kept.shape[1] < 20 * len(kept):
                break  # too few to be sure of their smallest eigenvalues
            sigma = smallest_deviation(kept)
    return sigma


def smallest_deviation(patches: Tensor) -> float:
    """Take the root of the mean of the smallest eigenvalues of the covariance of `patches` [d, number].

    Algorithm 1: drop the largest eigenvalue until mean and median agree. The eigenvalues of noise alone lie symmetric
    about their mean. An eigenvalue of structure among them would pull the mean above the median.
    """
    eigenvalues = torch.linalg.eigvalsh(patches.cov(correction=0))  # rising
    for count in range(len(eigenvalues), 0, -1):
        noise = eigenvalues[:count]
        if noise.mean() <= noise.quantile(0.5):
            break
    return math.sqrt(max(noise.mean().item(), 0.0))
