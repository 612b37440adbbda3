"""What the command line prints: results, remarks, and warnings. Every text goes through here.

The package's warnings name arguments in backticks; `warn` turns them into flags.
"""

import click

from minidiff.cli.commands import Command
from minidiff.errors import printable, printable_lines
from minidiff.runtime.verbosity import is_first, is_quiet


def echo(message: str, err: bool = False) -> None:
    """Print lines. Every text of the command line goes through here or through `warn`, which leave no control codes."""
    click.echo(printable_lines(message), err=err)


def say(message: str, err: bool = False) -> None:
    """Print a result, from the main process only. err: on standard error, if the output is for a program."""
    if is_first():
        echo(message, err)


def remark(message: str, err: bool = False) -> None:
    """Print what is worth knowing on the way to a result, unless --quiet was given."""
    if not is_quiet():
        say(message, err)


def warn(message: str) -> None:
    """Print a warning on standard error, from the main process only, with flags for arguments in backticks.

    --quiet does not silence it: a warning says that a result may be other than it seems.
    """
    if is_first():
        echo(f"Warning: {printable(in_flags(message))}", err=True)


def in_flags(message: str) -> str:
    """Replace arguments in backticks by the flags of the command that is running."""
    context = click.get_current_context(silent=True)
    return context.command.translated(message) if context and isinstance(context.command, Command) else message
