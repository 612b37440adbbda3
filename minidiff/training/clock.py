"""The clock of a training that is to take some minutes: it projects the end, and says when the steps do not fit.

Rests on nothing but torch. A machine gets slower or faster while it trains, and what pictures take is known once one is
drawn. So at a few moments the pace since the last one is measured. If the end would come too early or too late, the
training gets another number of steps: see `Job.work`.
"""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

# Shares of the time. Most of them are early: there a cosine is flat, so that another number of steps hardly moves the
# rate. At 0.6 of the way, a quarter more steps raise it by a third.
MOMENTS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9)
TOLERANCE = 0.05  # of the time: a projected end nearer than this is left as it is
LATE = 2 / 3  # of the steps; from there on the rate comes down, and more steps would raise it again

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def now() -> float:
    """Return the seconds of a clock that runs evenly."""
    return time.perf_counter()


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given, so that its time can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Clock:
    """How much of the minutes is gone, and how fast the steps are."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.gone = 0.0  # seconds before the training began, which belong to its time
        self.began = 0.0
        self.pace = 0.0  # seconds a step, without pictures and measurements
        self.spent = 0.0  # seconds on pictures and measurements
        self.latest: dict[str, float] = {}  # seconds on the latest one of each, by name
        self.moments = list(MOMENTS)
        self.mark: tuple[int, float] | None = None  # a step, and the seconds of training up to it

    def start(self) -> None:
        """Begin to count, after what is gone already."""
        self.began = now() - self.gone

    @property
    def elapsed(self) -> float:
        return now() - self.began

    def timed(self, name: str, work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Return a function that does the same work, and takes note of the time. It does not count as the steps'."""

        def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            began = now()
            try:
                return work(*arguments, **named)
            finally:
                self.latest[name] = now() - began
                self.spent += self.latest[name]

        return run

    def is_moment(self, step: int, device: torch.device) -> bool:
        """Tell whether it is time to project the end, and measure the pace up to this step if it is.

        The first step of a process compiles, so the pace is measured from the second on.
        """
        if self.mark is None:
            synchronise(device)
            self.mark = step, self.elapsed - self.spent
        if not self.moments or self.elapsed < self.moments[0] * self.seconds or step == self.mark[0]:
            return False
        synchronise(device)
        self.moments = [moment for moment in self.moments if self.elapsed < moment * self.seconds]
        trained = self.elapsed - self.spent
        self.pace = max(1e-9, trained - self.mark[1]) / (step - self.mark[0])
        self.mark = step, trained
        return True

    def is_off(self, step: int, steps: int, fitting: int, aside: float) -> bool:
        """Tell whether the number of steps should become `fitting`. aside: seconds of pictures that are still to come.

        Late in a training it may only become smaller: the rate must not rise again. Then the training ends early.
        """
        end = self.elapsed + (steps - step) * self.pace + aside
        if fitting > steps and step > LATE * steps:
            return False
        return fitting != steps and abs(end - self.seconds) > TOLERANCE * self.seconds
