"""The outputs of a prior as an image source for metrics. They are made when the metric reads them."""

from collections.abc import Iterator

from minidiff.images.convert import to_uint8
from minidiff.metrics.sources import Batch, ImageSource
from minidiff.priors.run import PriorRun
from minidiff.runtime import distributed


def of_prior(name: str, run: PriorRun, num: int, *, seed: int = 0) -> ImageSource:
    """Make a source of what a prior makes of `num` noisy training images; sample k is always the same."""

    def batches(batch_size: int) -> Iterator[Batch]:
        for mine in distributed.shares(num, batch_size):
            yield to_uint8(run.draw(mine, seed=seed, batch_size=batch_size))

    channels, height, width = run.shape
    changes = [f"training images with noise of {run.config.noise:g}, through {run.config.net}, seed {seed}"]
    changes += ["grey repeated to RGB"] * (channels == 1)
    return ImageSource(name, num, f"{height}x{width}", batches, changes, sampled=True,
                  same=repr([str(run.folder.resolve()), num, seed]), data=run.config.data.called)  # fmt: skip
