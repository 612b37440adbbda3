"""What a training that is told its minutes has to guess: how many steps fit, and what its pictures will take.

Rests on clock and previews. The clock knows the pace of the steps, and what the latest picture took.
"""

import math
from typing import Protocol

from minidiff.training.clock import Clock
from minidiff.training.config import TrainConfig
from minidiff.training.previews import CURVES, SHARE, Previews


class Planned(Protocol):
    """The part of a training that says what is drawn and measured, and how often; `job.Job` has it."""

    @property
    def training(self) -> TrainConfig: ...
    @property
    def preview_passes(self) -> int: ...
    @property
    def measure_passes(self) -> int: ...
    def sample_interval(self, steps: int) -> tuple[int, bool]: ...
    def measure_interval(self, steps: int) -> int | None: ...


def steps_that_fit(job: Planned, clock: Clock, step: int, now_gone: float) -> int:
    """Compute the number of steps, all in all, that ends the training in time. now_gone: seconds until now."""
    left = clock.seconds - now_gone
    count = left / clock.pace
    for _ in range(20):  # how many pictures there are depends on the steps again
        if count < 1:
            break
        count = left / (clock.pace + aside(job, clock, step, step + round(count)) / count)
    return step + int(count)


def aside(job: Planned, clock: Clock, step: int, steps: int) -> float:
    """Estimate the seconds that pictures and measurements take between a step and the last one."""
    image = clock.pace / job.training.batch_size / 3  # see `Previews.is_worth`
    every, may_skip = job.sample_interval(steps)
    pictures = Previews(every, steps, may_skip, 0)
    due = sum(map(pictures.is_due, range(step - step % every + every, steps, every)))
    picture = clock.latest.get("preview", CURVES + job.preview_passes * image)
    before_last = due * picture
    if may_skip:
        before_last = min(before_last, SHARE * (steps - step) * clock.pace)
    measure_every = job.measure_interval(steps)
    measurements = math.ceil(steps / measure_every) - step // measure_every if measure_every else 0
    measurement = clock.latest.get("measure", job.measure_passes * image)
    return before_last + picture + measurements * measurement
