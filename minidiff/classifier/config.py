"""The settings of a classifier: what a user can ask for, and what the config.json of its run holds.

Rests on records alone, so that help and `minidiff info` need no torch.
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

from minidiff.data.config import Labels
from minidiff.networks.configs import ResNetConfig
from minidiff.records import demand_range, record
from minidiff.training.config import RunConfig, TrainConfig, TrainRequest, check_same, read_as


@record
class ClassifierConfig(RunConfig):
    """The config.json of a classifier run."""

    _: KW_ONLY
    kind: Literal["classifier"] = "classifier"
    labels: Labels
    network: ResNetConfig
    shift: int  # pixels by which a training image may be moved, each way
    training: TrainConfig
    measure_every: int | None = None  # steps between measurements of the accuracy; None: the default

    def __post_init__(self) -> None:
        super().__post_init__()
        demand_range(self, 0, self.data.image_size, "shift")
        check_same("network.channels", self.network.channels, self.data.channels, "data.channels")
        check_same("network.classes", self.network.classes, len(self.labels.names), "the number of labels.names")


def read_classifier(stored: dict[str, Any], where: object) -> ClassifierConfig:
    """Read the config.json of a classifier's run. Raises UserError, see `read_as`."""
    return read_as(ClassifierConfig, stored, where)


@record
class ClassifierRequest(TrainRequest):
    """The options of `minidiff train classifier`. None: the preset decides."""

    width: int | None = None  # channels of the first stage; the last has 8 times as many
    shift: int | None = None  # pixels by which a training image may be moved, each way; None: a 16th of its size
    measure_every: int | None = None  # steps between measurements of the accuracy; None: a tenth, at least 200
    accumulate: int | None = None  # slices that a batch is cut into, to fit the memory
    compile: bool | None = None  # torch.compile; None: on a GPU, in long runs
