"""Finish noisy pictures: a model of photographs goes down the last part of its reverse chain, from each of them.

Rests on ddpm.run. A noisy picture, scaled, is an x_t: that of the timestep t which has as much noise (ddpm.inits). So
the chain enters there, and its end is the picture without the noise. One call of the network gives the mean of all
pictures that the noisy one may come from. It is nearest to the truth in PSNR, and smooth where the truth is unknown.
More calls give one of these pictures: with more texture, and a little further from the truth. The answer has what the
picture had: grey or colour, 8 or 16 bits, transparency, profile, EXIF data. Other tasks than noise are in tasks.py.

    config.json    the pictures, the model, the options
    results/       for each picture its noise, where the chain began, the time; with a reference PSNR and SSIM
    sheets/        for each picture: before, after and the difference, see sheets.py
    strips/        for each picture with more than one call: x_t and the predicted x0 along the chain

Ho et al. 2020 (DDPM); Kawar et al. 2021 (Stochastic Image Denoising by Sampling from the Posterior Distribution).
"""

import os
import time
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from minidiff._version import __version__
from minidiff.ddpm.guess_errors import GUESS_ERRORS, read_guess_errors
from minidiff.ddpm.inits import AUTO_MODE, shrunk
from minidiff.ddpm.moments import Film
from minidiff.ddpm.request import FROM_INIT
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.diffusion.noise_level import HARDLY_ANY, SMALLEST, noise_sigma
from minidiff.errors import UserError, printable
from minidiff.images.blind import faults
from minidiff.images.convert import grey_like, to_uint8
from minidiff.images.files import image_shape, read_fitted, read_image, write_image
from minidiff.images.jpeg import read_jpeg
from minidiff.images.nearness import qualities
from minidiff.images.pictures import Picture, format_for, read_picture, write_picture
from minidiff.networks.weights import check_unchanged, fingerprint
from minidiff.records import from_json, record, takes
from minidiff.restoration.config import (
    ANSWER,
    AUTO,
    GAUSSIAN,
    MODEL,
    STRIPS,
    FinishConfig,
    Finished,
    FinishRequest,
)
from minidiff.restoration.jpeg import clean_file
from minidiff.restoration.sheets import MOMENTS, enlarged, sheet_of, strip_of
from minidiff.restoration.tasks import check_files, damaged, enter, explain, noise_of, read_kernel
from minidiff.runs import folder as run_folder
from minidiff.runs.folder import SHEETS
from minidiff.runs.picture_run import OnEnd, OnStep, PictureJob, Places, Worked, places_of
from minidiff.runs.shipped import shipped
from minidiff.runtime.memory import free_memory

A_PIXEL = 67  # bytes of memory for copies of a picture: 12 megapixels took 0.8 GB more than a tile

Device = torch.device | str


# --- one picture ---------------------------------------------------------------------------------------------------


def finish(
    run: Run,
    picture: Tensor,
    sigma: float,
    calls: int = 1,
    seed: int = 0,
    on_step: OnStep | None = None,
    film: Film | None = None,
) -> tuple[Tensor, list[int]]:
    """Take the noise from a picture [1,C,H,W] in [-1,1]. Returns the answer, of the same form, and the timesteps.

    sigma: the deviation of the noise, in the units of the picture. calls: of the network, at most one for each
    timestep. on_step: called after every call. film: is shown every call. A grey picture in three equal channels stays
    grey.
    """
    start_t = enter(run, sigma)
    calls = min(calls, start_t + 1)
    timesteps = run.timesteps(FROM_INIT, start_t=start_t, steps=calls)
    options: dict[str, Any] = {"init": picture, "start_t": start_t, "init_mode": AUTO_MODE, "sampler": FROM_INIT,
                               "steps": calls, "seed": seed}  # fmt: skip
    if film is not None:
        film.start(run.schedule, timesteps, run.start([0], **options)[0])
    for step in run.chain([0], **options):
        if film is not None:
            film.see(step)
        if on_step is not None:
            on_step(step)
    return grey_like(picture, step.x.cpu()), timesteps


def restored(
    run: Run, picture: Tensor, request: FinishRequest, on_step: OnStep | None = None, film: Film | None = None
) -> tuple[Tensor, list[int]]:
    """Restore a picture [1,C,H,W] in [-1,1] by a task other than denoise. Returns the answer and the timesteps.

    The answer of upscale is larger. Unless noise was told, inpaint keeps the known pixels as they are.
    """
    given = damaged(picture, request)
    answer, timesteps = explain(run, given, noise_of(request), request.calls_of_network, request.seed, on_step, film)
    answer = grey_like(picture, answer)
    if given.known is not None and request.noise == AUTO:
        answer = torch.where(given.known > 0, picture, answer)
    return answer, timesteps


