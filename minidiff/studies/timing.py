"""How long things take on this machine: a few steps of every model, a few samples of it, a few images measured.

Rests on models. Done once, before there is a study: `--minutes` becomes steps by it, and the plan tells its hours.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from minidiff.metrics import features
from minidiff.pretrained.load import load
from minidiff.runs import folder as checkpoint
from minidiff.studies import study as studies
from minidiff.studies.models import MODELS, training

WARM_UP, LEAST, MOST = 2, 3, 20  # pieces of work that do not count; that do, at least and at most
ENOUGH = 3.0  # seconds of those that count
AT_ONCE = 16  # samples, and images for the feature network


def take_times(settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What `study.complete` needs to know, found out with the first data of a study.

    steps: of each model, its preset's, or as asked. seconds_per_step, seconds_per_sample: of each model.
    seconds_per_image: of the feature network. images: in the training split. network: by which features are known to be
    of the same one. Raises UserError where a model does not
    go with the settings, or the data or the feature network are not to be had.
    """
    name = studies.data_names(settings)[0]
    network = features.choose(settings["features"], device=device)
    found: dict[str, Any] = {"steps": {}, "seconds_per_step": {}, "seconds_per_sample": {}}
    for model in settings["models"]:
        with TemporaryDirectory(prefix="minidiff-") as place:
            job = training(settings, f"{name}.{model}", Path(place) / "run", device)
            found["images"] = len(job.data)
            found["steps"][model] = job.trainer.config.steps
            found["seconds_per_step"][model] = typical(step.loss.item() for step in job.trainer.steps())
            job.start()
            assert job.folder is not None
            checkpoint.save_model(job.folder, job.trainer.ema.state_dict())
            run = load(job.folder, device=device)
            drawn = (run.draw(range(AT_ONCE), **MODELS[model].sampling).cpu() for _ in range(MOST))
            found["seconds_per_sample"][model] = typical(drawn) / AT_ONCE
    shape = (AT_ONCE, settings["image_size"], settings["image_size"], 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found["seconds_per_image"] = typical(network.compute(images) for _ in range(MOST)) / AT_ONCE
    return found | {"network": asdict(network.identity)}


def typical(work: Iterable[Any]) -> float:
    """Seconds for a piece of this work: the median after the warm-up, in which a GPU chooses its algorithms."""
    times: list[float] = []
    began = time.perf_counter()
    for _ in work:
        now = time.perf_counter()
        times.append(now - began)
        if len(times) >= WARM_UP + MOST or (len(times) >= WARM_UP + LEAST and sum(times[WARM_UP:]) > ENOUGH):
            break
        if len(times) > 1 and sum(times) > 5 * ENOUGH:  # a piece takes so long that the warm-up is nothing beside it
            break
        began = time.perf_counter()
    return median(times[WARM_UP:] or times[-1:])
