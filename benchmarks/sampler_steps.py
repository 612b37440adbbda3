"""Which sampler, with how many calls of the network? The distance of a trained model's samples, for each of them.

python benchmarks/sampler_steps.py RUN --features CLASSIFIER [--steps 5,10,20,50,100,1000] [--num 1000] [--out OUT]

Every sampler begins with the same noise. OUT gets the samples, batch by batch, and results.json: what is there is not
done again, so a study that was stopped goes on. And a Markdown table, the curves, and sheets of the same samples from
all of them.
"""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from minidiff import load_data
from minidiff.ddpm.run import Run
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.errors import UserError
from minidiff.files import write_atomically, write_json
from minidiff.images.convert import to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import grid, label_rows
from minidiff.metrics import compare as measure
from minidiff.metrics import extraction
from minidiff.metrics.features import FeatureNetwork, choose
from minidiff.metrics.sources import ImageSource, dataset_source
from minidiff.pretrained.load import load
from minidiff.runtime import cpu
from minidiff.runtime.progress import progress_bar

SHOWN = 8  # samples in the sheet

Result = dict[str, Any]  # sampler, asked, calls, num, fd, infinity, low, high, seconds (an image)


def drawn(run: Run, options: Result, num: int, batch_size: int, folder: Path) -> float:
    """Samples 0 ... num-1 into `folder`, a file a batch; those that are there are kept. Seconds an image."""
    folder.mkdir(parents=True, exist_ok=True)
    calls = len(run.timesteps(**options)) * -(-num // batch_size)
    with progress_bar(calls, folder.name, unit="call") as bar:
        for first in range(0, num, batch_size):
            path = folder / f"{first:06d}.npz"
            if path.exists():
                bar.update(calls * batch_size // num)
                continue
            begin = time.perf_counter()
            mine = range(num)[first : first + batch_size]
            images = run.draw(mine, batch_size=batch_size, on_step=lambda _: bar.update(), **options)
            seconds = (time.perf_counter() - begin) / len(images)
            write_atomically(path, partial(np.savez, images=to_uint8(images), seconds=seconds))
    return float(np.median([np.load(path)["seconds"] for path in files(folder)]))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npz"))


def measured(run: Run, network: FeatureNetwork, reference: extraction.MeasuredSet, name: str, steps: int, num: int,
             batch_size: int, spacing: str | None, out: Path) -> Result:  # fmt: skip
    """One point of a curve. Raises UserError where there is no such chain."""
    options = {"sampler": name, "steps": steps, "spacing": spacing}
    calls = len(run.timesteps(**options))
    folder = out / "samples" / f"{name}-{steps}"
    seconds = drawn(run, options, num, batch_size, folder)
    batches = (np.load(path)["images"] for path in files(folder))
    source = ImageSource(name, num, "", lambda _: batches)
    side = extraction.extract(source, network, batch_size=batch_size, wanted=("fid", "fid-inf"))
    found = measure.compute_metrics(side, reference, network, ("fid", "fid-inf"))
    return {
        "sampler": name, "asked": steps, "calls": calls, "num": num, "fd": found["fid"],
        "infinity": found["fid-inf"].value, "low": found["fid-inf"].low, "high": found["fid-inf"].high,
        "seconds": seconds,
    }  # fmt: skip


def table(results: list[Result]) -> str:
    """Samplers down, calls across."""
    columns = sorted({one["asked"] for one in results})
    lines = ["| sampler | " + " | ".join(f"{steps:,}" for steps in columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name in dict.fromkeys(one["sampler"] for one in results):
        mine = {one["asked"]: one for one in results if one["sampler"] == name}
        cells = [f"{mine[steps]['fd']:.3g}" if steps in mine else "" for steps in columns]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(path: Path, results: list[Result], title: str) -> None:
    """Distance against calls, both on a log scale, a line for each sampler."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(one["sampler"] for one in results):
        mine = sorted((one["calls"], one["fd"]) for one in results if one["sampler"] == name)
        axes.plot(*zip(*mine, strict=True), marker="o", label=name)
    axes.set(xlabel="calls of the network", ylabel=title, xscale="log", yscale="log")
    ticks = sorted({one["asked"] for one in results})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=110)


@click.command()
@click.argument("folder", metavar="RUN")
@click.option("--features", required=True, help="A classifier run on the same data set, or inception.")
@click.option("--samplers", default=",".join(SAMPLERS), show_default=True, help="Which, with commas between.")
@click.option("--steps", default="5,10,20,50,100", show_default=True, help="Calls of the network.")
@click.option("--num", type=click.IntRange(min=100), default=1000, show_default=True, help="Samples of each.")
@click.option("--batch-size", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--spacing", help="Another than each sampler's own.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Default: that of the training.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("sampler-steps"))
def main(folder: str, features: str, samplers: str, steps: str, num: int, batch_size: int, spacing: str | None,
         precision: str | None, device: str, out: Path) -> None:  # fmt: skip
    """Measure every sampler at every number of calls."""
    cpu.tune()
    out.mkdir(parents=True, exist_ok=True)
    run, network = load(folder, device=device, precision=precision), choose(features, device=device)
    spec = run.config.data.spec()
    images = load_data(spec.name, data_dir=spec.data_dir, image_size=spec.image_size, on_bad=spec.on_bad)
    reference = dataset_source(spec.name, images, run.config.data.called)
    side = extraction.measure_set(reference, network)
    store = out / "results.json"
    results: list[Result] = json.loads(store.read_text()) if store.exists() else []
    for count in map(int, steps.split(",")):
        for name in samplers.split(","):
            if any((one["sampler"], one["asked"], one["num"]) == (name, count, num) for one in results):
                continue
            try:
                results.append(measured(run, network, side, name, count, num, batch_size, spacing, out))
            except UserError as error:
                print(f"{name} at {count}: {error}")
                continue
            write_json(store, results)
            last = results[-1]
            interval = f"FD∞ {last['infinity']:.3f} ({last['low']:.3f} to {last['high']:.3f})"
            print(f"{name:8} {last['calls']:4} calls: FD {last['fd']:.3f}, {interval}, {last['seconds']:.3f} s each",
                  flush=True)  # fmt: skip
    shown = [one for one in results if one["num"] == num]
    print(table(shown))
    (out / "table.md").write_text(table(shown))
    draw(out / "sampler-steps.png", shown, f"FD({network.name}), {num:,} samples")
    for count in map(int, steps.split(",")):
        rows = [out / "samples" / f"{name}-{count}" / "000000.npz" for name in samplers.split(",")]
        shown_rows = [np.load(row)["images"][:SHOWN] for row in rows if row.exists()]
        names = [row.parent.name.rpartition("-")[0] for row in rows if row.exists()]
        if names:
            write_image(out / f"sheet-{count}.png", label_rows(grid(np.concatenate(shown_rows), SHOWN), names))


if __name__ == "__main__":
    main()
