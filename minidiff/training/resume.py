"""Take up a training again, at its last checkpoint, with the few changes that leave it the same run.

Rests on job. All that the folder holds is read before anything is written into it.

job = resume(DdpmJob, "runs/ddpm-shapes-1", ResumeRequest(steps=2000))
job.run()
"""

import os
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from minidiff.errors import UserError, listed
from minidiff.files import hold
from minidiff.runs.folder import CONFIG, MODEL, STATE, read_config, read_state
from minidiff.runs.log import read_metrics
from minidiff.runs.shipped import is_name
from minidiff.runtime import distributed
from minidiff.training.config import ResumeRequest, given
from minidiff.training.job import AnyJob, Config, Job
from minidiff.training.presets import check_warmup, steps_of

# What every run may change when it is taken up again; each kind adds its own, see `Job.may_change`.
SETTINGS = ("steps", "lr", "warmup", "precision", "compile")  # of TrainConfig
AS_IT_WAS = ResumeRequest()
MAY_CHANGE = ("data_dir", "epochs", *SETTINGS, "save_every", "device", "on_step", "images")


def resume(kind: type[AnyJob], folder: str | Path, request: ResumeRequest = AS_IT_WAS) -> AnyJob:
    """Resume the training of a run folder at its last checkpoint, with the changes of the request.

    The folder is held from now on, and nothing is written into it before all has been read: see `Job.start`.
    A run at its last step only makes the measurement and the pictures that it may lack.
    Raises UserError when the folder is not a run of this kind, another process holds it, its state or its metrics are
    damaged, its state is gone, or its data have changed.
    """
    if is_name(folder):
        raise UserError(
            f"{folder} comes with minidiff, without the state that a training needs to go on. Begin with its weights, "
            f"by `init` {folder}."
        )
    folder = Path(folder)
    read_resumable(kind, folder)  # before the lock, which is a file, is laid into it
    with ExitStack() as held:
        distributed.main_first(lambda: held.enter_context(hold(folder)))
        job = reopen(kind, folder, request)
        job.held = held.pop_all()
    return job


def reopen(kind: type[AnyJob], folder: Path, request: ResumeRequest) -> AnyJob:
    """Read all that a run folder holds of a training, and prepare to go on with it: see `resume`."""
    config = read_resumable(kind, folder)
    check_changes(kind, request)
    config = kind.changed(config, request)
    assert config.training is not None
    before, training = config.training, replace(config.training, **given(request, SETTINGS))
    config = replace(
        config,
        training=training,
        **given(request, {"save_every", "sample_every", "measure_every"}),
    )
    if request.data_dir is not None:
        config = replace(config, data=replace(config.data, data_dir=os.path.abspath(request.data_dir)))
    data = kind.images_of(config, folder, request.images)
    if request.epochs is not None:
        images_a_step = kind.batches_a_step(config) * training.batch_size
        training = replace(training, steps=steps_of(request.epochs, len(data), images_a_step))
        config = replace(config, training=training)
    if (training.warmup, training.steps) != (before.warmup, before.steps):  # a run made before may have a longer one
        check_warmup(training)
    job = kind(config, data, distributed.local_device(request.device), folder=folder)
    state = read_state(folder)
    read_metrics(folder, whole=True)
    if state is not None:
        job.trainer.load_state_dict(state, str(folder / STATE))
    elif config.init is not None:  # killed before its first checkpoint
        job.begin_with(config.init)
    if training.steps < job.trainer.step:
        raise UserError(
            f"{folder} is at step {job.trainer.step:,} already, and `steps` is {training.steps:,}. "
            "It counts from the start of the run: give more, or leave it out."
        )
    return job


def read_resumable(kind: type[Job[Config]], folder: Path) -> Config:
    """Read the config.json of a run. Raises UserError if its files show that it has no training to go on with."""
    config = kind.read(read_config(folder, kind=kind.kind), folder / CONFIG)
    if config.training is None:
        raise UserError(
            f"{folder} was not trained by minidiff's own loop, so it has weights but no training to go on with. "
            "Draw from it with `minidiff sample`, or begin a new training with `init`."
        )
    if (folder / MODEL).exists() and not (folder / STATE).exists():
        raise UserError(
            f"{folder} has weights but no {STATE}, without which training cannot go on. "
            "Bring it back, or start a new run. You can still draw with the weights."
        )
    return config


def check_changes(kind: type[Job[Any]], request: ResumeRequest) -> None:
    """Raise UserError for a change that this kind of run does not know."""
    for name in given(request, [field.name for field in fields(request)]):
        if name not in MAY_CHANGE + kind.may_change:
            known = listed([f"`{each}`" for each in MAY_CHANGE + kind.may_change], "and")
            raise UserError(f"a {kind.kind} run has no `{name}`. On resuming it may change {known}.")
