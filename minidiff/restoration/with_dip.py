"""Restore a noisy picture: fit a deep image prior to it, and let the reverse chain of a DDPM finish the work.

Rests on the systems dip and ddpm. The fit takes the time; the chain is a few calls of the network.

    config.json      the picture, the model, what was asked of the fit, the chain
    dip/             the fit, a run folder of its own
    restored.png     the answer; comparison.png: the picture, the fit's answer and the restored one, side by side
    strip.png        x_t and the predicted x0 along the chain, if it called the network more than once
    result.json      where the chain started, and with a reference the PSNR and SSIM of all three pictures

The chain starts from three quarters of the picture plus one quarter of the fit's answer. It enters at the timestep
whose noise equals the picture's, scaled to be x_t; no noise is added. The fit's answer alone has lost detail for good,
and the picture alone comes out a little worse or as good: docs/results.md. With a model of any size the picture keeps
its size, and the answer has what the picture had: grey or colour, 8 or 16 bits, transparency, profile, EXIF data.
"""

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff._version import __version__
from minidiff.ddpm.chains import resolve
from minidiff.ddpm.inits import shrunk
from minidiff.ddpm.moments import Film
from minidiff.ddpm.request import Sampling
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.diffusion.noise_level import HARDLY_ANY, noise_sigma
from minidiff.dip import config as dip
from minidiff.dip import recipe
from minidiff.dip.config import FitResult, present
from minidiff.dip.fit_picture import FitCall, refuse_finished
from minidiff.dip.job import COLOURS, DipJob, OnStep, undecided
from minidiff.dip.pictures import draw_sheet
from minidiff.dip.recipe import Device, read_dip
from minidiff.errors import UserError, printable
from minidiff.files import locked, sweep, write_json
from minidiff.images.convert import Pixels, grey_like, to_float, to_uint8
from minidiff.images.files import image_shape, read_fitted, read_image, write_image
from minidiff.images.nearness import qualities
from minidiff.images.pictures import FULL, Picture, format_for, read_picture, write_picture
from minidiff.images.show import png_file
from minidiff.networks.weights import check_unchanged, fingerprint
from minidiff.records import from_json, record, takes, to_json
from minidiff.restoration.config import (
    ANSWER,
    AUTO,
    FIT,
    RESULT,
    STRIP,
    ChainConfig,
    RestoreConfig,
    RestoreRequest,
    RestoreResult,
)
from minidiff.restoration.sheets import MOMENTS, strip_of
from minidiff.restoration.tasks import enter
from minidiff.runs import folder as run_folder


@dataclass(frozen=True)
class Restored:
    """A restoration that is done."""

    folder: Path  # its run folder
    answer: Path  # the restored picture
    result: RestoreResult
    problems: Sequence[str] = ()  # what looks wrong with it, in words

    def _repr_png_(self) -> bytes | None:
        return png_file(self.answer)


@record
class RestoreCall(FitCall):
    """The options of fit and chain, see `RestoreRequest`, and what is not part of the result."""

    _: KW_ONLY
    mix: float = RestoreRequest.mix
    start_t: int | Literal["auto"] = RestoreRequest.start_t
    init_mode: str = RestoreRequest.init_mode
    sampler: str = RestoreRequest.sampler


@takes(RestoreCall)
def restore_with_dip(image: str | Path, model: str | Path, call: RestoreCall) -> Restored:
    """Restore one noisy picture with a trained DDPM: what `minidiff restore` does with a prior.

    A model of any size takes the whole picture, or its centre square at `size`; any other model cuts it to its centre
    square at the model's own size. Raises UserError if something is wrong, and Interrupted after Ctrl-C, having saved.
    """
    request = RestoreRequest(call.mix, call.start_t, call.init_mode, call.sampler, call.request())
    return run_restoration(begin(image, model, request, call.device, call.out), call.on_step)


