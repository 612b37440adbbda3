"""`minidiff report`: write a page about a run or a study, to look at in a browser."""

from pathlib import Path

import click

from minidiff.cli.commands import Command
from minidiff.cli.messages import say
from minidiff.cli.types import Place, complete_run
from minidiff.files import size_in_words


@click.command(cls=Command)
@click.argument("run", type=Place(path_type=Path), required=False, shell_complete=complete_run)
@click.option("--out", type=Place(path_type=Path), help="The page to write. Default: report.html in the folder.")
@click.option("--force", is_flag=True, help="Replace --out if it exists. The page in the folder is always replaced.")
def report(run: Path | None, out: Path | None, force: bool) -> None:
    """Write a page about RUN, which may be a study: settings, curves, pictures and results in one file.

    Without RUN, the page is about the newest run under runs/. About a model that comes with minidiff it is NAME.html,
    in the current folder.

    \b
    minidiff report runs/ddpm-shapes-1
    minidiff report STUDY --out page.html
    """
    import minidiff

    page = minidiff.report(run, out, force=force)
    say(f"written   {page} ({size_in_words(page.stat().st_size)}). Open it in a browser.")
