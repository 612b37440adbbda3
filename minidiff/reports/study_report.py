"""The page of a study: which model came how near to which data, with pictures, curves and all there is to know.

Rests on results (what there is), page and charts. It is written anew after each cell, so it is also how one looks on.
"""

import math
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidiff.errors import listed
from minidiff.reports.charts import interval, key, panels, shades
from minidiff.reports.page import (
    Html,
    absent,
    album,
    duration,
    element,
    facts,
    figure,
    joined,
    number,
    page,
    room_for,
    row,
    table,
    tiles,
    worded,
    write_page,
)
from minidiff.runs.log import read_metrics
from minidiff.studies.results import Study, end, headline, ranked, read
from minidiff.studies.study import DATA, GRID, REAL, RESULT, RUN
from minidiff.studies.study import worded as as_typed

REPORT = "report.html"


def write(folder: str | Path, out: str | Path | None = None) -> Path:
    """The page of a study as it stands, STUDY/report.html unless `out` names another place. Raises UserError."""
    study = read(Path(folder))
    return write_page(Path(out) if out else study.folder / REPORT, study_page(study))


# --- the page -----------------------------------------------------------------------------------------------------


def study_page(study: Study) -> Html:
    cells = list(study.cells.values())
    finished = [path.stat().st_mtime for cell in cells if (path := cell.folder / RESULT).exists()]
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(finished))) if finished else ""
    sections = [
        ("Overview", heat_maps(study)),
        ("Distances", distances(study)),
        ("Samples", samples(study)),
        ("Learning curves", curves(study)),
        ("Warnings", warnings(study)),
        ("Settings", settings(study)),
        ("Times and sizes", times(study)),
        ("How to repeat it", repeat(study)),
    ]
    kind = f"A study of {listed(study.models)} on {listed([*dict.fromkeys(study.title(d)[0] for d in study.data)])}"
    return page(study.folder.resolve().name, kind, head(study), sections,
                f"The last cell ended {when}." if when else "No cell has ended yet.")  # fmt: skip


def head(study: Study) -> Html:
    """What came of it, in a sentence or two; how far it is; and its size in figures."""
    cells = list(study.cells.values())
    count = {state: sum(cell.state == state for cell in cells) for state in ("done", "failed", "begun", "new")}
    spent = sum(sum(cell.result.get("seconds", {}).values()) for cell in cells)
    open_ = count["begun"] + count["new"]
    told = f"{count['failed']} of the {len(cells)} cells failed. " * bool(count["failed"])
    told += f"{open_} of {len(cells)} cells {'is' if open_ == 1 else 'are'} still to be done." * bool(open_)
    numbers = {
        "cells done": f"{count['done']} of {len(cells)}",
        "samples a cell": number(float(study.plan.get("num", 0))),
        "pixels": f"{study.plan.get('image_size', '?')} × {study.plan.get('image_size', '?')}",  # noqa: RUF001
        "spent so far" if open_ else "spent": duration(spent),
    }
    progress = element("p", told.strip(), class_="bad" if count["failed"] else "soft") if told else ""
    doubts = joined(element("p", doubt, class_="bad") for doubt in study.doubts)
    return element("p", headline(study), class_="lead") + doubts + progress + tiles(numbers)


# --- the numbers --------------------------------------------------------------------------------------------------


def heat_maps(study: Study) -> Html:
    """A map for each metric: data down, models across, the nearest of each row marked, real images beside them. Where
    there are warnings about a cell, it says so."""
    maps = [drawn for metric in study.metrics if (drawn := heat_map(study, metric))]
    said = element("p", APART, class_="soft")
    return element("div", *maps, class_="maps") + said if maps else Html("")


APART = (
    "Compare models within a row: each row is shaded by itself, from its lowest distance on. Rows are not to be "
    "compared: blurred or foggy images are more alike than clean ones, and any distance among them is smaller."
)


