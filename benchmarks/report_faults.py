"""A report's faults side by side: values in the wrong range, raw weights, and 30 samples against 30 images.

A report trained a DDPM, measured FID every 3,000 steps, and found the first measurement the best
(docs/systems/ddpm-with-a-prior.md). Here the same network is trained twice from the same seed, on FashionMNIST. One
training has its images in [-1, 1]. The other computes 2x - 1 of these once more, as the report's code did, so it learns
values in [-3, 1]; its chains hold the predicted image in [-1, 1], and its samples become pictures as (x + 1) / 2, cut
to [0, 1], as in that code. At each of several steps both draw, with the averaged weights and with the raw ones. Each
time the distance is measured twice, in the features of a classifier: of all samples from all training images, and of 30
from 30.

The second is repeated with many random subsets, for its mean and its deviation. A subset at each step makes a curve
such as the report's: the last column says in how many of these curves the first measurement is the lowest. Of curves
without any trend it is one in as many as there are steps.

    python benchmarks/report_faults.py --steps 3000 --num 2000 --out runs/report-faults   # goes on where it was killed

The rate of the preset falls to 0 at the last step. What was measured is kept in OUT/results.jsonl, and the features of
the samples beside it, so other subsets need no new samples. Prints a Markdown table.
"""

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from minutes_measure import distances, features_of_images, reference
from minutes_race import Task, add_result
from numpy.typing import NDArray
from torch import Tensor, nn

from minidiff import load_data
from minidiff.ddpm.config import DdpmRequest
from minidiff.ddpm.job import DdpmJob, plan
from minidiff.ddpm.run import load_ddpm
from minidiff.files import write_atomically
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.metrics.features import FeatureNetwork, choose
from minidiff.networks.weights import load_exactly
from minidiff.rng import Draws
from minidiff.runs.folder import CONFIG, MODEL, read_tensors, save_model
from minidiff.runtime import cpu
from minidiff.studies.measuring import evenly
from minidiff.training.config import TrainConfig
from minidiff.training.loop import Trainer
from minidiff.training.resume import resume

SIZE, SHOWN, AT_ONCE = 32, 64, 64  # pixels a side; samples of a picture; samples at a time
SAMPLER, CALLS = "dpm++sde", 20
WEIGHTS = ("averaged", "raw")
REAL = "test images"


class WrongRange(DdpmJob):
    """The training of a DDPM on images that are brought to [-1, 1] twice: it sees values in [-3, 1]."""

    def build(self, training: TrainConfig, device: torch.device) -> Trainer:
        trainer = super().build(training, device)
        right = trainer.loss

        def loss(model: nn.Module, x0: Tensor, labels: Tensor, draws: Draws) -> Tensor:
            return right(model, 2 * x0 - 1, labels, draws)

        trainer.loss = loss
        return trainer


RANGES: dict[str, type[DdpmJob]] = {"[-1, 1]": DdpmJob, "[-3, 1]": WrongRange}


# --- train and draw -------------------------------------------------------------------------------------------------


def train(kind: type[DdpmJob], request: DdpmRequest, moments: list[int], at: Path) -> None:
    """Train, or go on with the training that is there. Keep both kinds of weights of each moment in at/STEP/KIND."""
    assert request.out is not None
    if all((place_of(at, step, weights) / MODEL).exists() for step in moments for weights in WEIGHTS):
        return
    if Path(request.out, CONFIG).exists():
        job = resume(kind, request.out)
    else:
        planned = plan(request)
        job = kind(planned.config, planned.data, planned.device, planned.out)

    def keep(step: int) -> None:
        if step in moments:
            for weights, network in zip(WEIGHTS, (job.trainer.ema, job.trainer.model), strict=True):
                place_of(at, step, weights).mkdir(parents=True, exist_ok=True)
                save_model(place_of(at, step, weights), network.state_dict())

    keep(job.trainer.step)  # a kill may have come between a checkpoint and these
    for record in job.steps():
        keep(record.step)


def place_of(at: Path, step: int, weights: str) -> Path:
    """Return where the weights of a moment are kept."""
    return at / str(step) / weights


def draw(run_folder: Path, weights: Path, num: int, seed: int) -> Pixels:
    """Draw uint8 [num,H,W,3] with these weights: sample k begins with the same noise each time."""
    run = load_ddpm(run_folder)
    load_exactly(run.model, read_tensors(weights / MODEL), weights)
    batches = run.sample(num, seed=seed, batch_size=AT_ONCE, sampler=SAMPLER, steps=CALLS)
    return np.concatenate([to_uint8(batch) for batch in batches])  # (x + 1) / 2, cut to [0, 1]


# --- measure --------------------------------------------------------------------------------------------------------


def few_against_few(
    made: NDArray[np.float32], real: NDArray[np.float32], few: int, times: int, seed: int
) -> NDArray[np.float64]:
    """Measure FD of `few` random rows of features [N,d] from `few` of others [M,d], again and again: [times].

    Their covariances are X'X / (few - 1) with the centred rows X [few,d], likewise of Y. The trace of the root of their
    product is the sum of the singular values of X Y' / (few - 1): a matrix of few x few says it all.
    """
    random, found = np.random.default_rng(seed), np.empty(times)
    for k in range(times):
        x, y = (rows[random.choice(len(rows), few, replace=False)].astype(np.float64) for rows in (made, real))
        means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        roots = np.linalg.svd(x @ y.T, compute_uv=False).sum()
        found[k] = means + (np.square(x).sum() + np.square(y).sum() - 2 * roots) / (few - 1)
    return found


