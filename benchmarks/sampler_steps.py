"""Which sampler, with how many calls of the network? The distance of a trained model's samples, for each of them.

python benchmarks/sampler_steps.py RUN --features CLASSIFIER [--steps 5,10,20,50,100,1000] [--num 1000] [--out OUT]

Every sampler begins with the same noise. OUT gets results.json (what is there is not measured again), a Markdown table,
the curves, and a sheet of the same samples from all of them.
"""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from minidiff import cpu, load_data, measure
from minidiff.checkpoint import write_json
from minidiff.errors import UserError
from minidiff.features import FeatureNetwork, choose
from minidiff.images import grid, write_image
from minidiff.pipeline import Run, load
from minidiff.samplers import SAMPLERS
from minidiff.sources import of_data, of_run

SHOWN = 8  # samples in the sheet

Result = dict[str, Any]  # sampler, asked, calls, num, fd, infinity, low, high, seconds (an image)


def measured(run: Run, network: FeatureNetwork, reference: measure.Side, name: str, steps: int, num: int,
             batch_size: int, spacing: str | None, out: Path) -> Result:  # fmt: skip
    """One point of a curve, and the first of its images in `out`. Raises UserError where there is no such chain."""
    options: Result = {"sampler": name, "steps": steps} | ({"spacing": spacing} if spacing else {})
    calls = len(run.timesteps(**run.options(**options)))
    with tqdm(total=calls * -(-num // batch_size), desc=f"{name}, {calls}", unit="call", leave=False) as bar:
        source = of_run(name, run, num, on_step=lambda _: bar.update(), **options)
        kept: list[np.ndarray] = []

        def batches(size: int, draw=source.batches):  # type: ignore[no-untyped-def]
            for batch in draw(size):
                kept.append(np.asarray(batch)) if not kept else None
                yield batch

        source.batches = batches
        begin = time.perf_counter()
        side = measure.extract(source, network, batch_size=batch_size, wanted=("fid", "fid-inf"))
        seconds = (time.perf_counter() - begin) / num
    np.save(out / f"{name}-{steps}.npy", kept[0][:SHOWN])
    found = measure.compare(side, reference, network, ("fid", "fid-inf"))
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
@click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--spacing", help="Another than each sampler's own.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("sampler-steps"))
def main(folder: str, features: str, samplers: str, steps: str, num: int, batch_size: int, spacing: str | None,
         device: str, out: Path) -> None:  # fmt: skip
    """Measure every sampler at every number of calls."""
    cpu.tune()
    out.mkdir(parents=True, exist_ok=True)
    run, network = load(folder, device=device), choose(features, device=device)
    data = run.config["data"]
    reference = of_data(data["name"], load_data(data["name"], image_size=data["image_size"]))
    side = measure.measured(reference, network)
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
        rows = [out / f"{name}-{count}.npy" for name in samplers.split(",")]
        write_image(out / f"sheet-{count}.png", grid(np.concatenate([np.load(r) for r in rows if r.exists()]), SHOWN))


if __name__ == "__main__":
    main()