# --- pictures in files ----------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class FinishJob(PictureJob[Finished]):
    """One picture, or the pictures of a folder, a model, and the run folder if there is one already."""

    name: ClassVar[str] = "restore"

    config: FinishConfig
    model: Run
    result: type[Finished] = Finished

    def describe(self) -> str:
        """Describe the pictures and the model in two lines."""
        count = f": {len(self.places.files)} pictures" if self.places.several else ""
        source = f"{printable(self.config.source)}{count}"
        return f"picture   {source}\nmodel     {printable(self.config.model)}, trained on {self.model.knows}"

    def work_on(self, home: Path, file: Path, on_step: OnStep | None) -> Finished:
        """Finish one picture, and write its answer, its sheet, and for more than one call its strip."""
        request, began = self.config.request, time.perf_counter()
        picture = self.read(file)
        check_size(file, picture, request)
        x = picture.as_float()[None].expand(-1, self.model.shape[0], -1, -1)
        film = Film(MOMENTS)
        if request.task == "denoise":
            found = noise_sigma(x) if request.noise == AUTO else float(request.noise) / 127.5
            finished, timesteps = finish(self.model, x, found, request.calls_of_network, request.seed, on_step, film)
        elif request.task == "jpeg":
            told = None if request.noise == AUTO else float(request.noise) / 127.5
            coded = read_jpeg(file, request.max_pixels)
            finished, timesteps, found = clean_file(self.model, coded, x, told, request.calls_of_network, request.seed,
                                                    on_step, film)  # fmt: skip
            finished = grey_like(x, finished)
        else:
            found = noise_of(request)
            finished, timesteps = restored(self.model, x, request, on_step, film)
        seconds = time.perf_counter() - began
        blind = request.task == "denoise" and request.noise == AUTO
        wrong = faults(x, found, file.suffix.lower() in (".jpg", ".jpeg")) if blind else []
        before, after = enlarged(to_uint8(x)[0], request.enlargement), to_uint8(finished)[0]
        reference = None if request.reference is None else self.read(Path(request.reference)).as_seen()
        quality = qualities({"picture": before, "restored": after}, reference)
        if blind and found < HARDLY_ANY and not wrong:
            wrong.append(
                "hardly any noise was found, so little was changed. Noise in a JPEG file seems smaller than it is. "
                "If you see noise, give `noise`: 5 is little, 25 is much."
            )
        write_picture(self.places.answer_of(file), picture.with_pixels(finished[0]))
        name = self.places.png_of(file)
        write_image(home / SHEETS / name, sheet_of(before, after))
        if len(timesteps) > 1:
            write_image(home / STRIPS / name, strip_of(film))
        return Finished(127.5 * found, timesteps[0], tuple(timesteps), round(seconds, 2), quality, tuple(wrong),
                        picture.notes)  # fmt: skip

    def check(self, file: Path) -> None:
        """Raise UserError unless a picture and the files that the request names can be read, and go together."""
        request, picture = self.config.request, self.read(file)
        format_for(self.places.answer_of(file), picture)
        check_size(file, picture, request)
        height, width = picture.pixels.shape[:2]
        if request.task == "jpeg":
            read_jpeg(file, request.max_pixels)
        else:
            check_files(request, (height, width))
        if request.reference is not None:
            rows, columns = image_shape(request.reference, request.max_pixels)
            height, width = request.enlargement * height, request.enlargement * width
            if {rows, columns} == {height, width} or not self.model.any_size:  # else it is not read: it may be huge
                rows, columns = self.read(Path(request.reference)).pixels.shape[:2]
            if (rows, columns) != (height, width):
                raise UserError(
                    f"`reference` {Path(request.reference).name} is {columns}x{rows}, and the answer will be "
                    f"{width}x{height}. Give the clean picture at that size, or leave it out."
                )

    def read(self, file: Path) -> Picture:
        """Read a picture with all that it has; cut to its centre square if the model draws one size alone."""
        channels, size, _ = self.model.shape
        limit = self.config.request.max_pixels
        if not self.model.any_size:
            return Picture(read_fitted(file, size, channels, max_pixels=limit)[0])
        return read_picture(file, limit) if channels == 3 else Picture(read_image(file, channels, limit))


def check_size(file: Path, picture: Picture, request: FinishRequest) -> None:
    """Raise UserError for a picture too small to measure its noise, or too large to enlarge, or for the memory."""
    height, width = picture.pixels.shape[:2]
    if request.task == "denoise" and request.noise == AUTO and min(height, width) < SMALLEST:
        raise UserError(f"{file} is {width}x{height}, too small to measure its noise. Give `noise`.")
    height, width = request.enlargement * height, request.enlargement * width
    if height * width > request.max_pixels:
        raise UserError(
            f"{file} would become {width}x{height}, more than {request.max_pixels:,} pixels. "
            "Take a smaller `scale`, or a higher `max_pixels`."
        )
    needed, free = A_PIXEL * height * width, free_memory(torch.device("cpu"))
    if free is not None and needed > free:
        raise UserError(
            f"{file}, as {width}x{height}, needs {needed / 1e9:.1f} GB of memory at least, and {free / 1e9:.1f} GB are "
            "free. Shrink it, or cut it into parts."
        )


