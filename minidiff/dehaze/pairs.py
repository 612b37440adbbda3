"""The pairs that dehazing is trained on and measured on, as its run's config.json describes them.

Rests on data.hazy_sets. A pair is made when it is read, from a photograph, a depth and some haze; so an epoch is only a
number, and no pair is stored.
"""

import os
from pathlib import Path

import numpy as np

from minidiff.data.config import DataConfig, Haze
from minidiff.data.haze import HazyPair
from minidiff.data.hazy_sets import HazyPairs, hazy_pairs
from minidiff.data.image_data import ImageData
from minidiff.data.packed_pairs import PackedPairs
from minidiff.dehaze.config import DehazeRequest
from minidiff.errors import UserError
from minidiff.runtime.distributed import main_first

OTHER_HAZE = 1  # the seed of held-out pairs where all pictures are trained on


def open_pairs(request: DehazeRequest, size: int, haze: Haze) -> tuple[ImageData, DataConfig]:
    """Open the pairs of a request, and return what config.json says of them. Raises UserError."""
    if request.corruption != "identity":
        raise UserError("`corruption` does not go with hazy pairs, which have damage of their own. Leave it out.")
    described = DataConfig(
        name=request.dataset,
        data_dir=os.path.abspath(request.data_dir) if request.data_dir else None,
        image_size=size,
        on_bad=request.on_bad,
        flip=request.flip,
        max_pixels=request.max_pixels,
        channels=3,
    )
    data = pairs_of(described, haze)
    known = {"images": len(data), "fingerprint": data.fingerprint()}
    return data, DataConfig(**{**vars(described), **known})


def open_again(config: DataConfig, haze: Haze, folder: Path) -> ImageData:
    """Open the pairs that a run was trained on. Raises UserError if they are not the same now."""
    data = pairs_of(config, haze)
    if (len(data), data.fingerprint()) != (config.images, config.fingerprint):
        raise UserError(
            f"{folder} was trained on other pairs than {config.name} makes now, because its pictures have changed. "
            "Bring those back, or start a new run."
        )
    return data


def pairs_of(config: DataConfig, haze: Haze) -> ImageData:
    """Open pairs as images of ten channels, see `PackedPairs`. Under torchrun the main process reads first."""
    pairs = main_first(lambda: opened(config, haze)) or opened(config, haze)
    packed = PackedPairs(pairs)
    flip = True if config.flip is None else config.flip
    return ImageData(config.name, packed, np.zeros((len(packed), 0), np.uint8), [], flip, list(pairs.notes))


def opened(config: DataConfig, haze: Haze, split: str = "train", seed: int = 0) -> HazyPairs:
    """Open a split of a hazy set."""
    return hazy_pairs(
        config.name, config.image_size, seed, split=split, haze=haze, data_dir=config.data_dir, on_bad=config.on_bad,
        max_pixels=config.max_pixels,
    )  # fmt: skip


def held_out(config: DataConfig, haze: Haze, count: int) -> tuple[str, HazyPair]:
    """Make pairs that the training does not see: of the split `test`, or else with another haze.

    Returns "test" or "train", whichever the pictures are of, and the pairs.
    """
    try:
        return "test", opened(config, haze, "test")[:count]
    except UserError:
        return "train", opened(config, haze, seed=OTHER_HAZE)[:count]
