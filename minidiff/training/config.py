"""The settings that trainings of all kinds share: what a user can ask for, and what config.json holds.

Rests on records and data.config, so that help and `minidiff info` need no torch. The rest is each kind's own config.py.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args, get_type_hints

from minidiff._version import __version__
from minidiff.data.config import DataConfig, Images
from minidiff.errors import UserError, listed
from minidiff.images.budget import MAX_PIXELS
from minidiff.records import LARGEST_FLOAT, LARGEST_INT, demand, demand_range, from_json, record

if TYPE_CHECKING:
    from minidiff.training.step import TrainStep

OnStep: TypeAlias = "Callable[[TrainStep], object] | None"
Decay = Literal["constant", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]


@record
class TrainConfig:
    """How a network is trained. Sizes and counts are global: the same whatever the number of processes."""

    steps: int = 10_000
    minutes: float | None = None  # that the steps were chosen to take; None: the steps were given
    batch_size: int = 128  # images for each optimizer step, over all processes and accumulation slices
    lr: float = 2e-4  # the peak rate
    muon: bool = False  # Muon moves the weights inside the network, and AdamW the others; False: AdamW moves all
    warmup: int = 200  # steps of linear rise to it
    decay: Decay = "constant"  # or "cosine": down to 0 at the last step
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0  # largest norm of the gradient; None: any
    ema_decay: float = 0.9999
    accumulate: int = 1  # slices a batch is cut into, to fit the memory
    precision: Precision = "auto"  # fp32, bf16, or auto: bf16 where it trains faster
    compile: bool | None = None  # None: on a GPU, when the run is long enough to repay it
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError for settings that no training can have."""
        for name in ("steps", "batch_size", "accumulate"):
            demand(1 <= getattr(self, name) <= MOST_STEPS, name, getattr(self, name), "1 or more")
        check_minutes(self.minutes)
        demand_range(self, 0, MOST_STEPS, "warmup")
        demand_range(self, 0, LARGEST_INT, "seed")
        demand_range(self, 0, LARGEST_FLOAT, "weight_decay")
        demand(0 < self.lr < math.inf, "lr", self.lr, "a rate above 0")
        demand(self.decay in ("constant", "cosine"), "decay", self.decay, "constant or cosine")
        demand(self.grad_clip is None or self.grad_clip > 0, "grad_clip", self.grad_clip, "a norm above 0, or None")
        demand(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "a number from 0 up to, but not including, 1")
        demand(self.precision in ("auto", "fp32", "bf16"), "precision", self.precision, "auto, fp32 or bf16")

    def learning_rate(self, step: int) -> float:
        """Return the rate of step 1, 2, ...: a linear warm-up, then constant or half a cosine down to 0."""
        if step <= self.warmup:
            return self.lr * step / max(1, self.warmup)
        if self.decay == "constant":
            return self.lr
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))

    def ema_decay_at(self, step: int) -> float:
        """Return the decay of the EMA at a step. It starts low, so the initial weights are soon forgotten."""
        return min(self.ema_decay, (1 + step) / (10 + step))


MOST_STEPS = 10**12  # of a training, and images of a batch: a thousand a second would take thirty years
MOST_MINUTES = 366 * 24 * 60
ORDER, NOISE, DROPOUT, INITIAL_WEIGHTS = range(4)  # what a seed is for; keeps the streams of random numbers apart


# --- what a user asks for -------------------------------------------------------------------------------------------


