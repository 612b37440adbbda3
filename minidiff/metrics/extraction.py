"""One side of a comparison: a set of images sent through a feature network, and what is then known of it.

extract() takes the images batch by batch and keeps running sums, the features themselves only where a metric needs
them; measured() goes the shortest way: statistics out of a file, out of the cache, or by extract(). Rests on sources
(the images), features (the network), frechet (the sums) and faults (what looks wrong).
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from weakref import finalize

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff._version import __version__
from minidiff.data.cache import cache_dir
from minidiff.errors import UserError
from minidiff.images.faults import FAULT_CAUSES, faults
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.frechet import FeatureStatistics
from minidiff.metrics.sources import Batch, Source, Stored, open_statistics, save_statistics
from minidiff.runtime import distributed

NEED_FEATURES = {"kid", "prec-recall", "fid-inf"}  # of every image; the other metrics need running sums only
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
        stored = open_statistics(str(place))
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
