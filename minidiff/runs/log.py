"""The log of a run, metrics.jsonl: a record a line, with the step and what was measured there.

Rests on files. Nothing in the file is believed before it is checked.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minidiff.errors import UserError, one_line, warn_once
from minidiff.files import regular, write_atomically
from minidiff.records import LARGEST_FLOAT

METRICS = "metrics.jsonl"


LARGEST_LOG, LONGEST_LINE = 256 << 20, 10_000  # bytes: a million steps take 5 MB, a line some 200
A_NAME = re.compile(r"[A-Za-z][\w .()-]{0,99}")  # of a value, such as "fd (classifier)"


def read_metrics(folder: Path, upto: int | None = None, whole: bool = False) -> list[dict[str, Any]]:
    """Read metrics.jsonl, up to a step. A last line that a kill cut short is left out.

    Every record has a step, and steps do not fall. A record of the training has a loss. A record of a measurement, such
    as one of the accuracy, has none. Values are finite numbers, or None. Any other line is left out, and a warning says
    so. whole: raise UserError instead, because the file will be written again without it. Raises UserError, too, for a
    file that cannot be read, or is larger than LARGEST_LOG.
    """
    path, records, wrong, last = folder / METRICS, [], [], 0
    if not path.exists():
        return []
    for number, line in enumerate(lines_of(path), 1):
        record = as_record(line)
        if record is None or record["step"] < last:
            wrong.append(number)
            continue
        last = record["step"]
        if upto is None or last <= upto:
            records.append(record)
    if wrong:
        lines = f"line {wrong[0]} is" if len(wrong) == 1 else f"{len(wrong)} lines, the first of them {wrong[0]}, are"
        if whole:
            raise UserError(f"{path}: {lines} not what a training writes. Mend or remove that.")
        warn_once(f"{path}: {lines} not what a training writes, and left out.")
    return records


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without their ends, the first LONGEST_LINE bytes of each.

    A last line without an end is left out: a kill cut it short. Raises UserError.
    """
    try:
        regular(path)
        if path.stat().st_size > LARGEST_LOG:
            raise UserError(f"{path} has more than {LARGEST_LOG >> 20} MB, which no training writes. Remove it.")
        with open(path, "rb") as file:
            while line := file.readline(LONGEST_LINE):
                rest = line
                while rest and not rest.endswith(b"\n"):
                    rest = file.readline(1 << 20)
                if rest or is_whole(line):
                    yield line.removesuffix(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or one_line(error)}). Remove it.") from None


def is_whole(line: bytes) -> bool:
    """Tell whether a last line without an end is a record all the same, as an editor may leave it."""
    return as_record(line) is not None


def as_record(line: bytes) -> dict[str, Any] | None:
    """Return what a line of metrics.jsonl says; None unless it is a record as `append_metrics` writes them."""
    try:
        record = json.loads(line) if len(line) < LONGEST_LINE else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not is_number(record.get("step")) or not isinstance(record["step"], int):
        return None
    values = all(A_NAME.fullmatch(name) and (value is None or is_number(value)) for name, value in record.items())
    return record if values and record["step"] >= 0 and record.get("loss", 0) is not None else None


def is_number(value: object) -> bool:
    """Tell whether a value is a finite number, no larger than float32 has them."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT


def seconds_of_steps(records: list[dict[str, Any]], batch_size: int) -> float:
    """Return how long the steps of a training took, from the speed in each record.

    It does not include the time for pictures and measurements, or for steps that were lost by a kill.
    """
    step, total = 0, 0.0
    for record in records:
        if (record.get("images_per_second") or 0) > 1e-6:
            total += (record["step"] - step) * batch_size / record["images_per_second"]
            step = record["step"]
    return total


def write_metrics(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write metrics.jsonl again: after a resume it must not hold steps that will be run once more."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(folder / METRICS, lambda file: file.write(text.encode()))


def append_metrics(folder: Path, record: Mapping[str, Any]) -> int:
    """Add a line. A kill can cut it short; `read_metrics` ignores such a line. Returns the size. Raises UserError."""
    check_there(folder)
    try:
        with open(folder / METRICS, "a") as file:
            file.write(json.dumps(record) + "\n")
            return file.tell()
    except OSError as error:
        raise UserError(f"cannot write {folder / METRICS}: {error.strerror}. Make room and resume.") from None


def name_of_loss(record: Mapping[str, Any]) -> str:
    """Return what the loss of a training is called: in a GAN, whose record has the critic's loss too, the generator's.

    record: one of the training.
    """
    return "generator loss" if any(name.endswith("_loss") for name in record) else "loss"


def check_there(folder: Path, size: int = 0) -> None:
    """Raise UserError unless a run folder is still there, with `size` bytes of metrics.jsonl or more.

    Otherwise the process at work in it would make the folder again for its next picture, or write into another run.
    """
    if not folder.is_dir():
        what = "was deleted or moved"
    elif size and not ((folder / METRICS).exists() and (folder / METRICS).stat().st_size >= size):
        what = "was emptied, or begun anew by another process,"
    else:
        return
    raise UserError(f"{folder} {what} while this process worked in it; stopped. Begin again, in another folder.")


def is_measurement(record: Mapping[str, Any]) -> bool:
    """Return whether a record comes from a measurement, not from the training itself."""
    return "loss" not in record
