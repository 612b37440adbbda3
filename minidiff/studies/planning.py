"""How a study is planned, continued or enlarged: from a request to a complete study.

decide() compares the request with the study in the folder; foresee() says what will be missing; complete() adds the
times, and from them the steps of each model. Rests on study (the folder) and config (the records).
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from minidiff._version import __version__
from minidiff.classifier.knowledge import knowledge_of
from minidiff.data.config import called
from minidiff.data.datasets import DATASETS
from minidiff.errors import UserError, listed
from minidiff.gan.config import GAMES
from minidiff.metrics import features, inception_weights
from minidiff.networks.gan import levels
from minidiff.runs import folder as run_folder
from minidiff.runs.shipped import find_run, is_name
from minidiff.studies import config
from minidiff.studies.config import DataDir, Draft, Settings, Steps, Study, StudyRequest, Times, as_typed
from minidiff.studies.study import STUDY, check_names, read_study

GRID_NAMES = ("datasets", "corruptions", "models")


def decide(folder: Path, request: StudyRequest, usual_device: str) -> Study | Draft:
    """Return the study of the folder, or a draft of a new study or of a larger one.

    A study grows if a list names all entries that it has, and new ones, or by more seeds. usual_device: cpu, cuda or
    mps, for a new study that does not ask for one. Raise UserError if the request contradicts the study, or if a new
    study lacks something.
    """
    request = with_whole_paths(request)
    if (folder / STUDY).exists():
        return take_up(folder, request)
    run_folder.check_free(folder)
    if request.datasets is None or request.models is None:
        missing = "models" if request.datasets else "datasets"
        raise UserError(f"{folder} is not a study yet, and a new one needs `{missing}`. Add it.")
    if request.minutes is not None and request.steps is not None:
        raise UserError("`minutes` and `steps` both say how long to train. Leave one of them out.")
    check_places(request.data_dir, request.datasets)
    device = request.device or usual_device
    settings = Settings(
        minidiff=__version__,
        datasets=request.datasets,
        corruptions=request.corruptions or config.CORRUPTIONS,
        models=request.models,
        severity=config.SEVERITY if request.severity is None else request.severity,
        image_size=config.IMAGE_SIZE if request.image_size is None else request.image_size,
        num=request.num or (config.NUM_CPU if device == "cpu" else config.NUM),
        seed=config.SEED if request.seed is None else request.seed,
        seeds=1 if request.seeds is None else request.seeds,
        features=request.features or config.FEATURES,
        data_dir=request.data_dir,
        minutes=request.minutes,
        steps=None if request.steps is None else steps_of_each(request.steps, request.models),
        device=device,
    )
    check_names(settings)
    return Draft(settings)


def with_whole_paths(request: StudyRequest) -> StudyRequest:
    """Make paths absolute, keep each entry of a list once, and drop the number of a device."""
    places = request.data_dir
    if isinstance(places, dict):
        places = {name: absolute(place) for name, place in places.items()}
    elif places is not None:
        places = absolute(places)
    network = place_of_features(request.features)
    device = request.device.split(":")[0] if request.device else None
    return replace(
        request,
        datasets=each_once(request.datasets),
        corruptions=each_once(request.corruptions),
        models=each_once(request.models),
        data_dir=places,
        features=network,
        device=device,
    )


def each_once(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Leave out names that are repeated."""
    return tuple(dict.fromkeys(names)) if names else None


def take_up(folder: Path, request: StudyRequest) -> Study | Draft:
    """Return the study of the folder, or a draft that adds the new names to it.

    Raise UserError if the request is for another study, or leaves out something that this one has.
    """
    known = read_study(folder)
    if not isinstance(known, Study):
        raise UserError(
            f"{folder} is a study of priors. Go on with it by `minidiff compare-priors`, or give another `out`."
        )
    grown: dict[str, Any] = {
        name: (*getattr(known, name), *(new for new in asked if new not in getattr(known, name)))
        for name in GRID_NAMES
        if (asked := getattr(request, name)) and set(asked) > set(getattr(known, name))
    }
    if request.seeds is not None and request.seeds > known.seeds:
        grown["seeds"] = request.seeds
    study = settings_of(known, **grown)
    check_names(study)
    steps = None if request.steps is None else steps_of_each(request.steps, study.models)
    if steps is not None:
        study = replace(study, steps=steps | known.steps)
    if isinstance(request.data_dir, dict):
        had = {dataset: place for dataset in known.datasets if (place := known.folder_of(dataset))}
        more = {dataset: place for dataset, place in request.data_dir.items() if dataset not in known.datasets}
        study = replace(study, data_dir=more | had)
    check_places(study.data_dir, study.datasets)
    for asked_field in fields(request):
        name = asked_field.name
        asked = steps if name == "steps" else getattr(request, name)
        if asked is not None and not agrees(name, asked, getattr(study, name)):
            raise UserError(contradiction(folder, name, asked, getattr(known, name)))
    return Draft(study, known) if grown else known


def settings_of(study: Settings, **changed: Any) -> Settings:
    """Return the settings of a study alone, with some of them changed."""
    return Settings(**{one.name: getattr(study, one.name) for one in fields(Settings)} | changed)


def agrees(name: str, asked: object, had: object) -> bool:
    """Say whether a requested setting agrees with the study's.

    Lists can be in any order. If each model or data set has a value, only the requested ones are compared.
    """
    if name in GRID_NAMES and isinstance(asked, tuple) and isinstance(had, tuple):
        return set(asked) == set(had)
    if isinstance(asked, dict):
        had = had if isinstance(had, dict) else {}
        return all(had.get(key) == value for key, value in asked.items())
    return bool(asked == had)


