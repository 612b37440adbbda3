"""Statistics files: the mean and covariance of a set's features, kept so that they can stand for the images later.

Rests on numpy alone. The layout is the one of pytorch-fid, with a description of where the numbers come from.
"""

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import UserError, one_line
from minidiff.files import write_atomically


@dataclass
class StoredStatistics:
    """The mean and covariance of features, read from a file, in place of the images themselves."""

    name: str
    mean: NDArray[np.float64]  # [d]
    covariance: NDArray[np.float64]  # [d,d]
    count: int | None = None  # of images, if the file says it
    about: dict[str, Any] = field(default_factory=dict)  # what the file says of the network and the images; or nothing


def open_statistics(place: str) -> StoredStatistics:
    """Read the .npz that pytorch-fid, clean-fid and `save_statistics` write, with mu [d] and sigma [d,d]."""
    path = Path(place).expanduser()
    try:
        with np.load(path, allow_pickle=False) as stored:
            mean, covariance = stored["mu"], stored["sigma"]
            about = json.loads(str(stored["minidiff"])) if "minidiff" in stored else {}
        if not isinstance(about, dict) or not isinstance(about.get("seen", {}), dict):
            raise ValueError("its description is not a table")
    except (ValueError, KeyError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{place} is damaged ({one_line(error)}). Compute the statistics again.") from None
    if mean.dtype.kind not in "fiu" or covariance.dtype.kind not in "fiu":
        raise UserError(f"{place}: mu is {mean.dtype} and sigma {covariance.dtype}. Statistics are real numbers.")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not len(mean):
        raise UserError(
            f"{place}: mu is {list(mean.shape)} and sigma {list(covariance.shape)}, which do not fit. "
            "Statistics are [d] and [d,d]."
        )
    mean, covariance = mean.astype(np.float64), np.ascontiguousarray(covariance, np.float64)
    if not np.isfinite(mean).all() or not np.isfinite(covariance).all():
        raise UserError(f"{place} holds values that are not finite numbers. Compute the statistics again.")
    if not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-6 * np.abs(covariance).max()):
        raise UserError(f"{place}: sigma is not symmetric, so it is not a covariance. Compute the statistics again.")
    if (covariance.diagonal() < 0).any():
        raise UserError(
            f"{place}: sigma has a negative variance, so it is not a covariance. Compute the statistics again."
        )
    return StoredStatistics(place, mean, covariance, about.get("count"), about)


def save_statistics(path: Path, stored: StoredStatistics) -> None:
    """Write mu and sigma to a .npz that pytorch-fid reads, and beside them what they were computed with."""
    mu, sigma = stored.mean, stored.covariance
    about = np.array(json.dumps(stored.about | {"count": stored.count}))
    write_atomically(path, lambda file: np.savez(file, mu=mu, sigma=sigma, minidiff=about))
