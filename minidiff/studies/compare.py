"""A whole study in one call: what `minidiff compare` does, from a script.

    for event in minidiff.compare("STUDY", datasets=("shapes",), models=("ddpm", "wgan"), steps=500):
        print(event.name, event.state, event.text)

Rests on planning (which decides what to do) and processes (which does it).
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

from minidiff.errors import UserError
from minidiff.files import locked
from minidiff.records import record, takes
from minidiff.studies.config import Draft, Study, StudyRequest, Times
from minidiff.studies.planning import complete, decide, foresee, settings_of
from minidiff.studies.processes import Event, carry_out, measure_times
from minidiff.studies.study import keep_study

Note = Callable[[str, str], None]  # called with a kind, `warning` or `timing`, and a line


@record
class StudyCall(StudyRequest):
    """A request, and how to carry it out this time."""

    parallel: int = 1  # cells at once: each on the next GPU, or with its share of the CPU's threads
    retry: bool = False  # try the cells that failed again


@takes(StudyCall)
def compare(out: str | Path, call: StudyCall) -> Iterator[Event]:
    """Train every model on every data set, clean and corrupted, and measure what each draws.

    Yield an event when something begins and when it ends. out: the folder of the study, a new one or one to go on with.
    Finished cells are not repeated. `minidiff.reports.study_report.write(out)` writes the page. Raise UserError.
    """
    folder, request = Path(out), request_of(call)
    study = plan_study(folder, request, call.parallel)
    devices = devices_for(request.device or study.device, call.parallel)
    keep_study(folder, study)
    yield from carry_out(folder, study, devices, call.retry)


def request_of(call: StudyCall) -> StudyRequest:
    """Return the part of a call that defines the study."""
    request = StudyRequest(**{one.name: getattr(call, one.name) for one in fields(StudyRequest)})
    return replace(request, device=usual_device()) if request.device == "auto" else request


def plan_study(folder: Path, request: StudyRequest, parallel: int = 1, note: Note = lambda kind, line: None) -> Study:
    """Return the complete study of a request: the one in the folder, a new one, or one that has grown. Write nothing.

    Models that are new are timed, with as many threads as a cell will have. Raise UserError.
    """
    found = decide(folder, request, usual_device())
    if isinstance(found, Study):
        return found
    for line in foresee(found.settings):
        note("warning", line)
    return complete(found, time_untimed(found, request.device, parallel, note))


def time_untimed(draft: Draft, device: str | None, parallel: int, note: Note) -> Times | None:
    """Time the models of a draft that are not timed yet; return None if there are none."""
    if not draft.untimed:
        return None
    note("timing", f"a few steps of {', '.join(draft.untimed)}")
    settings = settings_of(draft.settings, models=draft.untimed)
    return measure_times(settings, devices_for(device or settings.device, parallel)[0], parallel)


def check_idle(folder: Path) -> None:
    """Raise UserError if another process works in the folder of a study."""
    if folder.exists():
        with locked(folder):
            pass


def usual_device() -> str:
    """Return the device of a new study: a GPU, if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def devices_for(device: str, parallel: int) -> list[str]:
    """Return the device of each process that may run at once: the GPUs in turn, if none is named."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a study starts its own processes. Run it without torchrun, with `parallel`.")
    count = torch.cuda.device_count()
    there = {"cuda": count > int(device.partition(":")[2] or 0), "mps": torch.backends.mps.is_available()}
    if not there.get(device.split(":")[0], True):
        raise UserError(
            f"this study was begun on {device}, which this machine does not have. Go on with it on that machine."
        )
    if device != "cuda":
        return [device] * parallel
    return [f"cuda:{number % count}" for number in range(parallel)]
