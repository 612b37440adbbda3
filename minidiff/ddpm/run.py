"""A trained run, ready to sample from. Its config.json says all that is needed to rebuild it.

run = minidiff.load("runs/ddpm-shapes-1")
run.model, run.schedule             # a callable (x_t, t) -> prediction, and the noise it was trained on
for images in run.sample(64): ...   # float [n,C,H,W] in [-1,1]

Rests on recipe (which builds what a config describes) and drawing (which walks down the chains).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minidiff.data.image_data import ImageData
from minidiff.ddpm import drawing
from minidiff.ddpm.chains import single
from minidiff.ddpm.config import DdpmConfig, read_ddpm
from minidiff.ddpm.labels import LabelSet
from minidiff.ddpm.moments import Moments, record_moments
from minidiff.ddpm.prior import open_prior
from minidiff.ddpm.recipe import build_network, build_process
from minidiff.ddpm.request import SampleRequest, Sampling
from minidiff.diffusion.chain import Step
from minidiff.diffusion.predictions import Model
from minidiff.diffusion.samplers import calls
from minidiff.diffusion.schedules import Process
from minidiff.errors import UserError
from minidiff.images.show import newest_png
from minidiff.interop.checkpoints import is_foreign, open_checkpoint
from minidiff.networks.configs import OwnNetwork, UNetConfig
from minidiff.networks.weights import build_with, load_exactly
from minidiff.priors.run import PriorRun
from minidiff.records import takes
from minidiff.runs import folder as checkpoint
from minidiff.runs.shipped import find_run
from minidiff.training.data import open_again


@dataclass
class Run:
    """A trained DDPM: its folder, config, network (eval mode; `model.prediction` says what it predicts), schedule."""

    folder: Path
    config: DdpmConfig
    model: nn.Module  # a `UNet`, a `DiT`, or a network of one's own
    schedule: Process
    precision: str = "auto"  # to sample in: fp32, bf16, auto
    prior: PriorRun | None = None  # of a run that was trained with one
    images: ImageData | None = None  # that it was trained on; loaded when its prior needs them

    def __repr__(self) -> str:
        return f"Run({self.folder}: {self.config.kind} of {self.config.data.name}, {self.shape[2]}x{self.shape[1]})"

    def _repr_png_(self) -> bytes | None:
        """Show the last samples of the training in a notebook."""
        return newest_png(self.folder / "samples")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image, unless it starts from an init of another size: see `any_size`."""
        data = self.config.data
        return data.channels, data.image_size, data.image_size

    @property
    def any_size(self) -> bool:
        """Whether chains may start from an `init` of any height and width: see `UNetConfig.any_size`."""
        return isinstance(self.config.network, UNetConfig) and self.config.network.any_size

    @property
    def variance(self) -> str:
        """The noise of the sampler ddpm that suits this run: one of VARIANCES."""
        return self.config.diffusion.variance

    @property
    def trained_below(self) -> int | None:
        """The run knows the timesteps below this one; None if it knows all, and can draw from pure noise."""
        return self.config.diffusion.trained_below

    @property
    def prior_use(self) -> str | None:
        """What the run's prior is used for: target, start, residual; None for a run without."""
        return self.config.prior.use if self.config.prior else None

    @property
    def knows(self) -> str:
        """The images that the run was trained on, in words: fashion-mnist."""
        if self.config.source is not None:
            return f"the images of {self.config.source.place}"
        data = self.config.data
        return f"the images of {data.data_dir}" if data.name == "folder" and data.data_dir else data.name

    @property
    def labels(self) -> LabelSet:
        """The labels that the run can draw. An imported run does not know their names, so numbers stand for them."""
        known = self.config.labels
        if known is None:
            names = [str(number) for number in range(self.config.network.label_dim)]
            one_hot = self.config.source is not None and self.config.source.one_hot
            return LabelSet(self.folder, names, one_hot, named=False)
        data_dir = None if self.config.data.data_dir is None else Path(self.config.data.data_dir)
        return LabelSet(self.folder, list(known.names), known.one_hot, dropout=known.dropout, data_dir=data_dir)

    @property
    def label_names(self) -> list[str]:
        """The names of the labels that it can draw; empty for a run without labels."""
        return self.labels.names

    @property
    def label_dropout(self) -> float:
        """The share of training images that came without labels; at 0 the run cannot draw without them."""
        return self.labels.dropout

    def guidance(self, scale: float | None = None) -> float:
        """Choose the default guidance scale: see `LabelSet.guidance`."""
        return self.labels.guidance(scale)

    def conditions(self, texts: str | Sequence[str] = (), file: str | Path | None = None) -> list[list[int]]:
        """Turn words, or a labels file, into the numbers that `labels` takes: see `LabelSet.conditions`."""
        return self.labels.conditions(texts, file)

    def prior_outputs(self, indices: Sequence[int], seed: int = 0) -> Tensor:
        """Draw what the run's prior makes of training images with fresh noise: float [n,C,H,W], see `PriorRun.outputs`.

        Raises UserError for a run without a prior, and if its training images are gone.
        """
        if self.prior is None:
            raise UserError(f"{self.folder} was trained without a prior.")
        if self.images is None:
            self.images = open_again(self.config.data, None, self.folder)
        return self.prior.outputs(self.images, indices, seed)

    # --- drawing ---------------------------------------------------------------------------------------------------

    @takes(SampleRequest)
    def sample(self, request: SampleRequest) -> Iterator[Tensor]:
        """Draw images 0 .. num-1, in order, as batches of float [n,C,H,W] in [-1,1] on the CPU: see `SampleRequest`.

        Under torchrun the processes share each batch, and all of them get all of it.
        """
        return drawing.sample(self, request)

    @takes(Sampling)
    def draw(self, indices: Sequence[int], request: Sampling) -> Tensor:
        """Draw the samples with these indices, float [n,C,H,W] in [-1,1] on the run's device."""
        return drawing.draw(self, indices, request)

    @takes(Sampling)
    def chain(self, indices: Sequence[int], request: Sampling) -> Iterator[Step]:
        """Go down one chain with these samples as its batch; yields after every call of the network.

        init and labels have a row for each of the samples, in their order.
        """
        return drawing.walk(self, single(self, indices, request))

    @takes(Sampling)
    def start(self, indices: Sequence[int], request: Sampling) -> tuple[Tensor, list[torch.Generator]]:
        """Make the start of `chain`: x [n,C,H,W], and the generators of its further noise."""
        return drawing.begin(self, single(self, indices, request))

    @takes(Sampling)
    def moments(self, indices: Sequence[int], columns: int, request: Sampling) -> Moments:
        """Draw a few samples, and keep pictures of `columns` moments of their chains: see `record_moments`."""
        return record_moments(self, indices, columns, request)

    @takes(Sampling)
    def calls(self, indices: Sequence[int], request: Sampling) -> int:
        """Count how often the chains of these samples will call the network."""
        return drawing.count_calls(self, indices, request)

    def timesteps(
        self,
        sampler: str = "ddim",
        *,
        steps: int | None = None,
        start_t: int | None = None,
        spacing: str | None = None,
        **others: object,
    ) -> list[int]:
        """List the timesteps at which a chain calls the network, descending. Other options make no difference to it."""
        return calls(sampler, self.schedule, steps, start_t, spacing)

    def denoiser(
        self, labels: Tensor | None = None, guidance_scale: float | None = None, prior: Tensor | None = None
    ) -> Model:
        """Wrap the network as samplers call it: see `drawing.denoiser`."""
        return drawing.denoiser(self, labels, guidance_scale, prior)


