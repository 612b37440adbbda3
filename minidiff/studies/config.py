"""The settings of a study: what a user can ask for, and what study.json holds. Needs no torch.

A `StudyRequest` says what the user wants. `Settings` is the same with every choice made. A `Study` adds what was timed
on this machine, the steps of each model, and the cells; it is stored as study.json. Rests on records.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from minidiff.errors import UserError, shown
from minidiff.metrics.config import FeatureIdentity
from minidiff.records import LARGEST_INT, demand_range, record
from minidiff.training.config import MOST_STEPS

SEVERITY, IMAGE_SIZE, SEED, FEATURES, CORRUPTIONS = 3, 32, 0, "inception", ("identity",)  # of a new study
MOST_SEEDS = 100
NUM, NUM_CPU = 10_000, 2000  # samples of a cell; a CPU takes minutes for each thousand samples of a DDPM

Steps = int | dict[str, int]  # of every model, or of each
DataDir = str | dict[str, str]  # of every data set, or of each


@record
class StudyRequest:
    """The options of a study. None stands for the value of the study in the folder, or for the default of a new one."""

    datasets: tuple[str, ...] | None = None  # names of DATASETS; a new study needs them
    corruptions: tuple[str, ...] | None = None  # names of CORRUPTIONS
    models: tuple[str, ...] | None = None  # names of `studies.models.MODELS`; a new study needs them
    severity: int | None = None  # of the corruptions, 1 to 5
    image_size: int | None = None  # height and width of all images, in pixels
    num: int | None = None  # samples of each cell
    seed: int | None = None  # of all trainings and all samples; with several seeds, the first
    seeds: int | None = None  # how often to repeat each cell, each time with the next seed
    features: str | None = None  # the feature network: `inception`, or the run folder of a classifier
    data_dir: DataDir | None = None  # where the files of the data sets lie
    minutes: float | None = None  # how long to train each cell, in place of `steps`
    steps: Steps | None = None  # of each training; None: the presets'
    device: str | None = None  # whose presets to take, and where to run: cpu, cuda, mps

    def __post_init__(self) -> None:
        for name in ("datasets", "corruptions", "models"):
            if isinstance(value := getattr(self, name), str):
                raise UserError(f"`{name}` is a list of names, not the text '{value}'. Write ('{value}',).")


@record
class Settings:
    """A study with every choice made, before its models are timed."""

    minidiff: str  # the version that began the study
    datasets: tuple[str, ...]
    corruptions: tuple[str, ...]
    models: tuple[str, ...]
    severity: int
    image_size: int
    num: int
    seed: int
    features: str
    data_dir: DataDir | None
    minutes: float | None
    steps: dict[str, int] | None  # of each model for which they were asked; in a `Study`, of all
    device: str
    _: KW_ONLY
    seeds: int = 1  # every cell is repeated with `seed`, `seed` + 1, ...; a study older than this key has one

    def __post_init__(self) -> None:
        for name, low, high in (("severity", 1, 5), ("image_size", 8, 1024), ("num", 2, 10**9), ("seed", 0, 2**63),
                                ("seeds", 1, MOST_SEEDS)):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"`{name}` is {value}. Give a number from {low} to {high}.")
        if self.minutes is not None and not 0 < self.minutes <= 10**9:
            raise UserError(f"`minutes` is {self.minutes}. Give a number above 0.")
        if any(not 1 <= steps <= MOST_STEPS for steps in (self.steps or {}).values()):
            raise UserError(f"`steps` is {shown(self.steps)}. Give 1 or more for each model.")

    @property
    def data(self) -> list[str]:
        """Return DATASET.CORRUPTION for every combination."""
        return [f"{dataset}.{corruption}" for dataset in self.datasets for corruption in self.corruptions]

    def folder_of(self, dataset: str) -> str | None:
        """Return the folder with the files of a data set, or None for the cache."""
        return self.data_dir.get(dataset) if isinstance(self.data_dir, dict) else self.data_dir


@record
class Times:
    """The times of steps, samples and measurements on this machine, and facts about the models."""

    steps: dict[str, int]  # of each model: its preset's, or as asked
    seconds_per_step: dict[str, float]  # of each model
    seconds_per_sample: dict[str, float]  # of each model
    seconds_per_image: float  # in the feature network
    images: int  # in the first data set's training split
    network: FeatureIdentity


@record
class Planned(Settings):
    """A study whose cells are decided: what every kind of study has in study.json."""

    _: KW_ONLY
    steps: dict[str, int]  # of each model
    cells: tuple[str, ...]  # see `cells_of_grid`
    network: FeatureIdentity | None = None  # None: the study is older than this key
    doubts: tuple[str, ...] = ()  # what could mislead in all cells, a line each

    process: ClassVar[str] = "minidiff.studies.cell"  # the module that runs a cell

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network is not None:
            demand_range(self.network, 1, LARGEST_INT, "dims")
        if self.cells != cells_of_grid(self):
            raise UserError("`cells` are not the data sets x corruptions x models x seeds of the study.")

    def cells_with(self, name: str) -> list[str]:
        """Return the cells that a name stands for: a cell's own, or DATASET.CORRUPTION for all of its models."""
        return [cell for cell in self.cells if name in (cell, data_of(cell))]

    def needs(self, cell: str) -> tuple[str, ...]:
        """Return the cells that must be over before this one can begin."""
        return ()