# --- to begin, and to go on -----------------------------------------------------------------------------------------


@record
class FinishCall(FinishRequest):
    """The options of `restore`, and what is not part of the result."""

    model: str | Path = MODEL  # a ddpm run, or the name of a model that comes with the package
    _: KW_ONLY
    out: str | Path | None = None  # the picture to write, or the folder; None: restored.png, or restored
    run: str | Path | None = None  # the run folder; None: the next free one under runs/
    force: bool = False  # replace an answer that is there
    device: Device = field(default="cpu", compare=False)
    on_step: OnStep | None = field(default=None, compare=False)
    on_end: OnEnd[Finished] | None = field(default=None, compare=False)

    def request(self) -> FinishRequest:
        """Return the part that is stored."""
        return FinishRequest(**{each.name: getattr(self, each.name) for each in fields(FinishRequest)})


@takes(FinishCall)
def restore(source: str | Path, call: FinishCall) -> Worked[Finished]:
    """Restore a picture, or all pictures of a folder: what `minidiff restore` does.

    Raises UserError.
    """
    job = begin(source, call.model, call.request(), call.out, call.run, call.force, call.device)
    return job.work(call.on_step, call.on_end)


def begin(
    source: str | Path,
    model: str | Path = MODEL,
    request: FinishRequest = FinishRequest(),  # noqa: B008 - a frozen record
    out: str | Path | None = None,
    run: str | Path | None = None,
    force: bool = False,
    device: Device = "cpu",
) -> FinishJob:
    """Prepare to finish pictures. Whatever can be wrong raises UserError here, before anything is written."""
    source = Path(source)
    if source.is_dir() and request.reference is not None:
        raise UserError(f"`reference` belongs to one picture, and {source} is a folder. Restore it alone.")
    places = places_of([source], out, ANSWER)
    check_readable(places, request)
    places.check(force, ANSWER)
    if run is not None:
        run_folder.check_free(Path(run), "run")
    opened = load_ddpm(model, device=device)
    if opened.labels.names and opened.label_dropout == 0:
        raise UserError(f"{model} draws only with labels, and a picture has none. Take another model.")
    if request.task != "denoise" and not opened.any_size:
        raise UserError(f"{model} draws one size alone, so it can only denoise. Take another model.")
    config = FinishConfig(
        minidiff=__version__, kind="finish", source=os.path.abspath(source),
        model=str(model) if str(model) in shipped() else os.path.abspath(opened.folder),
        out=os.path.abspath(places.out),
        request=replace(request, reference=whole_path(request.reference), mask=whole_path(request.mask),
                        kernel=whole_path(request.kernel)),
        weights=fingerprint(opened.model.state_dict()),
    )  # fmt: skip
    job = FinishJob(config=config, places=places_in(config), model=opened, run=run)
    if request.task == "jpeg" and opened.shape[0] != 3:
        raise UserError(f"{model} draws in grey, and a JPEG file is restored in colour. Take another model.")
    if not places.several:
        job.check(source)
    if request.task != "denoise" and read_guess_errors(opened) is None:
        job.warnings.append(
            f"{model} has no {GUESS_ERRORS}, so how far its guesses are off is not known. "
            "An upper bound is taken, and the answer will be grainy. Resume its training, which only measures them."
        )
    shape = None if opened.any_size else places.first_shape(request.max_pixels)
    if shape is not None and (lost := shrunk(opened, places.files[0].name, shape)):
        job.warnings.append(lost)
    return job


def places_in(config: FinishConfig) -> Places:
    """Return the places that a run was begun with."""
    return Places((Path(config.source),), Path(config.out))


def check_readable(places: Places, request: FinishRequest) -> None:
    """Raise UserError unless the picture, or one of a folder, is there, and what the request names beside it.

    Only the first bytes are read. Whether all of it goes together is for `FinishJob.check`.
    """
    places.first_shape(request.max_pixels)
    check_files(request, None)
    for beside in (request.reference, request.mask):
        if beside is not None and beside != AUTO:
            image_shape(beside, request.max_pixels)
    if request.kernel is not None:
        read_kernel(request.kernel, request.max_pixels)


def whole_path(place: str | None) -> str | None:
    """Make a path that holds in any working directory; a kernel that is no file stays as it is."""
    return place if place is None or place == AUTO or place.startswith(GAUSSIAN) else os.path.abspath(place)


def reopen(folder: str | Path, device: Device = "cpu") -> FinishJob:
    """Open a run folder whose pictures are not all finished. Raises UserError, also if its model is another by now."""
    folder = Path(folder)
    where = folder / run_folder.CONFIG
    config = from_json(FinishConfig, run_folder.read_config(folder, kind="finish"), where)
    places = places_in(config)
    check_readable(places, config.request)
    places.check_unfinished(folder)
    model = load_ddpm(config.model, device=device)
    check_unchanged(model.model.state_dict(), config.weights, config.model, folder)
    job = FinishJob(config=config, places=places, model=model, run=folder, folder=folder)
    if not places.several:
        job.check(places.files[0])
    return job
