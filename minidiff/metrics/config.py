"""What a measurement can be asked for: the metrics, the places where Inception has features, and the request.

Needs no torch, so that help and records can be read without it. The metrics themselves are in the chapters beside this
one; `minidiff.pretrained.distance` carries a request out.
"""

from typing import Literal

from minidiff.errors import UserError, lookup
from minidiff.images.budget import MAX_PIXELS
from minidiff.networks.configs import MOST_PIXELS
from minidiff.records import demand_range, record

METRICS = ("fid", "kid", "is", "prec-recall", "fid-inf")
INCEPTION_DIMS = (64, 192, 768, 2048)  # numbers of features, by where Inception is cut off: `networks.inception.DIMS`


@record
class MeasureRequest:
    """What to measure between two places, and how to draw from a place that is a run.

    None means the usual value, which can depend on the place or on the network.
    """

    metrics: tuple[str, ...] = ("fid",)  # names of METRICS
    features: str = "inception"  # the feature network: `inception`, or the run folder of a classifier
    weights: str | None = None  # a file with Inception's weights; None: the published ones
    dims: int | None = None  # where Inception is cut off, one of INCEPTION_DIMS; None: 2048
    mode: str | None = None  # whose resizing and scaling goes before Inception; None: pytorch-fid
    num: int | None = None  # samples to draw from a run; None: 10,000
    sampler: str | None = None  # how to draw from a DDPM; None: ddim
    steps: int | None = None  # network calls for a sample of a DDPM; None: the sampler's own
    seed: int | None = None  # of the samples of a run; None: 0
    data_dir: str | None = None  # where the files of a `dataset:NAME` lie; None: the cache
    image_size: int | None = None  # of the images of a `dataset:NAME`; None: the set's own
    on_bad: Literal["skip", "stop"] = "skip"  # what to do about image files that cannot be read
    max_pixels: int = MAX_PIXELS  # a picture that declares more counts as one of these
    batch_size: int | None = None  # images that go through the network together; None: 32 or 64

    def __post_init__(self) -> None:
        if isinstance(self.metrics, str):
            raise UserError(f"`metrics` is a list of names, not the text '{self.metrics}'. Write ('{self.metrics}',).")
        if not self.metrics:
            raise UserError("`metrics` is empty. Name one, such as fid.")
        for name in self.metrics:
            lookup("metric", name, dict.fromkeys(METRICS))
        lookup("on_bad", self.on_bad, {"skip": True, "stop": True})
        for name, least in (("num", 2), ("steps", 1), ("seed", 0), ("batch_size", 1), ("max_pixels", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"`{name}` is {value}. Give {least} or more.")
        demand_range(self, 1, MOST_PIXELS, "image_size")

    @property
    def sampling(self) -> dict[str, str | int]:
        """Return what was asked for about drawing from a run, by name."""
        asked = {"num": self.num, "sampler": self.sampler, "steps": self.steps, "seed": self.seed}
        return {name: value for name, value in asked.items() if value is not None}


@record
class FeatureIdentity:
    """What two sets of features must have in common, or no distance between them means anything."""

    network: str  # inception or classifier
    mode: str  # how images are resized and scaled
    dims: int  # features of an image
    weights: str  # the SHA-256 of the file with the weights
