"""How good are the pictures after so many minutes of one thread? Every contender learns for the same processor time.

python benchmarks/minutes.py train minidiff --minutes 5 --features CLASSIFIER [--data fashion-mnist] [--out minutes]
python benchmarks/minutes.py all --minutes 2,5,15 --seeds 0,1,2 --workers 2 --features CLASSIFIER
python benchmarks/minutes.py table | plot | grids

CLASSIFIER is the run folder of `minidiff train classifier` on the same data. contenders.py says who races, and by which
recipe. Each draws 2,000 images after its time; their distance from the training images is measured in the classifier's
features (FD, KD), and on scenes the share that the classifier can tell (see `told`). OUT gets results.jsonl, a line a
measurement, and a grid of each. What is there is not done again, so a study that was stopped goes on.

Time is what `time.process_time` counts in training steps, on one thread; building, drawing and measuring are free. A
contender whose rate is constant trains once, and draws on the way after each of the times asked for. One whose rate
follows a schedule trains anew for each: a short trial, which is free too, says how many steps fit the time.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from common import machine, versions
from contenders import CONTENDERS, Contender, Learner, Setting
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from minidiff import load_data, open_evaluator
from minidiff.data.config import called
from minidiff.files import write_atomically
from minidiff.images.convert import Pixels
from minidiff.images.files import read_image, write_image
from minidiff.images.grid import cut, grid, label_rows, name_columns
from minidiff.metrics import extraction
from minidiff.metrics.features import FeatureNetwork, choose
from minidiff.metrics.frechet import FeatureStatistics, frechet_distance
from minidiff.metrics.kid import kid
from minidiff.metrics.sources import ImageSource, dataset_source
from minidiff.runtime import cpu

ROOT = Path(__file__).resolve().parents[1]
NUM = 2000  # images drawn
FACTORS = (1 / 3, 1, 3, 10)  # of the published rate, where the best is looked for
TUNED_FOR, TUNED_BY = 5.0, 500  # minutes, and images drawn, of the search
SHOWN = 36  # images of a grid
SURE = 0.1  # how near to 0 or 1 each output of a classifier is that can tell a scene
TRIAL = 0.05, 30.0  # how much of its time a contender tries its steps, at most so many seconds

Row = dict[str, Any]  # a line of results.jsonl


# --- what is to be done -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What a study looks at: the data, and how many images are drawn."""

    data: str = "fashion-mnist"
    size: int = 32
    num: int = NUM


@dataclass(frozen=True)
class Job:
    """One training: a contender, its rate and batch, and after which times it draws."""

    contender: str
    task: Task
    seed: int
    minutes: tuple[float, ...]
    rate: float | None
    batch: int

    def names(self) -> list[str]:
        """Name each of its measurements."""
        return [key_of(self.row(minutes)) for minutes in self.minutes]

    def row(self, minutes: float) -> Row:
        """Begin the line of one of its measurements."""
        found = CONTENDERS[self.contender]
        return {
            "contender": self.contender, "version": found.version, "data": self.task.data, "size": self.task.size,
            "seed": self.seed, "minutes": minutes, "rate": self.rate, "batch": self.batch, "num": self.task.num,
        }  # fmt: skip

    def words(self) -> list[str]:
        """Return the arguments of `train` that do it."""
        rate = [] if self.rate is None else ["--rate", repr(self.rate)]
        minutes = ",".join(f"{each:g}" for each in self.minutes)
        return [self.contender, "--seed", str(self.seed), "--minutes", minutes, "--batch-size", str(self.batch), *rate,
                "--data", self.task.data, "--size", str(self.task.size), "--num", str(self.task.num)]  # fmt: skip


KEY = ("contender", "version", "data", "size", "seed", "minutes", "rate", "batch", "num")


def key_of(row: Row) -> str:
    """Name a measurement: two of the same name are the same measurement."""
    rate = None if row["rate"] is None else f"{row['rate']:.4g}"
    return "|".join(str(row[name] if name != "rate" else rate) for name in KEY)


def read_results(out: Path) -> list[Row]:
    """Read results.jsonl. A last line that a kill has cut short is left out."""
    path = out / "results.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            print(f"{path}: a line is cut short, and left out: {line[:40]}", file=sys.stderr)
    return rows


