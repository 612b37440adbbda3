"""What `minidiff restore` and `minidiff dehaze` share: where answers go, and what is said on the way."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import Place
from minidiff.errors import UserError, counted, printable
from minidiff.runs.folder import SHEETS

if TYPE_CHECKING:
    from minidiff.runs.picture_run import PictureJob

MANY = 20  # of more pictures than this only what is wrong is said of each


class Found(Protocol):
    """What every result of a picture has: what is wrong with it, what the answer could not keep, and what was done."""

    @property
    def faults(self) -> tuple[str, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def in_words(self) -> str: ...


Result = TypeVar("Result", bound=Found)
Function = TypeVar("Function", bound=Callable[..., Any])


def answer_options(usual: str, name: str) -> Callable[[Function], Function]:
    """Add the options that say where answers and the run folder go.

    usual: the file of an answer if nobody says. name: of run folders, before the name of the picture.
    """

    def decorate(function: Function) -> Function:
        for option in (
            click.option("--force", is_flag=True, help="Replace what is at --out. Else an existing picture is kept."),
            click.option(
                "--run",
                type=Place(),
                metavar="FOLDER",
                help=f"Where the run folder goes, which explains the answer. Default: runs/{name}-PICTURE-N.",
            ),
            click.option(
                "--out",
                type=Place(),
                metavar="FILE",
                help=f"The answer, or the folder for several. Default: {usual}, or {Path(usual).stem}.",
            ),
        ):
            function = option(function)
        return function

    return decorate


def go_through(job: "PictureJob[Result]", command: str, done: str) -> None:
    """Work on pictures with a bar, and say what was found, a line each. done: what becomes of them, such as restored.

    Raises UserError if all failed.
    """
    from minidiff.runtime.progress import progress_bar

    resuming = job.folder is not None
    remark(f"{job.describe()}\n{'resuming ' if resuming else 'run      '} {job.start()}")
    for warning in job.warnings:
        warn(warning)
    files = job.places.files
    with progress_bar(len(files), unit="picture") as bar:

        def ended(file: Path, result: Result) -> None:
            bar.update()
            for note in result.notes:
                warn(note)
            for fault in result.faults:
                warn(f"{file.name}: {fault}")
            if len(files) <= MANY:
                say(f"{printable(file.name)}: {result.in_words()}")

        try:
            worked = job.work(on_end=ended)
        except Exception:
            raise
        except BaseException:  # Ctrl-C, or a signal that ends the process
            remark(f"stopped. Go on with: minidiff {command} --resume {shlex.quote(str(job.start()))}")
            raise
    for failure in worked.failures:
        warn(failure)
    if not worked.results:
        raise UserError(f"none of the {counted(len(files), 'picture')} could be {done}.")
    sheets = worked.folder / SHEETS
    look = sheets if job.places.several else sheets / job.places.png_of(files[0])
    out = job.places.out if job.places.several else next(iter(worked.answers.values()))
    say(f"written   {out}; look at {look}")
