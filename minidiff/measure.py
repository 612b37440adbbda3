"""From two sets of images to a number that can be trusted: extract, compare, and say what is doubtful.

extract() sends a source through a feature network, batch by batch; compare() computes the metrics; doubts() lists what
could make them mislead. Rests on sources (the images), features (the network), frechet and metrics (the mathematics).
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff import __version__, distributed, metrics
from minidiff.decoded import cache_dir
from minidiff.errors import UserError
from minidiff.faults import FAULT_CAUSES, faults
from minidiff.features import FeatureNetwork
from minidiff.frechet import FeatureStatistics, frechet_distance
from minidiff.sources import Batch, Source, Stored, open_source, save_statistics

METRICS = ("fid", "kid", "is", "prec-recall", "fid-inf")
TITLES = {"fid": "FID", "fid-inf": "FID∞", "kid": "KID", "is": "IS", "precision": "precision", "recall": "recall"}
OF_OTHERS = {"fid": "FD", "fid-inf": "FD∞", "kid": "KD"}  # what these are called in another network than Inception
NEED_FEATURES = {"kid", "prec-recall", "fid-inf"}  # of every image; the others need running sums only
UNBIASED = 10_000  # images from which on the bias of FID is usually small beside what one compares
LOOKED_AT = 4  # images of a batch that are checked for noise


class RowFile:
    """Rows of float32 in a file without a name: what some metrics need of every image, without the memory.

    Indexed with a slice or an array of row numbers it gives those rows, float32 [n,width], read from the file. It is
    not mapped: mapped pages would count as the memory of this process, and grow with the images.
    """

    def __init__(self) -> None:
        self.file: IO[bytes] | None = None
        self.shape = (0, 0)

    def append(self, rows: Tensor) -> None:
        """More rows [n,width]. Raises UserError where there is no room."""
        self.shape = (self.shape[0] + len(rows), rows.shape[1])
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(prefix="minidiff-")  # noqa: SIM115
                finalize(self, self.file.close)  # it lives as long as these rows
            self.file.write(rows.float().contiguous().numpy().tobytes())
        except OSError as error:
            raise UserError(
                f"cannot store features in {tempfile.gettempdir()}: {error.strerror}. Set TMPDIR to a folder with "
                "room, or leave out the metrics that need every feature: --metrics fid."
            ) from None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        if isinstance(chosen, slice):
            first, last, _ = chosen.indices(len(self))
            return self.read(first, max(0, last - first))
        found = np.empty((len(chosen), self.shape[1]), np.float32)
        for place, row in enumerate(chosen.tolist()):
            found[place] = self.read(row, 1)
        return found

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """`count` rows from row `first` on."""
        width = 4 * self.shape[1]  # bytes
        assert self.file is not None
        self.file.seek(first * width)
        return np.frombuffer(self.file.read(count * width), np.float32).reshape(count, self.shape[1])


@dataclass
class Side:
    """One side of a comparison, when its images have been through the network.

    features, logits: [N,...] in temporary files, if they were to be kept; only the main process has them. Else empty.
    low, high: the darkest and lightest value of any image, of 255. faulty: how many of the `looked_at` images are
    noise, flat, saturated. same: what the same images have in common, however they were named; None if that is unknown.
    """

    name: str
    count: int | None
    mean: Tensor  # float64 [d]
    covariance: Tensor  # float64 [d,d]
    features: RowFile = field(default_factory=RowFile)
    logits: RowFile = field(default_factory=RowFile)
    size: str = ""
    changes: list[str] = field(default_factory=list)
    held: str = ""
    low: int = 0
    high: int = 255
    looked_at: int = 0
    faulty: dict[str, int] = field(default_factory=dict)
    same: str | None = None


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
    sums = FeatureStatistics(network.dims)
    side = Side(source.name, source.count, sums.mean, sums.scatter, size=source.size, changes=source.changes,
                held=source.held, low=255, high=0, faulty=dict.fromkeys(FAULT_CAUSES, 0), same=source.same)  # fmt: skip
    for batch in source.batches(batch_size):
        features, logits = network.compute(batch)
        look(side, batch)
        sums.update(features)
        if keep:
            append_together(side.features, features, batch_size)
        if keep_logits and logits is not None:
            append_together(side.logits, logits, batch_size)
        if on_images is not None:
            on_images(len(batch))
    sums = over_processes(sums)
    seen_by_all(side)
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


def seen_by_all(side: Side) -> None:
    """What `look` saw of the images of all processes, in each of them."""
    mine = torch.tensor([[side.low, side.high, side.looked_at, *side.faulty.values()]])
    everyone = distributed.gather_rows(mine, 1)
    side.low, side.high = int(everyone[:, 0].min()), int(everyone[:, 1].max())
    side.looked_at, *faulty = everyone[:, 2:].sum(dim=0).tolist()
    side.faulty = dict(zip(side.faulty, faulty, strict=True))


def append_together(file: RowFile, rows: Tensor, batch_size: int) -> None:
    """The rows of all processes, in the order of the images, into the main process's file."""
    everyone = distributed.gather_rows(rows, batch_size)
    if distributed.is_main():
        file.append(everyone)


