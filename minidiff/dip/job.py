"""The fit of a deep image prior to one picture, in a run folder of its own, and what it leaves there for others.

Rests on dip (the fit and its early stop), dip_pictures and checkpoint; dip_plan makes a `DipJob` from options or from
a run folder. What `minidiff dip fit` does.

    config.json       the picture, the network, the fit
    target.png        what is fitted: the picture, with the noise added to it
    steps/000010.png  what the network gave, every `save_every` steps
    dip.png           the answer: the averaged output of the chosen step
    curves.png        loss, PSNR to a reference, the stopping statistic; sheet.png: target, input, current, best
    metrics.jsonl     one record every `save_every` steps
    result.json       once the fit is done; until then state.pt, all that resuming needs

A fit of a folder of pictures holds such a run folder for each, under images/, and all the answers in dip/.
"""

import math
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from minidiff.dip.fit import EarlyStop, FitStep, Fitter
from minidiff.dip.pictures import draw_fit, draw_sheet
from minidiff.errors import UserError
from minidiff.files import locked, write_json
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.files import free_name, read_image, write_image
from minidiff.images.quality import psnr, ssim
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import append_metrics, read_metrics, write_metrics
from minidiff.training.journal import Interrupted, stop_signals

ANSWER, TARGET, RESULT, STEPS, IMAGES, ANSWERS = "dip.png", "target.png", "result.json", "steps", "images", "dip"
SAVE_SECONDS = 60.0  # between two states: a kill costs a minute at most, the writing a percent at most


