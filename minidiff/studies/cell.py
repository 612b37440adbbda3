"""One cell of a study, in a process of its own: train a model, draw from it, measure the samples.

python -m minidiff.studies.cell STUDY fashion-mnist.identity.ddpm cpu     a cell
python -m minidiff.studies.cell STUDY fashion-mnist.identity cpu          the real images that its models share
python -m minidiff.studies.cell time '{"models": ...}' cpu                how long a step takes, for the plan

A cell can be stopped at any moment and resumed: the training is an ordinary run, samples are written as they are drawn,
and result.json comes last. `processes` starts one process for each cell. So a cell gives its memory back when it ends,
and a crash ends only that cell.
"""

import json
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from minidiff.arrays import read_npz
from minidiff.data.datasets import ImageData
from minidiff.errors import UserError, one_line
from minidiff.files import locked, read_json, sweep, write_atomically, write_json
from minidiff.gan.diversity import TOO_ALIKE, diversity
from minidiff.gan.suspicions import unequal
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.faults import faults, problems
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.pretrained.load import load
from minidiff.records import from_json, record, to_json
from minidiff.runs import folder as run_folder
from minidiff.runs.log import read_metrics, seconds_of_steps
from minidiff.runtime import cpu, distributed
from minidiff.runtime.details import set_verbosity
from minidiff.runtime.progress import progress_bar
from minidiff.runtime.verbosity import is_quiet, verbosity
from minidiff.studies.config import Settings, Study, data_of, model_of, seed_of
from minidiff.studies.measuring import evenly
from minidiff.studies.models import MODELS, training
from minidiff.studies.progress import write_failure
from minidiff.studies.reference import SHOWN, check_data, digest_of, measure_samples, prepare
from minidiff.studies.results import CellResult
from minidiff.studies.study import GRID, RESULT, RUN, SAMPLES, folder_of, read_study
from minidiff.studies.timing import take_times
from minidiff.training import journal
from minidiff.training.config import ResumeRequest
from minidiff.training.job import Job
from minidiff.training.journal import Diverged, Interrupted
from minidiff.training.resume import resume

LOOKED_AT = 1000  # samples that are checked for noise, one flat colour and saturation
COMPARED = 256  # samples and real images whose variety is compared
RAW, DRAWN = "samples.raw", "samples.json"  # of a cell: its samples before all are there; a `Drawn`


@record
class Drawn:
    """The facts that are kept beside a cell's samples."""

    seconds: float
    warnings: tuple[str, ...]


# --- a cell: train, draw, measure -----------------------------------------------------------------------------------


def run_cell(study: Study, folder: Path, cell: str, device: torch.device) -> None:
    """Run a cell to its end. Finished parts are not repeated."""
    place, digest = folder_of(folder, cell), digest_of(folder, data_of(cell))
    drawn = drawn_before(place, study)
    if drawn is None:
        job = train(study, cell, place / RUN, device, digest)
        drawn = draw(study, place, job.data, device)
    run = load(place / RUN)
    check_data(cell, digest, run.config.data.fingerprint)
    began = time.perf_counter()
    metrics = measure_samples(study, folder, cell, device)
    seconds = {
        "train": training_seconds(place / RUN),
        "sample": drawn.seconds,
        "measure": time.perf_counter() - began,
    }
    dataset, corruption = data_of(cell).split(".")
    result = CellResult(
        metrics,
        cell=cell,
        dataset=dataset,
        corruption=corruption,
        model=model_of(cell),
        seed=seed_of(study, cell),
        severity=study.severity,
        num=study.num,
        steps=run.config.training.steps if run.config.training else 0,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        seconds={what: round(value, 3) for what, value in seconds.items()},
        warnings=drawn.warnings,
    )
    write_json(place / RESULT, to_json(result))


def train(settings: Settings, cell: str, run: Path, device: torch.device, digest: str | None = None) -> Job[Any]:
    """Begin the training of a cell, or resume it, and run it to its end.

    digest: the fingerprint that its images must have. Raise Interrupted when it is stopped, after saving; UserError.
    """
    kind = MODELS[model_of(cell)].job
    job = begin(kind, lambda: training(settings, cell, run, device), cell, run, device, digest)
    with telling_how_to_go_on(job, run, model_of(cell)):
        job.run()
    return job


