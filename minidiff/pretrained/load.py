"""Opening a trained model of any kind that draws: a DDPM or a GAN, ours or a checkpoint of diffusers."""

from pathlib import Path

import torch

from minidiff.ddpm.run import Run, load_ddpm
from minidiff.gan.config import GAMES
from minidiff.gan.run import GanRun, load_gan
from minidiff.interop import checkpoints as foreign
from minidiff.runs import folder as checkpoint

KINDS = ("ddpm", *GAMES)  # of runs that draw


def load(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> Run | GanRun:
    """A run folder that draws, rebuilt from its config.json alone: a DDPM as a `Run`, a GAN as a `GanRun`. Or a
    checkpoint of diffusers, here or on the Hub, as a `Run`.

    Options and errors: see `load_ddpm`.
    """
    if foreign.is_foreign(folder) or checkpoint.read_config(folder, KINDS)["kind"] == "ddpm":
        return load_ddpm(folder, weights, device, precision)
    return load_gan(folder, weights, device, precision)
