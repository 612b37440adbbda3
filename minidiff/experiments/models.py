"""What can be compared: for each model, how its training is planned and how it draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minidiff import ddpm_job, gan_job
from minidiff.experiments import study as studies
from minidiff.job import Job


@dataclass(frozen=True)
class Model:
    """An entry of MODELS. sampling: options of `Run.draw` beside the seed; as `minidiff sample` has them."""

    job: type[Job]
    plan: Callable[[torch.device, dict[str, Any]], Job]
    sampling: dict[str, Any] = field(default_factory=dict)


MODELS: dict[str, Model] = {
    **{kind: Model(job, partial(gan_job.plan, kind)) for kind, job in gan_job.JOBS.items()},
    "ddpm": Model(ddpm_job.DdpmJob, ddpm_job.plan, {"sampler": "dpm++sde"}),
}


def training(study: Mapping[str, Any], cell: str, out: Path, device: torch.device) -> Job:
    """The training of a cell, planned: the preset for this device, with the study's data, steps and seed."""
    name = cell.split(".")[2]
    options = studies.data_options(study, cell) | {"seed": study["seed"], "out": out}
    if name in (study["steps"] or {}):
        options["steps"] = study["steps"][name]
    return MODELS[name].plan(device, options)
