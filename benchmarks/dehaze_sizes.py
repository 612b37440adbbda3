"""How is a guess that was made at 80 pixels brought to a larger picture? Ways to do it, with a guess that is right.

python benchmarks/dehaze_sizes.py

Three of the photographs that no training has seen are cut to 960x640 and put behind haze, alone and with darkness,
noise and JPEG. The guess is the true J and T, made small, and the true A: so what is lost is lost by the enlarging
alone. Prints Markdown: the mean PSNR in dB.
"""

import numpy as np
import torch
from torch import Tensor

from minidiff.data.config import Haze
from minidiff.data.depth import plausible
from minidiff.data.haze import FARTHEST, HazyPair, add_haze, invert
from minidiff.data.photos import load_photographs
from minidiff.dehaze.stage1 import resized, working_size
from minidiff.images.convert import to_uint8
from minidiff.images.guided import guided_upsample
from minidiff.images.quality import psnr

SMOOTH = (4e-2, 4e-3, 4e-4, 4e-5)
RADII = (2, 4, 8)


def ways(pair: HazyPair) -> dict[str, Tensor]:
    """Return J at full size, by each way."""
    hazy, clear, through, light = pair.hazy, pair.clear, pair.transmission, pair.airlight
    assert through is not None and light is not None
    size, scale = hazy.shape[2:], working_size(64) / max(hazy.shape[2:])
    small_size = [round(side * scale) for side in size]
    small, small_clear, small_through = (resized(each, small_size) for each in (hazy, clear, through))
    grey, small_grey = hazy.mean(1, keepdim=True), small.mean(1, keepdim=True)

    def corrected(image: Tensor) -> Tensor:
        return image + resized(small_clear - resized(image, small_size), size)

    enlarged = invert(hazy, resized(small_through, size), light)
    found = {"the hazy picture": hazy, "J enlarged": resized(small_clear, size)}
    found |= {"T enlarged, inverted": enlarged, "the same, corrected": corrected(enlarged)}
    for radius in RADII:
        for smooth in SMOOTH:
            name = f"radius {radius}, {smooth:g}"
            guided = invert(hazy, guided_upsample(grey, small_grey, small_through, radius, smooth).clamp(0, 1), light)
            found[f"T guided, inverted: {name}"] = guided
            found[f"the same, corrected: {name}"] = corrected(guided)
            found[f"J as guided lines in I: {name}"] = guided_upsample(hazy, small, small_clear, radius, smooth)
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, list[float]] = {}
    for damage in (0.0, 1.0):
        measured: dict[str, list[float]] = {}
        for number, photograph in enumerate(load_photographs(split="test")[:3]):
            picture, random = np.ascontiguousarray(photograph[:640, :960]), np.random.default_rng(number)
            pair = add_haze(picture, FARTHEST * plausible(picture, random), Haze(damage=damage), random)
            for name, made in ways(pair).items():
                measured.setdefault(name, []).append(psnr(to_uint8(made)[0], to_uint8(pair.clear)[0]))
        for name, values in measured.items():
            rows.setdefault(name, []).append(float(np.mean(values)))
    print("| way | haze alone | dark, noisy, JPEG |\n| --- | --- | --- |")
    for name, (alone, damaged) in rows.items():
        print(f"| {name} | {alone:.1f} | {damaged:.1f} |")


if __name__ == "__main__":
    main()
