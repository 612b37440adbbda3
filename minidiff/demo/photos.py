"""A photograph of your own without its noise, or without its haze: the tabs Restore and Dehaze.

Rests on restoration.finish and dehaze.pictures, as the commands do, and says what they say.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minidiff.dehaze import pictures
from minidiff.dehaze.config import STEPS as DEHAZE_STEPS
from minidiff.dehaze.config import ClearRequest
from minidiff.demo.jobs import Stop, View, never, stepwise
from minidiff.errors import UserError
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.files import crop_resize, image_shape, read_image, read_shrunk, write_image
from minidiff.restoration import finish
from minidiff.restoration.config import MODEL, STRIPS, FinishRequest
from minidiff.runs.folder import SHEETS
from minidiff.runs.picture_run import PictureJob

Device = torch.device | str
AUTO = "auto"  # for noise: measure it


class Taken(NamedTuple):
    """A picture as it is worked on."""

    file: Path
    lines: tuple[str, ...]  # what was changed, in words


def take_in(picture: Path, folder: Path, max_pixels: int) -> Taken:
    """Take a picture as it is; shrink one of more than `max_pixels` into a file in `folder`, and say so.

    Raises UserError for what is no picture, or declares more than MAX_PIXELS.
    """
    height, width = image_shape(picture, MAX_PIXELS)
    if height * width <= max_pixels:
        return Taken(picture, ())
    small = read_shrunk(picture, max(1, int(min(height, width) * (max_pixels / (height * width)) ** 0.5)))
    file = folder / f"{picture.stem}.png"
    write_image(file, small)
    changed = f"from {width}x{height} to {small.shape[1]}x{small.shape[0]}"
    return Taken(file, (f"shrunk    {changed}: the limit here is {max_pixels:,} pixels",))


@contextmanager
def by_name(*folders: Path) -> Iterator[None]:
    """Let a UserError name the files of these folders without the folder, which the visitor of a page never saw."""
    try:
        yield
    except UserError as error:
        message = str(error)
        for folder in folders:
            message = message.replace(f"{folder}{os.sep}", "")
        raise UserError(message) from None


def restore(
    picture: Path, folder: Path, *, model: str = MODEL, noise: float | str = AUTO, calls: int = 1, seed: int = 0,
    max_pixels: int = MAX_PIXELS, device: Device = "cpu", stop: Stop = never,
) -> Iterator[View]:  # fmt: skip
    """Take the noise off a picture: what `minidiff restore` does. The answer is a file in `folder`.

    noise: its deviation, of 255; auto: measure it. calls: 1 is nearest to the truth, more give texture. Raises
    UserError, or Stopped.
    """
    with by_name(picture.parent, folder):
        taken = take_in(picture, folder, max_pixels)
        request, out = FinishRequest(noise=noise, calls=calls, seed=seed), folder / f"{picture.stem}-restored.png"  # type: ignore[arg-type]
        job = finish.begin(taken.file, model, request, out, folder / "run", device=device)
        told = (*taken.lines, f"model     {model}, trained on {job.model.knows}")
        yield from worked(job, job.model.model, request.calls_of_network, told, stop, STRIPS)


def dehaze(
    picture: Path, folder: Path, *, model: str | None = None, strength: float = 1.0, steps: int = DEHAZE_STEPS,
    seed: int = 0, max_pixels: int = MAX_PIXELS, device: Device = "cpu", stop: Stop = never,
) -> Iterator[View]:  # fmt: skip
    """Take the haze off a picture: what `minidiff dehaze` does. The answer is a file in `folder`.

    strength: how much of the haze goes, 0 to 1. steps: calls of the network of stage 2; 0: stage 1 alone, which is
    quick. Raises UserError, or Stopped.
    """
    with by_name(picture.parent, folder):
        taken = take_in(picture, folder, max_pixels)
        request, out = ClearRequest(strength=strength, steps=steps, seed=seed), folder / f"{picture.stem}-clear.png"
        job = pictures.begin([taken.file], model, request, out, folder / "run", device=device)
        told = (*taken.lines, f"model     {job.config.model}")
        yield from worked(job, job.model.model, max(1, steps), told, stop, SHEETS)


def worked(
    job: PictureJob[Any], model: torch.nn.Module, total: int, told: tuple[str, ...], stop: Stop, look: str
) -> Iterator[View]:
    """Let a job work on its picture, and show what became of it.

    told: the lines so far. look: the folder of the run whose picture shows the way, if there is one.
    """
    done = yield from stepwise(lambda on_step: job.work(on_step), total, model, stop)
    (name, result), (answer,), file = next(iter(done.results.items())), done.answers.values(), job.places.files[0]
    after, before = read_image(answer), read_image(file)
    if before.shape != after.shape:  # the model draws squares of one size alone
        before = crop_resize(before, len(after))
    shown = done.folder / look / job.places.png_of(file)
    yield View(
        total, total, (*told, f"{name}: {result.in_words()}"), (*job.warnings, *result.notes, *result.faults),
        after, before, read_image(shown) if shown.exists() else None, answer,
    )  # fmt: skip
