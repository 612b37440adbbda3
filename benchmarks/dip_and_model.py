"""A deep image prior and a model of photographs on one noisy photograph: do they help each other?

Three questions, on one fit of a photograph with noise, whose every step is measured against the clean picture:

1. The reverse chain of the model starts from the fit's outputs of several steps, at several start_t. Which is best, and
   is any better than the chain that starts from the noisy photograph itself?
   And from a mix of the noisy photograph and the average of the fit's outputs, as in `minidiff restore --with-dip`.
2. The fit is stopped by the model: where its output, or the average of its outputs, is nearest to what the model makes
   of the noisy photograph in one call, or where its distance to the noisy photograph has fallen to the measured noise.
   How far is that from the best step, and from the stops of Wang et al. 2023?
3. The fit starts from the model: its target is the model's answer for the first steps (--begin), or all along in part
   (--mix). After how many steps does it reach the same PSNR?

Prints Markdown, and draws the pictures of 1. A fit that was killed begins again; one that is done is not repeated.

    python benchmarks/dip_and_model.py --sheet sheet.jpg
    python benchmarks/dip_and_model.py --photo chelsea --size 96 --at 700 --begin 200
"""

import math
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import skimage.data
import torch
from torch import Tensor

import minidiff
from minidiff.ddpm.run import Run
from minidiff.diffusion.noise_level import noise_sigma
from minidiff.dip.config import FitConfig
from minidiff.dip.early_stop import MovingVariance, WindowVariance
from minidiff.dip.fit import Fitter
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import crop_resize, read_image, write_image
from minidiff.images.grid import grid, label_rows, name_columns
from minidiff.images.quality import psnr
from minidiff.networks.dip import DIP_NETS
from minidiff.restoration.finish import finish
from minidiff.restoration.tasks import enter
from minidiff.runs.log import append_metrics, read_metrics
from minidiff.runtime import cpu

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "stereo_motorcycle")
CALLS = 20  # of the chains that the sheet shows
Records = list[dict[str, Any]]


def photograph(name: str, size: int, sigma: float) -> tuple[Pixels, Pixels]:
    """The clean photograph and the noisy one, uint8 [size,size,3]."""
    picture = getattr(skimage.data, name)()
    clean = crop_resize(picture[0] if isinstance(picture, tuple) else picture, size)  # of a stereo pair the left one
    noise = np.random.default_rng(PHOTOS.index(name)).normal(0, sigma, clean.shape)
    return clean, np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)


def db(left: Tensor, right: Tensor) -> float:
    """PSNR of two images in [-1, 1], in dB."""
    return 10 * math.log10(4 / float((left - right).square().mean()))


# --- the fit --------------------------------------------------------------------------------------------------------


