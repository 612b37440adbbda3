"""What a training of any kind does: it is planned, or taken up again, and then runs in its folder.

Each kind is a `Job` with a chapter of its own (ddpm_job, gan_job, classifier_job): what is trained, and what is drawn.
"""

import hashlib
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from minidiff.data.datasets import ImageData, load_data
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.rng import seed_from
from minidiff.runs import folder as checkpoint
from minidiff.runtime import distributed
from minidiff.training import journal
from minidiff.training.config import TrainConfig
from minidiff.training.loop import Training
from minidiff.training.presets import Preset

TRAINING_MAY_CHANGE = ("steps", "lr", "warmup", "precision", "compile")  # on resuming; without, it goes on to the bit
INTERVALS = ("save_every", "sample_every", "measure_every")  # a kind has those that it offers
WEIGHTS = 3  # what a seed is for, beside those of `train`


class Job(ABC):
    """A training that is ready to go: its config, data, network and trainer.

    out: where the run folder is to be, None for the next free one under runs/. folder: where it is, once there is one.
    Raises UserError when the config of a folder is incomplete, or the batch does not divide.
    """

    kind: ClassVar[str]  # of the run folder, and the name of the command: `minidiff train KIND`
    measure_every: int | None = None  # steps between two calls of `measure`; None: it is not called

    def __init__(
        self,
        config: dict[str, Any],
        data: ImageData,
        device: torch.device,
        out: str | Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self.config, self.data, self.out, self.folder = config, data, out, folder
        with reading(folder, self.kind):
            training = TrainConfig(**config["training"])
            self.save_every = config["save_every"] or max(1, min(1000, training.steps // 10))
            self.sample_every = config.get("sample_every") or max(1, min(5000, training.steps // 4))
            torch.manual_seed(seed_from(training.seed, WEIGHTS))
            self.trainer = self.build(training, device)
        # With the defaults that the network was not told, so that they cannot change under it.
        config["network"] = self.model.config

    # --- what each kind says ---

    @abstractmethod
    def build(self, training: TrainConfig, device: torch.device) -> Training:
        """The network that the config describes, with its first weights, and what trains it."""

    @abstractmethod
    def describe_network(self) -> str:
        """The network, and what it learns, in a line."""

    @abstractmethod
    def preview(self, step: int) -> list[str]:
        """Pictures of a step, in samples/, drawn with the EMA weights; returns what is wrong with them."""

    @abstractmethod
    def conclusion(self) -> str:
        """What to look at, and the command to try next."""

    @staticmethod
    def changed(config: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """The config of a run that is resumed, with what options may change in this kind of run alone."""
        return config

    def measure(self, step: int) -> dict[str, float]:
        """What the EMA weights are worth. All processes call it; each returns the same."""
        return {}

    # --- what all of them do ---

    def describe(self) -> str:
        """Three lines: the data, the network, the training."""
        data, training = self.config["data"], self.config["training"]
        size, processes = data["image_size"], distributed.world_size()
        shared = f" over {processes} processes" if processes > 1 else ""
        corrupted = f", under {self.data.corruption}" if self.data.corruption else ""
        return (
            f"data      {data['name']}: {len(self.data.images):,} images, {size}x{size}, {data['channels']} channels"
            f"{corrupted}\n"
            f"network   {self.describe_network()}\n"
            f"training  {training['steps']:,} steps of {training['batch_size']} images, lr {training['lr']:g}, "
            f"on {self.trainer.device}{shared}, seed {training['seed']}"
        )

    @property
    def model(self) -> nn.Module:
        return self.trainer.model

    @property
    def parameters(self) -> str:
        return f"{sum(parameter.numel() for parameter in self.model.parameters()) / 1e6:.1f}M parameters"

    def picture(self, step: int) -> Path:
        """Where the picture of a step lies: of several the one that `preview` writes last."""
        assert self.folder is not None
        return self.folder / "samples" / f"{step:07d}.png"

    def start(self) -> str:
        """Make the run folder, unless the run is being resumed; returns a line that names it."""
        folder, config = self.folder, self.config
        if folder is not None:  # with what the options have changed: steps, rate, where the data lie
            distributed.main_first(lambda: write_json(folder / checkpoint.CONFIG, config))
            return f"resuming  {folder} at step {self.trainer.step:,}"
        name = f"{self.kind}-{config['data']['name']}" + (f"-{self.data.corruption}" if self.data.corruption else "")
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
                measure=self.measure,
                measure_every=self.measure_every,
            )
        except journal.Interrupted as stop:
            resume = f"Resume with: minidiff train {self.kind} --resume {shlex.quote(str(self.folder))}"
            raise journal.Interrupted(f"{stop} {resume}", stop.exit_code) from None
        last = self.trainer.config.steps
        if distributed.is_main() and not self.picture(last).exists():  # killed between the last save and its pictures
            journal.draw(self.folder, self.preview, last)


AnyJob = TypeVar("AnyJob", bound=Job)


# --- to plan one, or to take it up again ----------------------------------------------------------------------------


def training_config(preset: Preset, options: dict[str, Any]) -> dict[str, Any]:
    """The fields of TrainConfig: those of the preset, overridden by the options."""
    names = {field.name for field in fields(TrainConfig)}
    training = preset.training | {k: v for k, v in options.items() if k in names}
    if "warmup" not in options:
        training["warmup"] = min(training["warmup"], training["steps"] // 6)  # a short run must get past it
    return asdict(TrainConfig(**training))


def check_out(options: dict[str, Any]) -> None:
    """A UserError when the folder for the run is taken: before the data are read, or downloaded."""
    if options.get("out") is not None:
        distributed.main_first(lambda: checkpoint.check_free(Path(options["out"])))


def open_data(options: dict[str, Any], image_size: int) -> tuple[ImageData, dict[str, Any]]:
    """The data set that the options name (dataset, data_dir, on_bad, corruption, severity), and what config.json says
    of it."""
    data_dir = os.path.abspath(options["data_dir"]) if options.get("data_dir") else None
    asked = {"data_dir": data_dir, "image_size": image_size, "on_bad": options.get("on_bad", "skip")}
    if options.get("corruption", "identity") != "identity":
        asked |= {"corruption": options["corruption"], "severity": options.get("severity", 3)}
    data = load_together(options.get("dataset", "shapes"), **asked)
    found = {"channels": data.images.shape[3], "images": len(data.images), "fingerprint": data.fingerprint()}
    return data, {"name": data.name} | asked | found


def asked_for(described: dict[str, Any]) -> dict[str, Any]:
    """What load_data was asked for, out of what config.json says of the data."""
    asked = {key: described[key] for key in ("data_dir", "image_size", "on_bad")}
    return asked | {key: described[key] for key in ("corruption", "severity") if key in described}


def describe_labels(data: ImageData) -> dict[str, Any]:
    """What there is to tell: the names, whether each image has exactly one of them, and a digest to know them again."""
    return {
        "names": data.label_names,
        "one_hot": bool((data.labels.sum(axis=1) == 1).all()),
        "fingerprint": hashlib.sha256(np.ascontiguousarray(data.labels).tobytes()).hexdigest()[:16],
    }


def check_labels(data: ImageData, use: str) -> None:
    """A UserError unless there are at least two labels, and images that have some. use: what needs them, for the
    message."""
    if len(data.label_names) < 2:
        has = "only one label" if data.label_names else "no labels"
        notes = f" ({'; '.join(data.notes)})" if data.notes else ""
        mend = " Put the images of each class into a sub-folder of its own." if data.name == "folder" else ""
        raise UserError(f"{data.name} has {has}{notes}; {use} needs two.{mend}")
    if not data.labels.any():
        none = f"none of the {len(data)} images of {data.name} has a label"
        raise UserError(f"{none}, and {use} needs some. Say in its files what they show.")


def resume(kind: type[AnyJob], folder: str | Path, device: torch.device, options: dict[str, Any]) -> AnyJob:
    """The training of a run folder, at its last checkpoint.

    options: any of data_dir, INTERVALS and TRAINING_MAY_CHANGE, and what the kind's own `changed` takes. A run at its
    last step has nothing left to do but the measurement and the pictures it may lack. Raises UserError when the folder
    is no run of this kind, its state is damaged or gone, or the data are not those it began with.
    """
    folder = Path(folder)
    config = checkpoint.read_config(folder, kind=kind.kind)
    if "source" in config:
        raise UserError(f"{folder} was imported, weights alone: there is no training to go on with. Sample it.")
    with reading(folder, kind.kind):
        config["training"] |= {name: options[name] for name in TRAINING_MAY_CHANGE if name in options}
        config |= {name: options[name] for name in INTERVALS if name in options}
        config = kind.changed(config, options)
        if "data_dir" in options:
            config["data"]["data_dir"] = os.path.abspath(options["data_dir"])
        name, count, digest = (config["data"][key] for key in ("name", "images", "fingerprint"))
        asked = asked_for(config["data"])
        labels = config.get("labels")
    data = load_together(name, **asked)
    if labels and labels | describe_labels(data) != labels:
        raise UserError(f"{name} has other labels now than {folder} began with. Bring those back.")
    if (len(data.images), data.fingerprint()) != (count, digest):
        raise UserError(
            f"{folder} was trained on {count} images and {name} now holds {len(data.images)} "
            "that are not the same. Bring back the data it began with, or start a new run."
        )
    job = kind(config, data, device, folder=folder)
    state = checkpoint.read_state(folder)
    if state is not None:
        job.trainer.load_state_dict(state, str(folder / checkpoint.STATE))
    elif (folder / checkpoint.MODEL).exists():
        raise UserError(
            f"{folder} has weights but no {checkpoint.STATE}, without which training cannot go on. "
            "Bring it back, or start a new run; the weights can be used without it."
        )
    return job


@contextmanager
def reading(folder: Path | None, kind: str) -> Iterator[None]:
    """What a config.json lacks, being of another version or changed by hand, is a UserError and no KeyError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        if folder is None:  # a config made here and now: the mistake is ours
            raise
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a {kind} run has ({error}).") from None


def load_together(name: str, **options: Any) -> ImageData:
    """The data set, read by the main process first: what has to be downloaded or decoded is so once."""
    return distributed.main_first(lambda: load_data(name, **options)) or load_data(name, **options)