def begin(
    kind: type[Job[Any]], plan: Callable[[], Job[Any]], cell: str, run: Path, device: torch.device, digest: str | None
) -> Job[Any]:
    """Begin the training of a cell as `plan` has it, or resume the one in its run folder. Return it, ready to run."""
    if run.exists() and not (run / run_folder.CONFIG).exists():
        shutil.rmtree(run)  # the process was killed while it made the folder
    if run.exists():
        job = resume(kind, run, ResumeRequest(device=str(device)))
    else:
        job = plan()
        remark(job.describe())
    check_data(cell, digest, job.config.data.fingerprint)
    job.warn = lambda message: journal.warn(message.replace("`", ""))  # nobody gave this training its arguments
    remark(job.start())
    return job


@contextmanager
def telling_how_to_go_on(job: Job[Any], run: Path, command: str) -> Iterator[None]:
    """Say what to do about a training that diverges, as the same again would. command: of `minidiff train`."""
    try:
        yield
    except Diverged as error:
        rate = job.trainer.config.lr / 3
        by_hand = f"minidiff train {command} --resume {shlex.quote(str(run))} --lr {rate:.2g}"
        raise UserError(f"{error} In a study: `{by_hand}`, then go on with `retry`.") from None


def training_seconds(run: Path) -> float:
    """Return how long the steps of a run took."""
    return seconds_of_steps(read_metrics(run), batch_size_of(run))


def batch_size_of(run: Path) -> int:
    """Return how many images a step of a run takes."""
    return int(run_folder.read_config(run)["training"]["batch_size"])


def drawn_before(place: Path, study: Study) -> Drawn | None:
    """Return the facts that `draw` kept, if the samples are there and whole; None if they must be drawn."""
    try:
        check_samples(place.name, read_npz(place / SAMPLES, "images")[0], study.num, study.image_size)
        drawn = from_json(Drawn, read_json(place / DRAWN), place / DRAWN)
    except UserError:
        return None
    (place / RAW).unlink(missing_ok=True)  # the process was killed before it could do so
    return drawn


def draw(study: Study, place: Path, data: ImageData, device: torch.device) -> Drawn:
    """Draw the samples of a trained cell, check them, and write them with a grid of the first.

    They go to a file without a header as they come, so a process that is stopped loses one batch: sample k of a seed
    is the same whoever draws it.
    """
    run, raw = load(place / RUN, device=device), place / RAW
    _, height, width = run.shape
    num, seed, batch = study.num, seed_of(study, place.name), 256 if device.type == "cuda" else 64
    there = raw.stat().st_size // (height * width * 3) if raw.exists() else 0
    began = time.perf_counter()
    with progress_bar(num, "samples", unit="image") as bar, open(raw, "ab") as file:
        file.truncate(there * height * width * 3)
        bar.update(there)
        for first in range(there, num, batch):
            indices = range(first, min(first + batch, num))
            sampling = MODELS[model_of(place.name)].sampling
            file.write(to_uint8(run.draw(indices, seed=seed, batch_size=batch, **sampling)).tobytes())
            file.flush()
            bar.update(len(indices))
    seconds = (time.perf_counter() - began) * num / max(1, num - there)  # as if all had been drawn now
    images = np.memmap(raw, np.uint8, "r").reshape(-1, height, width, 3)
    warnings = suspicions(images, data.rgb(evenly(len(data), COMPARED)))
    warnings += unequal(read_metrics(place / RUN), run.config.kind)
    drawn = Drawn(seconds, tuple(warnings))
    write_json(place / DRAWN, to_json(drawn))
    write_image(place / GRID, grid(images[:SHOWN]))
    store_samples(place / SAMPLES, images, num, study.image_size)
    raw.unlink()
    return drawn


