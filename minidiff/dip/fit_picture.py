"""Fit a picture, or a folder of pictures, with one call: what `minidiff dip fit` does.

Rests on dip.recipe, dip.job and dip.folder.

fitted = minidiff.fit_picture("photo.png", noise_sigma=25, on_step=print)
fitted.answer, fitted.result.psnr
"""

from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path

from minidiff.dip.config import ANSWER, ANSWERS, RESULT, FitRequest, FitResult
from minidiff.dip.folder import FolderJob, OnEnd, OnStart, reopen_folder
from minidiff.dip.job import DipJob, OnStep
from minidiff.dip.recipe import Device, begin, reopen
from minidiff.errors import UserError
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


@dataclass(frozen=True)
class FittedFolder:
    """The fits of all pictures of a folder."""

    folder: Path  # their run folder
    answers: Path  # the folder of the answers
    results: dict[str, FitResult]  # by the file name of the picture
    failures: list[str]  # one line for each picture that could not be fitted


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


def resume_fit(folder: str | Path, *, device: Device = "cpu", on_step: OnStep | None = None) -> Fitted | FittedFolder:
    """Go on with the fit of a run folder, of one picture or of several. On a CPU nothing differs, to the bit."""
    job = open_fit(folder, device)
    return run_fit(job, on_step) if isinstance(job, DipJob) else run_folder_fit(job, on_step=on_step)


# --- the parts, for a caller who prints between them ----------------------------------------------------------------


def open_fit(folder: str | Path, device: Device = "cpu") -> DipJob | FolderJob:
    """Open the unfinished fit of a run folder. Raises UserError if it is finished, or no fit."""
    folder = Path(folder)
    if "images" in run_folder.read_config(folder, kind="dip"):
        return reopen_folder(folder, device)
    if (folder / RESULT).exists():
        raise UserError(f"{folder} is finished: its answer is {folder / ANSWER}.")
    return reopen(folder, device)


def run_fit(job: DipJob, on_step: OnStep | None = None) -> Fitted:
    """Run a fit to its end."""
    folder, result = job.start(), job.run(on_step)
    return Fitted(folder, folder / ANSWER, result)


def run_folder_fit(
    job: FolderJob, on_start: OnStart | None = None, on_step: OnStep | None = None, on_end: OnEnd | None = None
) -> FittedFolder:
    """Run the fits of a folder to their end."""
    results, failures = job.run(on_start, on_step, on_end)
    folder = job.start()
    return FittedFolder(folder, folder / ANSWERS, results, failures)
