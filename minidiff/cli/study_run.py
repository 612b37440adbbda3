"""What `minidiff compare` and `minidiff compare-priors` share: options, and what they say of their cells."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minidiff.cli.commands import Command
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import Device, Whole
from minidiff.errors import UserError, counted, one_line
from minidiff.studies import config

if TYPE_CHECKING:
    from minidiff.studies.config import Planned
    from minidiff.studies.processes import Event

features = click.option(
    "--features",
    metavar="inception|RUN",
    help="The network to measure in: Inception, or a classifier run for images unlike ImageNet's photographs. "
    f"Default: {config.FEATURES}.",
)
study_device = click.option(
    "--device", type=Device(), help="auto, cpu, cuda, cuda:1, mps. Default: the study's; auto for a new study."
)
parallel_cells = click.option(
    "--parallel",
    type=Whole(min=1),
    default=1,
    show_default=True,
    help="Cells at once: each on the next GPU, or with its share of the CPU's threads.",
)
retry_failed = click.option("--retry", is_flag=True, help="Try again the cells that failed.")


def carry_on(
    command: Command, folder: Path, study: "Planned", devices: list[str], retry: bool,
    left: "Callable[[Event], str | None]",
) -> None:  # fmt: skip
    """Run every cell that is not finished, say what happens and what was found, and keep the page up to date.

    command: the one that was typed, whose flags errors of cells are told in. left: what is still to be done after an
    event, in words; None: nothing is said. Raises UserError if a cell failed, and Interrupted after a signal.
    """
    from minidiff.studies import progress
    from minidiff.studies.processes import carry_out
    from minidiff.studies.study import keep_study
    from minidiff.training.journal import Interrupted

    keep_study(folder, study)
    again = f"minidiff {command.name} --out {shlex.quote(str(folder))}"
    remark(f"folder    {folder} (if stopped, go on with: {again})")
    try:
        for event in carry_out(folder, study, devices, retry):
            remark(command.translated(f"{event.state:9} {event.name}" + f": {event.text}" * bool(event.text)))
            if event.state != "begun":
                write_page(folder)
            if words := left(event):
                remark(f"left      {words}")
    except Interrupted as stop:
        raise Interrupted(f"{stop} Go on with: {again}", stop.exit_code) from None
    for line in progress.table(study, folder):
        say(command.translated(line))
    if failed := progress.unfinished(folder, study, retry=True):
        raise UserError(
            f"{len(failed)} of {counted(len(study.cells), 'cell')} failed. Mend what they say, then --retry."
        )


def write_page(folder: Path) -> None:
    """Write report.html again. If that fails, print a warning and go on."""
    from minidiff.reports import study_report

    try:
        study_report.write(folder)
    except Exception as error:
        warn(f"report.html could not be written ({type(error).__name__}: {one_line(error)}).")
