"""`minidiff sample --compare`: the same noise through several samplers, with their times; and chains in words."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minidiff.cli.types import say
from minidiff.ddpm import run as pipeline
from minidiff.ddpm.chains import chains_of
from minidiff.ddpm.request import Sampling
from minidiff.diffusion.levels import OWNERS
from minidiff.errors import UserError
from minidiff.images.convert import to_uint8
from minidiff.images.files import IMAGE_SUFFIXES, write_image
from minidiff.images.grid import captioned, grid, label_rows
from minidiff.images.sink import ImageSink
from minidiff.runtime import distributed


def side_by_side(
    model: pipeline.Run, choices: list[tuple[str, int | None]], num: int, options: dict[str, Any],
    captions: Sequence[str], target: Path, force: bool,
) -> None:  # fmt: skip
    """The same noise through several samplers into one picture: a row for each, with its calls and seconds an image.

    captions: of the conditions, if there are any; the images have them below.
    """
    if target.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"--compare draws one picture, and {target} is none. Give --out a .png.")
    for option, owner in OWNERS.items():
        if option in options and owner not in [name for name, _ in choices]:
            raise UserError(f"`{option}` belongs to the sampler {owner}, and it is not compared. Leave it out.")
    chains = []
    for name, steps in choices:
        given = {key: value for key, value in options.items() if OWNERS.get(key, name) == name}
        chains.append(model.options(**given | {"sampler": name, "steps": steps}))
    shares = list(distributed.shares(num, options["batch_size"]))
    calls = [model.calls(mine, **chain) for chain in chains for mine in shares]  # raises before the long work
    sink = distributed.main_first(lambda: ImageSink(target, overwrite=force))  # refuses what cannot be written
    model.draw([0], **chains[0] | {"steps": 1})  # the first call of a network is slower than the others
    rows, labels = [], []
    bar = tqdm(total=sum(calls), unit="call", disable=sink is None, dynamic_ncols=True)
    with bar, sink or nullcontext():
        for (name, _), chain in zip(choices, chains, strict=True):
            begin = time.perf_counter()
            rows += [to_uint8(images) for images in model.sample(num, on_step=lambda _: bar.update(), **chain)]
            each = (time.perf_counter() - begin) / num
            told = journey(model, num, chain)
            labels.append(f"{name}\n{told.partition(',')[0]}\n{each:.2g} s each")
            bar.clear()
            say(f"{name:9} {each:.3g} s an image, {told}")
    if sink is not None:
        images = np.concatenate(rows)
        below = in_turn(captions, num) * len(choices) if captions else []
        picture = captioned(images, below, num) if captions else grid(images, columns=num)
        write_image(target, label_rows(picture, labels))
        say(f"written   {target}: a row for each sampler, a column for each image")


def in_turn(captions: Sequence[str], count: int) -> list[str]:
    """The captions of images 0 .. count-1, for which the conditions take turns."""
    return [captions[k % len(captions)] for k in range(count)]


def journey(model: pipeline.Run, num: int, options: dict[str, Any]) -> str:
    """How the chains go, in words."""
    timesteps = {chain.start_t: chain.timesteps for chain in chains_of(model, range(num), Sampling(**options))}
    if len(timesteps) > 1:
        return f"from {len(timesteps)} different t, one chain after another"
    (only,) = timesteps.values()
    return f"{len(only)} call{'s' * (len(only) != 1)}, t = {shortened(only)}"


def shortened(timesteps: list[int]) -> str:
    """999, 979, 959, ..., 19: enough of the list to see the start, the stride and the end."""
    words = [str(t) for t in timesteps]
    return ", ".join(words if len(words) <= 5 else [*words[:3], "...", words[-1]])
