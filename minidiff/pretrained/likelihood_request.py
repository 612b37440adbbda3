"""The options of `minidiff likelihood`, as a record.

Rests on records. Nothing here needs torch.
"""

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Literal

from minidiff.images.budget import MAX_PIXELS
from minidiff.records import LARGEST_INT, demand, demand_range, record

STEPS = 100


@record
class LikelihoodRequest:
    """How the likelihood of images is measured."""

    _: KW_ONLY
    num: int = 100  # how many of the images, drawn by the seed; all, if there are fewer
    # Levels between picture and noise, each with two calls and a gradient; None: STEPS, or as many as there are.
    steps: int | None = None
    probes: int = 1  # random directions by which the trace is estimated at each level
    seed: int = 0  # of the choice of images, of what is added to their bytes, and of the probes
    batch_size: int = 32  # images at a time
    weights: str = "ema"  # the averaged ones, or raw
    data_dir: str | Path | None = None  # of a dataset:NAME: where its files are
    on_bad: Literal["skip", "stop"] = "skip"  # what to do about a file of a folder that cannot be read
    max_pixels: int = MAX_PIXELS  # refuse a picture that declares more

    def __post_init__(self) -> None:
        demand_range(self, 2, LARGEST_INT, "num")
        demand(self.steps is None or self.steps >= 3, "steps", self.steps, "3 or more, or None")
        demand_range(self, 1, LARGEST_INT, "probes", "batch_size", "max_pixels")
        demand_range(self, 0, LARGEST_INT, "seed")
