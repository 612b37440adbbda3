"""From two sets of images to a number that can be trusted: extract, compare, and say what is doubtful.

extract() sends a source through a feature network, batch by batch; compare() computes the metrics; doubts() lists what
could make them mislead. Rests on sources (the images), features (the network) and metrics (the mathematics).
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff import __version__, distributed, metrics
from minidiff.decoded import cache_dir
from minidiff.errors import UserError
from minidiff.features import FeatureNetwork
from minidiff.images import FAULT_CAUSES, faults
from minidiff.sources import Batch, Source, Stored, open_source, save_statistics

METRICS = ("fid", "kid", "is", "prec-recall", "fid-inf")
NEED_FEATURES = {"kid", "prec-recall", "fid-inf"}  # of every image; the others need running sums only
UNBIASED = 10_000  # images from which on the bias of FID is usually small beside what one compares
LOOKED_AT = 4  # images of a batch that are checked for noise


def nothing() -> NDArray[np.float32]:
    return np.empty((0, 0), np.float32)


class RowFile:
    """Rows of float32 in a file without a name: what some metrics need of every image, without the memory."""

    def __init__(self) -> None:
        self.file, self.width = tempfile.TemporaryFile(prefix="minidiff-"), 0  # noqa: SIM115

    def append(self, rows: Tensor) -> None:
        self.width = rows.shape[1]
        try:
            self.file.write(rows.float().contiguous().numpy().tobytes())
        except OSError as error:
            raise UserError(
                f"cannot store features in {tempfile.gettempdir()}: {error.strerror}. Set TMPDIR to a folder with "
                "room, or leave out the metrics that need every feature: --metrics fid."
            ) from None

    def rows(self) -> NDArray[np.float32]:
        """All of them, [N,width], a read-only map of the file, which lives as long as this array."""
        self.file.flush()
        return np.memmap(self.file, np.float32, "r").reshape(-1, self.width)

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@dataclass
class Side:
    """One side of a comparison, when its images have been through the network.

    features, logits: [N,...] in temporary files, if they were to be kept; only the main process has them. Else empty.
    low, high: the darkest and lightest value of any image, of 255. faulty: how many of the `looked_at` images are
    noise, flat, saturated.
    """

    name: str
    count: int | None
    mean: Tensor  # float64 [d]
    covariance: Tensor  # float64 [d,d]
    features: NDArray[np.float32] = field(default_factory=nothing)
    logits: NDArray[np.float32] = field(default_factory=nothing)
    size: str = ""
    changes: list[str] = field(default_factory=list)
    held: str = ""
    low: int = 0
    high: int = 255
    looked_at: int = 0
    faulty: dict[str, int] = field(default_factory=dict)


# --- from images to statistics ------------------------------------------------------------------------------------


def extract(
    source: Source,
    network: FeatureNetwork,
    *,
    batch_size: int = 32,
    wanted: Iterable[str] = ("fid",),
    on_images: Callable[[int], None] | None = None,
) -> Side:
    """All images of a source through the network; a batch, and sums of the size of the features, are held in memory.

    wanted: names of METRICS, which tell whether the features of every image are kept (in a file). on_images: called
    with the number of images done after each batch. Under torchrun the processes share the batches.
    """
    keep, keep_logits = bool(NEED_FEATURES & set(wanted)), "is" in wanted
    sums = metrics.FeatureStatistics(network.dims)
    side = Side(source.name, source.count, sums.mean, sums.scatter, size=source.size, changes=source.changes,
                held=source.held, low=255, high=0, faulty=dict.fromkeys(FAULT_CAUSES, 0))  # fmt: skip
    with RowFile() as every_feature, RowFile() as every_logit:
        for batch in source.batches(batch_size):
            features, logits = network.compute(batch)
            look(side, batch)
            sums.update(features)
            if keep:
                append_together(every_feature, features, batch_size)
            if keep_logits and logits is not None:
                append_together(every_logit, logits, batch_size)
            if on_images is not None:
                on_images(len(batch))
        if distributed.is_main():
            if keep:
                side.features = every_feature.rows()
            if keep_logits:
                side.logits = every_logit.rows()
    sums = over_processes(sums)
    side.count, side.mean, side.covariance = sums.count, sums.mean, sums.covariance
    return side


def look(side: Side, batch: Batch) -> None:
    """Note the range of values, and whether the first images of a batch are images at all."""
    for number, image in enumerate(batch):
        side.low, side.high = min(side.low, int(image.min())), max(side.high, int(image.max()))
        if number < LOOKED_AT:
            side.looked_at += 1
            for what, mask in faults(image[None]).items():
                side.faulty[what] += int(mask[0])


def append_together(file: RowFile, rows: Tensor, batch_size: int) -> None:
    """The rows of all processes, in the order of the images, into the main process's file."""
    everyone = distributed.gather_rows(rows, batch_size)
    if distributed.is_main():
        file.append(everyone)


