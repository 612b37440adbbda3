"""The results of a study, read from its folder, and which model came nearest to which data.

A cell that failed or is not finished is reported like any other, and so is a file that cannot be read.
Rests on study, the folder of a study.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from minidiff.errors import UserError, listed, one_line, shown
from minidiff.files import read_json
from minidiff.records import LARGEST_INT, demand_range, from_json, record
from minidiff.runs import folder as run_folder
from minidiff.studies.config import data_of, model_of
from minidiff.studies.study import CELLS, DATA, RESULT, RUN, STUDY

A_NAME = re.compile(r"\w[\w.+-]{0,199}")  # of a cell, a data set, a corruption or a model


@record
class Figure:
    """A metric of a set of images, with its 95% interval if that is known."""

    value: float
    title: str = ""  # what the number may be called
    low: float | None = None
    high: float | None = None

    @property
    def span(self) -> tuple[float, float]:
        """Return the ends of the interval; the value itself for both if there is no interval."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


@record
class CellResult:
    """The result.json of a cell that is done."""

    metrics: dict[str, Figure]  # by name: fid, kid
    cell: str = ""
    dataset: str = ""
    corruption: str = ""
    model: str = ""
    severity: int = 0
    seed: int = 0  # of the training and the samples
    num: int = 0  # samples
    steps: int = 0  # of the training
    parameters: int = 0  # of the network that draws
    seconds: dict[str, float] = field(default_factory=dict)  # to train, sample and measure
    warnings: tuple[str, ...] = ()  # what looks wrong with the samples or the training

    def __post_init__(self) -> None:
        demand_range(self, 0, LARGEST_INT, "num", "steps", "parameters")


@record
class CellFailure:
    """The result.json of a cell that failed."""

    error: str
    cell: str = ""
    dataset: str = ""
    corruption: str = ""
    model: str = ""
    severity: int = 0


@record
class RealResult:
    """The result.json of data: the distance of its test split, which perfect samples would have."""

    metrics: dict[str, Figure]
    cell: str = ""  # DATASET.CORRUPTION
    dataset: str = ""
    corruption: str = ""
    severity: int = 0
    num: int = 0  # images of the test split


def read_result(folder: Path, cell: str) -> CellResult | CellFailure | None:
    """Read the result.json of a cell; None if there is none. A damaged one counts as a failure."""
    path = folder / CELLS / cell / RESULT
    if not path.exists():
        return None
    try:
        stored = read_json(path)
        if "error" in stored:
            return from_json(CellFailure, stored, path)
        return from_json(CellResult, stored, path)
    except UserError as error:
        return CellFailure(f"{error} The file is damaged.")


def read_state(folder: Path, cell: str) -> str:
    """Say how far a cell is: done, failed, begun or new."""
    result = read_result(folder, cell)
    if result is None:
        return "begun" if (folder / CELLS / cell / RUN / run_folder.CONFIG).exists() else "new"
    return "failed" if isinstance(result, CellFailure) else "done"


