"""Are salt and pepper, and the blocks of a JPEG file, told from noise? And what do filled holes come to?

The photographs and the salt are those of denoise.py. First: over the five photographs, the least and the greatest share
of pixels that `outliers` takes for salt, in percent, and `block_step`, beside the limits above which `restore` says a
line. Then the mean PSNR of `restore --task inpaint --mask auto`. Prints Markdown.

    python benchmarks/blind.py                # 20 calls of the network: two minutes of one quiet core
    python benchmarks/blind.py --calls 0      # the measures and the smooth fill alone
"""

from collections.abc import Callable

import click
import numpy as np
import torch
from denoise import damaged, photographs
from jpeg_noise import compressed

import minidiff
from minidiff.diffusion.measurements import first_guess
from minidiff.diffusion.noise_level import noise_sigma
from minidiff.images.blind import SHARE, STEP, block_step, outliers
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.quality import psnr
from minidiff.restoration import tasks
from minidiff.restoration.config import FinishRequest
from minidiff.restoration.finish import restored
from minidiff.runtime import cpu

Damage = Callable[[Pixels, int], Pixels]


def kinds() -> dict[str, Damage]:
    """What is done to a photograph, by name; it is given the photograph and its number."""
    noisy = {f"noise {sigma}": lambda clean, number, sigma=sigma: damaged(clean, str(sigma), number)[0]
             for sigma in (15, 25, 50)}  # fmt: skip
    files = {f"JPEG of quality {quality}": lambda clean, number, quality=quality: compressed(clean, f"4:2:0-{quality}")
             for quality in (15, 30, 50, 75)}  # fmt: skip
    others = {name: lambda clean, number, name=name: damaged(clean, name, number)[0] for name in ("shot", "salt")}
    return {"clean": lambda clean, number: clean, **noisy, **others, **files}


def filled(picture: Pixels, run: minidiff.Run, calls: int) -> Pixels:
    """Restore a picture whose holes are salt and pepper; with 0 calls by the smooth fill."""
    request, x = FinishRequest(task="inpaint", mask="auto", calls=max(calls, 1)), to_float(picture[None])
    if calls:
        return to_uint8(restored(run, x, request)[0])[0]
    given = tasks.damaged(x, request)
    return to_uint8(first_guess(given.measurement, given.y, tasks.noise_of(request)))[0]


@click.command()
@click.option("--calls", default=20, show_default=True, help="Of the network, to fill holes.")
@click.option("--model", default="photos", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def main(calls: int, model: str, threads: int) -> None:
    cpu.tune()
    torch.set_num_threads(threads)
    cleans = photographs(False)
    print(f"| | salt, %: limit {100 * SHARE:g} | block step: limit {STEP} |\n| --- | --- | --- |")
    for name, damage in kinds().items():
        found = []
        for number, clean in enumerate(cleans):
            x = to_float(damage(clean, number)[None])
            salt = outliers(x, noise_sigma(x), most=1).float().mean().item()
            found.append((100 * salt, block_step(x)))
        least, most = np.min(found, axis=0), np.max(found, axis=0)
        print(f"| {name} | {least[0]:.2f} to {most[0]:.2f} | {least[1]:.2f} to {most[1]:.2f} |", flush=True)
    run = minidiff.load(model, precision="fp32")
    print("\n| salt and pepper, 5% | PSNR, dB |\n| --- | --- |")
    salted = [damaged(clean, "salt", number)[0] for number, clean in enumerate(cleans)]
    for name, answers in (
        ("as it is", salted),
        ("smooth fill", [filled(each, run, 0) for each in salted]),
        (f"--mask auto, {calls} calls", [filled(each, run, calls) for each in salted] if calls else []),
    ):
        if answers:
            near = np.mean([psnr(answer, clean) for answer, clean in zip(answers, cleans, strict=True)])
            print(f"| {name} | {near:.2f} |", flush=True)


if __name__ == "__main__":
    main()