@record
class TrainRequest:
    """The options of every kind of training. None: the preset decides."""

    dataset: "Images" = "shapes"  # a name of DATASETS, a folder, a .npy file, or the images themselves
    data_dir: str | Path | None = None  # where its files are or will be put; None: the cache folder
    image_size: int | None = None  # pixels a side
    corruption: str = "identity"  # the damage done to every image: one of CORRUPTIONS
    severity: int = 3  # how much of it, 1 to 5
    on_bad: Literal["skip", "stop"] = "skip"  # what to do about image files that cannot be read
    max_pixels: int = MAX_PIXELS  # a picture that declares more counts as one that cannot be read
    flip: bool | None = None  # whether images may be mirrored; None: as suits the data set, and never for your own
    labels: Any = field(default=None, compare=False)  # of images from a script: numbers [N], or zeros and ones [N,L]
    label_names: Sequence[str] | None = None  # of these labels; None: numbers
    init: str | Path | None = None  # a run, or a checkpoint of diffusers, whose weights the training begins with
    preset: str | None = None  # network and settings for a purpose; None: gpu where there is one, else cpu
    steps: int | None = None  # optimizer steps
    epochs: float | None = None  # in place of `steps`: how often each image is seen
    minutes: float | None = None  # in place of `steps`: how long to train, by the wall clock
    batch_size: int | None = None  # images a step, over all processes
    lr: float | None = None  # the peak learning rate, after the warm-up
    warmup: int | None = None  # steps in which the rate rises to it; None: at most a sixth of the steps
    ema_decay: float | None = None  # how slowly the averaged weights move
    precision: Precision | None = None  # fp32, bf16, or auto: bf16 where it trains faster
    seed: int = 0  # the one seed of the run
    save_every: int | None = None  # steps between checkpoints; None: a tenth of the steps, at most 1000
    out: str | Path | None = None  # the run folder; None: the next free runs/KIND-DATASET-N
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    on_step: OnStep = field(default=None, compare=False)  # called after each step, for a progress of your own

    def __post_init__(self) -> None:
        """Raise UserError for a number that no training can have; the rest is checked together with the preset."""
        for name in ("image_size", "steps", "batch_size", "save_every"):
            value = getattr(self, name)
            demand(value is None or 1 <= value <= MOST_STEPS, name, value, "1 or more, or None")
        check_minutes(self.minutes)
        check_length(self)


@record
class ResumeRequest:
    """The changes that are allowed when a training is resumed: where and how it runs. All else defines the run.

    None: as it was. Without a change, the resumed run gives the same bits. Some options belong to one kind of run, and
    other kinds refuse them.
    """

    images: "Images | None" = field(default=None, compare=False)  # once more, for a run that does not keep them
    data_dir: str | Path | None = None
    steps: int | None = None
    epochs: float | None = None  # in place of `steps`, counted from the start of the run
    lr: float | None = None
    warmup: int | None = None
    precision: Precision | None = None
    compile: bool | None = None
    save_every: int | None = None
    sample_every: int | None = None  # of a ddpm and of a GAN
    measure_every: int | None = None  # of a classifier
    fid_every: int | None = None  # of a ddpm, as the next two; 0 measures no more
    fid_features: str | None = None
    fid_weights: str | Path | None = None
    device: str = "auto"
    on_step: OnStep = field(default=None, compare=False)  # called after each step, for a progress of your own

    def __post_init__(self) -> None:
        demand_range(self, 0, MOST_STEPS, "save_every", "sample_every", "measure_every", "fid_every")
        check_length(self)


def check_length(request: "TrainRequest | ResumeRequest") -> None:
    """Raise UserError for a number of epochs that no training can have, and for two lengths beside each other."""
    epochs = request.epochs
    demand(epochs is None or 0 < epochs <= MOST_STEPS, "epochs", epochs, "a number above 0, or None")
    lengths = [f"`{name}`" for name in given(request, ("steps", "epochs", "minutes"))]
    if len(lengths) > 1:
        every, but_one = ("both", "one of them") if len(lengths) == 2 else ("all", "two of them")
        raise UserError(f"{listed(lengths, 'and')} {every} say how long to train. Leave {but_one} out.")


def check_minutes(minutes: float | None) -> None:
    """Raise UserError for a number of minutes that no training can take."""
    demand(minutes is None or 0 < minutes <= MOST_MINUTES, "minutes", minutes, "a number above 0, a year at most")


