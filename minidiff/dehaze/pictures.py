"""Pictures that are dehazed: what `minidiff dehaze` does.

Rests on run, stage1, doubts and images. A result has what its picture had: grey or colour, 8 or 16 bits, transparency,
profile, EXIF data.

done = minidiff.clear_haze("hazy.jpg", "runs/dehaze-haze-2", out="clear.png")
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minidiff.dehaze.config import DEHAZE, ClearRequest
from minidiff.dehaze.doubts import doubts
from minidiff.dehaze.run import DehazeRun, load_dehaze
from minidiff.dehaze.stage1 import guess_large, thinned
from minidiff.diffusion.chain import Step
from minidiff.errors import UserError, counted
from minidiff.images.convert import to_uint8
from minidiff.images.files import image_files, image_shape, write_image
from minidiff.images.grid import grid, name_columns
from minidiff.images.pictures import read_picture, write_picture
from minidiff.images.quality import psnr, ssim
from minidiff.networks.gunet import Clearing
from minidiff.records import record, takes
from minidiff.runs.shipped import shipped

Device = torch.device | str
OnStep = Callable[[Step], object]
SHOWN = 480  # pixels: the longest side of a picture in a strip


class Cleared(NamedTuple):
    """What was done to a picture."""

    target: Path  # the file of the result
    transmission: float  # the mean of T
    airlight: tuple[int, int, int]  # of 255
    seconds: float
    psnr: dict[str, float]  # of the hazy picture, of J and of the result; needs a reference
    ssim: dict[str, float]
    doubts: list[str]  # what looks wrong


OnEnd = Callable[[Path, Cleared], object]


class Done(NamedTuple):
    """Pictures that are dehazed."""

    results: dict[Path, Cleared]  # by the files of the pictures
    failures: list[str]  # a line for each picture that could not be


@dataclass
class Pictures:
    """Pictures to dehaze, the run that does it, and where each result goes."""

    run: DehazeRun
    request: ClearRequest
    targets: dict[Path, Path]
    left: list[Path]  # the pictures that have no result yet
    warnings: list[str] = field(default_factory=list)

    @property
    def in_stages(self) -> bool:
        """Whether stage 2 is to work."""
        return self.request.steps > 0 and self.run.config.stage == 2

    def describe(self) -> str:
        """Describe the pictures and the run in two lines."""
        done = len(self.targets) - len(self.left)
        count = f"{len(self.targets)} pictures" if len(self.targets) > 1 else str(next(iter(self.targets)))
        steps = "stage 1"
        if self.in_stages:
            steps = f"stage 2 in {counted(self.request.steps, 'step')} from t = {self.request.start_t}"
        return f"picture   {count}{f', {done} of them done' * bool(done)}\nmodel     {self.run.folder}, {steps}"

    def work(self, on_step: OnStep | None = None, on_end: OnEnd | None = None) -> Done:
        """Dehaze every picture that is left. A bad one does not stop the others; a single one raises its fault."""
        results: dict[Path, Cleared] = {}
        failures = []
        for file in self.left:
            try:
                results[file] = self.clear_file(file, on_step)
            except UserError as error:
                if len(self.targets) == 1:
                    raise
                failures.append(str(error) if str(file) in str(error) else f"{file}: {error}")
                continue
            if on_end is not None:
                on_end(file, results[file])
        return Done(results, failures)

    def clear_file(self, file: Path, on_step: OnStep | None) -> Cleared:
        """Dehaze one picture, and write its stages, if asked, and last the result."""
        began, request = time.perf_counter(), self.request
        picture = read_picture(file, request.max_pixels)
        hazy = picture.as_float()[None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        guess, refined = clear_away(self.run, hazy, request, on_step)
        answer = guess.clear if refined is None else refined
        result = thinned(hazy, answer, guess.transmission, request.strength).clamp(-1, 1)
        if bool((hazy == hazy[:, :1]).all()):  # a grey picture stays grey
            result = result.mean(1, keepdim=True).expand_as(result)
        seconds, target = time.perf_counter() - began, self.targets[file]
        likeness: dict[str, dict[str, float]] = {"psnr": {}, "ssim": {}}
        if request.reference is not None:
            reference = to_uint8(read_picture(request.reference, request.max_pixels).as_float()[None])[0]
            for name, each in {"hazy": hazy, "J": guess.clear, "result": result}.items():
                likeness["psnr"][name] = psnr(to_uint8(each)[0], reference)
                likeness["ssim"][name] = ssim(to_uint8(each)[0], reference)
        if request.dump_stages:
            dump(target, hazy, guess, refined)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_picture(target, picture.with_pixels(result[0]))
        light = tuple(int(value) for value in to_uint8(guess.airlight[:, :, None, None])[0, 0, 0])
        return Cleared(
            target, float(guess.transmission.mean()), light, round(seconds, 2), **likeness,  # type: ignore[arg-type]
            doubts=doubts(hazy, guess, refined),
        )  # fmt: skip


def clear_away(
    run: DehazeRun, hazy: Tensor, request: ClearRequest, on_step: OnStep | None = None
) -> tuple[Clearing, Tensor | None]:
    """Dehaze pictures, float [N,3,H,W] in [-1,1]: what stage 1 guesses, and what stage 2 makes of it. On the CPU.

    The second is None for a run of stage 1, and for 0 `steps`.
    """
    guess = guess_large(run.guess, hazy)
    refined = None
    if request.steps > 0 and run.config.stage == 2:
        refined = run.refine(guess, request.steps, request.start_t, request.seed, on_step).cpu()
    return Clearing(*(each.cpu() for each in guess)), refined


def dump(target: Path, hazy: Tensor, guess: Clearing, refined: Tensor | None) -> None:
    """Write J, T and A as pictures beside the result, and a strip of all of them."""
    airlight = guess.airlight[:, :, None, None].expand_as(hazy)
    stages = {"haze": hazy, "T": 2 * guess.transmission - 1, "A": airlight, "J": guess.clear}
    stages |= {} if refined is None else {"stage 2": refined}
    target.parent.mkdir(parents=True, exist_ok=True)
    for name in ("J", "T", "A"):
        write_image(target.with_name(f"{target.stem}-{name}.png"), to_uint8(stages[name])[0])
    step = max(1, -(-max(hazy.shape[2:]) // SHOWN))
    strip = np.concatenate([to_uint8(each[..., ::step, ::step]) for each in stages.values()])
    write_image(target.with_name(f"{target.stem}-stages.png"), name_columns(grid(strip, len(strip)), list(stages)))


# --- to begin ---------------------------------------------------------------------------------------------------------


@record
class ClearCall(ClearRequest):
    """The options of `dehaze`, and what is not part of the result."""

    model: str | Path | None = None  # a dehaze run; None: the model that comes with the package
    _: KW_ONLY
    out: str | Path | None = None  # the picture to write, or the folder for several
    resume: bool = False  # leave out pictures whose result is there
    force: bool = False  # replace results that are there
    device: Device = field(default="cpu", compare=False)
    on_step: OnStep | None = field(default=None, compare=False)
    on_end: OnEnd | None = field(default=None, compare=False)

    def request(self) -> ClearRequest:
        """Return the part that decides what the result is."""
        return ClearRequest(**{each.name: getattr(self, each.name) for each in fields(ClearRequest)})


@takes(ClearCall)
def clear_haze(source: str | Path | Sequence[str | Path], call: ClearCall) -> Done:
    """Take the haze off a picture, several, or all of a folder: what `minidiff dehaze` does. Raises UserError."""
    several = [source] if isinstance(source, str | Path) else list(source)
    job = begin(several, call.model, call.request(), call.out, call.resume, call.force, call.device)
    return job.work(call.on_step, call.on_end)


def begin(
    sources: Sequence[str | Path],
    model: str | Path | None = None,
    request: ClearRequest = ClearRequest(),  # noqa: B008 - a frozen record
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: Device = "cpu",
) -> Pictures:
    """Prepare to dehaze pictures. Whatever can be wrong raises UserError here, before anything is written."""
    files = [file for source in sources for file in (image_files(source) if Path(source).is_dir() else [Path(source)])]
    if not files:
        raise UserError("there is no picture to dehaze. Name some, or a folder of them.")
    alone = len(sources) == 1 and not Path(sources[0]).is_dir()
    if request.reference is not None and not alone:
        raise UserError("`reference` belongs to one picture. Dehaze it alone.")
    if model is None and DEHAZE not in shipped():
        raise UserError("no model comes with this version. Name a dehaze run first: `minidiff train dehaze` makes one.")
    targets = targets_of(files, alone, out)
    there = [target for target in targets.values() if target.exists()]
    if there and not (resume or force):
        raise UserError(f"{there[0]} exists. Give another `out`, `force` to replace it, or `resume` to keep it.")
    run = load_dehaze(DEHAZE if model is None else model, device=device)
    left = [file for file, target in targets.items() if not (resume and target.exists())]
    job = Pictures(run, request, targets, left)
    if run.config.stage == 1 and request.steps > 0:
        job.warnings.append(f"{run.folder} is a run of stage 1, so there is no stage 2: the result is its J.")
    if alone:
        image_shape(files[0], request.max_pixels)  # raises for what is no picture
    return job


def targets_of(files: Sequence[Path], alone: bool, out: str | Path | None) -> dict[Path, Path]:
    """Choose the file that each result goes to. Raises UserError if two pictures have the same name."""
    if alone and (out is None or Path(out).suffix):
        return {files[0]: Path(out or "dehazed.png")}
    folder = Path(out or "dehazed")
    if folder.suffix and not folder.is_dir():
        raise UserError(f"`out` {folder} names one picture, and there are {len(files)}. Name a folder.")
    targets = {file: folder / f"{file.stem}.png" for file in files}
    taken: dict[Path, Path] = {}
    for file, target in targets.items():
        if target in taken:
            raise UserError(f"{taken[target]} and {file} would both become {target}. Dehaze them one after the other.")
        if target.exists() and target.resolve() == file.resolve():
            raise UserError(f"{file} would be replaced by its own result. Name another folder as `out`.")
        taken[target] = file
    return targets
