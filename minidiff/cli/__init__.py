"""The command line: parse, build, loop, save. Nothing here computes; a script can call all that these commands call."""

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module

import click

from minidiff._version import __version__
from minidiff.errors import UserError, suggestion
from minidiff.runtime import cpu

# Command -> where it is, and its line in `minidiff --help`: a module is imported when its command is called.
COMMANDS = {
    "train": ("minidiff.cli.train:train", "Train a model; try `minidiff train ddpm`."),
    "sample": ("minidiff.cli.sample:sample", "Draw images from a trained model."),
    "dip": ("minidiff.cli.dip:dip", "Fit a deep image prior to a picture: `minidiff dip fit`."),
    "restore": ("minidiff.cli.restore:restore", "Clean a noisy picture: a deep image prior, then a trained model."),
    "fid": ("minidiff.cli.fid:fid", "How far two sets of images are apart: FID, KID, and others."),
    "evaluate": ("minidiff.cli.evaluate:command", "Whether a model draws what is asked for, as a classifier sees it."),
    "compare": ("minidiff.cli.compare:compare", "Train, sample, measure: models beside each other, on many data."),
    "import": ("minidiff.cli.interop:import_", "A run folder out of a checkpoint of diffusers, here or on the Hub."),
    "export": ("minidiff.cli.interop:export", "A run as a folder that diffusers opens."),
    "info": ("minidiff.cli.info:info", "Tell what a run is, or list the runs."),
    "report": ("minidiff.cli.report:report", "A page about a run or a study: settings, curves, pictures, results."),
    "data": ("minidiff.cli.data:data", "List, look at and export data sets."),
}


class Commands(click.Group):
    """Finds its commands in COMMANDS, and suggests the nearest for a name that is none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"unknown command '{args[0]}'. {suggestion(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="minidiff")
def cli() -> None:
    """Diffusion models in plain PyTorch: train, sample, measure.

    \b
    minidiff train ddpm                    train on the embedded data set, a few minutes on a CPU
    minidiff sample                        draw images from the newest run
    minidiff sample --start-t 100 --init dip.png
    minidiff fid samples.npz dataset:fashion-mnist
    """


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 an error, 2 wrong usage, 128 + the signal when interrupted."""
    if os.environ.get("WORLD_SIZE", "1") == "1":  # one of several may wait for another that has gone: it dies at once
        signal.signal(signal.SIGTERM, end_once())
    code = run(args)
    if code == 143:  # all is cleared away: while Python shuts down, one more would only change the exit code
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)


class Terminated(BaseException):
    """SIGTERM came: as with Ctrl-C, what is half written is cleared away. A training saves itself (journal)."""


def end_once(patience: float = 10) -> Callable[[int, object], None]:
    """A handler that raises Terminated; while that clears away, for so many seconds, further signals do not disturb."""
    until = 0.0

    def handle(_number: int, _frame: object) -> None:
        nonlocal until
        if time.monotonic() > until:
            until = time.monotonic() + patience
            raise Terminated

    return handle


def run(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code. Everything the user can mend is one line, never a traceback."""
    cpu.tune()
    try:
        cli.main(args=args, prog_name="minidiff", standalone_mode=False)
        return 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())  # a group by itself: its help is the answer
        return 0
    except click.UsageError as error:
        command = f" See `{error.ctx.command_path} --help`." if error.ctx else ""
        return fail(error.format_message() + command, 2)
    except click.ClickException as error:
        return fail(error.format_message(), error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return fail("interrupted.", 130)
    except Terminated:
        return fail("terminated.", 143)
    except UserError as error:
        return 1 if error.told else fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone; nobody is left to tell
        return 1
    except Exception as error:
        code = getattr(error, "exit_code", None)  # `journal.Interrupted`, without importing torch to name it
        if code is not None:
            click.echo(str(error))
            return int(code)
        mend = "Try half the --batch-size, or --accumulate 2 when training; in a fit, a smaller --size."
        if type(error).__name__ == "OutOfMemoryError":
            return fail(f"the GPU is out of memory. {mend}", 1)
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return fail(f"out of memory. {mend}", 1)
        if isinstance(error, OSError) and error.strerror and error.filename:
            return fail(f"{error.filename}: {error.strerror}.", 1)
        raise


def fail(message: str, code: int) -> int:
    click.echo(f"Error: {message}", err=True)
    return code
