"""Which checkpoints of a training are kept: those after which the loss is sane, not merely finite.

Rests on runs. A training that blows up has a few finite losses on its way from 1 to infinity, and a checkpoint of that
time cannot go on, at any rate. So a checkpoint has to pass two tests. It is written only if the loss is sane at its
step. And the one before it stays beside it for one step more: the loss of the next step is the first that the new
weights have given, and if that is not sane, the checkpoint before comes back.
"""

import math
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from minidiff.files import flush_folder, working_place, write_errors
from minidiff.runs.folder import MODEL, STATE, read_state, read_tensors, save_model, save_state
from minidiff.training.loop import Training

# A loss this many times the first of the run, or 1 if that is smaller, is no longer of a network that learns. A loss
# that is to fall hardly ever doubles. A critic's is minus a distance that it has to learn first, so it grows.
FAR, FAR_FOR_CRITIC = 10.0, 100.0

Value = TypeVar("Value")


def telling(values: Mapping[str, Value]) -> tuple[str, Value]:
    """Return the loss that tells whether a training is sane, with its name: "loss", or of a GAN its critic's.

    The loss of a generator is a score of the critic, in units that drift. The critic's own loss compares two scores.
    """
    name = next((name for name in values if name.endswith("_loss")), "loss")
    return name, values[name]


class Checkpoints:
    """The checkpoint of a run folder, and the one before it while the last has not proved itself.

    first: the loss at the first step of the run; None: it is not known yet.
    """

    def __init__(self, folder: Path, step: int, first: float | None) -> None:
        self.folder, self.first = folder, first
        self.step = step  # of the checkpoint in the folder; 0: there is none
        self.step_before = 0
        self.before = working_place(folder / f"before-{STATE}")
        self.proving = False

    def is_sane(self, name: str, loss: float) -> bool:
        """Tell whether the loss that `telling` found is finite, and not far above the first of the run."""
        if self.first is None and math.isfinite(loss):
            self.first = loss
        far = FAR if name == "loss" else FAR_FOR_CRITIC
        return abs(loss) <= far * max(1.0, abs(self.first or 0.0))

    def save(self, trainer: Training) -> None:
        """Save the state to resume from, then the weights to sample from. A kill in between loses nothing."""
        self.keep_before()
        save_state(self.folder, trainer.state_dict())
        self.step, self.proving = trainer.step, True
        save_model(self.folder, trainer.ema.state_dict())

    def keep_before(self) -> None:
        """Give the checkpoint a second name, so that it outlives the next. A copy where a disk has no such names."""
        self.step_before = self.step
        if not self.step:
            return
        self.before.unlink(missing_ok=True)
        with write_errors(self.before):
            try:
                os.link(self.folder / STATE, self.before)
            except OSError:
                shutil.copyfile(self.folder / STATE, self.before)

    def prove(self, name: str, loss: float) -> bool:
        """Judge the last checkpoint by the loss of the step after it. Returns False if it was taken back."""
        self.proving = False
        if self.is_sane(name, loss):
            self.close()
            return True
        if self.step_before:
            state = read_state(self.folder, self.before.name)
            assert state is not None
            save_model(self.folder, state["ema"])
            os.replace(self.before, self.folder / STATE)
        else:
            (self.folder / MODEL).unlink(missing_ok=True)
            (self.folder / STATE).unlink(missing_ok=True)
        flush_folder(self.folder)
        self.step = self.step_before
        return False

    def close(self) -> None:
        """Remove the checkpoint before the last."""
        with suppress(OSError):
            self.before.unlink(missing_ok=True)

    def in_words(self) -> str:
        """Say which checkpoint is kept."""
        if not self.step:
            return "No good checkpoint had been written yet."
        return f"The last good checkpoint is kept in {self.folder}: that of step {self.step:,}."


def complete(folder: Path, trainer: Training) -> None:
    """Write the weights to sample from again, unless they are those of the state. A kill may have come between."""
    weights: Mapping[str, Any] = trainer.ema.state_dict()
    try:
        there = read_tensors(folder / MODEL)
        same = there.keys() == weights.keys() and all(
            there[name].equal(tensor.cpu()) for name, tensor in weights.items()
        )
    except ValueError:
        same = False
    if not same:
        save_model(folder, weights)
