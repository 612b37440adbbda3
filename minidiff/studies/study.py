"""The folder of a study: its files, and study.json, which says what was decided.

A study is a grid of data sets x corruptions x models. In each of its cells a model is trained, samples are drawn, and
their distance to the data is measured (`cell`), in a process of its own (`processes`). Rests on config.

    study.json                          the settings, the steps of every model, the names of the cells
    data/fashion-mnist.identity/        what the models of these images share: statistics, features, a grid
    cells/fashion-mnist.identity.ddpm/  run/ (an ordinary run folder), samples.npz, grid.png, result.json
    report.html                         all of it, to look at
"""

from pathlib import Path

from minidiff.data.corruptions import CORRUPTIONS
from minidiff.data.datasets import DATASETS
from minidiff.errors import UserError, lookup
from minidiff.files import read_json, write_json
from minidiff.records import from_json, to_json
from minidiff.studies.config import Planned, Settings, Study
from minidiff.studies.models import MODELS
from minidiff.studies.prior_config import PriorStudy

STUDY, CELLS, DATA = "study.json", "cells", "data"
RUN, SAMPLES, GRID, RESULT = "run", "samples.npz", "grid.png", "result.json"  # of a cell
REAL, STATISTICS, FEATURES = "real.png", "statistics.npz", "features.npy"  # of data, with a RESULT of the test split


def folder_of(folder: Path, name: str) -> Path:
    """Return the folder of a cell or of data, and make it if it is not there."""
    place = folder / (CELLS if name.count(".") == 2 else DATA) / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def keep_study(folder: Path, study: Planned) -> None:
    """Write study.json, and make its folder, unless the same file is there already. Raise UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}. Choose another `out`.") from None
    if not (folder / STUDY).exists() or read_study(folder) != study:
        write_json(folder / STUDY, to_json(study))


def read_study(folder: Path) -> Planned:
    """Read the study.json of a folder: a `Study`, or a `PriorStudy`.

    Raise UserError if it is missing or damaged, or names something unknown.
    """
    stored = read_json(folder / STUDY, mend="Give the folder of a study.")
    try:
        if stored.get("kind") == PriorStudy.kind:
            return from_json(PriorStudy, stored, folder / STUDY)
        study = from_json(Study, stored, folder / STUDY)
        check_names(study)
    except UserError as error:
        where = "" if str(error).startswith(str(folder)) else f"{folder / STUDY}: "
        raise UserError(f"{where}{error} Mend it, or begin the study anew in another `out`.") from None
    return study


def check_names(settings: Settings) -> None:
    """Raise UserError for a data set, corruption or model that does not exist, and for an empty list of them."""
    for name in settings.datasets:
        lookup("data set", name, DATASETS)
    for name in settings.corruptions:
        lookup("corruption", name, CORRUPTIONS)
    for name in settings.models:
        lookup("model", name, MODELS)
    if not (settings.datasets and settings.corruptions and settings.models):
        raise UserError("a study needs a data set, a corruption and a model.")