def heat_map(study: Study, metric: str) -> Html:
    values = study.values(metric)
    if not values:
        return Html("")
    digits, lines = decimals(values), []
    for data in study.data:
        best, _ = ranked(study, data, metric)
        measured = [found["value"] for cell in study.row(data) if (found := cell.figure(metric))]
        shade = shades(measured or values)  # a row of which nothing is done yet has nothing to shade
        dataset, corruption = study.title(data)
        first = element("th", dataset, element("small", corruption), scope="row")
        shown = []
        for model in study.models:
            cell = study.cells.get((data, model))
            found = cell.figure(metric) if cell else None
            if cell is None or found is None:
                state = cell.state if cell else "new"
                shown.append(element("td", STATES[state], class_="failed" if state == "failed" else "none"))
                continue
            text = number(found["value"], digits)
            said = element("small", "warning") if cell.warnings else ""
            marked = element("b", text) if cell is best else text
            shown.append(element("td", marked, said, class_=shade(found["value"])))
        floor = study.floors.get(data, {}).get(metric)
        real = [element("td", number(floor["value"], digits) if floor else "-", class_="real")] * bool(study.floors)
        lines.append(element("tr", first, *shown, *real))
    names = [*study.models, *["real images"] * bool(study.floors)]
    heads = element("tr", element("th", ""), *(element("th", name, scope="col") for name in names))
    grid = element("table", element("thead", heads), element("tbody", *lines), class_="heat")
    title = element("h3", study.metrics[metric])
    return element("div", title, key("nearer", "farther"), element("div", grid, class_="wide"))


STATES = {"done": "not measured", "failed": "failed", "begun": "in training", "new": "not yet"}


def distances(study: Study) -> Html:
    """Every value with its interval, by data; of each the nearest model first, and at its end what real images get."""
    if not study.metrics:
        return Html("")
    main, *others = study.metrics
    head = ["", study.metrics[main], "", *(study.metrics[metric] for metric in others)]
    lines = []
    for data in study.data:
        title = element("th", ", ".join(study.title(data)), colspan=str(len(head)))
        lines += [element("tr", title, class_="group"), *rows_of(study, data)]
    said = "Lower is nearer to the training images; in brackets the 95% interval."
    if study.floors:
        said += " Real images are those of the test split: what perfect samples would get."
    return element("p", said, class_="soft") + table(head, lines, "l-l" + "-" * len(others))


def rows_of(study: Study, data: str) -> list[Html]:
    """The rows of one data set."""
    main, *others = study.metrics
    digits = {metric: decimals(study.values(metric)) for metric in study.metrics}
    best, ties = ranked(study, data, main)
    floor = study.floors.get(data, {})
    measured = [found for cell in study.row(data) if (found := cell.figure(main))]
    known = [*measured, *([floor[main]] if main in floor else [])]
    ends = [end(found, which) for found in known for which in ("low", "high")]
    span = (min(0.0, *ends), max(ends)) if ends else (0.0, 1.0)

    def line(name: str, figures: dict[str, Any], class_: str | None, *chips: Html) -> Html:
        found = figures[main]
        first = joined([in_brackets(found, digits[main]), *chips])
        bar = interval(found["value"], found.get("low"), found.get("high"), span)
        cells = [in_brackets(figures.get(metric), digits[metric]) for metric in others]
        return row([name, first, bar, *cells], "l-l" + "-" * len(others), class_)

    lines = []
    for cell in sorted(study.row(data), key=lambda cell: (cell.figure(main) or {"value": math.inf})["value"]):
        if cell.figure(main) is None:
            failed = cell.state == "failed"
            why = element("td", str(cell.result["error"]) if failed else STATES[cell.state],
                          colspan=str(1 + len(study.metrics)), class_="bad" if failed else "soft")  # fmt: skip
            lines.append(element("tr", element("th", cell.model, scope="row"), why))
            continue
        suspect = [element("span", "see Warnings", class_="chip bad")] * bool(cell.warnings)
        if cell is best:
            crown = element("span", "nearest", class_="chip" if cell.warnings else "chip best")
            lines.append(line(cell.model, cell.result["metrics"], None if cell.warnings else "best", crown, *suspect))
        else:
            tied = [element("span", "not told apart", class_="chip")] * (cell in ties)
            lines.append(line(cell.model, cell.result["metrics"], None, *tied, *suspect))
    return [*lines, line("real images", floor, "floor")] if main in floor else lines


