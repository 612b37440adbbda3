"""The distance between any two sets of images, in one call: what `minidiff fid` does, from a script.

    found = minidiff.distance("samples.npz", "dataset:cifar10", metrics=("fid", "kid"))
    found.values["fid"], found.warnings

Rests on sources (what can be opened) and on metrics (what is then measured).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minidiff._version import __version__
from minidiff.diffusion.chain import Step
from minidiff.errors import UserError
from minidiff.metrics import extraction
from minidiff.metrics.compare import Values, check_count, check_wanted, compute_metrics, title
from minidiff.metrics.config import MeasureRequest
from minidiff.metrics.doubts import doubts
from minidiff.metrics.extraction import MeasuredSet
from minidiff.metrics.features import FeatureNetwork, choose
from minidiff.metrics.sources import ImageSource
from minidiff.metrics.statistics import StoredStatistics, save_statistics
from minidiff.pretrained.sources import open_place
from minidiff.records import record, takes
from minidiff.runtime import distributed

Place = str | Path | ImageSource | StoredStatistics  # what can be a side: a name for `open_place`, or what it returns


class Progress(NamedTuple):
    """How far a measurement is."""

    stage: str  # A, B, or the title of a metric
    done: int
    total: int
    unit: str  # what is counted: image, or piece
    note: str = ""  # where the reverse chain of a batch of samples is


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Distance:
    """The numbers measured between A and B, and what could make them mislead.

    Under torchrun only the main process has the values.
    """

    values: Values  # by metric: fid, fid-inf, kid, is, precision, recall; empty without a B
    a: MeasuredSet
    b: MeasuredSet | None
    network: FeatureNetwork
    warnings: list[str] = field(default_factory=list)  # a line each

    @property
    def titles(self) -> dict[str, str]:
        """Return what each value may be called: FID, or FD(classifier), ..."""
        return {name: title(name, self.network) for name in self.values}

    def save_statistics(self, path: Path) -> None:
        """Write mu and sigma of A to a .npz, which can be used in place of A from then on."""
        save_statistics(path, extraction.statistics_of(self.a, self.network))

    def to_json(self) -> dict[str, Any]:
        """Return the numbers and all that is needed to interpret them, as JSON's types."""
        metrics: dict[str, dict[str, Any]] = {}
        for name, value in self.values.items():
            numbers = {"value": value} if isinstance(value, float) else asdict(value)
            known = {key: number for key, number in numbers.items() if number is not None}
            metrics[name] = {"title": self.titles[name], **known}
        sides = {
            label: {"name": side.name, "images": side.count, "size": side.size or None, "changes": side.changes}
            | ({"arrays": side.arrays, "unused": side.unused} if side.arrays else {})
            for label, side in (("a", self.a), ("b", self.b)) if side is not None
        }  # fmt: skip
        about = asdict(self.network.identity) | {"source": self.network.source, "published": self.network.published}
        if (knows := self.network.knowledge) is not None:
            about |= {"trained_on": knows.data, "accuracy": knows.accuracy, "accuracy_on": knows.split}
        return {"minidiff": __version__, "metrics": metrics, **sides, "features": about, "warnings": self.warnings}


class Comparison:
    """A and B, opened and checked, with the network that will measure them. `measure` does the long work."""

    def __init__(self, a: Place, b: Place | None, request: MeasureRequest, device: torch.device) -> None:
        """Open everything. b: None to measure A alone, for its statistics. Raise UserError if something would fail."""
        self.request, self.device = request, device
        self.on_step: Callable[[Step], None] = lambda step: None
        places = [place for place in (a, b) if place is not None]
        self.sources = [self.opened(place) for place in places]
        for name in request.sampling:
            if not any(isinstance(source, ImageSource) and source.sampled for source in self.sources):
                raise UserError(f"`{name}` is for sampling a run, and neither A nor B is one. Leave it out.")
        for name in ("data_dir", "image_size"):
            if getattr(request, name) is not None and not any(str(place).startswith("dataset:") for place in places):
                raise UserError(f"`{name}` is for a dataset:NAME, and neither A nor B is one. Leave it out.")
        self.network = choose(
            request.features, weights=request.weights, dims=request.dims, mode=request.mode, device=device
        )
        check_wanted(request.metrics, self.sources, self.network)

    def opened(self, place: Place) -> ImageSource | StoredStatistics:
        """Open a side, unless it is open."""
        if isinstance(place, (ImageSource, StoredStatistics)):
            return place
        asked = self.request
        return open_place(
            str(place), num=asked.num, sampler=asked.sampler, steps=asked.steps, seed=asked.seed,
            data_dir=asked.data_dir, image_size=asked.image_size, on_bad=asked.on_bad,
            max_pixels=asked.max_pixels, device=self.device,
            on_step=lambda step: self.on_step(step),
        )  # fmt: skip

    def measure(self, on_progress: OnProgress | None = None) -> Distance:
        """Send both sides through the network, and compute the metrics."""
        wanted, tell = self.request.metrics, on_progress or (lambda progress: None)
        a = self.measured("A", self.sources[0], wanted, tell)
        b = None
        if self.sources[1:]:
            of_b = tuple(name for name in wanted if name != "is")  # the Inception Score asks nothing of B
            if isinstance(source := self.sources[1], ImageSource) and source.statistics is not None:
                of_b = tuple("fid" if name == "fid-inf" else name for name in of_b)  # which takes them as exact
            b = self.measured("B", self.sources[1], of_b, tell)
        if b is None or not distributed.is_main():
            return Distance({}, a, b, self.network)

        def on_pieces(stage: str, done: int, total: int) -> None:
            tell(Progress(stage, done, total, "piece"))

        for label, source, side, of_side in zip("AB", self.sources, (a, b), (wanted, of_b), strict=True):
            if isinstance(source, ImageSource) and source.files is not None:  # of which some can have been bad
                check_count(label, side.count, of_side)
        values = compute_metrics(a, b, self.network, wanted, on_pieces)
        return Distance(values, a, b, self.network, doubts(a, b, self.network, wanted))

    def measured(
        self, label: str, source: ImageSource | StoredStatistics, wanted: tuple[str, ...], tell: OnProgress
    ) -> MeasuredSet:
        """Measure one side. Report the progress after every batch, and after every step of a reverse chain."""
        done, total = 0, source.count or 0

        def on_images(count: int) -> None:
            nonlocal done
            done = min(total, done + count * distributed.world_size())  # the other processes are as far
            tell(Progress(label, done, total, "image"))

        self.on_step = lambda step: tell(Progress(label, done, total, "image", f"t = {step.t}"))
        size = self.request.batch_size or extraction.usual_batch_size(self.network, self.device)
        return extraction.measure_set(source, self.network, wanted=wanted, batch_size=size, on_images=on_images)


@record
class DistanceCall(MeasureRequest):
    """A request, and two things that do not change the result: where to compute, and whom to tell."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps; auto: a GPU if there is one
    on_progress: OnProgress | None = None  # called again and again during the work


@takes(DistanceCall)
def distance(a: Place, b: Place, call: DistanceCall) -> Distance:
    """Measure how far the images of A, the samples, are from those of B, the reference.

    Each is a folder of images, a .npy or .npz file, a run folder, which is then sampled, or `dataset:NAME`; or what
    `open_place` returned. Under torchrun the processes share the images. Raise UserError.
    """
    device = distributed.local_device(call.device)
    with distributed.process_group(device):
        return Comparison(a, b, call, device).measure(call.on_progress)
