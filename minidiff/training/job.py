"""A training of any kind in its run folder: how it is planned, resumed and run.

Rests on loop and journal. Each kind is a `Job` with a chapter of its own, which says what is trained and what is drawn:
ddpm/job.py, gan/job.py, classifier/job.py.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from minidiff.data.array_set import keep_images
from minidiff.data.config import Labels
from minidiff.data.datasets import ImageData
from minidiff.errors import UserError, listed
from minidiff.files import locked, write_json
from minidiff.networks.weights import fingerprint, load_exactly
from minidiff.records import to_json
from minidiff.rng import seed_from
from minidiff.runs.folder import CONFIG, MODEL, STATE, check_free, create_run, read_config, read_state
from minidiff.runtime import distributed
from minidiff.training import journal
from minidiff.training.config import INITIAL_WEIGHTS, ResumeRequest, RunConfig, Start, TrainConfig, given
from minidiff.training.data import open_again
from minidiff.training.loop import Training
from minidiff.training.step import TrainStep

Config = TypeVar("Config", bound=RunConfig)

# What every run may change when it is taken up again; each kind adds its own, see `Job.may_change`.
SETTINGS = ("steps", "lr", "warmup", "precision", "compile")  # of TrainConfig
AS_IT_WAS = ResumeRequest()
MAY_CHANGE = ("data_dir", *SETTINGS, "save_every", "device", "on_step", "images")


class Job(ABC, Generic[Config]):
    """A training that is ready to go: its config, data, network and trainer.

    out: where the run folder is to be; None: the next free one under runs/. folder: where it is, once there is one.
    Raises UserError when the batch does not divide.
    """

    kind: ClassVar[str]  # of the run folder, and the name of the command: `minidiff train KIND`
    may_change: ClassVar[tuple[str, ...]] = ()  # fields of ResumeRequest that this kind has beside MAY_CHANGE
    sample_every: int  # steps between two calls of `preview`
    measure_every: int | None = None  # steps between two calls of `measure`; None: it is not called
    started = False  # whether `start` has been called
    warn: journal.Warn = staticmethod(journal.warn)  # prints a warning; the command line puts flags for arguments

    def __init__(
        self,
        config: Config,
        data: ImageData,
        device: torch.device,
        out: str | Path | None = None,
        folder: Path | None = None,
    ) -> None:
        assert config.training is not None, "an imported run is not trained"
        self.config, self.data, self.out, self.folder = config, data, out, folder
        training = config.training
        self.save_every = config.save_every or max(1, min(1000, training.steps // 10))
        self.sample_every = getattr(config, "sample_every", None) or max(1, min(5000, training.steps // 4))
        torch.manual_seed(seed_from(training.seed, INITIAL_WEIGHTS))
        self.trainer = self.build(training, device)
        if folder is None and config.init is not None:
            self.begin_with(config.init)

    # --- what each kind says ---

    @staticmethod
    @abstractmethod
    def read(stored: dict[str, Any], where: object) -> Config:
        """Read the config.json of a run of this kind. Raises UserError."""

    @abstractmethod
    def build(self, training: TrainConfig, device: torch.device) -> Training:
        """Build the network that the config describes, with its first weights, and what trains it."""

    @abstractmethod
    def first_weights(self, place: str) -> Mapping[str, Tensor]:
        """Read the EMA weights of a run of this kind, to begin with. Raises UserError."""

    @abstractmethod
    def describe_network(self) -> str:
        """Describe the network, and what it learns, in a line."""

    @abstractmethod
    def preview(self, step: int) -> list[str]:
        """Draw pictures with the EMA weights of a step, into samples/. Returns what is wrong with them."""

    @abstractmethod
    def conclusion(self) -> str:
        """Say how the training ended, and what to look at."""

    @classmethod
    def changed(cls, config: Config, request: ResumeRequest) -> Config:
        """Return the config of a resumed run, with the changes that only this kind of run allows."""
        return config

    def measure(self, step: int) -> dict[str, float]:
        """Measure how good the EMA weights are. All processes call it, and each returns the same."""
        return {}

    # --- what all of them do ---

    def begin_with(self, start: Start) -> None:
        """Take the weights of another run for the first ones, and for their average. Raises UserError.

        All of them must fit, and they must be the ones that the config names: that run may have gone on since.
        """
        tensors = self.first_weights(start.place)
        if fingerprint(tensors) != start.weights:
            raise UserError(f"{start.place} has other weights now than when this run began with them. Start a new run.")
        for network in (self.trainer.model, self.trainer.ema):
            load_exactly(network, tensors, start.place, "leave out `preset` to take the network of that run")

    def describe(self) -> str:
        """Describe the data, the network and the training, a line each."""
        data, training = self.config.data, self.training
        size, processes = data.image_size, distributed.world_size()
        shared = f" over {processes} processes" if processes > 1 else ""
        corrupted = f", under {self.data.corruption}" if self.data.corruption else ""
        begins = f"init      the weights of {self.config.init.place}\n" if self.config.init else ""
        return (
            f"data      {data.name}: {len(self.data.images):,} images, {size}x{size}, {data.channels} channels"
            f"{corrupted}\n"
            f"network   {self.describe_network()}\n"
            f"{begins}"
            f"training  {training.steps:,} steps of {training.batch_size} images, lr {training.lr:g}, "
            f"on {self.trainer.device}{shared}, seed {training.seed}"
        )

    @property
    def training(self) -> TrainConfig:
        return self.trainer.config

    @property
    def model(self) -> nn.Module:
        return self.trainer.model

    @property
    def parameters(self) -> str:
        return f"{sum(parameter.numel() for parameter in self.model.parameters()) / 1e6:.1f}M parameters"

    def picture(self, step: int) -> Path:
        """Return the path of a step's picture; if there are several, the one that `preview` writes last."""
        assert self.folder is not None
        return self.folder / "samples" / f"{step:07d}.png"

    def start(self) -> str:
        """Make the run folder, or write what has changed into the one that is taken up. Returns a line that names it.

        Raises UserError while another process trains in the folder, and then leaves it as it is.
        """
        folder, config, self.started = self.folder, to_json(self.config), True
        if folder is not None:

            def rewrite() -> None:
                with locked(folder):
                    write_json(folder / CONFIG, config)

            distributed.main_first(rewrite)
            return f"resuming  {folder} at step {self.trainer.step:,}"
        name = f"{self.kind}-{self.config.data.name}" + (f"-{self.data.corruption}" if self.data.corruption else "")
        made = distributed.main_first(lambda: create_run(self.out, name, config, fill=self.keep_images))
        self.folder = distributed.from_main(made)
        return f"run       {self.folder}"

    def keep_images(self, folder: Path) -> None:
        """Keep in a new run folder the images that a script brought. Warns if they are too many for that."""
        if self.config.data.brought and not keep_images(folder, self.data):
            size = f"{self.data.clean.nbytes / 1e9:.1f} GB"
            self.warn(
                f"images of {size} are not kept in {folder}. To resume, give them once more: "
                "minidiff.resume(folder, images); or train on a .npy file of them."
            )

    def run(self) -> None:
        """Train to the last step: see `steps`."""
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[TrainStep]:
        """Train to the last step, in the run folder. Yields each step when it is saved, drawn and measured, if it is.

        Raises Interrupted after Ctrl-C or SIGTERM, when the run has been saved.
        """
        if not self.started:
            self.start()
        assert self.folder is not None
        last = self.training.steps
        yield from journal.keep(
            self.trainer,
            self.folder,
            log_every=max(1, min(50, last // 100)),
            save_every=self.save_every,
            sample_every=self.sample_every,
            preview=self.preview,
            measure=self.measure,
            measure_every=self.measure_every,
            warn=self.warn,
        )
        if distributed.is_main() and not self.picture(last).exists():  # killed between the last save and its pictures
            journal.draw(self.folder, self.preview, last, self.warn)


AnyJob = TypeVar("AnyJob", bound=Job[Any])


# --- to plan one, or to take it up again ----------------------------------------------------------------------------


def start_of(place: str | Path, weights: Mapping[str, Tensor]) -> Start:
    """Return what config.json says of the run whose weights a training begins with."""
    found = Path(place).expanduser()
    return Start(os.path.abspath(found) if found.exists() else str(place), fingerprint(weights))


def check_out(out: str | Path | None) -> None:
    """Raise UserError when the folder for the run is taken: before the data are read, or downloaded."""
    if out is not None:
        distributed.main_first(lambda: check_free(Path(out)))


def resume(kind: type[AnyJob], folder: str | Path, request: ResumeRequest = AS_IT_WAS) -> AnyJob:
    """Resume the training of a run folder at its last checkpoint, with the changes of the request.

    A run at its last step only makes the measurement and the pictures that it may lack.
    Raises UserError when the folder is not a run of this kind, its state is damaged or gone, or its data have changed.
    """
    folder = Path(folder)
    config = kind.read(read_config(folder, kind=kind.kind), folder / CONFIG)
    if config.training is None:
        raise UserError(
            f"{folder} was not trained by minidiff's own loop, so it has weights but no training to go on with. "
            "Draw from it with `minidiff sample`, or begin a new training with `init`."
        )
    check_changes(kind, request)
    config = kind.changed(config, request)
    config = replace(
        config,
        training=replace(config.training, **given(request, SETTINGS)),
        **given(request, {"save_every", "sample_every", "measure_every"}),
    )
    if request.data_dir is not None:
        config = replace(config, data=replace(config.data, data_dir=os.path.abspath(request.data_dir)))
    labels: Labels | None = getattr(config, "labels", None)
    data = open_again(config.data, labels, folder, request.images)
    job = kind(config, data, distributed.local_device(request.device), folder=folder)
    state = read_state(folder)
    if state is not None:
        job.trainer.load_state_dict(state, str(folder / STATE))
    elif (folder / MODEL).exists():
        raise UserError(
            f"{folder} has weights but no {STATE}, without which training cannot go on. "
            "Bring it back, or start a new run. You can still draw with the weights."
        )
    elif config.init is not None:  # killed before its first checkpoint
        job.begin_with(config.init)
    return job


def check_changes(kind: type[Job[Any]], request: ResumeRequest) -> None:
    """Raise UserError for a change that this kind of run does not know."""
    for name in given(request, [field.name for field in fields(request)]):
        if name not in MAY_CHANGE + kind.may_change:
            known = listed([f"`{each}`" for each in MAY_CHANGE + kind.may_change], "and")
            raise UserError(f"a {kind.kind} run has no `{name}`. On resuming it may change {known}.")
