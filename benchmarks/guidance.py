"""What guidance does: how often a conditional model draws what it is asked for, against guidance scale and training.

python benchmarks/guidance.py RUN --classifier CLASSIFIER [--scales 1,1.5,2,3,4,6] [--seeds 4] [--out OUT]
python benchmarks/guidance.py RUN --classifier CLASSIFIER --steps-of 1000=A,2000=B     weights kept on the way
python benchmarks/guidance.py RUN --time                                               one doubled call, or two?

RUN draws the two lists of the embedded data set, `test` and `new_test`, from the same noise each time. OUT gets
results.json (what is there is not done again), tables, curves, and a sheet with a row for every scale.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from common import machine, ratio, rounds_of, seconds, versions
from torch import Tensor

from minidiff.classifier.loss import exact
from minidiff.data.conditions import multi_hot, read_conditions
from minidiff.ddpm.chains import resolve
from minidiff.ddpm.request import Sampling
from minidiff.ddpm.run import Run
from minidiff.diffusion.guidance import guided
from minidiff.diffusion.predictions import Model
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.evaluation.evaluator import Evaluator, open_evaluator
from minidiff.evaluation.figures import over_seeds
from minidiff.evaluation.figures import score as lab_score
from minidiff.files import write_json
from minidiff.images.convert import to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import grid, label_rows
from minidiff.pretrained.load import load
from minidiff.rng import randn, sample_generators
from minidiff.runtime import cpu

LISTS = ("test", "new_test")
SHOWN = 10  # conditions in the sheet
Result = dict[str, Any]


class Way(NamedTuple):
    """One way to draw. within: timesteps that are guided, the others are only told (Kynkaanniemi et al. 2024). rescale:
    how far the guided prediction is brought back to the deviation of the conditional one (Lin et al. 2024, eq. 16)."""

    scale: float
    within: tuple[int, int] | None = None
    rescale: float = 0.0
    sampler: str = "dpm++sde"
    steps: int = 20
    spacing: str | None = None  # None: what the run takes by itself

    def __str__(self) -> str:
        words = [f"{self.scale:g}"]
        words += [f"t {self.within[0]} to {self.within[1]}"] if self.within else []
        words += [f"rescaled {self.rescale:g}"] if self.rescale else []
        words += [f"{self.sampler} {self.steps}"] if (self.sampler, self.steps) != ("dpm++sde", 20) else []
        words += [self.spacing] if self.spacing else []
        return ", ".join(words)


def denoiser(run: Run, labels: Tensor, way: Way) -> Model:
    """The run's network, guided in this way."""
    plain, full = (guided(run.model, labels, scale) for scale in (1.0, way.scale))

    def call(x: Tensor, t: Tensor) -> Tensor:
        if way.within and not way.within[0] <= int(t[0]) <= way.within[1]:
            return plain(x, t)
        output = full(x, t)
        if way.rescale:
            by = plain(x, t).std(dim=(1, 2, 3), keepdim=True) / output.std(dim=(1, 2, 3), keepdim=True)  # eq. 15
            output = output * (way.rescale * by + 1 - way.rescale)  # eq. 16
        return output

    call.prediction = run.model.prediction  # type: ignore[attr-defined]
    return call


@torch.no_grad()
def draw(run: Run, labels: Tensor, way: Way, seed: int) -> Tensor:
    """One image for each row of labels: float [n,C,H,W], from the noise of `Run.sample`."""
    generators = sample_generators(seed, range(len(labels)))
    device = next(run.model.parameters()).device
    x = randn((len(labels), *run.shape), generators, like=torch.empty(0, device=device))
    x = x.contiguous(memory_format=torch.channels_last)
    model = denoiser(run, labels.to(device), way)
    asked = Sampling(sampler=way.sampler, steps=min(way.steps, run.schedule.T), spacing=way.spacing, labels=labels)
    chain = resolve(run, asked)
    for step in SAMPLERS[way.sampler](
        model, run.schedule, x, generator=generators, steps=chain.steps, spacing=chain.spacing, variance=chain.variance
    ):
        x = step.x
    return x


def score(run: Run, evaluator: Evaluator, way: Way, seeds: int) -> Result:
    """Both lists, drawn from so many seeds: of each seed the lab's score, and the share told exactly."""
    found: Result = {"way": str(way)}
    for name in LISTS:
        labels = multi_hot(read_conditions(name, run.label_names), len(run.label_names))
        columns = evaluator.columns(run.label_names)
        logits = [evaluator.logits(to_uint8(draw(run, labels, way, seed)))[:, columns] for seed in range(seeds)]
        found[name] = {"score": [lab_score(one, labels) for one in logits], "exact": [exact(o, labels) for o in logits]}
    return found


def interval(values: list[float]) -> tuple[float, float, float]:
    """The mean over the seeds and the ends of its 95% interval, which of one seed are the mean itself."""
    found = over_seeds(values)
    return found["value"], found.get("low", found["value"]), found.get("high", found["value"])


def table(first: str, results: dict[str, Result]) -> str:
    lines = [f"| {first} | test | exact | new_test | exact |", "| --- | --- | --- | --- | --- |"]
    for name, one in results.items():
        cells = [interval(one[part][what]) for part in LISTS for what in ("score", "exact")]
        words = [f"{mean:.3f} ({low:.3f} to {high:.3f})" if low < high else f"{mean:.3f}" for mean, low, high in cells]
        lines.append(f"| {name} | {' | '.join(words)} |")
    return "\n".join(lines) + "\n"


