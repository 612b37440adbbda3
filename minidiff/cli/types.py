"""What several commands share: parameter types that name the nearest match, the device, and progress."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from minidiff.errors import UserError, suggestion


class Command(click.Command):
    """A command that says `--start-t` where the package says `start_t`.

    Errors of the package name an argument in backticks. Where that is the name of one of the command's parameters, the
    user is told of the flag instead.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            error.args = (self.translated(str(error)),)
            raise

    def translated(self, message: str) -> str:
        """The message with flags for arguments."""
        flags = {param.name: max(param.opts, key=len) for param in self.params if isinstance(param, click.Option)}
        return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[0]), message)


class Name(click.ParamType):
    """One name out of a table; a wrong one is answered with the nearest.

    names: the table, or a function that imports it when it is needed. shown: its names for the help, where the table
    must not be imported for that.
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
    """Names out of a table, with commas between: `fid,kid`. Gives the list of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return [super(Names, self).convert(name.strip(), param, ctx) for name in value.split(",")]

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME,NAME,..."


class Counted(Name):
    """Names with a number each, where it matters: `ddpm:1000,ddim:50,heun`. Gives a list of name and number or None."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = []
        for word in value.split(","):
            name, colon, number = word.strip().partition(":")
            if colon and (not number.isdecimal() or int(number) < 1):
                self.fail(f"'{word}': after the colon stands a whole number from 1, as in {name}:20.", param, ctx)
            found.append((super().convert(name, param, ctx), int(number) if colon else None))
        return found

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "NAME:N,NAME:N,..."


class Place(click.Path):
    """A file or folder; `~` is the home folder, also where the shell leaves it, as in `--out=~/run`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)


class Number(click.FloatRange):
    """A number in a range; `nan`, which no comparison refuses, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Timestep(click.ParamType):
    """A timestep, 0 or more, as a number; or `auto`."""

    name = "t|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            self.fail(f"'{value}' is neither a whole number nor auto.", param, ctx)
        if number < 0:
            self.fail(f"{number} is below 0, the last timestep of every chain.", param, ctx)
        return number


class Steps(click.ParamType):
    """Steps of a fit, with commas between: `30,250,460`."""

    name = "n,n,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return [int(word) for word in value.split(",")]
        except ValueError:
            self.fail(f"'{value}' is no list of steps. Give whole numbers, as in 30,250,460.", param, ctx)


class Device(click.ParamType):
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`: checked to be there. Gives the name."""

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
                f"--device {value}: {built}. Use --device cpu, or mend the driver (`nvidia-smi` must work).", param, ctx
            )
        if device.type == "cuda" and (device.index or 0) >= count:
            self.fail(f"--device {value}: there are {count} GPUs, counted from 0.", param, ctx)
        if device.type == "mps" and not torch.backends.mps.is_available():
            self.fail("--device mps: this machine has none. Use --device cpu.", param, ctx)
        if device.type not in ("cpu", "cuda", "mps"):
            self.fail(f"--device {value} is not supported. Known: auto, cpu, cuda, mps.", param, ctx)
        return str(value)


def say(message: str, err: bool = False) -> None:
    """A line for the user, from the main process alone; on standard error where the output is for a program."""
    from minidiff.runtime.distributed import is_main

    if is_main():
        click.echo(message, err=err)


def warn(message: str) -> None:
    """A warning on standard error, from the main process alone."""
    from minidiff.runtime.distributed import is_main

    if is_main():
        click.echo(f"Warning: {message}", err=True)


def typed(ctx: click.Context, name: str) -> bool:
    """Whether an option was given on the command line, and does not only have its default."""
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def refuse_lone_severity(ctx: click.Context) -> None:
    """A usage error for a --severity that was typed without a corruption: the images would be clean all the same."""
    if ctx.params["corruption"] == "identity" and typed(ctx, "severity"):
        raise click.UsageError("--severity is that of a --corruption. Name one, or leave it out.", ctx)


def refuse_options(ctx: click.Context, allowed: set[str]) -> None:
    """A usage error for an option that was typed although it belongs to the run that is being resumed."""
    for name in sorted(ctx.params):
        if typed(ctx, name) and name not in allowed:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} is part of the run and cannot change on --resume. Leave it out.", ctx)
