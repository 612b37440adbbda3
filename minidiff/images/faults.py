"""Whether a sample is an image at all: white noise, one flat colour and saturation, told from the pixels alone.

Rests on numpy, and on no paper: neighbouring pixels of a picture are alike, those of white noise are not. How alike
they are in real pictures was measured: docs/images.md.
"""

import numpy as np
from numpy.typing import NDArray

from minidiff.images.convert import Pixels

NOISE_CORRELATION = 0.35  # white noise has 0; of FashionMNIST 99.9% have more than 0.52 (docs/images.md)
SATURATED_SHARE = 0.97  # well above a picture on a plain black ground
CONSTANT_DEVIATION = 2.0  # of 255
NOISE_CAUSES = (
    "trained too briefly, weights that do not belong to this network, or (of a diffusion model) a wrong start timestep"
)


def neighbour_correlation(images: Pixels) -> NDArray[np.float64]:
    """Correlation between each pixel and its right and lower neighbours, per image: [N]. White noise has 0."""
    grey = images.astype(np.float64).mean(axis=3)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    variance = (grey**2).mean(axis=(1, 2)) + 1e-12
    right = (grey[:, :, 1:] * grey[:, :, :-1]).mean(axis=(1, 2)) / variance
    below = (grey[:, 1:] * grey[:, :-1]).mean(axis=(1, 2)) / variance
    return (right + below) / 2


def faults(images: Pixels) -> dict[str, NDArray[np.bool_]]:
    """Which of uint8 [N,H,W,3] images are white noise, constant, or nearly all at the ends of the range: [N] each."""
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


def problems(images: Pixels) -> list[str]:
    """What is statistically wrong with uint8 [N,H,W,3] samples, one line for each kind; empty when nothing is.

    Looks for images that are white noise, constant, or nearly all at the ends of the range. A kind is reported when at
    least a tenth of the images have it: a blank picture among a hundred is life, a dozen are a fault.
    """
    found = faults(images)
    noise = found["noise"]
    typical = np.median(neighbour_correlation(images[noise])) if noise.any() else 0.0
    said = {"noise": f"noise (neighbouring pixels correlate {typical:.2f})"}
    return [
        f"{int(mask.sum())} of {len(images)} images are {said.get(what, what)}. Likely causes: {FAULT_CAUSES[what]}."
        for what, mask in found.items()
        if mask.mean() >= 0.1
    ]
