"""The measurements of a study of priors: distances as in every study, and two numbers that say what is behind them.

diversity   the mean distance between two samples, in features. Below that of real images, samples are too alike.
nearest     the mean distance from a sample to the training image nearest to it, in features. Below that of real images
            which the training has not seen, samples are copies, or show what a prior has told them of training images.

Rests on measuring.
"""

import json
from dataclasses import field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from minidiff.errors import UserError
from minidiff.files import write_atomically
from minidiff.records import from_json, record, to_json
from minidiff.studies.results import Figure

MEASURED = "measured.jsonl"  # of a cell: a `Measurement` a line
AT_ONCE = 512  # samples whose distances to all others are held in memory


@record
class Measurement:
    """The samples of a cell after so many steps: what they cost, and how good they are."""

    step: int  # of the DDPM; 0 for a prior alone
    share: float  # of the usual calls, see `prior_config.SHARES`
    calls: int  # of the DDPM for a sample
    prior_calls: int  # of the prior for a sample
    train_seconds: float  # of the training so far, with that of the prior
    sample_seconds: float  # to draw a sample, with its prior
    metrics: dict[str, Figure] = field(default_factory=dict)  # by name: fid, kid, diversity, nearest

    @property
    def evaluations(self) -> int:
        """Return how many networks a sample goes through, the prior's own included."""
        return self.calls + self.prior_calls


def read_measured(place: Path) -> list[Measurement]:
    """Read the measurements of a cell. A line that is damaged is left out, and is measured again."""
    found: list[Measurement] = []
    try:
        lines = (place / MEASURED).read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            found.append(from_json(Measurement, json.loads(line), place / MEASURED))
        except (UserError, ValueError, TypeError, RecursionError):
            continue
    return found


def write_measured(place: Path, measured: list[Measurement]) -> None:
    """Write the measurements of a cell, whole or not at all."""
    text = "".join(json.dumps(to_json(one)) + "\n" for one in measured)
    write_atomically(place / MEASURED, lambda file: file.write(text.encode()))


def spread(features: NDArray[np.float32], kept: NDArray[np.float32]) -> dict[str, Figure]:
    """Return diversity and nearest of samples from their features [n,d], n >= 2, and those of training images [m,d]."""
    made, real = (torch.from_numpy(np.array(rows, np.float64)) for rows in (features, kept))
    total, nearest = 0.0, 0.0
    for some in made.split(AT_ONCE):
        total += apart(some, made).sum().item()
        nearest += apart(some, real).min(dim=1).values.sum().item()
    count = len(made)
    return {
        "diversity": Figure(total / (count * (count - 1)), "diversity"),
        "nearest": Figure(nearest / count, "distance to the nearest training image"),
    }


def apart(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean distances [n,m] of rows [n,d] to others [m,d]; a row is exactly 0 from itself."""
    return torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist")
