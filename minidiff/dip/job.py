"""The fit of a deep image prior to one picture, in a run folder of its own.

Rests on dip.fit, dip.early_stop and dip.pictures. dip/recipe.py makes a `DipJob` from a request or from a run folder.

    config.json       the picture, the network, the fit
    target.png        what is fitted: the picture, with the noise added to it
    steps/000010.png  what the network gave, every `save_every` steps
    dip.png           the answer: the averaged output of the chosen step
    curves.png        loss, PSNR to a reference, the stopping statistic; sheet.png: target, input, current, best
    metrics.jsonl     one record every `save_every` steps
    result.json       once the fit is done
    state.pt          all that going on needs: until the fit is done, and after it if the early stop did not end it

The fits of a folder of pictures have one such run folder each, under images/, and all the answers in dip/.
"""

import math
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from minidiff.dip.config import ANSWER, RESULT, STEPS, TARGET, DipConfig, FitResult, present
from minidiff.dip.early_stop import EarlyStop
from minidiff.dip.fit import FitStep, Fitter
from minidiff.dip.pictures import draw_fit, draw_sheet
from minidiff.errors import UserError, counted, printable
from minidiff.files import hold, sweep, write_json
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.files import write_image
from minidiff.images.nearness import nearness
from minidiff.records import to_json
from minidiff.runs import folder as run_folder
from minidiff.runs.log import append_metrics, read_metrics, write_metrics
from minidiff.training.journal import Interrupted, stop_signals

SAVE_SECONDS = 60.0  # between two states: a kill costs a minute at most, the writing a percent at most
COLOURS = {1: "grey", 3: "colour"}  # number of channels -> what such a picture is called


class FitProgress(NamedTuple):
    """How far a fit has come, after each of its steps."""

    step: int  # 1, 2, ...
    total: int  # the step at which it ends, unless it is stopped before
    best_step: int  # the step of the answer so far; 0 while there is none
    record: dict[str, Any] | None  # what metrics.jsonl holds of this step; None between two saved steps


OnStep = Callable[[FitProgress], None]