def resume_restore(
    folder: str | Path, *, steps: int | None = None, device: Device = "cpu", on_step: OnStep | None = None
) -> Restored:
    """Go on with the restoration of a run folder. Raises UserError if it is finished, or no restoration.

    steps: a new number of steps of the fit, if that ended before its early stop.
    """
    return run_restoration(reopen(folder, device, steps), on_step)


# --- the parts, for a caller who prints between them ----------------------------------------------------------------


def run_restoration(job: "RestoreJob", on_step: OnStep | None = None) -> Restored:
    """Run a restoration to its end."""
    folder = job.start()
    fitted = job.run_fit(on_step)
    result = job.run_chain()
    return Restored(folder, folder / ANSWER, result, [*job.warnings, *job.doubts(fitted)])


@dataclass
class RestoreJob:
    """One picture, a model, and a fit that is new, half done or done."""

    config: RestoreConfig
    model: Run
    fit_job: DipJob | None  # None: its answer is there already
    out: str | Path | None  # where the run folder is to be; None: the next free one under runs/
    folder: Path | None = None  # where it is, once there is one
    warnings: list[str] = field(default_factory=list)  # what is probably not meant, in words

    def describe(self) -> str:
        """Describe the fit and the model in a few lines."""
        channels, height, width = self.model.shape
        size = "any size" if self.model.any_size else f"{width}x{height}"
        model = f"model     {printable(self.config.model)}: {size}, {COLOURS[channels]}, trained on {self.model.knows}"
        first = self.fit_job.describe() if self.fit_job else f"image     {printable(self.config.image)}"
        return f"{first}\n{model}"

    def start(self) -> Path:
        """Make the run folder and the fit's, unless the restoration is being resumed. Returns the run folder."""
        if self.folder is None:
            name = f"restore-{Path(self.config.image).stem}"
            self.folder = run_folder.create_run(self.out, name, to_json(self.config), pictures=FIT)
        if self.fit_job is not None and self.fit_job.folder is None:
            self.fit_job.out = self.folder / FIT
            self.fit_job.start()
        return self.folder

    def run_fit(self, on_step: OnStep | None = None) -> FitResult | None:
        """Run the fit, which is the long part; None if it is done already. Raises Interrupted."""
        return self.fit_job.run(on_step) if self.fit_job else None

    def doubts(self, fitted: FitResult | None) -> list[str]:
        """Say that the fit used up its steps before its early stop could choose, if it did."""
        problem = undecided(self.fit_job.config, fitted) if self.fit_job and fitted else None
        return [problem] if problem else []

    def run_chain(self) -> RestoreResult:
        """Run the reverse chain from picture and fit down to the answer. Writes the pictures and result.json."""
        folder = self.start()
        with locked(folder):
            sweep(folder)
            return self.draw_answer(folder)

    def draw_answer(self, folder: Path) -> RestoreResult:
        """Run the chain in the run folder, which this process holds: see `run_chain`."""
        model, mix = self.model, self.config.mix
        if (
            run_folder.read_config(folder)["fit"].get("steps") != self.config.fit.steps
        ):  # its fit has taken more steps than at first
            write_json(folder / run_folder.CONFIG, to_json(self.config))
        (folder / RESULT).unlink(missing_ok=True)
        picture = self.picture(folder)
        x = picture.as_float()[None].expand(-1, model.shape[0], -1, -1)
        fitted = to_float(read_image(folder / FIT / dip.ANSWER, model.shape[0])[None])
        sigma = noise_sigma(x)
        start_t = self.config.chain.start_t
        t = enter(model, sigma) if start_t == AUTO else int(start_t)
        options = chain_options(replace(self.config.chain, start_t=t)) | {"init": mixed(picture, x, fitted, mix)}
        timesteps = model.timesteps(options["sampler"], start_t=t, spacing=options.get("spacing"))
        film = Film(MOMENTS)
        film.start(model.schedule, timesteps, model.start([0], **options)[0])
        (images,) = model.sample(1, on_step=film.see, **options)
        images = grey_like(x, images)
        write_picture(folder / ANSWER, picture.with_pixels(images[0]))
        shown = {name: to_uint8(each)[0] for name, each in
                 (("picture", x), ("deep image prior", fitted), ("restored", images))}  # fmt: skip
        reference = self.reference()
        quality = qualities(shown, reference)
        draw_sheet(folder / "comparison.png", shown, reference)
        if len(timesteps) > 1:
            write_image(folder / STRIP, strip_of(film))
        result = RestoreResult(127.5 * sigma, t, tuple(timesteps), quality)
        stored = present(result)
        if quality is not None:
            stored["quality"] = {name: present(found) for name, found in quality.items()}
        write_json(folder / RESULT, stored)
        return result

    def picture(self, folder: Path) -> Picture:
        """Read the picture that the chain starts from: the one that was fitted, with all that its file has.

        If its file has other pixels than the fit saw, the fit's count: noise was added, or CMYK read by its profile.
        """
        channels, limit, image = self.model.shape[0], self.config.fit.max_pixels, self.config.image
        target = read_image(folder / FIT / dip.TARGET, channels)
        if self.config.fit.size is not None:
            return Picture(target)
        picture = read_picture(image, limit) if channels == 3 else Picture(read_image(image, channels, limit))
        if picture.pixels.shape[:2] != target.shape[:2]:
            raise UserError(f"{image} is not what {folder} began with. Bring it back, or start a new run.")
        apart = np.abs(picture.as_seen().astype(np.int16) - target).max(axis=2)
        if self.config.noise_sigma or bool((apart[opaque(picture)] > 1).any()):  # 1: by rounding 16 bits
            return picture.with_pixels(to_float(target[None])[0])
        return picture

    def reference(self) -> Pixels | None:
        """Read the clean picture as the model would see it, uint8 [H,W,3]; None if there is none."""
        source = self.config.reference or (self.config.image if self.config.noise_sigma else None)
        if source is None:
            return None
        channels, size, limit = self.model.shape[0], self.config.fit.size, self.config.fit.max_pixels
        pixels = read_image(source, channels, limit) if size is None else read_fitted(source, size, channels,
                                                                                     max_pixels=limit)[0]  # fmt: skip
        shown: Pixels = to_uint8(to_float(pixels[None]))[0]
        return shown


