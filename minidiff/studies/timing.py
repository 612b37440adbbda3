"""How long things take on this machine: a few steps of every model, a few samples of it, a few images measured.

Rests on models. This is done once, before the study begins. With these times, `minutes` become steps, and the plan says
how long the study takes.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from minidiff.metrics import features
from minidiff.pretrained.load import load
from minidiff.runs import folder as run_folder
from minidiff.studies.config import Settings, Times
from minidiff.studies.models import MODELS, training

WARM_UP, LEAST, MOST = 2, 3, 20  # pieces of work that do not count; that do, at least and at most
ENOUGH = 3.0  # seconds of the pieces that count
AT_ONCE = 16  # samples, and images for the feature network


def take_times(settings: Settings, device: torch.device) -> Times:
    """Time every model of these settings, on the first data of the study.

    Raise UserError if a model does not fit the settings, or if the data or the feature network is not to be had.
    """
    name = settings.data[0]
    network = features.choose(settings.features, device=device)
    steps, of_step, of_sample, count = {}, {}, {}, 0
    for model in settings.models:
        with TemporaryDirectory(prefix="minidiff-") as place:
            job = training(settings, f"{name}.{model}", Path(place) / "run", device)
            count = len(job.data)
            steps[model] = job.trainer.config.steps
            of_step[model] = typical(step.loss.item() for step in job.trainer.steps())
            job.start()
            assert job.folder is not None
            run_folder.save_model(job.folder, job.trainer.ema.state_dict())
            run = load(job.folder, device=device)
            drawn = (run.draw(range(AT_ONCE), **MODELS[model].sampling).cpu() for _ in range(MOST))
            of_sample[model] = typical(drawn) / AT_ONCE
    shape = (AT_ONCE, settings.image_size, settings.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    of_image = typical(network.compute(images) for _ in range(MOST)) / AT_ONCE
    return Times(steps, of_step, of_sample, of_image, count, network.identity)


def typical(work: Iterable[object], enough: float = ENOUGH) -> float:
    """Return the median seconds for a piece of this work, after a warm-up in which a GPU chooses its algorithms.

    enough: seconds of the pieces that count, if there are at least three of them.
    """
    times: list[float] = []
    began = time.perf_counter()
    for _ in work:
        now = time.perf_counter()
        times.append(now - began)
        if len(times) >= WARM_UP + MOST or (len(times) >= WARM_UP + LEAST and sum(times[WARM_UP:]) > enough):
            break
        if len(times) > 1 and sum(times) > 5 * enough:  # beside pieces as long as these, the warm-up is nothing
            break
        began = time.perf_counter()
    return median(times[WARM_UP:] or times[-1:])