def curves(path: Path, results: dict[str, Result], xlabel: str) -> None:
    """Both scores against a number, with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    x = np.array([float(name) for name in results])
    for part in LISTS:
        for what, style in (("score", "-"), ("exact", "--")):
            mean, low, high = np.array([interval(one[part][what]) for one in results.values()]).T
            colour = f"C{LISTS.index(part)}"
            axes.plot(x, mean, style, marker="o", markersize=4, color=colour, label=f"{part}, {what}")
            axes.fill_between(x, low, high, color=colour, alpha=0.12)
    axes.set(xlabel=xlabel, ylabel="share", ylim=(None, 1.005))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def time_both(run: Run, batch_size: int, rounds: int) -> str:
    """A guided prediction as one call with twice the batch, and as two calls; beside the conditional one alone."""
    device = next(run.model.parameters()).device
    x = torch.randn(batch_size, *run.shape, device=device).contiguous(memory_format=torch.channels_last)
    t = torch.full((batch_size,), run.schedule.T // 2, device=device)
    labels = multi_hot([[k % len(run.label_names)] for k in range(batch_size)], len(run.label_names)).to(device)
    doubled = guided(run.model, labels, 2.0)

    def two() -> Tensor:
        told, untold = run.model(x, t, labels), run.model(x, t)
        return untold + 2.0 * (told - untold)

    calls: dict[str, Callable[[], Tensor]] = {
        "one doubled call": lambda: doubled(x, t), "two calls": two, "told only": lambda: run.model(x, t, labels),
    }  # fmt: skip
    with torch.no_grad():
        assert torch.allclose(doubled(x, t), two(), atol=1e-4)
        repeats = max(1, round(1 / seconds(two, 2, device)))
        steps = {name: partial(seconds, call, repeats, device) for name, call in calls.items()}
        times = rounds_of(steps, rounds)
    lines = ["| a prediction | ms | faster than two calls |", "| --- | --- | --- |"]
    for name, mine in times.items():
        lines.append(f"| {name} | {1000 * np.median(mine):.1f} | {ratio(times['two calls'], mine)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("folder", metavar="RUN")
@click.option("--classifier", help="What looks at the pictures: see `minidiff evaluate`.")
@click.option("--scales", default="1,1.5,2,3,4,6", show_default=True, help="Guidance scales.")
@click.option("--scale", default=3.0, show_default=True, help="At which the variants are compared.")
@click.option("--variants/--no-variants", default=True, help="Intervals, rescaling and other samplers too.")
@click.option("--seeds", default=4, show_default=True, help="How often each list is drawn.")
@click.option("--steps-of", default="", help="STEP=RUN,STEP=RUN: the same at --scale for other weights of the run.")
@click.option("--time", "timing", is_flag=True, help="One doubled call against two calls, and no study.")
@click.option("--batch-size", default=16, show_default=True, help="Of --time.")
@click.option("--rounds", default=8, show_default=True, help="Of --time.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("guidance"))
def main(folder: str, classifier: str | None, scales: str, scale: float, variants: bool, seeds: int, steps_of: str,
         timing: bool, batch_size: int, rounds: int, device: str, out: Path) -> None:  # fmt: skip
    """Score a conditional run of the embedded data set."""
    cpu.tune()
    run = load(folder, device=device)
    if timing:
        print(f"{machine(device)}, {torch.get_num_threads()} threads, {versions()}; {folder}, batch {batch_size}\n")
        print(time_both(run, batch_size, rounds))
        return
    if classifier is None:
        sys.exit("give --classifier, what looks at the pictures")
    evaluator = open_evaluator(classifier, device)
    out.mkdir(parents=True, exist_ok=True)
    store = out / "results.json"
    done: dict[str, Result] = json.loads(store.read_text()) if store.exists() else {}

    def scored(key: str, way: Way, other: str | None = None) -> Result:
        key = f"{key}, {seeds} seeds"
        if key not in done:
            done[key] = score(load(other, device=device) if other else run, evaluator, way, seeds)
            write_json(store, done)
            cells = ", ".join(f"{part} {interval(done[key][part]['score'])[0]:.3f}" for part in LISTS)
            print(f"{key}: {cells}", flush=True)
        return done[key]

    ways = [Way(float(word)) for word in scales.split(",")]
    found = {f"{way.scale:g}": scored(str(way), way) for way in ways}
    tables = [table("guidance scale", found)]
    curves(out / "guidance.png", found, "guidance scale")
    T = run.schedule.T
    if variants:
        others = [Way(scale, rescale=0.7)]
        others += [Way(scale, spacing=spacing) for spacing in ("karras", "logsnr")]
        others += [Way(scale, within=ends) for ends in ((T // 5, 4 * T // 5), (T // 5, T), (0, 4 * T // 5))]
        chains = (("ddim", 20), ("ddim", 50), ("dpm++", 20), ("unipc", 20), ("ddpm", 20), ("ddpm", 100))
        others += [Way(scale, sampler=name, steps=steps) for name, steps in chains]
        tables.append(table("another way", {str(way): scored(str(way), way) for way in [Way(scale), *others]}))
    if steps_of:
        pairs = dict(word.split("=") for word in steps_of.split(","))
        trained = {step: scored(f"{scale:g} at step {step}", Way(scale), place) for step, place in pairs.items()}
        tables.append(table("training step", trained))
        curves(out / "guidance-steps.png", trained, "training step")
    print("\n".join(tables))
    (out / "table.md").write_text("\n".join(tables))
    conditions = read_conditions("new_test", run.label_names)[:SHOWN]
    labels = multi_hot(conditions, len(run.label_names))
    rows = np.concatenate([to_uint8(draw(run, labels, way, 0)) for way in ways])
    write_image(out / "sheet.png", label_rows(grid(rows, SHOWN), [f"{way.scale:g}" for way in ways]))


if __name__ == "__main__":
    main()
