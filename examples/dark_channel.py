"""Take haze off a photograph without a network: the dark channel prior, with guided filtering.

In a photograph without haze, almost every small patch has a pixel that is dark in one of its three colours: a shadow,
or something of a strong colour. Airlight makes that pixel brighter. So the darkest value of a patch says how much haze
is in front of it. It fails where something is as bright as the airlight: on sky, snow and white walls.

He, Sun & Tang 2009 (the prior), He, Sun & Tang 2010 (the filter). Equation numbers are the former's.

    python examples/dark_channel.py                     # a landscape drawn here, whose clear picture is known
    python examples/dark_channel.py hazy.jpg clear.png
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter, uniform_filter

from minidiff.data.config import Haze
from minidiff.data.haze import invert
from minidiff.data.hazy_sets import hazy_pairs
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import read_image, write_image
from minidiff.images.quality import psnr, ssim

Floats = NDArray[np.float64]

PATCH = 15  # pixels a side, section 4.1
OMEGA = 0.95  # how much of the haze is taken off: a little of it far away lets one feel the distance
BRIGHTEST = 0.001  # the share of pixels among which the airlight is looked for, section 4.4
RADIUS, EPS = 20, 1e-3  # of the guided filter


def dark_channel(image: Floats) -> Floats:
    """Return the darkest value of the patch around each pixel of [H,W,3]: [H,W]. Eq. 5."""
    darkest: Floats = minimum_filter(image.min(axis=2), PATCH)
    return darkest


def airlight_of(image: Floats) -> Floats:
    """Return the colour of the haze, [3]: of the pixels with the brightest dark channel, the brightest."""
    dark = dark_channel(image).ravel()
    haziest = np.argpartition(dark, -max(1, int(BRIGHTEST * dark.size)))[-max(1, int(BRIGHTEST * dark.size)) :]
    candidates: Floats = image.reshape(-1, 3)[haziest]
    brightest: Floats = candidates[candidates.sum(axis=1).argmax()]
    return brightest


def guided(guide: Floats, values: Floats) -> Floats:
    """Smooth [H,W] within windows of RADIUS, so that its edges become those of the guide [H,W,3].

    In every window, the result is the linear function of the guide's three colours that is nearest to the values:
    a = (Sigma + eps 1)^-1 cov(guide, values), b = mean(values) - a mean(guide), averaged over the windows of a pixel.
    """

    def mean(x: Floats) -> Floats:
        averaged: Floats = uniform_filter(x, (2 * RADIUS + 1, 2 * RADIUS + 1, *[0] * (x.ndim - 2)))
        return averaged

    middle, level = mean(guide), mean(values)
    products = (guide[..., :, None] * guide[..., None, :]).reshape(*values.shape, 9)
    sigma = mean(products).reshape(*values.shape, 3, 3) - middle[..., :, None] * middle[..., None, :]
    covariance = mean(guide * values[..., None]) - middle * level[..., None]
    a = np.linalg.solve(sigma + EPS * np.eye(3), covariance[..., None])[..., 0]
    b = level - (a * middle).sum(axis=2)
    smoothed: Floats = (mean(a) * guide).sum(axis=2) + mean(b)
    return smoothed


def dehaze(hazy: Pixels) -> Pixels:
    """Take the haze off uint8 [H,W,3]."""
    image = hazy / 255
    airlight = airlight_of(image)
    rough = 1 - OMEGA * dark_channel(image / np.maximum(airlight, 1e-3))  # eq. 12
    transmission = torch.from_numpy(np.clip(guided(image, rough), 0, 1)).float()[None, None]
    clear = invert(to_float(hazy[None]), transmission, torch.from_numpy(2 * airlight - 1).float()[None])  # eq. 16
    return to_uint8(clear)[0]


def main(hazy: Path | None = None, clear: Path | None = None, out: Path = Path("dark_channel.png")) -> Pixels:
    """Take the haze off a photograph, or off a landscape, and print how near it is to the clear one where it is known.

    Writes the hazy picture, the answer, and the clear picture side by side. Returns the answer, uint8 [H,W,3].
    """
    if hazy is not None:
        given, truth = read_image(hazy), read_image(clear) if clear else None
    else:
        haze = Haze(beta=(1.2, 1.2), airlight=(0.85, 0.85), damage=0)
        pair = hazy_pairs("hazy-landscapes", 256, split="test", haze=haze)[1]
        given, truth = to_uint8(pair.hazy)[0], to_uint8(pair.clear)[0]
    answer = dehaze(given)
    if truth is not None:
        for name, picture in (("hazy", given), ("dark channel", answer)):
            print(f"{name}: PSNR {psnr(picture, truth):.2f} dB, SSIM {ssim(picture, truth):.3f}")
    write_image(out, np.concatenate([given, answer, *([] if truth is None else [truth])], axis=1))
    print(f"the pictures: {out}")
    return answer


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
