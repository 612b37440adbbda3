"""What a race consists of: jobs, the file of their results, the search for rates, and what is still missing.

A job is one training of a contender. results.jsonl has a line for each measurement; two of the same `key_of` are the
same. `missing` says what remains to be done, and in which order, so that a study can be stopped at any time. A training
that runs holds a lock, so that several processes can share a study, and a killed one leaves nothing behind.
"""

import json
import math
import os
import sys
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, Contender
from filelock import FileLock, Timeout
from minutes_rates import Row, Step, read_rates, step_of

NUM = 1000  # images drawn
FACTORS = (1, 3, 10)  # of the published rate, where the best is looked for: in a few minutes, none is too high
TUNED_FOR = 5.0  # minutes of the search


# --- jobs ---------------------------------------------------------------------------------------------------------


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

    @property
    def training(self) -> str:
        """Name it, whichever of its times are left."""
        found, task = CONTENDERS[self.contender], self.task
        length = f"-{self.minutes[0]:g}min" if found.scheduled else ""
        rate = "" if self.rate is None else f"-lr{self.rate:.4g}-b{self.batch}"
        return f"{found.name}-{found.version}-{task.data}-{task.size}-s{self.seed}{length}{rate}-n{task.num}"

    @property
    def step(self) -> Step:
        """Return the kind of step that it takes."""
        return step_of(self.row(0))

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

    def left(self, there: Container[str]) -> "Job | None":
        """Return the job with those of its times whose measurements are not `there`; None if all of them are."""
        minutes = tuple(each for each in self.minutes if key_of(self.row(each)) not in there)
        return replace(self, minutes=minutes) if minutes else None

    def words(self) -> list[str]:
        """Return the arguments of `train` that do it."""
        rate = [] if self.rate is None else ["--rate", repr(self.rate)]
        minutes = ",".join(f"{each:g}" for each in self.minutes)
        return [self.contender, "--seed", str(self.seed), "--minutes", minutes, "--batch-size", str(self.batch), *rate,
                "--data", self.task.data, "--size", str(self.task.size), "--num", str(self.task.num)]  # fmt: skip


def jobs_of(
    contender: Contender, task: Task, seed: int, minutes: Iterable[float], rate: float | None, batch: int
) -> list[Job]:
    """List the trainings that draw after these times: one for all of them, or one for each if its rate has a schedule.
    """  # fmt: skip
    lengths = [(each,) for each in minutes] if contender.scheduled else [tuple(sorted(minutes))]
    return [Job(contender.name, task, seed, length, rate, batch) for length in lengths]


# --- the file of results ------------------------------------------------------------------------------------------

KEY = ("contender", "version", "data", "size", "seed", "minutes", "rate", "batch", "num")


def key_of(row: Row) -> str:
    """Name a measurement: two of the same name are the same measurement."""
    numbers = {"minutes": f"{row['minutes']:g}", "rate": None if row["rate"] is None else f"{row['rate']:.4g}"}
    return "|".join(str(numbers.get(name, row[name])) for name in KEY)


def read_results(out: Path) -> list[Row]:
    """Read results.jsonl. Of a measurement that was made twice, the last counts.

    Left out are a line that a kill has cut short, and results of other rates than those of rates.json: they had another
    number of steps.
    """
    path, rates = out / "results.jsonl", read_rates(out)
    rows, others = {}, 0
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            say_once(f"{path}: a line is cut short, and left out: {line[:40]}")
            continue
        if rates.get(step_of(row)) == row["step_seconds"]:
            rows[key_of(row)] = row
        else:
            others += 1
    if others:
        say_once(f"{path}: left out, as the seconds of a step are not those of rates.json: {others}")
    return list(rows.values())


@cache
def say_once(text: str) -> None:
    """Print a line to standard error. `all` reads the results every second, so it would be said as often."""
    print(text, file=sys.stderr)


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


def lock_of(out: Path, job: Job) -> FileLock:
    """Return the lock that a training holds while it runs. It is free once the process has ended, or was killed."""
    folder = out / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / job.training)


def is_running(out: Path, job: Job) -> bool:
    """Say whether a process holds the lock of a training."""
    try:
        with lock_of(out, job).acquire(blocking=False):
            return False
    except Timeout:
        return True


# --- the search for rates -----------------------------------------------------------------------------------------


def searches(contender: Contender, task: Task) -> list[Job]:
    """List the trainings that look for a contender's best rate, and batch: five minutes each, seed 0.

    The published rate and batch, and every other rate with the published batch; with the other batch, if there is one.
    They draw as many images as a race, so they are the race's first seed at five minutes.
    """
    if contender.rate is None:
        return []
    batch = contender.other_batch or contender.batch
    others = [(factor * contender.rate, batch) for factor in FACTORS]
    settings = dict.fromkeys([(contender.rate, contender.batch), *others])  # each once, in this order
    return [Job(contender.name, task, 0, (TUNED_FOR,), rate, size) for rate, size in settings]


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
    """Return the rates and batches that there are results of: the published one, and the best of the search."""
    published = (contender.rate, contender.batch)
    best = tuned(contender, rows, searched)
    return [published] if best in (None, published) else [published, best]


def racing(contender: Contender, rows: Sequence[Row], searched: Task | None) -> list[tuple[float | None, int]]:
    """Return the rate and batch that a contender races with: the best of the search, once it is complete.

    searched None: the published ones. A preset of ours has no rate to search for.
    """
    if searched is None or contender.ours:
        return [(contender.rate, contender.batch)]
    best = tuned(contender, rows, searched)
    return [best] if best else []


# --- what is missing ----------------------------------------------------------------------------------------------


def missing(
    names: Sequence[str], task: Task, minutes: Sequence[float], seeds: Sequence[int], rows: Sequence[Row],
    searched: Task | None,
) -> list[Job]:  # fmt: skip
    """List the trainings that results.jsonl lacks, in the order to do them: the first seed and short times first.

    searched: where the best rates are looked for; None: all race as published. While a contender's search goes on, only
    the search is in the list.
    """
    there = {key_of(row) for row in rows}
    found: list[tuple[tuple[Any, ...], Job]] = []
    for number, name in enumerate(names):
        contender = CONTENDERS[name]
        jobs = searches(contender, searched) if searched else []
        jobs += [
            job for seed in seeds for rate, batch in racing(contender, rows, searched)
            for job in jobs_of(contender, task, seed, minutes, rate, batch)
        ]  # fmt: skip
        for left in dict.fromkeys(filter(None, (job.left(there) for job in jobs))):
            place = (left.seed, left.minutes[0], left.minutes[-1], number)
            found.append((place, left))
    return [job for _, job in sorted(found, key=lambda each: each[0])]
