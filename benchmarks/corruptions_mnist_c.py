"""How far glass blur is from that of MNIST-C's own script, on 400 FashionMNIST images at 28x28.

The script's rule is written down here anew: a blur, a chain of swaps, and the blur again. With the scikit-image of 2019
the script blurs a grey image along its columns only, because `multichannel=True` makes channels of the columns; `both
ways` is what it would be otherwise. Prints the change of an image, of 255, as the mean of its size and as the root mean
square, and how much larger ours is.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from minidiff import load_data
from minidiff.data.corruptions import corrupt

GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, distance, rounds
Image = NDArray[np.float64]


def swapped(image: Image, distance: int, rounds: int, random: np.random.Generator) -> Image:
    """Swap half of the inner pixels with one nearby, from the bottom right on."""
    image = image.copy()
    for _ in range(rounds):
        for row in range(28 - distance, distance, -1):
            for column in range(28 - distance, distance, -1):
                if random.random() < 0.5:
                    other = row + random.integers(-distance, distance), column + random.integers(-distance, distance)
                    image[row, column], image[other] = image[other], image[row, column]
    return image


def glass(images: Image, severity: int, both_ways: bool) -> Image:
    """Blur, swap and blur again, as the script does: [N,28,28] in [0,1]."""
    sigma, distance, rounds = GLASS[severity - 1]
    random = np.random.default_rng(severity)

    def blur(image: Image) -> Image:
        found: Image = (
            gaussian_filter(image, sigma, mode="nearest")
            if both_ways
            else gaussian_filter1d(image, sigma, axis=0, mode="nearest")
        )
        return found

    return np.stack([blur(swapped(np.floor(blur(each) * 255) / 255, distance, rounds, random)) for each in images])


def changes(before: Image, after: Image) -> tuple[float, float]:
    """Return the mean size of the change of a pixel, and its root mean square within an image, of 255."""
    change = 255 * (after - before)
    return float(np.abs(change).mean()), float(np.sqrt((change**2).mean(axis=(1, 2))).mean())


def main() -> None:
    """Print the table."""
    images = load_data("fashion-mnist", split="test", image_size=28).images[:400]
    clean = images[..., 0] / 255
    print("severity                  ours        MNIST-C      both ways")
    for severity in range(1, 6):
        ours = changes(clean, corrupt(images, "glass_blur", severity, range(400))[..., 0] / 255)
        theirs, whole = (changes(clean, glass(clean, severity, both_ways)) for both_ways in (False, True))
        for name, a, b, c in zip(("mean size", "root mean square"), ours, theirs, whole, strict=True):
            print(f"{severity} {name:20} {a:7.1f} {b:7.1f} {a / b - 1:+6.1%} {c:7.1f} {a / c - 1:+6.1%}")


if __name__ == "__main__":
    main()
