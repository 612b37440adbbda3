"""What commands share: sections in the help, errors in flags, --quiet and --verbose, and options that several have.

The package's errors name arguments in backticks; `Command` turns them into flags.
"""

import logging
import re
import time
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from minidiff.cli.types import Name, Whole
from minidiff.errors import UserError, listed, suggestion
from minidiff.images.budget import MAX_PIXELS

LOG = logging.getLogger(__name__)

Function = Callable[..., Any]


def section(title: str) -> Callable[[Function], Function]:
    """Begin a section of the command's help: the options below this decorator, down to the next section."""

    def decorate(function: Function) -> Function:
        options = [param for param in vars(function)["__click_params__"] if isinstance(param, click.Option)]
        begun = [option for option in options if "section" not in vars(option)]
        assert begun, f"the section {title} of the help is empty"
        for option in begun:
            vars(option)["section"] = title
        return function

    return decorate


SAVING = {  # the options that save memory, and how
    "batch_size": "half the", "accumulate": "more of", "size": "a smaller", "image_size": "a smaller",
}  # fmt: skip


def lacking(error: BaseException) -> str | None:
    """Say which memory an error is about: `the GPU`'s or `this machine`'s; None for an error about something else."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's; to name it would import torch
        return "the GPU"
    return "this machine" if isinstance(error, MemoryError) or "can't allocate memory" in str(error) else None


def set_verbosity(level: str) -> None:
    """Call the package's `set_verbosity`, which loads more than help should wait for."""
    from minidiff.runtime import details

    details.set_verbosity(level)


def how_much_is_said() -> list[click.Option]:
    """Make --quiet and --verbose, which may stand after `minidiff`, after a group, or after a command."""

    def choose(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
        if not wanted:
            return
        if ctx.meta.setdefault("verbosity", param.name) != param.name:
            raise click.UsageError("--quiet and --verbose exclude each other. Leave one of them out.", ctx)
        set_verbosity(str(param.name))

    def flag(*names: str, help: str) -> click.Option:
        return click.Option(names, is_flag=True, is_eager=True, expose_value=False, callback=choose, help=help)

    return [
        flag("-q", "--quiet", help="Print nothing but results, warnings and errors."),
        flag("-v", "--verbose", help="Also print versions, times and the files that are read; of an error, where."),
    ]


class Command(click.Command):
    """Say `--start-t` where the package says `start_t`, and show the options of the help in their sections.

    The package's errors name arguments in backticks. If the command has an option of that name, the user reads the
    option's flag instead. When the memory does not suffice, the advice names options that this command has.
    Every command has --quiet and --verbose.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += how_much_is_said()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in the order in which they first appear. What is in none comes last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if (row := param.get_help_record(ctx)) is not None:
                sections.setdefault(vars(param).get("section", ""), []).append(row)
        others = sections.pop("", [])
        sections["Other" if sections else "Options"] = others
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        began = time.perf_counter()
        try:
            answer = super().invoke(ctx)
            LOG.info(f"{ctx.command_path} took {time.perf_counter() - began:.2f} s")
            return answer
        except UserError as error:
            error.args = (self.translated(str(error)),)
            raise
        except (MemoryError, RuntimeError) as error:
            where = lacking(error)
            if where is None:
                raise
            raise UserError(self.translated(f"{where} is out of memory. {self.memory_advice()}")) from None

    def memory_advice(self) -> str:
        """Name the options of this command that save memory."""
        there = [f"{what} `{name}`" for name, what in SAVING.items() if any(name == each.name for each in self.params)]
        return f"Try {listed(there, 'or')}." if there else "Close other programs, or use a machine with more."

    def translated(self, message: str) -> str:
        """Replace every argument in backticks by its flag: the first one that is not of a single letter."""
        options = [param for param in self.params if isinstance(param, click.Option)]
        flags = {option.name: next(flag for flag in option.opts if len(flag) > 2) for option in options}
        return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[0]), message)


class Group(click.Group):
    """A group of commands. If there is none of a name, suggest the nearest, and list them. It has --quiet, too."""

    command_class = Command

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += how_much_is_said()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(f"unknown command '{args[0]}'. {suggestion(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


def own_network() -> Callable[[Function], Function]:
    """Add the option that names the code of a network which is not of the package, so that its run may be opened."""

    def allow(_ctx: click.Context, _param: click.Parameter, names: tuple[str, ...]) -> None:
        if names:  # to import the package's networks takes a second
            from minidiff.networks.own import use_network

            for name in names:
                use_network(name)

    return click.option(
        "--network",
        metavar="MODULE:CLASS",
        multiple=True,
        expose_value=False,
        callback=allow,
        help="The code of a run's network, if it is not of minidiff. It is imported, so you must trust it.",
    )


def which_weights(use: str) -> Callable[[Function], Function]:
    """Add the option that chooses between the two sets of weights of a run. use: what for, such as Draw with."""
    return click.option(
        "--weights",
        type=Name("weights", ("ema", "raw")),
        default="ema",
        show_default=True,
        help=f"{use} the averaged weights, or the raw ones that are being trained.",
    )


# For a command that reads pictures from outside.
max_pixels = click.option(
    "--max-pixels", type=Whole(min=1), default=MAX_PIXELS, show_default=True, metavar="N",
    help="Refuse a picture that declares more pixels.",
)  # fmt: skip


# For a command that reads folders of them.
on_bad = click.option(
    "--on-bad", type=Name("choice", ("skip", "stop")), default="skip", show_default=True,
    help="What to do about image files that cannot be read.",
)  # fmt: skip


def typed(ctx: click.Context, name: str) -> bool:
    """Say whether an option was typed, rather than left at its default."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_lone_severity(ctx: click.Context) -> None:
    """Raise a usage error for --severity without --corruption, since the images would stay clean."""
    if ctx.params["corruption"] == "identity" and typed(ctx, "severity"):
        raise click.UsageError("--severity needs a --corruption. Name one, or leave --severity out.", ctx)


def refuse_options(ctx: click.Context, allowed: set[str]) -> None:
    """Raise a usage error for a typed option that is part of the run being resumed. allowed: options that are not."""
    for name in sorted(ctx.params):
        if typed(ctx, name) and name not in allowed:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} is part of the run and cannot change on --resume. Leave it out.", ctx)
