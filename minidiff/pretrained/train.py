"""Train a model of any kind in one call: what `minidiff train` does, from a script.

Rests on the jobs of every kind. `plan` and `take_up` prepare a training; `train` and `resume` run it as well, and open
what it has learnt.

run = minidiff.train("ddpm", dataset="fashion-mnist", steps=500)
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

from minidiff.classifier import job as classifier
from minidiff.classifier.config import ClassifierRequest
from minidiff.classifier.run import ClassifierRun, load_classifier
from minidiff.ddpm import job as ddpm
from minidiff.ddpm.config import DdpmRequest
from minidiff.ddpm.run import Run
from minidiff.dehaze import job as dehaze
from minidiff.dehaze.config import DehazeRequest
from minidiff.dehaze.run import DehazeRun, load_dehaze
from minidiff.errors import lookup
from minidiff.gan import job as gan
from minidiff.gan.config import GanKind, GanRequest
from minidiff.gan.run import GanRun
from minidiff.pretrained.load import load
from minidiff.priors import job as priors
from minidiff.priors.config import DIP_PRIOR, DipPriorRequest
from minidiff.priors.run import PriorRun
from minidiff.records import takes
from minidiff.runs.folder import read_config
from minidiff.runtime.distributed import local_device, process_group
from minidiff.training.config import OnStep, ResumeRequest
from minidiff.training.job import Job
from minidiff.training.resume import resume as resume_job

Trained = Run | GanRun | ClassifierRun | DehazeRun | PriorRun

JOBS: dict[str, type[Job[Any]]] = {
    "ddpm": ddpm.DdpmJob,
    **gan.JOBS,
    "classifier": classifier.ClassifierJob,
    "dehaze": dehaze.DehazeJob,
    DIP_PRIOR: priors.DipPriorJob,
}
REQUESTS: dict[str, Callable[..., Any]] = {
    "ddpm": DdpmRequest,
    **dict.fromkeys(gan.JOBS, GanRequest),
    "classifier": ClassifierRequest,
    "dehaze": DehazeRequest,
    DIP_PRIOR: DipPriorRequest,
}
PLANS: dict[str, Callable[[Any], Job[Any]]] = {
    "ddpm": ddpm.plan,
    **{kind: partial(gan.plan, kind) for kind in gan.JOBS},
    "classifier": classifier.plan,
    "dehaze": dehaze.plan,
    DIP_PRIOR: priors.plan,
}


def plan(kind: str, request: Any) -> Job[Any]:
    """Plan a training of this kind, from its kind's request. Raises UserError."""
    return lookup("kind of training", kind, PLANS)(request)


def take_up(folder: str | Path, request: ResumeRequest, kind: str | None = None) -> Job[Any]:
    """Prepare to resume the training of a run folder. If a kind is named, the run must be of it. Raises UserError."""
    if kind is None:
        kind = str(read_config(folder, kind=tuple(JOBS))["kind"])
    return resume_job(JOBS[kind], folder, request)


def finish(job: Job[Any], on_step: OnStep) -> Trained:
    """Run a training to its end, and open what it has learnt, on the device it was trained on."""
    for step in job.steps():
        if on_step is not None:
            on_step(step)
    assert job.folder is not None
    if job.kind == "classifier":
        return load_classifier(job.folder, job.trainer.device)
    if job.kind == "dehaze":
        return load_dehaze(job.folder, device=job.trainer.device)
    return load(job.folder, device=job.trainer.device)


@overload
@takes(DdpmRequest)
def train(kind: Literal["ddpm"], request: DdpmRequest) -> Run: ...
@overload
@takes(GanRequest)
def train(kind: GanKind, request: GanRequest) -> GanRun: ...
@overload
@takes(ClassifierRequest)
def train(kind: Literal["classifier"], request: ClassifierRequest) -> ClassifierRun: ...
@overload
@takes(DehazeRequest)
def train(kind: Literal["dehaze"], request: DehazeRequest) -> DehazeRun: ...
@overload
@takes(DipPriorRequest)
def train(kind: Literal["dip-prior"], request: DipPriorRequest) -> PriorRun: ...
def train(kind: str, *given: Any, **fields: Any) -> Trained:
    """Train a model, and open it.

    kind: ddpm, dcgan, wgan, wgan-gp, classifier, dehaze or dip-prior. The other arguments are the fields of its
    request, such as `DdpmRequest`, `GanRequest` or `ClassifierRequest`: what to train on, how long, and so on. A
    progress bar is shown, and the run folder fills as with `minidiff train`. Raises UserError; and Interrupted after
    Ctrl-C, when the run has been saved.

    run = minidiff.train("ddpm", dataset="fashion-mnist", steps=500)
    for images in run.sample(64): ...
    """
    request = lookup("kind of training", kind, REQUESTS)(*given, **fields)
    with process_group(local_device(request.device)):
        return finish(plan(kind, request), request.on_step)


@takes(ResumeRequest)
def resume(folder: str | Path, request: ResumeRequest) -> Trained:
    """Resume the training of a run folder, finish it, and open it. Only the fields of `ResumeRequest` may change.

    run = minidiff.resume("runs/ddpm-fashion-mnist-1", steps=1000)
    """
    with process_group(local_device(request.device)):
        return finish(take_up(folder, request), request.on_step)


@overload
@takes(DdpmRequest)
def plan_training(kind: Literal["ddpm"], request: DdpmRequest) -> ddpm.DdpmJob: ...
@overload
@takes(GanRequest)
def plan_training(kind: GanKind, request: GanRequest) -> gan.GanJob: ...
@overload
@takes(ClassifierRequest)
def plan_training(kind: Literal["classifier"], request: ClassifierRequest) -> classifier.ClassifierJob: ...
@overload
@takes(DehazeRequest)
def plan_training(kind: Literal["dehaze"], request: DehazeRequest) -> dehaze.DehazeJob: ...
@overload
@takes(DipPriorRequest)
def plan_training(kind: Literal["dip-prior"], request: DipPriorRequest) -> priors.DipPriorJob: ...
def plan_training(kind: str, *given: Any, **fields: Any) -> Job[Any]:
    """Plan a training as `train` does, but do not run it. You can look at the plan, or go through the steps yourself.

    job = minidiff.plan_training("ddpm", dataset="fashion-mnist", steps=500)
    print(job.describe())
    for step in job.steps(): ...  # saved, drawn and measured as it goes
    """
    return plan(kind, lookup("kind of training", kind, REQUESTS)(*given, **fields))
