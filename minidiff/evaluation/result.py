"""The figures of an evaluation as a file: result.json. Nothing here needs torch."""

from collections.abc import Mapping
from pathlib import Path

from typing_extensions import Required, TypedDict

from minidiff.errors import UserError
from minidiff.evaluation.config import RESULT, read_config
from minidiff.files import read_json, write_json
from minidiff.records import from_json


class Estimate(TypedDict, total=False):
    """A mean over seeds; with two seeds or more, also its standard error and Student's 95% interval."""

    value: Required[float]
    se: float
    low: float
    high: float
    each: list[float]  # of each seed


class Confusion(TypedDict):
    """A label that was asked for and missed, and the label seen in its place; None if none is seen."""

    asked: str
    seen: str | None
    times: float


class ListFigures(TypedDict, total=False):
    """All figures of a list."""

    conditions: Required[int]
    seeds: Required[list[int]]
    score: Required[Estimate]
    per_image: Estimate
    exact: Estimate  # not there where the outputs compete: then it is the score
    by_count: dict[str, dict[str, float]]  # of the pictures with this many labels
    by_label: dict[str, dict[str, float]]
    confusions: list[Confusion]


class Lists(TypedDict):
    """The part of result.json that has the figures."""

    lists: dict[str, ListFigures]


def write_result(folder: Path, found: Mapping[str, ListFigures]) -> None:
    """Write the settings and the figures of every list. The figures of earlier lists stay."""
    about = {key: value for key, value in read_config(folder).stored().items() if key != "kind"}
    try:
        before: Mapping[str, object] = read_json(folder / RESULT)["lists"]
    except (UserError, KeyError):
        before = {}
    before = before if isinstance(before, dict) else {}
    write_json(folder / RESULT, about | {"lists": {**before, **found}})


def read_lists(folder: Path) -> dict[str, ListFigures]:
    """Read the figures of every list; nothing before the evaluation is finished. Raises UserError."""
    path = folder / RESULT
    if not path.exists():
        return {}
    mend = f"The same `minidiff evaluate`, with {folder} as `out`, writes it again."
    stored = read_json(path, mend)
    try:
        return from_json(Lists, {"lists": stored.get("lists")}, path)["lists"]
    except UserError as error:
        raise UserError(f"{error} The file is damaged. {mend}") from None
