"""From images to what is known of their features: a set of images goes through a feature network.

extract() reads a source batch by batch. It keeps running sums, and the features of every image only if a metric needs
them. measure_set() takes the shortest way: statistics from a file, from the cache, or by extract().
Rests on sources (the images), features (the network), frechet (the sums) and faults (what looks wrong).
"""

import hashlib
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from minidiff._version import __version__
from minidiff.data.cache import cache_dir
from minidiff.errors import UserError
from minidiff.images.convert import Pixels
from minidiff.images.faults import FAULT_CAUSES, faults
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.frechet import FeatureStatistics
from minidiff.metrics.row_file import RowFile
from minidiff.metrics.sources import Batch, ImageSource
from minidiff.metrics.statistics import StoredStatistics, open_statistics, save_statistics
from minidiff.runtime import distributed

LOG = logging.getLogger(__name__)

NEED_FEATURES = {"kid", "prec-recall", "fid-inf"}  # of every image; the other metrics need running sums only
MIDDLE = 1024  # pixels; of a larger image only the middle is checked
LOOKED_AT = 4  # images of a batch that are checked for faults such as noise


@dataclass
class MeasuredSet:
    """A set of images after it has been through the network: one side of a comparison."""

    name: str
    count: int | None  # of images; None if a statistics file does not say it
    mean: Tensor  # float64 [d]
    covariance: Tensor  # float64 [d,d]
    features: RowFile = field(default_factory=RowFile)  # [N,d] if a metric needs it, and in the main process; or empty
    logits: RowFile = field(default_factory=RowFile)  # [N,classes], likewise
    size: str = ""  # height x width, in words
    changes: list[str] = field(default_factory=list)  # what was done to the images, in words
    held: str = ""  # the range of values that the images came in
    low: int = 0  # the darkest value of any image, of 255
    high: int = 255  # the lightest
    looked_at: int = 0  # images that were checked for faults
    faulty: dict[str, int] = field(default_factory=dict)  # how many of these have each fault
    same: str | None = None  # equal for the same images, however they were named; None if that is not known
    data: str | None = None  # the data set they are of, see `ImageSource`
    arrays: str = ""  # which arrays of a .npz these are, in words
    unused: list[str] = field(default_factory=list)  # the names of the other arrays there
    stored: bool = False  # whether mean and covariance come from a file, not from the images that were read


# --- from images to statistics ------------------------------------------------------------------------------------


def extract(
    source: ImageSource,
    network: FeatureNetwork,
    *,
    batch_size: int = 32,
    wanted: Iterable[str] = ("fid",),
    on_images: Callable[[int], None] | None = None,
) -> MeasuredSet:
    """Send all images of a source through the network. Memory holds one batch, and sums over the features.

    wanted: names of METRICS; they decide whether the features of every image are kept, in a file. on_images: called
    after each batch with the number of its images. Of large files, fewer than `batch_size` make a batch. Under torchrun
    the processes share the batches.
    """
    keep, keep_logits = bool(NEED_FEATURES & set(wanted)), "is" in wanted
    sums = FeatureStatistics(network.dims)
    found = MeasuredSet(
        source.name, source.count, sums.mean, sums.scatter, size=source.size, changes=source.changes,
        held=source.held, low=255, high=0, faulty=dict.fromkeys(FAULT_CAUSES, 0), same=source.same,
        data=source.data, arrays=source.arrays, unused=source.unused,
    )  # fmt: skip
    batch_size = min(batch_size, source.most or batch_size)
    for batch in source.batches(batch_size):
        features, logits = network.compute(batch)
        note_faults(found, batch)
        sums.update(features)
        if keep:
            append_in_order(found.features, features, batch_size)
        if keep_logits and logits is not None:
            append_in_order(found.logits, logits, batch_size)
        if on_images is not None:
            on_images(len(batch))
        del batch  # it would stay while the next one is decoded
    sums = merge_over_processes(sums)
    share_faults(found)
    if source.files is not None:
        found.changes = [*source.changes, *source.files.remarks()]
    found.count, found.mean, found.covariance = sums.count, sums.mean, sums.covariance
    return found


