"""The models that a study can compare: for each, how its training is planned and how it draws.

Rests on the jobs of gan and ddpm.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minidiff.ddpm import job as ddpm_job
from minidiff.ddpm.config import DdpmRequest
from minidiff.gan import job as gan_job
from minidiff.gan.config import GanRequest
from minidiff.studies.config import Settings, model_of, seed_of
from minidiff.training.config import TrainRequest
from minidiff.training.job import Job


@dataclass(frozen=True)
class Model:
    """An entry of MODELS."""

    job: type[Job[Any]]
    request: type[TrainRequest]
    plan: Callable[[Any], Job[Any]]  # of a request of that type
    sampling: dict[str, Any] = field(default_factory=dict)  # options of `draw` beside the seed, as in `minidiff sample`


MODELS: dict[str, Model] = {
    **{kind: Model(job, GanRequest, partial(gan_job.plan, kind)) for kind, job in gan_job.JOBS.items()},
    "ddpm": Model(ddpm_job.DdpmJob, DdpmRequest, ddpm_job.plan, {"sampler": "dpm++sde"}),
}


def data_options(settings: Settings, name: str) -> dict[str, Any]:
    """Return the options with which a training, or `load_data`, gets the images of a cell or of DATASET.CORRUPTION."""
    dataset, corruption = name.split(".")[:2]
    asked: dict[str, Any] = {"dataset": dataset, "image_size": settings.image_size}
    if where := settings.folder_of(dataset):
        asked["data_dir"] = where
    if corruption != "identity":
        asked |= {"corruption": corruption, "severity": settings.severity}
    return asked


def training(settings: Settings, cell: str, out: Path, device: torch.device) -> Job[Any]:
    """Plan the training of a cell: the preset for this device, with the study's data and steps, and the cell's seed."""
    model = model_of(cell)
    options = data_options(settings, cell) | {"seed": seed_of(settings, cell), "out": out, "device": str(device)}
    if steps := (settings.steps or {}).get(model):
        options["steps"] = steps
    return MODELS[model].plan(MODELS[model].request(**options))
