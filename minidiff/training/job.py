"""A training of any kind in its run folder: how it is planned and run. To take it up again: `resume`.

Rests on loop and journal. Each kind is a `Job` with a chapter of its own, which says what is trained and what is drawn:
ddpm/job.py, gan/job.py, classifier/job.py, dehaze/job.py, priors/job.py.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from minidiff.data.array_set import keep_images
from minidiff.data.config import Images, Labels
from minidiff.data.datasets import ImageData
from minidiff.errors import UserError
from minidiff.files import hold, sweep, write_json
from minidiff.networks.weights import fingerprint, load_exactly
from minidiff.records import to_json
from minidiff.rng import seed_from
from minidiff.runs.folder import CONFIG, check_free, check_makeable, create_run
from minidiff.runtime import distributed
from minidiff.training import journal
from minidiff.training.clock import Clock
from minidiff.training.config import INITIAL_WEIGHTS, ResumeRequest, RunConfig, Start, TrainConfig
from minidiff.training.data import open_again
from minidiff.training.estimates import aside, steps_that_fit
from minidiff.training.loop import Training
from minidiff.training.step import TrainStep

Config = TypeVar("Config", bound=RunConfig)


class Job(ABC, Generic[Config]):
    """A training that is ready to go: its config, data, network and trainer.

    out: where the run folder is to be; None: the next free one under runs/. folder: where it is, once there is one.
    From then on the job holds the folder, until its steps end or `close` is called. Raises UserError when the batch
    does not divide.
    """

    kind: ClassVar[str]  # of the run folder, and the name of the command: `minidiff train KIND`
    may_change: ClassVar[tuple[str, ...]] = ()  # fields of ResumeRequest that this kind has beside resume.MAY_CHANGE
    sample_every: int  # steps between two calls of `preview`
    may_skip: bool  # whether a preview may be left out that would take long: if nobody said how often to draw
    measure_every: int | None  # steps between two calls of `measure`; None: it is not called
    started = False  # whether `start` has been called
    clock: Clock | None = None  # of a new training that is to take some minutes
    held: ExitStack | None = None  # the lock of the run folder
    fitting = 0  # the number of steps that fits the time, when another one was found not to
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
        self.device = device
        self.begin(config.training)

    def begin(self, training: TrainConfig) -> None:
        """Build the network with its first weights, and what trains it. Whatever was trained before is forgotten."""
        self.config = replace(self.config, training=training)
        self.set_intervals(training.steps)
        vars(self).pop("trainer", None)  # so that two do not lie in a GPU's memory
        torch.manual_seed(seed_from(training.seed, INITIAL_WEIGHTS))
        self.trainer = self.build(training, self.device)
        if self.folder is None and self.config.init is not None:
            self.begin_with(self.config.init)

    def set_intervals(self, steps: int) -> None:
        """Choose how often a training of so many steps is saved, drawn and measured."""
        self.save_every = self.config.save_every or max(1, min(1000, steps // 10))
        self.sample_every, self.may_skip = self.sample_interval(steps)
        self.measure_every = self.measure_interval(steps)

    def sample_interval(self, steps: int) -> tuple[int, bool]:
        """Return `sample_every` and `may_skip` of a training of so many steps."""
        asked = getattr(self.config, "sample_every", None)
        return asked or max(1, min(5000, steps // 4)), asked is None

    def measure_interval(self, steps: int) -> int | None:
        """Return `measure_every` of a training of so many steps."""
        return None

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

    @property
    def preview_passes(self) -> int:
        """Count how many images go through the network for a preview."""
        return 0

    @property
    def measure_passes(self) -> int:
        """Count how many images go through the network for a measurement."""
        return 0

    @classmethod
    def changed(cls, config: Config, request: ResumeRequest) -> Config:
        """Return the config of a resumed run, with the changes that only this kind of run allows."""
        return config

    @classmethod
    def batches_a_step(cls, config: Config) -> int:
        """Return how many batches of images a step takes."""
        return 1

    @classmethod
    def images_of(cls, config: Config, folder: Path, images: "Images | None") -> ImageData:
        """Load the images that a run was trained on. Raises UserError if they are not the same now.

        images: those that a script brings once more, for a run whose folder does not keep them.
        """
        labels: Labels | None = getattr(config, "labels", None)
        return open_again(config.data, labels, folder, images)

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
        steps = f"{training.steps:,} steps"
        if self.clock:
            steps = f"about {steps} in {training.minutes:g} minute{'s' * (training.minutes != 1)},"
        begins = f"init      the weights of {self.config.init.place}\n" if self.config.init else ""
        return (
            f"data      {data.name}: {len(self.data.images):,} images, {size}x{size}, {data.channels} channels"
            f"{corrupted}\n"
            f"network   {self.describe_network()}\n"
            f"{begins}"
            f"training  {steps} of {training.batch_size} images, {in_epochs(self.epochs)}, "
            f"{'Muon, ' * training.muon}lr {training.lr:g}, on {self.trainer.device}{shared}, seed {training.seed}"
        )

    @property
    def training(self) -> TrainConfig:
        return self.trainer.config

    @property
    def model(self) -> nn.Module:
        return self.trainer.model

    @property
    def epochs(self) -> float:
        """Return how often the training sees each image."""
        return self.training.steps * self.batches_a_step(self.config) * self.training.batch_size / len(self.data)

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
        resuming, self.started = self.folder is not None, True
        self.folder = distributed.from_main(distributed.main_first(self.prepare_folder))
        return f"resuming  {self.folder} at step {self.trainer.step:,}" if resuming else f"run       {self.folder}"

    def prepare_folder(self) -> Path:
        """Make the run folder, or make the one that is taken up ready: the part of `start` for the main process."""
        folder, config = self.folder, to_json(self.config)
        if folder is None:
            name = f"{self.kind}-{self.config.data.name}" + (f"-{self.data.corruption}" if self.data.corruption else "")
            folder = create_run(self.out, name, config, fill=self.fill_folder)
            self.held = hold(folder)
            return folder
        self.held = self.held or hold(folder)
        sweep(folder)
        write_json(folder / CONFIG, config)
        self.picture(0).parent.mkdir(exist_ok=True)  # a kill may have come before it was made
        return folder

    def close(self) -> None:
        """Let go of the run folder, so that another process can train in it."""
        self.started = False
        if self.held is not None:
            self.held.close()
            self.held = None

    def fill_folder(self, folder: Path) -> None:
        """Put into a new run folder what it needs beside its config.json."""
        self.keep_images(folder)

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

        Raises Interrupted after Ctrl-C, SIGTERM or SIGHUP, when the run has been saved.
        """
        if self.clock:
            self.clock.start()
        if not self.started:
            self.start()
        try:
            yield from self.work()
        finally:
            self.close()

    def work(self) -> Iterator[TrainStep]:
        """Train in the run folder, which this process holds: see `steps`."""
        yield from self.keep()
        while self.trainer.step < self.training.steps:  # it stopped because its steps do not fit the time any more
            self.correct_steps()
            yield from self.keep()

    def keep(self) -> Iterator[TrainStep]:
        """Train to the last step, or to the moment at which the clock finds that their number is wrong."""
        assert self.folder is not None
        preview, measure = self.preview, self.measure
        if self.clock:
            preview, measure = self.clock.timed("preview", preview), self.clock.timed("measure", measure)
        yield from journal.keep(
            self.trainer,
            self.folder,
            log_every=max(1, min(50, self.training.steps // 100)),
            save_every=self.save_every,
            sample_every=self.sample_every,
            preview=preview,
            is_drawn=lambda step: self.picture(step).exists(),
            limit=self.preview_passes if self.may_skip else None,
            measure=measure,
            measure_every=self.measure_every,
            warn=self.warn,
            pauses=self.is_off if self.clock else None,
        )

    # --- a training that is told its minutes ---

    def is_off(self, step: int) -> bool:
        """Tell whether the steps that are left do not fit the time that is left. The main process decides it."""
        clock, steps = self.clock, self.training.steps
        if clock is None or not clock.is_moment(step, self.device):
            return False
        self.fitting = max(step + 1, steps_that_fit(self, clock, step, clock.elapsed))
        return clock.is_off(step, steps, self.fitting, aside(self, clock, step, steps))

    def correct_steps(self) -> None:
        """Take another number of steps at the last checkpoint: what resuming the run with it would do."""
        assert self.folder is not None
        steps, before, step = distributed.from_main(self.fitting), self.training, self.trainer.step
        # A warm-up that is over stays what it was, and one that is not must end.
        training = replace(before, steps=steps, warmup=min(before.warmup, max(step, steps // 6)))
        self.config, self.trainer.config = replace(self.config, training=training), training
        config, place = to_json(self.config), self.folder / CONFIG
        distributed.main_first(lambda: write_json(place, config))
        self.set_intervals(steps)
        if distributed.is_main():
            journal.remark(f"the pace has changed: {steps:,} steps instead of {before.steps:,} fit the time")


def in_epochs(epochs: float) -> str:
    """Write a number of epochs in words: "0.05 epochs", "1.0 epochs", "312 epochs"."""
    digits = ",.0f" if epochs >= 100 else ".1f" if epochs >= 1 else ".2g"
    return f"{epochs:{digits}} epochs"


AnyJob = TypeVar("AnyJob", bound=Job[Any])


# --- to plan one ----------------------------------------------------------------------------------------------------


def start_of(place: str | Path, weights: Mapping[str, Tensor]) -> Start:
    """Return what config.json says of the run whose weights a training begins with."""
    found = Path(place).expanduser()
    return Start(os.path.abspath(found) if found.exists() else str(place), fingerprint(weights))


def check_out(out: str | Path | None) -> None:
    """Raise UserError when the run folder is taken or cannot be made: before the data are read, or downloaded."""
    distributed.main_first(lambda: check_makeable(Path("runs")) if out is None else check_free(Path(out)))