@dataclass
class DipJob:
    """One picture, ready to be fitted: `start`, `run`, and what to say before and after."""

    config: dict[str, Any]
    fitter: Fitter
    stopper: EarlyStop | None
    target: Pixels  # [H,W,3]
    mask: Pixels | None  # [H,W,1]: 255 where the target is known, 0 in the holes
    reference: Pixels | None  # [H,W,3] of the answer's size
    out: str | Path | None  # where the run folder is to be; None: the next free one under runs/
    folder: Path | None = None  # where it is, once there is one
    resume: str = ""  # the command that goes on when this fit is interrupted; by default its own

    def describe(self) -> str:
        """Three lines: the picture, the network, the fit."""
        config, fit, stop = self.config, self.fitter.config, self.config["early_stop"]
        height, width, _ = self.target.shape
        noise = f", with noise of {config['noise_sigma']:g}/255" if config["noise_sigma"] else ""
        shape = self.fitter.input.shape
        given = f"{shape[1]} channels of noise" if fit.input_kind == "noise" else "the picture itself"
        settings = "".join(
            f", {name.replace('_', ' ')} {value}" for name, value in config["net"].items() if name not in UNTOLD
        )
        parameters = sum(parameter.numel() for parameter in self.fitter.net.parameters())
        ending = "no early stop"
        if stop:
            coarse = f" at 1/{stop['downscale']} of the size" if stop.get("downscale", 1) > 1 else ""
            ending = f"stops {stop['patience']:,} steps after the {stop['name']} variance{coarse} was lowest"
            if stop.get("window", 0) > fit.steps:
                ending = f"no early stop, whose window of {stop['window']} steps would not fill"
        task = fit.task + (f" x{fit.factor}" if fit.task == "super-resolve" else "")
        return (
            f"image     {config['image']}: {width}x{height}, {COLOURS[self.fitter.known.shape[1]]}{noise}\n"
            f"network   {config['net']['name']}, {parameters:,} parameters{settings}; its input {given}\n"
            f"fit       {task}, at most {fit.steps:,} steps, lr {fit.lr:g}, on {self.fitter.device}, "
            f"seed {fit.seed}; {ending}"
        )

    def start(self) -> str:
        """Make the run folder, unless the fit is being resumed; returns a line that names it."""
        if self.folder is not None:
            return f"resuming  {self.folder} at step {self.fitter.step:,}"
        name = f"dip-{Path(self.config['image']).stem}"
        self.folder = checkpoint.create_run(self.out, name, self.config, pictures=STEPS)
        return f"run       {self.folder}"

    def run(self) -> dict[str, Any]:
        """Fit until the early stop or the last step, write the answer, and return what result.json holds.

        Raises journal.Interrupted after Ctrl-C or SIGTERM, having saved; UserError on a loss that is not a number.
        """
        assert self.folder is not None, "start() first"
        config, fitter, folder = self.config, self.fitter, self.folder
        total, saved = fitter.config.steps, time.monotonic()
        with (
            locked(folder),
            stop_signals() as signals,
            tqdm(total=total, initial=fitter.step, unit="step", dynamic_ncols=True, smoothing=0.05) as bar,
        ):
            write_image(folder / TARGET, self.target)
            write_metrics(folder, read_metrics(folder, upto=fitter.step))
            step: FitStep | None = None
            for step in fitter.steps():
                statistic, stop = self.stopper.update(step.output, step.averaged) if self.stopper else (None, False)
                bar.update()
                last = stop or step.step == total
                if step.step % config["save_every"] == 0 or last:
                    record = self.measure(step, statistic)
                    if not math.isfinite(record["loss"]):
                        raise UserError(
                            f"the loss became {record['loss']} by step {step.step}. "
                            "Start anew with a third of the --lr, and the usual --jitter."
                        )
                    append_metrics(folder, record)
                    write_image(step_file(folder, step.step), to_uint8(step.output)[0])
                    best = f", best so far {self.stopper.best_step}" if self.stopper and self.stopper.best_step else ""
                    bar.set_postfix_str(f"loss {record['loss']:.5f}{best}")
                if last:
                    break
                if signals or time.monotonic() - saved > SAVE_SECONDS:
                    self.save(step)
                    saved = time.monotonic()
                if signals:
                    number = signal.Signals(signals[0])
                    command = self.resume or f"minidiff dip fit --resume {shlex.quote(str(folder))}"
                    raise Interrupted(
                        f"Stopped by {number.name} at step {step.step}; saved. Resume with: {command}", 128 + number
                    )
            assert step is not None, "a finished fit is not run again"
            return self.finish(step, stop)

    def measure(self, step: FitStep, statistic: float | None) -> dict[str, Any]:
        """The record of a step; PSNR and SSIM of the raw output and of the averaged one where there is a reference."""
        record = {"step": step.step, "loss": step.loss.item(), "statistic": statistic}
        if self.reference is not None:
            for suffix, image in (("", step.output), ("_average", step.averaged)):
                record |= {name + suffix: value for name, value in quality(to_uint8(image)[0], self.reference).items()}
        return record

    def save(self, step: FitStep) -> None:
        """All that resuming needs, and pictures of how it stands."""
        assert self.folder is not None
        stopper = self.stopper.state_dict() if self.stopper else None
        state = {"step": self.fitter.step, "fitter": self.fitter.state_dict(), "stopper": stopper}
        checkpoint.save_state(self.folder, state)
        self.draw(step)

    def draw(self, step: FitStep) -> None:
        """curves.png and sheet.png."""
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
        """What the fit has come to, uint8 [H,W,3], and the step it is of: the early stop's, or without one the last.

        Of an inpainting the known pixels are the target's own, unless it was made noisy.
        """
        best, best_step = step.averaged, step.step
        if self.stopper is not None and self.stopper.best is not None:
            best, best_step = self.stopper.best, self.stopper.best_step
        pixels = to_uint8(best)[0]
        if self.mask is not None and not self.config["noise_sigma"]:
            pixels = np.where(self.mask > 0, self.target, pixels)
        return pixels, best_step

    def finish(self, step: FitStep, stopped: bool) -> dict[str, Any]:
        """The answer and its pictures, then result.json, and only then is the state let go."""
        assert self.folder is not None
        pixels, best_step = self.answer(step)
        write_image(self.folder / ANSWER, pixels)
        self.draw(step)
        result: dict[str, Any] = {"steps": step.step, "best_step": best_step, "stopped": stopped}
        if self.reference is not None:
            result |= quality(pixels, self.reference)
            if self.target.shape == self.reference.shape:
                before = quality(self.target, self.reference)
                result |= {f"{name}_target": value for name, value in before.items()}
        write_json(self.folder / RESULT, result)
        (self.folder / checkpoint.STATE).unlink(missing_ok=True)
        return result


