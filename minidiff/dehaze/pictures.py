"""Pictures that are dehazed: what `minidiff dehaze` does.

Rests on run, stage1, doubts and runs.picture_run. A result has what its picture had: grey or colour, 8 or 16 bits,
transparency, profile, EXIF data.

done = minidiff.clear_haze("hazy.jpg", "runs/dehaze-haze-2", out="clear.png")

    config.json    the pictures, the model and a digest of its weights, the options
    results/       for each picture the light that comes through, A, the time, the start of stage 2; PSNR and SSIM
    sheets/        for each picture: the haze, T, A, J and what stage 2 made of it
    stages/        if asked for: J, T and A of each picture, at its size
"""

import os
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minidiff._version import __version__
from minidiff.dehaze.config import ANSWER, AUTO, DEHAZE, STAGES, ClearConfig, Cleared, ClearRequest
from minidiff.dehaze.doubts import doubts
from minidiff.dehaze.run import DehazeRun, load_dehaze
from minidiff.dehaze.stage1 import thinned
from minidiff.errors import UserError, counted, printable
from minidiff.images.convert import Pixels, grey_like, to_uint8
from minidiff.images.files import image_shape, write_image
from minidiff.images.grid import grid, name_columns
from minidiff.images.nearness import qualities
from minidiff.images.pictures import format_for, read_picture, write_picture
from minidiff.networks.gunet import Clearing
from minidiff.networks.weights import check_unchanged, fingerprint
from minidiff.records import from_json, record, takes
from minidiff.runs.folder import CONFIG, SHEETS, check_free, read_config
from minidiff.runs.picture_run import OnEnd, OnStep, PictureJob, Places, Worked, places_of
from minidiff.runs.shipped import MODELS, shipped

Device = torch.device | str
SHOWN = 480  # pixels: the longest side of a picture on a sheet


# --- one picture ------------------------------------------------------------------------------------------------------


class Away(NamedTuple):
    """What was made of a hazy picture, on the CPU."""

    guess: Clearing  # of stage 1
    refined: Tensor | None  # of stage 2, [1,3,H,W]; None for a run of stage 1, and for 0 `steps`
    start_t: int | None  # where its chain began; None: in pure noise, or nowhere


def clear_away(run: DehazeRun, hazy: Tensor, request: ClearRequest, on_step: OnStep | None = None) -> Away:
    """Dehaze a picture, float [1,3,H,W] in [-1,1]."""
    guess = run.guess(hazy)
    on_cpu = Clearing(*(each.cpu() for each in guess))
    if request.steps == 0 or run.config.stage == 1:
        return Away(on_cpu, None, None)
    asked = request.start_t
    start_t = run.start_for(hazy, on_cpu.clear, request.steps) if asked == "auto" else asked
    return Away(on_cpu, run.refine(guess, request.steps, start_t, request.seed, on_step).cpu(), start_t)


def stages_of(hazy: Tensor, guess: Clearing, refined: Tensor | None) -> dict[str, Tensor]:
    """Return what stands between a hazy picture and its result, each as a picture [1,C,H,W] in [-1,1]."""
    airlight = guess.airlight[:, :, None, None].expand_as(hazy)
    stages = {"haze": hazy, "T": 2 * guess.transmission - 1, "A": airlight, "J": guess.clear}
    return stages if refined is None else stages | {"stage 2": refined}


