"""Chapter 3, from an image to x_t: how a reverse chain starts if it does not start with pure noise.

Rests on diffusion: process (q_sample) and noise_level (which timestep has as much noise as an image).
Ho et al. 2020 (DDPM), eq. 4.
"""

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from minidiff.diffusion.noise_level import Start, start_from
from minidiff.diffusion.process import q_sample, rates
from minidiff.diffusion.schedules import Process

AUTO_MODE = "scale"  # the init mode that goes with a measured timestep: the init has that noise already


def scaled(schedule: Process, init: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Scale an image that already has the noise of t: x_t = signal_rate * init [N,C,H,W].

    No noise is added; `noise` is here because every init mode is called with it.
    """
    signal_rate, _ = rates(schedule, t, like=init)
    return signal_rate * init  # DDPM eq. 4, with init = x0 + sigma * eps


INIT_MODES: dict[str, Callable[[Process, Tensor, Tensor, Tensor], Tensor]] = {
    "noise": q_sample,  # the init is clean: it gets the noise of t
    "scale": scaled,  # the init has that noise: only its scale is not yet that of x_t
    "as-is": lambda schedule, init, t, noise: init,  # the init is x_t
}


def measured_starts(schedule: Process, init: Tensor) -> list[Start]:
    """Measure the noise in each image of init [M,C,H,W], and find the timestep that has as much."""
    return [start_from(schedule, image[None]) for image in init]


def noise_deviation(schedule: Process, t: int) -> float:
    """Return the deviation of the noise that a chain begins with at t, if no image is in it.

    It is that of x_t for images of deviation 1: so 1 for DDPM, and about sigma with edm.
    """
    (level,) = schedule.levels([t])
    return math.sqrt(level.power)


class Sized(Protocol):
    """The part of a run that says which images it takes; `run.Run` has it."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def knows(self) -> str: ...


def shrunk(run: Sized, name: str, size: tuple[int, int]) -> str | None:
    """Warn of a picture of `size` (height, width) that is larger than the run's images; None if it is not."""
    side = run.shape[1]
    if min(size) <= side:
        return None
    return (
        f"{name} has {size[1]}x{size[0]} pixels, and the model draws {side}x{side}: the picture is shrunk to that, and "
        f"its detail is lost. The model was trained on {run.knows}, and makes every picture more like these."
    )
