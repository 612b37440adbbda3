"""What can be compared: for each model, how its training is planned and how it draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minidiff.ddpm import job as ddpm_job
from minidiff.ddpm.config import DdpmRequest
from minidiff.gan import job as gan_job
from minidiff.gan.config import GanRequest
from minidiff.training.config import TrainRequest
from minidiff.training.job import Job


@dataclass(frozen=True)
class Model:
    """An entry of MODELS. sampling: options of `Run.draw` beside the seed; as `minidiff sample` has them."""

    job: type[Job[Any]]
    request: type[TrainRequest]
    plan: Callable[[Any], Job[Any]]  # of a request of that type
    sampling: dict[str, Any] = field(default_factory=dict)


MODELS: dict[str, Model] = {
    **{kind: Model(job, GanRequest, partial(gan_job.plan, kind)) for kind, job in gan_job.JOBS.items()},
    "ddpm": Model(ddpm_job.DdpmJob, DdpmRequest, ddpm_job.plan, {"sampler": "dpm++sde"}),
}


def folder_of(study: Mapping[str, Any], dataset: str) -> str | None:
    """Where the files of a data set lie: its own of --data-dir, or what that is for all; None for the cache."""
    where = study["data_dir"]
    found: str | None = where.get(dataset) if isinstance(where, dict) else where
    return found


def data_options(study: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What to ask a training, or `load_data`, for, to have the images of a cell, or of DATASET.CORRUPTION."""
    dataset, corruption = name.split(".")[:2]
    asked = {"dataset": dataset, "image_size": study["image_size"]}
    if where := folder_of(study, dataset):
        asked["data_dir"] = where
    if corruption != "identity":
        asked |= {"corruption": corruption, "severity": study["severity"]}
    return asked


def training(study: Mapping[str, Any], cell: str, out: Path, device: torch.device) -> Job[Any]:
    """The training of a cell, planned: the preset for this device, with the study's data, steps and seed."""
    name = cell.split(".")[2]
    options = data_options(study, cell) | {"seed": study["seed"], "out": out, "device": str(device)}
    if name in (study["steps"] or {}):
        options["steps"] = study["steps"][name]
    return MODELS[name].plan(MODELS[name].request(**options))
