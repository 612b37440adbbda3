"""What the cells of a study have left in its folder, and which model came nearest to which data.

Rests on study, whose folder this is. A cell that failed, or is not done, is as good a finding as any, and so is a file
that cannot be read.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minidiff.errors import UserError, listed
from minidiff.files import read_json
from minidiff.runs import folder as checkpoint
from minidiff.studies.study import CELLS, DATA, RESULT, RUN, STUDY


@dataclass
class Cell:
    """A model on a data set, as far as it came. state: done, failed, begun or new."""

    name: str
    data: str  # DATASET.CORRUPTION
    model: str
    folder: Path
    state: str
    result: dict[str, Any]

    def figure(self, metric: str) -> dict[str, Any] | None:
        """The value of a metric, with its title and, where known, low and high."""
        found: dict[str, Any] | None = self.result["metrics"].get(metric) if self.state == "done" else None
        return found

    @property
    def warnings(self) -> list[str]:
        """What looks wrong with its samples or its training: its distance may say little of how good they are."""
        return worded_list(self.result.get("warnings")) if self.state == "done" else []


@dataclass
class Study:
    """All of a folder that the page tells of."""

    folder: Path
    plan: dict[str, Any]  # study.json
    data: list[str]  # DATASET.CORRUPTION, in order
    models: list[str]
    cells: dict[tuple[str, str], Cell]  # by data and model
    floors: dict[str, dict[str, Any]]  # of each data set: the metrics between its test split and its training images
    metrics: dict[str, str]  # name -> title

    def row(self, data: str) -> list[Cell]:
        return [self.cells[data, model] for model in self.models if (data, model) in self.cells]

    def values(self, metric: str) -> list[float]:
        return [found["value"] for cell in self.cells.values() if (found := cell.figure(metric))]

    def title(self, data: str) -> tuple[str, str]:
        """The data set, and what was done to its images."""
        dataset, corruption = data.rsplit(".", 1)
        if corruption == "identity":
            return dataset, "clean"
        return dataset, f"{corruption.replace('_', ' ')}, severity {self.plan.get('severity', '?')}"

    @property
    def doubts(self) -> list[str]:
        """What could mislead in all of its distances."""
        return worded_list(self.plan.get("doubts"))


def read(folder: Path) -> Study:
    """A study's folder. Raises UserError where it is none."""
    plan = read_json(folder / STUDY)
    try:
        names, models = list(plan["cells"]), list(plan["models"])
        split = [name.rsplit(".", 1) for name in names]
        data = list(dict.fromkeys(place for place, _ in split))
        models += [model for _, model in split if model not in models]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / STUDY} lacks what a study has ({error}). Start it anew in another --out.") from None
    cells = {(place, model): read_cell(folder, f"{place}.{model}", place, model) for place, model in split}
    floors = {place: found for place in data if (found := read_floor(folder / DATA / place / RESULT))}
    known = [cell.result["metrics"] for cell in cells.values() if cell.state == "done"] + list(floors.values())
    metrics = {name: found.get("title", name) for of_one in reversed(known) for name, found in of_one.items()}
    order = [*dict.fromkeys(name for of_one in known for name in of_one)]
    return Study(folder, plan, data, models, cells, floors, {name: metrics[name] for name in order})


def worded_list(found: Any) -> list[str]:
    """The texts of a list that was read from a file; none where it is no list."""
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def read_cell(folder: Path, name: str, data: str, model: str) -> Cell:
    """A cell as far as it came; one whose result is damaged has failed."""
    place = folder / CELLS / name
    state, result = "begun" if (place / RUN / checkpoint.CONFIG).exists() else "new", {}
    if (place / RESULT).exists():
        try:
            result = read_json(place / RESULT)
            state = "failed" if "error" in result else "done"
            if state == "done":
                check(result["metrics"])
        except UserError as error:
            state, result = "failed", {"error": str(error)}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            state, result = "failed", {"error": f"{place / RESULT} is damaged ({error})."}
    return Cell(name, data, model, place, state, result)


def read_floor(path: Path) -> dict[str, Any]:
    """What the test split gets; nothing where there is none."""
    try:
        metrics: dict[str, Any] = read_json(path)["metrics"]
        check(metrics)
        return metrics
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def check(metrics: dict[str, Any]) -> None:
    """Raises one of several errors unless all values are numbers."""
    for found in metrics.values():
        float(found["value"]), float(found.get("low") or 0), float(found.get("high") or 0)


# --- who is nearest ------------------------------------------------------------------------------------------------


def headline(study: Study) -> str:
    """Who is nearest to the data, how often, whether that is sure, and whether there is a warning about it."""
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
        text += f" {where} intervals of the nearest and of another overlap: those two are not told apart."
    if suspect := [best for best, _ in nearest if best.warnings]:
        titles = [(best.model, *study.title(best.data)) for best in suspect[:NAMED]]
        named = [f"{model} on {dataset} ({corruption})" for model, dataset, corruption in titles]
        more = [f"{len(suspect) - NAMED} more"] * (len(suspect) > NAMED)
        first = suspect[0].warnings[0].rstrip(".").partition(". ")[0]
        text += f" But there are warnings about {listed([*named, *more])}: {first}."
        text += " A low distance of such samples does not make them good pictures."
    return text


NAMED = 3  # cells with warnings that the headline names


def ranked(study: Study, data: str, metric: str) -> tuple[Cell | None, list[Cell]]:
    """The cell that is nearest to its data, a lower value being nearer, and those whose intervals overlap its own. It
    takes two that are measured: None where there are not."""
    measured = [(found, cell) for cell in study.row(data) if (found := cell.figure(metric))]
    if len(measured) < 2:
        return None, []
    (best, cell), *others = sorted(measured, key=lambda pair: pair[0]["value"])
    return cell, [other for found, other in others if end(found, "low") <= end(best, "high")]


def end(found: dict[str, Any], which: str) -> float:
    """The low or high end of an interval; the value itself where there is none."""
    return float(found["value"] if found.get(which) is None else found[which])
