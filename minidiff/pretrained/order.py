"""The common part of all kinds of drawing: a description of what will be drawn, and the result.

Rests on ddpm.chains and images.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidiff.ddpm.chains import chains_of
from minidiff.ddpm.request import SampleRequest
from minidiff.ddpm.run import Run
from minidiff.errors import counted
from minidiff.images.convert import Pixels
from minidiff.images.faults import problems
from minidiff.images.grid import grid
from minidiff.images.show import as_png
from minidiff.images.sink import ImageSink, check_target

Advance = Callable[[int], object]  # called with how much was done
Say = Callable[[str], object]  # called with a line for the user


class Drawn(NamedTuple):
    """The result of a drawing. Under torchrun only the main process has it, because only that process writes."""

    written: list[str]  # each file, in words
    shown: Pixels  # the first images, at most 256: uint8 [n,H,W,3]
    problems: list[str]  # what looks wrong with them, or with what was asked, in words
    lines: Sequence[str] = ()  # what was drawn: the model, the list of labels, the start, the sampler, in words

    def __repr__(self) -> str:
        return f"Drawn({'; '.join([*self.written, *self.problems])})"

    def _repr_png_(self) -> bytes | None:
        return as_png(grid(self.shown)) if len(self.shown) else None


NOTHING = Drawn([], np.empty((0, 0, 0, 3), np.uint8), [])


@dataclass
class Order(ABC):
    """Images that are about to be drawn: everything is open and checked."""

    target: Path
    force: bool  # replace what is at the target
    lines: list[str]  # what will be drawn, in words
    warnings: list[str]

    unit = "call"  # of what `total` counts and `draw` reports

    @property
    @abstractmethod
    def total(self) -> int:
        """The amount of work, for a progress bar."""

    @abstractmethod
    def draw(self, advance: Advance, say: Say) -> Drawn:
        """Draw the images, and write them. Raises UserError."""

    def check(self) -> None:
        """Raise UserError if something lies at the target already, before any bar is shown."""
        check_target(self.target, self.force)

    def open_sink(self) -> ImageSink:
        """Open the target before the long work. Raises UserError if it cannot be written."""
        return ImageSink(self.target, overwrite=self.force)


def finished(sink: ImageSink, *written: str) -> Drawn:
    """Sum up what went through a sink, and into which files."""
    return Drawn(list(written), sink.shown, list(problems(sink.shown)))


def take_turns(captions: Sequence[str], count: int) -> list[str]:
    """List the captions of images 0 .. count-1, for which the conditions take turns."""
    return [captions[k % len(captions)] for k in range(count)]


def journey(run: Run, request: SampleRequest) -> str:
    """Describe the timesteps of a request's chains: "4 calls, t = 995, 968, 523, 0"."""
    timesteps = {chain.start_t: chain.timesteps for chain in chains_of(run, range(request.num), request)}
    if len(timesteps) > 1:
        return f"from {len(timesteps)} different t, one chain after another"
    (only,) = timesteps.values()
    return f"{counted(len(only), 'call')}, t = {shortened(only)}"


def shortened(timesteps: Sequence[int]) -> str:
    """Shorten a list to show its start, stride and end: 999, 979, 959, ..., 19."""
    words = [str(t) for t in timesteps]
    return ", ".join(words if len(words) <= 5 else [*words[:3], "...", words[-1]])