# --- for the page -------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """A model on a data set, as far as it came: a training with one seed, or with several.

    With several, name, folder and result are those of the first seed, and `repeats` holds a cell for each.
    """

    name: str
    data: str  # DATASET.CORRUPTION
    model: str
    folder: Path
    state: str  # done, failed, begun or new
    result: CellResult | CellFailure | None
    repeats: tuple["Cell", ...] = ()

    @property
    def each(self) -> tuple["Cell", ...]:
        """Return a cell for each seed."""
        return self.repeats or (self,)

    @property
    def done(self) -> CellResult | None:
        """Return the result of a cell that is done; None of any other."""
        return self.result if isinstance(self.result, CellResult) else None

    @property
    def error(self) -> str:
        """Return why the cell failed; nothing if it did not."""
        return self.result.error.replace("`", "") if isinstance(self.result, CellFailure) else ""

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """Return what was measured, by the name of the metric; nothing where the cell is not done.

        Of several seeds it is their mean, from the lowest to the highest: the scatter of whole trainings, which is more
        than the interval of one. See `over_seeds`.
        """
        return over_seeds([cell.done.metrics for cell in self.each if cell.done])

    @property
    def warnings(self) -> tuple[str, ...]:
        """List what looks wrong with its samples or its training. If there is a warning, do not trust the distance."""
        return tuple(dict.fromkeys(said for cell in self.each if cell.done for said in cell.done.warnings))


def over_seeds(figures: Sequence[Mapping[str, Figure]]) -> Mapping[str, Figure]:
    """Return the mean of each metric over several seeds, with the lowest and the highest; of one seed, what it has."""
    if len(figures) <= 1:
        return figures[0] if figures else {}
    found = {}
    for name, first in figures[0].items():
        values = [of_one[name].value for of_one in figures if name in of_one]
        found[name] = Figure(fmean(values), first.title, min(values), max(values))
    return found


@dataclass
class Findings:
    """The content of a study's folder, as the page needs it."""

    folder: Path
    plan: Mapping[str, Any]  # study.json, as it is: the page shows what it can
    data: list[str]  # DATASET.CORRUPTION, in order
    models: list[str]
    cells: dict[tuple[str, str], Cell]  # by data and model, all seeds together
    floors: dict[
        str, Mapping[str, Figure]
    ]  # of each data set: the metrics between its test split and its training images
    metrics: dict[str, str]  # name -> title

    def row(self, data: str) -> list[Cell]:
        """Return the cells of one data set."""
        return [self.cells[data, model] for model in self.models if (data, model) in self.cells]

    @property
    def each(self) -> list[Cell]:
        """Return every cell, a cell for each seed."""
        return [one for cell in self.cells.values() for one in cell.each]

    @property
    def seeds(self) -> int:
        """Return how many seeds the cells have."""
        return max((len(cell.each) for cell in self.cells.values()), default=1)

    def values(self, metric: str) -> list[float]:
        """Return the values of a metric in all cells that are done."""
        return [cell.figures[metric].value for cell in self.cells.values() if metric in cell.figures]

    def title(self, data: str) -> tuple[str, str]:
        """Name the data set and its corruption."""
        dataset, corruption = data.rsplit(".", 1)
        if corruption == "identity":
            return dataset, "clean"
        return dataset, f"{corruption.replace('_', ' ')}, severity {self.plan.get('severity', '?')}"

    @property
    def doubts(self) -> list[str]:
        """List what could make all of its distances mislead."""
        return texts_of(self.plan.get("doubts"))


def read_findings(folder: Path) -> Findings:
    """Read a study's folder, for the page. Raise UserError if it is not one.

    The page shows what it can, so study.json is read less strictly here than where a study goes on.
    """
    plan = read_json(folder / STUDY)
    try:
        names, models = names_in(plan, "cells"), names_in(plan, "models")
        for name in ("datasets", "corruptions"):
            names_in({name: [], **plan}, name)
        for name in ("num", "seed", "severity", "image_size", "seeds"):
            value = plan.get(name)
            if not isinstance(value, int | None) or (value is not None and not 0 <= value <= LARGEST_INT):
                raise ValueError(f'"{name}" is {shown(value)}, and no whole number')
        data = list(dict.fromkeys(data_of(name) for name in names))
        models += [model for name in names if (model := model_of(name)) not in models]
        if any("." not in place for place in data):
            raise ValueError("a cell is named DATASET.CORRUPTION.MODEL")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / STUDY} lacks what a study has ({one_line(error)}). Begin anew in another folder."
        ) from None
    groups: dict[tuple[str, str], list[Cell]] = {}
    for name in names:
        groups.setdefault((data_of(name), model_of(name)), []).append(read_cell(folder, name))
    cells = {place: together(of_one) for place, of_one in groups.items()}
    floors = {place: found for place in data if (found := read_floor(folder / DATA / place / RESULT))}
    known = [cell.figures for cell in cells.values()] + list(floors.values())
    metrics = {name: found.title or name for of_one in reversed(known) for name, found in of_one.items()}
    order = [*dict.fromkeys(name for of_one in known for name in of_one)]
    return Findings(folder, plan, data, models, cells, floors, {name: metrics[name] for name in order})