def over_processes(sums: FeatureStatistics) -> FeatureStatistics:
    """The statistics of the images of all processes, merged in the order of the processes: the same in each."""
    if distributed.world_size() == 1:
        return sums
    of_each = [distributed.gather_rows(part[None], 1) for part in sums.parts()]
    total = FeatureStatistics(len(sums.mean))
    for count, mean, scatter in zip(*of_each, strict=True):
        total.merge(FeatureStatistics.from_parts(count, mean, scatter))
    return total


SEEN = ("low", "high", "looked_at", "faulty", "same")  # what is kept of a side beside its statistics


def statistics_of(side: Side, network: FeatureNetwork) -> Stored:
    """What is to be stored of a side, so that it can stand for its images another time."""
    about = {"minidiff": __version__} | identity(network) | {"seen": {name: getattr(side, name) for name in SEEN}}
    return Stored(side.name, side.mean.numpy(), side.covariance.numpy(), side.count, about)


def identity(network: FeatureNetwork) -> dict[str, Any]:
    """What features have to agree in, to be compared."""
    return {"network": network.name, "mode": network.mode, "dims": network.dims, "weights": network.sha256}


def check_stored(stored: Stored, network: FeatureNetwork) -> None:
    """Raises UserError when statistics are of another feature network or mode."""
    if len(stored.mean) != network.dims:
        raise UserError(
            f"{stored.name} has statistics of {len(stored.mean)} features, this network has {network.dims}: they are "
            "of another feature network. Compute them anew, or choose that network with --features and --dims."
        )
    for name, mine in identity(network).items():
        theirs = stored.about.get(name)
        if stored.about and theirs != mine:
            raise UserError(
                f"{stored.name} has statistics of another feature network: {name} {theirs}, here {mine}. "
                "Compute them anew with --save-stats, or measure with that network."
            )


def from_stored(stored: Stored, network: FeatureNetwork) -> Side:
    """Statistics out of a file as a side. Raises UserError when they are of another feature network or mode."""
    check_stored(stored, network)
    said = "statistics" if stored.about else "statistics that do not say their network and mode, taken for these"
    mean, covariance = torch.from_numpy(stored.mean), torch.from_numpy(stored.covariance)
    seen = {name: value for name, value in stored.about.get("seen", {}).items() if name in SEEN}
    return Side(stored.name, stored.count, mean, covariance, changes=[said], **seen)


