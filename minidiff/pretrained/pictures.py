"""Kinds of drawing: images from a GAN, images from reverse chains, and a grid of chains from the steps of a fit.

Rests on order, ddpm.drawing and ddpm.moments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minidiff.ddpm.drawing import count_calls, sample
from minidiff.ddpm.moments import record_moments
from minidiff.ddpm.request import SampleRequest
from minidiff.ddpm.run import Run
from minidiff.errors import UserError
from minidiff.gan.run import GanRun
from minidiff.images.convert import to_uint8
from minidiff.images.files import IMAGE_SUFFIXES, write_image
from minidiff.images.grid import captioned, grid, label_rows
from minidiff.images.sink import ImageSink
from minidiff.pretrained.order import NOTHING, Advance, Drawn, Order, Say, finished, take_turns
from minidiff.runtime import distributed

STRIP = 8  # images that a strip of moments shows at most


@dataclass
class GanPictures(Order):
    """The images of a GAN: one call of its generator makes a batch."""

    run: GanRun
    num: int
    seed: int
    batch_size: int

    unit = "image"

    @property
    def total(self) -> int:
        return self.num

    def draw(self, advance: Advance, say: Say) -> Drawn:
        sink = distributed.main_first(self.open_sink)
        batches = self.run.sample(self.num, seed=self.seed, batch_size=self.batch_size)
        if sink is None:
            for _ in batches:  # the main process gets the share of this one, and writes it
                pass
            return NOTHING
        with sink:
            for images in batches:
                sink.write(to_uint8(images))
                advance(len(images))
            written = sink.finish()
        return finished(sink, written)


@dataclass
class ChainPictures(Order):
    """The images of reverse chains; with `progressive` also a strip that shows how the first ones developed."""

    run: Run
    request: SampleRequest  # resolved
    captions: Sequence[str]  # of the conditions, which take turns
    progressive: int | None = None

    @property
    def total(self) -> int:
        shares = distributed.shares(self.request.num, self.request.batch_size)
        return sum(count_calls(self.run, mine, self.request) for mine in shares)

    @property
    def strip(self) -> Path:
        """The file of the strip, beside the target."""
        return self.target.with_name(f"{self.target.stem}-progressive.png")

    def open_sink(self) -> ImageSink:
        if self.progressive and self.strip.exists() and not self.force:
            raise UserError(f"{self.strip} exists. Give another `out`, or `force` to replace it.")
        return super().open_sink()

    def draw(self, advance: Advance, say: Say) -> Drawn:
        sink = distributed.main_first(self.open_sink)
        if sink is None:
            for _ in sample(self.run, self.request):  # the main process gets the share of this one, and writes it
                pass
            return NOTHING
        with sink:
            for images in sample(self.run, replace(self.request, on_step=lambda _: advance(1))):
                sink.write(to_uint8(images))
            written = [sink.finish()]
            if self.captions and self.target.suffix.lower() in IMAGE_SUFFIXES:
                columns = min(len(self.captions), 8) if len(self.captions) > 1 else None
                captions = take_turns(self.captions, len(sink.shown))
                write_image(self.target, captioned(sink.shown, captions, columns))
        if self.progressive:
            written.append(self.draw_strip(self.progressive))
        return finished(sink, *written)

    def draw_strip(self, columns: int) -> str:
        """Draw the moments of the first images; returns what was written, in words."""
        num = self.request.num
        seen = record_moments(self.run, range(min(num, STRIP)), columns, self.request)
        picture = grid(seen.strip(), columns=len(seen.t[0]))
        if self.captions:  # a name beside the two rows of its image
            picture = label_rows(picture, take_turns(self.captions, len(seen.t)))
        write_image(self.strip, picture)
        cut = f", of the first {len(seen.t)} of {num} images" * (len(seen.t) < num)
        return f"{self.strip}: two rows an image, x_t and the predicted x0{cut}"


@dataclass
class InitRows(Order):
    """A picture with a row for each saved step of a DIP run: the init, x_t at some moments, the image."""

    run: Run
    request: SampleRequest  # resolved
    captions: Sequence[str]
    steps: Sequence[int]
    columns: int

    @property
    def total(self) -> int:
        return count_calls(self.run, range(len(self.steps)), self.request)

    def draw(self, advance: Advance, say: Say) -> Drawn:
        sink = distributed.main_first(self.open_sink)
        if sink is None:
            return NOTHING  # the main process draws them all
        assert self.request.init is not None
        with sink:
            request = replace(self.request, on_step=lambda _: advance(1))
            seen = record_moments(self.run, range(len(self.steps)), self.columns, request)
            sink.write(seen.image)
            picture = grid(seen.table(to_uint8(self.request.init)), columns=len(seen.t[0]) + 2)
            if self.captions:
                picture = label_rows(picture, take_turns(self.captions, len(self.steps)))
            write_image(self.target, picture)
        return finished(sink, f"{self.target}: {legend(self.steps, seen.t)}")


def legend(steps: Sequence[int], timesteps: list[list[int]]) -> str:
    """Describe the rows and columns of the grid."""
    if all(t == timesteps[0] for t in timesteps):
        return (
            f"a row for each of the steps {', '.join(map(str, steps))}\n"
            f"columns   the init, x_t at t = {', '.join(map(str, timesteps[0]))}, the image"
        )
    rows = [f"row       step {step}, t = {', '.join(map(str, t))}" for step, t in zip(steps, timesteps, strict=True)]
    return "\n".join(["a row for each step; columns: the init, x_t at the t below, the image", *rows])
