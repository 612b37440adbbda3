"""Is noise found in JPEG files, whose colours were stored at half the size? And which noise should the model be told?

The photographs are scikit-image's, and the noise is as in denoise.py: added to red, green and blue, cut to 0 to 255 and
rounded; then the picture is written by Pillow as a JPEG file. `restore` with one call is told the noise in three ways:
what is white in all colours (as before version 0.2), what `noise_sigma` finds, and the best of some multiples of the
true noise. Prints Markdown: for each way the mean of what was told, of 255, and the mean PSNR in dB.

    python benchmarks/jpeg_noise.py
    python benchmarks/jpeg_noise.py --formats 4:2:0-60 --noise 5,10
"""

import io

import click
import numpy as np
import torch
from denoise import photographs, stored
from PIL import Image

import minidiff
from minidiff.diffusion.noise_level import noise_sigma, white_deviation
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.quality import psnr
from minidiff.restoration.finish import finish
from minidiff.runtime import cpu

FORMATS = "4:2:0-75,4:2:0-85,4:2:0-95,4:4:4-85,grey-85"  # how colours are stored, and the quality


def compressed(picture: Pixels, form: str) -> Pixels:
    """The picture as it comes out of a JPEG file: uint8 [H,W,3]."""
    colours, quality = form.rsplit("-", 1)
    image, file = Image.fromarray(picture), io.BytesIO()
    image = image.convert("L") if colours == "grey" else image
    image.save(file, "JPEG", quality=int(quality), subsampling="4:4:4" if colours == "grey" else colours)
    return np.array(Image.open(file).convert("RGB"))


@click.command()
@click.option("--formats", default=FORMATS, show_default=True)
@click.option("--noise", "sigmas", default="10,15,25,50", show_default=True, help="Deviations, of 255.")
@click.option("--times", default="0.7,0.85,1,1.2", show_default=True, help="Multiples of the noise, to be told.")
@click.option("--model", default="photos", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def main(formats: str, sigmas: str, times: str, model: str, threads: int) -> None:
    cpu.tune()
    torch.set_num_threads(threads)
    run = minidiff.load(model, precision="fp32")
    print("| JPEG | noise | the file | white in all colours | found | best told |\n" + "| --- " * 6 + "|")
    for form in formats.split(","):
        for sigma in map(float, sigmas.split(",")):
            rows = []  # of each photograph: PSNR of the file; then what was told, and the PSNR of the answer
            for number, photograph in enumerate(photographs(False)):
                noise = np.random.default_rng(number).normal(0, sigma, photograph.shape)
                grey = np.repeat(np.array(Image.fromarray(photograph).convert("L"))[..., None], 3, axis=2)
                clean = grey if form.startswith("grey") else photograph
                noisy = compressed(stored(clean + (noise[..., :1] if form.startswith("grey") else noise)), form)
                x = to_float(noisy[None])
                before = x[:, :1] if form.startswith("grey") else x
                told = [127.5 * white_deviation(before), 127.5 * noise_sigma(x)]
                told += [float(word) * sigma for word in times.split(",")]
                near = [psnr(to_uint8(finish(run, x, each / 127.5)[0])[0], clean) for each in told]
                best = 2 + int(np.argmax(near[2:]))
                rows.append([psnr(noisy, clean), told[0], near[0], told[1], near[1], told[best], near[best]])
            as_is, *pairs = np.mean(rows, axis=0)
            ways = " | ".join(f"{told:.1f}: {near:.2f}" for told, near in zip(pairs[::2], pairs[1::2], strict=True))
            print(f"| {form} | {sigma:g} | {as_is:.2f} | {ways} |", flush=True)


if __name__ == "__main__":
    main()
