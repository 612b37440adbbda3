"""`minidiff compare-priors`: does a prior help a DDPM? Every use of every prior, and controls, along the training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minidiff.cli.choices import TABLES, table
from minidiff.cli.commands import Command, section
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.study_run import carry_on, features, parallel_cells, retry_failed, study_device
from minidiff.cli.types import Name, Names, Number, Place, Whole
from minidiff.errors import counted
from minidiff.studies import config, prior_config
from minidiff.studies.config import as_typed
from minidiff.studies.prior_config import PriorRequest

if TYPE_CHECKING:
    from minidiff.studies.processes import Event

NETS = ", ".join(TABLES["net"][1])


@click.command(cls=Command)
@section("Study")
@click.option("--out", type=Place(), required=True, help="The folder of the study, new or to go on with.")
@section("Data")
@click.option(
    "--dataset",
    type=Name("data set", lambda: table("data set"), TABLES["data set"][1]),
    help="The images; a new study needs it.",
)
@click.option("--image-size", type=Whole(8, 1024), help=f"Height and width in pixels. Default: {config.IMAGE_SIZE}.")
@click.option("--data-dir", type=Place(), help="The folder with the files of the data set. Default: the cache.")
@section("Models and their training")
@click.option(
    "--nets",
    type=Names("net", lambda: table("net")),
    help=f"The priors, one or more of {NETS}. Default: {as_typed(prior_config.NETS)}.",
)
@click.option(
    "--uses",
    type=Names("use of a prior", prior_config.USES),
    help=f"What for, one or more of {', '.join(prior_config.USES)}. Default: all.",
)
@click.option("--steps", type=Whole(min=1), help="Steps of every DDPM. Default: the preset's.")
@click.option("--prior-steps", type=Whole(min=1), help="Steps of every prior. Default: the preset's.")
@click.option(
    "--noise",
    type=Number(0, min_open=True),
    help="The deviation of the noise that a prior takes off, of values from -1 to 1. Default: 0.2.",
)
@section("Measuring")
@click.option("--measure-every", type=Whole(min=1), help="Steps between measurements. Default: a tenth of --steps.")
@click.option(
    "--samples",
    "num",
    type=Whole(min=20),
    help=f"Samples of each measurement. Default: {config.NUM_CPU} on a CPU, {config.NUM} elsewhere.",
)
@features
@click.option(
    "--fid/--no-fid", default=None, help="With a classifier's features: measure FID in Inception, too. Default: no."
)
@section("Computing")
@click.option("--seed", type=Whole(min=0), help=f"The first seed. Default: {config.SEED}.")
@click.option(
    "--seeds", type=Whole(1, config.MOST_SEEDS), help=f"Repeat every cell so often. Default: {prior_config.SEEDS}."
)
@study_device
@parallel_cells
@section("Study")
@retry_failed
@click.option("--dry-run", is_flag=True, help="Say what would be done and about how long it takes, and stop.")
@click.pass_context
def compare_priors(
    ctx: click.Context, /, out: str, parallel: int, retry: bool, dry_run: bool, nets: list[str] | None,
    uses: list[str] | None, **asked: Any,
) -> None:  # fmt: skip
    """Ask whether a deep image prior helps a DDPM, with controls, seeds, and measurements along the training.

    The study compares the plain DDPM; each use of each prior; chains from the mean image, from blurred images, and from
    what a prior makes of wrong pictures, or that see it; and the prior alone. STUDY/report.html shows all that was
    found. The same command goes on after an interruption.

    \b
    minidiff compare-priors --dataset fashion-mnist --features runs/clf --steps 3000 --samples 2000 --out STUDY
    minidiff compare-priors --dataset shapes --nets conv2 --uses start --seeds 5 --out STUDY --dry-run
    minidiff compare-priors --out STUDY                            go on with it
    minidiff compare-priors --out STUDY --seeds 5                  and with more seeds
    """
    request = PriorRequest(nets=tuple(nets) if nets else None, uses=tuple(uses) if uses else None, **asked)

    from minidiff.studies import progress
    from minidiff.studies.compare import check_idle, devices_for
    from minidiff.studies.compare_priors import plan_study
    from minidiff.studies.prior_planning import describe
    from minidiff.studies.prior_timing import expected
    from minidiff.studies.results import read_state

    assert isinstance(ctx.command, Command)
    folder = Path(out)
    study = plan_study(folder, request)
    todo = progress.unfinished(folder, study, retry)
    for line in describe(study, len(todo)):
        (say if dry_run else remark)(line)
    for line in study.doubts:
        warn(line)
    if dry_run:
        check_idle(folder)
        say(f"time      {expected(study, folder, todo, request.device)}")
        for cell in study.cells:
            say(f"{read_state(folder, cell):9} {cell}")
        return
    device = request.device if request.device not in (None, "auto") else study.device
    devices = devices_for(device, parallel)

    def left(event: "Event") -> str | None:
        remaining = progress.unfinished(folder, study, retry=False)
        return None if event.state == "begun" or not remaining else counted(len(remaining), "cell")

    carry_on(ctx.command, folder, study, devices, retry, left)