# --- to open one --------------------------------------------------------------------------------------------------


def load_ddpm(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> Run:
    """Open a model that has a reverse chain: a ddpm run folder, or a checkpoint of diffusers.

    folder: a run; the name of a model that comes with the package, such as photos; a folder that diffusers saved; or
    owner/name on the Hugging Face Hub. Only the Hub's own cache is
    written. weights: `ema`, the averaged ones to sample from, or `raw`, the ones being trained; diffusers has
    one set, which counts as averaged. precision: fp32, bf16 or auto; None is the one it was trained in.
    Raises UserError when the folder is none of these, has no weights yet, or has weights that do not fit exactly.
    """
    folder = find_run(folder)
    if is_foreign(folder):
        if weights != "ema":
            raise UserError(
                f"{folder} was not trained by minidiff and has only one set of weights. "
                "Leave out `weights`, or take ema."
            )
        source, stored, tensors = open_checkpoint(folder)
        folder = source
        config = read_ddpm(stored, source)
    else:
        folder = Path(folder).expanduser()
        config = read_ddpm(checkpoint.read_config(folder, kind="ddpm"), folder / checkpoint.CONFIG)
        tensors, source = checkpoint.read_weights(folder, weights)
    precision = precision or (config.training.precision if config.training else "auto")
    schedule = build_process(config.diffusion)
    if isinstance(config.network, OwnNetwork):  # whose code may not do on a device without memory
        load_exactly(model := build_network(config), tensors, source)
    else:
        model = build_with(lambda: build_network(config), tensors, source)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    prior = open_prior(config.prior, folder, device) if config.prior else None
    return Run(folder, config, model, schedule, precision, prior)
