"""Samplers beside each other: the same noise through each of them, into one picture, with their times.

Rests on order and ddpm.drawing. What is timed is all of the drawing, the network and the rest.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from minidiff.ddpm.drawing import count_calls, draw, sample
from minidiff.ddpm.request import SampleRequest
from minidiff.ddpm.run import Run
from minidiff.diffusion.levels import OWNERS
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.errors import UserError, lookup
from minidiff.images.convert import to_uint8
from minidiff.images.files import IMAGE_SUFFIXES, write_image
from minidiff.images.grid import captioned, grid, label_rows
from minidiff.pretrained.order import NOTHING, Advance, Drawn, Order, Say, journey, take_turns
from minidiff.pretrained.request import DrawRequest
from minidiff.runtime import distributed


@dataclass
class SideBySide(Order):
    """A row for each sampler, with its calls and seconds an image, and a column for each image."""

    run: Run
    requests: Sequence[SampleRequest]  # resolved, one for each sampler
    captions: Sequence[str]  # of the conditions; the images have them below

    def __post_init__(self) -> None:
        if self.target.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"`compare` draws one picture, and {self.target} is none. Give `out` a .png.")
        self.counts = [
            count_calls(self.run, mine, request)
            for request in self.requests
            for mine in distributed.shares(request.num, request.batch_size)
        ]  # raises before the long work

    @property
    def total(self) -> int:
        return sum(self.counts)

    def draw(self, advance: Advance, say: Say) -> Drawn:
        sink = distributed.main_first(self.open_sink)
        draw(self.run, [0], replace(self.requests[0], steps=1))  # the first call of a network is slower than the others
        num, rows, labels = self.requests[0].num, [], []
        with sink or nullcontext():
            for request in self.requests:
                begin = time.perf_counter()
                images = sample(self.run, replace(request, on_step=lambda _: advance(1)))
                rows += [to_uint8(batch) for batch in images]
                each = (time.perf_counter() - begin) / num
                told = journey(self.run, request)
                labels.append(f"{request.sampler}\n{told.partition(',')[0]}\n{each:.2g} s each")
                say(f"{request.sampler:9} {each:.3g} s an image, {told}")
            if sink is None:
                return NOTHING
            pixels = np.concatenate(rows)
            below = take_turns(self.captions, num) * len(self.requests) if self.captions else []
            picture = captioned(pixels, below, num) if self.captions else grid(pixels, columns=num)
            write_image(self.target, label_rows(picture, labels))
            return Drawn([f"{self.target}: a row for each sampler, a column for each image"], pixels, [])


def check_owners(request: DrawRequest, samplers: Sequence[str]) -> None:
    """Raise UserError for an option of a sampler that is not compared."""
    for option, owner in OWNERS.items():
        known = any(option in lookup("sampler", name, SAMPLERS).plan.options for name in samplers)
        if getattr(request, option) is not None and not known:
            raise UserError(f"`{option}` belongs to the sampler {owner}, and it is not compared. Leave it out.")
