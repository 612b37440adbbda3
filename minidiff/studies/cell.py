"""One cell of a study, in a process of its own: train a model, draw from it, measure what it drew.

python -m minidiff.studies.cell STUDY fashion-mnist.identity.ddpm cpu     a cell
python -m minidiff.studies.cell STUDY fashion-mnist.identity cpu          the real images that its models share
python -m minidiff.studies.cell time '{"models": ...}' cpu                how long a step takes, to plan with

A cell can be stopped at any moment and taken up again: the training is an ordinary run, samples are written as they are
drawn, and result.json comes last. `processes` starts these, one for each cell: what one needs of memory is given back
when it ends, and a crash takes that cell alone.
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
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from minidiff.data.datasets import ImageData
from minidiff.errors import UserError, one_line
from minidiff.files import locked, write_atomically, write_json
from minidiff.gan.diversity import TOO_ALIKE, diversity
from minidiff.gan.job import unequal
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.faults import faults, problems
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.pretrained.load import load
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics, seconds_of_steps
from minidiff.runtime import cpu, distributed
from minidiff.studies import progress
from minidiff.studies import study as studies
from minidiff.studies.distance import images_bar, spread
from minidiff.studies.models import MODELS, training
from minidiff.studies.reference import SHOWN, check_data, digest_of, measure_samples, prepare
from minidiff.studies.study import GRID, RESULT, RUN, SAMPLES
from minidiff.studies.timing import take_times
from minidiff.training.config import ResumeRequest
from minidiff.training.job import Job, resume
from minidiff.training.journal import Diverged, Interrupted

LOOKED_AT = 1000  # samples that are looked at for noise, one flat colour, saturation
COMPARED = 256  # samples and real images whose variety is compared
RAW, SAID = "samples.raw", "samples.json"  # of a cell: its samples before all are there; their seconds and warnings


# --- a cell: train, draw, measure -----------------------------------------------------------------------------------


def run_cell(study: dict[str, Any], folder: Path, cell: str, device: torch.device) -> None:
    """All of a cell; what is there already is not done again."""
    place, digest = studies.home(folder, cell), digest_of(folder, studies.data_of(cell))
    said = drawn_before(place, study)
    if said is None:
        job = train(study, cell, place / RUN, device, digest)
        said = draw(study, place, job.data, device)
    run = load(place / RUN)
    check_data(cell, digest, run.config.data.fingerprint)
    began = time.perf_counter()
    found = measure_samples(study, folder, cell, device)
    of_each = {
        "train": training_seconds(place / RUN),
        "sample": said["seconds"],
        "measure": time.perf_counter() - began,
    }
    write_json(
        place / RESULT,
        studies.about(study, cell)
        | {
            "metrics": found,
            "num": study["num"],
            "steps": run.config.training.steps if run.config.training else None,
            "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
            "seconds": {what: round(value, 3) for what, value in of_each.items()},
            "warnings": said["warnings"],
        },
    )


def train(study: dict[str, Any], cell: str, run: Path, device: torch.device, digest: str | None = None) -> Job[Any]:
    """The training of a cell, begun or taken up again, to its end. digest: the fingerprint its images must have.

    Raises Interrupted when it is stopped, and saved; UserError.
    """
    if run.exists() and not (run / checkpoint.CONFIG).exists():
        shutil.rmtree(run)  # the process was killed while it made the folder
    model = cell.split(".")[2]
    if run.exists():
        job = resume(MODELS[model].job, run, ResumeRequest(device=str(device)))
    else:
        job = training(study, cell, run, device)
        print(job.describe())
    check_data(cell, digest, job.config.data.fingerprint)
    print(job.start(), flush=True)
    try:
        job.run()
    except Diverged as error:  # the same again would diverge again
        by_hand = f"minidiff train {model} --resume {shlex.quote(str(run))} --lr {job.trainer.config.lr / 3:.2g}"
        raise UserError(f"{error} In a study: `{by_hand}`, then compare with --retry.") from None
    return job


def training_seconds(run: Path) -> float:
    """How long the steps of a run took."""
    batch_size = checkpoint.read_config(run)["training"]["batch_size"]
    return seconds_of_steps(read_metrics(run), batch_size)


def drawn_before(place: Path, study: dict[str, Any]) -> dict[str, Any] | None:
    """What `draw` left of a cell, if its samples are there and whole; None where they are to be drawn."""
    size = study["image_size"]
    try:
        with open(place / SAMPLES, "rb") as file, np.load(file) as stored:
            check_samples(place.name, stored["images"], study["num"], size)
        said: dict[str, Any] = {name: json.loads((place / SAID).read_text())[name] for name in ("seconds", "warnings")}
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error, UserError):
        return None
    (place / RAW).unlink(missing_ok=True)  # the process was killed before it could do so
    return said


def draw(study: dict[str, Any], place: Path, data: ImageData, device: torch.device) -> dict[str, Any]:
    """The samples of a trained cell, checked, and a grid of the first; returns the seconds it took, and warnings.

    A file without a header takes them in as they come, so a process that is stopped loses a batch: sample k of a seed
    is the same whoever draws it.
    """
    run, raw = load(place / RUN, device=device), place / RAW
    _, height, width = run.shape
    num, batch = study["num"], 256 if device.type == "cuda" else 64
    there = raw.stat().st_size // (height * width * 3) if raw.exists() else 0
    began = time.perf_counter()
    with images_bar("samples", num) as bar, open(raw, "ab") as file:
        file.truncate(there * height * width * 3)
        bar.update(there)
        for first in range(there, num, batch):
            indices = range(first, min(first + batch, num))
            sampling = MODELS[place.name.split(".")[2]].sampling
            file.write(to_uint8(run.draw(indices, seed=study["seed"], batch_size=batch, **sampling)).tobytes())
            file.flush()
            bar.update(len(indices))
    seconds = (time.perf_counter() - began) * num / max(1, num - there)  # also of those that were there
    drawn = np.memmap(raw, np.uint8, "r").reshape(-1, height, width, 3)
    warnings = suspicions(drawn, data.rgb(spread(len(data), COMPARED)))
    warnings += unequal(read_metrics(place / RUN), run.config.kind)
    said = {"seconds": seconds, "warnings": warnings}
    write_json(place / SAID, said)
    write_image(place / GRID, grid(drawn[:SHOWN]))
    store_samples(place / SAMPLES, drawn, num, study["image_size"])
    raw.unlink()
    return said


def store_samples(path: Path, images: NDArray[Any], num: int, size: int) -> None:
    """The samples of a cell, in the one form that all of a study have: uint8 [num,size,size,3], as `images` in a .npz.
    Raises UserError."""
    check_samples(path.parent.name, images, num, size)
    write_atomically(path, lambda file: np.savez(file, images=images))


def check_samples(cell: str, images: NDArray[Any], num: int, size: int) -> None:
    """Raises UserError, by the name of the cell, for samples of any other form: nothing is converted, for what is not
    what it should be may be anything."""
    form = f"uint8 {[num, size, size, 3]}"
    if images.dtype != np.uint8 or list(images.shape) != [num, size, size, 3]:
        found = f"{images.dtype} {list(images.shape)}"
        if images.dtype != np.uint8 and images.size:
            found += f" with values from {images.min():g} to {images.max():g}"
        raise UserError(f"the samples of {cell} are {found}; this study holds {form}. Draw them so.")


def suspicions(samples: Pixels, real: Pixels) -> list[str]:
    """What looks wrong with uint8 [n,H,W,3] samples, a line each: noise, one flat colour, saturation, as `problems`
    has them, unless the real images are like that too (edges are black and white); and when all of them are alike."""
    natural = [what for what, mask in faults(real).items() if mask.mean() >= 0.1]
    found = problems(samples[spread(len(samples), LOOKED_AT)])
    found = [line for line in found if not any(f"images are {what}" in line for what in natural)]
    variety = diversity(np.array(samples[:COMPARED]), real)
    if variety < TOO_ALIKE:
        found.append(f"the samples are {variety:.2f} as varied as the data: few images again and again, or noise.")
    return found


# --- the process ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 done, 1 failed, with the reason in result.json, 128 + the signal when it was stopped."""
    place, name, device_name = arguments
    if place == "time":
        return main_timing(json.loads(name), device_name)
    folder = Path(place)
    study = studies.read(folder)
    try:
        with alone(studies.home(folder, name)):
            device = distributed.local_device(device_name)
            (run_cell if name in study["cells"] else prepare)(study, folder, name, device)
        return 0
    except Interrupted as stop:
        print(str(stop).partition(" Resume with")[0])  # it is the study that goes on, not this training alone
        return stop.exit_code
    except Exception as error:  # this cell's alone: the study goes on with the others
        if not isinstance(error, UserError):
            traceback.print_exc()
        if not progress.fail(study, folder, name, reason(error)):
            print(f"{name}: {reason(error)}", file=sys.stderr)
        return 1


def main_timing(settings: dict[str, Any], device_name: str) -> int:
    """Prints what `take_times` found, or an error, as a line of JSON."""
    try:
        found = take_times(settings, distributed.local_device(device_name))
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found))
    return 1 if "error" in found else 0


def reason(error: Exception) -> str:
    """A failure in a line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or "memory" in str(error):
        return f"out of memory ({one_line(error)}). Try a smaller --image-size, or fewer cells at once."
    return f"{type(error).__name__}: {one_line(error)}"


@contextmanager
def alone(place: Path, patience: float = 60) -> Iterator[None]:
    """Hold a cell's folder; the process of a study that was killed has so many seconds to save and go."""
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
            yield
            return


def stop_with_the_parent() -> None:
    """Stop, as by SIGTERM, when standard input ends: the study that started this process is gone, killed perhaps."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    cpu.tune()
    stop_with_the_parent()
    sys.exit(main(sys.argv[1:]))
