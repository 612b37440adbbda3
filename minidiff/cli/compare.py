"""`minidiff compare`: which generator holds up on which data, clean and corrupted, measured the same way."""

import os
from pathlib import Path
from typing import Any

import click

from minidiff.cli.types import Device, Name, Names, Number, Place, say, warn
from minidiff.data.corruptions import CORRUPTIONS
from minidiff.data.datasets import DATASETS
from minidiff.errors import UserError, one_line
from minidiff.studies import processes, progress
from minidiff.studies import study as studies
from minidiff.studies.models import MODELS
from minidiff.training.journal import Interrupted


class ModelSteps(Name):
    """`2000` for every model, or `ddpm=2000,wgan=5000`: gives the number, or a number for each name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = {}
        for word in value.split(","):
            name, equals, number = (part.strip() for part in word.rpartition("="))
            if not number.isdecimal() or int(number) < 1:
                self.fail(f"'{word}': steps are a whole number from 1, as in 2000 or ddpm=2000.", param, ctx)
            if not equals and "," not in value:
                return int(number)
            found[super().convert(name, param, ctx)] = int(number)
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N|MODEL=N,..."


def places_of_data(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> str | dict[str, str] | None:
    """--data-dir PATH, for all data sets; or NAME=PATH for one of them, as often as there are such."""
    named = {}
    for word in given:
        name, equals, path = word.partition("=")
        if equals and path and name in DATASETS:
            named[name] = path
        elif len(given) > 1:
            raise click.BadParameter(f"'{word}': given more than once, it is NAME=PATH each time.", ctx, param)
        else:
            return word
    return named or None


def default(name: str) -> str:
    return f"Default: {studies.worded(studies.SETTINGS[name])}."


@click.command()
@click.option("--out", type=Place(), required=True, help="The folder of the study, new or to go on with.")
@click.option("--datasets", type=Names("data set", DATASETS), help=f"Any of {', '.join(DATASETS)}.")
@click.option(
    "--corruptions",
    type=Names("corruption", lambda: [*CORRUPTIONS, "all"]),
    help=f"Any of {', '.join(CORRUPTIONS)}, or all. {default('corruptions')}",
)
@click.option("--models", type=Names("model", MODELS), help=f"Any of {', '.join(MODELS)}.")
@click.option("--severity", type=click.IntRange(1, 5), help=f"Of the corruptions. {default('severity')}")
@click.option("--image-size", type=click.IntRange(8, 1024), help=f"Pixels a side. {default('image_size')}")
@click.option(
    "--data-dir",
    multiple=True,
    metavar="PATH|NAME=PATH",
    callback=places_of_data,
    help="Where the data sets lie, or go when they are downloaded; or where one of them does, as in folder=PHOTOS.",
)
@click.option(
    "--steps", type=ModelSteps("model", MODELS), help="Of every training, or of each model's. Default: the presets'."
)
@click.option(
    "--minutes",
    type=Number(0, min_open=True),
    help="Instead of --steps: about so long trains every cell; timed once, on this machine.",
)
@click.option(
    "--num",
    type=click.IntRange(min=20),
    help=f"Samples of each cell. Default: {studies.NUM_CPU} on a CPU, {studies.NUM} elsewhere.",
)
@click.option(
    "--features",
    metavar="inception|RUN",
    help="The network to measure in: Inception, or a classifier run, for data that ImageNet knows nothing of. "
    + default("features"),
)
@click.option("--seed", type=click.IntRange(min=0), help=f"Of all trainings and samples. {default('seed')}")
@click.option("--device", type=Device(), help="auto, cpu, cuda, cuda:1, mps. Default: the study's; of a new one auto.")
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Cells at once: each on the next GPU, or with its share of the CPU's threads.",
)
@click.option("--retry", is_flag=True, help="Try the cells that failed again.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and how long it takes, and stop.")
def compare(
    out: str, device: str | None, parallel: int, retry: bool, dry_run: bool, corruptions: list[str] | None, **asked: Any
) -> None:
    """Train every model on every data set, clean and corrupted, and measure what each of them draws.

    Each cell of this grid runs in a process of its own; what is done is not done again, so the same command goes on
    after an interruption. STUDY/report.html has all that was found.

    \b
    minidiff compare --datasets fashion-mnist --corruptions identity,motion_blur --models dcgan,wgan,ddpm --out STUDY
    minidiff compare --datasets mnist,fashion-mnist --models wgan-gp,ddpm --minutes 20 --out STUDY --dry-run
    minidiff compare --out STUDY                                   go on with it
    minidiff compare --out STUDY --retry                           and with the cells that failed
    minidiff compare --out STUDY --models dcgan,wgan,ddpm,wgan-gp  and with one more model
    """
    if corruptions and "all" in corruptions:
        corruptions = list(CORRUPTIONS)
    folder, kind = Path(out), device.split(":")[0] if device else None
    asked |= {"corruptions": corruptions, "device": kind}
    study = studies.settings_of(folder, asked, usual_device())
    if "cells" not in study:
        for line in studies.foresee(study):
            warn(line)
        timed = {}
        if new := studies.untimed(study):
            say(f"timing    a few steps of {', '.join(new)}")
            timed = processes.timed(study | {"models": new}, places(device or study["device"], parallel)[0], parallel)
        study = studies.complete(study, timed)
        if not dry_run:
            studies.create(folder, study)
    todo = processes.unfinished(folder, study, retry)
    for line in progress.describe(study, folder, todo):
        say(line)
    for line in study.get("doubts", []):
        warn(line)
    if dry_run:
        for line in progress.timetable(study, folder):
            say(line)
        return
    devices = places(device or study["device"], parallel)
    say(f"folder    {folder} (if stopped, go on with: minidiff compare --out {folder})")
    ended = len(study["cells"]) - len(todo)
    try:
        for event in processes.carry_out(folder, study, devices, retry):
            ended += event.name in study["cells"] and event.state != "begun"
            say(f"{event.state:9} {event.name}" + f": {event.text}" * bool(event.text))
            if event.state != "begun":
                report(folder)
    except Interrupted as stop:
        raise Interrupted(f"{stop} Go on with: minidiff compare --out {folder}", stop.exit_code) from None
    for line in progress.table(study, folder):
        say(line)
    if failed := processes.unfinished(folder, study, retry=True):
        raise UserError(f"{len(failed)} of {len(study['cells'])} cells failed. Mend what they say, then --retry.")


def usual_device() -> str:
    """Of a new study: a GPU, if there is one."""
    found: str = Device().convert("auto", None, None)
    return found


def places(device: str, parallel: int) -> list[str]:
    """The device of each process that may run at once: the GPUs in turn, if none is named."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("minidiff compare starts its own processes. Run it without torchrun, with --parallel.")
    try:
        Device().convert(device, None, None)
    except click.BadParameter:
        raise UserError(f"this study was begun on {device}, which is not here. Go on where it is.") from None
    if device != "cuda":
        return [device] * parallel
    import torch

    return [f"cuda:{number % torch.cuda.device_count()}" for number in range(parallel)]


def report(folder: Path) -> None:
    """report.html anew. What goes wrong there is said, and costs the study nothing."""
    from minidiff.reports import study_report

    try:
        study_report.write(folder)
    except Exception as error:
        warn(f"report.html could not be written ({type(error).__name__}: {one_line(error)}).")