def over_processes(sums: metrics.FeatureStatistics) -> metrics.FeatureStatistics:
    """The statistics of the images of all processes, merged in the order of the processes: the same in each."""
    if distributed.world_size() == 1:
        return sums
    of_each = [distributed.gather_rows(part[None], 1) for part in sums.parts()]
    total = metrics.FeatureStatistics(len(sums.mean))
    for count, mean, scatter in zip(*of_each, strict=True):
        total.merge(metrics.FeatureStatistics.from_parts(count, mean, scatter))
    return total


def statistics_of(side: Side, network: FeatureNetwork) -> Stored:
    """What is to be stored of a side, so that it can stand for its images another time."""
    return Stored(side.name, side.mean.numpy(), side.covariance.numpy(), side.count, identity(network))


def identity(network: FeatureNetwork) -> dict[str, Any]:
    """What features have to agree in, to be compared."""
    return {
        "minidiff": __version__, "network": network.name, "mode": network.mode, "dims": network.dims,
        "weights": network.sha256,
    }  # fmt: skip


def from_stored(stored: Stored, network: FeatureNetwork) -> Side:
    """Statistics out of a file as a side. Raises UserError when they are of another feature network or mode."""
    if len(stored.mean) != network.dims:
        raise UserError(
            f"{stored.name} has statistics of {len(stored.mean)} features, this network has {network.dims}: they are "
            "of another feature network. Compute them anew, or choose that network with --features and --dims."
        )
    for name, mine in identity(network).items():
        theirs = stored.about.get(name)
        if name != "minidiff" and stored.about and theirs != mine:
            raise UserError(
                f"{stored.name} has statistics of another feature network: {name} {theirs}, here {mine}. "
                "Compute them anew with --save-stats, or measure with that network."
            )
    said = "statistics" if stored.about else "statistics that do not say their network and mode, taken for these"
    mean, covariance = torch.from_numpy(stored.mean), torch.from_numpy(stored.covariance)
    return Side(stored.name, stored.count, mean, covariance, changes=[said])


def measured(source: Source | Stored, network: FeatureNetwork, **options: Any) -> Side:
    """A source's side, the shortest way: out of its file, out of the cache where these images were measured before
    and their statistics are enough, or by `extract`, whose options these are."""
    if isinstance(source, Stored):
        return from_stored(source, network)
    place = cached_at(source, network)
    if place is None or set(options.get("wanted", ())) & {*NEED_FEATURES, "is"}:
        return extract(source, network, **options)
    known = distributed.from_main(place.exists())
    if known:
        try:
            stored = open_source(str(place))
            assert isinstance(stored, Stored)
            side = from_stored(stored, network)
            side.name, side.size = source.name, source.size
            side.changes = [*source.changes, "statistics from the cache"]
            return side
        except UserError:
            pass  # damaged, or of another version: measured anew and replaced
    side = extract(source, network, **options)
    if distributed.is_main():
        place.parent.mkdir(parents=True, exist_ok=True)
        save_statistics(place, statistics_of(side, network))
    return side


def cached_at(source: Source, network: FeatureNetwork) -> Path | None:
    """Where the statistics of these images in this network are kept, if the images can be known again."""
    if source.fingerprint is None:
        return None
    key = hashlib.sha256(repr([source.fingerprint, source.count, *identity(network).items()]).encode()).hexdigest()
    return cache_dir() / "statistics" / f"{key[:24]}.npz"


# --- from statistics to numbers -----------------------------------------------------------------------------------


def title(metric: str, network: FeatureNetwork) -> str:
    """What a number may be called: FID is one network's; in another it is another distance, and its name says so."""
    if network.name == "inception":
        notes = [f"{network.dims} features"] * (network.dims != 2048)
        notes += ["unpublished weights"] * (not network.published)
        return metric + (f" ({', '.join(notes)})" if notes else "")
    return {"FID": "FD", "FID∞": "FD∞", "KID": "KD"}.get(metric, metric) + f"({network.name})"


def check_wanted(wanted: Iterable[str], sides: Iterable[Source | Stored], network: FeatureNetwork) -> None:
    """Raises UserError for a metric that these sides or this network cannot give, before the long work."""
    a, b = sides
    for metric in wanted:
        if isinstance(a, Stored) and metric != "fid":
            raise UserError(f"{metric} needs the images of A, and {a.name} has their statistics only. Give the images.")
        if isinstance(b, Stored) and metric in ("kid", "prec-recall"):
            raise UserError(f"{metric} needs the images of B, and {b.name} has their statistics only. Give the images.")
        if metric == "is" and network.name == "inception" and network.dims != 2048:
            raise UserError(f"is needs the whole network, not its first {network.dims} features. Leave out --dims.")


