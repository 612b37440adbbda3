"""`minidiff info`: what a run is, or which runs there are."""

import click

from minidiff.errors import UserError


@click.command()
@click.argument("run", required=False)
def info(run: str | None) -> None:
    """Tell what RUN is: data, network, parameters, steps, last loss, sizes. Without RUN, list the runs under runs/."""
    from minidiff.reports import describe as report
    from minidiff.runs import folder as checkpoint

    if run is not None:
        click.echo(report.describe_run(run))
        return
    runs = checkpoint.list_runs()
    if not runs:
        click.echo("No runs under runs/ yet. Start with: minidiff train ddpm")
    for folder in runs:
        try:
            click.echo(report.summarise_run(folder))
        except UserError as error:  # a damaged run must not hide the others
            click.echo(f"{folder}  {error}")
