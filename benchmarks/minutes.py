"""How good are the pictures after so many minutes of one thread? Every contender learns for the same processor time.

python benchmarks/minutes.py rates [--on fashion-mnist:32] [--out OUT]
python benchmarks/minutes.py train minidiff --minutes 5 --features CLASSIFIER [--data fashion-mnist] [--out OUT]
python benchmarks/minutes.py all --minutes 2,5,15 --seeds 0,1,2 --workers 2 --features CLASSIFIER
python benchmarks/minutes.py table | plot | grids

`rates` comes first, on a quiet machine: it measures how many seconds of one thread a training step of each contender
takes, all of them in turns, and writes OUT/rates.json. From then on a minute is a number of steps. No training looks at
a clock, so it takes the same steps on any machine and under any load: a study can go on for days, beside other work,
and on several machines, if each gets a copy of rates.json. Building, drawing and measuring are free.

CLASSIFIER is the run folder of `minidiff train classifier` on the same data. contenders.py says who races, and by which
recipe. Each draws 1,000 images after its time; their distance from the training images is measured in the classifier's
features (FD, KD), and on scenes the share that the classifier can tell (see `told`). OUT gets results.jsonl, a line a
measurement, and a grid of each. What is there is not done again, so a study that was stopped, or killed, goes on.

A contender whose rate of learning is constant trains once, and draws on the way after each of the times asked for. One
whose rate follows a schedule trains anew for each.

Here are the commands. minutes_rates.py turns time into steps, minutes_race.py says what is to be done,
minutes_measure.py does it, and minutes_report.py shows what came out.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch
from contenders import CONTENDERS
from minutes_measure import SHOWN, distances, learn, measured, reference, told
from minutes_race import NUM, Job, Task, is_running, jobs_of, key_of, lock_of, missing, read_results, say_once, tuned
from minutes_rates import add_rates, demand_rates, rates_table, steps_of
from minutes_report import METRICS, costs_of, draw_curves, lines_of, search_of, side_by_side, table_of

from minidiff.images.files import write_image
from minidiff.metrics.features import choose
from minidiff.runtime import cpu

ROOT = Path(__file__).resolve().parents[1]
RACE = ROOT / "benchmarks" / "race"  # the study in progress


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
        "out": click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RACE,
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


def place(text: str) -> tuple[str, int]:
    """Read DATA:SIZE."""
    data, _, size = text.partition(":")
    if not data or not size.isdigit():
        raise click.BadParameter(f"'{text}' is not DATA:SIZE, such as fashion-mnist:32.")
    return data, int(size)


def task_of_search(text: str, task: Task) -> Task:
    """Read where rates are looked for."""
    return Task(*place(text), task.num) if text else task


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


def use_one_thread() -> None:
    """Let this process compute as every measurement here does: on one thread, keeping its memory."""
    cpu.tune()
    torch.set_num_threads(1)


@main.command()
@click.option("--on", default="fashion-mnist:32", show_default=True, help="DATA:SIZE, several with commas between.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Turns of each contender.")
@click.option("--anew", is_flag=True, help="Forget the rates so far. Results that used them no longer count.")
@options("contenders", "out")
def rates(on: str, rounds: int, anew: bool, contenders: str, out: Path) -> None:
    """Measure how long a training step of each contender takes; what is there already is not done again."""
    names, places = demand_names(contenders), [place(text) for text in on.split(",")]
    demand_packages(names)
    use_one_thread()
    steps = dict.fromkeys(step for name in names for step in steps_of(CONTENDERS[name], places))  # each once
    print(rates_table(add_rates(out, list(steps), rounds, anew)))


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
    contender, task = CONTENDERS[name], Task(data, size, num)
    if contender.ours and rate is not None:
        raise click.BadParameter(f"{name} is a preset: its rate is not to be changed.")
    if batch_size not in (None, *contender.batches):
        raise click.BadParameter(f"{name} races with batches of {' and '.join(map(str, contender.batches))}.")
    rate, batch = rate or contender.rate, batch_size or contender.batch
    jobs = jobs_of(contender, task, seed, minutes, rate, batch)
    found = demand_rates(out, [job.step for job in jobs])
    use_one_thread()
    (out / "grids").mkdir(parents=True, exist_ok=True)
    for job in jobs:
        with lock_of(out, job):  # another process may do the same; then this one waits, and finds it there
            left = job.left({key_of(row) for row in read_results(out)})
            if left is None:
                print(f"{name}: {', '.join(f'{each:g}' for each in job.minutes)} min is there already")
                continue
            for begun, learner in learn(left, found[job.step]):
                row = measured(job, begun, learner, features, out)
                more = f", {row['told']:.1%} of the scenes told" if "told" in row else ""
                print(f"{name}, {row['minutes']:g} min: FD {row['fd']:.2f}, KD {row['kd']:.4f}{more}; {row['steps']} "
                      f"steps of {batch}, drawn in {row['sample_seconds']:.0f} s ({row['sampler']}, {row['calls']} "
                      "calls)", flush=True)  # fmt: skip


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
    steps = [step for name in names for step in steps_of(CONTENDERS[name], [(data, size)])]
    demand_rates(out, steps)
    searched = None if as_published else task_of_search(search, task)
    if searched and (searched.data, searched.size) != (data, size):
        rows = read_results(out)
        if open_ := [
            name for name in names if not CONTENDERS[name].ours and not tuned(CONTENDERS[name], rows, searched)
        ]:
            raise click.ClickException(f"the search on {search} is not complete for {', '.join(open_)}. Do it first.")
    (out / "logs").mkdir(exist_ok=True)
    torch.set_num_threads(1)
    reference(task, choose(features), out)  # before there are several who want it
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running: dict[subprocess.Popen[bytes], Job] = {}
    failed: set[str] = set()
    done = 0
    try:
        while True:
            busy = {job.training for job in running.values()}
            jobs = [job for job in missing(names, task, minutes, seeds, read_results(out), searched)
                    if job.training not in failed | busy]  # fmt: skip
            free = (job for job in jobs if not is_running(out, job))  # not by another `all`, nor left from a killed one
            for job in islice(free, workers - len(running)):
                log = out / "logs" / f"{job.training}-{time.time():.0f}.txt"
                command = [sys.executable, __file__, "train", *job.words(), "--features", features, "--out", str(out)]
                with open(log, "wb") as file:
                    file.write((" ".join(command) + "\n").encode())
                    file.flush()
                    running[subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)] = job
            if not running and not jobs:
                break
            if not running:
                say_once("what is left, other processes are at. Waiting for them")
            time.sleep(10)
            for process in [each for each in running if each.poll() is not None]:
                job = running.pop(process)
                done += 1
                if process.returncode:
                    failed.add(job.training)
                fault = f": ended with code {process.returncode}, see {out}/logs" * bool(process.returncode)
                print(f"{done} done, {len(jobs)} more: {' '.join(job.words())}{fault}", flush=True)
    finally:
        for process in running:
            process.terminate()
    if failed:
        raise click.ClickException(f"{len(failed)} trainings failed. {out}/logs says why.")


@main.command("calls")
@click.argument("name", type=click.Choice(list(CONTENDERS)))
@click.option("--minutes", default="5", show_default=True, callback=numbers(float))
@click.option("--calls", "counts", default="20,50,100", show_default=True, callback=numbers(int))
@options("data", "size", "num", "features", "out")
def try_calls(name: str, minutes: tuple[float, ...], counts: tuple[int, ...], data: str, size: int, num: int,
              features: str, out: Path) -> None:  # fmt: skip
    """Train once, and draw with several numbers of calls: whether more of them would help a contender."""
    demand_packages([name])
    contender, network = CONTENDERS[name], choose(features)
    job = Job(name, Task(data, size, num), 0, minutes[:1], contender.rate, contender.batches[-1])
    found = demand_rates(out, [job.step])
    use_one_thread()
    of_data = reference(job.task, network, out)
    for begun, learner in learn(job, found[job.step]):
        for count in counts:
            began = time.process_time()
            images = learner.draw(num, 0, count)
            seconds = time.process_time() - began
            fd, kd = distances(images, of_data, network)
            more = f", {told(images, of_data, features):.1%} of the scenes told" if data == "shapes" else ""
            print(f"{name}, {begun['steps']} steps, {count} calls: FD {fd:.2f}, KD {kd:.4f}{more}, {num} images in "
                  f"{seconds:.0f} s", flush=True)  # fmt: skip


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