def sheet_of(stages: dict[str, Tensor]) -> Pixels:
    """Put the stages beside each other, each under its name. Of a large picture some rows and columns are shown."""
    step = max(1, -(-max(stages["haze"].shape[2:]) // SHOWN))
    shown = np.concatenate([to_uint8(each[..., ::step, ::step]) for each in stages.values()])
    return name_columns(grid(shown, len(shown)), list(stages))


# --- pictures in files ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class ClearJob(PictureJob[Cleared]):
    """Pictures to dehaze, a model, and the run folder if there is one already."""

    name: ClassVar[str] = "clear"

    config: ClearConfig
    model: DehazeRun
    result: type[Cleared] = Cleared

    def describe(self) -> str:
        """Describe the pictures and the model in two lines."""
        files, sources, request = self.places.files, self.config.sources, self.config.request
        count = f": {counted(len(files), 'picture')}" if self.places.several else ""
        source = f"{sources[0]}{' and more' * (len(sources) > 1)}{count}"
        steps = "stage 1"
        if request.steps > 0 and self.model.config.stage == 2:
            start = "pure noise" if request.start_t is None else f"t = {request.start_t}"
            start = "where J is as noisy" if request.start_t == AUTO else start
            steps = f"stage 2 in {counted(request.steps, 'step')} from {start}"
        return f"picture   {printable(source)}\nmodel     {printable(self.config.model)}, {steps}"

    def work_on(self, home: Path, file: Path, on_step: OnStep | None) -> Cleared:
        """Dehaze one picture, and write the result, its sheet, and if asked its stages."""
        began, request = time.perf_counter(), self.config.request
        picture = read_picture(file, request.max_pixels)
        hazy = picture.as_float()[None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        guess, refined, start_t = clear_away(self.model, hazy, request, on_step)
        result = thinned(hazy, guess.clear if refined is None else refined, guess.transmission, request.strength)
        result = grey_like(hazy, result.clamp(-1, 1))
        seconds = time.perf_counter() - began
        reference = self.reference()
        compared = {"hazy": hazy, "J": guess.clear, "result": result} if reference is not None else {}
        quality = qualities({name: to_uint8(each)[0] for name, each in compared.items()}, reference)
        stages, name = stages_of(hazy, guess, refined), self.places.png_of(file)
        if request.strength < 1:
            stages["result"] = result
        write_picture(self.places.answer_of(file), picture.with_pixels(result[0]))
        write_image(home / SHEETS / name, sheet_of(stages))
        if request.dump_stages:
            for stage in ("J", "T", "A"):
                write_image(home / STAGES / f"{Path(name).stem}-{stage}.png", to_uint8(stages[stage])[0])
        red, green, blue = map(int, to_uint8(guess.airlight[:, :, None, None])[0, 0, 0])
        left = 0.0 if refined is None else self.model.noise_left(guess)
        return Cleared(
            float(guess.transmission.mean()), (red, green, blue), round(seconds, 2), start_t, quality,
            tuple(doubts(hazy, guess, refined, left)), picture.notes,
        )  # fmt: skip

    def check(self, file: Path) -> None:
        """Raise UserError unless a picture can be read, its result can be written, and its reference has its size."""
        picture = read_picture(file, self.config.request.max_pixels)
        format_for(self.places.answer_of(file), picture)
        reference = self.reference()
        if reference is not None and reference.shape[:2] != picture.pixels.shape[:2]:
            name = Path(str(self.config.request.reference)).name
            (rows, columns), (height, width) = reference.shape[:2], picture.pixels.shape[:2]
            raise UserError(
                f"`reference` {name} is {columns}x{rows}, and the picture {width}x{height}. Give the clear picture at "
                "that size, or leave it out."
            )

    def reference(self) -> Pixels | None:
        """Read the clear picture as one sees it: uint8 [H,W,3], upright; None if there is none."""
        place, limit = self.config.request.reference, self.config.request.max_pixels
        return None if place is None else read_picture(place, limit).as_seen()

    def warn_of_stage_1(self) -> None:
        """Note that there is no stage 2, if steps of it are asked for."""
        if self.model.config.stage == 1 and self.config.request.steps > 0:
            self.warnings.append(
                f"{self.model.folder} is a run of stage 1, so there is no stage 2: the result is its J."
            )


# --- to begin, and to go on -------------------------------------------------------------------------------------------


@record
class ClearCall(ClearRequest):
    """The options of `dehaze`, and what is not part of the result."""

    model: str | Path | None = None  # a dehaze run; None: the model that comes with the package
    _: KW_ONLY
    out: str | Path | None = None  # the picture to write, or the folder; None: dehazed.png, or dehazed
    run: str | Path | None = None  # the run folder; None: the next free one under runs/
    force: bool = False  # replace a result that is there
    device: Device = field(default="cpu", compare=False)
    on_step: OnStep | None = field(default=None, compare=False)
    on_end: OnEnd[Cleared] | None = field(default=None, compare=False)

    def request(self) -> ClearRequest:
        """Return the part that is stored."""
        return ClearRequest(**{each.name: getattr(self, each.name) for each in fields(ClearRequest)})


@takes(ClearCall)
def clear_haze(source: str | Path | Sequence[str | Path], call: ClearCall) -> Worked[Cleared]:
    """Take the haze off a picture, several, or all of a folder: what `minidiff dehaze` does. Raises UserError."""
    sources = [source] if isinstance(source, str | Path) else list(source)
    job = begin(sources, call.model, call.request(), call.out, call.run, call.force, call.device)
    return job.work(call.on_step, call.on_end)


def begin(
    sources: Sequence[str | Path],
    model: str | Path | None = None,
    request: ClearRequest = ClearRequest(),  # noqa: B008 - a frozen record
    out: str | Path | None = None,
    run: str | Path | None = None,
    force: bool = False,
    device: Device = "cpu",
) -> ClearJob:
    """Prepare to dehaze pictures. Whatever can be wrong raises UserError here, before anything is written."""
    if not sources:
        raise UserError("there is no picture to dehaze. Name some, or a folder of them.")
    if model is None and DEHAZE not in shipped():
        raise UserError("no model comes with this version. Name a dehaze run first: `minidiff train dehaze` makes one.")
    places = places_of(sources, out, ANSWER)
    check_readable(places, request)
    places.check(force, ANSWER)
    if run is not None:
        check_free(Path(run), "run")
    opened = load_dehaze(DEHAZE if model is None else model, device=device)
    opened.check_chain(request.steps, request.start_t)
    name = DEHAZE if model is None else str(model)
    reference = None if request.reference is None else os.path.abspath(request.reference)
    config = ClearConfig(
        minidiff=__version__, kind="clear", sources=tuple(map(os.path.abspath, places.sources)),
        model=name if opened.folder == MODELS / name else os.path.abspath(opened.folder),
        weights=fingerprint(opened.model.state_dict()), out=os.path.abspath(places.out),
        request=replace(request, reference=reference),
    )  # fmt: skip
    job = ClearJob(config=config, places=places_in(config), model=opened, run=run)
    if not places.several:
        job.check(places.files[0])
    job.warn_of_stage_1()
    return job


def reopen(folder: str | Path, device: Device = "cpu") -> ClearJob:
    """Open a run folder whose pictures are not all dehazed. Raises UserError, also if its model is another by now."""
    folder = Path(folder)
    config = from_json(ClearConfig, read_config(folder, kind="clear"), folder / CONFIG)
    places = places_in(config)
    check_readable(places, config.request)
    places.check_unfinished(folder)
    model = load_dehaze(config.model, device=device)
    check_unchanged(model.model.state_dict(), config.weights, config.model, folder)
    job = ClearJob(config=config, places=places, model=model, run=folder, folder=folder)
    if not places.several:
        job.check(places.files[0])
    job.warn_of_stage_1()
    return job


def places_in(config: ClearConfig) -> Places:
    """Return the places that a run was begun with."""
    return Places(tuple(map(Path, config.sources)), Path(config.out))


def check_readable(places: Places, request: ClearRequest) -> None:
    """Raise UserError unless a picture is there that can be read, and the reference. Only the first bytes are read."""
    places.first_shape(request.max_pixels)
    if request.reference is not None:
        if places.several:
            raise UserError("`reference` belongs to one picture. Dehaze it alone.")
        image_shape(request.reference, request.max_pixels)