def contradiction(folder: Path, name: str, asked: object, had: object) -> str:
    """Make the error for a setting that contradicts the study; it names both values."""
    if isinstance(asked, dict) and isinstance(had, dict):
        had = {key: had[key] for key in asked if key in had}
    has = f"without `{name}`, not with" if had is None or had == {} else f"with `{name}` {as_typed(had)}, not"
    grows = name in GRID_NAMES and isinstance(asked, tuple) and isinstance(had, tuple) and not set(asked) < set(had)
    add = ", name what it has, too, to add to it" * grows
    return (
        f"{folder} is a study {has} {as_typed(asked)}. Leave out `{name}` to go on with it{add}, or give another `out`."
    )


def check_places(where: DataDir | None, datasets: Sequence[str]) -> None:
    """Raise UserError if `data_dir` would give the user's photos to other data sets, too, or names one not there."""
    if isinstance(where, str) and "folder" in datasets and len(datasets) > 1:
        raise UserError(f"`data_dir` is for {' and '.join(datasets)} alike. Give folder={where} for yours alone.")
    if isinstance(where, Mapping) and (odd := [name for name in where if name not in datasets]):
        raise UserError(f"`data_dir` names {odd[0]}, and the data sets are {', '.join(datasets)}. Leave it out.")


def absolute(place: str) -> str:
    """Make a path absolute, so that the study can go on from any folder."""
    return os.path.abspath(os.path.expanduser(place))


def place_of_features(features: str | None) -> str | None:
    """Make the path of a classifier absolute. The name of a feature network is no path, and stays."""
    named = features is None or features == "inception" or is_name(features, classifier=True)
    return features if named else absolute(str(features))


def steps_of_each(steps: Steps, models: Sequence[str]) -> dict[str, int]:
    """Return the steps of each model that has some; one number is for all. Raise UserError for an unknown model."""
    if isinstance(steps, int):
        return dict.fromkeys(models, steps)
    if odd := [model for model in steps if model not in models]:
        raise UserError(f"`steps` names {odd[0]}, and the models of this study are {', '.join(models)}. Leave it out.")
    return dict(steps)


# --- what will be missing -------------------------------------------------------------------------------------------


def foresee(settings: Settings) -> list[str]:
    """List the data sets that must be downloaded, before anything is timed or trained.

    Raise UserError for images, an image size or a feature network that is not to be had.
    """
    downloads = []
    for dataset in settings.datasets:
        entry, where = DATASETS[dataset], settings.folder_of(dataset)
        if entry.present(Path(where) if where else None):
            continue
        if "download" not in entry.origin:
            raise UserError(
                f"the data set '{dataset}' is not in {where}. Give another `data_dir` {dataset}=PATH."
                if where
                else f"the data set '{dataset}' needs `data_dir` {dataset}=PATH, the folder with its files."
            )
        downloads.append(f"{dataset} is not on this machine: {entry.origin}.")
    if any(model in GAMES for model in settings.models):
        levels(settings.image_size)
    if settings.features == "inception":
        inception_weights.find_weights(instead="give a classifier run as `features`")
    else:
        features.choose(settings.features)
    return downloads


# --- from a draft to a study ----------------------------------------------------------------------------------------


def complete(draft: Draft, times: Times | None) -> Study:
    """Add to a draft the steps of each model and the cells. The values of the study before it grew stay.

    times: of the models that were not timed yet; None if there are none.
    """
    settings, known = draft.settings, draft.known
    first = known or times
    assert first is not None
    of_step = {**(known.seconds_per_step if known else {}), **(times.seconds_per_step if times else {})}
    of_sample = {**(known.seconds_per_sample if known else {}), **(times.seconds_per_sample if times else {})}
    steps = {}
    for model in settings.models:
        asked = (settings.steps or {}).get(model)
        if asked is None and settings.minutes is not None:
            asked = max(1, math.floor(60 * settings.minutes / of_step[model]))
        preset = times.steps.get(model, 0) if times else 0
        steps[model] = asked or preset
    network = (known and known.network) or (times and times.network) or None
    values = {one.name: getattr(settings, one.name) for one in fields(Settings)} | {"steps": steps}
    return Study(
        **values,
        seconds_per_step=of_step,
        seconds_per_sample=of_sample,
        seconds_per_image=first.seconds_per_image,
        images=first.images,
        cells=config.cells_of_grid(settings),
        network=network,
        doubts=tuple(doubts(settings, network.dims)) if network else known.doubts if known else (),
    )


def doubts(settings: Settings, dims: int) -> list[str]:
    """List what could make all distances of a study mislead. dims: features of the network."""
    found = of_other_data(settings)
    if settings.num <= dims:
        name = "FID" if settings.features == "inception" else "FD(classifier)"
        found.append(
            f"{settings.num:,} samples for the {dims:,} features of the network: the covariance is singular, and "
            f"{name} says more about that number than about the images. {name.replace('F', 'K', 1)} is sound; or draw "
            "more."
        )
    return found


def of_other_data(settings: Settings) -> list[str]:
    """Say which data sets the classifier of a study was not trained on, if it is still where it was."""
    if settings.features == "inception" or not Path(find_run(settings.features, True), run_folder.CONFIG).exists():
        return []
    mine = knowledge_of(settings.features).data
    named = [called(dataset, settings.folder_of(dataset)) for dataset in settings.datasets]
    others = [name for name in named if name != mine]
    said = f"{settings.features} was trained on {mine}, not on {listed(others)}"
    return [f"{said}: its features need not tell such images apart."] * bool(others)
