"""What came out of the race: tables, curves, and the pictures of all contenders beside each other."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from contenders import CONTENDERS, Contender
from minutes_measure import picture
from minutes_race import TUNED_FOR, Task, key_of, searches, settings_of, tuned
from minutes_rates import Row

from minidiff.images.convert import Pixels
from minidiff.images.files import read_image
from minidiff.images.grid import cut, grid, label_rows, name_columns

Curve = dict[float, list[float]]  # the values of the seeds, by minutes
METRICS = {"fd": "FD", "kd": "KD", "told": "scenes told"}


# --- lines --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of the table: a contender with one rate and batch."""

    contender: Contender
    rate: float | None
    batch: int
    published: bool
    curve: Curve
    rows: list[Row]

    @property
    def title(self) -> str:
        if self.rate is None:
            return self.contender.title
        how = "published" if self.published else "tuned"
        return f"{self.contender.title}, {how} ({self.rate:.2g}, batch {self.batch})"

    def median(self, minutes: float) -> float | None:
        values = self.curve.get(minutes)
        return statistics.median(values) if values else None


def results_of(rows: Sequence[Row], contender: Contender, rate: float | None, batch: int, task: Task) -> list[Row]:
    """Pick the results of a contender with a rate and a batch. Of one of our presets that has changed, the last."""
    mine = [
        row for row in rows
        if row["contender"] == contender.name
        and (row["data"], row["size"], row["num"]) == (task.data, task.size, task.num)
        and (rate is None or (f"{row['rate']:.4g}", row["batch"]) == (f"{rate:.4g}", batch))
    ]  # fmt: skip
    return [row for row in mine if row["version"] == mine[-1]["version"]]


def lines_of(rows: Sequence[Row], task: Task, searched: Task, metric: str = "fd") -> list[Line]:
    """Gather the results of a task: each contender as published, then with the best rate and batch of the search."""
    found = []
    for contender in CONTENDERS.values():
        for rate, batch in settings_of(contender, rows, searched):
            curve: Curve = {}
            mine = [row for row in results_of(rows, contender, rate, batch, task) if metric in row]
            for row in mine:
                curve.setdefault(row["minutes"], []).append(row[metric])
            published = (rate, batch) == (contender.rate, contender.batch)
            if curve:
                found.append(Line(contender, rate, batch, published, dict(sorted(curve.items())), mine))
    return found


# --- tables -------------------------------------------------------------------------------------------------------


def number(value: float, metric: str) -> str:
    """Write a value."""
    return f"{value:.0%}" if metric == "told" else f"{value:.3g}"


