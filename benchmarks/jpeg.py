"""How good is `minidiff restore --task jpeg` on photographs that its model has never seen?

The photographs are scikit-image's, as in denoise.py, written by Pillow at some qualities, with colours at half size as
is usual. The rivals: non-local means and, for comparison, `restore` without the task, which is told the noise that the
task finds in the file. Prints Markdown: the mean PSNR and SSIM, and the processor time of a picture.

    python benchmarks/jpeg.py
    python benchmarks/jpeg.py --calls 1,5,20 --sheet jpeg.png     # and the pictures of the first quality side by side
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from denoise import PHOTOS, photographs, stored
from PIL import Image
from skimage.restoration import denoise_nl_means
from torch import Tensor

import minidiff
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import read_image, write_image
from minidiff.images.grid import grid, label_rows, name_columns
from minidiff.images.jpeg import JpegFile, read_jpeg
from minidiff.images.quality import psnr, ssim
from minidiff.restoration.finish import finish
from minidiff.restoration.jpeg import clean_file, measured
from minidiff.runtime import cpu

Method = Callable[[Tensor, JpegFile], Pixels]  # the pixels of a file [1,3,H,W], and what it says


def methods(model: str, calls: list[int]) -> dict[str, Method]:
    """The contenders by name."""
    run = minidiff.load(model, precision="fp32")

    def non_local_means(picture: Tensor, file: JpegFile) -> Pixels:
        sigma = measured(file).error / 2  # of pixels in [0,1]
        pixels = to_uint8(picture)[0] / 255
        return stored(255 * denoise_nl_means(pixels, h=0.6 * sigma, sigma=sigma, patch_size=5, patch_distance=6,
                                             fast_mode=False, channel_axis=2))  # fmt: skip

    def denoised(picture: Tensor, file: JpegFile) -> Pixels:
        return to_uint8(finish(run, picture, measured(file).error)[0])[0]

    found: dict[str, Method] = {
        "the file": lambda picture, file: to_uint8(picture)[0],
        "non-local means": non_local_means,
        "restore, noise told": denoised,
    }
    for count in calls:
        found[f"--task jpeg, {count} call{'s' * (count > 1)}"] = lambda picture, file, count=count: to_uint8(
            clean_file(run, file, picture, calls=count)[0]
        )[0]
    return found


@click.command()
@click.option("--quality", "qualities", default="10,20,40", show_default=True, help="Of the files, 1 to 95.")
@click.option("--calls", default="1,5,20", show_default=True, help="Calls of the network, with commas between.")
@click.option("--model", default="photos", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--sheet", type=click.Path(path_type=Path), help="Where the pictures of the first quality go.")
def main(qualities: str, calls: str, model: str, threads: int, sheet: Path | None) -> None:
    cpu.tune()
    torch.set_num_threads(threads)
    cleans = photographs(False)
    contenders = methods(model, [int(word) for word in calls.split(",")])
    print("| quality | method | PSNR, dB | SSIM | s | " + " | ".join(PHOTOS) + " |\n" + "| --- " * 10 + "|")
    for number, quality in enumerate(qualities.split(",")):
        given = []
        with tempfile.TemporaryDirectory() as folder:
            for clean in cleans:
                place = Path(folder) / "photo.jpg"
                Image.fromarray(clean).save(place, quality=int(quality))
                given.append((to_float(read_image(place)[None]), read_jpeg(place)))
        drawn = {}
        for name, method in contenders.items():
            began = time.process_time()
            drawn[name] = [method(*each) for each in given]
            took = (time.process_time() - began) / len(given)
            values = [psnr(answer, clean) for answer, clean in zip(drawn[name], cleans, strict=True)]
            likeness = np.mean([ssim(answer, clean) for answer, clean in zip(drawn[name], cleans, strict=True)])
            each = " | ".join(f"{value:.2f}" for value in values)
            print(f"| {quality} | {name} | {np.mean(values):.2f} | {likeness:.3f} | {took:.1f} | {each} |", flush=True)
        if sheet and number == 0:
            rows = {"clean": cleans} | drawn
            pictures = grid(np.stack([each for row in rows.values() for each in row]), len(PHOTOS))
            named = label_rows(pictures, list(rows), size=16)
            write_image(sheet, name_columns(named, PHOTOS, left=named.shape[1] - pictures.shape[1], size=16))


if __name__ == "__main__":
    main()
