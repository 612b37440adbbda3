"""The settings of dehazing: what a user can ask for, and what the config.json of its run holds.

Rests on records alone, so that help and `minidiff info` need no torch. Yu et al. 2023 (DehazeDDPM) have the two stages;
the weights of the losses are those of its successor PPDM.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

from minidiff.data.config import Haze
from minidiff.networks.configs import GUNetConfig
from minidiff.records import LARGEST_FLOAT, demand_range, record
from minidiff.training.config import RunConfig, TrainRequest, read_as

HAZE = "haze"  # the set of pairs to train on unless another is named


@record
class GuessLoss:
    """How the errors of stage 1 are weighed against the error of J, which counts 1. All are mean absolute errors."""

    transmission: float = 0.01  # of T, and of A, where they are known
    haze: float = 0.05  # of the hazy picture that J, T and A give by the haze model

    def __post_init__(self) -> None:
        demand_range(self, 0, LARGEST_FLOAT, "transmission", "haze")


@record
class DehazeConfig(RunConfig):
    """The config.json of a dehaze run."""

    _: KW_ONLY
    kind: Literal["dehaze"] = "dehaze"
    stage: Literal[1, 2] = 1
    haze: Haze  # what is drawn for a picture; pairs of files have their own
    guess: GUNetConfig  # the network of stage 1
    guess_loss: GuessLoss
    sample_every: int | None = None  # steps between pictures; None: the default
    measure_every: int | None = None  # steps between measurements; None: the default


def read_dehaze(stored: dict[str, Any], where: object) -> DehazeConfig:
    """Read the config.json of a dehaze run. Raises UserError, see `read_as`."""
    return read_as(DehazeConfig, stored, where)


@record
class DehazeRequest(TrainRequest):
    """The options of `minidiff train dehaze`. None: the preset decides."""

    dataset: str = HAZE  # one of HAZY_SETS
    stage: Literal[1, 2] = 1
    transmission_weight: float | None = None  # of stage 1: see `GuessLoss`
    haze_weight: float | None = None
    sample_every: int | None = None  # steps between pictures; None: a quarter of the steps, at most 5000
    measure_every: int | None = None  # steps between measurements of PSNR; None: a tenth, at least 200
    accumulate: int | None = None  # slices that a batch is cut into, to fit the memory
    compile: bool | None = None  # torch.compile; None: on a GPU, in long runs
    muon: bool | None = None  # whether Muon moves the weights inside the network, in place of AdamW
