"""The command line: each command parses its options, builds a request, calls one function of the package, and prints.

Nothing is computed here, so a script can do all that a command does. Flags are named in this folder only.
"""

import errno
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

import click

from minidiff._version import __version__
from minidiff.cli.commands import Group, set_verbosity
from minidiff.errors import UserError, printable, printable_lines
from minidiff.runtime import cpu
from minidiff.runtime.signals import ending_signals
from minidiff.runtime.verbosity import VARIABLE, verbosity

# For each command: where it is, and its line in `minidiff --help`, grouped by what a user wants to do. A module is
# imported when its command is called.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Draw": {
        "sample": ("minidiff.cli.sample:sample", "Draw images from a trained model."),
        "demo": ("minidiff.cli.demo:demo", "Serve a page for the browser, to draw and to restore photographs."),
    },
    "Your own pictures": {
        "restore": ("minidiff.cli.restore:restore", "Take noise, holes, blur or JPEG's blocks out of photographs."),
        "dehaze": ("minidiff.cli.dehaze:dehaze", "Take the haze off photographs."),
        "dip": ("minidiff.cli.dip:dip", "Fit a deep image prior to a picture: `minidiff dip fit`."),
    },
    "Train": {
        "train": ("minidiff.cli.train:train", "Train a model. Start with `minidiff train ddpm`."),
        "data": ("minidiff.cli.data:data", "List, preview and export data sets."),
    },
    "Measure and compare": {
        "fid": ("minidiff.cli.fid:fid", "Measure how far two sets of images are apart: FID, KID and others."),
        "likelihood": (
            "minidiff.cli.likelihood:likelihood",
            "Measure how probable images are under a model, in bits a dimension.",
        ),
        "evaluate": ("minidiff.cli.evaluate:command", "Ask a classifier whether a model draws what it was asked for."),
        "compare": (
            "minidiff.cli.compare:compare",
            "Train several models on several data sets, and measure them alike.",
        ),
        "compare-priors": (
            "minidiff.cli.compare_priors:compare_priors",
            "Ask whether a deep image prior helps a DDPM, with controls.",
        ),
    },
    "Look": {
        "info": ("minidiff.cli.info:info", "Describe a run, or list all runs."),
        "models": ("minidiff.cli.models:models", "List the trained models that come with minidiff."),
        "report": (
            "minidiff.cli.report:report",
            "Write a page about a run or a study: settings, curves and pictures.",
        ),
    },
    "Exchange with other libraries": {
        "import": (
            "minidiff.cli.interop:import_",
            "Make a run out of a diffusers checkpoint, from a folder or the Hub.",
        ),
        "export": ("minidiff.cli.interop:export", "Write a run as a folder that diffusers opens."),
    },
    "This machine": {
        "doctor": ("minidiff.cli.doctor:doctor", "Look whether this machine can do all of this, and say what to mend."),
        "completion": (
            "minidiff.cli.completion:completion",
            "Let the Tab key complete commands, options and names in your shell.",
        ),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


class Commands(Group):
    """Look up a command in COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))  # so that the lines of all groups begin in the same column
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in commands.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="minidiff")
def cli() -> None:
    """Diffusion models in plain PyTorch: train, sample, measure.

    \b
    minidiff train ddpm                    train on the embedded data set: a few minutes on a CPU
    minidiff sample                        draw images from the newest run
    minidiff restore photo.png             take the noise out of a photograph
    minidiff fid samples.npz dataset:fashion-mnist
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 an error, 2 wrong usage, 128 + the signal when interrupted."""
    # One of several processes may be waiting for another that has gone. It must die at once.
    ending = ending_signals() if os.environ.get("WORLD_SIZE", "1") == "1" else []
    handler = end_once()
    for number in ending:
        signal.signal(number, handler)
    code = run(args)
    if code > 128:  # all is cleared away; a second signal, while Python shuts down, would change the exit code
        for number in ending:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


class Terminated(BaseException):
    """Say that SIGTERM or SIGHUP came, and which. Half-written files are removed; a training saves first (journal)."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def end_once(patience: float = 10) -> Callable[[int, object], None]:
    """Make a signal handler that raises Terminated, then ignores further signals for `patience` seconds."""
    until = 0.0

    def handle(number: int, _frame: object) -> None:
        nonlocal until
        if time.monotonic() > until:
            until = time.monotonic() + patience
            raise Terminated(number)

    return handle


def run(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code. An error that the user can mend is one line, never a traceback.

    With --verbose the traceback is printed, too. How much is said is as before when this returns.
    """
    cpu.tune()
    before = os.environ.get(VARIABLE)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd metadata, over several raw lines
    try:
        return carry_out(args)
    finally:
        if os.environ.get(VARIABLE) != before:
            set_verbosity(before or "normal")


def carry_out(args: list[str] | None) -> int:
    """Run the command line, and make an exit code of however it ends."""
    try:
        if verbosity() == "verbose":  # as the environment has it
            set_verbosity("verbose")
        code = cli.main(args=args, prog_name="minidiff", standalone_mode=False)
        return code if isinstance(code, int) else 0  # a number is what a command has given to `ctx.exit`
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())  # a group without a command prints its help
        return 0
    except click.UsageError as error:
        command = f" See `{error.ctx.command_path} --help`." if error.ctx else ""
        return fail(error.format_message().rstrip(".") + "." + command, 2)
    except click.ClickException as error:
        return fail(error.format_message(), error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return fail("interrupted.", 130)
    except Terminated as ended:
        said = "terminated." if ended.number == signal.SIGTERM else "ended, because the terminal was closed."
        return fail(said, 128 + ended.number)
    except UserError as error:
        return 1 if error.told else fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the pipe has gone, so there is nobody to tell
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EIO and error.filename is None:
            return 1  # the terminal has gone, so there is nobody to tell
        code = getattr(error, "exit_code", None)  # this is `journal.Interrupted`; to name it here would import torch
        if code is not None:
            tell(printable(str(error)))
            return int(code)
        if isinstance(error, OSError) and error.strerror and error.filename:
            return fail(f"{error.filename}: {error.strerror}.", 1)
        raise


def fail(message: str, code: int) -> int:
    """Print the error and hand back the exit code. --verbose also shows where in the code it was raised."""
    if os.environ.get(VARIABLE) == "verbose":
        tell(traceback.format_exc().rstrip(), err=True)
    tell(f"Error: {printable(message)}", err=True)
    return code


def tell(message: str, err: bool = False) -> None:
    """Print a last line. The terminal may have gone before it."""
    with suppress(OSError):
        click.echo(printable_lines(message), err=err)