@dataclass
class DipJob:
    """One picture, ready to be fitted: `start` makes its run folder, `run` fits it."""

    config: DipConfig
    fitter: Fitter
    stopper: EarlyStop | None
    target: Pixels  # [H,W,3]
    mask: Pixels | None  # [H,W,1]: 255 where the target is known, 0 in the holes
    reference: Pixels | None  # [H,W,3] of the answer's size
    out: str | Path | None  # where the run folder is to be; None: the next free one under runs/
    folder: Path | None = None  # where it is, once there is one
    held: ExitStack | None = None  # the lock of the folder, of a fit that is taken up
    original: tuple[int, int] | None = None  # height and width of the picture's file, if `size` changed them
    keep_state: bool = True  # keep the state of a fit that ran to its last step, so that it can go on for more steps

    def describe(self) -> str:
        """Describe the picture, the network and the fit in a line each."""
        config, fit, stop = self.config, self.fitter.config, self.config.early_stop
        height, width, _ = self.target.shape
        cut = ""
        if self.original is not None:
            was = min(self.original)
            how = "" if was == height else f" and {'shrunk' if was > height else 'enlarged'}"
            cut = f", cut{how} from {self.original[1]}x{self.original[0]}"
        noise = f", with noise of {config.noise_sigma:g}/255" if config.noise_sigma else ""
        channels = self.fitter.input.shape[1]
        given = f"{channels} channels of noise" if fit.input_kind == "noise" else "the picture itself"
        told = {"in_channels", "out_channels"}  # elsewhere in these lines
        settings = "".join(
            f", {name.replace('_', ' ')} {value}" for name, value in config.net.settings().items() if name not in told
        )
        parameters = sum(parameter.numel() for parameter in self.fitter.net.parameters())
        ending = "no early stop"
        if stop:
            coarse = f" at 1/{stop.downscale} of the size" if (stop.downscale or 1) > 1 else ""
            ending = f"stops {stop.patience:,} steps after the {stop.name} variance{coarse} was lowest"
            if (stop.window or 0) > fit.steps:
                ending = f"no early stop, because its window of {stop.window} steps would not fill"
            elif (stop.window or 1) + stop.patience > fit.steps:
                ending = f"too few to stop early, {stop.patience:,} steps after the {stop.name} variance was lowest"
        task = fit.task + (f" x{fit.factor}" if fit.task == "super-resolve" else "")
        colours = COLOURS[self.fitter.known.shape[1]]
        return (
            f"image     {printable(config.image)}: {width}x{height}, {colours}{cut}{noise}\n"
            f"network   {config.net.name}, {parameters:,} parameters{settings}; its input is {given}\n"
            f"fit       {task}, at most {fit.steps:,} steps, lr {fit.lr:g}, on {self.fitter.device}, "
            f"seed {fit.seed}; {ending}"
        )

    def start(self) -> Path:
        """Make the run folder, unless the fit is being resumed. Returns the folder."""
        if self.folder is None:
            name = f"dip-{Path(self.config.image).stem}"
            self.folder = run_folder.create_run(self.out, name, to_json(self.config), pictures=STEPS)
        return self.folder

    def run(self, on_step: OnStep | None = None) -> FitResult:
        """Fit until the early stop or the last step, and write the answer. on_step is called after each step.

        Raises Interrupted after Ctrl-C, SIGTERM or SIGHUP, having saved; UserError for a loss that is not a number.
        """
        folder, fitter = self.start(), self.fitter
        total, saved = fitter.config.steps, time.monotonic()
        held, self.held = self.held or hold(folder), None
        with held, stop_signals() as signals:
            sweep(folder)
            self.begin(folder)
            step: FitStep | None = None
            for step in fitter.steps():
                statistic, stop = self.stopper.update(step.output, step.averaged) if self.stopper else (None, False)
                last = stop or step.step == total
                record = None
                if step.step % self.config.save_every == 0 or last:
                    record = self.measure(step, statistic)
                    if not math.isfinite(record["loss"]):
                        raise UserError(
                            f"the loss became {record['loss']} by step {step.step}. "
                            "Start again with a third of the `lr`, and the usual `jitter`."
                        )
                    append_metrics(folder, record)
                    write_image(step_file(folder, step.step), to_uint8(step.output)[0])
                if on_step is not None:
                    on_step(FitProgress(step.step, total, self.stopper.best_step if self.stopper else 0, record))
                if last:
                    break
                if signals or time.monotonic() - saved > SAVE_SECONDS:
                    self.save(step)
                    saved = time.monotonic()
                if signals:
                    number = signal.Signals(signals[0])
                    raise Interrupted(f"Stopped by {number.name} at step {step.step}; saved.", 128 + number)
            assert step is not None, "a finished fit is not run again"
            return self.finish(step, stop)

    def begin(self, folder: Path) -> None:
        """Bring the folder to what a fit of this many steps, uninterrupted, would have written by now.

        A fit that goes on after its last step has a new number of steps in its config, and no result yet. The record
        and the output of a last step between two multiples of `save_every` go, and so do those of lost steps.
        """
        if run_folder.read_config(folder)["fit"].get("steps") != self.config.fit.steps:
            write_json(folder / run_folder.CONFIG, to_json(self.config))
        (folder / RESULT).unlink(missing_ok=True)
        write_image(folder / TARGET, self.target)
        records = read_metrics(folder, upto=self.fitter.step)
        write_metrics(folder, [record for record in records if record["step"] % self.config.save_every == 0])
        for file in (folder / STEPS).glob("*.png"):
            step = int(file.stem) if file.stem.isdecimal() else 0
            if step > self.fitter.step or step % self.config.save_every:
                file.unlink()

    def measure(self, step: FitStep, statistic: float | None) -> dict[str, Any]:
        """Make the record of a step. With a reference it has PSNR and SSIM of the raw and the averaged output."""
        record: dict[str, Any] = {"step": step.step, "loss": step.loss.item(), "statistic": statistic}
        if self.reference is not None:
            for suffix, image in (("", step.output), ("_average", step.averaged)):
                found = nearness(to_uint8(image)[0], self.reference)
                record |= {name + suffix: value for name, value in found.items()}
        return record

    def save(self, step: FitStep) -> None:
        """Write all that resuming needs, and pictures of the present state."""
        self.save_state()
        self.draw(step)

    def save_state(self) -> None:
        """Write all that resuming needs."""
        assert self.folder is not None
        stopper = self.stopper.state_dict() if self.stopper else None
        state = {"step": self.fitter.step, "fitter": self.fitter.state_dict(), "stopper": stopper}
        run_folder.save_state(self.folder, state)

    def load_state_dict(self, state: dict[str, Any], source: str) -> None:
        """Go on from what `save` wrote. source: the file, for the message of a state that does not fit."""
        self.fitter.load_state_dict(state.get("fitter"), source)
        if self.stopper is not None:
            stopper = state.get("stopper")
            self.stopper.load_state_dict(stopper, self.fitter.shape, source)
            for name, value in vars(self.stopper).items():
                if isinstance(value, Tensor):
                    setattr(self.stopper, name, value.to(self.fitter.device))

    def draw(self, step: FitStep) -> None:
        """Write curves.png and sheet.png."""
        assert self.folder is not None
        best, best_step = self.answer(step)
        draw_fit(self.folder, read_metrics(self.folder), best_step)
        panels = {
            "target": self.target,
            "input": to_uint8(input_picture(self.fitter.input))[0],
            f"current: step {step.step:,}": to_uint8(step.output)[0],
            f"best: step {best_step:,}, averaged" if self.fitter.config.average else f"best: step {best_step:,}": best,
        }
        draw_sheet(self.folder / "sheet.png", panels, self.reference)

    def answer(self, step: FitStep) -> tuple[Pixels, int]:
        """Return the answer so far, uint8 [H,W,3], and its step: the early stop's choice, or without one the last step.

        In an inpainting the known pixels are the target's own, unless noise was added to it.
        """
        best, best_step = step.averaged, step.step
        if self.stopper is not None and self.stopper.best is not None:
            best, best_step = self.stopper.best, self.stopper.best_step
        pixels = to_uint8(best)[0]
        if self.mask is not None and not self.config.noise_sigma:
            pixels = np.where(self.mask > 0, self.target, pixels)
        return pixels, best_step

    def finish(self, step: FitStep, stopped: bool) -> FitResult:
        """Write the answer and its pictures, then result.json.

        Only then save the state for more steps; or remove it, if they would change nothing, as after an early stop.
        """
        assert self.folder is not None
        pixels, best_step = self.answer(step)
        write_image(self.folder / ANSWER, pixels)
        self.draw(step)
        found: dict[str, float] = {}
        if self.reference is not None:
            found = nearness(pixels, self.reference)
            if self.target.shape == self.reference.shape:
                before = nearness(self.target, self.reference)
                found |= {f"{name}_target": value for name, value in before.items()}
        result = FitResult(step.step, best_step, stopped, **found)
        write_json(self.folder / RESULT, present(result))
        if self.keep_state and not stopped:
            self.save_state()
        else:
            (self.folder / run_folder.STATE).unlink(missing_ok=True)
        return result


def undecided(config: DipConfig, result: FitResult) -> str | None:
    """Say that a fit used up its steps before the early stop could choose. None if it chose, or if there is none."""
    stop, steps = config.early_stop, result.steps
    if result.stopped or stop is None:
        return None
    if (stop.window or 0) > steps:
        return (
            f"{counted(steps, 'step')} are too few for an early stop that looks at {stop.window}: the last was taken."
        )
    if result.best_step > 0.95 * steps:
        return f"the fit was still improving when its {steps:,} steps were over."
    return (
        f"the early stop had not decided when the {steps:,} steps were over: the {stop.name} variance was lowest at "
        f"step {result.best_step:,}, and it waits {stop.patience:,} steps from there."
    )


def input_picture(z: Tensor) -> Tensor:
    """Show the network's input [1,C,H,W]: its first channels, stretched to [-1, 1], float [1,1 or 3,H,W]."""
    shown = z[:, : 3 if z.shape[1] >= 3 else 1]
    low, high = shown.amin(), shown.amax()
    return 2 * (shown - low) / (high - low).clamp(min=1e-12) - 1


def step_file(folder: Path, step: int) -> Path:
    """Name the file in which the output of a step is saved."""
    return folder / STEPS / f"{step:06d}.png"
