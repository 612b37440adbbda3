"""The training of a DDPM, planned and run in its folder: what `minidiff train ddpm` does. Rests on job and pipeline.

job = plan(torch.device("cpu"), {"dataset": "shapes", "steps": 500})
job.start(); job.run(); print(job.conclusion())
"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minidiff import __version__
from minidiff.diffusion import check_prediction
from minidiff.errors import lookup
from minidiff.images import grid, problems, to_uint8, write_image
from minidiff.job import Job, check_out, open_data, training_config
from minidiff.pipeline import Run, build, build_schedule, ddpm_loss
from minidiff.presets import DIFFUSION, PRESETS, default_preset
from minidiff.train import Loss
from minidiff.unet import UNet, check_size

PREVIEW_IMAGES = 36


class DdpmJob(Job):
    """The training of a U-Net to predict the noise of a schedule."""

    kind = "ddpm"

    def build(self, device: torch.device) -> tuple[UNet, Loss]:
        model, self.schedule = build(self.config)
        diffusion = self.config["diffusion"]
        return model, ddpm_loss(self.schedule, diffusion["prediction"], diffusion["min_snr_gamma"], device)

    def describe_network(self) -> str:
        diffusion, channels = self.config["diffusion"], self.config["network"]["channels"]
        return (
            f"UNet {self.parameters}, channels {channels}; "
            f"{diffusion['schedule']} schedule, T = {diffusion['timesteps']}, predicts {diffusion['prediction']}"
        )

    def preview(self, step: int) -> list[str]:
        """A grid, always from the same noise."""
        assert self.folder is not None
        run = Run(self.folder, self.config, self.trainer.ema, self.schedule, self.trainer.config.precision)  # type: ignore
        seed, at_once = self.config["training"]["seed"], max(1, self.trainer.slice_size)
        pixels = []
        for first in range(0, PREVIEW_IMAGES, at_once):  # no more at a time than training itself has room for
            for last in run.chain(list(range(PREVIEW_IMAGES))[first : first + at_once], seed=seed):
                x = last.x
            pixels.append(to_uint8(x))
        images = np.concatenate(pixels)
        write_image(self.picture(step), grid(images))
        return [f"samples at step {step}: {problem}" for problem in problems(images)]

    def picture(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / "samples" / f"{step:07d}.png"

    def conclusion(self) -> str:
        return (
            f"done      look at {self.picture(self.trainer.config.steps)} and {self.folder}/curves.png\n"
            f"next      minidiff sample {shlex.quote(str(self.folder))} --num 64 --progressive 10 --out grid.png"
        )


def plan(device: torch.device, options: dict[str, Any]) -> DdpmJob:
    """A new training out of a preset and the options that override it.

    options: any of dataset, data_dir, image_size, on_bad, preset, save_every, sample_every, out; the fields of
    TrainConfig; the keys of presets.DIFFUSION, with `timesteps` and so on. Raises UserError.
    """
    name = options.get("preset") or default_preset(device.type)
    preset = lookup("preset", name, PRESETS)
    size = options.get("image_size", preset.image_size)
    diffusion = DIFFUSION | preset.diffusion
    if options.get("schedule", diffusion["schedule"]) != diffusion["schedule"]:
        diffusion |= {"beta_start": None, "beta_end": None}  # the preset's range was that of its own schedule
    diffusion |= {k: v for k, v in options.items() if k in DIFFUSION}
    # All that can be wrong with the options is found before the data are read, or downloaded.
    check_prediction(build_schedule(diffusion), diffusion["prediction"])
    check_size(size, 2 ** (len(preset.network["channels"]) - 1), "--image-size")
    check_out(options)
    data, description = open_data(options, size)
    config = {
        "minidiff": __version__,
        "kind": DdpmJob.kind,
        "preset": name,
        "data": description,
        "network": preset.network | {"image_size": size, "in_channels": description["channels"]},
        "diffusion": diffusion,
        "training": training_config(preset, options),
        "save_every": options.get("save_every"),
        "sample_every": options.get("sample_every"),
    }
    return DdpmJob(config, data, device, options.get("out"))
