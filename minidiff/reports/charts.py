"""Charts for a page: matplotlib draws the curves as SVG, and the page has the words and the colours.

The drawing holds curves, axes and numbers only. Its colours are variables of style.css, so a chart is light or dark as
the page is. Rests on runs/curves (the running median).
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from minidiff.reports.page import SHADES, Chart, Line, number
from minidiff.runs.curves import running_median

POINTS = 300  # of a curve; of a longer record the means of as many equal parts
DOTS = 40  # a curve of fewer points has a dot at each; a longer one has its running median over it
DECADE = 5.0  # an axis that may be logarithmic is when its largest value exceeds the smallest by this factor
SIZE, SMALL = (5.0, 2.05), (4.2, 1.8)  # of a drawing, in inches of 72 units
COLOURS = {f"#00010{n}": f"var(--s{n})" for n in range(5)} | {"#000200": "var(--rule)", "#000201": "var(--soft)"}
LINES, (RULE, SOFT) = list(COLOURS)[:5], list(COLOURS)[5:]

Mark = tuple[float, str]  # a step to mark, and what it is


# --- what is drawn together ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A chart for the numbers of a record whose names hold one of `words`."""

    title: str
    words: tuple[str, ...]
    log: bool = False  # whether its axis may be logarithmic
    upkeep: bool = False  # whether it shows how the training went, rather than how good the model is


PANELS = [  # a number goes to the first panel that takes it; one that none takes has a chart of its own
    Panel("learning rate", ("lr",), upkeep=True),
    Panel("images a second", ("images_per_second",), upkeep=True),
    Panel("gradient norm", ("grad_norm",), log=True, upkeep=True),
    Panel("Wasserstein estimate", ("wasserstein",)),
    Panel("accuracy", ("accuracy", "exact")),
    Panel("loss", ("loss", "generator", "critic", "discriminator"), log=True),
    Panel("PSNR in dB", ("psnr",)),
    Panel("SSIM", ("ssim",)),
    Panel("stopping statistic", ("statistic",), log=True),
]


def panels(
    *records: Sequence[Mapping[str, Any]], mark: Mark | None = None, small: bool = False, place: str = ""
) -> list[Chart]:
    """Draw a chart for each kind of number in the records of a metrics.jsonl, in their order there, upkeep last.

    mark: a step to mark in all charts. small: draw for a narrow column, without the upkeep. place: sets the charts
    apart from others on the same page. Several records, of trainings with several seeds, make a mean with a band.
    """
    groups: dict[Panel, list[Line]] = {}
    names = list(dict.fromkeys(name for of_one in records for record in of_one for name in record if name != "step"))
    for name in names:
        found = [finite([(record["step"], record.get(name)) for record in of_one]) for of_one in records]
        curve = over_seeds(called(name, names), [points for points in found if points])
        panel = next((p for p in PANELS if any(word in name for word in p.words)), Panel(name.replace("_", " "), ()))
        if curve.points:
            groups.setdefault(panel, []).append(curve)
    for panel, lines in groups.items():
        if len(lines) == 1 and lines[0].name.replace(" ", "_") in panel.words:
            lines[0] = lines[0]._replace(name=panel.title)  # which the chart says already
    drawn = sorted((panel for panel in groups if not small or not panel.upkeep), key=lambda panel: panel.upkeep)
    return [chart(panel.title, groups[panel], log=panel.log, mark=mark, small=small, place=place) for panel in drawn]


def over_seeds(name: str, curves: Sequence[Sequence[tuple[float, float]]]) -> Line:
    """Make one line of the curves of several seeds: their mean, and a band from the lowest to the highest.

    Only the steps that all of them have are taken. A mean over fewer would jump where one is missing.
    """
    if len(curves) <= 1:
        return Line(name, curves[0] if curves else [])
    tables = [dict(points) for points in curves]
    steps = [step for step in tables[0] if all(step in table for table in tables)]
    values = [[table[step] for table in tables] for step in steps]
    means = [(step, fmean(at)) for step, at in zip(steps, values, strict=True)]
    return Line(name, means, [(step, min(at), max(at)) for step, at in zip(steps, values, strict=True)])


def called(name: str, names: Sequence[str]) -> str:
    """Name a number for its chart. If there is a critic's loss, too, `loss` is the generator's loss."""
    adversarial = name == "loss" and {"critic_loss", "discriminator_loss"} & set(names)
    return "generator loss" if adversarial else name.replace("_", " ")


def finite(pairs: Sequence[tuple[Any, Any]]) -> list[tuple[float, float]]:
    """Return the pairs that are numbers."""
    kinds = (int, float)
    return [(x, y) for x, y in pairs if isinstance(x, kinds) and isinstance(y, kinds) and math.isfinite(y)]


