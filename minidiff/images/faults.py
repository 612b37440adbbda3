"""Find samples that are no images: white noise, one flat colour and saturation are recognised from the pixels alone.

Rests on numpy, and on no paper. Neighbouring pixels of a picture are alike, and in white noise they are not;
docs/images.md has the measurement.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minidiff.images.convert import Pixels

NOISE_CORRELATION = 0.35  # white noise has 0; 99.9% of FashionMNIST exceed 0.52 (docs/images.md)
SATURATED_SHARE = 0.97  # a picture on a plain black ground stays well below
CONSTANT_DEVIATION = 2.0  # standard deviation, of 255
NOISE_CAUSES = (
    "trained too briefly, weights that do not belong to this network, or (of a diffusion model) a wrong start timestep"
)


def neighbour_correlation(images: Pixels) -> NDArray[np.float64]:
    """Correlate each pixel with its right and lower neighbours, for each image: [N]. White noise has 0."""
    grey = images.astype(np.float64).mean(axis=3)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    variance = (grey**2).mean(axis=(1, 2)) + 1e-12
    right = (grey[:, :, 1:] * grey[:, :, :-1]).mean(axis=(1, 2)) / variance
    below = (grey[:, 1:] * grey[:, :-1]).mean(axis=(1, 2)) / variance
    mean: NDArray[np.float64] = (right + below) / 2
    return mean


def faults(images: Pixels) -> dict[str, NDArray[np.bool_]]:
    """Find images, uint8 [N,H,W,3], that are noise, constant, or nearly all at the ends of the range: [N] each."""
    deviation = images.std(axis=(1, 2, 3))
    constant = deviation < CONSTANT_DEVIATION
    saturated = ~constant & (((images == 0) | (images == 255)).mean(axis=(1, 2, 3)) > SATURATED_SHARE)
    in_a_plane = min(images.shape[1:3]) > 1  # a line of pixels has no neighbours one way
    noise = ~constant & (neighbour_correlation(images) < NOISE_CORRELATION if in_a_plane else False)
    return {"noise": noise, "one flat colour": constant, "saturated, nearly all black or white": saturated}


FAULT_CAUSES = {
    "noise": NOISE_CAUSES,
    "one flat colour": "training has diverged or collapsed, or an input was empty",
    "saturated, nearly all black or white": "a wrong value range, or a training that diverged",
}


def problems(images: Pixels, expected: Sequence[str] = ()) -> list[str]:
    """Say what is wrong with uint8 [N,H,W,3] samples, in one line for each kind of fault.

    expected: kinds of `faults` that are none here, because the training images have them too.

    Looks for images that are white noise, constant, or nearly all at the ends of the range. A kind is reported when at
    least a tenth of the images have it: one blank picture among a hundred is chance, a dozen are a fault.
    """
    found = faults(images)
    noise = found["noise"]
    typical = np.median(neighbour_correlation(images[noise])) if noise.any() else 0.0
    said = {"noise": f"noise (neighbouring pixels correlate {typical:.2f})"}
    return [
        f"{share(int(mask.sum()), len(images))} {said.get(what, what)}. Likely causes: {FAULT_CAUSES[what]}."
        for what, mask in found.items()
        if mask.mean() >= 0.1 and what not in expected
    ]


def share(bad: int, count: int) -> str:
    """Begin a sentence about some of the images: "the image is", "1 of 8 images is", "5 of 8 images are"."""
    if count == 1:
        return "the image is"
    return f"{bad} of {count} images {'is' if bad == 1 else 'are'}"