@record
class Study(Planned):
    """A study of `minidiff compare` as study.json holds it."""

    seconds_per_step: dict[str, float]
    seconds_per_sample: dict[str, float]
    seconds_per_image: float
    images: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "seconds_per_step", "seconds_per_sample"):
            values = getattr(self, name)
            if not all(values.get(model, 0) > 0 for model in self.models):
                raise UserError(
                    f"`{name}` is {shown(values)}, and each of {', '.join(self.models)} needs a number above 0."
                )
        for name in ("seconds_per_image", "images"):
            if not getattr(self, name) > 0:
                raise UserError(f"`{name}` is {getattr(self, name)}, and must be above 0.")


@dataclass(frozen=True)
class Draft:
    """A study that is not complete: some of its models are not timed yet.

    known: the study as it was, if this one adds to it.
    """

    settings: Settings
    known: Study | None = None

    @property
    def untimed(self) -> tuple[str, ...]:
        """Return the models that are not timed yet."""
        timed = self.known.seconds_per_step if self.known else {}
        return tuple(model for model in self.settings.models if model not in timed)


def cells_of_grid(settings: Settings) -> tuple[str, ...]:
    """Return DATASET.CORRUPTION.MODEL for every combination, and the same with +1, +2, ... for each further seed.

    A whole study of the first seed comes first. So a study may grow by seeds, and a reader has something to look at.
    """
    return cells_of(settings.data, settings.models, settings.seeds)


def cells_of(data: Sequence[str], models: Sequence[str], seeds: int) -> tuple[str, ...]:
    """Return the cells of a study of these data, models and seeds: see `cells_of_grid`."""
    tags = ["", *(f"+{repeat}" for repeat in range(1, seeds))]
    return tuple(f"{place}.{model}{tag}" for tag in tags for place in data for model in models)


def data_of(cell: str) -> str:
    """Return the DATASET.CORRUPTION of a cell."""
    return cell.rpartition(".")[0]


def model_of(cell: str) -> str:
    """Return the MODEL of a cell."""
    return cell.rpartition(".")[2].partition("+")[0]


def seed_of(settings: Settings, cell: str) -> int:
    """Return the seed of a cell: of its first weights, the order of its images, its noise and its samples.

    Two cells of the same seed are paired: what their networks have in common begins alike, and they see the same images
    in the same order.
    """
    return settings.seed + int(cell.rpartition(".")[2].partition("+")[2] or 0)


def as_typed(value: object) -> str:
    """Write a setting as a user types it on the command line."""
    if isinstance(value, dict):
        return ",".join(f"{name}={number}" for name, number in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)