def mixed(picture: Picture, x: Tensor, fitted: Tensor, mix: float) -> Tensor:
    """Mix the picture x with the fit's answer, both [1,C,H,W] in [-1,1]. `mix` is the picture's share.

    Where the picture is transparent, even in part, it stays as it is: the fit saw white behind it.
    """
    init = mix * x + (1 - mix) * fitted
    return torch.where(torch.from_numpy(opaque(picture)), init, x)


def opaque(picture: Picture) -> NDArray[np.bool_]:
    """Tell which pixels are not transparent: bool [H,W]."""
    if picture.alpha is None:
        return np.ones(picture.pixels.shape[:2], np.bool_)
    full: NDArray[np.bool_] = picture.alpha == FULL[picture.bits]
    return full


def begin(
    image: str | Path,
    model: str | Path,
    request: RestoreRequest,
    device: Device = "cpu",
    out: str | Path | None = None,
    answer: str | Path | None = None,
) -> RestoreJob:
    """Prepare a new restoration. Whatever can be wrong raises UserError here, before anything is written.

    out: the run folder. answer: where the restored picture also goes; None: it stays in the run folder.
    """
    if Path(image).is_dir():
        raise UserError(f"{image} is a folder. Give one picture to restore.")
    if out is not None:
        run_folder.check_free(Path(out))
    if answer is not None:  # found out now, not after the fit
        run_folder.check_makeable(Path(answer).absolute().parent)
    run = load_ddpm(model, device=device)
    asked = ChainConfig(request.start_t, request.init_mode, request.sampler, request.fit.seed)
    start_t = 0 if request.start_t == AUTO else int(request.start_t)
    run.timesteps(asked.sampler, start_t=start_t)  # raises if it is out of range
    decided = resolve(run, Sampling(sampler=asked.sampler, init_mode=asked.init_mode, seed=asked.seed,
                                    init=torch.zeros(1, *run.shape), start_t=start_t))  # fmt: skip
    reference = None if request.fit.reference is None else os.path.abspath(request.fit.reference)
    fit = replace(request.fit, size=size_of_fit(run, request.fit.size), reference=reference)
    config = RestoreConfig(
        minidiff=__version__,
        kind="restore",
        image=os.path.abspath(image),
        model=os.path.abspath(run.folder),  # for a name on the Hub: where its files are
        reference=reference,
        noise_sigma=fit.noise_sigma,
        fit=fit,
        mix=request.mix,
        chain=replace(asked, variance=decided.variance),
        deliver=answer is not None,
        out=ANSWER if answer is None else os.path.abspath(answer),
        weights=fingerprint(run.model.state_dict()),
    )
    fit_job = recipe.begin(image, fit, device)
    if answer is not None and fit.size is None:
        format_for(Path(answer), read_picture(image, fit.max_pixels))  # raises if it cannot hold what the picture has
    return RestoreJob(config, run, fit_job, out, warnings=doubts(config, run, fit_job))


