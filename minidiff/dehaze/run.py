"""A trained dehazing, opened from its run folder, or by the name of the model that comes with the package.

Rests on networks.gunet and runs.

run = load_dehaze("runs/dehaze-haze-1")
guess = run.guess(hazy)     # J, T and A of float [N,3,H,W] in [-1,1]
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minidiff.dehaze.config import DehazeConfig, read_dehaze
from minidiff.images.show import newest_png
from minidiff.networks.gunet import Clearing, GUNet
from minidiff.networks.weights import build_with
from minidiff.runs.folder import CONFIG, read_config, read_weights
from minidiff.runs.shipped import find_run
from minidiff.runtime.precision import mixed_precision


@dataclass
class DehazeRun:
    """A trained dehazing: its folder, config and network, in eval mode."""

    folder: Path
    config: DehazeConfig
    model: nn.Module
    precision: str = "auto"  # to work in: fp32, bf16, auto

    def __repr__(self) -> str:
        return f"DehazeRun({self.folder}: stage {self.config.stage}, trained on {self.config.data.name})"

    def _repr_png_(self) -> bytes | None:
        """Show the last picture of the training in a notebook."""
        return newest_png(self.folder / "samples")

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def guess(self, hazy: Tensor) -> Clearing:
        """Guess J, T and A of pictures by stage 1, at the size that they have: float32, on the run's device."""
        autocast = mixed_precision(self.precision, self.device)
        with autocast():
            guess: Clearing = self.model(hazy.to(self.device).contiguous(memory_format=torch.channels_last))
        return Clearing(*(each.float() for each in guess))


def load_dehaze(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> DehazeRun:
    """Open a dehaze run. Options: see `load_ddpm`.

    Raises UserError when the folder is none, has no weights yet, or has weights that do not fit exactly.
    """
    folder = Path(find_run(folder)).expanduser()
    config = read_dehaze(read_config(folder, kind="dehaze"), folder / CONFIG)
    tensors, source = read_weights(folder, weights)
    model = build_with(lambda: GUNet(**vars(config.guess)), tensors, source)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return DehazeRun(folder, config, model, precision or (config.training.precision if config.training else "auto"))
