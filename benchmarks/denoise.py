"""How good is `minidiff restore` on noisy photographs that its model has never seen, against non-local means and BM3D?

The photographs are scikit-image's: the centre square at 256x256, or whole (--whole). The noise is numpy's
default_rng(k) for the k-th, added, cut to 0 to 255 and rounded, as in a file. The rivals are told its deviation;
`restore` measures it, or is told it, too. Prints Markdown: the mean PSNR and SSIM, and the processor time of a picture.

    python benchmarks/denoise.py                          # three amounts of Gaussian noise
    python benchmarks/denoise.py --noise shot,jpeg,salt   # noise of other kinds, whose deviation nobody knows
    python benchmarks/denoise.py --sheet denoise.png      # and the pictures of the largest noise side by side

BM3D (Makinen et al. 2020) is the package bm3d; without it its rows are left out.
"""

import io
import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import skimage.data
import torch
from PIL import Image
from skimage.restoration import denoise_nl_means

import minidiff
from minidiff.diffusion.noise_level import noise_sigma
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import crop_resize, write_image
from minidiff.images.grid import grid, label_rows, name_columns
from minidiff.images.quality import psnr, ssim
from minidiff.restoration.finish import finish
from minidiff.runtime import cpu

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")
Method = Callable[[Pixels, float | None], Pixels]  # a noisy picture and the deviation of its noise, of 255


def photographs(whole: bool) -> list[Pixels]:
    """The clean photographs, uint8 [H,W,3]."""
    pictures = [getattr(skimage.data, name)() for name in PHOTOS]
    pictures = [each[0] if isinstance(each, tuple) else each for each in pictures]  # of a stereo pair the left one
    return pictures if whole else [crop_resize(each, 256) for each in pictures]


def damaged(clean: Pixels, kind: str, number: int) -> tuple[Pixels, float | None]:
    """Damage a picture; returns it, and the deviation of its noise if it has one that can be told."""
    random = np.random.default_rng(number)
    if kind == "shot":  # 30 photons make white
        return stored(random.poisson(clean / 255 * 30) / 30 * 255), None
    if kind == "salt":
        return np.where(random.random(clean.shape[:2])[..., None] < 0.05, random.integers(0, 2) * 255, clean).astype(
            np.uint8
        ), None
    if kind == "jpeg":
        file = io.BytesIO()
        Image.fromarray(clean).save(file, "JPEG", quality=15)
        return np.array(Image.open(file).convert("RGB")), None
    return stored(clean + random.normal(0, float(kind), clean.shape)), float(kind)


def stored(values: np.ndarray) -> Pixels:
    """Round and cut to the values that a file has."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def methods(model: str, calls: list[int]) -> dict[str, Method]:
    """The contenders by name."""
    run = minidiff.load(model, precision="fp32")

    def restored(noisy: Pixels, sigma: float | None, count: int) -> Pixels:
        picture = to_float(noisy[None])
        found = noise_sigma(picture) if sigma is None else sigma / 127.5
        return to_uint8(finish(run, picture, found, count)[0])[0]

    def non_local_means(noisy: Pixels, sigma: float | None) -> Pixels:
        sigma = 127.5 * noise_sigma(to_float(noisy[None])) if sigma is None else sigma
        clean = denoise_nl_means(noisy / 255, h=0.6 * sigma / 255, sigma=sigma / 255, patch_size=5, patch_distance=6,
                                 fast_mode=False, channel_axis=2)  # fmt: skip
        return stored(255 * clean)

    def bm3d(noisy: Pixels, sigma: float | None) -> Pixels:
        import bm3d

        sigma = 127.5 * noise_sigma(to_float(noisy[None])) if sigma is None else sigma
        if (noisy == noisy[..., :1]).all():  # bm3d_rgb looks for three independent channels
            return np.repeat(stored(255 * bm3d.bm3d(noisy[..., 0] / 255, sigma / 255))[..., None], 3, axis=2)
        return stored(255 * bm3d.bm3d_rgb(noisy / 255, sigma / 255))

    found: dict[str, Method] = {"as it is": lambda noisy, sigma: noisy, "non-local means": non_local_means}
    if find_spec("bm3d"):
        found["BM3D"] = bm3d
    for count in calls:
        name = f"restore, {count} call{'s' * (count > 1)}"
        found[f"{name}, noise told"] = lambda noisy, sigma, count=count: restored(noisy, sigma, count)
        if count == calls[0]:
            found[name] = lambda noisy, sigma, count=count: restored(noisy, None, count)
    return found


@click.command()
@click.option("--noise", "kinds", default="15,25,50", show_default=True, help="Deviations, or shot, salt, jpeg.")
@click.option("--calls", default="1,5,20", show_default=True, help="Calls of the network, with commas between.")
@click.option("--model", default="photos", show_default=True)
@click.option("--whole", is_flag=True, help="The photographs at their own size.")
@click.option("--grey", is_flag=True, help="In grey.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--sheet", type=click.Path(path_type=Path), help="Where the pictures of the last noise go.")
def main(kinds: str, calls: str, model: str, whole: bool, grey: bool, threads: int, sheet: Path | None) -> None:
    cpu.tune()
    torch.set_num_threads(threads)
    cleans = photographs(whole)
    if grey:
        cleans = [np.repeat(np.array(Image.fromarray(each).convert("L"))[..., None], 3, axis=2) for each in cleans]
    contenders = methods(model, [int(word) for word in calls.split(",")])
    print("| noise | method | PSNR, dB | SSIM | s | " + " | ".join(PHOTOS) + " |\n" + "| --- " * 10 + "|")
    for kind in kinds.split(","):
        pairs = [damaged(clean, kind, number) for number, clean in enumerate(cleans)]
        if grey:
            pairs = [(np.repeat(noisy[..., :1], 3, axis=2), sigma) for noisy, sigma in pairs]
        drawn = {}
        for name, method in contenders.items():
            if "told" in name and pairs[0][1] is None:
                continue
            began = time.process_time()
            drawn[name] = [method(noisy, sigma) for noisy, sigma in pairs]
            took = (time.process_time() - began) / len(pairs)
            values = [psnr(answer, clean) for answer, clean in zip(drawn[name], cleans, strict=True)]
            likeness = np.mean([ssim(answer, clean) for answer, clean in zip(drawn[name], cleans, strict=True)])
            each = " | ".join(f"{value:.2f}" for value in values)
            mean = np.mean([value for value in values if math.isfinite(value)])
            print(f"| {kind} | {name} | {mean:.2f} | {likeness:.3f} | {took:.1f} | {each} |", flush=True)
    if sheet:
        rows = {"clean": cleans} | drawn
        cells = np.stack([crop_resize(each, 256) if whole else each for row in rows.values() for each in row])
        pictures = grid(cells, len(PHOTOS))
        named = label_rows(pictures, list(rows), size=16)
        write_image(sheet, name_columns(named, PHOTOS, left=named.shape[1] - pictures.shape[1], size=16))


if __name__ == "__main__":
    main()
