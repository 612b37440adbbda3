"""The log of a run, metrics.jsonl: a record a line, with the step and what was measured there.

Rests on files.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minidiff.errors import UserError
from minidiff.files import regular, write_atomically

METRICS = "metrics.jsonl"


def read_metrics(folder: Path, upto: int | None = None) -> list[dict[str, Any]]:
    """Read metrics.jsonl, up to a step. A last line that a kill cut short is left out.

    Every record has a step. A record of the training has a loss. A record of a measurement, such as one of the
    accuracy, has none.
    """
    records = []
    path = folder / METRICS
    for line in regular(path).read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            int(record["step"]), float(record.get("loss", 0))
            if upto is None or record["step"] <= upto:
                records.append(record)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return records


def seconds_of_steps(records: list[dict[str, Any]], batch_size: int) -> float:
    """Return how long the steps of a training took, from the speed in each record.

    It does not include the time for pictures and measurements, or for steps that were lost by a kill.
    """
    step, total = 0, 0.0
    for record in records:
        if record.get("images_per_second"):
            total += (record["step"] - step) * batch_size / record["images_per_second"]
            step = record["step"]
    return total


def write_metrics(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write metrics.jsonl again: after a resume it must not hold steps that will be run once more."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(folder / METRICS, lambda file: file.write(text.encode()))


def append_metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Add a line. A kill can cut it short; `read_metrics` ignores such a line."""
    try:
        with open(folder / METRICS, "a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {folder / METRICS}: {error.strerror}. Make room and resume.") from None


def is_measurement(record: Mapping[str, Any]) -> bool:
    """Return whether a record comes from a measurement, not from the training itself."""
    return "loss" not in record
