"""The options of a data set, and the description of the training data in a run's config.json.

Rests on records and images.budget, so that help and `minidiff info` wait neither for numpy nor for torch.
"""

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from minidiff.errors import UserError
from minidiff.images.budget import MAX_PIXELS
from minidiff.networks.configs import MOST_LABELS, MOST_PIXELS
from minidiff.records import LARGEST_INT, demand, demand_range, record

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.utils.data import Dataset

    from minidiff.data.image_data import ImageData

# A name of DATASETS, a folder, a .npy file, or images in one of the forms of `own_images`.
Images: TypeAlias = "str | Path | NDArray[Any] | Tensor | Dataset[Any] | Sequence[Any] | ImageData"
KEPT = "data"  # the folder in a run folder where a training keeps images that a script brought


def called(name: str, data_dir: str | Path | None) -> str:
    """Return a name by which data are the same or others: the data set's, with its place if it is your own."""
    return f"{name} {os.path.abspath(data_dir)}" if name in ("photos", "folder", "array") and data_dir else name


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
    flip: bool | None = None  # whether training may mirror the images; None: the data set decides
    max_pixels: int = MAX_PIXELS  # a picture that declares more counts as one that cannot be read

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_PIXELS, "image_size")
        demand_range(self, 1, LARGEST_INT, "max_pixels")


@record
class Haze:
    """The haze that is drawn for a picture: each number between two ends, each damage with the same chance.

    The defaults are RIDCP's (Wu et al. 2023); the depth gamma is HazeAug's. See `data/haze.py` for the equation.
    """

    beta: tuple[float, float] = (0.3, 1.5)  # how much haze there is in a unit of depth; the farthest point is 2 away
    airlight: tuple[float, float] = (0.25, 1.0)  # how bright the haze is: 0 is black, 1 is white
    colour: float = 0.025  # how far each of its channels may lie from that
    gamma: tuple[float, float] = (0.2, 1.8)  # the power of the depth, for GAMMA_CHANCE of the pictures
    damage: float = 0.5  # chance of each: darkening, noise and JPEG; 0: nothing but haze
    clear: float = 0.0  # chance that there is no haze at all, so that a network learns to leave a picture alone

    def __post_init__(self) -> None:
        for name in ("beta", "airlight", "gamma"):
            low, high = getattr(self, name)
            most = 1 if name == "airlight" else 10
            demand(0 <= low <= high <= most, name, [low, high], f"two numbers from 0 to {most}, the smaller first")
        demand_range(self, 0, 1, "colour", "damage", "clear")


TAUGHT = Haze(clear=0.15)  # what dehazing is trained on: who never sees clear air finds haze everywhere
DENSE = Haze(beta=(0.8, 2.8), airlight=(0.5, 1.0))  # HazeAug's, whose airlight goes beyond white and is cut there


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
    flip: bool | None = None  # what was asked for; None: the data set decided
    max_pixels: int = MAX_PIXELS
    channels: int
    images: int | None = None  # how many there were; None: this run was imported, so it is unknown
    fingerprint: str | None = None  # tells these images from any others, see `ImageData.fingerprint`

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_PIXELS, "image_size")
        demand_range(self, 1, LARGEST_INT, "max_pixels")
        demand_range(self, 1, 5, "severity")
        demand_range(self, 0, LARGEST_INT, "images")
        demand(self.channels in (1, 3), "channels", self.channels, "1 (grey) or 3 (colour)")

    @property
    def called(self) -> str:
        """See `called`."""
        return called(self.name, self.data_dir)

    @property
    def brought(self) -> bool:
        """Whether a script brought the images, so that the run folder keeps them."""
        return self.name == "array" and self.data_dir is None

    def spec(self, folder: str | Path | None = None) -> DataSpec:
        """Return the options with which `load_data` gives these images again. folder: of the run."""
        kept = Path(folder, KEPT) if self.brought and folder is not None else self.data_dir
        corruption, severity = self.corruption, self.severity
        return DataSpec(
            self.name, kept, self.image_size, "train", self.on_bad, corruption, severity, self.flip, self.max_pixels
        )


@record
class Labels:
    """The labels of a data set."""

    names: tuple[str, ...]
    one_hot: bool  # whether every image has exactly one
    fingerprint: str  # tells the labels of these images from any others

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MOST_LABELS or len({*self.names}) < len(self.names):
            raise UserError(f"`names` has {len(self.names)} labels, some of them twice. Give each label once.")
