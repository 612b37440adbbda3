"""The samples of a GAN as an image source for metrics. They are drawn when the metric reads them."""

from functools import partial

from minidiff.gan.run import GanRun
from minidiff.metrics.sources import ImageSource, drawn_source


def of_gan(name: str, run: GanRun, num: int, *, seed: int = 0) -> ImageSource:
    """Make a source of `num` samples of a GAN. They are drawn when they are read; sample k is always the same."""
    how = [f"sampled from the {run.config.kind} generator, seed {seed}"]
    same = repr([str(run.folder.resolve()), num, seed])
    return drawn_source(name, num, run.shape, partial(run.draw, seed=seed), how, same, run.config.data.called)
