"""Presets: a network and the settings to train it with, named after what they are for.

Everything a preset says can be overridden by an option of its `minidiff train` command. The number of channels of the
images and the labels come from the data, so a preset fits every data set of its size. Each kind of training has its
own table, beside its records: ddpm/presets.py, gan/presets.py, classifier/presets.py.
"""

from dataclasses import replace
from typing import Protocol

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


TRAINING = ("steps", "batch_size", "lr", "warmup", "ema_decay", "accumulate", "precision", "compile", "seed")


def training_config(preset: TrainConfig, request: TrainRequest) -> TrainConfig:
    """Replace in a preset's settings what a request sets."""
    training = replace(preset, **given(request, TRAINING))
    if request.warmup is None:  # a short run must get past it
        training = replace(training, warmup=min(training.warmup, training.steps // 6))
    return training
