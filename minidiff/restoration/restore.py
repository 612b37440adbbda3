"""A noisy picture back to a clean one: fit a deep image prior, and let a DDPM end what it began.

    config.json      the picture, the model, the fit's options, the chain
    dip/             the fit, a run folder of its own
    restored.png     the answer; comparison.png: the picture, the fit's answer and this, side by side
    result.json      where the chain started, and PSNR and SSIM of all three where there is a reference

What enters the reverse chain is three quarters of the picture and one quarter of the fit's answer, at the timestep that
has the picture's noise, scaled to be x_t; no noise is added. The fit's answer alone has lost detail for good, and the
picture alone comes out a little worse: docs/results.md.
What `minidiff restore` does. The fit takes the time; the chain is a few calls.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minidiff._version import __version__
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.diffusion.noise_level import noise_sigma, timestep_for
from minidiff.dip import job as dip_job
from minidiff.dip import plan as dip_plan
from minidiff.dip.pictures import draw_sheet
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import read_images, write_image
from minidiff.runs import folder as checkpoint

ANSWER, RESULT, FIT = "restored.png", "result.json", "dip"


@dataclass
class RestoreJob:
    """One picture, a model, and a fit that is new, half done or done."""

    config: dict[str, Any]
    model: Run
    fit: dip_job.DipJob | None  # None: its answer is there already
    out: str | Path | None  # where the run folder is to be; None: the next free one under runs/
    folder: Path | None = None  # where it is, once there is one

    def describe(self) -> str:
        """The fit's lines, and one about the model."""
        channels, height, width = self.model.shape
        model = f"model     {self.config['model']}: {width}x{height}, {dip_job.COLOURS[channels]}"
        return f"{self.fit.describe()}\n{model}" if self.fit else f"image     {self.config['image']}\n{model}"

    def start(self) -> str:
        """Make the run folder, unless the run is being resumed; returns a line that names it."""
        resuming = self.folder is not None
        if self.folder is None:
            name = f"restore-{Path(self.config['image']).stem}"
            self.folder = checkpoint.create_run(self.out, name, self.config, pictures=FIT)
        if self.fit is not None:
            self.fit.resume = f"minidiff restore --resume {shlex.quote(str(self.folder))}"
            if self.fit.folder is None:
                self.fit.out = self.folder / FIT
                self.fit.start()
        return f"{'resuming ' if resuming else 'run      '} {self.folder}"

    def run_fit(self) -> dict[str, Any] | None:
        """The long part, unless it is done: what the fit's result.json holds. Raises journal.Interrupted."""
        return self.fit.run() if self.fit else None

    def run_chain(self) -> dict[str, Any]:
        """From the fit's answer down to the image. Writes the pictures; returns what result.json holds."""
        assert self.folder is not None, "start() first"
        model, options, mix = self.model, dict(self.config["chain"]), self.config["mix"]
        size = model.shape[1]
        picture, fitted = (
            read_images(self.folder / FIT / n, size, model.shape[0]) for n in (dip_job.TARGET, dip_job.ANSWER)
        )
        sigma = noise_sigma(to_float(picture))
        if options["start_t"] == "auto":
            options["start_t"] = timestep_for(model.schedule, sigma)
        init = mix * to_float(picture) + (1 - mix) * to_float(fitted)
        (images,) = model.sample(1, init=init, **options)
        shown = {"picture": in_colour(picture), "deep image prior": in_colour(fitted), "restored": to_uint8(images)[0]}
        result: dict[str, Any] = {
            "noise": 127.5 * sigma,  # of 255
            "start_t": options["start_t"],
            "timesteps": model.timesteps(**options),
        }
        write_image(self.folder / ANSWER, shown["restored"])
        reference = self.reference()
        if reference is not None:
            result["quality"] = {name: dip_job.quality(pixels, reference) for name, pixels in shown.items()}
        draw_sheet(self.folder / "comparison.png", shown, reference)
        write_json(self.folder / RESULT, result)
        return result

    def reference(self) -> Pixels | None:
        """The clean picture as the model would see it, uint8 [H,W,3]; None without one."""
        source = self.config["reference"] or (self.config["image"] if self.config["noise_sigma"] else None)
        if source is None:
            return None
        return in_colour(read_images(source, self.model.shape[1], self.model.shape[0]))


def in_colour(images: Pixels) -> Pixels:
    """The one image of uint8 [1,H,W,1 or 3], as uint8 [H,W,3]."""
    return to_uint8(to_float(images))[0]


def plan(
    image: str | Path, model: str | Path, device: torch.device, fit: dict[str, Any], chain: dict[str, Any],
    mix: float = 0.75, out: str | Path | None = None,
) -> RestoreJob:  # fmt: skip
    """A new restoration. Raises UserError.

    fit: options of `dip_plan.plan`. chain: options of `Run.sample` with start_t, a timestep or "auto", and init_mode.
    mix: how much of the picture itself is in what the chain starts from; the rest is the fit's answer.
    """
    if Path(image).is_dir():
        raise UserError(f"{image} is a folder. Give one picture to restore.")
    if out is not None:
        checkpoint.check_free(Path(out))
    run = load_ddpm(model, device=device)
    options = run.options(**chain)
    if options["start_t"] != "auto":
        run.timesteps(**options)  # raises if it is out of range
    fit = fit | {"size": run.shape[1]}
    if fit.get("reference"):
        fit["reference"] = os.path.abspath(fit["reference"])
    config = {
        "minidiff": __version__,
        "kind": "restore",
        "image": os.path.abspath(image),
        "model": os.path.abspath(run.folder),  # of a name on the Hub, where its files are
        "reference": fit.get("reference"),
        "noise_sigma": fit.get("noise_sigma", 0.0),
        "fit": fit,
        "mix": mix,
        "chain": options,
    }
    return RestoreJob(config, run, dip_plan.plan(image, device, fit), out)


def resume(folder: str | Path, device: torch.device) -> RestoreJob:
    """The restoration of a run folder, with its fit as far as it came. Raises UserError."""
    folder = Path(folder)
    config = checkpoint.read_config(folder, kind="restore")
    if (folder / RESULT).exists() and (folder / ANSWER).exists():
        raise UserError(f"{folder} is finished: its answer is {folder / ANSWER}.")
    try:
        run = load_ddpm(config["model"], device=device)
        config["mix"], config["chain"]["start_t"]  # what `run_chain` will ask for
        fit = None
        if not (folder / FIT / dip_job.RESULT).exists():
            begun = (folder / FIT / checkpoint.CONFIG).exists()
            fit = (
                dip_plan.resume(folder / FIT, device)
                if begun
                else dip_plan.plan(config["image"], device, config["fit"] | {"out": folder / FIT})
            )
    except KeyError as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a restore run has ({error}).") from None
    return RestoreJob(config, run, fit, folder, folder)