def recalled(source: Source | Stored, network: FeatureNetwork, wanted: Iterable[str] = ("fid",)) -> Side | None:
    """A source's side without computing anything: out of its file, or out of the cache where these images were
    measured before and their statistics are enough. None where the images are needed. Raises UserError."""
    if isinstance(source, Stored):
        return from_stored(source, network)
    place = cached_at(source, network)
    if place is None or set(wanted) & {*NEED_FEATURES, "is"} or not distributed.from_main(place.exists()):
        return None
    try:
        stored = open_source(str(place))
        assert isinstance(stored, Stored)
        side = from_stored(stored, network)
    except UserError:
        return None  # damaged, or of another version: measured anew and replaced
    side.name, side.size = source.name, source.size
    side.changes = [*source.changes, "statistics from the cache"]
    return side


def measured(
    source: Source | Stored, network: FeatureNetwork, *, wanted: Iterable[str] = ("fid",), **options: Any
) -> Side:
    """A source's side, the shortest way: `recalled`, or by `extract`, whose options these are."""
    side = recalled(source, network, wanted)
    if side is not None:
        return side
    assert isinstance(source, Source)
    side = extract(source, network, wanted=wanted, **options)
    if (place := cached_at(source, network)) and distributed.is_main():
        with suppress(OSError, UserError):  # no place to keep them: measured again the next time
            place.parent.mkdir(parents=True, exist_ok=True)
            save_statistics(place, statistics_of(side, network))
    return side


def cached_at(source: Source, network: FeatureNetwork) -> Path | None:
    """Where the statistics of these images in this network are kept, if the images can be known again."""
    if source.fingerprint is None:
        return None
    known_by = [__version__, source.fingerprint, source.count, *identity(network).items()]
    key = hashlib.sha256(repr(known_by).encode()).hexdigest()
    return cache_dir() / "statistics" / f"{key[:24]}.npz"


# --- from statistics to numbers -----------------------------------------------------------------------------------


def title(name: str, network: FeatureNetwork) -> str:
    """What a number of `compare` may be called: FID is one network's; in another it is another distance."""
    if network.name != "inception":
        return f"{OF_OTHERS.get(name, TITLES[name])}({network.name})"
    notes = [f"{network.dims} features"] * (network.dims != 2048)
    notes += ["unpublished weights"] * (not network.published)
    return TITLES[name] + (f" ({', '.join(notes)})" if notes else "")


NEEDED = {"fid": 2, "kid": 2, "is": 10, "prec-recall": 4, "fid-inf": 20}  # images of a side


def check_wanted(wanted: Iterable[str], sides: Sequence[Source | Stored], network: FeatureNetwork) -> None:
    """Raises UserError for a metric that these sides or this network cannot give, before the long work."""
    for side in sides:
        if isinstance(side, Stored):
            check_stored(side, network)
    for metric in wanted:
        for label, side in zip("AB", sides, strict=False):
            of_both = metric in ("kid", "prec-recall") or (label == "A" and metric != "fid")
            if isinstance(side, Stored) and of_both:
                raise UserError(
                    f"{metric} needs the images of {label}, and {side.name} has their statistics only. Give the images."
                )
            of_one = label == "B" and metric == "is"
            if isinstance(side, Source) and side.count < NEEDED[metric] and not of_one:
                raise UserError(
                    f"{label} has {side.count} image{'s' * (side.count != 1)}, and {metric} needs {NEEDED[metric]} at "
                    "least. Give more."
                )
        if metric == "is" and network.name == "inception" and network.dims != 2048:
            raise UserError(f"is needs the whole network, not its first {network.dims} features. Leave out --dims.")


