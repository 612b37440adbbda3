"""How good are the other tasks of `minidiff restore`: holes, more pixels, sharpness? On photographs it has never seen.

The photographs are those of denoise.py: scikit-image's, the centre square at 256x256, or smaller (`--size`). Each is
damaged in six ways, and restored with 1, 5 and 20 calls of the network; beside it stand the simple rivals, and the deep
image prior (Ulyanov et al. 2018, the package's own, with the loss on what is measured). Wiener's filter has the
strength that is best on another photograph, `camera`. What was measured is kept in OUT/results.jsonl and not measured
again, unless the weights of the model are others. Prints Markdown: the means of the photographs, and the processor time
of a picture.

    python benchmarks/tasks.py                                     # goes on where it was killed
    python benchmarks/tasks.py --dip 2000                          # and the deep image prior: hours
    python benchmarks/tasks.py --dip 2000 --size 128 --photos 2    # a quarter of the pixels, two photographs
    python benchmarks/tasks.py --tasks text,holes --sheets sheets  # and the pictures side by side

PSNR and SSIM like what is smooth. Two measures see texture: GMSD (Xue et al. 2014), which compares gradients place by
place, 0 for equal pictures; and `detail`, how much more power than the truth an answer has in the upper half of the
frequencies, in dB: 0 is right, below 0 is too smooth. LPIPS joins them where its weights are (docs/images.md).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import skimage.data
import torch
from denoise import PHOTOS, photographs, stored
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import convolve, convolve1d
from skimage.restoration import wiener
from torch import Tensor

import minidiff
from minidiff.ddpm.run import Run
from minidiff.diffusion.measurements import first_guess, gaussian_kernel
from minidiff.dip.config import FitConfig
from minidiff.dip.fit import NET_STREAM, Fitter
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import crop_resize, read_image, write_image
from minidiff.images.grid import grid, label_rows, name_columns
from minidiff.images.quality import lpips, psnr, ssim
from minidiff.networks.dip import DIP_NETS
from minidiff.restoration.config import FinishRequest
from minidiff.restoration.finish import restored
from minidiff.restoration.tasks import damaged, noise_of
from minidiff.rng import seed_from
from minidiff.runtime import cpu

TASKS = {
    "half": "half of the pixels missing",
    "text": "text over the picture",
    "holes": "two holes of 32x32",
    "upscale2": "upscaling 2 times",
    "upscale4": "upscaling 4 times",
    "deblur": "Gaussian blur 1.5, noise 2",
}
BLUR, NOISE = 1.5, 2  # pixels; of 255
STRENGTHS = tuple(10 ** (k / 4) for k in range(-16, 1))  # of Wiener's filter
Method = Callable[[Pixels, FinishRequest], Pixels]  # a damaged picture, and how to restore it


# --- the damage -----------------------------------------------------------------------------------------------------


def known_pixels(task: str, number: int, size: int) -> np.ndarray:
    """Which pixels of a square are known, as booleans. Letters and holes are as large at any size."""
    if task == "half":
        return np.random.default_rng(number).random((size, size)) < 0.5
    known = np.ones((size, size), bool)
    if task == "holes":
        for down, right in ((7 / 32, 7 / 32), (19 / 32, 35 / 64)):
            known[round(down * size) :, round(right * size) :][:32, :32] = False
        return known
    page = Image.fromarray(known)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(20)
    for line in range(10):
        draw.text((2, 4 + 25 * line), "A picture is worth a thousand words."[line:], fill=0, font=font)
    return np.array(page)


def blurred(clean: Pixels, number: int) -> Pixels:
    """The picture, continued by its mirror image, blurred, and with noise."""
    line = gaussian_kernel(BLUR).sum(0).numpy()
    soft = convolve1d(convolve1d(clean.astype(float), line, axis=0, mode="mirror"), line, axis=1, mode="mirror")
    return stored(soft + np.random.default_rng(number).normal(0, NOISE, clean.shape))


def damage(task: str, clean: Pixels, number: int, folder: Path) -> tuple[Pixels, FinishRequest]:
    """A damaged picture, and the request that restores it. The mask is written into the folder."""
    if task == "deblur":
        return blurred(clean, number), FinishRequest(task="deblur", kernel=f"gaussian:{BLUR}", noise=NOISE)
    if task.startswith("upscale"):
        k = int(task[-1])
        small = clean.reshape(len(clean) // k, k, len(clean) // k, k, 3).mean(axis=(1, 3))
        return stored(small), FinishRequest(task="upscale", scale=k)  # type: ignore[arg-type]
    known, mask = known_pixels(task, number, len(clean)), folder / f"{task}-{number}-{len(clean)}.png"
    write_image(mask, np.repeat(known[..., None] * np.uint8(255), 3, axis=2))
    return np.where(known[..., None], clean, 127).astype(np.uint8), FinishRequest(task="inpaint", mask=str(mask))


# --- the contenders -------------------------------------------------------------------------------------------------


def as_it_is(picture: Pixels, request: FinishRequest) -> Pixels:
    return picture.repeat(request.enlargement, axis=0).repeat(request.enlargement, axis=1)


def bicubic(picture: Pixels, request: FinishRequest) -> Pixels:
    size = (picture.shape[1] * request.enlargement, picture.shape[0] * request.enlargement)
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def inside(x: Tensor, border: tuple[int, int]) -> Pixels:
    """Without the border, as it would be stored."""
    return to_uint8(x[..., border[0] : x.shape[-2] - border[0], border[1] : x.shape[-1] - border[1]])[0]


def smooth_fill(picture: Pixels, request: FinishRequest) -> Pixels:
    given = damaged(to_float(picture[None]), request)
    return inside(first_guess(given.measurement, given.y, noise_of(request)), given.border)


def sharpened(picture: Pixels, strength: float) -> Pixels:
    """By scikit-image's Wiener filter, with the picture continued by its mirror image."""
    margin, kernel = 16, gaussian_kernel(BLUR).numpy()
    wide = np.pad(picture / 255, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    answer = np.stack([wiener(wide[..., k], kernel, strength, clip=False) for k in range(3)], axis=2)
    return stored(255 * answer[margin:-margin, margin:-margin])


@cache
def best_strength() -> float:
    """The strength that serves another photograph best."""
    clean = np.repeat(skimage.data.camera()[::2, ::2, None], 3, axis=2)
    return max(STRENGTHS, key=lambda strength: psnr(sharpened(blurred(clean, 99), strength), clean))


def wieners(picture: Pixels, request: FinishRequest) -> Pixels:
    return sharpened(picture, best_strength())


def with_model(run: Run, calls: int) -> Method:
    def restore(picture: Pixels, request: FinishRequest) -> Pixels:
        asked = FinishRequest(**vars(request) | {"calls": calls})
        return to_uint8(restored(run, to_float(picture[None]), asked)[0])[0]

    return restore


def deep_image_prior(steps: int, channels: int) -> Method:
    """Fit the hourglass to what is measured of its output; the answer is the average of the outputs."""

    def fit(picture: Pixels, request: FinishRequest) -> Pixels:
        given = damaged(to_float(picture[None]), request)
        torch.manual_seed(seed_from(0, NET_STREAM))
        target = first_guess(given.measurement, given.y, noise_of(request))  # of the right size; it is not looked at
        fitter = Fitter(DIP_NETS["hourglass"](channels=channels), target, FitConfig(steps=steps))
        fitter.degrade, fitter.known = given.measurement.forward, given.y
        for step in fitter.steps():
            answer = step.averaged
        if given.known is not None:
            answer = torch.where(given.known > 0, given.y, answer)
        return inside(answer, given.border)

    return fit


def contenders(task: str, run: Run, calls: list[int], dip: int, channels: int) -> dict[str, Method]:
    """The contenders of a task by name."""
    found: dict[str, Method] = {"smooth fill": smooth_fill}
    if task.startswith("upscale"):
        found = {"bicubic": bicubic} | found
    if task == "deblur":
        found = {"as it is": as_it_is, "Wiener": wieners} | found
    if dip:
        found[f"deep image prior, {dip} steps"] = deep_image_prior(dip, channels)
    for count in calls:
        found[f"restore, {count} call{'s' * (count > 1)}"] = with_model(run, count)
    return found


# --- what is measured -----------------------------------------------------------------------------------------------


def gmsd(image: Pixels, reference: Pixels) -> float:
    """The deviation of the likeness of gradients (Xue et al. 2014), with its constant 170 and Prewitt's filter."""
    filter_, sizes = np.array([[1, 0, -1]] * 3) / 3, []
    for pixels in (image, reference):
        grey = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2].astype(float).mean(axis=2)
        grey = grey.reshape(grey.shape[0] // 2, 2, grey.shape[1] // 2, 2).mean(axis=(1, 3))
        sizes.append(np.hypot(convolve(grey, filter_), convolve(grey, filter_.T)))
    likeness = (2 * sizes[0] * sizes[1] + 170) / (sizes[0] ** 2 + sizes[1] ** 2 + 170)
    return float(likeness.std())


def detail(image: Pixels, reference: Pixels) -> float:
    """How much more power the image has above a quarter of a cycle a pixel, in dB."""
    powers = []
    for pixels in (image, reference):
        grey = pixels.astype(float).mean(axis=2)
        window = np.hanning(grey.shape[0])[:, None] * np.hanning(grey.shape[1])
        spectrum = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
        frequency = np.hypot(np.fft.fftfreq(grey.shape[0])[:, None], np.fft.fftfreq(grey.shape[1]))
        powers.append(spectrum[(frequency >= 0.25) & (frequency <= 0.5)].sum())
    return 10 * math.log10(powers[0] / powers[1])


def perceived(image: Pixels, reference: Pixels) -> float | None:
    """LPIPS, or None where the weights of AlexNet are not."""
    there = list(Path(torch.hub.get_dir(), "checkpoints").glob("alexnet-owt-*.pth"))
    return lpips(image, reference) if there and find_spec("lpips") else None


MEASURES: dict[str, Callable[[Pixels, Pixels], float | None]] = {
    "psnr": psnr, "ssim": ssim, "gmsd": gmsd, "detail": detail, "lpips": perceived,
}  # fmt: skip


def weights_of(run: Run) -> str:
    """A few letters of a hash of the weights, so that other weights are measured anew."""
    return hashlib.sha256((run.folder / "model.safetensors").read_bytes()).hexdigest()[:8]


# --- the study ------------------------------------------------------------------------------------------------------


def table(records: list[dict[str, Any]], tasks: list[str]) -> str:
    """The means of the photographs, a row for each contender of each task."""
    measures = [name for name in MEASURES if any(record[name] is not None for record in records)]
    lines = ["| task | method | " + " | ".join([*measures, "s"]) + " |", "| --- " * (len(measures) + 3) + "|"]
    for task in tasks:
        mine = [record for record in records if record["task"] == task]
        for method in dict.fromkeys(record["method"] for record in mine):
            rows = [record for record in mine if record["method"] == method]
            means = {name: float(np.mean([row[name] for row in rows])) for name in [*measures, "seconds"]}
            digits = {"psnr": 2, "ssim": 3, "gmsd": 3, "detail": 1, "lpips": 3, "seconds": 1}
            cells = " | ".join(f"{value:.{digits[name]}f}" for name, value in means.items())
            few = "" if len(rows) == len(PHOTOS) else f" ({len(rows)} of {len(PHOTOS)})"
            lines.append(f"| {TASKS[task]} | {method}{few} | {cells} |")
    return "\n".join(lines)


def draw_sheet(path: Path, rows: dict[str, list[Pixels]]) -> None:
    """The pictures of a task, a row for each contender."""
    count = len(rows["clean"])
    pictures = grid(np.stack([each for row in rows.values() for each in row]), count)
    named = label_rows(pictures, list(rows), size=16)
    write_image(path, name_columns(named, PHOTOS[:count], left=named.shape[1] - pictures.shape[1], size=16))


@click.command()
@click.option("--tasks", default=",".join(TASKS), show_default=True, help="Which, with commas between.")
@click.option("--calls", default="1,5,20", show_default=True, help="Calls of the network, with commas between.")
@click.option("--model", default="photos", show_default=True)
@click.option("--dip", type=click.IntRange(min=0), default=0, show_default=True, help="Steps of the deep image prior.")
@click.option("--channels", type=int, default=64, show_default=True, help="Of its hourglass; 128 is published.")
@click.option("--photos", type=click.IntRange(1, len(PHOTOS)), default=len(PHOTOS), help="Default: all of them.")
@click.option("--size", type=click.Choice(["256", "128"]), default="256", show_default=True, help="Pixels a side.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/tasks"), show_default=True)
@click.option("--sheets", type=click.Path(path_type=Path), help="A folder for the pictures side by side.")
def main(
    tasks: str, calls: str, model: str, dip: int, channels: int, photos: int, size: str, threads: int, out: Path,
    sheets: Path | None,
) -> None:  # fmt: skip
    cpu.tune()
    torch.set_num_threads(threads)
    run = minidiff.load(model, precision="fp32")
    assert isinstance(run, Run)
    weights, counts = weights_of(run), [int(word) for word in calls.split(",")]
    cleans = [crop_resize(each, int(size)) for each in photographs(whole=False)[:photos]]
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    shown: list[dict[str, Any]] = []
    for task in tasks.split(","):
        rows: dict[str, list[Pixels]] = {"clean": cleans, "given": []}
        for number, clean in enumerate(cleans):
            picture, request = damage(task, clean, number, out)
            rows["given"].append(as_it_is(picture, request))
            for method, restore in contenders(task, run, counts, dip, channels).items():
                by = weights if method.startswith("restore") else ""
                key = {"task": task, "photo": PHOTOS[number], "size": int(size), "method": method, "weights": by}
                words = method.replace(" ", "-").replace(",", "")
                place = out / "pictures" / f"{task}-{PHOTOS[number]}-{size}-{words}{by}.png"
                record = next((each for each in known if key.items() <= each.items()), None)
                if record is None:
                    began = time.process_time()
                    answer = restore(picture, request)
                    took = time.process_time() - began
                    write_image(place, answer)
                    record = key | {name: measure(answer, clean) for name, measure in MEASURES.items()}
                    record["seconds"] = round(took, 2)
                    with file.open("a") as lines:
                        lines.write(json.dumps(record) + "\n")
                    click.echo(f"{task} {PHOTOS[number]} {method}: {record['psnr']:.2f} dB, {took:.1f} s", err=True)
                shown.append(record)
                rows.setdefault(method, []).append(read_image(place))
        if sheets:
            draw_sheet(sheets / f"{task}.png", rows)
    click.echo(f"weights {weights}\n\n{table(shown, tasks.split(','))}")


if __name__ == "__main__":
    main()
