"""How varied a set of samples is compared with the data: the alarm for a generator that repeats a few pictures.

Rests on numpy. Samples that lie close to each other are the oldest sign of mode collapse (Goodfellow 2016, NIPS
tutorial on GANs, section 5.1). This is quick enough for every preview of a training, and FID is not.
"""

import numpy as np
from numpy.typing import NDArray

from minidiff.images.convert import Pixels

# Below this a generator has most likely collapsed. Of 256 FashionMNIST images at 32x32 beside others: 0.93 to 1.09 in
# 40 draws, one class of ten from 0.56 (trousers), samples of a DDPM 1.04, blurred by a Gaussian of 1 pixel 0.52; with
# 1 to 200 modes 0, and 0.20 with noise of 8 grey levels on each; when half of them are one image 0.25. A DCGAN rises
# from 0.25 at step 50 to 0.68 at 300; its generator against a discriminator that stands still from then on falls from
# 0.74 to 0.36 in 50 steps, to 0.26 in 400, and draws one picture.
TOO_ALIKE = 0.4


def diversity(samples: Pixels, real: Pixels) -> float:
    """Measure how varied samples are: a sample's distance to its nearest neighbour, over the same for real images.

    Distances are Euclidean, over all pixels, and the median of each set is taken. At 1 the samples are as varied as the
    data. At 0 they are one image again and again, or a few images, each several times. This does not measure quality:
    noise is more varied than any data.
    samples, real: uint8 [n,H,W,C] of the same H and W; C may be 1 or 3 in either. The first of both are compared, as
    many as the smaller set has. 256 are enough: with 64, real images beside others give 0.89 to 1.08.
    The result is >= 0. It is 1 if there is nothing to compare with: fewer than two images, or equal real ones.
    Raises ValueError for images of other shapes.
    """
    for images in (samples, real):
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"diversity compares uint8 [n,H,W,C], not {images.dtype} {list(images.shape)}")
    if samples.shape[1:3] != real.shape[1:3]:
        raise ValueError(f"samples of {samples.shape[1:3]} cannot be compared with images of {real.shape[1:3]}")
    count, channels = min(len(samples), len(real)), max(samples.shape[3], real.shape[3])
    if count < 2:
        return 1.0
    of_samples, of_real = (
        float(np.median(nearest_other(images[:count].repeat(channels // images.shape[3], axis=3))))
        for images in (samples, real)
    )
    return of_samples / of_real if of_real else 1.0


def nearest_other(images: Pixels) -> NDArray[np.float64]:
    """Return the Euclidean distance of each of uint8 [n,...], n >= 2, to the nearest of the others: [n]."""
    flat = images.reshape(len(images), -1).astype(np.float64)  # in float64 these sums of bytes are exact: equal is 0
    squares = (flat**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(distances, np.inf)
    nearest: NDArray[np.float64] = np.sqrt(distances.min(axis=1))
    return nearest
