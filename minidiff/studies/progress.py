"""How far a study is, cell by cell, how long the rest takes, and what was measured, in words.

Rests on study (the folder) and results (which reads the files of the cells).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from minidiff.data.datasets import DATASETS
from minidiff.errors import UserError, counted
from minidiff.files import write_json
from minidiff.records import to_json
from minidiff.studies.config import Planned, Study, data_of, model_of, seed_of
from minidiff.studies.results import CellFailure, CellResult, Figure, read_result, read_state
from minidiff.studies.study import DATA, RESULT, STATISTICS, folder_of


def is_prepared(folder: Path, name: str) -> bool:
    """Say whether the data that the cells of DATASET.CORRUPTION share are prepared."""
    return (folder / DATA / name / STATISTICS).exists()


def unfinished(folder: Path, study: Planned, retry: bool) -> list[str]:
    """List the cells that are still to run, in order. retry: include the ones that failed."""
    over = ("done",) if retry else ("done", "failed")
    return [cell for cell in study.cells if read_state(folder, cell) not in over]


def write_failure(study: Planned, folder: Path, name: str, error: str) -> bool:
    """Store why a cell failed, or all cells that need the data of this name. Return whether that was possible.

    If the disk is full, the failure is only printed, and the study goes on with the other cells.
    """
    line = error if name in study.cells else f"its data: {error}"
    try:
        for cell in study.cells_with(name):
            if read_state(folder, cell) != "done":
                dataset, corruption = data_of(cell).split(".")
                failure = CellFailure(line, cell, dataset, corruption, model_of(cell), study.severity)
                write_json(folder_of(folder, cell) / RESULT, to_json(failure))
    except (OSError, UserError):
        return False
    return True


# --- how long it takes ----------------------------------------------------------------------------------------------

PREVIEWS = 4 * 36  # samples that a training draws for its pictures


def expected_seconds(study: Study, name: str) -> float:
    """Return how long a cell should take, or the data of this name."""
    if name in study.cells:
        model = model_of(name)
        trained = study.steps[model] * study.seconds_per_step[model]
        drawn = (study.num + PREVIEWS) * study.seconds_per_sample[model]
        return trained + drawn + study.num * study.seconds_per_image
    dataset = name.split(".")[0]
    count = DATASETS[dataset].splits["train"] or study.images
    return (count + min(count, 10_000) + study.num) * study.seconds_per_image


def remaining_seconds(study: Study, folder: Path, cells: Sequence[str]) -> float:
    """Return the seconds for these cells and the data they lack, one after the other, each from its beginning."""
    lacking = dict.fromkeys(data_of(cell) for cell in cells if not is_prepared(folder, data_of(cell)))
    return sum(expected_seconds(study, name) for name in [*lacking, *cells])


class Clock:
    """Say how much time the rest of a study takes: by its forecast, and by how long its finished parts really took."""

    def __init__(self, study: Study, folder: Path, at_once: int = 1, now: Callable[[], float] = time.monotonic) -> None:
        self.study, self.folder, self.at_once, self.now = study, folder, at_once, now
        self.began: dict[str, float] = {}  # what runs
        self.took = self.expected = 0.0  # seconds, of what is done

    def note(self, name: str, state: str) -> str | None:
        """Take note that a cell, or data, has begun or ended. After an end, return how long the rest takes, in words.

        It is None when nothing is left.
        """
        if state == "begun":
            self.began[name] = self.now()
            return None
        took = self.now() - self.began.pop(name, self.now())
        if state == "done":
            self.took, self.expected = self.took + took, self.expected + expected_seconds(self.study, name)
        left = unfinished(self.folder, self.study, retry=False)
        if not left:
            return None
        seconds = remaining_seconds(self.study, self.folder, left)
        seconds *= self.took / self.expected if self.expected else 1  # the forecast knows no start of a process
        seconds -= sum(self.now() - begun for begun in self.began.values())
        seconds /= min(self.at_once, len(left))
        return f"about {duration(max(0.0, seconds))} for {counted(len(left), 'cell')}"


def duration(seconds: float) -> str:
    """Write a time as precisely as an estimate deserves."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def describe(study: Study, folder: Path, todo: Sequence[str], at_once: int = 1) -> list[str]:
    """Describe a study in a few lines, and say how long the rest of it takes, with `at_once` cells at a time."""
    counts = [len(study.datasets), len(study.corruptions), len(study.models)]
    grid = " x ".join(counted(n, what) for n, what in zip(counts, GRID_OF, strict=True))
    grid += f" x {study.seeds} seeds" * (study.seeds > 1)
    seed = f"seed {study.seed}" if study.seeds == 1 else f"seeds {study.seed} to {seed_of(study, study.cells[-1])}"
    size, done = study.image_size, len(study.cells) - len(todo)
    lines = [
        f"study     {grid}: {counted(len(study.cells), 'cell')}, {size}x{size} pixels, "
        f"severity {study.severity}, {seed}, on {study.device}",
        f"measured  {study.num:,} samples of each against all training images, in {study.features}",
    ]
    for model, steps in study.steps.items():
        a_step = study.seconds_per_step[model]
        lines.append(f"{model:9} {steps:,} steps of {a_step:.3g} s: {duration(steps * a_step)} for each cell")
    if not todo:
        return [*lines, "time      nothing is left to do"]
    still = "all of them" if not done else f"the {len(todo)} that are left" if len(todo) > 1 else "the one that is left"
    at_once = min(at_once, len(todo))
    about = duration(remaining_seconds(study, folder, todo) / at_once)
    return [*lines, f"time      about {about} for {still}, {'one' if at_once == 1 else at_once} at a time"]


GRID_OF = ("data set", "corruption", "model")


def timetable(study: Study, folder: Path) -> Iterator[str]:
    """Yield a line for each part of a study: how long it should take in all, and how far it is."""
    width = max(len(cell) for cell in study.cells)
    for data in study.data:
        there = "done" if is_prepared(folder, data) else "new"
        takes = duration(expected_seconds(study, data))
        yield f"{data:{width}}  {takes:>10}  {there} (real images, which its cells share)"
        for cell in study.cells_with(data):
            yield f"{cell:{width}}  {duration(expected_seconds(study, cell)):>10}  {read_state(folder, cell)}"


def table(study: Planned, folder: Path) -> Iterator[str]:
    """Yield a line for each cell: its distances, or its state."""
    width = max(len(cell) for cell in study.cells)
    for cell in study.cells:
        result = read_result(folder, cell)
        if result is None:
            yield f"{cell:{width}}  {'trained in part' if read_state(folder, cell) == 'begun' else 'not done'}"
        elif isinstance(result, CellFailure):
            yield f"{cell:{width}}  failed: {result.error}"
        else:
            yield f"{cell:{width}}  {distances_in_words(result)}"


def distances_in_words(result: CellResult) -> str:
    """Write the distances of a result with their intervals, and the first sentence of each of its warnings."""
    figures = [f"{one.title or name} {one.value:.4g}{interval(one)}" for name, one in result.metrics.items()]
    return "   ".join([*figures, *(f"BUT {line.partition('. ')[0].rstrip('.')}" for line in result.warnings)])


def interval(one: Figure) -> str:
    """Write the interval of a figure, if there is one."""
    return "" if one.low is None or one.high is None else f" ({one.low:.4g} to {one.high:.4g})"
