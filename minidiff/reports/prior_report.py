"""What the page of a study of priors has beside that of any study: measurements along the training, and their cost.

Rests on studies/prior_figures (the measurements), page and charts. All curves are means over the seeds, with a band
from the lowest to the highest.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from minidiff.errors import UserError
from minidiff.files import read_json
from minidiff.records import from_json
from minidiff.reports import page
from minidiff.reports.charts import chart
from minidiff.studies.prior_config import ALONE, CONTROLS, MAIN, PLAIN, SHOWN_WRONG, USES
from minidiff.studies.prior_figures import Measurement, read_measured
from minidiff.studies.results import Cell, Figure, Findings
from minidiff.studies.study import DATA

KIND = "priors"  # in study.json
STRIPS, FLOOR = "strips.png", "floor.json"  # of a cell; of the data
AXES: dict[str, Callable[[Measurement], float]] = {
    "steps of the DDPM": lambda one: one.step,
    "seconds of training, the prior's included": lambda one: one.train_seconds,
    "network evaluations of a sample, the prior's included": lambda one: one.evaluations,
}
DISTANCES = ("fid", "kid", "inception_fid", "inception_kid")
READING = {
    "diversity": "Diversity is the mean distance between two samples, in features. Below the real images' value, "
    "samples are too alike.",
    "nearest": "The distance to the nearest training image is the mean over the samples, in features. Below the real "
    "images' value, samples are copies, or show what a prior has told them of training images.",
}
HOW = (
    "Lines are means over the seeds, bands go from the lowest to the highest. A prior alone has no steps of a DDPM: "
    "its line is its one value. Chains from a prior start at half of the timesteps and take half of the calls."
)
CAUTION = (
    "A prior alone draws nothing new: it shows training images again, so its low distance is no merit. Compare each "
    "use with the plain DDPM and with the controls, and look at the distance to the nearest training image."
)
COST = (
    "After the last step: chains from noise with a quarter, half, three quarters and all of the calls; chains from a "
    "prior at a quarter, half and three quarters of the timesteps, with as large a share of the calls. Every call of a "
    "prior counts as one evaluation, although its network is smaller."
)


def is_of_priors(study: Findings) -> bool:
    """Say whether a study is one of priors."""
    return study.plan.get("kind") == KIND


def sections(study: Findings) -> dict[str, page.Blocks]:
    """Make the sections that only a study of priors has, by name."""
    measured = {
        cell.model: [found for one in cell.each if (found := read_measured(one.folder))]
        for cell in study.cells.values()
    }
    measured = {model: found for model, found in measured.items() if found}
    if not measured:
        return {}
    return {
        "Along the training": along(study, measured),
        "By network evaluations": by_cost(study, measured),
        "Samples along the training": strips(study),
    }


Seeds = Sequence[Sequence[Measurement]]  # of one model: the measurements of each seed


def along(study: Findings, measured: Mapping[str, Seeds]) -> page.Blocks:
    """Draw every metric over steps and over seconds, for the plain DDPM beside each group of others."""
    floors = read_floors(study)
    blocks: list[page.Block] = [page.Text(HOW, "soft")]
    for metric, title in titles(measured).items():
        real = f" Real images of the test split have {page.number(floors[metric].value)}." if metric in floors else ""
        blocks += [page.Text(title[:1].upper() + title[1:], tag="h3")]
        blocks += [page.Text(READING.get(metric, "Lower is nearer to the training images.") + real, "soft")]
        for axis in list(AXES)[: 2 if metric in DISTANCES else 1]:
            groups = {f"{name}, over {axis}": lines_of(members, measured, metric, axis)
                      for name, members in groups_of(measured).items()}  # fmt: skip
            blocks.append(drawn(groups, title, metric in DISTANCES))
    return blocks


def by_cost(study: Findings, measured: Mapping[str, Seeds]) -> page.Blocks:
    """Draw the distances after the last step over the network evaluations of a sample."""
    axis = list(AXES)[2]
    blocks: list[page.Block] = [page.Text(COST, "soft")]
    for metric, title in titles(measured).items():
        if metric not in DISTANCES:
            continue
        groups = {f"{name}, over {axis}": lines_of(members, measured, metric, axis)
                  for name, members in groups_of(measured).items()}  # fmt: skip
        blocks.append(drawn(groups, title, metric in DISTANCES))
    return blocks


def drawn(groups: Mapping[str, Sequence[page.Line]], title: str, log: bool) -> page.Charts:
    """Draw a chart for each group of lines. log: whether the axis of values may be logarithmic."""
    shown = {name: [chart(title, lines, log=log, small=True, place=name)] for name, lines in groups.items() if lines}
    return page.Charts(shown)


def groups_of(measured: Mapping[str, Seeds]) -> dict[str, list[str]]:
    """Choose which models share a chart, at most five: the plain DDPM, a use of the priors, and the priors alone."""
    nets = [model.partition("-")[2] for model in measured if model.startswith(f"{ALONE}-")]
    groups: dict[str, list[str]] = {}
    for use in USES:
        for first in range(0, len(nets), 2):
            some = [net for net in nets[first : first + 2] if f"{use}-{net}" in measured]
            if some:
                name = f"{use}, {' and '.join(some)}"
                groups[name] = [PLAIN, *(f"{use}-{net}" for net in some), *(f"{ALONE}-{net}" for net in some)]
    controls = [f"start-{control}" for control in CONTROLS if f"start-{control}" in measured]
    first_start = [f"start-{net}" for net in nets[:1] if f"start-{net}" in measured]
    if controls:
        groups["start, controls"] = [PLAIN, *first_start, *controls]
    if SHOWN_WRONG in measured:
        groups["residual, control"] = [PLAIN, *(f"residual-{net}" for net in nets[:1]), SHOWN_WRONG]
    return groups or {PLAIN: [PLAIN, *(f"{ALONE}-{net}" for net in nets)]}


def titles(measured: Mapping[str, Seeds]) -> dict[str, str]:
    """Return the title of each metric, in their order."""
    found: dict[str, str] = {}
    for seeds in measured.values():
        for one in seeds[0]:
            found |= {name: figure.title or name for name, figure in one.metrics.items() if name not in found}
    return found


def lines_of(members: Sequence[str], measured: Mapping[str, Seeds], metric: str, axis: str) -> list[page.Line]:
    """Make the line of each model in a chart."""
    lines = [line_of(model, measured[model], metric, axis) for model in members if model in measured]
    ends = [x for line in lines for x, _ in line.points if not line.name.startswith(f"{ALONE}-")]
    found = []
    for line in lines:
        if line.points and line.name.startswith(f"{ALONE}-") and ends and axis != list(AXES)[1]:
            value = line.points[0][1]  # no step of a DDPM, so it is drawn across
            band = [(x, low, high) for _, low, high in line.band for x in (min(ends), max(ends))]
            line = page.Line(line.name, [(min(ends), value), (max(ends), value)], band)
        if line.points:
            found.append(line)
    return found


def line_of(model: str, seeds: Seeds, metric: str, axis: str) -> page.Line:
    """Make the mean line of a model over its seeds. Over evaluations it has the last step, else the main share."""
    by_evaluations = axis == list(AXES)[2]
    last = max(one.step for of_one in seeds for one in of_one)
    main = MAIN.get(model.partition("-")[0], 1.0)
    tables = [
        {(one.step, one.share): one for one in of_one if metric in one.metrics
         and (one.step == last if by_evaluations else one.share == main)}
        for of_one in seeds
    ]  # fmt: skip
    points, band = [], []
    for key in sorted(key for key in tables[0] if all(key in table for table in tables)):
        x = fmean(AXES[axis](table[key]) for table in tables)
        values = [table[key].metrics[metric].value for table in tables]
        points.append((x, fmean(values)))
        band.append((x, min(values), max(values)))
    return page.Line(model, points, band if len(tables) > 1 else [])


def strips(study: Findings) -> page.Blocks:
    """Show the first samples of every measured step, a row each: the same noise in every cell of a seed."""
    each = [cell for cell in study.each if (cell.folder / STRIPS).exists()]
    room = page.room_for(2 * len(each))
    said = "A row for each measured step, named at its left. Column k has the same noise, and the same image behind it."
    pictures = [page.picture(cell.folder / STRIPS, name_of(study, cell), room) for cell in each]
    return [page.Text(said, "soft"), page.Album(pictures, "large")] if pictures else []


def name_of(study: Findings, cell: Cell) -> str:
    """Name a cell by its model, and its repeat if there are several."""
    repeat = cell.name.partition("+")[2] or "0"
    return f"{cell.model}, seed {int(study.plan.get('seed') or 0) + int(repeat)}" if study.seeds > 1 else cell.model


def read_floors(study: Findings) -> dict[str, Figure]:
    """Return what real images of the test split have in each metric."""
    found = dict(study.floors.get(study.data[0], {}))
    path = study.folder / DATA / study.data[0] / FLOOR
    try:
        stored = read_json(path)
        found |= {name: from_json(Figure, figure, path) for name, figure in stored.items()}
    except UserError:
        pass
    return found


def command(study: Findings) -> str:
    """Return the command that repeats the study."""
    plan: Mapping[str, Any] = study.plan
    steps = plan.get("steps") or {}
    alone = next((count for model, count in steps.items() if model.startswith(f"{ALONE}-")), None)
    given = {
        "dataset": ",".join(plan.get("datasets", [])), "nets": ",".join(plan.get("nets", [])),
        "uses": ",".join(plan.get("uses", [])), "steps": steps.get(PLAIN), "prior-steps": alone,
        "noise": plan.get("noise"), "measure-every": plan.get("measure_every"), "samples": plan.get("num"),
        "image-size": plan.get("image_size"), "seed": plan.get("seed"), "seeds": plan.get("seeds"),
        "features": plan.get("features"), "data-dir": plan.get("data_dir"),
    }  # fmt: skip
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value not in (None, "")]
    words += ["--fid"] * bool(plan.get("fid"))
    return " \\\n  ".join(["minidiff compare-priors", *words, f"--out {shlex.quote(str(Path(study.folder)))}"])
