"""A trained GAN, ready to sample from: noise goes in, and images come out of one call of the generator.

Rests on networks.gan and rng. `minidiff.load` opens its folder. The options of a reverse chain
(a start from an image, a number of steps) have no meaning here, and are refused by name.

run = minidiff.load("runs/dcgan-shapes-1")
for images in run.sample(64): ...   # float [n,C,H,W] in [-1,1]
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minidiff.errors import UserError
from minidiff.gan.config import GAMES, GanConfig, read_gan
from minidiff.images.show import newest_png
from minidiff.networks.gan import Generator
from minidiff.networks.weights import build_with
from minidiff.rng import randn, sample_generators
from minidiff.runs.folder import CONFIG, read_config, read_weights
from minidiff.runs.shipped import find_run
from minidiff.runtime import distributed
from minidiff.runtime.precision import mixed_precision


@dataclass
class GanRun:
    """A trained GAN: its folder, its config and its generator.

    The generator is in eval mode, so an image does not depend on its batch.
    """

    folder: Path
    config: GanConfig
    model: Generator
    precision: str = "auto"  # to sample in: fp32, bf16, auto

    def __repr__(self) -> str:
        return f"GanRun({self.folder}: {self.config.kind} of {self.config.data.name}, {self.shape[2]}x{self.shape[1]})"

    def _repr_png_(self) -> bytes | None:
        """Show the last samples of the training in a notebook."""
        return newest_png(self.folder / "samples")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        network = self.config.network
        return network.channels, network.image_size, network.image_size

    @property
    def label_names(self) -> list[str]:
        """The labels that it can draw, as a `Run` has them: none."""
        return []

    def latents(self, indices: Sequence[int], seed: int = 0) -> Tensor:
        """Draw the noise that these samples are made from: standard normal [n,latent_dim], on the run's device.

        Sample k of a seed always has the same noise, in any batch, process and device.
        """
        device = next(self.model.parameters()).device
        size = (len(indices), self.config.network.latent_dim)
        return randn(size, sample_generators(seed, indices), like=torch.empty(0, device=device))

    def sample(
        self,
        num: int,
        *,
        seed: int = 0,
        batch_size: int = 64,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> Iterator[Tensor]:
        """Draw images 0 .. num-1, in order, as batches of float [n,C,H,W] in [-1,1] on the CPU.

        on_step: see `draw`. Under torchrun the processes share each batch, and all of them get all of it.
        """
        for mine in distributed.shares(num, batch_size):
            images = self.draw(mine, seed=seed, batch_size=batch_size, on_step=on_step)
            yield distributed.gather_rows(images, batch_size).cpu()

    def draw(
        self,
        indices: Sequence[int],
        *,
        seed: int = 0,
        batch_size: int = 64,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Draw the samples with these indices, float [n,C,H,W] in [-1,1] on the run's device.

        on_step: called after every call of the generator, with the images that it made.
        """
        autocast = mixed_precision(self.precision, next(self.model.parameters()).device)
        made = [torch.empty((0, *self.shape), device=next(self.model.parameters()).device)]
        for first in range(0, len(indices), batch_size):
            z = self.latents(indices[first : first + batch_size], seed)
            with autocast():
                made.append(self.model(z).float())
            if on_step is not None:
                on_step(made[-1])
        return torch.cat(made)

    def refuse(self, option: str) -> None:
        """Raise UserError: an option, such as `steps`, belongs to a reverse chain, and this run has none."""
        raise UserError(
            f"{self.folder} is a {self.config.kind} run, which draws an image in one call of its network: "
            f"{option} is for ddpm runs. Leave it out."
        )


def load_gan(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> GanRun:
    """Open the run folder of a GAN. Its config.json says all that is needed; the critic stays in state.pt.

    weights, precision: see `load_ddpm`. Raises UserError when the folder is not a GAN's, has no weights yet, or
    has weights that do not fit exactly.
    """
    folder = Path(find_run(folder)).expanduser()
    config = read_gan(read_config(folder, kind=tuple(GAMES)), folder / CONFIG)
    tensors, source = read_weights(folder, weights)
    model = build_with(lambda: Generator(**vars(config.network)), tensors, source)
    run = GanRun(folder, config, model, precision or config.training.precision)
    model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return run