UNTOLD = {"name", "in_channels", "out_channels"}  # of a network's settings: said elsewhere in the description
COLOURS = {1: "grey", 3: "colour"}


def input_picture(z: Tensor) -> Tensor:
    """The network's input [1,C,H,W] to look at, float [1,1 or 3,H,W]: its first channels, stretched to [-1, 1]."""
    shown = z[:, : 3 if z.shape[1] >= 3 else 1]
    low, high = shown.amin(), shown.amax()
    return 2 * (shown - low) / (high - low).clamp(min=1e-12) - 1


def quality(pixels: Pixels, reference: Pixels) -> dict[str, float]:
    """PSNR, unless the two are equal, and SSIM, unless they are smaller than its window."""
    found = {}
    if not np.array_equal(pixels, reference):
        found["psnr"] = psnr(pixels, reference)
    if min(pixels.shape[:2]) >= 11:
        found["ssim"] = ssim(pixels, reference)
    return found


def conclusion(result: dict[str, Any]) -> str:
    """A line about a finished fit."""
    how = "stopped early at" if result["stopped"] else "ran to"
    line = f"{how} step {result['steps']:,}, the answer is that of step {result['best_step']:,}"
    if "psnr" in result:
        before = f", the target's {result['psnr_target']:.2f}" if "psnr_target" in result else ""
        line += f"; PSNR {result['psnr']:.2f} dB{before}"
    return line


# --- what a fit has left for others -------------------------------------------------------------------------------


def is_dip_run(folder: str | Path) -> bool:
    """Whether this is the run folder of a fit, whole or of a folder of pictures."""
    folder = Path(folder)
    return (folder / checkpoint.CONFIG).is_file() and checkpoint.read_config(folder)["kind"] == "dip"


def chosen_images(folder: str | Path) -> list[Path]:
    """The answers of a fit: its dip.png, or those of all its pictures. Raises UserError while there is none."""
    folder = Path(folder)
    config = checkpoint.read_config(folder, kind="dip")
    several = "images" in config
    found = sorted((folder / ANSWERS).glob("*.png")) if several else [folder / ANSWER]
    if not found or not found[0].exists():
        raise UserError(f"{folder} is not finished. Go on with `minidiff dip fit --resume {shlex.quote(str(folder))}`.")
    return found


def saved_step(folder: str | Path, step: int) -> Path:
    """The file of a fit's output at a step. Raises UserError, naming the nearest there are, when it was not saved."""
    folder = Path(folder)
    config = checkpoint.read_config(folder, kind="dip")
    if "images" in config:
        raise UserError(f"{folder} holds the fits of several pictures. Name one of those under {folder / IMAGES}.")
    path = step_file(folder, step)
    if path.exists():
        return path
    steps = sorted(int(file.stem) for file in (folder / STEPS).glob("*.png") if file.stem.isdigit())
    near = sorted(sorted(steps, key=lambda there: abs(there - step))[:2])
    known = f"The nearest are {' and '.join(map(str, near))}." if near else "It has saved none yet."
    raise UserError(f"{folder} has not saved step {step}. {known}")


def step_file(folder: Path, step: int) -> Path:
    return folder / STEPS / f"{step:06d}.png"


def deliver(answer: Path, target: Path, replace: bool) -> Path:
    """Copy an answer to `target`, or beside it when that is there and is not to be replaced; returns where it is."""
    target = target if replace else free_name(target)
    write_image(target, read_image(answer))
    return target
