"""A whole study of priors in one call: what `minidiff compare-priors` does, from a script.

    for event in minidiff.compare_priors("STUDY", dataset="fashion-mnist", steps=2000, features="clf"):
        print(event.name, event.state, event.text)

Rests on prior_planning (what to do) and processes (which does it).
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from minidiff.records import record, takes
from minidiff.studies.compare import devices_for, usual_device
from minidiff.studies.prior_config import PriorRequest, PriorStudy
from minidiff.studies.prior_planning import plan_priors
from minidiff.studies.processes import Event, carry_out
from minidiff.studies.study import keep_study


@record
class PriorCall(PriorRequest):
    """A request, and how to carry it out this time."""

    parallel: int = 1  # cells at once: each on the next GPU, or with its share of the CPU's threads
    retry: bool = False  # try the cells that failed again


@takes(PriorCall)
def compare_priors(out: str | Path, call: PriorCall) -> Iterator[Event]:
    """Compare a DDPM without a prior with DDPMs that use one, and with controls, all along the training.

    Yield an event when a cell begins and when it ends. out: the folder of the study, a new one or one to go on with.
    Finished parts are not repeated. `minidiff.report(out)` writes the page. Raise UserError.
    """
    folder = Path(out)
    request = PriorRequest(**{one.name: getattr(call, one.name) for one in fields(PriorRequest)})
    study = plan_study(folder, request)
    devices = devices_for(request.device if request.device not in (None, "auto") else study.device, call.parallel)
    keep_study(folder, study)
    yield from carry_out(folder, study, devices, call.retry)


def plan_study(folder: Path, request: PriorRequest) -> PriorStudy:
    """Return the complete study of a request: see `plan_priors`. The device `auto` is the usual one."""
    if request.device == "auto":
        request = replace(request, device=usual_device())
    return plan_priors(folder, request, usual_device())