def decimals(values: list[float]) -> int:
    """How many decimals all values of a metric are written with: three digits of the middle one."""
    middle = sorted(abs(value) for value in values)[len(values) // 2] if values else 0.0
    return max(0, min(6, 2 - math.floor(math.log10(middle)))) if middle > 0 else 2


def in_brackets(found: dict[str, Any] | None, digits: int) -> Html:
    """A value and its interval."""
    if found is None:
        return Html("-")
    text = element("b", number(found["value"], digits))
    if found.get("low") is None or found.get("high") is None:
        return text
    return (
        text
        + " "
        + element("span", f"[{number(found['low'], digits)}, {number(found['high'], digits)}]", class_="range")
    )


# --- pictures and curves ------------------------------------------------------------------------------------------


def by_data(study: Study, show: Callable[[str], Html]) -> Html:
    """What `show` has for each data set, under its name."""
    shown = [(", ".join(study.title(data)), show(data)) for data in study.data]
    return joined(element("h3", title) + body for title, body in shown if body)


def samples(study: Study) -> Html:
    """Of each data set the real images, and beside them what each model drew."""
    room = room_for(len(study.data) + len(study.cells))

    def show(data: str) -> Html:
        real = study.folder / DATA / data / REAL
        if not real.exists() and all(cell.state == "new" for cell in study.row(data)):
            return Html("")  # nothing to see yet
        caption = element("b", "real")
        shown = [figure(real, caption, room) if real.exists() else absent("not prepared yet", caption)]
        for cell in study.row(data):
            caption = element("b", cell.model)
            if cell.state == "failed":
                shown.append(absent(f"failed: {cell.result['error']}", caption, bad=True))
            elif (cell.folder / GRID).exists():
                shown.append(figure(cell.folder / GRID, caption, room))
            else:
                shown.append(absent(STATES[cell.state], caption))
        return album(shown)

    return by_data(study, show)


def curves(study: Study) -> Html:
    """The record of every training that has one."""

    def show(data: str) -> Html:
        drawn = []
        for cell in study.row(data):
            records = read_metrics(cell.folder / RUN)
            if charts := panels(records, upkeep=False):
                drawn.append(element("div", element("h4", cell.model), *charts))
        return element("div", *drawn, class_="charts") if drawn else Html("")

    return by_data(study, show)


# --- what else there is to know -----------------------------------------------------------------------------------


def warnings(study: Study) -> Html:
    """What failed, and what is doubtful about the others."""
    lines = []
    for cell in study.cells.values():
        name = f"{', '.join(study.title(cell.data))}, {cell.model}"
        if cell.state == "failed":
            lines.append(element("li", element("b", f"{name} failed: ", class_="bad"), str(cell.result["error"])))
        lines += [element("li", element("b", f"{name}: "), said) for said in cell.warnings]
    return element("ul", *lines) if lines else Html("")


def settings(study: Study) -> Html:
    plan = study.plan
    known = {"minidiff", "cells", "steps", "seconds_per_step", "datasets", "corruptions", "models", "doubts", *NAMED}
    more = {key.replace("_", " "): worded(value) for key, value in plan.items() if key not in known}
    corruptions = [str(name).replace("_", " ") for name in plan.get("corruptions", [])]
    told = {
        "data sets": listed(plan.get("datasets", [])),
        "corruptions": listed(corruptions),
        "models": listed(study.models),
        "steps": worded(plan.get("steps")),
        "seconds a step": worded(plan.get("seconds_per_step")),
    }
    told |= {name: worded(plan.get(key)) for key, name in NAMED.items()}
    return facts(told | more | {"minidiff": str(plan.get("minidiff", "?"))})


NAMED = {"severity": "severity", "image_size": "image size", "num": "samples a cell", "seed": "seed",
         "features": "measured in", "device": "device"}  # fmt: skip


def times(study: Study) -> Html:
    """How large each network is, how long it was trained, and how long everything took."""
    lines = []
    for cell in study.cells.values():
        if cell.state == "done":
            seconds = cell.result.get("seconds", {})
            spent = [duration(seconds[what]) if what in seconds else "-" for what in ("train", "sample", "measure")]
            sizes = [number(cell.result[what]) if what in cell.result else "-" for what in ("parameters", "steps")]
            lines.append([", ".join([*study.title(cell.data), cell.model]), *sizes, *spent])
    return (
        table(["", "parameters", "steps", "training", "sampling", "measuring"], lines, "lrrrrr") if lines else Html("")
    )


def repeat(study: Study) -> Html:
    """The command, and what it does with what is there."""
    plan, home = study.plan, str(study.folder)
    given = {
        "datasets": ",".join(plan.get("datasets", [])),
        "corruptions": ",".join(plan.get("corruptions", [])),
        "models": ",".join(plan.get("models", [])),
        "severity": plan.get("severity"),
        "image-size": plan.get("image_size"),
        "data-dir": as_typed(plan.get("data_dir") or ""),
        "num": plan.get("num"),
        "seed": plan.get("seed"),
        "features": plan.get("features"),
        "steps": as_typed(plan.get("steps") or ""),
    }
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value not in (None, "")]
    command = " \\\n  ".join(["minidiff compare", *words, f"--out {shlex.quote(home)}"])
    done = (
        "With the same --out it goes on where it stopped, and cells that are done are not done again; add --retry for "
    )
    return element("pre", element("code", command)) + element("p", done + "those that failed.", class_="soft")
