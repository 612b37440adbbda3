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

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import torch
from contenders import CONTENDERS
from minutes_measure import SHOWN, distances, learn, measured, reference
from minutes_race import NUM, Job, Task, key_of, missing, read_results, tuned
from minutes_report import METRICS, costs_of, draw_curves, lines_of, search_of, side_by_side, table_of

from minidiff.images.files import write_image
from minidiff.metrics.features import choose
from minidiff.runtime import cpu

ROOT = Path(__file__).resolve().parents[1]


# --- options ------------------------------------------------------------------------------------------------------

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


# --- commands -----------------------------------------------------------------------------------------------------


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
