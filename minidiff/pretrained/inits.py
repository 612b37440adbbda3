"""The images that reverse chains start from (`init`), read from a file, a folder or the run of a DIP.

Rests on dip (its run folders) and images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from minidiff.ddpm.inits import shrunk
from minidiff.ddpm.run import Run
from minidiff.dip import run as dip_run
from minidiff.errors import UserError, listed
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.convert import Pixels, to_float
from minidiff.images.files import image_files, image_shape, read_image, read_images
from minidiff.runs import folder as checkpoint


class Inits(NamedTuple):
    """The images that chains start from."""

    images: Tensor  # float [M,C,H,W] in [-1,1], as the run takes them
    names: list[str]  # for messages
    sizes: list[tuple[int, int]]  # height and width of each, as its file has it


def read_inits(
    run: Run,
    init: str | Path,
    steps: Sequence[int] | None = None,
    num: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Inits:
    """Read the first `num` inits, each cut to its centre square and brought to the size of the run.

    For a run of any size they stay as they are. steps: saved steps of the DIP run at `init`. Raises UserError.
    """
    files = init_files(init, steps)[:num]
    names = [f"step {step}" for step in steps] if steps else [file.name for file in files]
    if run.any_size:
        return read_whole(files, names, run.shape[0], max_pixels)
    images = to_float(read_images(files, run.shape[1], run.shape[0], max_pixels))
    return Inits(images, names, [image_shape(file, max_pixels) for file in files])


def read_whole(files: Sequence[Path], names: list[str], channels: int, max_pixels: int) -> Inits:
    """Read inits at their own size, which must be the same. Raises UserError if it is not."""
    pictures: list[Pixels] = []
    for file in files:
        pictures.append(read_image(file, channels, max_pixels))
        if pictures[-1].shape != pictures[0].shape:
            sizes = " and ".join(f"{each.shape[1]}x{each.shape[0]}" for each in (pictures[0], pictures[-1]))
            raise UserError(
                f"the inits have different sizes ({files[0].name} and {file.name}: {sizes}), and this run draws every "
                "picture at its own size, of one size in a call. Give them one after another."
            )
    return Inits(to_float(np.stack(pictures)), names, [picture.shape[:2] for picture in pictures])


def say_sizes(sizes: Sequence[tuple[int, int]], side: int | None) -> str:
    """Say how many inits there are, and how they are brought to the run's size: "128x96, cut and shrunk to 32x32".

    side: of the run's images; None: of any size.
    """
    count = f"{len(sizes)} of " if len(sizes) > 1 else ""
    least, most = (f"{width}x{height}" for height, width in (min(sizes), max(sizes)))
    size = least if least == most else f"{least} to {most}"
    if side is None:
        return f"{count}{size}, drawn at {'this' if len(sizes) > 1 else 'its own'} size"
    changes = ["cut to the centre"] * any(height != width for height, width in sizes)
    changes += ["shrunk"] * any(min(size) > side for size in sizes)
    changes += ["enlarged"] * any(min(size) < side for size in sizes)
    to = f"to the model's {side}x{side}" if changes else "the model's own size"
    return f"{count}{size}, {listed([*changes])}{' ' * bool(changes)}{to}"


def doubts(run: Run, init: str | Path, inits: Inits) -> list[str]:
    """Warn of what is probably not meant: a picture that loses its detail, or an older answer of a fit."""
    largest = max(range(len(inits.sizes)), key=lambda number: min(inits.sizes[number]))
    name = str(init) if len(inits.names) == 1 else f"{inits.names[largest]} of {init}"
    found = [warning] if not run.any_size and (warning := shrunk(run, name, inits.sizes[largest])) else []
    if newer := dip_run.newer_answer(Path(init)):
        found.append(f"{newer} is newer than {init}, which is the answer of an earlier fit. Is {newer} meant?")
    return found


def init_files(init: str | Path, steps: Sequence[int] | None) -> list[Path]:
    """List the files that `init` names: an image, a folder's images, or the answers or saved steps of a DIP run."""
    folder = Path(init)
    if (folder / checkpoint.CONFIG).is_file():
        if dip_run.is_dip_run(folder):
            return [dip_run.saved_step(folder, step) for step in steps] if steps else dip_run.chosen_images(folder)
        kind = checkpoint.read_config(folder)["kind"]
        raise UserError(f"{init} is a {kind} run, and no image to start from. Give an image, a folder, or a dip run.")
    if steps:
        raise UserError(f"`init_steps` needs a dip run as `init`, and {init} is none. `minidiff dip fit` makes one.")
    return image_files(folder) if folder.is_dir() else [folder]