def add_result(out: Path, row: Row) -> None:
    """Add a line to results.jsonl. Several processes may do so."""
    path = out / "results.jsonl"
    with FileLock(out / ".lock"), open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
        else:
            whole = True
        file.write((b"" if whole else b"\n") + json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def searches(contender: Contender, task: Task) -> list[Job]:
    """List the trainings that look for a contender's best rate, and batch: five minutes each, seed 0.

    The published rate and batch, and every other rate with the published batch; with the other batch, if there is one.
    """
    if contender.rate is None:
        return []
    batch = contender.other_batch or contender.batch
    others = [(factor * contender.rate, batch) for factor in FACTORS]
    settings = dict.fromkeys([(contender.rate, contender.batch), *others])  # each once, in this order
    few = Task(task.data, task.size, TUNED_BY)
    return [Job(contender.name, few, 0, (TUNED_FOR,), rate, size) for rate, size in settings]


def tuned(contender: Contender, rows: Iterable[Row], task: Task) -> tuple[float, int] | None:
    """Return the rate and batch with the least FD of a search that is complete; None as long as it is not."""
    by_key = {key_of(row): row for row in rows}
    jobs = searches(contender, task)
    found = [(by_key[key]["fd"], job.rate, job.batch) for job in jobs for key in job.names() if key in by_key]
    if not jobs or len(found) < len(jobs):
        return None
    _, rate, batch = min(found, key=lambda each: each[0] if math.isfinite(each[0]) else math.inf)
    assert rate is not None
    return rate, batch


def settings_of(contender: Contender, rows: Sequence[Row], searched: Task) -> list[tuple[float | None, int]]:
    """Return the rates and batches that a contender races with: the published one, and the best of the search."""
    published = (contender.rate, contender.batch)
    best = tuned(contender, rows, searched)
    return [published] if best in (None, published) else [published, best]  # type: ignore[list-item]


def missing(
    names: Sequence[str], task: Task, minutes: Sequence[float], seeds: Sequence[int], rows: Sequence[Row],
    searched: Task | None,
) -> list[Job]:  # fmt: skip
    """List the trainings that results.jsonl lacks, in the order to do them: the first seed and short times first.

    searched: where the best rates are looked for; None: all race as published. A job whose rate is not known yet, as
    the search goes on, is not in the list.
    """
    there = {key_of(row) for row in rows}
    found: list[tuple[tuple[Any, ...], Job]] = []
    for number, name in enumerate(names):
        contender = CONTENDERS[name]
        jobs = searches(contender, searched) if searched else []
        settings = settings_of(contender, rows, searched) if searched else [(contender.rate, contender.batch)]
        lengths = [(each,) for each in minutes] if contender.scheduled else [tuple(sorted(minutes))]
        jobs += [
            Job(name, task, seed, length, rate, batch) for seed in seeds for length in lengths
            for rate, batch in settings
        ]  # fmt: skip
        for job in jobs:
            left = tuple(each for each in job.minutes if key_of(job.row(each)) not in there)
            if left:
                place = (job.seed, left[0], job.task.num != task.num, left[-1], number)
                found.append((place, Job(name, job.task, job.seed, left, job.rate, job.batch)))
    return [job for _, job in sorted(found, key=lambda each: each[0])]


# --- one training -------------------------------------------------------------------------------------------------


def processor_seconds(learner: Learner, steps: int) -> float:
    """Take steps, and measure how much time of the processor one takes."""
    began = time.process_time()
    for _ in range(steps):
        learner.step()
    return (time.process_time() - began) / steps


def fitting_steps(contender: Contender, setting: Setting, seconds: float) -> int:
    """Find by a short trial how many training steps take so many seconds."""
    learner = contender.make(setting)
    learner.step()  # in the first one memory is taken, and convolutions are prepared
    share, most = TRIAL
    began, taken = time.process_time(), []
    while not taken or (time.process_time() - began < min(share * seconds, most)):
        taken.append(processor_seconds(learner, 1))
    return max(1, round(seconds / statistics.fmean(taken)))


def learn(job: Job) -> Iterator[tuple[float, Learner, int, float]]:
    """Train. Yields (minutes, learner, steps, seconds) at the step that is nearest to each of the job's times."""
    contender = CONTENDERS[job.contender]
    setting = Setting(job.task.data, job.task.size, job.seed, job.rate, job.batch, 10**6)
    if contender.scheduled:
        (minutes,) = job.minutes
        steps = fitting_steps(contender, setting, 60 * minutes)
        learner = contender.make(replace(setting, steps=steps))
        yield minutes, learner, steps, steps * processor_seconds(learner, steps)
        return
    learner, step, gone, last = contender.make(setting), 0, 0.0, 0.0
    for minutes in job.minutes:
        while not step or gone + last / 2 < 60 * minutes:
            last = processor_seconds(learner, 1)
            gone, step = gone + last, step + 1
        yield minutes, learner, step, gone


# --- one measurement ----------------------------------------------------------------------------------------------


def features_of(source: ImageSource, network: FeatureNetwork) -> NDArray[np.float32]:
    """Return the features of all images, float32 [N,d]."""
    return extraction.extract(source, network, batch_size=250, wanted=("kid",)).features[:]


def features_of_images(images: Pixels, network: FeatureNetwork) -> NDArray[np.float32]:
    """Return the features of uint8 [N,H,W,3], float32 [N,d]."""
    parts = [images[first : first + 250] for first in range(0, len(images), 250)]
    return features_of(ImageSource("samples", len(images), "", lambda _: iter(parts)), network)


def reference(task: Task, network: FeatureNetwork, out: Path) -> NDArray[np.float32]:
    """Return the features of the training images, float32 [N,d]; they are kept in OUT."""
    path = out / f"reference-{task.data}-{task.size}-{network.sha256[:8]}.npy"
    if not path.exists():
        data = load_data(task.data, image_size=task.size)
        features = features_of(dataset_source(task.data, data, called(task.data, None)), network)
        write_atomically(path, partial(np.save, arr=features))
    loaded: NDArray[np.float32] = np.load(path)
    return loaded


def distances(images: Pixels, of_data: NDArray[np.float32], network: FeatureNetwork) -> tuple[float, float]:
    """Measure FD and KD of uint8 [N,H,W,3] from the training images."""
    features = features_of_images(images, network)
    mine, theirs = FeatureStatistics.of(features), FeatureStatistics.of(of_data)
    fd = frechet_distance(mine.mean, mine.covariance, theirs.mean, theirs.covariance)
    return fd, kid(features, of_data, subset_size=min(1000, len(features))).value


def told(images: Pixels, of_data: NDArray[np.float32], features: str) -> float:
    """Return the share of scenes, uint8 [N,H,W,3], in which the classifier can tell every object.

    A drawn scene has no labels to be compared with, so the classifier has to be sure of all it says: each of its 24
    outputs is below 0.1 or above 0.9, and one to three, as many as scenes have, are above. An object that is none, or
    half one and half another, leaves an output in between; an empty scene has none above. But a classifier can be sure
    of pure noise, too. So the scene has to look like one: in its features it is as near to a training scene as 99 in
    100 scenes of `new_test`, whose objects never meet in the training.

    With a classifier of `minidiff train classifier --dataset shapes`, so many count at 32x32: of real scenes 99.8%
    (test) and 91.4% (new_test), and every one of them that counts in test is told rightly; with noise of sigma 20 (of
    255) 83%, of sigma 40 12%; of the means of two scenes 19%; of pure noise none, of which the classifier alone is sure
    in 47%; of empty floors none. A right half put on the left half of another scene counts in 77%: cut objects are
    objects.
    """
    network = choose(features)
    unseen = load_data("shapes", image_size=images.shape[1], split="new_test")
    real = nearest(features_of(dataset_source("shapes:new_test", unseen, "shapes"), network), of_data)
    near = nearest(features_of_images(images, network), of_data) <= real.quantile(0.99)
    sure = torch.sigmoid(open_evaluator(features).logits(images))
    yes, no = sure > 1 - SURE, sure < SURE
    count = yes.sum(dim=1)
    return float((near & (yes | no).all(dim=1) & (count >= 1) & (count <= 3)).float().mean())


def nearest(features: NDArray[np.float32], of_data: NDArray[np.float32]) -> Tensor:
    """Return the distance of each image to the nearest of the data, [N]."""
    return torch.cdist(torch.tensor(features), torch.tensor(of_data)).amin(dim=1)


def measured(job: Job, minutes: float, learner: Learner, steps: int, seconds: float, features: str, out: Path) -> Row:
    """Draw, measure, and write a line and a grid."""
    network = choose(features)
    began = time.process_time()
    images = learner.draw(job.task.num, job.seed)
    drawing = time.process_time() - began
    of_data = reference(job.task, network, out)
    fd, kd = distances(images, of_data, network)
    row = job.row(minutes) | {"fd": fd, "kd": kd}
    row |= {"told": told(images, of_data, features)} if job.task.data == "shapes" else {}
    row |= {
        "steps": steps, "images": steps * job.batch, "train_seconds": round(seconds, 2),
        "sample_seconds": round(drawing, 2), "sampler": learner.sampler, "calls": learner.calls,
        "parameters": sum(each.numel() for each in learner.network.parameters() if each.requires_grad),
        "features": network.sha256[:8],
        "versions": versions("diffusers", "smalldiffusion", "denoising_diffusion_pytorch"), "cpu": machine("cpu"),
    }  # fmt: skip
    write_image(picture(out, row), grid(images[:SHOWN], 6))
    add_result(out, row)
    return row


def picture(out: Path, row: Row) -> Path:
    """Return the place of a measurement's grid."""
    rate = "" if row["rate"] is None else f"-lr{row['rate']:.2g}-b{row['batch']}"
    name = f"{row['contender']}-{row['data']}-{row['size']}-s{row['seed']}-{row['minutes']:g}min{rate}-n{row['num']}"
    return out / "grids" / f"{name}-{row['version']}.png"


# --- the results --------------------------------------------------------------------------------------------------

Curve = dict[float, list[float]]  # the values of the seeds, by minutes
METRICS = {"fd": "FD", "kd": "KD", "told": "scenes told"}


@dataclass(frozen=True)
class Line:
    """A line of the table: a contender with one rate and batch."""

    contender: Contender
    rate: float | None
    batch: int
    published: bool
    curve: Curve
    rows: list[Row]

    @property
    def title(self) -> str:
        if self.rate is None:
            return self.contender.title
        how = "published" if self.published else "tuned"
        return f"{self.contender.title}, {how} ({self.rate:.2g}, batch {self.batch})"

    def median(self, minutes: float) -> float | None:
        values = self.curve.get(minutes)
        return statistics.median(values) if values else None


def results_of(rows: Sequence[Row], contender: Contender, rate: float | None, batch: int, task: Task) -> list[Row]:
    """Pick the results of a contender with a rate and a batch. Of one of our presets that has changed, the last."""
    mine = [
        row for row in rows
        if row["contender"] == contender.name
        and (row["data"], row["size"], row["num"]) == (task.data, task.size, task.num)
        and (rate is None or (f"{row['rate']:.4g}", row["batch"]) == (f"{rate:.4g}", batch))
    ]  # fmt: skip
    return [row for row in mine if row["version"] == mine[-1]["version"]]


def lines_of(rows: Sequence[Row], task: Task, searched: Task, metric: str = "fd") -> list[Line]:
    """Gather the results of a task: each contender as published, then with the best rate and batch of the search."""
    found = []
    for contender in CONTENDERS.values():
        for rate, batch in settings_of(contender, rows, searched):
            curve: Curve = {}
            mine = [row for row in results_of(rows, contender, rate, batch, task) if metric in row]
            for row in mine:
                curve.setdefault(row["minutes"], []).append(row[metric])
            published = (rate, batch) == (contender.rate, contender.batch)
            if curve:
                found.append(Line(contender, rate, batch, published, dict(sorted(curve.items())), mine))
    return found


def number(value: float, metric: str) -> str:
    """Write a value."""
    return f"{value:.0%}" if metric == "told" else f"{value:.3g}"


def table_of(lines: Sequence[Line], metric: str = "fd") -> str:
    """Write the median of the seeds, the least and the greatest; below, how ours compare with the best of others."""
    times = sorted({minutes for line in lines for minutes in line.curve})
    text = [f"| {METRICS[metric]} | " + " | ".join(f"{each:g} min" for each in times) + " |",
            "| --- |" + " --- |" * len(times)]  # fmt: skip
    for line in lines:
        cells = []
        for minutes in times:
            values = line.curve.get(minutes, [])
            middle = number(statistics.median(values), metric) if values else ""
            span = f" ({number(min(values), metric)} to {number(max(values), metric)})" if len(values) > 1 else ""
            cells.append(middle + span)
        text.append(f"| {line.title} | " + " | ".join(cells) + " |")
    best = max if metric == "told" else min
    for line in lines:
        cells = []
        for minutes in times:
            others = [other.median(minutes) for other in lines if not other.contender.ours]
            there = [value for value in others if value is not None]
            mine = line.median(minutes)
            cells.append(f"{mine / best(there):.2f}" if there and mine is not None and best(there) else "")
        if line.contender.ours and any(cells):
            text.append(f"| {line.title} / best other package | " + " | ".join(cells) + " |")
    by_name = {line.contender.name: line for line in lines}
    if "minidiff" in by_name and "minidiff-0.1" in by_name:
        pairs = [(by_name["minidiff"].median(each), by_name["minidiff-0.1"].median(each)) for each in times]
        cells = [f"{new / old:.2f}" if new is not None and old else "" for new, old in pairs]
        text.append("| minidiff / minidiff 0.1 | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def costs_of(lines: Sequence[Line]) -> str:
    """Write what each did with its time: the medians over all its results of this task."""
    text = ["| | parameters | a step, s | images a minute | sampler | calls | drawing 1,000 images, s |",
            "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for line in lines:
        mine = line.rows
        step = statistics.median(row["train_seconds"] / row["steps"] for row in mine)
        images = statistics.median(60 * row["images"] / row["train_seconds"] for row in mine)
        drawing = statistics.median(1000 * row["sample_seconds"] / row["num"] for row in mine)
        last = mine[-1]
        text.append(f"| {line.title} | {last['parameters'] / 1e6:.1f}M | {step:.3g} | {images:,.0f} | "
                    f"{last['sampler']} | {last['calls']} | {drawing:,.0f} |")  # fmt: skip
    return "\n".join(text) + "\n"


def search_of(rows: Sequence[Row], searched: Task) -> str:
    """Write what the search for rates found."""
    by_key = {key_of(row): row for row in rows}
    text = [f"| FD after {TUNED_FOR:g} minutes, {TUNED_BY} images | rate, batch: FD | best |", "| --- | --- | --- |"]
    for contender in CONTENDERS.values():
        cells = [f"{job.rate:.2g}, {job.batch}: {by_key[key]['fd']:.4g}" for job in searches(contender, searched)
                 for key in job.names() if key in by_key]  # fmt: skip
        best = tuned(contender, rows, searched)
        if cells:
            said = f"{best[0]:.2g}, {best[1]}" if best else "(not all done)"
            text.append(f"| {contender.title} | {'; '.join(cells)} | {said} |")
    return "\n".join(text) + "\n" if len(text) > 2 else ""


def best_of(lines: Sequence[Line]) -> list[Line]:
    """Pick one line a contender: the tuned one, if there is one."""
    return list({line.contender.name: line for line in lines}.values())


def draw_curves(path: Path, lines: Sequence[Line], metric: str, title: str) -> None:
    """Draw the curves: medians of the seeds, and bands from the least to the greatest. Names stand at their ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    chosen, ends = best_of(lines), []
    for line in lines:
        times = list(line.curve)
        middle = [statistics.median(values) for values in line.curve.values()]
        if line not in chosen:
            axes.plot(times, middle, ":", color=line.contender.colour, lw=1)
            continue
        ours = line.contender.ours
        axes.plot(times, middle, marker="o", ms=5 if ours else 4, lw=2.5 if ours else 1.5, color=line.contender.colour)
        least, most = ([pick(values) for values in line.curve.values()] for pick in (min, max))
        axes.fill_between(times, least, most, color=line.contender.colour, alpha=0.2, lw=0)
        ends.append((middle[-1], times[-1], line.contender))
    axes.set_xscale("log")
    if metric != "told":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    times = sorted({minutes for line in lines for minutes in line.curve})
    axes.set_xticks(times, [f"{each:g}" for each in times])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="minutes of training on one thread (processor time)", ylabel=METRICS[metric], title=title)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()  # so that heights are known in points
    last = None
    for value, at, contender in sorted(ends, key=lambda end: end[0]):
        y = axes.transData.transform((at, value))[1] * 72 / figure.dpi
        height = y if last is None else max(y, last + 11)
        last = height
        axes.annotate(contender.title, (at, value), (8, height - y), textcoords="offset points", va="center",
                      fontsize=9, color=contender.colour, fontweight="bold" if contender.ours else None)  # fmt: skip
    axes.set_xlim(right=max(times, default=1) * (max(times, default=1) / min(times, default=1)) ** 0.35 * 1.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def side_by_side(lines: Sequence[Line], size: int, minutes: Sequence[float], count: int, out: Path) -> Pixels:
    """Put the grids of the first seed beside each other: a row for each contender, a column for each time."""
    cells, names = [], []
    for line in best_of(lines):
        names.append(line.title.replace(", ", "\n", 1).replace(" (", "\n("))
        across = []
        for each in minutes:
            mine = sorted((row for row in line.rows if row["minutes"] == each), key=lambda row: row["seed"])
            path = picture(out, mine[0]) if mine else None
            if path is not None and path.exists():
                across.append(grid(cut(read_image(path), size)[:count], 6))
            else:
                across.append(grid(np.full((count, size, size, 3), 255, np.uint8), 6))
        cells.append(
            np.concatenate([np.pad(each, ((6, 6), (6, 6), (0, 0)), constant_values=255) for each in across], 1)
        )
    whole = np.concatenate(cells)
    labelled = label_rows(whole, names, size=18)
    return name_columns(
        labelled, [f"{each:g} minutes" for each in minutes], left=labelled.shape[1] - whole.shape[1], size=20
    )


# --- the commands -------------------------------------------------------------------------------------------------

Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def numbers(kind: type) -> Callable[..., tuple[Any, ...]]:
    """Read numbers with commas between."""

    def read(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[Any, ...]:
        try:
            found = tuple(kind(word) for word in text.split(","))
        except ValueError:
            raise click.BadParameter(f"'{text}' is not a list of numbers, such as 2,5,15.") from None
        if any(each < 0 for each in found) or (kind is float and 0 in found):
            raise click.BadParameter(f"'{text}' holds a number that is too small.")
        return found

    return read


def options(*chosen: str) -> Option:
    """Add the options that several commands have."""
    known = {
        "data": click.option("--data", default="fashion-mnist", show_default=True, help="fashion-mnist or shapes."),
        "size": click.option("--size", type=click.IntRange(min=16), default=32, show_default=True, help="Pixels."),
        "num": click.option("--num", type=click.IntRange(min=10), default=NUM, show_default=True, help="Images."),
        "out": click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("minutes"),
                            show_default=True),
        "features": click.option("--features", required=True, help="A classifier run on the same data."),
        "metric": click.option("--metric", type=click.Choice(list(METRICS)), default="fd", show_default=True),
        "search": click.option("--search", default="", help="DATA:SIZE where rates were searched. Default: this data."),
        "contenders": click.option("--contenders", default=",".join(CONTENDERS), show_default=True,
                                   help="Which, with commas between."),
    }  # fmt: skip

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(chosen):
            command = known[name](command)
        return command

    return add


def task_of_search(text: str, task: Task) -> Task:
    """Read where rates are looked for."""
    name, _, size = text.partition(":")
    if size and not size.isdigit():
        raise click.BadParameter(f"--search {text} is not DATA:SIZE, such as fashion-mnist:32.")
    return Task(name or task.data, int(size or task.size), task.num)


def demand_packages(names: Iterable[str]) -> None:
    """Stop if a contender's package is not installed."""
    lacking = sorted({package for name in names for package in CONTENDERS[name].missing})
    if lacking:
        raise click.ClickException(f"to run these, install them: pip install {' '.join(lacking)}")


def demand_names(text: str) -> list[str]:
    """Read names of contenders."""
    names = text.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise click.BadParameter(f"unknown contender {unknown[0]}. Known: {', '.join(CONTENDERS)}.")
    return names


@click.group()
def main() -> None:
    """Race minidiff and other packages for the best pictures in the same processor time."""


@main.command()
@click.argument("name", type=click.Choice(list(CONTENDERS)))
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--minutes", default="5", show_default=True, callback=numbers(float), help="With commas between.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Of learning. Default: the published one.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Default: the published one.")
@options("data", "size", "num", "features", "out")
def train(name: str, seed: int, minutes: tuple[float, ...], rate: float | None, batch_size: int | None, data: str,
          size: int, num: int, features: str, out: Path) -> None:  # fmt: skip
    """Train a contender, draw, and measure; what is there already is not done again."""
    demand_packages([name])
    cpu.tune()
    torch.set_num_threads(1)
    (out / "grids").mkdir(parents=True, exist_ok=True)
    contender = CONTENDERS[name]
    if contender.ours and (rate, batch_size) not in ((None, None), (None, contender.batch)):
        raise click.BadParameter(f"{name} is a preset: its rate and its batch are not to be changed.")
    rate, batch = rate or contender.rate, batch_size or contender.batch
    there = {key_of(row) for row in read_results(out)}
    for length in [(each,) for each in minutes] if contender.scheduled else [tuple(sorted(minutes))]:
        job = Job(name, Task(data, size, num), seed, length, rate, batch)
        left = tuple(each for each in length if key_of(job.row(each)) not in there)
        if not left:
            print(f"{name}: {', '.join(f'{each:g}' for each in length)} min is there already")
            continue
        for now, learner, steps, seconds in learn(Job(name, job.task, seed, left, rate, batch)):
            row = measured(job, now, learner, steps, seconds, features, out)
            more = f", {row['told']:.1%} of the scenes told" if "told" in row else ""
            print(f"{name}, {now:g} min: FD {row['fd']:.2f}, KD {row['kd']:.4f}{more}; {steps} steps of {batch} in "
                  f"{seconds:.0f} s, drawn in {row['sample_seconds']:.0f} s ({row['sampler']}, {row['calls']} calls)",
                  flush=True)  # fmt: skip


@main.command("all")
@click.option("--minutes", default="2,5,15", show_default=True, callback=numbers(float))
@click.option("--seeds", default="0,1,2", show_default=True, callback=numbers(int))
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes, a thread each.")
@click.option("--as-published", is_flag=True, help="Do not search for better rates.")
@options("contenders", "search", "data", "size", "num", "features", "out")
def run_all(minutes: tuple[float, ...], seeds: tuple[int, ...], workers: int, as_published: bool, contenders: str,
            search: str, data: str, size: int, num: int, features: str, out: Path) -> None:  # fmt: skip
    """Do all that is missing: one process a training, the first seed and short times of all contenders first."""
    names = demand_names(contenders)
    demand_packages(names)
    task = Task(data, size, num)
    searched = None if as_published else task_of_search(search, task)
    if searched and (searched.data, searched.size) != (data, size):
        rows = read_results(out)
        if open_ := [
            name for name in names if not CONTENDERS[name].ours and not tuned(CONTENDERS[name], rows, searched)
        ]:
            raise click.ClickException(f"the search on {search} is not complete for {', '.join(open_)}. Do it first.")
    (out / "grids").mkdir(parents=True, exist_ok=True)
    (out / "logs").mkdir(exist_ok=True)
    torch.set_num_threads(1)
    reference(task, choose(features), out)  # before there are several who want it
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running: dict[subprocess.Popen[bytes], Job] = {}
    failed: set[Job] = set()
    done = 0
    try:
        while True:
            busy = set(running.values())
            jobs = [job for job in missing(names, task, minutes, seeds, read_results(out), searched)
                    if not failed & same_training(job) and not busy & same_training(job)]  # fmt: skip
            for job in jobs[: workers - len(running)]:
                log = out / "logs" / f"{job.contender}-{job.seed}-{time.time():.0f}-{len(running)}.txt"
                command = [sys.executable, __file__, "train", *job.words(), "--features", features, "--out", str(out)]
                with open(log, "wb") as file:
                    file.write((" ".join(command) + "\n").encode())
                    file.flush()
                    running[subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)] = job
            if not running:
                break
            time.sleep(1)
            for process in [each for each in running if each.poll() is not None]:
                job = running.pop(process)
                done += 1
                if process.returncode:
                    failed |= same_training(job)
                fault = f": ended with code {process.returncode}, see {out}/logs" * bool(process.returncode)
                print(f"{done} done, {len(jobs)} more: {' '.join(job.words())}{fault}", flush=True)
    finally:
        for process in running:
            process.terminate()
    if failed:
        raise click.ClickException(f"{len(failed)} trainings failed. {out}/logs says why.")


def same_training(job: Job) -> set[Job]:
    """Return what stands for a job in a set of jobs, whichever of its times are left."""
    if CONTENDERS[job.contender].scheduled:
        return {job}
    return {Job(job.contender, job.task, job.seed, (), job.rate, job.batch)}


@main.command("calls")
@click.argument("name", type=click.Choice(list(CONTENDERS)))
@click.option("--minutes", default="5", show_default=True, callback=numbers(float))
@click.option("--calls", "counts", default="20,50,100", show_default=True, callback=numbers(int))
@options("data", "size", "num", "features", "out")
def try_calls(name: str, minutes: tuple[float, ...], counts: tuple[int, ...], data: str, size: int, num: int,
              features: str, out: Path) -> None:  # fmt: skip
    """Train once, and draw with several numbers of calls: whether more of them would help a contender."""
    demand_packages([name])
    cpu.tune()
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    contender, network = CONTENDERS[name], choose(features)
    job = Job(name, Task(data, size, num), 0, minutes[:1], contender.rate, contender.other_batch or contender.batch)
    for _, learner, steps, _ in learn(job):
        for count in counts:
            began = time.process_time()
            images = learner.draw(num, 0, count)
            seconds = time.process_time() - began
            fd, kd = distances(images, reference(job.task, network, out), network)
            print(f"{name}, {steps} steps, {count} calls: FD {fd:.2f}, KD {kd:.4f}, {num} images in {seconds:.0f} s",
                  flush=True)  # fmt: skip


@main.command()
@options("metric", "search", "data", "size", "num", "out")
def table(metric: str, search: str, data: str, size: int, num: int, out: Path) -> None:
    """Print the results as Markdown: medians of the seeds, the least and the greatest."""
    rows, task = read_results(out), Task(data, size, num)
    searched = task_of_search(search, task)
    lines = lines_of(rows, task, searched, metric)
    if not lines:
        raise click.ClickException(f"{out} has no {METRICS[metric]} of {data} at {size}x{size} with {num} images.")
    print(table_of(lines, metric))
    print(costs_of(lines))
    print(search_of(rows, searched), end="")


@main.command()
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / "docs" / "pictures" / "minutes.png"
)
@options("metric", "search", "data", "size", "num", "out")
def plot(to: Path, metric: str, search: str, data: str, size: int, num: int, out: Path) -> None:
    """Draw the curves."""
    rows, task = read_results(out), Task(data, size, num)
    lines = lines_of(rows, task, task_of_search(search, task), metric)
    if not lines:
        raise click.ClickException(f"{out} has no {METRICS[metric]} of {data} at {size}x{size} with {num} images.")
    draw_curves(to, lines, metric, f"{data}, {size}x{size}, {num:,} images")
    print(f"written {to}")


@main.command()
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="Default: OUT/grids-DATA-SIZE.png")
@click.option("--minutes", default="2,5,15", show_default=True, callback=numbers(float))
@click.option("--count", type=click.IntRange(1, SHOWN), default=18, show_default=True, help="Images of each.")
@options("search", "data", "size", "num", "out")
def grids(
    to: Path | None, minutes: tuple[float, ...], count: int, search: str, data: str, size: int, num: int, out: Path
) -> None:
    """Put the pictures of all contenders beside each other."""
    rows, task = read_results(out), Task(data, size, num)
    lines = lines_of(rows, task, task_of_search(search, task))
    if not lines:
        raise click.ClickException(f"{out} has no results of {data} at {size}x{size} with {num} images.")
    to = to or out / f"grids-{data}-{size}.png"
    write_image(to, side_by_side(lines, size, minutes, count, out))
    print(f"written {to}")


if __name__ == "__main__":
    main()
