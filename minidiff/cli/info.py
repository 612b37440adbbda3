"""`minidiff info`: what a run is, or which runs there are."""

import click

from minidiff.cli.commands import Command
from minidiff.cli.messages import say
from minidiff.cli.types import complete_run
from minidiff.errors import UserError


@click.command(cls=Command)
@click.argument("run", required=False, shell_complete=complete_run)
def info(run: str | None) -> None:
    """Show what RUN is: data, network, parameters, steps, last loss, sizes. Without RUN, list the runs under runs/.

    \b
    minidiff info
    minidiff info runs/ddpm-shapes-1
    minidiff info photos                  a model that comes with minidiff
    """
    from minidiff.reports.describe import describe_run, summarise_run
    from minidiff.runs.folder import list_runs, skip

    if run is not None:
        say(describe_run(run))
        return
    runs = list_runs()
    if not runs:
        say("No runs under runs/ yet. Start with: minidiff train ddpm")
    for folder in runs:
        try:
            say(summarise_run(folder))
        except UserError as error:  # a damaged run must not hide the others
            skip(error)
