"""Draw from noise, and start a chain anywhere: the tabs Draw and Start anywhere.

Rests on pretrained.sampling, which opens everything and says what will be drawn, and on ddpm.drawing and ddpm.moments,
which go down the chain and keep moments of it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from minidiff.ddpm.chains import single
from minidiff.ddpm.drawing import begin, walk
from minidiff.ddpm.moments import Film, Moments
from minidiff.ddpm.request import FROM_INIT, FROM_NOISE
from minidiff.demo.jobs import Stop, View, never, stoppable
from minidiff.demo.models import about, default_calls, nearest_step
from minidiff.demo.photos import by_name, take_in
from minidiff.diffusion.chain import Step
from minidiff.errors import UserError
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.faults import problems
from minidiff.images.grid import captioned, grid, table
from minidiff.pretrained.order import Order, take_turns
from minidiff.pretrained.pictures import ChainPictures, DirectPictures, InitRows
from minidiff.pretrained.request import DrawRequest
from minidiff.pretrained.sampling import plan

SHOWN = 3  # images whose chain is shown
COLUMNS = 8  # moments of a chain, at most
MOST = 64  # images at a time

Device = torch.device | str


def draw(
    model: str, *, labels: str = "", guidance: float | None = None, sampler: str = FROM_NOISE,
    calls: int | None = None, seed: int = 0, num: int = 16, device: Device = "cpu", stop: Stop = never,
) -> Iterator[View]:  # fmt: skip
    """Draw images from noise: after each call of the network a grid of the images it predicts, in the end the images.

    labels: a condition in each line, such as "blue cube, red sphere"; they take turns. guidance: see `guided`; None, as
    for calls: what suits the run. A GAN has no chain: sampler and calls are not for it. Raises UserError, or Stopped.
    """
    if not 1 <= num <= MOST:
        raise UserError(f"`num` is {num}. Draw 1 to {MOST} images at a time.")
    request = DrawRequest(model, num=num, seed=seed, device=device, batch_size=MOST)
    known = about(model)
    if known.chain:
        request = replace(request, sampler=sampler, steps=calls, **asked(labels, guidance))
    elif labels.strip():
        raise UserError(f"{model} was trained without labels. Leave them out, or take a conditional model.")
    yield from follow(planned(request), stop)


def start(
    model: str, source: Path, folder: Path, *, start_t: int, step: float = 0, calls: int | None = None,
    labels: str = "", guidance: float | None = None, seed: int = 0, max_pixels: int = MAX_PIXELS,
    device: Device = "cpu", stop: Stop = never,
) -> Iterator[View]:  # fmt: skip
    """Start the reverse chain at the timestep start_t, from a picture or from a kept step of a deep image prior.

    What it starts from gets the noise of start_t, and the chain takes it away again: the higher it starts, the more is
    drawn anew. source: a picture, or the run folder of `minidiff dip fit`; of its kept steps the one nearest to `step`
    is taken. folder: for a copy of a picture that is too large. calls: None for as many as `default_calls` says. Raises
    UserError, or Stopped.
    """
    calls = default_calls(FROM_INIT, about(model).most_t, start_t) if calls is None else calls
    request = DrawRequest(model, num=1, start_t=start_t, steps=calls, sampler=FROM_INIT, seed=seed, device=device,
                          init=source, **asked(labels, guidance))  # fmt: skip
    with by_name(folder if source.is_dir() else source.parent, folder):
        if source.is_dir():
            kept = nearest_step(source, step)
            changes: tuple[str, ...] = (f"step      {kept} of the prior",)
            order = planned(replace(request, init_steps=[kept]))
        else:
            file, changes = take_in(source, folder, max_pixels)
            order = planned(replace(request, init=file))
            order.lines = [line.replace(str(file), source.name) for line in order.lines]
            order.warnings = [line.replace(str(file), source.name) for line in order.warnings]
        yield from follow(order, stop, changes)


def asked(labels: str, guidance: float | None) -> dict[str, Any]:
    """Return the options of a condition. Without labels there is nothing to guide."""
    conditions = tuple(line.strip() for line in labels.splitlines() if line.strip())
    return {"labels": conditions, "guidance_scale": guidance if conditions else None}


def planned(request: DrawRequest) -> Order:
    """Open the model and what its chain starts from. Nothing will be written. Raises UserError."""
    with TemporaryDirectory() as folder:
        return plan(replace(request, out=Path(folder, "drawn.png")))


def follow(order: Order, stop: Stop, lines: tuple[str, ...] = ()) -> Iterator[View]:
    """Draw what was planned, and show it on the way. lines: to be said before those of the plan."""
    lines = (*lines, *order.lines)
    if isinstance(order, DirectPictures):
        images = to_uint8(torch.cat(list(order.run.sample(order.num, seed=order.seed))))
        yield View(1, 1, lines, (*order.warnings, *problems(images)), grid(images))
        return
    assert isinstance(order, ChainPictures | InitRows)
    run, request = order.run, order.request
    captions = take_turns(order.captions, request.num) if order.captions else []
    chain = single(run, range(request.num), request)
    film, total = Film(COLUMNS), len(chain.timesteps)
    film.start(run.schedule, chain.timesteps, begin(run, chain)[0][:SHOWN])
    with stoppable(run.model, stop):
        for done, step in enumerate(walk(run, chain), 1):
            film.see(Step(step.t, step.x[:SHOWN], step.x0[:SHOWN]))
            if done < total:
                yield View(done, total, lines, tuple(order.warnings), laid_out(to_uint8(step.x0), captions))
    images = to_uint8(step.x)
    before = None if request.init is None else to_uint8(request.init)[0]
    picture = laid_out(images, captions) if before is None else images[0]
    wrong = problems(images)
    yield View(total, total, lines, (*order.warnings, *wrong), picture, before, strip_of(film, images, captions))


def laid_out(images: Pixels, captions: list[str]) -> Pixels:
    """Lay out images as a grid, each above its condition if there is one."""
    return captioned(images, captions) if captions else grid(images)


def strip_of(film: Film, images: Pixels, captions: list[str]) -> Pixels:
    """Show moments of the first chains from left to right: x_t above the image that was predicted from it."""
    count = min(SHOWN, len(images))
    seen = Moments([film.t] * count, np.stack(film.x, axis=1), np.stack(film.x0, axis=1), images[:count])
    names = captions[:count] or ["x_t", "x0"] * count
    return table(seen.strip(), [[f"t = {t}" for t in film.t]] * count, names, rows_each=2)
