"""The samples of a GAN as an image source for metrics. They are drawn when the metric reads them."""

from collections.abc import Iterator

from minidiff.gan.run import GanRun
from minidiff.images.convert import to_uint8
from minidiff.metrics.sources import Batch, ImageSource
from minidiff.runtime import distributed


def of_gan(name: str, run: GanRun, num: int, *, seed: int = 0) -> ImageSource:
    """Make a source of `num` samples of a GAN. They are drawn when they are read; sample k is always the same."""

    def batches(batch_size: int) -> Iterator[Batch]:
        for mine in distributed.shares(num, batch_size):
            yield to_uint8(run.draw(mine, seed=seed, batch_size=batch_size))

    channels, height, width = run.shape
    changes = [f"sampled from the {run.config.kind} generator, seed {seed}"]
    changes += ["grey repeated to RGB"] * (channels == 1)
    return ImageSource(name, num, f"{height}x{width}", batches, changes, sampled=True,
                  same=repr([str(run.folder.resolve()), num, seed]), data=run.config.data.called)  # fmt: skip