def compare(
    a: Side,
    b: Side,
    network: FeatureNetwork,
    wanted: Iterable[str] = ("fid",),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """The wanted metrics by name: a number, or an `Estimate`. A is the samples, B the reference.

    on_progress: for those that take long, called with the metric, how many of its pieces are done, and of how many.
    """
    found: dict[str, Any] = {}

    def progress(metric: str) -> Callable[[int, int], None] | None:
        return partial(on_progress, metric) if on_progress else None

    if "fid" in wanted:
        found["FID"] = metrics.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    if "fid-inf" in wanted:
        reference = b.features if len(b.features) else (b.mean, b.covariance)
        found["FID∞"] = metrics.fid_infinity(a.features, reference, progress=progress("FID∞"))
    if "kid" in wanted:
        size = min(1000, len(a.features), len(b.features))  # unbiased at any size; 1000 is what others take
        found["KID"] = metrics.kid(a.features, b.features, subset_size=size, progress=progress("KID"))
    if "is" in wanted:
        found["IS"] = metrics.inception_score(a.logits)
    if "prec-recall" in wanted:
        both = metrics.precision_recall(a.features, b.features, progress=progress("precision and recall"))
        found["precision"], found["recall"] = both
    return {title(name, network): value for name, value in found.items()}


def described(network: FeatureNetwork) -> str:
    """A feature network in words."""
    kind = "published weights" if network.published else "not the published network" * (network.name == "inception")
    told = ", ".join(filter(None, [f"{network.source}", kind, f"SHA-256 {network.sha256[:8]}"]))
    return f"{network.name} ({told}), {network.dims} features, mode {network.mode}"


def told(side: Side) -> str:
    """A side in words: what it is, how many images, what was changed."""
    count = f"{side.count:,} images" if side.count else "an unknown number of images"
    return f"{side.name}: " + "; ".join([f"{count} {side.size}".strip(), *side.changes])


def worded(value: Any) -> str:
    """A number, or an estimate with what is known of its error."""
    if isinstance(value, float):
        return f"{value:.4f}"
    text = f"{value.value:.6g}"
    if value.se is not None:
        text += f" ± {value.se:.2g} (standard error)"
    if value.low is not None:
        text += f" (95% interval {value.low:.6g} to {value.high:.6g})"
    return text


def report(a: Side, b: Side, network: FeatureNetwork, found: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Everything that is needed to know later what was computed, for JSON."""
    sides = {
        label: {"name": side.name, "images": side.count, "size": side.size or None, "changes": side.changes}
        for label, side in (("a", a), ("b", b))
    }
    values = {
        name: value if isinstance(value, float) else {k: v for k, v in asdict(value).items() if v is not None}
        for name, value in found.items()
    }
    about = identity(network) | {"source": network.source, "published": network.published}
    return {"minidiff": __version__, "metrics": values, **sides, "features": about, "warnings": warnings}


# --- what could mislead -------------------------------------------------------------------------------------------


def doubts(a: Side, b: Side, network: FeatureNetwork) -> list[str]:
    """Why the numbers may not mean what they seem to, a line each; empty when nothing is known against them."""
    found: list[str] = []
    name = title("FID", network)
    counted = [(label, side.count) for label, side in (("A", a), ("B", b)) if side.count is not None]
    fewest = max(network.dims + 1, 2)  # as many images leave the covariance of d features without an inverse
    singular = [f"{label} has {count:,} images" for label, count in counted if count < fewest]
    biased = [f"{label} has {count:,} images" for label, count in counted if fewest <= count < UNBIASED]
    if singular:
        found.append(
            f"{' and '.join(singular)} for {network.dims:,} features: the covariance is singular, and {name} says more "
            f"about that number than about the images. Use {UNBIASED:,}, or KID."
        )
    if biased:
        found.append(
            f"{' and '.join(biased)}: below {UNBIASED:,} or so {name} is biased upwards. "
            "KID and FID∞ are not (`minidiff fid --metrics kid,fid-inf`)."
        )
    found += faults_of("A", a) + faults_of("B", b)
    if a.count != b.count and None not in (a.count, b.count):
        found.append(
            f"A has {a.count:,} images and B {b.count:,}. The bias of {name} depends on both: compare it with others "
            "of the same two numbers only."
        )
    if {a.held, b.held} == {"[0, 1]", "[-1, 1]"}:
        found.append(
            f"A holds floats in {a.held} and B in {b.held}; each was read by its own range. If both came out of the "
            "same program, one of them is not what it seems: look at them."
        )
    if a.size and b.size and a.size != b.size:
        found.append(f"A is {a.size} and B {b.size}: what was enlarged more is smoother, and that alone is a distance.")
    if a.name == b.name:
        found.append("A and B are the same images by name: what remains is rounding.")
    if not network.published:
        known = network.name != "inception"
        found += [] if known else ["these are not the published weights: no other paper's or package's FID compares."]
    return found


def faults_of(label: str, side: Side) -> list[str]:
    """What is statistically wrong with the images of one side."""
    found = [
        f"{100 * count / side.looked_at:.0f}% of the {side.looked_at:,} images looked at in {label} are {what}. "
        f"Likely causes: {FAULT_CAUSES[what]}."
        for what, count in side.faulty.items()
        if side.looked_at and count >= 0.1 * side.looked_at
    ]
    if side.looked_at and side.high <= 1:
        found.append(f"no value in {label} is above 1 of 255: floats in [0, 1] were cut to bytes. Save them times 255.")
    elif side.looked_at and (side.low >= 120 or side.high <= 135):
        found.append(
            f"the values of {label} go from {side.low} to {side.high} of 255, half of the range: floats in [0, 1] and "
            "[-1, 1] have been taken for each other."
        )
    return found