def usual_batch_size(network: FeatureNetwork, device: torch.device) -> int:
    """Return how many images go through the network together, if the user does not say."""
    return 32 if network.name == "inception" and device.type == "cpu" else 64


def note_faults(found: MeasuredSet, batch: Batch) -> None:
    """Note the range of values in a batch, and the faults of its first images."""
    for number, image in enumerate(batch):
        found.low, found.high = min(found.low, int(image.min())), max(found.high, int(image.max()))
        if number < LOOKED_AT:
            found.looked_at += 1
            for what, mask in faults(middle(image)[None]).items():
                found.faulty[what] += int(mask[0])


def middle(image: Pixels) -> Pixels:
    """Cut the middle, at most MIDDLE pixels a side, out of uint8 [H,W,3]: faults are looked for in float64."""
    top, left = (max(0, (side - MIDDLE) // 2) for side in image.shape[:2])
    return image[top : top + MIDDLE, left : left + MIDDLE]


def share_faults(found: MeasuredSet) -> None:
    """Give every process what `note_faults` has noted in all of them."""
    mine = torch.tensor([[found.low, found.high, found.looked_at, *found.faulty.values()]])
    everyone = distributed.gather_rows(mine, 1)
    found.low, found.high = int(everyone[:, 0].min()), int(everyone[:, 1].max())
    found.looked_at, *faulty = everyone[:, 2:].sum(dim=0).tolist()
    found.faulty = dict(zip(found.faulty, faulty, strict=True))


def append_in_order(file: RowFile, rows: Tensor, batch_size: int) -> None:
    """Append the rows of all processes, in the order of the images, to the main process's file."""
    everyone = distributed.gather_rows(rows, batch_size)
    if distributed.is_main():
        file.append(everyone)


def merge_over_processes(sums: FeatureStatistics) -> FeatureStatistics:
    """Merge the statistics of all processes, in the order of the processes, so that each gets the same."""
    if distributed.world_size() == 1:
        return sums
    of_each = [distributed.gather_rows(part[None], 1) for part in sums.parts()]
    total = FeatureStatistics(len(sums.mean))
    for count, mean, scatter in zip(*of_each, strict=True):
        total.merge(FeatureStatistics.from_parts(count, mean, scatter))
    return total


# --- statistics in place of images --------------------------------------------------------------------------------

SEEN = ("low", "high", "looked_at", "faulty", "same", "data")  # what is kept of a set beside its statistics


def statistics_of(found: MeasuredSet, network: FeatureNetwork) -> StoredStatistics:
    """Return what to store of a measured set, so that it can stand for its images another time."""
    seen = {name: getattr(found, name) for name in SEEN}
    about = {"minidiff": __version__} | asdict(network.identity) | {"seen": seen}
    return StoredStatistics(found.name, found.mean.numpy(), found.covariance.numpy(), found.count, about)


def check_stored(stored: StoredStatistics, network: FeatureNetwork) -> None:
    """Raise UserError if the statistics are of another feature network or mode."""
    if len(stored.mean) != network.dims:
        raise UserError(
            f"{stored.name} has statistics of {len(stored.mean)} features, this network has {network.dims}. They are "
            "of another feature network. Compute them again, or choose that network with `features` and `dims`."
        )
    for name, mine in asdict(network.identity).items():
        theirs = stored.about.get(name)
        if stored.about and theirs != mine:
            raise UserError(
                f"{stored.name} has statistics of another feature network: {name} {theirs}, here {mine}. "
                "Compute them again from the images, or measure with that network."
            )


def from_stored(stored: StoredStatistics, network: FeatureNetwork) -> MeasuredSet:
    """Take statistics from a file as a measured set. Raise UserError if they are of another feature network or mode."""
    check_stored(stored, network)
    origin = "statistics" if stored.about else "statistics that do not say their network and mode, taken for these"
    mean, covariance = torch.from_numpy(stored.mean), torch.from_numpy(stored.covariance)
    seen = {name: value for name, value in stored.about.get("seen", {}).items() if name in SEEN}
    return MeasuredSet(
        stored.name, stored.count, mean, covariance, changes=[origin], arrays=stored.arrays, unused=stored.unused,
        stored=True, **seen,
    )  # fmt: skip


def recall(
    source: ImageSource | StoredStatistics, network: FeatureNetwork, wanted: Iterable[str] = ("fid",)
) -> MeasuredSet | None:
    """Return what is known of a source without reading its images, or None if they must be read.

    That is its statistics file, or the cache if these images were measured before and statistics are enough for the
    wanted metrics. Raise UserError.
    """
    if isinstance(source, StoredStatistics):
        return from_stored(source, network)
    if source.statistics is not None and not needs_images(wanted):
        return from_stored(source.statistics, network)
    place = cache_place(source, network)
    if place is None or needs_images(wanted) or not distributed.from_main(place.exists()):
        return None
    try:
        found = from_stored(open_statistics(str(place)), network)
    except UserError:
        return None  # damaged, or from another version: measured anew and replaced
    LOG.info(f"found the statistics of {source.name} in the cache: {place}")
    found.name, found.size, found.data, found.stored = source.name, source.size, source.data, False
    found.arrays, found.unused = source.arrays, source.unused
    found.changes = [*source.changes, "statistics from the cache"]
    return found


def needs_images(wanted: Iterable[str]) -> bool:
    """Tell whether a metric needs more than mean and covariance."""
    return bool(set(wanted) & {*NEED_FEATURES, "is"})


def measure_set(
    source: ImageSource | StoredStatistics,
    network: FeatureNetwork,
    *,
    batch_size: int = 32,
    wanted: Iterable[str] = ("fid",),
    on_images: Callable[[int], None] | None = None,
) -> MeasuredSet:
    """Measure a source the shortest way: by `recall`, or else by `extract`, whose options these are."""
    found = recall(source, network, wanted)
    if found is not None:
        return found
    assert isinstance(source, ImageSource)
    found = extract(source, network, batch_size=batch_size, wanted=wanted, on_images=on_images)
    if source.statistics is not None:
        if needs_statistics(wanted):
            return with_statistics(found, source.statistics, network)
        return replace(found, unused=["mu", "sigma", *found.unused])
    if (place := cache_place(source, network)) and distributed.is_main():
        with suppress(OSError, UserError):  # a cache that cannot be written only costs time
            place.parent.mkdir(parents=True, exist_ok=True)
            save_statistics(place, statistics_of(found, network))
            LOG.info(f"stored the statistics of {source.name} in the cache: {place}")
    return found


def needs_statistics(wanted: Iterable[str]) -> bool:
    """Tell whether a metric needs mean and covariance."""
    return bool(set(wanted) & {"fid", "fid-inf"})


def with_statistics(images: MeasuredSet, stored: StoredStatistics, network: FeatureNetwork) -> MeasuredSet:
    """Put the statistics that a file holds in place of those of its images.

    They are of more images than the file has: ADM's reference batches hold those of a whole training set, and 10,000
    images for the other metrics.
    """
    of_file = from_stored(stored, network)
    return replace(
        images, count=of_file.count, mean=of_file.mean, covariance=of_file.covariance, stored=True,
        changes=[*of_file.changes, f"{images.count:,} images for the other metrics", *images.changes],
        arrays=f"{stored.arrays} for the Fréchet distance, otherwise {images.arrays}",
    )  # fmt: skip


def cache_place(source: ImageSource, network: FeatureNetwork) -> Path | None:
    """Return where the cache keeps these images' statistics in this network; None if they cannot be known again."""
    if source.fingerprint is None:
        return None
    known_by = [__version__, source.fingerprint, source.count, *asdict(network.identity).items()]
    key = hashlib.sha256(repr(known_by).encode()).hexdigest()
    return cache_dir() / "statistics" / f"{key[:24]}.npz"