def table_of(lines: Sequence[Line], metric: str = "fd") -> str:
    """Write the median of the seeds, the least and the greatest; below, how ours compare with the best of others."""
    times = sorted({minutes for line in lines for minutes in line.curve})
    text = [f"| {METRICS[metric]} | " + " | ".join(f"{each:g} min" for each in times) + " |",
            "| --- |" + " --- |" * len(times)]  # fmt: skip
    for line in lines:
        cells = []
        for minutes in times:
            values = line.curve.get(minutes, [])
            middle = number(statistics.median(values), metric) if values else ""
            span = f" ({number(min(values), metric)} to {number(max(values), metric)})" if len(values) > 1 else ""
            cells.append(middle + span)
        text.append(f"| {line.title} | " + " | ".join(cells) + " |")
    best = max if metric == "told" else min
    for line in lines:
        cells = []
        for minutes in times:
            others = [other.median(minutes) for other in lines if not other.contender.ours]
            there = [value for value in others if value is not None]
            mine = line.median(minutes)
            cells.append(f"{mine / best(there):.2f}" if there and mine is not None and best(there) else "")
        if line.contender.ours and any(cells):
            text.append(f"| {line.title} / best other package | " + " | ".join(cells) + " |")
    by_name = {line.contender.name: line for line in lines}
    if "minidiff" in by_name and "minidiff-0.1" in by_name:
        pairs = [(by_name["minidiff"].median(each), by_name["minidiff-0.1"].median(each)) for each in times]
        cells = [f"{new / old:.2f}" if new is not None and old else "" for new, old in pairs]
        text.append("| minidiff / minidiff 0.1 | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def costs_of(lines: Sequence[Line]) -> str:
    """Write what each did with its time, and the median of the processor time of its drawing."""
    text = ["| | parameters | a step, s | images a minute | sampler | calls | drawing 1,000 images, s |",
            "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for line in lines:
        drawing = statistics.median(1000 * row["sample_seconds"] / row["num"] for row in line.rows)
        last = line.rows[-1]
        step, images = last["step_seconds"], 60 * last["batch"] / last["step_seconds"]
        text.append(f"| {line.title} | {last['parameters'] / 1e6:.1f}M | {step:.3g} | {images:,.0f} | "
                    f"{last['sampler']} | {last['calls']} | {drawing:,.0f} |")  # fmt: skip
    return "\n".join(text) + "\n"


def search_of(rows: Sequence[Row], searched: Task) -> str:
    """Write what the search for rates found."""
    by_key = {key_of(row): row for row in rows}
    text = [f"| FD after {TUNED_FOR:g} minutes, seed 0 | rate, batch: FD | best |", "| --- | --- | --- |"]
    for contender in CONTENDERS.values():
        cells = [f"{job.rate:.2g}, {job.batch}: {by_key[key]['fd']:.4g}" for job in searches(contender, searched)
                 for key in job.names() if key in by_key]  # fmt: skip
        best = tuned(contender, rows, searched)
        if cells:
            said = f"{best[0]:.2g}, {best[1]}" if best else "(not all done)"
            text.append(f"| {contender.title} | {'; '.join(cells)} | {said} |")
    return "\n".join(text) + "\n" if len(text) > 2 else ""


# --- pictures -----------------------------------------------------------------------------------------------------


def best_of(lines: Sequence[Line]) -> list[Line]:
    """Pick one line a contender: the tuned one, if there is one."""
    return list({line.contender.name: line for line in lines}.values())


def draw_curves(path: Path, lines: Sequence[Line], metric: str, title: str) -> None:
    """Draw the curves: medians of the seeds, and bands from the least to the greatest. Names stand at their ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    chosen, ends = best_of(lines), []
    for line in lines:
        times = list(line.curve)
        middle = [statistics.median(values) for values in line.curve.values()]
        if line not in chosen:
            axes.plot(times, middle, ":", color=line.contender.colour, lw=1)
            continue
        ours = line.contender.ours
        axes.plot(times, middle, marker="o", ms=5 if ours else 4, lw=2.5 if ours else 1.5, color=line.contender.colour)
        least, most = ([pick(values) for values in line.curve.values()] for pick in (min, max))
        axes.fill_between(times, least, most, color=line.contender.colour, alpha=0.2, lw=0)
        ends.append((middle[-1], times[-1], line.contender))
    axes.set_xscale("log")
    if metric != "told":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    times = sorted({minutes for line in lines for minutes in line.curve})
    axes.set_xticks(times, [f"{each:g}" for each in times])
    axes.set_xticks([], minor=True)
    title += "; dotted: with the published rate of learning" if len(chosen) < len(lines) else ""
    axes.set(xlabel="minutes of training on one thread (processor time)", ylabel=METRICS[metric], title=title)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()  # so that heights are known in points
    last = None
    for value, at, contender in sorted(ends, key=lambda end: end[0]):
        y = axes.transData.transform((at, value))[1] * 72 / figure.dpi
        height = y if last is None else max(y, last + 11)
        last = height
        axes.annotate(contender.title, (at, value), (8, height - y), textcoords="offset points", va="center",
                      fontsize=9, color=contender.colour, fontweight="bold" if contender.ours else None)  # fmt: skip
    axes.set_xlim(right=max(times, default=1) * (max(times, default=1) / min(times, default=1)) ** 0.35 * 1.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def side_by_side(lines: Sequence[Line], size: int, minutes: Sequence[float], count: int, out: Path) -> Pixels:
    """Put the grids of the first seed beside each other: a row for each contender, a column for each time."""
    cells, names = [], []
    for line in best_of(lines):
        names.append(line.title.replace(", ", "\n", 1).replace(" (", "\n("))
        across = []
        for each in minutes:
            mine = sorted((row for row in line.rows if row["minutes"] == each), key=lambda row: row["seed"])
            path = picture(out, mine[0]) if mine else None
            if path is not None and path.exists():
                across.append(grid(cut(read_image(path), size)[:count], 6))
            else:
                across.append(grid(np.full((count, size, size, 3), 255, np.uint8), 6))
        cells.append(
            np.concatenate([np.pad(each, ((6, 6), (6, 6), (0, 0)), constant_values=255) for each in across], 1)
        )
    whole = np.concatenate(cells)
    labelled = label_rows(whole, names, size=18)
    return name_columns(
        labelled, [f"{each:g} minutes" for each in minutes], left=labelled.shape[1] - whole.shape[1], size=20
    )
