"""How a study of priors is planned, continued or enlarged: from a request to a study. Rests on planning.

Nothing is timed here, see prior_timing. A study grows by nets, uses and seeds, and keeps what it has.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from minidiff._version import __version__
from minidiff.data.datasets import DATASETS
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.errors import UserError, listed, lookup
from minidiff.metrics import features
from minidiff.networks.dip import DIP_NETS
from minidiff.priors.config import NOISE, check_noise
from minidiff.priors.loss import check_side
from minidiff.priors.presets import DIP_PRIOR_PRESETS
from minidiff.runs import folder as run_folder
from minidiff.studies import config
from minidiff.studies.config import cells_of
from minidiff.studies.planning import absolute, agrees, contradiction, doubts, each_once, foresee, place_of_features
from minidiff.studies.prior_config import (
    ALONE,
    MEASUREMENTS,
    NETS,
    SEEDS,
    USES,
    PriorRequest,
    PriorStudy,
    models_of,
)
from minidiff.studies.study import STUDY, read_study
from minidiff.training.presets import default_preset

GROWS = ("nets", "uses")


def plan_priors(folder: Path, request: PriorRequest, usual_device: str) -> PriorStudy:
    """Return the study of the folder, a new one, or one that has grown. Write nothing.

    Raise UserError if the request contradicts the study, or if something that a new one needs is not to be had.
    """
    request = replace(
        request,
        nets=each_once(request.nets),
        uses=each_once(request.uses),
        data_dir=absolute(request.data_dir) if request.data_dir is not None else None,
        features=place_of_features(request.features),
        device=request.device.split(":")[0] if request.device else None,
    )
    for net in request.nets or ():
        lookup("net", net, DIP_NETS)
    for use in request.uses or ():
        lookup("use of a prior", use, dict.fromkeys(USES))
    if (folder / STUDY).exists():
        return take_up(folder, request)
    run_folder.check_free(folder)
    if request.dataset is None:
        raise UserError(f"{folder} is not a study yet, and a new one needs `dataset`. Add it.")
    lookup("data set", request.dataset, DATASETS)
    return new_study(request, request.dataset, request.device or usual_device)


def new_study(request: PriorRequest, dataset: str, device: str) -> PriorStudy:
    """Plan a new study. Raise UserError for images, a size, a net or a feature network that is not to be had."""
    nets, uses = request.nets or NETS, request.uses or USES
    size = config.IMAGE_SIZE if request.image_size is None else request.image_size
    noise = NOISE if request.noise is None else request.noise
    check_noise(noise)
    preset = default_preset(device)
    steps = request.steps or DDPM_PRESETS[preset].training.steps
    every = request.measure_every or max(1, steps // MEASUREMENTS)
    if every > steps:
        raise UserError(f"`measure_every` is {every:,}, and there are {steps:,} `steps`. Give at most as many.")
    in_features = request.features or config.FEATURES
    if request.fid and in_features == "inception":
        raise UserError(
            "`fid` adds Inception to the features of a classifier, and these are Inception's. Leave it out."
        )
    seeds = SEEDS if request.seeds is None else request.seeds
    study = PriorStudy(
        minidiff=__version__,
        datasets=(dataset,),
        corruptions=("identity",),
        models=models_of(nets, uses),
        severity=config.SEVERITY,
        image_size=size,
        num=request.num or (config.NUM_CPU if device == "cpu" else config.NUM),
        seed=config.SEED if request.seed is None else request.seed,
        features=in_features,
        data_dir=request.data_dir,
        minutes=None,
        steps=steps_of(nets, uses, steps, request.prior_steps or DIP_PRIOR_PRESETS[preset].training.steps),
        device=device,
        seeds=seeds,
        cells=cells_of([f"{dataset}.identity"], models_of(nets, uses), seeds),
        nets=nets,
        uses=uses,
        noise=noise,
        measure_every=every,
        fid=bool(request.fid),
    )
    for net in nets:
        check_side(net, size)
    foresee(study)
    network = features.choose(study.features)
    if study.fid:
        features.choose("inception")
    said = tuple(doubts(study, network.dims))
    return replace(study, network=network.identity, doubts=said)


def steps_of(nets: tuple[str, ...], uses: tuple[str, ...], steps: int, prior_steps: int) -> dict[str, int]:
    """Return the steps of each model."""
    return {model: prior_steps if model.startswith(f"{ALONE}-") else steps for model in models_of(nets, uses)}


def take_up(folder: Path, request: PriorRequest) -> PriorStudy:
    """Return the study of the folder, or one that has grown by the new names and seeds. Raise UserError."""
    known = read_study(folder)
    if not isinstance(known, PriorStudy):
        raise UserError(f"{folder} is a study of `minidiff compare`. Go on with it there, or give another `out`.")
    had: dict[str, Any] = {
        **{name: getattr(known, name) for name in ("nets", "uses", "noise", "measure_every", "num", "seed", "seeds",
                                                   "image_size", "features", "fid", "data_dir", "device")},
        "dataset": known.datasets[0],
        "steps": known.steps["plain"],
        "prior_steps": known.steps[f"{ALONE}-{known.nets[0]}"],
    }  # fmt: skip
    now: dict[str, Any] = dict(had)
    for name in GROWS:
        asked = getattr(request, name)
        if asked and set(asked) > set(had[name]):
            now[name] = (*had[name], *(new for new in asked if new not in had[name]))
    if request.seeds is not None and request.seeds > known.seeds:
        now["seeds"] = request.seeds
    for one in fields(request):
        asked = getattr(request, one.name)
        same = (
            set(asked) == set(now[one.name]) if one.name in GROWS and asked else agrees(one.name, asked, now[one.name])
        )
        if asked is not None and not same:
            raise UserError(contradiction(folder, one.name, asked, had[one.name]))
    models = models_of(now["nets"], now["uses"])
    if now == had and known.models == models:  # an older study grows by the controls that it lacks
        return known
    for net in now["nets"]:
        check_side(net, known.image_size)
    steps = steps_of(now["nets"], now["uses"], had["steps"], had["prior_steps"])
    cells = cells_of(known.data, models, now["seeds"])
    return replace(
        known, nets=now["nets"], uses=now["uses"], models=models, steps=steps, seeds=now["seeds"], cells=cells
    )


def describe(study: PriorStudy, todo: int) -> list[str]:
    """Describe a study of priors in a few lines."""
    last, per_seed = study.moments[-1], len(study.cells) // study.seeds
    trainings = [cell for cell in study.cells[:per_seed] if study.source_of(cell) == cell]
    first = f"seed {study.seed}" if study.seeds == 1 else f"seeds {study.seed} to {study.seed + study.seeds - 1}"
    return [
        f"study     {study.datasets[0]}, {study.image_size}x{study.image_size} pixels, {listed(study.uses)} with "
        f"{listed(study.nets)}: {per_seed} models x {study.seeds} seed{'s' * (study.seeds > 1)} ({first}), on "
        f"{study.device}",
        f"trained   {len(trainings)} for each seed: priors {study.steps[f'{ALONE}-{study.nets[0]}']:,} steps, DDPMs "
        f"{last:,} steps; the others draw with the weights of one of these",
        f"measured  {study.num:,} samples every {study.measure_every:,} steps, {len(study.moments)} times, in "
        f"{study.features}" + " and in Inception" * study.fid,
        f"cells     {todo} of {len(study.cells)} to be done" if todo else "cells     nothing is left to do",
    ]
