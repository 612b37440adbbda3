"""The plan of a study: which generator holds up on which data, clean and corrupted, all of them measured the same way.

A study is a grid: data sets x corruptions x models. Each of its cells is a model to train, samples to draw, a distance
to measure (`cell`), in a process of its own (`processes`); how far all of them are, says `progress`. Rests on models.
All that was decided stands in study.json:

    study.json                          the settings, the steps of every model, the names of the cells
    data/fashion-mnist.identity/        what the models of these images share: statistics, features, a grid
    cells/fashion-mnist.identity.ddpm/  run/ (an ordinary run folder), samples.npz, grid.png, result.json
    report.html                         all of it, to be looked at
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minidiff._version import __version__
from minidiff.data.corruptions import CORRUPTIONS
from minidiff.data.datasets import DATASETS
from minidiff.errors import UserError
from minidiff.files import read_json, write_json
from minidiff.gan.config import GAMES
from minidiff.metrics import features, inception_weights
from minidiff.networks.gan import levels
from minidiff.runs import folder as checkpoint
from minidiff.studies.models import MODELS, folder_of

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
    """The study of a folder as its study.json says; where there is none yet, that of the options, to be completed.

    asked: any of SETTINGS and `device`, as given by the user; what is not given is as it was. device: cpu, cuda or mps,
    on which the presets depend, of a new study. A study that grows, by names that are asked for beside all that it has,
    has no `cells`: that, too, is for `complete`. Raises UserError where something else is asked than the study is, or
    something is missing.
    """
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked.get("features", "inception") != "inception":
        asked["features"] = absolute(asked["features"])
    if (where := asked.get("data_dir")) is not None:
        asked["data_dir"] = {k: absolute(v) for k, v in where.items()} if isinstance(where, dict) else absolute(where)
    for name in NAMES & asked.keys():
        asked[name] = list(dict.fromkeys(asked[name]))  # each once
    if (folder / STUDY).exists():
        return taken_up(folder, asked)
    checkpoint.check_free(folder)
    for name in ("datasets", "models"):
        if name not in asked:
            raise UserError(f"{folder} is no study yet, and a new one needs --{name}. Add it.")
    if "minutes" in asked and "steps" in asked:
        raise UserError("--minutes and --steps both say how long to train. Leave one of them out.")
    if "steps" in asked:
        asked["steps"] = spelled_out(asked["steps"], asked["models"])
    check_places(asked.get("data_dir"), asked["datasets"])
    device = asked.get("device", device)
    usual = SETTINGS | {"num": NUM_CPU if device == "cpu" else NUM}
    return {"minidiff": __version__} | usual | {"device": device} | asked


def taken_up(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The study of a folder, with the names that it lacks of those that are asked for. Raises UserError where what is
    asked for is another study, or less of this one."""
    known = read(folder)
    study = dict(known)
    for name in NAMES & asked.keys():
        if set(asked[name]) > set(known[name]):
            study[name] = known[name] + [new for new in asked[name] if new not in known[name]]
            study.pop("cells", None)
    if "steps" in asked:
        asked["steps"] = spelled_out(asked["steps"], study["models"])
        study["steps"] = asked["steps"] | known["steps"]
    if isinstance(asked.get("data_dir"), dict):
        had = {dataset: place for dataset in known["datasets"] if (place := folder_of(known, dataset))}
        study["data_dir"] = {d: p for d, p in asked["data_dir"].items() if d not in known["datasets"]} | had
    check_places(study["data_dir"], study["datasets"])
    for name, value in asked.items():
        if not is_same(value, study[name], name):
            option, was = name.replace("_", "-"), known[name]
            if isinstance(value, dict) and isinstance(was, dict):
                was = {key: was[key] for key in value if key in was}
            had_it = f"without --{option}, not with" if was in (None, {}) else f"with --{option} {worded(was)}, not"
            grow = ", name those, too, to add to it" if name in NAMES and not set(value) < set(was) else ""
            raise UserError(
                f"{folder} is a study {had_it} {worded(value)}. "
                f"Leave out --{option} to go on with it{grow}, or give another --out."
            )
    return study


NAMES = {"datasets", "corruptions", "models"}


def is_same(value: Any, had: Any, name: str) -> bool:
    """Whether a setting that is asked for is the one that a study has: names in any order, and of what each model or
    data set has its own as much as is asked."""
    if name in NAMES:
        return set(value) == set(had)
    if isinstance(value, dict):
        return all((had or {}).get(key) == of_it for key, of_it in value.items())
    return bool(value == had)


def check_places(where: str | Mapping[str, str] | None, datasets: Sequence[str]) -> None:
    """Raises UserError where --data-dir gives the user's photos to other data sets, too, or names one not there."""
    if isinstance(where, str) and "folder" in datasets and len(datasets) > 1:
        raise UserError(f"--data-dir is for {' and '.join(datasets)} alike. Write --data-dir folder={where} for yours.")
    if isinstance(where, Mapping) and (odd := [name for name in where if name not in datasets]):
        raise UserError(f"--data-dir names {odd[0]}, and the data sets are {', '.join(datasets)}. Leave it out.")


def absolute(place: str) -> str:
    return os.path.abspath(os.path.expanduser(place))


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


