"""Fit a picture, or a folder of pictures, with one call: what `minidiff dip fit` does.

Rests on dip.recipe, dip.job and dip.folder.

fitted = minidiff.fit_picture("photo.png", noise_sigma=25, on_step=print)
fitted.answer, fitted.result.psnr
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path

from minidiff.dip.config import ANSWER, ANSWERS, IMAGES, FitRequest, FitResult
from minidiff.dip.folder import FolderJob, OnEnd, OnStart, reopen_folder
from minidiff.dip.job import DipJob, OnStep, undecided
from minidiff.dip.recipe import Device, begin, finished, read_dip, reopen
from minidiff.errors import UserError, counted, listed
from minidiff.images.show import png_file
from minidiff.records import record, takes
from minidiff.runs import folder as run_folder


@record
class FitCall(FitRequest):
    """A request, and what does not change the result: where to write, where to compute, and whom to tell."""

    _: KW_ONLY
    out: str | Path | None = None  # the run folder to make; None: the next free one under runs/
    device: Device = "cpu"
    on_step: OnStep | None = None  # called after every step with a `FitProgress`

    def request(self) -> FitRequest:
        """Return the request alone."""
        return FitRequest(**{each.name: getattr(self, each.name) for each in fields(FitRequest)})


@dataclass(frozen=True)
class Fitted:
    """A fit that is done."""

    folder: Path  # its run folder
    answer: Path  # the picture that the fit came to
    result: FitResult
    problems: Sequence[str] = ()  # what looks wrong with it, in words

    def _repr_png_(self) -> bytes | None:
        return png_file(self.answer)


@dataclass(frozen=True)
class FittedFolder:
    """The fits of all pictures of a folder."""

    folder: Path  # their run folder
    answers: Path  # the folder of the answers
    results: dict[str, FitResult]  # by the file name of the picture
    failures: list[str]  # one line for each picture that could not be fitted
    problems: Sequence[str] = ()  # what looks wrong with the others, in words


@takes(FitCall)
def fit_picture(image: str | Path, call: FitCall) -> Fitted:
    """Fit an untrained network to one picture, and stop before it learns the noise. See `FitRequest` for the options.

    Raises UserError if something is wrong with picture or options, and Interrupted after Ctrl-C, having saved.
    """
    return run_fit(begin(image, call.request(), call.device, call.out), call.on_step)


@takes(FitCall)
def fit_folder(folder: str | Path, call: FitCall) -> FittedFolder:
    """Fit every picture of a folder, each as if it were alone. One that cannot be fitted does not stop the others."""
    job = FolderJob(Path(folder), call.request(), call.device, call.out)
    return run_folder_fit(job, on_step=call.on_step)


def resume_fit(
    folder: str | Path, *, steps: int | None = None, device: Device = "cpu", on_step: OnStep | None = None
) -> Fitted | FittedFolder:
    """Go on with the fit of a run folder, of one picture or of several. On a CPU nothing differs, to the bit.

    steps: a new number of steps, for a fit that ended before the early stop; see `open_fit`.
    """
    job = open_fit(folder, device, steps)
    return run_fit(job, on_step) if isinstance(job, DipJob) else run_folder_fit(job, on_step=on_step)


# --- the parts, for a caller who prints between them ----------------------------------------------------------------


def open_fit(folder: str | Path, device: Device = "cpu", steps: int | None = None) -> DipJob | FolderJob:
    """Open a fit that can go on: an unfinished one, or one that used up its steps and is now given more.

    steps: None leaves the number as it is. Raises UserError if the fit is finished, has taken as many steps, or was
    stopped early, so that more steps would change nothing.
    """
    folder = Path(folder)
    if "images" in run_folder.read_config(folder, kind="dip"):
        return reopen_folder(folder, device, steps)
    refuse_finished(folder, steps)
    return reopen(folder, device, steps)


def refuse_finished(folder: Path, steps: int | None) -> None:
    """Raise UserError if the fit of this run folder has nothing left to do."""
    result = finished(folder, read_dip(folder).fit.steps if steps is None else steps)
    if result is None:
        return
    if steps is None:
        more = "" if result.stopped else f" For more than its {result.steps:,} steps, add `steps`."
        raise UserError(f"{folder} is finished: its answer is {folder / ANSWER}.{more}")
    if result.stopped:
        raise UserError(
            f"{folder} was stopped early at step {result.steps:,}, so more `steps` would change nothing. "
            f"Its answer is {folder / ANSWER}."
        )
    raise UserError(f"{folder} has taken {result.steps:,} steps already. Give more `steps` than that.")


def run_fit(job: DipJob, on_step: OnStep | None = None) -> Fitted:
    """Run a fit to its end."""
    folder, result = job.start(), job.run(on_step)
    problem = undecided(job.config, result)
    return Fitted(folder, folder / ANSWER, result, [problem] if problem else [])


def run_folder_fit(
    job: FolderJob, on_start: OnStart | None = None, on_step: OnStep | None = None, on_end: OnEnd | None = None
) -> FittedFolder:
    """Run the fits of a folder to their end."""
    results, failures = job.run(on_start, on_step, on_end)
    folder = job.start()
    early = [name for name, result in results.items() if undecided(read_dip(folder / IMAGES / name), result)]
    named = listed([*early[:3], "others"] if len(early) > 3 else early)
    few = (
        f"{len(early)} of {counted(len(results), 'fit')} used up the steps before the early stop could decide: {named}."
    )
    problems = [few] if early else []
    return FittedFolder(folder, folder / ANSWERS, results, failures, problems)
