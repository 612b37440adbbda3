"""Open a trained model that draws: a DDPM or a GAN of ours, or a checkpoint of diffusers.

Rests on ddpm.run and gan.run, which open a model of one kind, and on interop.
"""

from pathlib import Path

import torch

from minidiff.ddpm.config import DdpmConfig, read_ddpm
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.gan.config import GAMES, GanConfig, read_gan
from minidiff.gan.run import GanRun, load_gan
from minidiff.interop.checkpoints import is_foreign
from minidiff.runs import folder as checkpoint
from minidiff.runs.shipped import find_run

KINDS = ("ddpm", *GAMES)  # of runs that draw


def load(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> Run | GanRun:
    """Open a run folder that draws, a DDPM as a `Run` or a GAN as a `GanRun`; or a checkpoint of diffusers as a `Run`.

    `load("photos")` opens the model of that name that comes with the package. A run is rebuilt from its config.json
    alone. The checkpoint can be a folder, or owner/name on the Hugging Face Hub. Options and
    errors: see `load_ddpm`.
    """
    folder = find_run(folder)
    if is_foreign(folder) or checkpoint.read_config(folder, KINDS)["kind"] == "ddpm":
        return load_ddpm(folder, weights, device, precision)
    return load_gan(folder, weights, device, precision)


def read_drawing(folder: Path) -> DdpmConfig | GanConfig:
    """Read the config.json of a run that draws. Raises UserError."""
    stored, where = checkpoint.read_config(folder, KINDS), folder / checkpoint.CONFIG
    return read_ddpm(stored, where) if stored["kind"] == "ddpm" else read_gan(stored, where)