def untimed(settings: Mapping[str, Any]) -> list[str]:
    """The models of which it is not known how long a step takes: all of a new study, the new ones of one that grows."""
    return [model for model in settings["models"] if model not in settings.get("seconds_per_step", {})]


def complete(settings: Mapping[str, Any], timed: Mapping[str, Any]) -> dict[str, Any]:
    """The study, from its settings and what `timing.take_times` found of the models that were `untimed`: with the steps
    of each model, and the cells. What a study that grows knew before stays as it was."""
    study = {**timed, **settings}
    for name in ("seconds_per_step", "seconds_per_sample"):
        study[name] = {**settings.get(name, {}), **timed.get(name, {})}
    study["steps"] = {}
    for model in settings["models"]:
        steps = (settings["steps"] or {}).get(model)
        if steps is None and settings["minutes"] is not None:
            steps = max(1, math.floor(60 * settings["minutes"] / study["seconds_per_step"][model]))
        study["steps"][model] = steps or timed["steps"][model]
    study["cells"] = cells_in(settings)
    return study | {"doubts": doubts(study)}


def doubts(study: Mapping[str, Any]) -> list[str]:
    """What could mislead in all cells of a study, a line each."""
    dims, name = study["network"]["dims"], "FID" if study["features"] == "inception" else "FD(classifier)"
    if study["num"] > dims:
        return []
    return [
        f"{study['num']:,} samples for the {dims:,} features of the network: the covariance is singular, and {name} "
        f"says more about that number than about the images. {name.replace('F', 'K', 1)} is sound; or take --num 10000."
    ]


def foresee(settings: Mapping[str, Any]) -> list[str]:
    """What a new study will want and does not have, as far as it can be known before anything is timed or trained: a
    line for each data set that must be downloaded. Raises UserError for what cannot be had at all."""
    found = []
    for dataset in settings["datasets"]:
        source, where = DATASETS[dataset], folder_of(settings, dataset)
        if source.present(Path(where) if where else None):
            continue
        if "--data-dir" in source.origin:
            raise UserError(
                f"the data set '{dataset}' is not in {where}. Give another --data-dir {dataset}=PATH."
                if where
                else f"the data set '{dataset}' needs --data-dir {dataset}=PATH, the folder where it lies."
            )
        found.append(f"{dataset} is not on this machine: {source.origin}.")
    if any(model in GAMES for model in settings["models"]):
        levels(settings["image_size"])
    if settings["features"] == "inception":
        inception_weights.find_weights(instead="give a classifier: --features RUN")
    else:
        features.choose(settings["features"])
    return found


def create(folder: Path, study: dict[str, Any]) -> None:
    """The folder of a new study, with its study.json. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}. Choose another --out.") from None
    write_json(folder / STUDY, study)


def read(folder: Path) -> dict[str, Any]:
    """The study.json of a folder. Raises UserError."""
    study = read_json(folder / STUDY, mend="Give the folder of a study.")
    try:
        check(study)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is damaged ({error})"
        raise UserError(f"{folder / STUDY} {what}. Mend it, or begin the study anew in another --out.") from None
    return study


def check(study: Mapping[str, Any]) -> None:
    """Raises one of several errors unless this is all that a study.json holds, and can be worked with."""
    for name, table in (("datasets", [*DATASETS]), ("corruptions", [*CORRUPTIONS]), ("models", [*MODELS])):
        if not isinstance(study[name], list) or not study[name] or any(entry not in table for entry in study[name]):
            raise ValueError(f"{name} cannot be {study[name]}")
    for name, low, high in WHOLE:
        if type(study[name]) is not int or not low <= study[name] <= high:
            raise ValueError(f"{name} cannot be {study[name]}")
    for name in ("steps", "seconds_per_step", "seconds_per_sample"):
        if not all(study[name][model] > 0 for model in study["models"]):
            raise ValueError(f"{name} cannot be {study[name]}")
    if not study["seconds_per_image"] > 0:
        raise ValueError(f"seconds_per_image cannot be {study['seconds_per_image']}")
    if study["cells"] != cells_in(study):
        raise ValueError("cells are not those of its data sets, corruptions and models")
    where = study["data_dir"]
    texts = [study["features"], study["device"], *(where.values() if isinstance(where, dict) else [where or ""])]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("features, device and data_dir are texts")
    if not isinstance(study["minutes"], (int, float, type(None))):
        raise ValueError(f"minutes cannot be {study['minutes']}")


WHOLE = (
    ("severity", 1, 5), ("image_size", 8, 1024), ("num", 2, 10**9), ("seed", 0, 2**63), ("images", 1, 10**12)
)  # fmt: skip


# --- what it is made of ---------------------------------------------------------------------------------------------


def data_names(settings: Mapping[str, Any]) -> list[str]:
    """DATASET.CORRUPTION for each of both."""
    return [f"{dataset}.{corruption}" for dataset in settings["datasets"] for corruption in settings["corruptions"]]


def cells_in(settings: Mapping[str, Any]) -> list[str]:
    """DATASET.CORRUPTION.MODEL for each of the three."""
    return [f"{data}.{model}" for data in data_names(settings) for model in settings["models"]]


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


def about(study: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What every result.json begins with."""
    parts = dict(zip(("dataset", "corruption", "model"), name.split("."), strict=False))
    return {"cell": name, **parts, "severity": study["severity"]}