# --- one chart ----------------------------------------------------------------------------------------------------


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    log: bool = False,
    mark: Mark | None = None,
    small: bool = False,
    place: str = "",
) -> Chart:
    """Draw curves over the step. log: whether the axis may be logarithmic; mark, small, place: see `panels`."""
    lines = lines[: len(LINES)]
    low, high, cut = extent(lines)
    log = log and low > 0 and high > DECADE * low
    notes = ["log scale"] * log + ["outermost values beyond the axis"] * cut + ([f"┆ {mark[1]}"] if mark else [])
    shown = Shown(log, (low, high) if cut else None, mark[0] if mark else None, SMALL if small else SIZE)
    return Chart(title, lines, notes, draw(lines, shown, f"{place} {title}"))


class Shown(NamedTuple):
    """How curves are drawn."""

    log: bool
    limits: tuple[float, float] | None  # of the vertical axis, where it does not show all
    mark: float | None  # a step
    size: tuple[float, float]


def draw(lines: Sequence[Line], shown: Shown, salt: str) -> Markup:
    """Draw curves as SVG. salt: makes its ids unique on a page."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9.5, "path.simplify": False}
    with matplotlib.rc_context(style):
        figure = Figure(shown.size)
        axes = figure.add_axes((0.12, 0.12, 0.86, 0.84))
        for colour, line in zip(LINES, lines, strict=False):
            steps, values = zip(*thinned(line.points), strict=True)
            if line.band:
                lows, highs = (thinned([(at[0], at[end]) for at in line.band]) for end in (1, 2))
                ends = [value for _, value in lows], [value for _, value in highs]
                axes.fill_between([step for step, _ in lows], *ends, color=colour, alpha=0.18, linewidth=0)
            if len(steps) < DOTS:
                axes.plot(steps, values, color=colour, marker="o", markersize=3.5, clip_on=bool(shown.limits))
                continue
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.4, clip_on=bool(shown.limits))
            axes.plot(steps, running_median(values), color=colour, clip_on=bool(shown.limits))
        if shown.mark is not None:
            axes.axvline(shown.mark, color=SOFT, linewidth=0.8, linestyle="--")
        axes.set_yscale("log" if shown.log else "linear")
        axes.set_ylim(*(shown.limits or (None, None)))
        reached = [step for line in lines for step, _ in line.points]
        first, last = min(reached), max(reached)
        axes.set_xlim(0 if first < last / 10 else first, last + (first == last))
        spread = axes.get_ylim()[1] / axes.get_ylim()[0] if shown.log else 0.0
        few = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if spread < 100 else (1,)) if shown.log else few)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(lambda value, _: number(float(f"{value:.6g}")))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(lambda step, _: number(step / 1000) + "k" if step >= 10_000 else number(step))
        axes.tick_params(which="both", left=False, bottom=False, labelcolor=SOFT)
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_frame_on(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return Markup(for_a_page(file.getvalue()))


def for_a_page(svg: str) -> str:
    """Turn matplotlib's SVG file into a part of a page: drop the file's header, and use the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    return re.sub(r"#00010\d|#00020[01]", lambda found: COLOURS[found[0]], svg)


def extent(lines: Sequence[Line]) -> tuple[float, float, bool]:
    """Return the lowest and the highest value to show, and whether some lie outside.

    A few outermost values, as in the first steps of a critic, must not flatten all others.
    """
    ends = [y for line in lines for _, *band in line.band for y in band]
    values = np.array([*(y for line in lines for _, y in line.points), *ends], dtype=float)
    low, high = float(values.min()), float(values.max())
    inner, outer = (float(v) for v in np.quantile(values, [0.02, 0.98]))
    cut = len(values) >= DOTS and low <= 0 and high - low > 3 * (outer - inner) > 0
    if cut:
        reach = 0.1 * (outer - inner)
        low, high = max(low, inner - reach), min(high, outer + reach)
    return low, high, cut


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most POINTS points: the means of equal parts."""
    if len(points) <= POINTS:
        return list(points)
    parts = np.array_split(np.array(points, dtype=float), POINTS)
    return [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in parts)]


# --- a heat map ---------------------------------------------------------------------------------------------------


def shades(values: Sequence[float]) -> Callable[[float], str]:
    """Return a function that gives each value of a row the class of its shade.

    Where all are positive, the logarithm decides: near values are told apart beside one that is far off. The darkest
    shade is for DECADE times the lowest value, or for the highest if that is more; so values that hardly differ share a
    shade.
    """
    log = min(values) > 0
    low, high = (math.log(v) if log else v for v in (min(values), max(values)))
    high = max(high, low + math.log(DECADE)) if log else high

    def shade(value: float) -> str:
        place = ((math.log(value) if log else value) - low) / ((high - low) or 1)
        return f"h{min(SHADES - 1, int(SHADES * place))}"

    return shade
