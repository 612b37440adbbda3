"""The plan of a study: which generator holds up on which data, clean and corrupted, all of them measured the same way.

A study is a grid: data sets x corruptions x models. Each of its cells is a model to train, samples to draw, a distance
to measure (`cell`), in a process of its own (`processes`). All that was decided stands in study.json:

    study.json                          the settings, the steps of every model, the names of the cells
    data/fashion-mnist.identity/        what the models of these images share: statistics, features, a grid
    cells/fashion-mnist.identity.ddpm/  run/ (an ordinary run folder), samples.npz, grid.png, result.json
    report.html                         all of it, to be looked at
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minidiff import __version__, checkpoint
from minidiff.data import DATASETS
from minidiff.errors import UserError

STUDY, CELLS, DATA = "study.json", "cells", "data"
RUN, SAMPLES, GRID, RESULT = "run", "samples.npz", "grid.png", "result.json"  # of a cell
REAL, STATISTICS, FEATURES = "real.png", "statistics.npz", "features.npy"  # of data, with a RESULT of the test split

NUM, NUM_CPU = 10_000, 2000  # samples of a cell; a CPU takes minutes for each thousand of a DDPM

# What a study can be asked for, and what it is unless it is asked. The steps are the presets', if not given as --steps
# or as --minutes; which models there are stands in `models`.
SETTINGS: dict[str, Any] = {
    "datasets": None,
    "corruptions": ["identity"],
    "models": None,
    "severity": 3,
    "image_size": 32,
    "num": None,
    "seed": 0,
    "features": "inception",
    "data_dir": None,
    "minutes": None,
    "steps": None,
}


# --- to plan one, or to take it up again ----------------------------------------------------------------------------


def settings_of(folder: Path, asked: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The study of a folder as its study.json says; where there is none yet, that of the options, still to be timed.

    asked: any of SETTINGS, as given by the user; what is not given is as it was. device: cpu, cuda or mps, on which
    the presets depend. Raises UserError where something else is asked than the study is, or something is missing.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    for name in {"features", "data_dir"} & asked.keys():
        if asked[name] != "inception":
            asked[name] = os.path.abspath(os.path.expanduser(asked[name]))
    for name in {"datasets", "corruptions", "models"} & asked.keys():
        asked[name] = list(dict.fromkeys(asked[name]))  # each once
    if (folder / STUDY).exists():
        known = read(folder)
        for name, value in {**asked, "device": device}.items():
            was = known[name]
            if name == "steps":
                value = spelled_out(value, known["models"])
                was = {model: was[model] for model in value}
            if value != was:
                option = name.replace("_", "-")
                raise UserError(
                    f"{folder} is a study with --{option} {worded(was)}, not {worded(value)}. "
                    f"Leave out --{option} to go on with it, or give another --out."
                )
        return known
    checkpoint.check_free(folder)
    for name in ("datasets", "models"):
        if name not in asked:
            raise UserError(f"{folder} is no study yet, and a new one needs --{name}. Add it.")
    if "minutes" in asked and "steps" in asked:
        raise UserError("--minutes and --steps both say how long to train. Leave one of them out.")
    if "steps" in asked:
        asked["steps"] = spelled_out(asked["steps"], asked["models"])
    usual = SETTINGS | {"num": NUM_CPU if device == "cpu" else NUM}
    return {"minidiff": __version__} | usual | asked | {"device": device}


def spelled_out(steps: int | Mapping[str, int], models: Sequence[str]) -> dict[str, int]:
    """The steps of each model that has some: --steps 2000 is of all. Raises UserError for one that is not there."""
    if isinstance(steps, int):
        return dict.fromkeys(models, steps)
    if odd := [model for model in steps if model not in models]:
        raise UserError(f"--steps names {odd[0]}, and the models of this study are {', '.join(models)}. Leave it out.")
    return dict(steps)


def worded(value: Any) -> str:
    """A setting as it is given on the command line."""
    if isinstance(value, dict):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return ",".join(value) if isinstance(value, list) else str(value)


def complete(settings: dict[str, Any], timed: Mapping[str, Any]) -> dict[str, Any]:
    """The study, from its settings and what `timing.measure` found: with the steps of each model, and the cells."""
    steps = {}
    for model in settings["models"]:
        given = (settings["steps"] or {}).get(model)
        if settings["minutes"] is not None:
            given = max(1, math.floor(60 * settings["minutes"] / timed["seconds_per_step"][model]))
        steps[model] = given or timed["steps"][model]
    cells = [f"{data}.{model}" for data in data_names(settings) for model in settings["models"]]
    return {**settings, **timed, "steps": steps, "cells": cells}


def create(folder: Path, study: dict[str, Any]) -> None:
    """The folder of a new study, with its study.json. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}. Choose another --out.") from None
    checkpoint.write_json(folder / STUDY, study)


