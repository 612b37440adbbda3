"""What does a large photograph cost? Processor time and peak memory, of `minidiff restore` and of its rivals.

    python benchmarks/large_photo.py photo.jpg                             # the command restore
    python benchmarks/large_photo.py photo.jpg --size 4000x3000
    python benchmarks/large_photo.py astronaut,coffee --methods restore,nlm,bm3d   # of scikit-image, whole
    python benchmarks/large_photo.py astronaut --noise 15,50

Each contender has a process of its own, whose user and system time and peak memory the system counts: all it does from
its start, reading and writing of the picture included. The noise of the k-th is numpy's default_rng(k), with the
deviation 25 or others that are told, cut to 0 to 255 and rounded. Prints Markdown. Processor time on a busy machine is
longer than on a quiet one, by up to a half, as two threads share a core.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import skimage.data
from denoise import methods, stored

from minidiff.images.files import read_image, write_image
from minidiff.images.quality import psnr, ssim

NAMES = {"nlm": "non-local means", "bm3d": "BM3D"}  # as denoise.py has them


def photograph(source: str, size: str | None) -> np.ndarray:
    """A file, or a photograph of scikit-image; cut in the middle if a size is given."""
    picture = read_image(source) if Path(source).is_file() else getattr(skimage.data, source)()
    picture = picture[0] if isinstance(picture, tuple) else picture  # of a stereo pair the left one
    height, width = picture.shape[:2]
    if size is not None:
        width, height = map(int, size.split("x"))
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def denoised(name: str, source: str, target: str, sigma: int) -> None:
    """Be a rival, who is told the noise: read, remove it, write."""
    write_image(target, methods("photos", [])[NAMES[name]](read_image(source), sigma))


@click.command()
@click.argument("sources")
@click.option("--size", help="Cut out this part, such as 4000x3000. Default: the whole picture.")
@click.option("--methods", "names", default="restore", show_default=True, help="Of restore, nlm, bm3d.")
@click.option("--calls", default=1, show_default=True, help="Of restore.")
@click.option("--noise", default="25", show_default=True, help="Its deviation, of 255; several with commas between.")
@click.option("--child", hidden=True, nargs=2)
def main(sources: str, size: str | None, names: str, calls: int, noise: str, child: tuple[str, str] | None) -> None:
    if child:
        return denoised(names, *child, int(noise))
    print(
        "| photograph | noise | method | user s | system s | peak memory, GB | PSNR, dB | SSIM |\n" + "| --- " * 8 + "|"
    )
    for number, source in enumerate(sources.split(",")):
        clean = photograph(source, size)
        for sigma in map(int, noise.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                noisy, answer = f"{folder}/noisy.png", f"{folder}/answer.png"
                write_image(noisy, stored(clean + np.random.default_rng(number).normal(0, sigma, clean.shape)))
                for name in names.split(","):
                    if name == "restore":
                        words = ["-m", "minidiff", "restore", noisy, "--out", answer, "--run", f"{folder}/run",
                                 "--force", "--calls", str(calls)]  # fmt: skip
                    else:
                        words = [__file__, source, "--methods", name, "--noise", str(sigma), "--child", noisy, answer]
                    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
                    _, status, used = os.wait4(process.pid, 0)
                    if status:
                        sys.exit(f"{name} failed")
                    found = read_image(answer)
                    title = f"{Path(source).stem}, {clean.shape[1]}x{clean.shape[0]} | {sigma}"
                    figures = f"{used.ru_utime:.0f} | {used.ru_stime:.0f} | {used.ru_maxrss * 1024 / 1e9:.2f}"
                    print(
                        f"| {title} | {name} | {figures} | {psnr(found, clean):.2f} | {ssim(found, clean):.3f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
