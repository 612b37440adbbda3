"""What every `minidiff train ...` does: plan or resume, describe, run, and name the command to try next."""

import shlex
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from minidiff.cli.commands import Command, refuse_lone_severity, refuse_options
from minidiff.cli.messages import remark, say, warn
from minidiff.training.config import ResumeRequest, TrainRequest

if TYPE_CHECKING:
    from minidiff.training.job import Job

# What a resumed run may change: where and how it is trained. The other options are the run itself.
CHANGES = {field.name for field in fields(ResumeRequest)} - {"on_step", "images"}


def carry_out(
    ctx: click.Context, kind: str, request: type[TrainRequest], *, resume: str | None, dry_run: bool, **options: Any
) -> None:
    """Plan a training, or resume one; describe it and run it."""
    from minidiff.networks.own import use_network
    from minidiff.pretrained.train import plan, take_up
    from minidiff.runtime.distributed import local_device, process_group
    from minidiff.training import journal

    assert isinstance(ctx.command, Command)
    with_flags = ctx.command.translated
    with process_group(local_device(options["device"])):
        if resume is not None:
            code = ":" in (options.get("network") or "")  # unet and dit are part of the run; code must be named again
            refuse_options(ctx, CHANGES | {"resume", "dry_run"} | ({"network"} if code else set()))
            if code:
                use_network(options["network"])
            changes = {name: value for name, value in options.items() if name in CHANGES}
            training = take_up(resume, ResumeRequest(**changes), kind)
        else:
            if "severity" in options:
                refuse_lone_severity(ctx)
            training = plan(kind, request(**options))
        for note in training.data.notes:
            warn(note + ".")
        training.warn = lambda message: journal.warn(with_flags(message))
        ctx.call_on_close(training.close)
        (say if dry_run else remark)(training.describe())
        if dry_run:
            return
        remark(training.start())
        folder = shlex.quote(str(training.folder))
        try:
            training.run()
        except journal.Interrupted as stop:
            resume_by = f"minidiff train {kind} --resume {folder}{code_of(training)}"
            raise journal.Interrupted(f"{stop} Resume with: {resume_by}", stop.exit_code) from None
        say(training.conclusion())
        remark(f"next      minidiff {next_command(training, folder)}{code_of(training)}")


def next_command(training: "Job[Any]", folder: str) -> str:
    """Return the command to try on a run that is finished."""
    from minidiff.classifier.job import ClassifierJob
    from minidiff.data.conditions import labels_in_words
    from minidiff.ddpm.job import DdpmJob
    from minidiff.dehaze.job import DehazeJob
    from minidiff.priors.job import DipPriorJob

    if isinstance(training, DehazeJob):
        return f"dehaze {folder} photo.jpg"
    if isinstance(training, DipPriorJob):
        where = f" --data-dir {shlex.quote(where)}" if (where := training.config.data.data_dir) else ""
        return f"train ddpm --dataset {training.config.data.name}{where} --prior {folder} --prior-use residual"
    if isinstance(training, ClassifierJob):
        return f"evaluate {place} --classifier {folder}" if (place := place_of(training)) else f"report {folder}"
    if not isinstance(training, DdpmJob):
        return f"sample {folder} --num 64"
    if training.config.diffusion.trained_below is not None:
        return f"restore photo.png --model {folder}"
    order = "--num 64"
    if training.labels:
        order = f"--labels {shlex.quote(labels_in_words(training.conditions()[-1], training.labels.names))}"
    return f"sample {folder} {order} --progressive 10"


def code_of(training: "Job[Any]") -> str:
    """Return the option that names the code of a run's network, if it is not of the package."""
    module = getattr(getattr(training.config, "network", None), "module", None)
    return f" --network {shlex.quote(module)}" if module else ""


def place_of(training: "Job[Any]") -> str:
    """Return how `minidiff evaluate` is told the data set of a run; nothing if a script brought the images."""
    data = training.config.data
    if data.brought:
        return ""
    where = f" --data-dir {shlex.quote(str(data.data_dir))}" if data.data_dir else ""
    return f"dataset:{data.name}{where}"
