"""Plan a DDPM training, or take one up again; then run it in its folder. What `minidiff train ddpm` does.

job = plan(torch.device("cpu"), {"dataset": "shapes", "steps": 500})
job.start(); job.run(); print(job.conclusion())
"""

import hashlib
import os
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minidiff import __version__, checkpoint, distributed, journal
from minidiff.data import ImageData, load_data
from minidiff.diffusion import check_prediction
from minidiff.errors import UserError, lookup
from minidiff.images import grid, problems, to_uint8, write_image
from minidiff.pipeline import Run, build, build_schedule, ddpm_loss
from minidiff.presets import DIFFUSION, PRESETS, default_preset
from minidiff.rng import seed_from
from minidiff.schedules import Schedule
from minidiff.train import TrainConfig, Trainer
from minidiff.unet import UNet, check_size

PREVIEW_IMAGES = 36
TRAINING_MAY_CHANGE = ("steps", "lr", "warmup", "precision", "compile")  # on resuming; without, it goes on to the bit
WEIGHTS = 3  # what a seed is for, beside those of `train`


@dataclass
class Job:
    """A training that is ready to go: its config, data, network and trainer."""

    config: dict[str, Any]
    data: ImageData
    model: UNet
    schedule: Schedule
    trainer: Trainer
    out: str | Path | None  # where the run folder is to be; None: the next free one under runs/
    save_every: int
    sample_every: int
    folder: Path | None = None  # where it is, once there is one

    def describe(self) -> str:
        """Three lines: the data, the network, the training."""
        data, diffusion, training = self.config["data"], self.config["diffusion"], self.config["training"]
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        size, processes = data["image_size"], distributed.world_size()
        shared = f" over {processes} processes" if processes > 1 else ""
        return (
            f"data      {data['name']}: {len(self.data.images):,} images, {size}x{size}, {data['channels']} channels\n"
            f"network   UNet {parameters / 1e6:.1f}M parameters, channels {self.config['network']['channels']}; "
            f"{diffusion['schedule']} schedule, T = {diffusion['timesteps']}, predicts {diffusion['prediction']}\n"
            f"training  {training['steps']:,} steps of {training['batch_size']} images, lr {training['lr']:g}, "
            f"on {self.trainer.device}{shared}, seed {training['seed']}"
        )

    def start(self) -> str:
        """Make the run folder, unless the run is being resumed; returns a line that names it."""
        folder, config = self.folder, self.config
        if folder is not None:  # with what the options have changed: steps, rate, where the data lie
            distributed.main_first(lambda: checkpoint.write_json(folder / checkpoint.CONFIG, config))
            return f"resuming  {folder} at step {self.trainer.step:,}"
        name = f"ddpm-{config['data']['name']}"
        self.folder = distributed.from_main(
            distributed.main_first(lambda: checkpoint.create_run(self.out, name, config))
        )
        return f"run       {self.folder}"

    def run(self) -> None:
        """Train to the last step. Raises journal.Interrupted after Ctrl-C or SIGTERM, with how to resume."""
        assert self.folder is not None, "start() first"
        try:
            journal.keep(
                self.trainer,
                self.folder,
                log_every=max(1, min(50, self.trainer.config.steps // 100)),
                save_every=self.save_every,
                sample_every=self.sample_every,
                preview=self.preview,
            )
        except journal.Interrupted as stop:
            resume = f"Resume with: minidiff train ddpm --resume {shlex.quote(str(self.folder))}"
            raise journal.Interrupted(f"{stop} {resume}", stop.exit_code) from None
        last = self.trainer.config.steps
        if distributed.is_main() and not self.grid(last).exists():  # killed after the last save, before its pictures
            journal.draw(self.folder, self.preview, last)

    def preview(self, step: int) -> list[str]:
        """A grid drawn with the EMA weights, always from the same noise, in samples/; returns what is wrong with it."""
        assert self.folder is not None
        run = Run(self.folder, self.config, self.trainer.ema, self.schedule, self.trainer.config.precision)  # type: ignore
        seed, at_once = self.config["training"]["seed"], max(1, self.trainer.slice_size)
        pixels = []
        for first in range(0, PREVIEW_IMAGES, at_once):  # no more at a time than training itself has room for
            for last in run.chain(list(range(PREVIEW_IMAGES))[first : first + at_once], seed=seed):
                x = last.x
            pixels.append(to_uint8(x))
        images = np.concatenate(pixels)
        write_image(self.grid(step), grid(images))
        return [f"samples at step {step}: {problem}" for problem in problems(images)]

    def grid(self, step: int) -> Path:
        """Where the preview of a step lies."""
        assert self.folder is not None
        return self.folder / "samples" / f"{step:07d}.png"

    def conclusion(self) -> str:
        """What to look at, and the command to try next."""
        return (
            f"done      look at {self.grid(self.trainer.config.steps)} and {self.folder}/curves.png\n"
            f"next      minidiff sample {shlex.quote(str(self.folder))} --num 64 --progressive 10 --out grid.png"
        )


def plan(device: torch.device, options: dict[str, Any]) -> Job:
    """A new training out of a preset and the options that override it.

    options: any of dataset, data_dir, image_size, on_bad, preset, save_every, sample_every, out; the fields of
    TrainConfig; the keys of presets.DIFFUSION, with `timesteps` and so on. Raises UserError.
    """
    name = options.get("preset") or default_preset(device.type)
    preset = lookup("preset", name, PRESETS)
    size = options.get("image_size", preset.image_size)
    training_names = {field.name for field in fields(TrainConfig)}
    training = preset.training | {k: v for k, v in options.items() if k in training_names}
    if "warmup" not in options:
        training["warmup"] = min(training["warmup"], training["steps"] // 6)  # a short run must get past it
    diffusion = DIFFUSION | preset.diffusion
    if options.get("schedule", diffusion["schedule"]) != diffusion["schedule"]:
        diffusion |= {"beta_start": None, "beta_end": None}  # the preset's range was that of its own schedule
    diffusion |= {k: v for k, v in options.items() if k in DIFFUSION}
    # All that can be wrong with the options is found before the data are read, or downloaded.
    check_prediction(build_schedule(diffusion), diffusion["prediction"])
    check_size(size, 2 ** (len(preset.network["channels"]) - 1), "--image-size")
    if options.get("out") is not None:
        distributed.main_first(lambda: checkpoint.check_free(Path(options["out"])))

    data_dir = os.path.abspath(options["data_dir"]) if options.get("data_dir") else None
    data = load_together(
        options.get("dataset", "shapes"),
        data_dir=data_dir,
        image_size=size,
        on_bad=options.get("on_bad", "skip"),
    )
    channels = data.images.shape[3]
    config = {
        "minidiff": __version__,
        "kind": "ddpm",
        "preset": name,
        "data": {
            "name": data.name,
            "data_dir": data_dir,
            "image_size": size,
            "channels": channels,
            "on_bad": options.get("on_bad", "skip"),
            "images": len(data.images),
            "fingerprint": fingerprint(data),
        },
        "network": preset.network | {"image_size": size, "in_channels": channels},
        "diffusion": diffusion,
        "training": asdict(TrainConfig(**training)),
        "save_every": options.get("save_every"),
        "sample_every": options.get("sample_every"),
    }
    return assemble(config, data, device, options.get("out"))


def resume(folder: str | Path, device: torch.device, options: dict[str, Any]) -> Job:
    """The training of a run folder, at its last checkpoint.

    options: any of data_dir, save_every, sample_every and TRAINING_MAY_CHANGE. A run at its last step has nothing left
    to do but the pictures it may lack. Raises UserError when the folder is no ddpm run, its state is damaged or gone,
    or the data are not those it began with.
    """
    folder = Path(folder)
    config = checkpoint.read_config(folder, kind="ddpm")
    try:
        config["training"] |= {name: options[name] for name in TRAINING_MAY_CHANGE if name in options}
        config |= {name: options[name] for name in ("save_every", "sample_every") if name in options}
        stored = config["data"]
        if "data_dir" in options:
            stored["data_dir"] = os.path.abspath(options["data_dir"])
        data = load_together(
            stored["name"],
            data_dir=stored["data_dir"],
            image_size=stored["image_size"],
            on_bad=stored["on_bad"],
        )
        if (len(data.images), fingerprint(data)) != (stored["images"], stored["fingerprint"]):
            raise UserError(
                f"{folder} was trained on {stored['images']} images and {stored['name']} now holds {len(data.images)} "
                "that are not the same. Bring back the data it began with, or start a new run."
            )
        job = assemble(config, data, device, folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a ddpm run has ({error}).") from None
    job.folder = folder
    state = checkpoint.read_state(folder)
    if state is not None:
        job.trainer.load_state_dict(state, str(folder / checkpoint.STATE))
    elif (folder / checkpoint.MODEL).exists():
        raise UserError(
            f"{folder} has weights but no {checkpoint.STATE}, without which training cannot go on. "
            "Bring it back, or start a new run; `minidiff sample` works without it."
        )
    return job


def load_together(name: str, **options: Any) -> ImageData:
    """The data set, read by the main process first: what has to be downloaded or decoded is so once."""
    return distributed.main_first(lambda: load_data(name, **options)) or load_data(name, **options)


def fingerprint(data: ImageData) -> str:
    """A digest of the images, to know the same data again: of all, or beyond 512 MB of 4,096 spread evenly."""
    count = len(data.images)
    chosen = range(count) if data.images.nbytes <= 512 << 20 else np.linspace(0, count - 1, 4096).astype(int)
    digest = hashlib.sha256(str(data.images.shape).encode())
    for index in chosen:
        digest.update(data.images[index].tobytes())
    return digest.hexdigest()[:16]


def assemble(config: dict[str, Any], data: ImageData, device: torch.device, out: str | Path | None) -> Job:
    """Network, loss and trainer as the config describes them."""
    training, diffusion = TrainConfig(**config["training"]), config["diffusion"]
    torch.manual_seed(seed_from(training.seed, WEIGHTS))
    model, schedule = build(config)
    config["network"] = model.config  # with the defaults that it was not told, so that they cannot change under it
    loss = ddpm_loss(schedule, diffusion["prediction"], diffusion["min_snr_gamma"], device)
    trainer = Trainer(model, loss, data, training, device)
    return Job(
        config, data, model, schedule, trainer, out,
        save_every=config["save_every"] or max(1, min(1000, training.steps // 10)),
        sample_every=config["sample_every"] or max(1, min(5000, training.steps // 4)),
    )  # fmt: skip
