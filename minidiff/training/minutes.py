"""A training that is told its minutes: how many steps fit, and what to do when the machine changes its pace.

Rests on job and estimates. A few steps are timed and thrown away, the number of steps that fit is computed, and the
training begins anew with it, as if a user had typed that number. As it goes, the end is projected; see `Clock`.
"""

from dataclasses import replace

from minidiff.errors import UserError
from minidiff.runtime import distributed
from minidiff.training.clock import Clock, now, synchronise
from minidiff.training.config import TrainConfig, TrainRequest
from minidiff.training.estimates import aside, steps_that_fit
from minidiff.training.job import AnyJob
from minidiff.training.loop import Training
from minidiff.training.presets import training_config

TRIAL = 0.02  # of the time is spent on timed steps, if there are more than the fewest
FEWEST, MOST = 2, 50  # timed steps


def fit_minutes(job: AnyJob, preset: TrainConfig, request: TrainRequest) -> AnyJob:
    """Give a new training the number of steps that fit the request's minutes, if it has any. Returns the training.

    The steps of the trial leave nothing behind: network and optimizer are built once more. So the weights are those of
    a training with the same number of steps, to the bit.
    Raises UserError when not even one step fits.
    """
    if request.minutes is None:
        return job
    began = now()
    clock = Clock(request.minutes)
    first, clock.pace = time_steps(job.trainer, TRIAL * clock.seconds)
    # The first step once more: it compiles, and tries the algorithms. `work` counts what it really took.
    clock.gone = 2 * (now() - began) if first > 10 * clock.pace else now() - began
    steps = steps_that_fit(job, clock, 0, now_gone=clock.gone)
    steps = distributed.from_main(steps)
    if steps < 1:
        least = distributed.from_main((clock.gone + clock.pace + aside(job, clock, 0, 1)) / 60)
        raise UserError(
            f"`minutes` is {request.minutes:g}, and not even one step fits beside its pictures. Take {1.1 * least:.1g}."
        )
    training = training_config(preset, replace(request, minutes=None, steps=steps))
    job.begin(replace(training, minutes=request.minutes))
    job.clock = clock
    clock.gone = now() - began
    return job


def time_steps(trainer: Training, seconds: float) -> tuple[float, float]:
    """Train for about some seconds. Returns the seconds of the first step, and of each after it.

    All processes train equally many steps, and the main one's times are returned in each.
    """
    steps = trainer.steps()
    began = now()
    next(steps)
    synchronise(trainer.device)
    first, count, since = now() - began, 0, now()
    for _ in steps:
        count += 1
        synchronise(trainer.device)
        if distributed.from_main(count >= MOST or (count >= FEWEST and now() - since >= seconds)):
            break
    steps.close()  # type: ignore[attr-defined]
    return distributed.from_main((first, (now() - since) / max(1, count) or first))
