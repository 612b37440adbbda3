"""The training of a data-set-level prior, planned and run in its folder: what `minidiff train dip-prior` does.

Rests on training.job and loss. Each picture of the training shows, for the same images and noise every time, what the
network sees, what it makes of it, and the clean image. The PSNR is measured on images of the test split, if there is
one.

job = plan(DipPriorRequest(dataset="fashion-mnist", noise=0.2))
job.start(); job.run(); print(job.conclusion())
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.data.datasets import splits_of
from minidiff.errors import lookup
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.faults import problems
from minidiff.images.files import write_image
from minidiff.images.grid import grid, name_columns
from minidiff.networks.dip import DIP_NETS
from minidiff.priors.config import NET, NOISE, DipPriorConfig, DipPriorRequest, read_dip_prior
from minidiff.priors.loss import build_prior, check_side, noisy, prior_loss
from minidiff.priors.presets import DIP_PRIOR_PRESETS
from minidiff.priors.run import PriorRun, load_prior
from minidiff.rng import randn, sample_generators
from minidiff.runs.log import read_metrics
from minidiff.runtime import distributed
from minidiff.runtime.memory import build_to_train
from minidiff.training.config import TrainConfig
from minidiff.training.data import load_together, open_data, size_for
from minidiff.training.job import Job, check_out, start_of
from minidiff.training.loop import Trainer
from minidiff.training.minutes import fit_minutes
from minidiff.training.presets import default_preset, training_config, with_epochs

MEASURED, SHOWN = 256, 8  # images
AT_ONCE = 64  # of them


class DipPriorJob(Job[DipPriorConfig]):
    """The training of a network to take noise from the images of a data set."""

    kind = "dip-prior"
    may_change = ("sample_every", "measure_every")

    @staticmethod
    def read(stored: dict[str, Any], where: object) -> DipPriorConfig:
        return read_dip_prior(stored, where)

    def build(self, training: TrainConfig, device: torch.device) -> Trainer:
        config = self.config
        network = build_to_train(lambda: build_prior(config.net, config.data.channels), device)
        return Trainer(network, prior_loss(config.noise), self.data, training, device)

    def first_weights(self, place: str) -> Mapping[str, Tensor]:
        return load_prior(place).model.state_dict()

    def describe_network(self) -> str:
        size = f"{sum(parameter.numel() for parameter in self.model.parameters()):,} parameters"
        return f"{self.config.net}, {size}; learns the image without noise of deviation {self.config.noise:g}"

    @cached_property
    def others(self) -> tuple[str, Tensor, Tensor]:
        """The split that is measured, its images float [N,C,H,W], and the same with noise."""
        spec = self.config.data.spec(self.folder)
        split = "test" if "test" in splits_of(spec.name, spec.data_dir) else "train"
        data = load_together(**vars(replace(spec, split=split))) if split == "test" else self.data
        chosen = np.linspace(0, len(data) - 1, min(len(data), MEASURED)).astype(int)
        clean = to_float(np.array(data.images[chosen]))
        noise = randn(clean.shape, sample_generators(self.training.seed, range(len(clean))), like=clean)
        return split, clean, noisy(clean, self.config.noise, noise)

    def outputs(self, seen: Tensor) -> Tensor:
        """Return what the averaged weights make of noisy images, on the CPU."""
        run = PriorRun(self.folder or Path(), self.config, self.trainer.ema, self.training.precision)
        return torch.cat([run.clean(some).cpu() for some in seen.split(AT_ONCE)])

    def measure_interval(self, steps: int) -> int:
        return self.config.measure_every or max(200, steps // 10)

    @property
    def measure_passes(self) -> int:
        return MEASURED

    @property
    def preview_passes(self) -> int:
        return SHOWN

    def measure(self, step: int) -> dict[str, float]:
        """Measure the PSNR of the outputs, and of the noisy images themselves."""
        values: dict[str, float] = {}
        if distributed.is_main():
            split, clean, seen = self.others
            values[f"{split}_psnr"] = psnr_of(self.outputs(seen), clean)
            values[f"{split}_psnr_of_noisy"] = psnr_of(seen, clean)
        return distributed.from_main(values)

    def preview(self, step: int) -> list[str]:
        """Draw a row for each of a few images: noisy, output, clean."""
        _, clean, seen = self.others
        clean, seen = clean[:SHOWN], seen[:SHOWN]
        made = self.outputs(seen)
        columns = {"noisy": seen, "output": made, "clean": clean}
        shown = np.stack([to_uint8(each) for each in columns.values()], axis=1)
        sheet = grid(shown.reshape(-1, *shown.shape[2:]), len(columns))
        write_image(self.picture(step), name_columns(sheet, list(columns)))
        return [f"outputs at step {step}: {problem}" for problem in problems(to_uint8(made))]

    def conclusion(self) -> str:
        assert self.folder is not None
        split = self.others[0]
        last = [record for record in read_metrics(self.folder) if f"{split}_psnr" in record][-1]
        kind = "test" if split == "test" else "training"
        return (
            f"done      {last[f'{split}_psnr']:.2f} dB on {kind} images that have {last[f'{split}_psnr_of_noisy']:.2f} "
            f"dB with their noise; look at {self.picture(self.training.steps)}"
        )


def psnr_of(made: Tensor, truth: Tensor) -> float:
    """Return the PSNR in dB of all images together, float [N,C,H,W]: the peak is 2, the length of [-1,1].

    Nothing is cut off or rounded, so noise of deviation 0.2 gives 20 dB.
    """
    return 10 * math.log10(4 / max(1e-12, (made - truth).square().mean().item()))


def plan(request: DipPriorRequest) -> DipPriorJob:
    """Plan a new training: a preset, with what the request says put over it. Raises UserError."""
    # All that can be wrong with the request is found before the data are read, or downloaded.
    device = distributed.local_device(request.device)
    name = request.preset or default_preset(device.type)
    preset = lookup("preset", name, DIP_PRIOR_PRESETS)
    start = load_prior(request.init) if request.init is not None else None
    net = request.net or (start.config.net if start else NET)
    lookup("net", net, DIP_NETS)
    noise = (start.config.noise if start else NOISE) if request.noise is None else request.noise
    size = size_for(request, start.config.data.image_size if start else preset.image_size)
    check_side(net, size)
    training = training_config(preset.training, request)
    check_out(request.out)
    data, described = open_data(request, size)
    training = with_epochs(training, preset.training, request, len(data))
    config = DipPriorConfig(
        preset=name,
        init=start_of(request.init, start.model.state_dict()) if start and request.init else None,
        data=described,
        net=net,
        noise=noise,
        training=training,
        save_every=request.save_every,
        sample_every=request.sample_every,
        measure_every=request.measure_every,
    )
    return fit_minutes(DipPriorJob(config, data, device, request.out), preset.training, request)
