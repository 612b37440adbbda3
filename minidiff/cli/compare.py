"""`minidiff compare`: which model does best on which data, clean and corrupted, all measured in the same way."""

from pathlib import Path
from typing import Any

import click

from minidiff.cli.choices import TABLES, table
from minidiff.cli.commands import Command, section
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.study_run import carry_on, features, parallel_cells, retry_failed, study_device
from minidiff.cli.types import Name, Names, Number, Place, Whole
from minidiff.studies import config
from minidiff.studies.config import StudyRequest, as_typed


class ModelSteps(Name):
    """Take `2000` for every model, or `ddpm=2000,wgan=5000`. Gives the number, or a number for each name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = {}
        for word in value.split(","):
            name, equals, number = (part.strip() for part in word.rpartition("="))
            if not number.isdecimal() or int(number) < 1:
                self.fail(f"'{word}' is not a number of steps. Write 2000 or ddpm=2000.", param, ctx)
            if not equals and "," not in value:
                return int(number)
            found[super().convert(name, param, ctx)] = int(number)
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N|MODEL=N,..."


def places_of_data(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> str | dict[str, str] | None:
    """Read --data-dir: a PATH for all data sets, or NAME=PATH, once for each data set that has a place of its own."""
    named = {}
    for word in given:
        name, equals, path = word.partition("=")
        if equals and path and name in table("data set"):
            named[name] = path
        elif len(given) > 1:
            raise click.BadParameter(f"'{word}': given more than once, it is NAME=PATH each time.", ctx, param)
        else:
            return word
    return named or None


# As the help shows them.
DATASETS, CORRUPTIONS, MODELS = (", ".join(TABLES[kind][1]) for kind in ("data set", "corruption", "model"))


@click.command(cls=Command)
@section("Study")
@click.option("--out", type=Place(), required=True, help="The folder of the study, new or to go on with.")
@section("Data")
@click.option(
    "--datasets",
    type=Names("data set", lambda: table("data set")),
    help=f"One or more of {DATASETS}.",
)
@click.option(
    "--corruptions",
    type=Names("corruption", lambda: [*table("corruption"), "all"]),
    help=f"One or more of {CORRUPTIONS}, or all. Default: {as_typed(config.CORRUPTIONS)}.",
)
@section("Models and their training")
@click.option("--models", type=Names("model", lambda: table("model")), help=f"One or more of {MODELS}.")
@section("Data")
@click.option("--severity", type=Whole(1, 5), help=f"How strong the corruptions are. Default: {config.SEVERITY}.")
@click.option("--image-size", type=Whole(8, 1024), help=f"Height and width in pixels. Default: {config.IMAGE_SIZE}.")
@click.option(
    "--data-dir",
    multiple=True,
    metavar="PATH|NAME=PATH",
    callback=places_of_data,
    help="The folder with the files of the data sets, or of one of them, as in folder=PHOTOS. Default: the cache.",
)
@section("Models and their training")
@click.option(
    "--steps",
    type=ModelSteps("model", lambda: table("model")),
    help="Steps of every training, or of each model's. Default: the presets'.",
)
@click.option(
    "--minutes",
    type=Number(0, min_open=True),
    help="Train each cell for about this many minutes, instead of a number of --steps.",
)
@section("Measuring")
@click.option(
    "--num",
    type=Whole(min=20),
    help=f"Samples of each cell. Default: {config.NUM_CPU} on a CPU, {config.NUM} elsewhere.",
)
@features
@section("Computing")
@click.option("--seed", type=Whole(min=0), help=f"The seed of all trainings and samples. Default: {config.SEED}.")
@click.option(
    "--seeds",
    type=Whole(1, config.MOST_SEEDS),
    help="Repeat each cell with this many seeds, from --seed on: the scatter of the trainings. Default: 1.",
)
@study_device
@parallel_cells
@section("Study")
@retry_failed
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it takes, and stop.")
@click.pass_context
def compare(
    ctx: click.Context, /, out: str, parallel: int, retry: bool, dry_run: bool, datasets: list[str] | None,
    corruptions: list[str] | None, models: list[str] | None, **asked: Any,
) -> None:  # fmt: skip
    """Train every model on every data set, clean and corrupted, and measure what each of them draws.

    Each cell of this grid runs in a process of its own. What is done is not done again, so the same command goes on
    after an interruption. STUDY/report.html shows all that was found.

    \b
    minidiff compare --datasets fashion-mnist --corruptions identity,motion_blur --models dcgan,wgan,ddpm --out STUDY
    minidiff compare --datasets mnist,fashion-mnist --models wgan-gp,ddpm --minutes 20 --out STUDY --dry-run
    minidiff compare --out STUDY                                   go on with it
    minidiff compare --out STUDY --retry                           and with the cells that failed
    minidiff compare --out STUDY --models dcgan,wgan,ddpm,wgan-gp  and with one more model
    minidiff compare --out STUDY --seeds 3                         and with three seeds, for bands
    """
    if corruptions and "all" in corruptions:
        corruptions = table("corruption")
    request = StudyRequest(
        datasets=tuple(datasets) if datasets else None,
        corruptions=tuple(corruptions) if corruptions else None,
        models=tuple(models) if models else None,
        **asked,
    )

    from minidiff.studies import progress
    from minidiff.studies.compare import check_idle, devices_for, plan_study

    assert isinstance(ctx.command, Command)
    folder = Path(out)
    study = plan_study(folder, request, parallel, note)
    todo = progress.unfinished(folder, study, retry)
    tell = say if dry_run else remark
    for line in progress.describe(study, folder, todo, parallel):
        tell(line)
    for line in study.doubts:
        warn(line)
    if dry_run:
        check_idle(folder)
        for line in progress.timetable(study, folder):
            say(line)
        return
    devices = devices_for(request.device or study.device, parallel)
    clock = progress.Clock(study, folder, parallel)
    carry_on(ctx.command, folder, study, devices, retry, lambda event: clock.note(event.name, event.state))


def note(kind: str, line: str) -> None:
    """Print a line of the planning."""
    if kind == "warning":
        warn(line)
    else:
        remark(f"{kind:9} {line}")
