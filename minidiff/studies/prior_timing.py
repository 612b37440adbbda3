"""How long a study of priors takes on this machine, about: a few steps and a few samples, and from them all the others.

Rests on timing (how a piece of work is timed) and prior_cell (how a training is planned). A study of priors is planned
without it, because its steps are given in numbers; only who asks how long it takes waits for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from minidiff.ddpm.run import load_ddpm
from minidiff.metrics import features
from minidiff.runs import folder as run_folder
from minidiff.studies.compare import devices_for
from minidiff.studies.config import data_of, model_of
from minidiff.studies.planning import foresee
from minidiff.studies.prior_cell import plan
from minidiff.studies.prior_config import ALONE, CALLS, PLAIN, SAMPLER, PriorStudy, parts_of
from minidiff.studies.progress import PREVIEWS, duration, is_prepared
from minidiff.studies.timing import AT_ONCE, MOST, typical

ENOUGH = 1.0  # seconds of each kind of work
KEPT = 10_000  # training images whose features are kept, beside the statistics of all


@dataclass(frozen=True)
class Pace:
    """Seconds that things take."""

    step: dict[str, float]  # of a training: plain, prior-NET
    call: float  # of the network of the plain DDPM, for a sample
    image: float  # in the feature networks of the study
    images: int  # of the training split


def expected(study: PriorStudy, folder: Path, cells: Sequence[str], device: str | None) -> str:
    """Say about how long these cells take, one after the other, each from its beginning. They are timed for it.

    device: where they would run; None: on the study's. No images are downloaded for this.
    """
    if not cells:
        return "nothing is left to do"
    if missing := foresee(study):
        return f"not known before the images are here: {missing[0]}"
    chosen = devices_for(study.device if device in (None, "auto") else device, 1)[0]
    seconds = expected_seconds(study, folder, cells, take_pace(study, torch.device(chosen)))
    return f"about {duration(seconds)} on this machine, one cell at a time and beside nothing else"


def expected_seconds(study: PriorStudy, folder: Path, cells: Sequence[str], pace: Pace) -> float:
    """Return how long these cells take, and the real images if these are not measured yet.

    A use of a prior is counted as a training of the plain DDPM: the prior that it calls in each step is small. The
    calls of priors for samples are left out, too.
    """
    total = 0.0
    for cell in cells:
        alone = parts_of(cell)[0] == ALONE
        if study.source_of(cell) == cell:
            total += study.steps[model_of(cell)] * pace.step[model_of(cell) if alone else PLAIN]
            total += 0 if alone else PREVIEWS * CALLS * pace.call
        for _, share in study.points_of(cell):
            total += study.num * (pace.image + (0 if alone else max(1, round(CALLS * share)) * pace.call))
    if not is_prepared(folder, data_of(study.cells[0])):
        total += (pace.images + min(pace.images, KEPT) + 2 * study.num) * pace.image
    return total


def take_pace(study: PriorStudy, device: torch.device) -> Pace:
    """Time a few steps of the plain DDPM and of each prior, a few samples, and a few images in the feature networks."""
    name, of_step = data_of(study.cells[0]), {}
    of_call, images = 0.0, 0
    for model in (PLAIN, *(f"{ALONE}-{net}" for net in study.nets)):
        with TemporaryDirectory(prefix="minidiff-") as place:
            job = plan(study, Path(place), f"{name}.{model}", device)
            images = len(job.data)
            of_step[model] = typical((step.loss.item() for step in job.trainer.steps()), ENOUGH)
            if model == PLAIN:
                job.start()
                assert job.folder is not None
                run_folder.save_model(job.folder, job.trainer.ema.state_dict())
                run = load_ddpm(job.folder, device=device)
                drawn = (run.draw(range(AT_ONCE), sampler=SAMPLER, steps=CALLS).cpu() for _ in range(MOST))
                of_call = typical(drawn, ENOUGH) / (AT_ONCE * CALLS)
                job.close()
    shown = np.random.default_rng(0).integers(0, 256, (AT_ONCE, study.image_size, study.image_size, 3), np.uint8)
    names = [study.features, *["inception"] * study.fid]
    networks = [features.choose(each, device=device) for each in names]
    of_image = sum(typical((network.compute(shown) for _ in range(MOST)), ENOUGH) for network in networks) / AT_ONCE
    return Pace(of_step, of_call, of_image, images)