def compare(
    a: Side,
    b: Side,
    network: FeatureNetwork,
    wanted: Iterable[str] = ("fid",),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """The wanted metrics, named as in TITLES: a number, or an `Estimate`. A is the samples, B the reference.

    on_progress: for those that take long, called with the metric, how many of its pieces are done, and of how many.
    """
    found: dict[str, Any] = {}

    def progress(metric: str) -> Callable[[int, int], None] | None:
        return partial(on_progress, metric) if on_progress else None

    if "fid" in wanted:
        found["fid"] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    if "fid-inf" in wanted:
        reference = b.features if len(b.features) else (b.mean, b.covariance)
        found["fid-inf"] = metrics.fid_infinity(a.features, reference, progress=progress(title("fid-inf", network)))
    if "kid" in wanted:
        size = min(1000, len(a.features), len(b.features))  # unbiased at any size; 1000 is what others take
        found["kid"] = metrics.kid(a.features, b.features, subset_size=size, progress=progress(title("kid", network)))
    if "is" in wanted:
        found["is"] = metrics.inception_score(a.logits)
    if "prec-recall" in wanted:
        both = metrics.precision_recall(a.features, b.features, progress=progress("precision and recall"))
        found["precision"], found["recall"] = both
    return found


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
        name: {"title": title(name, network)}
        | ({"value": value} if isinstance(value, float) else {k: v for k, v in asdict(value).items() if v is not None})
        for name, value in found.items()
    }
    about = identity(network) | {"source": network.source, "published": network.published}
    return {"minidiff": __version__, "metrics": values, **sides, "features": about, "warnings": warnings}


# --- what could mislead -------------------------------------------------------------------------------------------


def doubts(a: Side, b: Side, network: FeatureNetwork, wanted: Iterable[str] = ("fid",)) -> list[str]:
    """Why the numbers may not mean what they seem to, a line each; empty when nothing is known against them."""
    found: list[str] = []
    name = title("fid", network)
    counted = [(label, side.count) for label, side in (("A", a), ("B", b)) if side.count is not None]
    if "fid" in wanted:
        fewest = max(network.dims + 1, 2)  # as many images leave the covariance of d features without an inverse
        singular = [f"{label} has {count:,} images" for label, count in counted if count < fewest]
        biased = [f"{label} has {count:,} images" for label, count in counted if fewest <= count < UNBIASED]
        if singular:
            found.append(
                f"{' and '.join(singular)} for {network.dims:,} features: the covariance is singular, and {name} says "
                f"more about that number than about the images. Use {UNBIASED:,}, or `--metrics kid`."
            )
        if biased:
            enough = all(count >= enough_for_a_line(a, b, network) for _, count in counted)
            others = "kid,fid-inf" if enough else "kid"
            found.append(
                f"{' and '.join(biased)}: below {UNBIASED:,} or so {name} is biased upwards. `--metrics {others}` "
                f"{'are' if enough else 'is'} not."
            )
        if a.count != b.count and len(counted) == 2:
            found.append(
                f"A has {a.count:,} images and B {b.count:,}. The bias of {name} depends on both: compare it with "
                "others of the same two numbers only."
            )
    if "fid-inf" in wanted:
        few = [f"{label} has {count:,}" for label, count in counted if count < enough_for_a_line(a, b, network)]
        if few:
            found.append(
                f"{title('fid-inf', network)} follows a line in 1/N that begins at some "
                f"{enough_for_a_line(a, b, network):,} images of {network.dims:,} features, and {' and '.join(few)}: "
                "it comes out too low, and its interval too narrow."
            )
        if not len(b.features):
            found.append(
                f"B is statistics: {title('fid-inf', network)} takes them for the truth, and removes the bias of the "
                "images of A alone."
            )
    found += faults_of("A", a) + faults_of("B", b)
    if {a.held, b.held} == {"[0, 1]", "[-1, 1]"}:
        found.append(
            f"A holds floats in {a.held} and B in {b.held}; each was read by its own range. If both came out of the "
            "same program, one of them is not what it seems: look at them."
        )
    if a.size and b.size and a.size != b.size:
        found.append(f"A is {a.size} and B {b.size}: what was enlarged more is smoother, and that alone is a distance.")
    if a.same is not None and a.same == b.same:
        found.append("A and B are the same images: what remains is rounding.")
    if network.name == "inception" and not network.published:
        found.append("these are not the published weights: no other paper's or package's FID compares.")
    return found


def enough_for_a_line(a: Side, b: Side, network: FeatureNetwork) -> int:
    """From how many images on the bias of FID is a line in 1/N: measured, see docs/metrics.md."""
    return (2 if a.count == b.count and len(b.features) else 4) * network.dims


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
