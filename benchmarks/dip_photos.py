"""Does the early stop find a good moment? Fit five noisy photographs, and measure the PSNR at every step.

The photographs are scikit-image's, cut to the centre and reduced to 256x256, with Gaussian noise of 25/255. Each is
fitted until ES-WMV stops it. Every step's PSNR to the clean picture is noted; a real fit could not do this. Non-local
means (scikit-image), given the true noise level, stands beside it. Prints a Markdown table. After a kill it goes on.

    python benchmarks/dip_photos.py --channels 64        # half an hour a photograph on one CPU core
"""

from pathlib import Path
from typing import Any

import click
import numpy as np
import skimage.data
import torch
from skimage.restoration import denoise_nl_means

from minidiff.dip.config import FitConfig
from minidiff.dip.early_stop import MovingVariance, WindowVariance
from minidiff.dip.fit import Fitter
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import crop_resize, write_image
from minidiff.images.quality import psnr
from minidiff.networks.dip import DIP_NETS
from minidiff.rng import Draws, seed_from
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import append_metrics, read_metrics, write_metrics
from minidiff.runtime import cpu

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")
SIGMA, SIZE = 25, 256  # of 255; pixels
NOISE_STREAM, NET_STREAM = 2, 3  # the random streams of the seed 0


def photo(name: str) -> tuple[Pixels, torch.Tensor]:
    """The clean picture, uint8 [256,256,3], and with noise, float [1,3,256,256] in [-1,1]."""
    picture = getattr(skimage.data, name)()
    clean = crop_resize(picture[0] if isinstance(picture, tuple) else picture, SIZE)  # a stereo pair: the left one
    noise = Draws(seed_from(0, NOISE_STREAM), 1, slice(None)).randn(3, SIZE, SIZE)
    return clean, (to_float(clean[None]) + SIGMA / 127.5 * noise).clamp(-1, 1)


def watch(name: str, channels: int, steps: int, out: Path) -> list[dict[str, Any]]:
    """Fit one photograph; one record a step, also in OUT/NAME/metrics.jsonl. Goes on with a fit that was killed."""
    clean, noisy = photo(name)
    folder = out / name
    (folder / "steps").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed_from(0, NET_STREAM))
    fitter = Fitter(DIP_NETS["hourglass"](channels=channels), noisy, FitConfig(steps=steps))
    window, moving = WindowVariance(), MovingVariance()
    state = checkpoint.read_state(folder)
    if state is not None:
        fitter.load_state_dict(state["fitter"])
        window.load_state_dict(state["window"])
        moving.load_state_dict(state["moving"])
    records = read_metrics(folder, upto=None if (folder / "dip.png").exists() else fitter.step)
    if (folder / "dip.png").exists():
        return records
    write_metrics(folder, records)
    for step in fitter.steps():
        statistic, stop = window.update(step.output, step.averaged)
        record = {
            "step": step.step,
            "loss": step.loss.item(),
            "psnr": psnr(to_uint8(step.output)[0], clean),
            "psnr_average": psnr(to_uint8(step.averaged)[0], clean),
            "window": statistic,
            "moving": moving.update(step.output)[0],
        }
        records.append(record)
        append_metrics(folder, record)
        if step.step % 100 == 0 or stop:
            state = {"fitter": fitter.state_dict(), "window": window.state_dict(), "moving": moving.state_dict()}
            checkpoint.save_state(folder, {"step": step.step} | state)
            write_image(folder / "steps" / f"{step.step:06d}.png", to_uint8(step.output)[0])
            click.echo(f"{name} step {step.step}: {record['psnr']:.2f} dB, lowest at {window.best_step}", err=True)
        if stop:
            break
    assert window.best is not None
    write_image(folder / "dip.png", to_uint8(window.best)[0])
    (folder / checkpoint.STATE).unlink(missing_ok=True)
    return records


def row(name: str, records: list[dict[str, Any]]) -> str:
    """The table's line about one photograph."""
    clean, noisy = photo(name)
    pixels = to_uint8(noisy)[0]
    classical = denoise_nl_means(
        pixels / 255, h=0.6 * SIGMA / 255, sigma=SIGMA / 255, patch_size=5, patch_distance=6, fast_mode=False,
        channel_axis=2,
    )  # fmt: skip
    nlm = psnr((255 * classical).round().clip(0, 255).astype(np.uint8), clean)
    best = max(records, key=lambda record: record["psnr"])
    chosen = {key: min((r for r in records if r[key]), key=lambda r: r[key]) for key in ("window", "moving")}
    stop, last = chosen["window"], records[-1]["step"]
    return (
        f"| {name} | {psnr(pixels, clean):.2f} | {nlm:.2f} | {best['psnr']:.2f} ({best['step']}) | "
        f"{stop['psnr']:.2f} ({stop['step']}) | {best['psnr'] - stop['psnr']:.2f} | {stop['psnr_average']:.2f} | "
        f"{chosen['moving']['psnr']:.2f} ({chosen['moving']['step']}) | {records[-1]['psnr']:.2f} ({last}) |"
    )


@click.command()
@click.option("--channels", type=int, default=128, show_default=True, help="Of the hourglass; 128 is published.")
@click.option("--steps", type=click.IntRange(min=100), default=3000, show_default=True, help="At most.")
@click.option("--photo", "photos", multiple=True, type=click.Choice(PHOTOS), help="Only these. Default: all five.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/dip-photos"), show_default=True)
def main(channels: int, steps: int, photos: tuple[str, ...], threads: int, out: Path) -> None:
    cpu.tune()
    torch.set_num_threads(threads)
    rows = [row(name, watch(name, channels, steps, out)) for name in photos or PHOTOS]
    click.echo(
        "| photograph | noisy | non-local means | best output (step) | output at the early stop (step) "
        "| below the best | answer, averaged | at ES-EMV's (step) | last output (step) |\n" + "| --- " * 9 + "|"
    )
    click.echo("\n".join(rows))


if __name__ == "__main__":
    main()
