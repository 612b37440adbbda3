"""What several commands share: parameter types whose errors name the nearest match, the device, and messages.

The package's errors and warnings name arguments in backticks; `Command` and `warn` turn them into flags.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from minidiff.errors import UserError, listed, printable, printable_lines, shown, suggestion
from minidiff.images.budget import MAX_PIXELS
from minidiff.runtime.verbosity import is_first, is_quiet

LOG = logging.getLogger(__name__)

# click's types are generic since 8.4, for type checkers alone.
if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType


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
        """Replace every argument in backticks by its flag."""
        flags = {param.name: max(param.opts, key=len) for param in self.params if isinstance(param, click.Option)}
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


class Name(ParamType):
    """Take one name out of a table. The error for an unknown name suggests the nearest.

    names: the table, or a function that imports it when it is needed. shown: the names for the help, if the help must
    not import the table.
    """

    def __init__(
        self, kind: str, names: Mapping[str, Any] | Sequence[str] | Callable[[], Any], shown: Sequence[str] = ()
    ) -> None:
        self.name, self.names, self.shown = kind, names, shown

    def known(self) -> list[str]:
        return list(self.names() if callable(self.names) else self.names)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.known():
            self.fail(f"unknown {self.name} '{value}'. {suggestion(value, self.known())}", param, ctx)
        return str(value)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "|".join(self.shown or self.known())


class Names(Name):
    """Take several names out of a table, with commas between: `fid,kid`. Gives a list."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return [super(Names, self).convert(name.strip(), param, ctx) for name in value.split(",")]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME,NAME,..."


class Counted(Name):
    """Take names, each with a number or without: `ddpm:1000,heun`. Gives a list of (name, number or None)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = []
        for word in value.split(","):
            name, colon, number = word.strip().partition(":")
            if colon and (not number.isdecimal() or int(number) < 1):
                self.fail(f"'{word}': give a whole number, 1 or more, after the colon, as in {name}:20.", param, ctx)
            found.append((super().convert(name, param, ctx), int(number) if colon else None))
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME:N,NAME:N,..."


class Place(click.Path):
    """Take a file or folder. `~` is the home folder even where the shell does not replace it: `--out=~/run`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)


class Whole(click.IntRange):
    """Take a whole number in a range. Click's own range calls itself an `integer range` in errors."""

    name = "whole number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N"


class Number(click.FloatRange):
    """Take a finite number in a range. Click's own range lets `nan` through."""

    name = "number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class JsonObject(ParamType):
    """Take a JSON object, such as `{"width": 64}`. Gives a dict."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.fail(f'{shown(value)} is no JSON object, such as {{"width": 64}}.', param, ctx)
        return found


class Timestep(ParamType):
    """Take a timestep, a whole number from 0 on, or `auto`."""

    name = "t|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            self.fail(f"'{value}' is neither a whole number nor auto.", param, ctx)
        if number < 0:
            self.fail(f"{number} is below 0, where every chain ends.", param, ctx)
        return number


class Noise(ParamType):
    """Take the deviation of noise, of 255, or `auto`."""

    name = "x|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "auto":
            return "auto"
        try:
            number = float(value)
        except ValueError:
            self.fail(f"'{value}' is neither a number nor auto.", param, ctx)
        if not 0 <= number <= 255:
            self.fail(f"{number:g} is no deviation of noise in pixels of 0 to 255. Give 0 to 255, or auto.", param, ctx)
        return number


class Steps(ParamType):
    """Take steps of a fit, with commas between: `30,250,460`."""

    name = "n,n,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return [int(word) for word in value.split(",")]
        except ValueError:
            self.fail(f"'{value}' is no list of steps. Give whole numbers, as in 30,250,460.", param, ctx)


class Size(ParamType):
    """Take width and height of an image: `640x480`. Gives (height, width)."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        width, _, height = value.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            self.fail(f"'{value}' is no size. Give width and height in pixels, as in 640x480.", param, ctx)
        return int(height), int(width)


class Device(ParamType):
    """Take `auto`, `cpu`, `cuda`, `cuda:1` or `mps`, and check that this machine has it. Gives the name."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        import torch

        if value == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(value)
        except RuntimeError:
            self.fail(f"unknown device '{value}'. Known: auto, cpu, cuda, cuda:0, cuda:1, ..., mps.", param, ctx)
        count = torch.cuda.device_count()
        if device.type == "cuda" and not count:
            built = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
            self.fail(
                f"--device {value}: {built}. Use --device cpu, or repair the driver (`nvidia-smi` must work).",
                param,
                ctx,
            )
        if device.type == "cuda" and (device.index or 0) >= count:
            self.fail(f"--device {value}: this machine has {count} GPUs, and the first is cuda:0.", param, ctx)
        if device.type == "mps" and not torch.backends.mps.is_available():
            self.fail("--device mps: this machine has no such GPU. Use --device cpu.", param, ctx)
        if device.type not in ("cpu", "cuda", "mps"):
            self.fail(f"--device {value} is not supported. Known: auto, cpu, cuda, mps.", param, ctx)
        return str(value)


# For a command that reads pictures from outside.
max_pixels = click.option(
    "--max-pixels", type=Whole(min=1), default=MAX_PIXELS, show_default=True, metavar="N",
    help="Refuse a picture that declares more pixels.",
)  # fmt: skip


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