def first_is_lowest(curves: NDArray[np.float64]) -> float:
    """Return in which share of curves [steps,times] the first measurement is the lowest."""
    return float((curves.argmin(axis=0) == 0).mean())


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Read results.jsonl, without a line that a kill has cut short."""
    path, rows = out / "results.jsonl", []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            click.echo(f"{path}: a line is cut short, and measured again", err=True)
    return rows


class Measuring:
    """What is measured, and what was: a line of results.jsonl and a file of features for each set of images."""

    def __init__(self, out: Path, task: Task, network: FeatureNetwork) -> None:
        self.out, self.task, self.network = out, task, network
        self.of_data = reference(task, network, out)
        self.known = read_rows(out)

    def place(self, key: dict[str, Any]) -> Path:
        """Return where the features of a set lie. A picture of it lies beside them."""
        words = [str(value) for value in key.values()]
        name = "-".join(words).translate({ord(mark): None for mark in "[], "})
        return self.out / "features" / f"{name}.npy"

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """Return the line of a set that was measured."""
        if not self.place(key).exists():
            return None
        return next((row for row in reversed(self.known) if key.items() <= row.items()), None)

    def measure(self, key: dict[str, Any], images: Pixels, seconds: float) -> dict[str, Any]:
        """Measure images, and keep their features, a picture of some, and a line."""
        place = self.place(key)
        features = features_of_images(images, self.network)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, partial(np.save, arr=features))
        write_image(place.with_suffix(".png"), grid(images[:SHOWN]))
        fd, kd = distances(images, self.of_data, self.network)
        row = key | {"fd": fd, "kd": kd, "sample_seconds": round(seconds, 1)}
        add_result(self.out, row)
        click.echo(f"{' '.join(str(value) for value in key.values())}: FD {fd:.2f}", err=True)
        return row

    def curve(self, keys: list[dict[str, Any]], few: int, times: int) -> NDArray[np.float64]:
        """Return the distances of few from few after each step, [steps,times], each with subsets of its own."""
        return np.stack([few_against_few(np.load(self.place(key)), self.of_data, few, times, seed=number)
                         for number, key in enumerate(keys)])  # fmt: skip


def table(measuring: Measuring, groups: dict[str, list[dict[str, Any]]], few: int, times: int) -> Iterator[str]:
    """Lay out what was measured. groups: the keys of each curve, and of the real images."""
    num = measuring.task.num
    yield f"| values, weights | step | FD, {num:,} samples | KD | FD, {few} against {few} | first is lowest |"
    yield "| --- " * 6 + "|"
    for name, keys in groups.items():
        curves = measuring.curve(keys, few, times)
        for number, (key, found) in enumerate(zip(keys, curves, strict=True)):
            row = measuring.find(key)
            assert row is not None
            lowest = f"{first_is_lowest(curves):.0%} of {times:,}" if number == 0 and len(keys) > 1 else ""
            step = f"{key['step']:,}" if len(keys) > 1 or key["images"] != REAL else ""
            yield (f"| {name} | {step} | {row['fd']:.2f} | {row['kd']:.4f} | "
                   f"{found.mean():.1f} ± {found.std():.1f} | {lowest} |")  # fmt: skip


@click.command()
@click.option("--dataset", default="fashion-mnist", show_default=True)
@click.option("--steps", default=3000, show_default=True, help="Of each of the two trainings.")
@click.option("--every", type=int, help="Steps between measurements. Default: a fifth of them.")
@click.option("--num", default=2000, show_default=True, help="Samples of each measurement.")
@click.option("--few", default=30, show_default=True, help="Samples, and real images, of a measurement of few.")
@click.option("--times", default=1000, show_default=True, help="Random subsets for each of these.")
@click.option("--features", default=str(Path(__file__).with_name("race") / "classifier"), help="A classifier's run.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/report-faults"), show_default=True)
def main(
    dataset: str, steps: int, every: int | None, num: int, few: int, times: int, features: str, seed: int, threads: int,
    out: Path,
) -> None:  # fmt: skip
    cpu.tune()
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    every = every or max(1, steps // 5)
    moments = [*range(every, steps, every), steps]
    network = choose(features)
    task = Task(dataset, SIZE, num)
    measuring = Measuring(out, task, network)
    common = {"data": dataset, "steps": steps, "every": every, "seed": seed, "num": num, "features": network.sha256[:8]}

    real = {"images": REAL, "weights": "", "step": 0, "data": dataset, "num": num, "features": network.sha256[:8]}
    if measuring.find(real) is None:
        test = load_data(dataset, image_size=SIZE, split="test")
        measuring.known.append(measuring.measure(real, test.rgb(evenly(len(test), num)), 0.0))
    groups: dict[str, list[dict[str, Any]]] = {}
    for values, kind in RANGES.items():
        folder = out / "runs" / f"{dataset}{values.replace(', ', '..')}-{steps}-every{every}-s{seed}"
        request = DdpmRequest(dataset=dataset, image_size=SIZE, preset="cpu", steps=steps, save_every=every, seed=seed,
                              out=folder / "run", device="cpu")  # fmt: skip
        train(kind, request, moments, folder / "at")
        for weights in WEIGHTS:
            keys = [{"images": values, "weights": weights, "step": step} | common for step in moments]
            groups[f"{values}, {weights}"] = keys
            for key in keys:
                if measuring.find(key) is None:
                    began = time.perf_counter()
                    images = draw(folder / "run", place_of(folder / "at", key["step"], weights), num, seed)
                    measuring.known.append(measuring.measure(key, images, time.perf_counter() - began))
    for line in table(measuring, groups | {REAL: [real]}, few, times):
        click.echo(line)


if __name__ == "__main__":
    main()
