"""`minidiff report`: a page to look at a run, or a study, in a browser."""

from pathlib import Path

import click

from minidiff.cli.types import Place
from minidiff.errors import UserError


@click.command()
@click.argument("run", type=Place(path_type=Path), required=False)
@click.option("--out", type=Place(path_type=Path), help="The page to write. Default: report.html in the folder.")
@click.option(
    "--force", is_flag=True, help="Replace --out if it exists; the page in the folder is always written anew."
)
def report(run: Path | None, out: Path | None, force: bool) -> None:
    """Write a page about RUN: settings, curves, pictures, results, all in one file. RUN may be a study, too.

    Without RUN, of the newest run under runs/.

    \b
    minidiff report runs/ddpm-shapes-1
    minidiff report STUDY --out page.html
    """
    from minidiff.reports import run_report, study_report
    from minidiff.runs import folder as checkpoint
    from minidiff.studies import results

    if run is None:
        runs = checkpoint.list_runs()
        if not runs:
            raise UserError("no runs under runs/ yet. Name a folder, or start with: minidiff train ddpm")
        run = runs[0]
    if out is not None and out.exists() and not force:
        raise UserError(f"{out} exists. Give another --out, or --force to replace it.")
    write = study_report.write if (run / results.STUDY).exists() else run_report.write
    page = write(run, out)
    click.echo(f"written   {page} ({page.stat().st_size / 1e6:.1f} MB); open it in a browser")
