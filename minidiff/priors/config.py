"""The settings of a data-set-level prior: what a user can ask for, and what the config.json of its run holds.

Rests on records alone, so that help and `minidiff info` need no torch.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

from minidiff.records import demand, record
from minidiff.training.config import RunConfig, TrainConfig, TrainRequest, read_as

DIP_PRIOR = "dip-prior"  # the kind of its run
MOST_NOISE = 100  # fifty times the whole range: nothing of an image is left
NET, NOISE = "conv2", 0.2  # unless the user says otherwise


@record
class DipPriorConfig(RunConfig):
    """The config.json of a dip-prior run."""

    _: KW_ONLY
    kind: Literal["dip-prior"] = "dip-prior"
    net: str  # one of DIP_NETS; it takes an image, and gives one of the same shape
    noise: float  # the deviation of the noise that is added to an image, in units of values from -1 to 1
    training: TrainConfig
    sample_every: int | None = None  # steps between pictures; None: the default
    measure_every: int | None = None  # steps between measurements; None: the default

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)


def check_noise(noise: float | None) -> None:
    """Raise UserError for a deviation that no noise has."""
    sound = noise is None or 0 < noise <= MOST_NOISE
    demand(sound, "noise", noise, f"a deviation above 0 and up to {MOST_NOISE}, of values from -1 to 1")


def read_dip_prior(stored: dict[str, Any], where: object) -> DipPriorConfig:
    """Read the config.json of a dip-prior run. Raises UserError, see `read_as`."""
    return read_as(DipPriorConfig, stored, where)


@record
class DipPriorRequest(TrainRequest):
    """The options of `minidiff train dip-prior`. None: the preset decides."""

    net: str | None = None  # one of DIP_NETS; None: NET, or that of the run to begin with
    noise: float | None = None  # see `DipPriorConfig`; None: NOISE, or that of the run to begin with
    sample_every: int | None = None  # steps between pictures; None: a quarter of the steps, at most 5000
    measure_every: int | None = None  # steps between measurements of PSNR; None: a tenth, at least 200
    accumulate: int | None = None  # slices that a batch is cut into, to fit the memory
    compile: bool | None = None  # torch.compile; None: on a GPU, in long runs

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise)
