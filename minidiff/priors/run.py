"""A trained data-set-level prior, opened from its run folder.

Rests on loss and runs. `minidiff.load` opens its folder.

prior = minidiff.load("runs/dip-prior-fashion-mnist-1")
u = prior.clean(noisy)                  # float [N,C,H,W] in [-1,1] -> the same
for images in prior.sample(64): ...     # what it makes of noisy training images
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from minidiff.data.image_data import ImageData
from minidiff.errors import UserError
from minidiff.images.convert import to_float
from minidiff.images.show import newest_png
from minidiff.networks.weights import build_with
from minidiff.priors.config import DIP_PRIOR, DipPriorConfig, read_dip_prior
from minidiff.priors.loss import build_prior, noisy
from minidiff.rng import seed_from
from minidiff.runs.folder import CONFIG, read_config, read_weights
from minidiff.runs.shipped import find_run
from minidiff.runtime import distributed
from minidiff.runtime.precision import mixed_precision
from minidiff.training.data import open_again

OUTPUTS = 1  # keeps the random numbers of these images apart from those of a chain with the same seed


@dataclass
class PriorRun:
    """A trained prior: its folder, its config and its network, in eval mode."""

    folder: Path
    config: DipPriorConfig
    model: nn.Module
    precision: str = "auto"  # to work in: fp32, bf16, auto

    def __repr__(self) -> str:
        size = self.config.data.image_size
        return f"PriorRun({self.folder}: {self.config.net} for {self.config.data.name}, {size}x{size})"

    def _repr_png_(self) -> bytes | None:
        """Show the last picture of the training in a notebook."""
        return newest_png(self.folder / "samples")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        data = self.config.data
        return data.channels, data.image_size, data.image_size

    @property
    def label_names(self) -> list[str]:
        """The labels that it can draw, as a `Run` has them: none."""
        return []

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def clean(self, images: Tensor) -> Tensor:
        """Take the noise off images: float [N,C,H,W] -> float32 of the same shape in [-1,1], on the run's device."""
        autocast = mixed_precision(self.precision, self.device)
        with torch.autocast(self.device.type, enabled=False), autocast():  # in a training, too, as it was measured
            made: Tensor = self.model(images.to(self.device).contiguous(memory_format=torch.channels_last))
        return made.float()

    def outputs(self, data: ImageData, indices: Sequence[int], seed: int = 0) -> Tensor:
        """Draw what the prior makes of images of a data set with fresh noise: float [n,C,H,W], on the run's device.

        Each index has an image of its own, chosen at random (mirrored or not, where training mirrors), and noise of its
        own. They depend on seed and index alone, and not on the batch.
        """
        shown = [show(data, self.config.noise, torch.Generator().manual_seed(seed_from(seed, index, OUTPUTS)))
                 for index in indices]  # fmt: skip
        return self.clean(torch.stack(shown))

    @cached_property
    def data(self) -> ImageData:
        """The images that it was trained on. Raises UserError if they are not the same now."""
        return open_again(self.config.data, None, self.folder)

    def sample(self, num: int, *, seed: int = 0, batch_size: int = 64) -> Iterator[Tensor]:
        """Draw `outputs` 0 .. num-1 of its own training images, as batches of float [n,C,H,W] in [-1,1] on the CPU.

        It is no model that draws new images: each of these has been seen. Raises UserError if the data are gone.
        """
        for mine in distributed.shares(num, batch_size):
            yield distributed.gather_rows(self.draw(mine, seed=seed, batch_size=batch_size), batch_size).cpu()

    def draw(self, indices: Sequence[int], *, seed: int = 0, batch_size: int = 64) -> Tensor:
        """Draw the samples with these indices, float [n,C,H,W] in [-1,1] on the run's device: see `sample`."""
        parts = [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]
        made = [self.outputs(self.data, some, seed) for some in parts]
        return torch.cat([torch.empty((0, *self.shape), device=self.device), *made])

    def refuse(self, option: str) -> None:
        """Raise UserError: an option, such as `steps`, belongs to a reverse chain, and this run has none."""
        raise UserError(
            f"{self.folder} is a {DIP_PRIOR} run, which shows what its network makes of noisy images: {option} is for "
            "ddpm runs. Leave it out."
        )


def show(data: ImageData, sigma: float, random: torch.Generator) -> Tensor:
    """Choose an image of a data set, and add noise to it, as a training does: float [C,H,W]."""
    number = int(torch.randint(len(data), (), generator=random))
    x0 = to_float(np.array(data.images[[number]]))[0]
    if data.flip and torch.rand((), generator=random) < 0.5:
        x0 = x0.flip(-1)
    return noisy(x0, sigma, torch.randn(x0.shape, generator=random))


def load_prior(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> PriorRun:
    """Open a dip-prior run. Options: see `load_ddpm`.

    Raises UserError when the folder is none, has no weights yet, or has weights that do not fit exactly.
    """
    folder = Path(find_run(folder)).expanduser()
    config = read_dip_prior(read_config(folder, kind=DIP_PRIOR), folder / CONFIG)
    tensors, source = read_weights(folder, weights)
    model = build_with(lambda: build_prior(config.net, config.data.channels), tensors, source)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return PriorRun(folder, config, model, precision or config.training.precision)
