"""Statistics files: the mean and covariance of a set's features, kept so that they can stand for the images later.

Rests on arrays. The layout is the one of pytorch-fid, with a description of where the numbers come from.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.arrays import ArrayFile, open_npz
from minidiff.errors import UserError, shown
from minidiff.files import write_atomically
from minidiff.images.faults import FAULT_CAUSES
from minidiff.records import demand, from_json, record

MOST_DIMS = 16_384  # features; the covariance of more than these would need gigabytes
LARGEST = 1e100  # of any value: the squares of larger ones leave the range of float64
DESCRIPTION, LONGEST = "minidiff", 1 << 20  # the array with what a file says of itself, and its most bytes


@dataclass
class StoredStatistics:
    """The mean and covariance of features, read from a file, in place of the images themselves."""

    name: str
    mean: NDArray[np.float64]  # [d]
    covariance: NDArray[np.float64]  # [d,d]
    count: int | None = None  # of images, if the file says it
    about: dict[str, Any] = field(default_factory=dict)  # what the file says of the network and the images; or nothing
    arrays: str = ""  # which arrays of the file these are, in words
    unused: list[str] = field(default_factory=list)  # the names of its other arrays


@record
class Seen:
    """What was noticed of the images behind the statistics, see `MeasuredSet`."""

    low: int = 0
    high: int = 255
    looked_at: int = 0
    faulty: dict[str, int] = field(default_factory=dict)
    same: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        demand(0 <= self.low <= 255 and 0 <= self.high <= 255, "low", self.low, "bytes")
        odd = [what for what, count in self.faulty.items() if what not in FAULT_CAUSES or count < 0]
        demand(not odd and self.looked_at >= 0, "faulty", self.faulty, f"numbers of {', '.join(FAULT_CAUSES)}")


@record
class About:
    """What a file of statistics says of itself. Files of other packages say nothing."""

    minidiff: str | None = None  # the version that wrote it
    network: str | None = None  # this and the next three: see `FeatureIdentity`
    mode: str | None = None
    dims: int | None = None
    weights: str | None = None
    count: int | None = None  # of images
    seen: Seen | None = None
    fingerprint: str | None = None  # of the images

    def __post_init__(self) -> None:
        demand(self.count is None or self.count >= 1, "count", self.count, "a number of images")


def open_statistics(place: str) -> StoredStatistics:
    """Read the .npz that pytorch-fid, clean-fid and `save_statistics` write, with mu [d] and sigma [d,d]."""
    return read_statistics(place, open_npz(Path(place).expanduser()))


def read_statistics(place: str, arrays: Mapping[str, ArrayFile]) -> StoredStatistics:
    """Read mu and sigma out of the arrays of a .npz file. Raise UserError unless they are a mean and a covariance."""
    if missing := [name for name in ("mu", "sigma") if name not in arrays]:
        raise UserError(f"{place} holds no {missing[0]}. Statistics are mu [d] and sigma [d,d].")
    mu, sigma = arrays["mu"], arrays["sigma"]
    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise UserError(f"{place}: mu is {mu.described} and sigma {sigma.described}. Statistics are real numbers.")
    if len(mu.shape) != 1 or sigma.shape != (*mu.shape, *mu.shape) or not 0 < mu.shape[0] <= MOST_DIMS:
        raise UserError(
            f"{place}: mu is {shown(list(mu.shape))} and sigma {shown(list(sigma.shape))}, which do not fit. "
            f"Statistics are [d] and [d,d], of at most {MOST_DIMS:,} features."
        )
    with np.errstate(over="ignore"):  # of numbers wider than float64, which are refused in the next line
        mean, covariance = mu.whole().astype(np.float64), np.ascontiguousarray(sigma.whole(), np.float64)
    if not (np.abs(mean) < LARGEST).all() or not (np.abs(covariance) < LARGEST).all():
        raise UserError(
            f"{place} holds values that are not finite numbers, or beyond {LARGEST:g}. Compute the statistics again."
        )
    if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-6 * np.abs(covariance).max()):
        raise UserError(f"{place}: sigma is not symmetric, so it is not a covariance. Compute the statistics again.")
    if (covariance.diagonal() < 0).any():
        raise UserError(
            f"{place}: sigma has a negative variance, so it is not a covariance. Compute the statistics again."
        )
    about = read_about(place, arrays[DESCRIPTION]) if DESCRIPTION in arrays else {}
    return StoredStatistics(place, mean, covariance, about.get("count"), about, "mu and sigma")


def read_about(place: str, array: ArrayFile) -> dict[str, Any]:
    """Read what `save_statistics` wrote beside the numbers. Raise UserError if it is something else."""
    again = "Compute the statistics again."
    if array.dtype.kind != "U" or array.shape:
        raise UserError(f"{place}: the array minidiff is {array.described}, not a description. {again}")
    try:
        about = json.loads(str(array.whole(LONGEST)))
        known = {key: value for key, value in about.items() if key in About.__dataclass_fields__}  # of any version
        if isinstance(known.get("seen"), dict):
            known["seen"] = {key: value for key, value in known["seen"].items() if key in Seen.__dataclass_fields__}
        from_json(About, known, place)
    except UserError as error:
        raise UserError(f"{error} {again}") from None
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"{place}: its description is damaged. {again}") from None
    return known


def save_statistics(path: Path, stored: StoredStatistics) -> None:
    """Write mu and sigma to a .npz that pytorch-fid reads, and beside them what they were computed with."""
    mu, sigma = stored.mean, stored.covariance
    about = np.array(json.dumps(stored.about | {"count": stored.count}))
    write_atomically(path, lambda file: np.savez(file, mu=mu, sigma=sigma, minidiff=about))
