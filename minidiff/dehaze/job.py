"""The training of stage 1 or 2, planned and run in its folder: what `minidiff train dehaze` does.

Rests on training.job, stage1 and pairs. Each picture of the training shows, for the same pairs every time, the
haze, what the networks make of it, and the truth. The PSNR is measured on pairs that the training does not see.

job = plan(DehazeRequest(steps=500))
job.start(); job.run(); print(job.conclusion())
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.data.config import Haze, Images
from minidiff.data.haze import HazyPair
from minidiff.data.image_data import ImageData
from minidiff.dehaze.config import DehazeConfig, DehazeRequest, read_dehaze
from minidiff.dehaze.pairs import held_out, open_again, open_pairs
from minidiff.dehaze.presets import GUESS_PRESETS
from minidiff.dehaze.run import DehazeRun, load_dehaze
from minidiff.dehaze.stage1 import guess_loss
from minidiff.errors import lookup
from minidiff.images.convert import to_uint8
from minidiff.images.faults import problems
from minidiff.images.files import write_image
from minidiff.images.grid import grid, name_columns
from minidiff.images.quality import psnr
from minidiff.networks.gunet import Clearing, GUNet
from minidiff.runs.log import read_metrics
from minidiff.runtime import distributed
from minidiff.runtime.memory import build_to_train
from minidiff.training.config import TrainConfig, given
from minidiff.training.job import Job, check_out, start_of
from minidiff.training.loop import Trainer
from minidiff.training.minutes import fit_minutes
from minidiff.training.presets import default_preset, training_config, with_epochs

MEASURED, SHOWN = 48, 6  # pairs: that are measured, and that a picture shows
AT_ONCE = 16  # pairs


class DehazeJob(Job[DehazeConfig]):
    """The training of the network that guesses J, T and A."""

    kind = "dehaze"
    may_change = ("sample_every", "measure_every")

    @staticmethod
    def read(stored: dict[str, Any], where: object) -> DehazeConfig:
        return read_dehaze(stored, where)

    @classmethod
    def images_of(cls, config: DehazeConfig, folder: Path, images: "Images | None") -> ImageData:
        return open_again(config.data, config.haze, folder)

    def build(self, training: TrainConfig, device: torch.device) -> Trainer:
        network = build_to_train(lambda: GUNet(**vars(self.config.guess)), device)
        return Trainer(network, guess_loss(self.config.guess_loss), self.data, training, device)

    def first_weights(self, place: str) -> Mapping[str, Tensor]:
        return load_dehaze(place).model.state_dict()

    def describe_network(self) -> str:
        network, loss = self.config.guess, self.config.guess_loss
        return (
            f"stage 1: GUNet {self.parameters}, channels {list(network.channels)}; learns J, T and A: "
            f"L1(J) + {loss.transmission:g} L1(T, A) + {loss.haze:g} L1(recomposed haze)"
        )

    @cached_property
    def others(self) -> tuple[str, HazyPair]:
        """The pairs that are measured, and the split that their pictures are of."""
        return held_out(self.config.data, self.config.haze, MEASURED)

    def averaged(self) -> DehazeRun:
        """Return the EMA weights of this moment."""
        return DehazeRun(self.folder or Path(), self.config, self.trainer.ema, self.training.precision)

    def guesses(self, hazy: Tensor) -> Clearing:
        """Guess J, T and A of pairs, a few at a time. On the CPU."""
        run = self.averaged()
        parts = [run.guess(some) for some in hazy.split(AT_ONCE)]
        return Clearing(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))

    def measure_interval(self, steps: int) -> int:
        return self.config.measure_every or max(200, steps // 10)

    @property
    def measure_passes(self) -> int:
        return MEASURED

    def measure(self, step: int) -> dict[str, float]:
        """Measure the PSNR of J, and how far T is off, on pairs that the training does not see."""
        split, pair = self.others
        value, wrong = 0.0, 0.0
        if distributed.is_main():
            guess = self.guesses(pair.hazy)
            made, truth = to_uint8(guess.clear), to_uint8(pair.clear)
            value = float(np.mean([psnr(a, b) for a, b in zip(made, truth, strict=True)]))
            if pair.transmission is not None:
                wrong = (guess.transmission - pair.transmission).abs().mean().item()
        values = {f"{split}_psnr": value} | ({f"{split}_error_of_T": wrong} if pair.transmission is not None else {})
        return {name: distributed.from_main(value) for name, value in values.items()}

    @property
    def preview_passes(self) -> int:
        return SHOWN

    def preview(self, step: int) -> list[str]:
        """Draw a row for each of a few pairs: the haze, T, J, and the truth."""
        _, pair = self.others
        guess = self.guesses(pair.hazy[:SHOWN])
        columns = {"haze": pair.hazy, "T": 2 * guess.transmission - 1, "J": guess.clear, "truth": pair.clear}
        shown = np.stack([to_uint8(each[:SHOWN]) for each in columns.values()], axis=1)
        sheet = grid(shown.reshape(-1, *shown.shape[2:]), len(columns))
        write_image(self.picture(step), name_columns(sheet, list(columns)))
        return [f"J at step {step}: {problem}" for problem in problems(to_uint8(guess.clear))]

    def conclusion(self) -> str:
        assert self.folder is not None
        last = [record for record in read_metrics(self.folder) if f"{self.others[0]}_psnr" in record][-1]
        return (
            f"done      J has {last[f'{self.others[0]}_psnr']:.2f} dB on pairs that it was not trained on; "
            f"look at {self.picture(self.training.steps)}"
        )


def plan(request: DehazeRequest) -> DehazeJob:
    """Plan a new training: a preset, with what the request says put over it. Raises UserError."""
    # All that can be wrong with the request is found before the photographs are read.
    device = distributed.local_device(request.device)
    name = request.preset or default_preset(device.type)
    preset = lookup("preset", name, GUESS_PRESETS)
    start = load_dehaze(request.init) if request.init is not None else None
    training, haze = training_config(preset.training, request), Haze()
    asked = {"transmission": request.transmission_weight, "haze": request.haze_weight}
    loss = replace(preset.loss, **{name: value for name, value in asked.items() if value is not None})
    check_out(request.out)
    data, described = open_pairs(request, request.image_size or preset.image_size, haze)
    training = with_epochs(training, preset.training, request, len(data))
    config = DehazeConfig(
        preset=name,
        init=start_of(request.init, start.model.state_dict()) if start and request.init else None,
        data=described,
        haze=haze,
        guess=start.config.guess if start and request.preset is None else preset.network,
        guess_loss=loss,
        training=training,
        save_every=request.save_every,
        **given(request, ("sample_every", "measure_every")),
    )
    return fit_minutes(DehazeJob(config, data, device, request.out), preset.training, request)
