"""Count the images a second that each corruption makes, beside scikit-image and SciPy.

Ours works in batches on one thread; the peers take one image at a time, as MNIST-C's own script does, and do the
same to it at severity 3. Its glass blur and its fog are written out here. Prints a Markdown table.
"""

import math
from collections.abc import Callable

import click
import common
import numpy as np
import scipy.ndimage
import skimage
import skimage.color
import skimage.feature
import skimage.transform
import skimage.util
import torch
from common import machine, ratio, rounds_of, seconds, versions
from numpy.typing import NDArray

from minidiff.data.corruptions import CORRUPTIONS, corrupt

Image = NDArray[np.float64]  # [H,W] in [0,1]
random = np.random.default_rng(0)


def warped(image: Image, **affine: object) -> Image:
    return np.asarray(skimage.transform.warp(image, skimage.transform.AffineTransform(**affine)))


def glass(image: Image) -> Image:
    """Severity 3: two pixels away, three times over."""
    image = scipy.ndimage.gaussian_filter(image, 1.0)
    for _ in range(3):
        for row in range(len(image) - 2, 2, -1):
            for column in range(len(image) - 2, 2, -1):
                if random.random() < 0.5:
                    down, right = random.integers(-2, 2, 2)
                    other = row + down, column + right
                    image[row, column], image[other] = image[other], image[row, column]
    return scipy.ndimage.gaussian_filter(image, 1.0)


def motion(image: Image) -> Image:
    """Severity 3: the kernel of a line of 31 points, each on the nearest pixel."""
    kernel, angle = np.zeros((63, 63)), random.uniform(-math.pi / 4, math.pi / 4)
    steps = np.arange(31)
    rows, columns = (np.rint(31 + steps * way).astype(int) for way in (math.sin(angle), math.cos(angle)))
    np.add.at(kernel, (rows, columns), np.exp(-(steps**2) / 128))
    return scipy.ndimage.correlate(image, kernel / kernel.sum(), mode="nearest")


def brighter(image: Image) -> Image:
    hsv = skimage.color.rgb2hsv(skimage.color.gray2rgb(image))
    hsv[..., 2] = np.minimum(hsv[..., 2] + 0.3, 1)
    return np.asarray(skimage.color.rgb2gray(skimage.color.hsv2rgb(hsv)))


def fog(image: Image) -> Image:
    """The diamond-square algorithm on a torus of 256x256, of which a corner is used."""
    bank, step, wibble = np.zeros((256, 256)), 256, 100.0
    while step >= 2:
        half = step // 2
        corners = bank[::step, ::step]
        sums = corners + np.roll(corners, -1, 0)
        sums = sums + np.roll(sums, -1, 1)
        bank[half::step, half::step] = sums / 4 + wibble * random.uniform(-wibble, wibble, sums.shape)
        middles = bank[half::step, half::step]
        across = middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        down = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        bank[::step, half::step] = across / 4 + wibble * random.uniform(-wibble, wibble, sums.shape)
        bank[half::step, ::step] = down / 4 + wibble * random.uniform(-wibble, wibble, sums.shape)
        step, wibble = half, wibble / 1.7
    bank = (bank - bank.min()) / np.ptp(bank)
    return (image + 2.25 * bank[: len(image), : len(image)]) * image.max() / (image.max() + 2.25)


def spatter(image: Image) -> Image:
    drops = scipy.ndimage.gaussian_filter(random.normal(0.65, 0.3, image.shape), 2) > 0.68
    mud = scipy.ndimage.gaussian_filter(drops.astype(float), 0.5)
    mud[mud < 0.8] = 0
    return image * (1 - mud) + 63 / 255 * mud


PEERS: dict[str, tuple[str, Callable[[Image], Image]]] = {
    "shot_noise": ("numpy", lambda image: np.clip(random.poisson(12 * image) / 12, 0, 1)),
    "impulse_noise": ("scikit-image", lambda image: skimage.util.random_noise(image, mode="s&p", amount=0.09)),
    "glass_blur": ("SciPy and a loop", glass),
    "motion_blur": ("SciPy", motion),
    "shear": ("scikit-image", lambda image: warped(image, shear=0.6)),
    "scale": ("scikit-image", lambda image: warped(image, scale=(1 / 0.7, 1 / 0.7))),
    "rotate": ("scikit-image", lambda image: warped(image, rotation=0.6)),
    "brightness": ("scikit-image", brighter),
    "translate": ("scikit-image", lambda image: warped(image, translation=(3, -3))),
    "fog": ("numpy", fog),
    "spatter": ("SciPy", spatter),
    "canny_edges": ("scikit-image", lambda image: skimage.feature.canny(image).astype(float)),
}


@click.command()
@click.option("--size", type=click.IntRange(8, 1024), default=32, show_default=True, help="Height and width.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Of ours.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Each is timed so many times.")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="cpu", show_default=True, help="What is measured.")
def main(size: int, batch_size: int, rounds: int, clock: str) -> None:
    """The table of docs/corruptions.md."""
    torch.set_num_threads(1)
    common.clock, device = clock, torch.device("cpu")
    smooth = scipy.ndimage.zoom(random.random((batch_size, 8, 8, 3)), (1, size / 8, size / 8, 1), order=1)
    colour = (255 * smooth).astype(np.uint8)
    images = {"grey": colour[..., :1], "colour": colour}
    said = (
        f"{versions('scipy')}, scikit-image {skimage.__version__}; {size}x{size}, batches of {batch_size}, severity 3"
    )
    print(f"{machine('cpu')}, 1 thread, {said}, median of {rounds} rounds, {clock} time\n")
    print(
        "| corruption | grey, images/s | colour, images/s | peer, one grey image at a time | images/s | times as fast |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name in CORRUPTIONS:
        steps = {
            kind: lambda name=name, batch=batch: (
                seconds(lambda: corrupt(batch, name, 3, range(batch_size)), 5, device) / batch_size
            )
            for kind, batch in images.items()
        }
        if name in PEERS:
            one, peer = colour[0, ..., 0] / 255, PEERS[name][1]
            repeats = 3 if name == "glass_blur" else 20
            steps["peer"] = lambda peer=peer, one=one, repeats=repeats: seconds(lambda: peer(one), repeats, device)
        for step in steps.values():
            step()
        times = rounds_of(steps, rounds)
        speed = {kind: f"{1 / float(np.median(found)):,.0f}" for kind, found in times.items()}
        beside = (
            f"{PEERS[name][0]} | {speed['peer']} | {ratio(times['peer'], times['grey'])}"
            if name in PEERS
            else "- | - | -"
        )
        print(f"| `{name}` | {speed['grey']} | {speed['colour']} | {beside} |", flush=True)


if __name__ == "__main__":
    main()
