"""Time becomes steps, once: how many seconds of a quiet thread one training step of each contender takes.

They are measured in one run, in turns, so that what slows the machine down for a while slows all contenders alike.
OUT/rates.json keeps them. After that a minute is a number of steps, and no training looks at a clock: it takes the same
steps on any machine and under any load.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
from common import processor, rounds_of, versions
from contenders import CONTENDERS, Contender, Learner, Setting

from minidiff.files import write_json

TURN = 2.0  # seconds of a contender's turn; a step that takes longer is a turn of its own
PEERS = ("diffusers", "smalldiffusion", "denoising_diffusion_pytorch")  # whose versions are written down

Row = dict[str, Any]  # a line of results.jsonl, or an entry of rates.json


class Step(NamedTuple):
    """A kind of training step: what its time depends on."""

    contender: str
    version: str
    data: str
    size: int
    batch: int

    def __str__(self) -> str:
        return f"{self.contender}, batch {self.batch}, {self.data} at {self.size}x{self.size}"


def steps_in(minutes: float, step_seconds: float) -> int:
    """Return the number of training steps that comes nearest to so many minutes, at least 1."""
    return max(1, round(60 * minutes / step_seconds))


def step_of(row: Row) -> Step:
    """Return the kind of step that a row is about."""
    return Step(*(row[name] for name in Step._fields))


def steps_of(contender: Contender, places: Iterable[tuple[str, int]]) -> list[Step]:
    """List the kinds of step that a contender takes: each of its batches on each (data, size)."""
    return [Step(contender.name, contender.version, *place, batch) for place in places for batch in contender.batches]


# --- the file -----------------------------------------------------------------------------------------------------


def read_rates(out: Path) -> dict[Step, float]:
    """Read the seconds of each kind of step from rates.json. Without that file there are none."""
    path = out / "rates.json"
    entries = json.loads(path.read_text())["steps"] if path.exists() else []
    return {step_of(entry): entry["step_seconds"] for entry in entries}


def demand_rates(out: Path, steps: Iterable[Step]) -> dict[Step, float]:
    """Read rates.json. Stops if it lacks one of these kinds of step."""
    rates = read_rates(out)
    if lacking := [step for step in steps if step not in rates]:
        raise click.ClickException(f"{out / 'rates.json'} does not say how long a step takes: "
                                   f"{'; '.join(map(str, lacking))}. Run `rates` first.")  # fmt: skip
    return rates


# --- measure ------------------------------------------------------------------------------------------------------


def measure(steps: Sequence[Step], rounds: int) -> list[list[float]]:
    """Measure the processor seconds of each kind of step, round by round: all of them have a turn in every round."""

    def turn(step: Step, learner: Learner) -> float:
        count, gone, began = 0, 0.0, time.process_time()
        while gone < TURN:
            learner.step()
            count, gone = count + 1, time.process_time() - began
        print(f"{step}: {gone / count:.4g} s", flush=True)
        return gone / count

    turns: dict[str, Callable[[], float]] = {}
    for step in steps:
        contender = CONTENDERS[step.contender]
        learner = contender.make(Setting(step.data, step.size, 0, contender.rate, step.batch, steps=10**6))
        learner.step()  # this one does not count: memory is taken, and convolutions are prepared
        print(f"{step}: ready", flush=True)
        turns[str(step)] = partial(turn, step, learner)
    return list(rounds_of(turns, rounds).values())


def add_rates(out: Path, steps: Sequence[Step], rounds: int, anew: bool) -> list[Row]:
    """Measure the kinds of step that rates.json lacks, and write them there. Returns its entries for all of `steps`.

    Seconds of two processors cannot be compared, so one file is one processor's. anew: forget what the file has.
    """
    path, here = out / "rates.json", processor()
    found = json.loads(path.read_text()) if path.exists() and not anew else {}
    if found and found["cpu"] != here:
        raise click.ClickException(f"{path} was measured on {found['cpu']}, and this is {here}. Choose another --out, "
                                   "or pass --anew: then the results so far no longer count.")  # fmt: skip
    entries: list[Row] = found.get("steps", [])
    there = {step_of(entry) for entry in entries}
    if lacking := [step for step in steps if step not in there]:
        about = {"threads": 1, "versions": versions(*PEERS), "date": date.today().isoformat()}
        for step, times in zip(lacking, measure(lacking, rounds), strict=True):
            seconds = {"step_seconds": statistics.median(times), "rounds": times}
            entries.append(step._asdict() | seconds | about)
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"cpu": here, "steps": entries})
    return [entry for entry in entries if step_of(entry) in steps]


def rates_table(entries: Iterable[Row]) -> str:
    """Write the rates as Markdown: the median of the rounds, the least and the greatest."""
    text = ["| | data | batch | a step, s | steps a minute |", "| --- | --- | --- | --- | --- |"]
    for entry in entries:
        seconds, times = entry["step_seconds"], entry["rounds"]
        text.append(f"| {CONTENDERS[entry['contender']].title} | {entry['data']} {entry['size']} | {entry['batch']} | "
                    f"{seconds:.4g} ({min(times):.4g} to {max(times):.4g}) | {60 / seconds:.4g} |")  # fmt: skip
    return "\n".join(text) + "\n"
