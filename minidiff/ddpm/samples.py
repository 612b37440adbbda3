"""The samples of a DDPM as an image source for metrics. They are drawn when the metric reads them.

Rests on drawing, and on metrics.sources, which says what a source is.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from minidiff.data.conditions import evenly_spread
from minidiff.data.datasets import DATASETS, ImageData
from minidiff.ddpm.chains import resolve
from minidiff.ddpm.drawing import draw
from minidiff.ddpm.request import Sampling
from minidiff.ddpm.run import Run
from minidiff.diffusion.chain import Step
from minidiff.errors import UserError
from minidiff.metrics.sources import ImageSource, drawn_source
from minidiff.training.data import load_together

PRIOR_SHOWN = ("start", "residual")  # uses in which a sample has seen what the prior makes of a training image


def of_run(
    name: str,
    run: Run,
    num: int,
    on_step: Callable[[Step], object] | None = None,
    data: ImageData | None = None,
    *,
    sampler: str = "ddim",
    steps: int | None = None,
    seed: int = 0,
) -> ImageSource:
    """Make a source of `num` samples of a run. They are drawn when they are read; sample k is always the same.

    A conditional run draws for the labels of its training images, without guidance, which would make the samples less
    varied. data: the training images, loaded if they are needed and not given. on_step: called after each network call.
    """
    labels = None
    if run.label_names:
        labels = evenly_spread((data or training_data(run)).labels, num)
    scale = None if labels is None else 1.0
    request = resolve(run, Sampling(sampler=sampler, steps=steps, seed=seed, labels=labels, guidance_scale=scale))
    calls = run.calls([0], sampler=sampler, steps=steps)

    def drawn(indices: Sequence[int], batch_size: int) -> Tensor:
        return draw(run, indices, replace(request, batch_size=batch_size, on_step=on_step))

    how = [f"sampled with {sampler}, {calls} steps, seed {seed}"]
    how += ["for the labels of its training images, without guidance"] * (labels is not None)
    how += [f"from training images that its prior has seen ({run.prior_use})"] * (run.prior_use in PRIOR_SHOWN)
    same = repr([str(run.folder.resolve()), num, replace(request, labels=None)])
    called = run.config.data.called if run.config.data.name in DATASETS else None  # of an imported run it is not known
    return drawn_source(name, num, run.shape, drawn, how, same, called)


def training_data(run: Run) -> ImageData:
    """Load the data set that a run was trained on. Raises UserError if it is not there, or the run does not name it."""
    known = run.config.data
    if known.name not in DATASETS:
        raise UserError(
            f"{run.folder} needs labels, and its training images are not known. Draw its samples into a file first."
        )
    return load_together(**vars(known.spec(run.folder)))
