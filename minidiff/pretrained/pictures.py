"""Kinds of drawing: images from a GAN or a prior, from reverse chains, and a grid of chains from the steps of a fit.

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
from minidiff.images.grid import captioned, columns_for, table
from minidiff.pretrained.order import NOTHING, Advance, Drawn, Order, Say, finished, take_turns
from minidiff.priors.run import PriorRun
from minidiff.runtime import distributed

STRIP = 8  # images that a strip of moments shows at most


@dataclass
class DirectPictures(Order):
    """The images of a GAN or a prior: one call of its network makes a batch."""

    run: GanRun | PriorRun
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

    def check(self) -> None:
        super().check()
        if self.progressive and self.strip.exists() and not self.force:
            raise UserError(f"{self.strip} exists. Give another `out`, or `force` to replace it.")

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
            if self.captions and sink.count > 1 and self.target.suffix.lower() in IMAGE_SUFFIXES:
                captions = take_turns(self.captions, len(sink.shown))
                write_image(self.target, captioned(sink.shown, captions, self.columns()))
        if self.progressive:
            written.append(self.draw_strip(self.progressive))
        return finished(sink, *written)

    def columns(self) -> int | None:
        """Choose columns so that each of up to eight conditions has its own; None: what suits the number of images."""
        conditions, num = len(self.captions), self.request.num
        own = conditions <= 8 and num > conditions and columns_for(num) % conditions > 0
        return conditions if own else None

    def draw_strip(self, columns: int) -> str:
        """Draw the moments of the first images; returns what was written, in words."""
        num = self.request.num
        seen = record_moments(self.run, range(min(num, STRIP)), columns, self.request)
        # A name beside the two rows of its image; or what each row shows.
        names = take_turns(self.captions, len(seen.t)) if self.captions else ["x_t", "x0"] * len(seen.t)
        headings = [[f"t = {t}" for t in timesteps] for timesteps in seen.t]
        picture = table(seen.strip(), headings, names, rows_each=2)
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
            wanted = take_turns(self.captions, len(self.steps)) if self.captions else [""] * len(self.steps)
            names = [f"step {step}\n{labels}".rstrip() for step, labels in zip(self.steps, wanted, strict=True)]
            headings = [["init", *(f"t = {t}" for t in timesteps), "image"] for timesteps in seen.t]
            write_image(self.target, table(seen.table(to_uint8(self.request.init)), headings, names))
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
