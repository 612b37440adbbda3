"""How far a study is, cell by cell, how long the rest of it takes, and what it found, in words.

Rests on study, whose folder this is, and on results, which reads what the cells have left there.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidiff.data.datasets import DATASETS
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.studies import results
from minidiff.studies.study import DATA, RESULT, STATISTICS, about, cells_of, data_names, data_of, home


def result(folder: Path, cell: str) -> dict[str, Any] | None:
    """What result.json says of a cell; None while there is none. A damaged one says so, as an error."""
    data, _, model = cell.rpartition(".")
    return results.read_cell(folder, cell, data, model).result or None


def state(folder: Path, cell: str) -> str:
    """done, failed, begun or new."""
    data, _, model = cell.rpartition(".")
    return results.read_cell(folder, cell, data, model).state


def prepared(folder: Path, name: str) -> bool:
    """Whether what the cells of DATASET.CORRUPTION share is there."""
    return (folder / DATA / name / STATISTICS).exists()


def fail(study: Mapping[str, Any], folder: Path, name: str, error: str) -> bool:
    """Write down why a cell failed, or why all those did that need the data of this name. Whether that could be done:
    where a disk is full it is only said, and the study goes on with the other cells."""
    said = error if name in study["cells"] else f"its data: {error}"
    try:
        for cell in cells_of(study, name):
            if state(folder, cell) != "done":
                write_json(home(folder, cell) / RESULT, about(study, cell) | {"error": said})
    except (OSError, UserError):
        return False
    return True


# --- how long it takes ----------------------------------------------------------------------------------------------

PREVIEWS = 4 * 36  # samples that a training draws to look at


def seconds(study: Mapping[str, Any], name: str) -> float:
    """How long a cell should take, or the data of this name."""
    if name in study["cells"]:
        model = name.split(".")[2]
        trained = study["steps"][model] * study["seconds_per_step"][model]
        drawn = (study["num"] + PREVIEWS) * study["seconds_per_sample"][model]
        return trained + drawn + study["num"] * study["seconds_per_image"]
    dataset = name.split(".")[0]
    count = DATASETS[dataset].splits["train"] or study["images"]
    return (count + min(count, 10_000) + study["num"]) * study["seconds_per_image"]


def remaining(study: Mapping[str, Any], folder: Path, cells: Sequence[str]) -> float:
    """Seconds for these cells and the data they lack, one after the other, from the beginning of each."""
    lacking = dict.fromkeys(data_of(cell) for cell in cells if not prepared(folder, data_of(cell)))
    return sum(seconds(study, name) for name in [*lacking, *cells])


def in_words(seconds: float) -> str:
    """A time, as precisely as such an estimate is worth."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def describe(study: Mapping[str, Any], folder: Path, todo: Sequence[str]) -> list[str]:
    """A few lines about a study, and how long what is still to do takes at most."""
    counts = [len(study[name]) for name in ("datasets", "corruptions", "models")]
    grid = " x ".join(f"{n} {what}{'s' * (n > 1)}" for n, what in zip(counts, GRID_OF, strict=True))
    size, done = study["image_size"], len(study["cells"]) - len(todo)
    lines = [
        f"study     {grid}: {len(study['cells'])} cell{'s' * (len(study['cells']) > 1)}, {size}x{size} pixels, "
        f"severity {study['severity']}, seed {study['seed']}, on {study['device']}",
        f"measured  {study['num']:,} samples of each against all training images, in {study['features']}",
    ]
    for model, steps in study["steps"].items():
        a_step = study["seconds_per_step"][model]
        lines.append(f"{model:9} {steps:,} steps of {a_step:.3g} s: {in_words(steps * a_step)} for each cell")
    if not todo:
        return [*lines, "time      nothing is left to do"]
    still = f"the {len(todo)} that are left" if done else "all of them"
    return [*lines, f"time      about {in_words(remaining(study, folder, todo))} for {still}, one at a time"]


GRID_OF = ("data set", "corruption", "model")


def timetable(study: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """A line for each thing that a study does: how long it should take, from its beginning; and how far it is."""
    width = max(len(cell) for cell in study["cells"])
    for data in data_names(study):
        there = "done" if prepared(folder, data) else "new"
        yield f"{data:{width}}  {in_words(seconds(study, data)):>10}  {there} (real images, which its cells share)"
        for cell in cells_of(study, data):
            yield f"{cell:{width}}  {in_words(seconds(study, cell)):>10}  {state(folder, cell)}"


def table(study: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """A line for each cell: what was measured, or what became of it."""
    width = max(len(cell) for cell in study["cells"])
    for cell in study["cells"]:
        found = result(folder, cell)
        if found is None:
            yield f"{cell:{width}}  {'trained in part' if state(folder, cell) == 'begun' else 'not done'}"
        elif "error" in found:
            yield f"{cell:{width}}  failed: {found['error']}"
        else:
            yield f"{cell:{width}}  {distances_in_words(found)}"


def distances_in_words(found: Mapping[str, Any]) -> str:
    """The distances of a result, with their intervals; and what is wrong with its samples, each to its first stop."""
    told = [f"{one.get('title', name)} {one['value']:.4g}" + interval(one) for name, one in found["metrics"].items()]
    return "   ".join([*told, *(f"BUT {line.partition('. ')[0].rstrip('.')}" for line in found.get("warnings", []))])


def interval(one: Mapping[str, Any]) -> str:
    return f" ({one['low']:.4g} to {one['high']:.4g})" if None not in (one.get("low"), one.get("high")) else ""
