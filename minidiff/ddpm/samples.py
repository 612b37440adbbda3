"""The samples of a DDPM as a source for metrics: drawn as they are asked for."""

from collections.abc import Callable, Iterator
from typing import Any

from minidiff.data.conditions import spread
from minidiff.data.datasets import DATASETS, ImageData
from minidiff.ddpm import run as pipeline
from minidiff.errors import UserError
from minidiff.images.convert import to_uint8
from minidiff.metrics.sources import Batch, ImageSource
from minidiff.runtime import distributed
from minidiff.training.data import load_together


def of_run(
    name: str,
    run: pipeline.Run,
    num: int,
    on_step: Callable[[Any], None] | None = None,
    data: ImageData | None = None,
    **sampling: Any,
) -> ImageSource:
    """`num` samples of a run, drawn as they are asked for: sample k of a seed is always the same.

    Those of a conditional run are drawn for the labels of its training images, without guidance, which would make them
    less varied. data: that set; loaded if it is needed and not given.
    """
    given: dict[str, Any] = {}
    if run.label_names:
        data = data or training_data(run)
        given = {"labels": spread(data.labels, num), "guidance_scale": 1.0}
    options = run.options(**sampling, **given)
    calls = len(run.timesteps(**options))

    def batches(batch_size: int) -> Iterator[Batch]:
        for mine in distributed.shares(num, batch_size):
            yield to_uint8(run.draw(mine, batch_size=batch_size, on_step=on_step, **options))

    channels, height, width = run.shape
    changes = [f"sampled with {options['sampler']}, {calls} steps, seed {options.get('seed', 0)}"]
    changes += ["for the labels of its training images, without guidance"] * bool(given)
    changes += ["grey repeated to RGB"] * (channels == 1)
    settings = sorted((key, value) for key, value in options.items() if key != "labels")
    return ImageSource(name, num, f"{height}x{width}", batches, changes, sampled=True,
                  same=repr([str(run.folder.resolve()), num, settings]))  # fmt: skip


def training_data(run: pipeline.Run) -> ImageData:
    """The data set a run was trained on. Raises UserError where it is not there, or the run does not say."""
    known = run.config.data
    if known.name not in DATASETS:
        raise UserError(f"{run.folder} takes labels, and its training images are not known. Sample it to a file first.")
    return load_together(**vars(known.spec))
