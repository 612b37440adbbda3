"""The page of a study: how near each model came to each data set, with pictures, curves and settings.

Rests on studies/results (what there is), page and charts. It is written anew after each cell, so it also shows how far
a study is.
"""

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from minidiff.classifier.knowledge import knowledge_of
from minidiff.errors import UserError, listed
from minidiff.reports import page, prior_report
from minidiff.reports.charts import panels, shades
from minidiff.runs.log import read_metrics
from minidiff.studies.config import as_typed
from minidiff.studies.results import Cell, Figure, Findings, headline, ranked, read_findings
from minidiff.studies.study import DATA, GRID, REAL, RESULT, RUN

REPORT = "report.html"
STATES = {"done": "not measured", "failed": "failed", "begun": "in training", "new": "not yet"}
APART = (
    "Compare models within a row: each row is shaded by itself, from its lowest distance on. Do not compare rows: "
    "blurred or foggy images are more alike than clean ones, so any distance among them is smaller."
)
NAMED = {"severity": "severity", "image_size": "image size", "num": "samples a cell", "seed": "seed", "seeds": "seeds",
         "features": "measured in", "device": "device"}  # fmt: skip
AGAIN = (
    "With the same --out it goes on where it stopped, and does not repeat the cells that are done. Add --retry to "
    "repeat those that failed."
)


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a study as it stands: STUDY/report.html, unless `out` names another place. Raises UserError."""
    study = read_findings(Path(folder))
    return study_page(study).write(Path(out) if out else study.folder / REPORT)


def study_page(study: Findings) -> page.Page:
    """Make the page of a study."""
    kind = f"A study of {listed(study.models)} on {listed([*dict.fromkeys(study.title(d)[0] for d in study.data)])}"
    ended = [path.stat().st_mtime for cell in study.each if (path := cell.folder / RESULT).exists()]
    when = time.strftime("The last cell ended %Y-%m-%d %H:%M UTC.", time.gmtime(max(ended))) if ended else ""
    of_priors = prior_report.is_of_priors(study)
    repeat = prior_report.command(study) if of_priors else command(study)
    sections = {
        "Overview": heat_maps(study),
        "Distances": distances(study),
        **(prior_report.sections(study) if of_priors else {}),
        "Samples": samples(study),
        "Learning curves": curves(study),
        "Warnings": warnings(study),
        "Settings": settings(study),
        "Times and sizes": times(study),
        "How to repeat it": [page.Text(repeat, tag="pre"), page.Text(AGAIN, "soft")],
    }
    return page.Page(study.folder.resolve().name, kind, head(study), sections, when or "No cell has ended yet.")


def head(study: Findings) -> page.Blocks:
    """Make the head of the page: the result, the doubts, and the progress."""
    cells = study.each
    count = {state: sum(cell.state == state for cell in cells) for state in STATES}
    spent = sum(sum(cell.done.seconds.values()) for cell in cells if cell.done)
    still = count["begun"] + count["new"]
    told = f"{count['failed']} of the {len(cells)} cells failed. " * bool(count["failed"])
    told += f"{still} of {len(cells)} cells {'is' if still == 1 else 'are'} still to be done." * bool(still)
    side = study.plan.get("image_size", "?")
    tiles = page.Facts({
        "cells done": f"{count['done']} of {len(cells)}",
        "samples a cell": page.number(float(study.plan.get("num", 0))),
        "pixels": f"{side} × {side}",  # noqa: RUF001
        "spent so far" if still else "spent": page.duration(spent),
    }, tiles=True)  # fmt: skip
    progress = [page.Text(told.strip(), "bad" if count["failed"] else "soft")] * bool(told)
    doubts = [page.Text(doubt, "bad") for doubt in study.doubts]
    doubts += [page.Text(prior_report.CAUTION, "soft")] * prior_report.is_of_priors(study)
    return [page.Text(headline(study), "lead"), *doubts, *progress, tiles]


# --- the numbers --------------------------------------------------------------------------------------------------


def heat_maps(study: Findings) -> page.Blocks:
    """Make a map for each metric: data down, models across, the nearest of each row marked, real images beside them."""
    maps: list[page.Block] = []
    for metric in study.metrics:
        if values := study.values(metric):
            names = ["", *study.models, *["real images"] * bool(study.floors)]
            rows = [heat_row(study, data, metric, values) for data in study.data]
            maps += [page.Table(names, rows, "l" * len(names), study.metrics[metric], look="heat")]
    return [*maps, page.Text(APART, "soft")] if maps else []


def heat_row(study: Findings, data: str, metric: str, values: Sequence[float]) -> page.Row:
    """Make the row of a data set in the map of a metric. values: all of the map, for the decimals."""
    digits, (best, _) = decimals(values), ranked(study, data, metric)
    measured = [cell.figures[metric].value for cell in study.row(data) if metric in cell.figures]
    shade = shades(measured or values)  # a row of which nothing is done yet has nothing to shade
    dataset, corruption = study.title(data)
    row = [page.Cell(dataset, small=corruption)]
    for model in study.models:
        cell = study.cells.get((data, model))
        found = cell.figures.get(metric) if cell else None
        if cell is None or found is None:
            state = cell.state if cell else "new"
            row.append(page.Cell(STATES[state], "failed" if state == "failed" else "none"))
            continue
        said = "warning" if cell.warnings else ""
        row.append(page.Cell(page.number(found.value, digits), shade(found.value), bold=cell is best, small=said))
    floor = study.floors.get(data, {}).get(metric)
    real = [page.Cell(page.number(floor.value, digits) if floor else "-", "real")] * bool(study.floors)
    return page.Row([*row, *real])


def distances(study: Findings) -> page.Blocks:
    """Make a table of every value with its interval: by data, the nearest model first, real images last."""
    if not study.metrics:
        return []
    main, *others = study.metrics
    names = ["", study.metrics[main], "", *(study.metrics[metric] for metric in others)]
    rows = []
    for data in study.data:
        title = page.Cell(", ".join(study.title(data)), across=len(names))
        rows += [page.Row([title], "group"), *distance_rows(study, data, len(names))]
    said = "Lower is nearer to the training images; the 95% interval is in brackets."
    if study.seeds > 1:
        said = (
            f"Lower is nearer to the training images. Each value is the mean over those of {study.seeds} seeds that "
            "are done; the lowest and the highest are in brackets."
        )
    if study.floors:
        said += " Real images are those of the test split: perfect samples would get their distance."
    return [page.Text(said, "soft"), page.Table(names, rows, "l" * len(names))]


def distance_rows(study: Findings, data: str, columns: int) -> list[page.Row]:
    """Make the rows of one data set."""
    main, *others = study.metrics
    digits = {metric: decimals(study.values(metric)) for metric in study.metrics}
    best, ties = ranked(study, data, main)
    floor = study.floors.get(data, {})
    known = [figures[main] for figures in (*(cell.figures for cell in study.row(data)), floor) if main in figures]
    ends = [end for found in known for end in found.span]
    span = (min(0.0, *ends), max(ends)) if ends else (0.0, 1.0)

    def line(name: str, figures: Mapping[str, Figure], look: str, chips: Sequence[tuple[str, str]] = ()) -> page.Row:
        found = figures[main]
        place = page.bar(found.value, found.low, found.high, span)
        more = [value_cell(figures.get(metric), digits[metric]) for metric in others]
        return page.Row([page.Cell(name), value_cell(found, digits[main], chips), page.Cell(bar=place), *more], look)

    rows = []
    for cell in sorted(
        study.row(data), key=lambda cell: cell.figures[main].value if main in cell.figures else math.inf
    ):
        if main not in cell.figures:
            why = page.Cell(cell.error or STATES[cell.state], "bad" if cell.error else "soft", across=columns - 1)
            rows.append(page.Row([page.Cell(cell.model), why]))
            continue
        crowned = cell is best and not cell.warnings
        chips = [("nearest", "best" if crowned else "")] * (cell is best) + [("not told apart", "")] * (cell in ties)
        chips += [("see Warnings", "bad")] * bool(cell.warnings)
        rows.append(line(cell.model, cell.figures, "best" if crowned else "", chips))
    return [*rows, line("real images", floor, "floor")] if main in floor else rows


def value_cell(found: Figure | None, digits: int, chips: Sequence[tuple[str, str]] = ()) -> page.Cell:
    """Make a cell of a value and its interval."""
    if found is None:
        return page.Cell("-")
    interval = ""
    if found.low is not None and found.high is not None:
        interval = f"[{page.number(found.low, digits)}, {page.number(found.high, digits)}]"
    return page.Cell(page.number(found.value, digits), bold=True, small=interval, chips=chips)


def decimals(values: Sequence[float]) -> int:
    """Return how many decimals all values of a metric have: enough for three digits of the middle one."""
    middle = sorted(abs(value) for value in values)[len(values) // 2] if values else 0.0
    return max(0, min(6, 2 - math.floor(math.log10(middle)))) if middle > 0 else 2


# --- pictures and curves ------------------------------------------------------------------------------------------


def samples(study: Findings) -> page.Blocks:
    """Show the real images of each data set, and beside them what each model drew."""
    room = page.room_for(len(study.data) + len(study.each))
    blocks: list[page.Block] = []
    for data in study.data:
        real = study.folder / DATA / data / REAL
        if not real.exists() and all(cell.state == "new" for cell in study.row(data)):
            continue  # nothing to see yet
        shown = [page.picture(real, "real", room) if real.exists() else page.Picture("real", why="not prepared yet")]
        for cell in (one for row in study.row(data) for one in row.each):
            name = called(study, cell)
            if cell.error:
                shown.append(page.Picture(name, why=f"failed: {cell.error}", bad=True))
            elif (cell.folder / GRID).exists():
                shown.append(page.picture(cell.folder / GRID, name, room))
            else:
                shown.append(page.Picture(name, why=STATES[cell.state]))
        blocks += [page.Text(", ".join(study.title(data)), tag="h3"), page.Album(shown, "named")]
    return blocks


def curves(study: Findings) -> page.Blocks:
    """Draw the record of every training that has one."""
    blocks: list[page.Block] = []
    for data in study.data:
        drawn = {
            cell.model: panels(*(read_metrics(one.folder / RUN) for one in cell.each), small=True, place=cell.name)
            for cell in study.row(data)
        }
        if shown := {model: charts for model, charts in drawn.items() if charts}:
            blocks += [page.Text(", ".join(study.title(data)), tag="h3"), page.Charts(shown)]
    return blocks


# --- what else there is to know -----------------------------------------------------------------------------------


def named(study: Findings, cell: Cell) -> str:
    """Name a cell in words."""
    return ", ".join([*study.title(cell.data), called(study, cell)])


def called(study: Findings, cell: Cell) -> str:
    """Name the model of a cell, and its seed, if there are several."""
    return f"{cell.model}, seed {seed_of(study.plan, cell.name)}" if study.seeds > 1 else cell.model


def seed_of(plan: Mapping[str, Any], cell: str) -> int:
    """Return the seed of a cell from its name, as `studies.config.seed_of` does for a study that is whole."""
    repeat = cell.partition("+")[2]
    return int(plan.get("seed") or 0) + (int(repeat) if repeat.isdecimal() else 0)


def warnings(study: Findings) -> page.Blocks:
    """List the cells that failed, and the doubts about the others."""
    lines = []
    for cell in study.each:
        if cell.error:
            lines.append((f"{named(study, cell)} failed", cell.error))
        lines += [(named(study, cell), said) for said in cell.warnings]
    return [page.Items(lines)] if lines else []


def settings(study: Findings) -> page.Blocks:
    """Return study.json in words."""
    plan = study.plan
    known = {"minidiff", "cells", "steps", "seconds_per_step", "datasets", "corruptions", "models", "doubts", *NAMED}
    told = {
        "data sets": listed(plan.get("datasets", [])),
        "corruptions": listed([str(name).replace("_", " ") for name in plan.get("corruptions", [])]),
        "models": listed(study.models),
        "steps": page.in_words(plan.get("steps")),
        "seconds a step": page.in_words(plan.get("seconds_per_step")),
    }
    told |= {name: page.in_words(plan.get(key)) for key, name in NAMED.items()}
    told |= {key.replace("_", " "): page.in_words(value) for key, value in plan.items() if key not in known}
    with suppress(UserError, TypeError, KeyError):  # a classifier that is still where it was can say what it knows
        told[NAMED["features"]] += f" ({knowledge_of(Path(plan['features']))})"
    return [page.Facts(told | {"minidiff": str(plan.get("minidiff", "?"))})]


def times(study: Findings) -> page.Blocks:
    """Say how large each network is, how long its training was, and how long everything took."""
    lines = []
    for cell in study.each:
        if done := cell.done:
            parts = ("train", "sample", "measure")
            spent = [page.duration(done.seconds[part]) if part in done.seconds else "-" for part in parts]
            sizes = [page.number(size) if size else "-" for size in (done.parameters, done.steps)]
            lines.append([named(study, cell), *sizes, *spent])
    return page.simple_table(["", "parameters", "steps", "training", "sampling", "measuring"], lines, "lrrrrr")


def command(study: Findings) -> str:
    """Return the command that repeats the study."""
    plan = study.plan
    given = {
        "datasets": ",".join(plan.get("datasets", [])),
        "corruptions": ",".join(plan.get("corruptions", [])),
        "models": ",".join(plan.get("models", [])),
        "severity": plan.get("severity"),
        "image-size": plan.get("image_size"),
        "data-dir": as_typed(plan.get("data_dir") or ""),
        "num": plan.get("num"),
        "seed": plan.get("seed"),
        "seeds": plan.get("seeds") if plan.get("seeds") != 1 else None,
        "features": plan.get("features"),
        "steps": as_typed(plan.get("steps") or ""),
    }
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value not in (None, "")]
    return " \\\n  ".join(["minidiff compare", *words, f"--out {shlex.quote(str(study.folder))}"])