def names_in(plan: Mapping[str, Any], key: str) -> list[str]:
    """Return the names of a list in study.json. Raises ValueError unless all of them can name a folder."""
    found = plan[key]
    if not isinstance(found, list) or not all(isinstance(name, str) and A_NAME.fullmatch(name) for name in found):
        raise ValueError(f'"{key}" is {shown(found)}, not a list of names')
    return list(found)


def texts_of(found: object) -> list[str]:
    """Return the texts of a list that was read from a file; none if it is not a list."""
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def read_cell(folder: Path, name: str) -> Cell:
    """Read a cell as far as it came. A cell whose result is damaged has failed."""
    place = folder / CELLS / name
    return Cell(name, data_of(name), model_of(name), place, read_state(folder, name), read_result(folder, name))


def together(cells: Sequence[Cell]) -> Cell:
    """Put the cells of all seeds together. All must be done before the whole is."""
    first, *others = cells
    if not others:
        return first
    state = next((state for state in ("failed", "begun", "new") if any(cell.state == state for cell in cells)), "done")
    result = next((cell.result for cell in cells if cell.state == "failed"), first.result)
    return replace(first, state=state, result=result, repeats=tuple(cells))


def read_floor(path: Path) -> Mapping[str, Figure]:
    """Read the metrics of the test split; nothing if there are none."""
    try:
        return from_json(RealResult, read_json(path), path).metrics
    except UserError:
        return {}


# --- who is nearest ------------------------------------------------------------------------------------------------


def headline(study: Findings) -> str:
    """Say which model is nearest to the data, for how many sets, with what certainty, and with which warning."""
    metric = next(iter(study.metrics), "")
    found = [ranked(study, data, metric) for data in study.data]
    nearest = [(best, ties) for best, ties in found if best is not None]
    if not nearest:
        return "Nothing to compare yet: no two models are measured on the same data."
    wins = Counter(best.model for best, _ in nearest).most_common()
    parts = [f"{model} in {times}" + f" of {len(nearest)}" * (place == 0) for place, (model, times) in enumerate(wins)]
    text = f"Nearest to the data by {study.metrics[metric]}: {listed(parts) if len(nearest) > 1 else wins[0][0]}."
    if unsure := sum(bool(ties) for _, ties in nearest):
        where = f"In {unsure} of these the" if len(nearest) > 1 else "The"
        spans = "intervals" if study.seeds == 1 else "ranges over the seeds"
        text += f" {where} {spans} of the nearest and of another overlap: these two cannot be told apart."
    if suspect := [best for best, _ in nearest if best.warnings]:
        titles = [(best.model, *study.title(best.data)) for best in suspect[:NAMED]]
        named = [f"{model} on {dataset} ({corruption})" for model, dataset, corruption in titles]
        more = [f"{len(suspect) - NAMED} more"] * (len(suspect) > NAMED)
        first = suspect[0].warnings[0].rstrip(".").partition(". ")[0]
        text += f" But there are warnings about {listed([*named, *more])}: {first}."
        text += " A low distance does not make such samples good pictures."
    return text


NAMED = 3  # cells with warnings that the headline names


def ranked(study: Findings, data: str, metric: str) -> tuple[Cell | None, list[Cell]]:
    """Return the cell with the lowest value, and the cells whose intervals overlap with its own.

    If fewer than two cells are measured, the first is None.
    """
    measured = [(cell.figures[metric], cell) for cell in study.row(data) if metric in cell.figures]
    if len(measured) < 2:
        return None, []
    (best, cell), *others = sorted(measured, key=lambda pair: pair[0].value)
    return cell, [other for found, other in others if found.span[0] <= best.span[1]]