def store_samples(path: Path, images: NDArray[Any], num: int, size: int) -> None:
    """Write the samples of a cell in the form of all studies: uint8 [num,size,size,3], as `images` in a .npz."""
    check_samples(path.parent.name, images, num, size)
    write_atomically(path, lambda file: np.savez(file, images=images))


def check_samples(cell: str, images: NDArray[Any], num: int, size: int) -> None:
    """Raise UserError, with the name of the cell, for samples in any other form.

    Nothing is converted: an array in the wrong form could hold anything.
    """
    if images.dtype != np.uint8 or list(images.shape) != [num, size, size, 3]:
        found = f"{images.dtype} {list(images.shape)}"
        if images.dtype != np.uint8 and images.dtype.kind in "biuf" and images.size:
            found += f" with values from {images.min():g} to {images.max():g}"
        raise UserError(
            f"the samples of {cell} are {found}, and this study holds uint8 {[num, size, size, 3]}. Draw them so."
        )


def suspicions(samples: Pixels, real: Pixels) -> list[str]:
    """List what looks wrong with uint8 [n,H,W,3] samples: what `problems` finds, and samples that are too alike.

    A fault that the real images have, too, is not listed: pictures of edges, for example, are black and white.
    """
    natural = [what for what, mask in faults(real).items() if mask.mean() >= 0.1]
    found = problems(samples[evenly(len(samples), LOOKED_AT)], expected=natural)
    variety = diversity(np.array(samples[:COMPARED]), real)
    if variety < TOO_ALIKE:
        found.append(f"the samples are {variety:.2f} as varied as the data: a few images again and again, or noise.")
    return found


def remark(line: str) -> None:
    """Print a line on the way, unless the study was started quietly."""
    if not is_quiet():
        print(line, flush=True)


# --- the process ------------------------------------------------------------------------------------------------------


Work = Callable[[Any, Path, str, torch.device], None]  # of a study, its folder, a cell or data, and a device


def main(arguments: Sequence[str], work: Work = run_cell, ready: Work = prepare) -> int:
    """Return the exit code: 0 done; 1 failed, with the reason in result.json; 128 + the signal when stopped.

    work: runs a cell. ready: prepares the data that cells share. Studies of another kind have their own.
    """
    place, name, device_name = arguments
    set_verbosity(verbosity())  # as the study was told
    if place == "time":
        return main_timing(json.loads(name), device_name)
    folder = Path(place)
    study = read_study(folder)
    try:
        with alone(folder_of(folder, name)):
            device = distributed.local_device(device_name)
            (work if name in study.cells else ready)(study, folder, name, device)
        return 0
    except Interrupted as stop:
        print(str(stop).partition(" Resume with")[0])  # it is the study that goes on, not this training alone
        return stop.exit_code
    except Exception as error:  # only this cell fails: the study goes on with the others
        if not isinstance(error, UserError):
            traceback.print_exc()
        if not write_failure(study, folder, name, reason(error)):
            print(f"{name}: {reason(error)}", file=sys.stderr)
        return 1


def main_timing(settings: dict[str, Any], device_name: str) -> int:
    """Print what `take_times` found, or an error, as a line of JSON."""
    try:
        asked = from_json(Settings, settings, "the settings")
        found = to_json(take_times(asked, distributed.local_device(device_name)))
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
    return 1 if "error" in found else 0


def reason(error: Exception) -> str:
    """Say in a line why a cell failed."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or "memory" in str(error):
        return f"out of memory ({one_line(error)}). Try a smaller `image_size`, or fewer cells at once."
    return f"{type(error).__name__}: {one_line(error)}"


@contextmanager
def alone(place: Path, patience: float = 60) -> Iterator[None]:
    """Lock a cell's folder. patience: how many seconds the process of a killed study has to save and end."""
    until = time.monotonic() + patience
    while True:
        with ExitStack() as held:
            try:
                held.enter_context(locked(place))
            except UserError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
                continue
            sweep(place)
            yield
            return


def stop_with_the_parent() -> None:
    """Stop, as after SIGTERM, when standard input ends: the study that started this process is gone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    cpu.tune()
    stop_with_the_parent()
    sys.exit(main(sys.argv[1:]))
