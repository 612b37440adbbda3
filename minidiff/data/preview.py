"""A look at a data set: some images in one picture with their labels, or one image under every corruption.

Rests on image_data, corrupted and haze, and on the grids of images.
"""

from typing import NamedTuple

import numpy as np

from minidiff.data.corrupted import all_of, seed_of
from minidiff.data.hazy_sets import HazyPairs
from minidiff.data.image_data import ImageData
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.grid import columns_for, grid, label_rows, name_columns


class Preview(NamedTuple):
    """A picture, uint8 [H,W,3], and which images it shows."""

    picture: Pixels
    shown: list[int]  # their numbers in the data set
    labels: list[str]  # a line for each row of the picture; empty for a set without labels


def preview(data: ImageData, num: int = 64, seed: int = 0) -> Preview:
    """Lay out `num` random images of a data set, with their labels. seed: decides which."""
    chosen = np.random.default_rng(seed).permutation(len(data))[:num]
    columns = columns_for(len(chosen))
    words = [" + ".join(data.names_of(index)) or "-" for index in chosen]
    rows = [" | ".join(words[start : start + columns]) for start in range(0, len(words), columns)]
    return Preview(grid(data.rgb(chosen)), chosen.tolist(), rows if data.label_names else [])


def preview_corruptions(data: ImageData, split: str = "train", seed: int = 0) -> Preview:
    """Show one random image of a clean data set under every corruption: a row each, clean, then severity 1 to 5."""
    index = int(np.random.default_rng(seed).permutation(len(data))[0])
    images, names = all_of(np.asarray(data.images[index]), index, seed_of(split))
    return Preview(label_rows(grid(images, columns=len(images) // len(names)), names), [index], [])


def preview_pairs(pairs: HazyPairs, num: int = 16, seed: int = 0) -> Preview:
    """Lay out random hazy pictures, each beside the clear one and, where it is known, the transmission.

    The transmission is black where all light is lost, and white where all of it arrives.
    """
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:num]
    shown = pairs[chosen]
    parts = {"hazy": to_uint8(shown.hazy), "clear": to_uint8(shown.clear)}
    if shown.transmission is not None:
        parts["transmission"] = to_uint8(2 * shown.transmission - 1)
    beside = max(1, min(len(chosen), round(np.sqrt(len(chosen) / len(parts)))))  # pairs in a row
    images = np.stack(list(parts.values()), axis=1).reshape(-1, *shown.hazy.shape[2:], 3)
    laid = grid(images, columns=beside * len(parts))
    return Preview(name_columns(laid, [*parts] * beside), chosen.tolist(), [])
