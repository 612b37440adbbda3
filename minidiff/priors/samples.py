"""The outputs of a prior as an image source for metrics. They are made when the metric reads them."""

from functools import partial

from minidiff.metrics.sources import ImageSource, drawn_source
from minidiff.priors.run import PriorRun


def of_prior(name: str, run: PriorRun, num: int, *, seed: int = 0) -> ImageSource:
    """Make a source of what a prior makes of `num` noisy training images; sample k is always the same."""
    how = [f"training images with noise of {run.config.noise:g}, through {run.config.net}, seed {seed}"]
    same = repr([str(run.folder.resolve()), num, seed])
    return drawn_source(name, num, run.shape, partial(run.draw, seed=seed), how, same, run.config.data.called)
