"""Presets: a network and the settings to train it with, named after what they are for.

Everything a preset says can be overridden by an option of its `minidiff train` command. The number of channels of the
images and the labels come from the data, so a preset fits every data set of its size. Each kind of training has its
own table, beside its records: ddpm/presets.py, gan/presets.py, classifier/presets.py.
"""

from dataclasses import replace
from typing import Protocol

from minidiff.errors import UserError
from minidiff.training.config import TrainConfig, TrainRequest, given


class Preset(Protocol):
    """The part of a preset that every kind of training has; each kind adds its network."""

    @property
    def help(self) -> str: ...

    @property
    def image_size(self) -> int: ...

    @property
    def training(self) -> TrainConfig: ...


def default_preset(device_type: str) -> str:
    """Return `gpu` where there is one, else `cpu`."""
    return "gpu" if device_type == "cuda" else "cpu"


TRAINING = (
    "steps", "minutes", "batch_size", "lr", "muon", "warmup", "ema_decay", "accumulate", "precision", "compile", "seed",
)  # fmt: skip


def training_config(preset: TrainConfig, request: TrainRequest) -> TrainConfig:
    """Replace in a preset's settings what a request sets. Epochs and minutes are turned into steps later.

    See `with_epochs` and `minutes.fit_minutes`.
    """
    training = replace(preset, **given(request, TRAINING))
    if request.warmup is None:  # a short run must get past it
        training = replace(training, warmup=min(training.warmup, training.steps // 6))
    elif request.epochs is None and request.minutes is None:
        check_warmup(training)
    return training


def with_epochs(
    training: TrainConfig, preset: TrainConfig, request: TrainRequest, images: int, batches: int = 1
) -> TrainConfig:
    """Return the settings with the steps that the request's epochs make, if it has any.

    images: of the data set. batches: how many of them a step takes.
    """
    if request.epochs is None:
        return training
    steps = steps_of(request.epochs, images, batches * training.batch_size)
    return training_config(preset, replace(request, steps=steps, epochs=None))


def steps_of(epochs: float, images: int, images_a_step: int) -> int:
    """Return how many steps it takes to see each image so often: rounded, and at least 1."""
    return max(1, round(epochs * images / images_a_step))


def check_warmup(training: TrainConfig) -> None:
    """Raise UserError for a warm-up that a training does not get past."""
    if training.warmup > training.steps:
        raise UserError(
            f"`warmup` is {training.warmup}, and there are only {training.steps} steps, so the rate would never reach "
            f"`lr`. Take {training.steps // 6}, or more steps."
        )
