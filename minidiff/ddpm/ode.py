"""Chapter 4, a run without new noise: the same way up and down, from pictures to their noise and back.

Rests on drawing (the run's network) and diffusion: inversion (the way up) and samplers (ddim, the way down).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minidiff.ddpm.drawing import Drawing, denoiser, device_of
from minidiff.ddpm.request import Labels
from minidiff.diffusion.chain import Step
from minidiff.diffusion.denoiser import Denoise
from minidiff.diffusion.denoiser import denoiser as as_denoise
from minidiff.diffusion.inversion import ROUNDS, retrace
from minidiff.diffusion.levels import IMAGE, PLANS, Levels
from minidiff.diffusion.predictions import prediction_of
from minidiff.diffusion.samplers import ddim
from minidiff.errors import UserError

OnStep = Callable[[Step], object]


@dataclass(frozen=True)
class Way:
    """The timesteps of a chain without new noise, falling, and how labels steer it. Made by `way_of` or by a file."""

    timesteps: Sequence[int]
    guidance_scale: float | None = 1.0  # 1: the network as it is. More makes the way up stray (Mokady et al. 2023)
    clip: bool | float = False  # pixels that were cut do not say what they were, so the way up cannot clip

    @property
    def calls_up(self) -> int:
        """How often the way up calls the network, for a batch."""
        return ROUNDS * len(self.timesteps)


def way_of(
    run: Drawing, steps: int | None = None, start_t: int | None = None, spacing: str | None = None,
    guidance_scale: float | None = 1.0,
) -> Way:  # fmt: skip
    """Choose the timesteps as ddim does, from start_t; None is the highest that the run knows. Raises UserError."""
    below = run.trained_below
    if below is not None and start_t is None:
        start_t = below - 1
    if below is not None and start_t is not None and start_t >= below:
        raise UserError(f"this run was trained on the timesteps below {below}. Give a `start_t` up to {below - 1}.")
    levels = PLANS["ddim"].levels(run.schedule, steps, start_t, spacing)
    return Way([level.t for level, _ in levels], guidance_scale)


def open_way(run: Drawing, way: Way, labels: "Labels | None" = None) -> tuple[Denoise, Levels]:
    """Put the run's network and labels, one row for each picture, on a way."""
    rows = None if labels is None else run.labels.multi_hot(labels)
    scale = None if labels is None else way.guidance_scale
    model = denoiser(run, rows, scale)
    levels = run.schedule.levels(way.timesteps)
    below = [*levels[1:], IMAGE]
    denoise = as_denoise(model, prediction_of(model, run.schedule), way.clip)
    return denoise, list(zip(levels, below, strict=True))


@torch.no_grad()
def invert(
    run: Drawing, pictures: Tensor, way: Way, labels: "Labels | None" = None, on_step: OnStep | None = None
) -> Tensor:
    """Find the noise [N,C,H,W] from which `regenerate` draws these pictures, [N,C,H,W] in [-1,1]: see `retrace`.

    labels: as of a `SampleRequest`, a row for each picture. on_step is called once a timestep, after ROUNDS calls.
    Raises UserError for labels that the run does not take, or needs.
    """
    denoise, levels = open_way(run, way, labels)
    return end_of(retrace(denoise, pictures.to(device_of(run)), levels), on_step)


@torch.no_grad()
def regenerate(
    run: Drawing, noise: Tensor, way: Way, labels: "Labels | None" = None, on_step: OnStep | None = None
) -> Tensor:
    """Go down from noise [N,C,H,W] by ddim: the pictures, about [-1,1]. See `invert`."""
    denoise, levels = open_way(run, way, labels)
    return end_of(ddim(denoise, noise.to(device_of(run)), levels), on_step)


def end_of(steps: Iterator[Step], on_step: OnStep | None) -> Tensor:
    """Walk to the last step, and return its x."""
    for step in steps:
        if on_step is not None:
            on_step(step)
    return step.x
