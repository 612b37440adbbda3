"""A look at a data set: some images in one picture with their labels, or one image under every corruption.

Rests on image_data and corrupted, and on the grids of images.
"""

from typing import NamedTuple

import numpy as np

from minidiff.data.corrupted import all_of, seed_of
from minidiff.data.image_data import ImageData
from minidiff.images.convert import Pixels
from minidiff.images.grid import columns_for, grid, label_rows


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
