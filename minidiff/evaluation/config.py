"""The settings of an evaluation: what a user can ask for, and what its config.json holds. Nothing here needs torch.

config.json                the model and the classifier, with all settings
samples/test-0.npz         the pictures of seed 0 for the list `test`: images uint8 [M,H,W,3], labels uint8 [M,L]
pictures/test.png          a picture for each condition, with what was asked and what the classifier sees
failures/test.png          the pictures that are not exactly as asked
result.json                all figures
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minidiff.ddpm.request import FROM_NOISE
from minidiff.errors import UserError
from minidiff.networks.configs import MOST_PIXELS
from minidiff.records import LARGEST_FLOAT, LARGEST_INT, demand_range, from_json, record, to_json
from minidiff.runs import folder as run_folder

if TYPE_CHECKING:
    import torch

KIND, RESULT, SAMPLES, PICTURES, FAILURES = "evaluate", "result.json", "samples", "pictures", "failures"
PER_CLASS = 10  # images of each class, where a run is asked for one class at a time

Progress = Callable[[int, int, str], object]  # called with (network calls done, all of them, what is being drawn)


@record
class EvaluateRequest:
    """The options of an evaluation: the model, what it draws, and the classifier."""

    source: str  # a conditional ddpm run; or dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]], to examine the classifier
    classifier: str | Path  # a classifier run of the same labels, or a checkpoint of the 2023 lab's evaluator
    _: KW_ONLY
    labels_files: Sequence[str] = ()  # what to draw; none: what suits the run, see `open_lists`
    per_class: int = PER_CLASS  # images of each class, without a labels file, of a run with one class an image
    guidance_scale: float | None = None  # None: GUIDANCE_SCALE
    sampler: str = FROM_NOISE  # as `minidiff sample`
    steps: int | None = None  # calls of the network; None: the sampler's own number
    seeds: int = 3  # how often each list is drawn
    seed: int = 0  # the first of the seeds
    batch_size: int = 64  # images at a time, in each process
    num: int | None = None  # of a data set, at most this many images, spread evenly
    data_dir: str | Path | None = None  # where the data set lies
    image_size: int | None = None  # of the data set; None: the classifier's
    device: "str | torch.device" = "cpu"
    out: str | Path | None = None  # the folder of the evaluation, new or to go on with; None: a new one under runs/
    on_progress: Progress | None = field(default=None, compare=False)

    @property
    def of_data(self) -> bool:
        """Whether real images are looked at, so that nothing is drawn."""
        return self.source.startswith("dataset:")

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.per_class < 1:
            raise UserError(f"`seeds` {self.seeds} and `per_class` {self.per_class} must be 1 or more.")
        demand_range(self, 1, LARGEST_INT, "batch_size", "steps", "num", "image_size")
        demand_range(self, 0, LARGEST_INT, "seed")
        for name in ("num", "data_dir", "image_size"):
            if not self.of_data and getattr(self, name) is not None:
                raise UserError(f"`{name}` is for dataset:NAME, but {self.source} is not a data set. Leave it out.")


# --- config.json ------------------------------------------------------------------------------------------------------


@record
class SamplingSettings:
    """How the pictures are drawn, except for the seed and the labels."""

    sampler: str
    guidance_scale: float
    calls: int  # of the network, for each picture
    precision: str  # fp32 or bf16: what was computed in
    steps: int | None = None  # as asked for
    spacing: str | None = None
    variance: str | None = None

    def __post_init__(self) -> None:
        demand_range(self, 0, LARGEST_FLOAT, "guidance_scale")
        demand_range(self, 1, LARGEST_INT, "calls", "steps")


@record
class LookedBy:
    """The classifier."""

    place: str
    sha256: str  # of the file of its weights
    image_size: int
    knowledge: str | None = None  # its data set and its accuracy, in words; None: earlier versions did not keep it

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_PIXELS, "image_size")


@record
class ShownImages:
    """The real images that a classifier is examined with."""

    name: str
    images: int
    image_size: int

    def __post_init__(self) -> None:
        demand_range(self, 0, LARGEST_INT, "images")
        demand_range(self, 1, MOST_PIXELS, "image_size")


@record
class EvaluateConfig:
    """The config.json of an evaluation: of a run that draws, or of real images."""

    minidiff: str  # the version that wrote it
    kind: str
    classifier: LookedBy
    run: str | None = None
    weights: str | None = None  # SHA-256 of the run's tensors
    image_size: int | None = None
    sampling: SamplingSettings | None = None
    data: ShownImages | None = None

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_PIXELS, "image_size")
        of_run = (self.run, self.weights, self.image_size, self.sampling)
        if None in of_run if self.data is None else any(value is not None for value in of_run):
            raise UserError("an evaluation needs either a run, with its weights, image_size and sampling, or data.")

    def stored(self) -> dict[str, Any]:
        """Turn it into JSON's types, without the keys that are None, and with the classifier last."""
        stored = without_none(to_json(self))
        return stored | {"classifier": stored.pop("classifier")}

    @property
    def size(self) -> int:
        """Height and width of the images that are looked at."""
        if self.data is not None:
            return self.data.image_size
        assert self.image_size is not None
        return self.image_size


def without_none(stored: dict[str, Any]) -> dict[str, Any]:
    """Leave out the keys that are None, in records inside of records too."""
    return {
        key: without_none(value) if isinstance(value, dict) else value
        for key, value in stored.items() if value is not None
    }  # fmt: skip


def read_config(folder: str | Path) -> EvaluateConfig:
    """Read the config.json of an evaluation. Raises UserError if it is something else."""
    stored = run_folder.read_config(folder, KIND)
    return from_json(EvaluateConfig, stored, Path(folder) / run_folder.CONFIG)