def watch(clean: Tensor, noisy: Tensor, answer: Tensor, channels: int, config: FitConfig, begin: int, mix: float,
          keep: list[int], out: Path) -> Records:  # fmt: skip
    """Fit the noisy photograph; one record for each step, also in OUT/metrics.jsonl, and the outputs of some steps.

    answer: what the model makes of it. begin: for so many first steps the answer is the target. mix: the share that it
    has of the target after them.
    """
    if (out / f"{config.steps:06d}.png").exists():
        return read_metrics(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.jsonl").unlink(missing_ok=True)
    torch.manual_seed(config.seed)
    net = DIP_NETS["hourglass"](channels=channels)
    target = (1 - mix) * noisy + mix * answer
    fitter = Fitter(net, answer if begin else target, config)
    window, moving = WindowVariance(), MovingVariance()
    records: Records = []
    began = time.process_time()
    for step in fitter.steps():
        if step.step == begin:
            fitter.known = target
        record: dict[str, Any] = {"step": step.step}
        for name, image in (("output", step.output), ("average", step.averaged)):
            record |= {name: db(image, clean), f"{name}_to_answer": db(image, answer),
                       f"{name}_residual": 127.5 * math.sqrt(float((image - noisy).square().mean()))}  # fmt: skip
        record["both"] = db((step.averaged + answer) / 2, clean)
        record |= {"window": window.update(step.output)[0], "moving": moving.update(step.output)[0]}
        record["seconds"] = time.process_time() - began
        records.append(record)
        append_metrics(out, record)
        if step.step in keep or step.step == config.steps:
            write_image(out / f"average-{step.step:06d}.png", to_uint8(step.averaged)[0])
            write_image(out / f"{step.step:06d}.png", to_uint8(step.output)[0])
        if step.step % 100 == 0:
            click.echo(f"step {step.step}: {record['output']:.2f} dB, average {record['average']:.2f}", err=True)
    return records


# --- 2. and 3.: when to stop, and when it is there ------------------------------------------------------------------


def chosen(records: Records, sigma: float) -> dict[str, int]:
    """The index of the step that each way to stop would choose; the last, if it never would."""
    full = [record for record in records if record["window"] is not None]

    def lowest(key: str, among: Records) -> int:
        return among[min(range(len(among)), key=lambda k: among[k][key])]["step"] - 1

    def highest(key: str) -> int:
        return max(range(len(records)), key=lambda k: records[k][key])

    def fallen(key: str) -> int:
        return next((k for k, record in enumerate(records) if record[key] <= sigma), len(records) - 1)

    return {
        "best output": highest("output"),
        "best average": highest("average"),
        "minimum of ES-WMV": lowest("window", full),
        "minimum of ES-EMV": lowest("moving", full),
        "output nearest to the model's answer": highest("output_to_answer"),
        "average nearest to the model's answer": highest("average_to_answer"),
        "output as far from the picture as its noise": fallen("output_residual"),
        "average as far from the picture as its noise": fallen("average_residual"),
    }


def stop_table(records: Records, sigma: float) -> str:
    """What each way to stop would have given."""
    lines = ["| stop | step | output | average | average and answer, half each |", "| --- " * 5 + "|"]
    for name, k in chosen(records, sigma).items():
        at = records[k]
        figures = " | ".join(f"{at[key]:.2f}" for key in ("output", "average", "both"))
        lines.append(f"| {name} | {at['step']} | {figures} |")
    return "\n".join(lines)


def time_table(records: Records) -> str:
    """After how many steps, and seconds of the processor, the average reaches a PSNR."""
    lines = ["| average of the outputs | step | s |", "| --- " * 3 + "|"]
    for level in (22, 24, 25, 26, 27, 28, 29, 30):
        first = next((record for record in records if record["average"] >= level), None)
        if first:
            lines.append(f"| {level} dB | {first['step']} | {first['seconds']:.0f} |")
    return "\n".join(lines)


# --- 1.: where a chain starts ---------------------------------------------------------------------------------------


def chains(
    run: Run, inits: dict[str, Pixels], starts: list[int], modes: dict[str, str], calls: int
) -> dict[str, list[Pixels]]:
    """The ends of the chains from each init: first the init itself, then one picture for each start_t."""
    found = {}
    for name, init in inits.items():
        found[name] = [init]
        for start_t in starts:
            (image,) = run.sample(1, init=to_float(init[None]), start_t=start_t, init_mode=modes[name],
                                  steps=min(calls, start_t + 1))  # fmt: skip
            found[name].append(to_uint8(image)[0])
    return found


def chain_table(rows: dict[str, list[Pixels]], starts: list[int], clean: Pixels, head: str) -> str:
    """PSNR of every picture; the best of each row is bold."""
    lines = [f"| {head} | none | " + " | ".join(map(str, starts)) + " |", "| --- " * (2 + len(starts)) + "|"]
    for name, pictures in rows.items():
        values = [psnr(each, clean) for each in pictures]
        cells = [f"**{value:.2f}**" if value == max(values) else f"{value:.2f}" for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def mix_table(run: Run, y: Tensor, average: Tensor, sigma: float, clean: Pixels) -> str:
    """What `minidiff restore --with-dip` gives: the chain starts from a mix of the picture and the fit's average."""
    lines = ["| share of the picture | 1 call | 20 calls | 50 calls |", "| --- " * 4 + "|"]
    for share in (1.0, 0.75, 0.5):
        init = share * y + (1 - share) * average
        values = [psnr(to_uint8(finish(run, init, sigma, calls)[0])[0], clean) for calls in (1, 20, 50)]
        lines.append(f"| {share:g} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join(lines)


def draw_sheet(rows: dict[str, list[Pixels]], starts: list[int], clean: Pixels, path: Path) -> None:
    """A row for each init, a column for each start_t, with the PSNR at the left of each row."""
    size = clean.shape[0]
    labels = [
        f"{name}\n" + "  ".join(f"{psnr(each, clean):.1f}" for each in pictures) for name, pictures in rows.items()
    ]
    cells = np.stack([each for pictures in rows.values() for each in pictures])
    pictures = grid(cells, 1 + len(starts))
    named = label_rows(pictures, labels, size=max(10, size // 10))
    heads = ["no chain", *(f"start_t {t}" for t in starts)]
    write_image(path, name_columns(named, heads, left=named.shape[1] - pictures.shape[1], size=max(10, size // 9)))


@click.command()
@click.option("--photo", type=click.Choice(PHOTOS), default="astronaut", show_default=True)
@click.option("--size", default=128, show_default=True, help="Pixels a side.")
@click.option("--noise", default=25.0, show_default=True, help="Deviation, of 255.")
@click.option("--channels", default=32, show_default=True, help="Of the hourglass; 128 is published.")
@click.option("--at", default="100,300,600,1200,2400", show_default=True, help="Steps whose outputs start chains.")
@click.option("--starts", default="30,60,100,200", show_default=True, help="Values of start_t.")
@click.option("--begin", default=0, show_default=True, help="First steps whose target is the model's answer.")
@click.option("--mix", default=0.0, show_default=True, help="The share of the model's answer in the target.")
@click.option("--model", default="photos", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/dip-and-model"), show_default=True)
@click.option("--sheet", type=click.Path(path_type=Path), help="Where the pictures of the chains go.")
def main(photo: str, size: int, noise: float, channels: int, at: str, starts: str, begin: int, mix: float, model: str,
         out: Path, sheet: Path | None) -> None:  # fmt: skip
    cpu.tune()
    torch.set_num_threads(1)
    steps, levels = ([int(word) for word in words.split(",")] for words in (at, starts))
    clean, noisy = photograph(photo, size, noise)
    run = minidiff.load(model, precision="fp32")
    y = to_float(noisy[None])
    sigma = noise_sigma(y)
    began = time.process_time()
    answer, _ = finish(run, y, sigma)
    took = time.process_time() - began
    before, after = psnr(noisy, clean), psnr(to_uint8(answer)[0], clean)
    click.echo(f"{photo}, {size}x{size}: noisy {before:.2f} dB, its noise measured as {127.5 * sigma:.1f} of 255 "
               f"(t = {enter(run, sigma)}); one call of the model {after:.2f} dB, {took:.1f} s\n")  # fmt: skip
    name = f"{photo}-{size}-{channels}-{noise:g}-{begin}-{mix:g}"
    records = watch(
        to_float(clean[None]), y, answer, channels, FitConfig(steps=max(steps)), begin, mix, steps, out / name
    )
    click.echo(f"{stop_table(records, 127.5 * sigma)}\n\n{time_table(records)}")
    if begin or mix:
        return
    average = to_float(read_image(out / name / f"average-{max(steps):06d}.png")[None])
    click.echo(f"\n{mix_table(run, y, average, sigma, clean)}")
    inits = {f"step {step}": read_image(out / name / f"{step:06d}.png") for step in steps} | {
        "the noisy photograph": noisy
    }
    for mode in ("noise", "scale"):
        modes = {name: mode for name in inits} | {"the noisy photograph": "scale"}
        for calls in (1, CALLS):
            rows = chains(run, inits, levels, modes, calls)
            head = f"from, mode {mode}, {calls} call{'s' * (calls > 1)}"
            click.echo(f"\n{chain_table(rows, levels, clean, head)}")
            if sheet and mode == "noise" and calls == CALLS:
                draw_sheet(rows, levels, clean, sheet)


if __name__ == "__main__":
    main()
