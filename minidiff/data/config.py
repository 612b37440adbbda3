"""The options of a data set, and the description of the training data in a run's config.json.

Rests on records alone, so that help and `minidiff info` wait neither for numpy nor for torch.
"""

from dataclasses import KW_ONLY
from pathlib import Path
from typing import Literal

from minidiff.records import demand, record


@record
class DataSpec:
    """One split of a data set, and how to read it. See `load_data`."""

    name: str  # one of DATASETS
    data_dir: str | Path | None = None  # where its files are or will be put; None: the cache folder
    image_size: int | None = None  # pixels a side; None: the data set's own size
    split: str = "train"
    on_bad: Literal["skip", "stop"] = "skip"  # what to do about an image that cannot be read
    corruption: str = "identity"  # the damage done to every image: one of CORRUPTIONS
    severity: int = 3  # how much of it, 1 to 5


@record
class DataConfig:
    """The training images of a run, as its config.json describes them: what was asked for and what was found."""

    _: KW_ONLY
    name: str
    data_dir: str | None = None
    image_size: int
    on_bad: Literal["skip", "stop"] = "skip"
    corruption: str = "identity"
    severity: int = 3
    channels: int
    images: int | None = None  # how many there were; None: this run was imported, so it is unknown
    fingerprint: str | None = None  # tells these images from any others, see `ImageData.fingerprint`

    def __post_init__(self) -> None:
        demand(self.image_size >= 1, "image_size", self.image_size, "a number of pixels")
        demand(self.channels in (1, 3), "channels", self.channels, "1 (grey) or 3 (colour)")

    @property
    def spec(self) -> DataSpec:
        """The options with which `load_data` gives these images again."""
        return DataSpec(self.name, self.data_dir, self.image_size, "train", self.on_bad, self.corruption, self.severity)


@record
class Labels:
    """The labels of a data set."""

    names: tuple[str, ...]
    one_hot: bool  # whether every image has exactly one
    fingerprint: str  # tells the labels of these images from any others
