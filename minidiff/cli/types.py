"""The types of parameters: names out of tables, numbers in ranges, places, sizes and devices.

An error names what was typed and what may be; for a name it suggests the nearest.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from minidiff.errors import shown, suggestion

# click's types are generic since 8.4, for type checkers alone.
if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType


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

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete a name, or the last of several with commas between. The table itself is not imported for it."""
        before, comma, last = incomplete.rpartition(",") if isinstance(self, (Names, Counted)) else ("", "", incomplete)
        found = [name for name in self.shown or self.known() if name.startswith(last)]
        return [CompletionItem(before + comma + name) for name in found]


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


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a run: those under runs/, models that come with the package, and files and folders."""
    from minidiff.runs.folder import list_runs
    from minidiff.runs.shipped import shipped

    names = [*map(str, list_runs()), *shipped()]
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


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


class OrAuto(ParamType):
    """Take a number, or the word `auto`. described: the number and its range, for the error."""

    def __init__(self, number: Whole | Number, described: str) -> None:
        self.number, self.described, self.name = number, described, f"{number.name}|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto":
            return "auto"
        try:
            return self.number.convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"'{value}' is neither {self.described} nor auto.", param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"{self.number.get_metavar(param, ctx)}|auto"


TIMESTEP = OrAuto(Whole(min=0), "a whole number from 0 on")
NOISE = OrAuto(Number(0, 255), "a number from 0 to 255")


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

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the kinds of devices, without a look at what this machine has."""
        return [CompletionItem(name) for name in ("auto", "cpu", "cuda", "mps") if name.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if ctx is not None and ctx.resilient_parsing:  # the Tab key must not wait for torch
            return str(value)
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