def size_of_fit(run: Run, asked: int | None) -> int | None:
    """Decide to which size the picture is cut: None for the whole picture, if the model takes any size."""
    if run.any_size:
        return asked
    if asked not in (None, run.shape[1]):
        raise UserError(f"{run.folder} draws {run.shape[2]}x{run.shape[1]} alone. Leave out `size`.")
    return run.shape[1]


def reopen(folder: str | Path, device: Device = "cpu", steps: int | None = None) -> RestoreJob:
    """Open the restoration of a run folder, with its fit as far as it came. Raises UserError.

    steps: a new number of steps of the fit, if that ended before its early stop.
    """
    folder = Path(folder)
    where, fit_folder = folder / run_folder.CONFIG, folder / FIT
    config = from_json(RestoreConfig, run_folder.read_config(folder, kind="restore"), where)
    begun = (fit_folder / run_folder.CONFIG).exists()
    if begun and steps is not None:
        refuse_finished(fit_folder, steps)
    taken = read_dip(fit_folder).fit.steps if begun else config.fit.steps  # more than at first, if it was given more
    asked = taken if steps is None else steps
    fitted = recipe.finished(fit_folder, asked)
    if fitted and config.fit.steps == asked and (folder / RESULT).exists() and (folder / ANSWER).exists():
        raise UserError(f"{folder} is finished: its answer is {folder / ANSWER}.")
    config = replace(config, fit=replace(config.fit, steps=asked))
    run = load_ddpm(config.model, device=device)
    check_unchanged(run.model.state_dict(), config.weights, config.model, folder)
    fit_job = None
    if fitted is None:
        fit_job = (
            recipe.reopen(fit_folder, device, steps)
            if begun
            else recipe.begin(config.image, config.fit, device, fit_folder)
        )
    return RestoreJob(config, run, fit_job, folder, folder, doubts(config, run, fit_job))


def doubts(config: RestoreConfig, run: Run, fit_job: DipJob | None) -> list[str]:
    """Warn of a picture that is shrunk for the model, and of one that has hardly any noise to remove."""
    if fit_job is None:  # it was said when the fit began
        return []
    loss = None if run.any_size else shrunk(run, config.image, image_shape(config.image, config.fit.max_pixels))
    found = [loss] if loss else []
    if config.chain.start_t == AUTO and noise_sigma(to_float(fit_job.target[None])) < HARDLY_ANY:
        found.append(
            "hardly any noise was found in the picture, so the chain changes little. It needs no restoring, or its "
            "noise was averaged away when it was shrunk."
        )
    return found


def chain_options(chain: ChainConfig) -> dict[str, Any]:
    """Return the options of `Run.sample` that are set."""
    return {name: value for name, value in asdict(chain).items() if value is not None}