def read(folder: Path) -> dict[str, Any]:
    """The study.json of a folder. Raises UserError."""
    try:
        study = json.loads((folder / STUDY).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / STUDY} cannot be read ({error}). Give the folder of a study.") from None
    needed = [*SETTINGS, "device", "cells", "seconds_per_step", "seconds_per_sample", "seconds_per_image", "images"]
    lacks = [name for name in needed if name not in study] if isinstance(study, dict) else ["everything"]
    if lacks:
        raise UserError(f"{folder / STUDY} lacks what a study has ({lacks[0]}). Begin it anew in another --out.")
    return study


# --- what it is made of ---------------------------------------------------------------------------------------------


def data_names(settings: Mapping[str, Any]) -> list[str]:
    """DATASET.CORRUPTION for each of both."""
    return [f"{dataset}.{corruption}" for dataset in settings["datasets"] for corruption in settings["corruptions"]]


def data_of(cell: str) -> str:
    """The data of a cell."""
    return cell.rpartition(".")[0]


def cells_of(study: Mapping[str, Any], name: str) -> list[str]:
    """The cells that a cell's name, or that of data, stands for."""
    return [cell for cell in study["cells"] if name in (cell, data_of(cell))]


def home(folder: Path, name: str) -> Path:
    """The folder of a cell, or of data; made if it is not there."""
    place = folder / (CELLS if name.count(".") == 2 else DATA) / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def data_options(study: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What to ask a training, or `load_data`, for, to have the images of a cell or of data."""
    dataset, corruption = name.split(".")[:2]
    asked = {"dataset": dataset, "image_size": study["image_size"]}
    if study["data_dir"]:
        asked["data_dir"] = study["data_dir"]
    if corruption != "identity":
        asked |= {"corruption": corruption, "severity": study["severity"]}
    return asked


def about(study: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What every result.json begins with."""
    parts = dict(zip(("dataset", "corruption", "model"), name.split("."), strict=False))
    return {"cell": name, **parts, "severity": study["severity"]}


# --- how far it is --------------------------------------------------------------------------------------------------


def result(folder: Path, cell: str) -> dict[str, Any] | None:
    """What result.json says of a cell; None while there is none."""
    try:
        found = json.loads((folder / CELLS / cell / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def state(folder: Path, cell: str) -> str:
    """done, failed, begun or new."""
    found = result(folder, cell)
    if found is not None:
        return "failed" if "error" in found else "done"
    return "begun" if (folder / CELLS / cell / RUN / checkpoint.CONFIG).exists() else "new"


def prepared(folder: Path, name: str) -> bool:
    """Whether what the cells of DATASET.CORRUPTION share is there."""
    return (folder / DATA / name / STATISTICS).exists()


def fail(study: Mapping[str, Any], folder: Path, name: str, error: str) -> None:
    """Write down why a cell failed, or why all those did that need the data of this name."""
    said = error if name in study["cells"] else f"its data: {error}"
    for cell in cells_of(study, name):
        if state(folder, cell) == "done":
            continue
        checkpoint.write_json(home(folder, cell) / RESULT, about(study, cell) | {"error": said})


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


def doubts(study: Mapping[str, Any]) -> list[str]:
    """What could mislead in all cells of a study, a line each."""
    if study["features"] != "inception" or study["num"] > INCEPTION:
        return []
    return [
        f"{study['num']:,} samples for Inception's {INCEPTION:,} features: the covariance is singular, and FID says "
        "more about that number than about the images. KID is sound; or take --num 10000, or other --features."
    ]


INCEPTION = 2048
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
    """The distances of a result, with their intervals."""
    return "   ".join(
        f"{one['title']} {one['value']:.4g} ({one['low']:.4g} to {one['high']:.4g})"
        for one in found["metrics"].values()
    )