def given(request: object, names: Iterable[str]) -> dict[str, Any]:
    """Return the named fields of a request that are not None; `replace` puts them in place of a preset's."""
    values = {name: getattr(request, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


# --- what a run folder says -------------------------------------------------------------------------------------------


@record
class Start:
    """The trained weights that a training began with."""

    place: str  # the run, or the checkpoint of another library
    weights: str  # tells them from any others, see `weights.fingerprint`


@record
class RunConfig:
    """The part of config.json that every training has; each kind adds to it in a record of its own."""

    _: KW_ONLY
    minidiff: str = __version__  # the version that made the run
    kind: str
    preset: str | None = None
    init: Start | None = None  # None: it began with random weights
    data: DataConfig
    training: TrainConfig | None  # None: this run was imported, weights alone
    save_every: int | None = None  # steps between checkpoints; None: the default

    def __post_init__(self) -> None:
        names = [each.name for each in fields(self) if each.name in ("save_every", "sample_every", "measure_every")]
        demand_range(self, 0, MOST_STEPS, *names)  # 0 is the default, too


def check_same(name: str, value: int | None, other: int, of: str) -> None:
    """Raise UserError unless two numbers of a run's config.json agree, such as the channels of data and network."""
    if value != other:
        raise UserError(f"`{name}` is {value}, and does not fit {of}, {other}. Bring back the file as it was written.")


AnyConfig = TypeVar("AnyConfig", bound=RunConfig)

# Keys that earlier versions did not write yet. Any other that is missing is a mistake: its default may be another value
# than the one that the run was made with.
ADDED = {"minidiff", "preset", "init", "labels", "fid", "source", "save_every", "sample_every", "measure_every"}
ADDED |= {"data.data_dir", "data.on_bad", "data.corruption", "data.severity", "data.images", "data.fingerprint"}
ADDED |= {"data.flip", "data.max_pixels", "training.minutes", "network.norm", "refinement.guess_size"}
ADDED |= {"network.scale_shift", "network.label_dim", "labels.dropout", "fid.network", "diffusion.betas"}
ADDED |= {f"gan.{name}" for name in ("betas", "clip", "penalty")}  # each is of one kind of GAN
ADDED |= {"source.weights", "source.one_hot", "training.muon", "diffusion.timestep_sampling"}
ADDED |= {"refinement", "prior", "haze.clear", "diffusion.shift", "refinement.diffusion.shift"}
ADDED |= {"diffusion.trained_below", "diffusion.file_noise", "diffusion.grey"}


def read_as(cls: type[AnyConfig], stored: dict[str, Any], where: object) -> AnyConfig:
    """Read a run's config.json as the record of its kind.

    Raises UserError for a wrong type, an unknown key and a missing one, in a line that names the key, its value and
    what was expected.
    """
    if "source" in stored and stored.get("training") == {}:  # how earlier versions said that a run was imported
        stored = stored | {"training": None}
    for key in missing_keys(cls, stored):
        if key not in ADDED:
            raise UserError(f'{where}: "{key}" is missing. Bring back the file as it was written.')
    return from_json(cls, stored, where)


def missing_keys(cls: type[Any], stored: dict[str, Any], before: str = "") -> Iterator[str]:
    """Yield the fields that a JSON object lacks for a record and for the records in it, such as "training.lr"."""
    types = get_type_hints(cls)
    for each in fields(cls):
        name, value = before + each.name, stored.get(each.name)
        kinds = (types[each.name], *get_args(types[each.name]))
        inner: list[Any] = [kind for kind in kinds if is_dataclass(kind)]
        if each.name not in stored:
            yield name
        elif isinstance(value, dict) and inner:
            nearest = max(inner, key=lambda kind: len({each.name for each in fields(kind)} & value.keys()))
            yield from missing_keys(nearest, value, f"{name}.")
