"""Open a trained model that draws: a DDPM, a GAN or a prior of ours, or a checkpoint of diffusers.

Rests on ddpm.run, gan.run and priors.run, which open a model of one kind, and on interop.
"""

from pathlib import Path

import torch

from minidiff.ddpm.config import DdpmConfig, read_ddpm
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.gan.config import GAMES, GanConfig, read_gan
from minidiff.gan.run import GanRun, load_gan
from minidiff.interop.checkpoints import is_foreign
from minidiff.priors.config import DIP_PRIOR
from minidiff.priors.run import PriorRun, load_prior
from minidiff.runs import folder as checkpoint
from minidiff.runs.shipped import find_run

KINDS = ("ddpm", *GAMES)  # of runs that draw new images


def load(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> Run | GanRun | PriorRun:
    """Open a run folder that draws: a DDPM, or a checkpoint of diffusers, as a `Run`; a GAN as a `GanRun`.

    A dip-prior run is opened, too, as a `PriorRun`, which shows what it makes of noisy training images.

    `load("photos")` opens the model of that name that comes with the package. A run is rebuilt from its config.json
    alone. The checkpoint can be a folder, or owner/name on the Hugging Face Hub. Options and
    errors: see `load_ddpm`.
    """
    folder = find_run(folder)
    if is_foreign(folder):
        return load_ddpm(folder, weights, device, precision)
    kind = checkpoint.read_config(folder, (*KINDS, DIP_PRIOR))["kind"]
    if kind == "ddpm":
        return load_ddpm(folder, weights, device, precision)
    return (load_prior if kind == DIP_PRIOR else load_gan)(folder, weights, device, precision)


def read_drawing(folder: Path) -> DdpmConfig | GanConfig:
    """Read the config.json of a run that draws. Raises UserError."""
    stored, where = checkpoint.read_config(folder, KINDS), folder / checkpoint.CONFIG
    return read_ddpm(stored, where) if stored["kind"] == "ddpm" else read_gan(stored, where)
