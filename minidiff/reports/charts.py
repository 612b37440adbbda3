"""Charts that need no script: curves, intervals, the shades of a heat map, out of SVG and HTML. Rests on page, curves.

A curve is drawn in a box of 1000 by 1000 that is stretched to the room there is, with lines that keep their width. The
words at its axes are HTML beside the drawing, so they are as large on a phone as on a screen.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidiff.reports.page import Html, element, escaped, number
from minidiff.reports.style import HEAT, LINES
from minidiff.runs.curves import running_median

BOX = 1000
PAD = 0.04  # of the height, above and below the curves
POINTS = 300  # of a curve: of a longer record the means of as many equal parts
DOTS = 40  # a curve of fewer points is drawn with a dot at each, and as it is; a longer one with its median
DECADE = 5.0  # from this ratio on of the largest value to the smallest, an axis that may be logarithmic is

Points = list[tuple[float, float]]  # step and value, both finite


@dataclass
class Line:
    """One curve, named."""

    name: str
    points: Points


# --- what is drawn together ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A chart for the numbers of a record whose names hold one of `words`. log: whether its axis may be logarithmic;
    upkeep: whether it tells how the training went rather than what came of it."""

    title: str
    words: tuple[str, ...]
    log: bool = False
    upkeep: bool = False


PANELS = [  # a number goes to the first that takes it, and one that none takes has a chart of its own
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
    records: Sequence[dict[str, Any]], upkeep: bool = True, mark: tuple[float, str] | None = None
) -> list[Html]:  # fmt: skip
    """A chart for each kind of number in the records of a metrics.jsonl, in the order in which they come there, those
    of the upkeep last.

    upkeep: whether to draw those at all. mark: a step to mark in all of them, and what it is.
    """
    groups: dict[Panel, list[Line]] = {}
    names = list(dict.fromkeys(name for record in records for name in record if name != "step"))
    for name in names:
        points = finite([(record["step"], record.get(name)) for record in records])
        panel = next((p for p in PANELS if any(word in name for word in p.words)), Panel(name.replace("_", " "), ()))
        if points:
            groups.setdefault(panel, []).append(Line(called(name, names), points))
    for panel, lines in groups.items():
        if len(lines) == 1 and lines[0].name.replace(" ", "_") in panel.words:
            lines[0].name = panel.title  # which is said already
    drawn = [panel for panel in groups if upkeep or not panel.upkeep]
    return [chart(panel.title, groups[panel], panel.log, mark) for panel in sorted(drawn, key=lambda p: p.upkeep)]


def called(name: str, names: Sequence[str]) -> str:
    """What a number is called beside others: where there is a critic's loss, too, the loss is the generator's."""
    adversarial = name == "loss" and {"critic_loss", "discriminator_loss"} & set(names)
    return "generator loss" if adversarial else name.replace("_", " ")


def finite(pairs: Sequence[tuple[Any, Any]]) -> Points:
    """Those pairs that are numbers."""
    kinds = (int, float)
    return [(x, y) for x, y in pairs if isinstance(x, kinds) and isinstance(y, kinds) and math.isfinite(y)]


# --- one chart ----------------------------------------------------------------------------------------------------


def chart(title: str, lines: Sequence[Line], log: bool = False, mark: tuple[float, str] | None = None) -> Html:
    """Curves over the step, with a legend that tells their last values. log, mark: see `panels`."""
    lines = lines[: len(LINES["light"])]
    low, high, cut = extent(lines)
    log = log and low > 0 and high > DECADE * low
    ends = [x for line in lines for x, _ in line.points]
    first, last = min(ends), max(ends)
    first = 0 if first < last / 10 else first
    scale = (lambda y: math.log(y)) if log else (lambda y: y)
    pad = PAD * (scale(high) - scale(low))
    bottom, top = scale(low) - pad, scale(high) + pad

    def across(x: float) -> float:
        return (x - first) / ((last - first) or 1)

    def up(y: float) -> float:
        return (scale(y) - bottom) / ((top - bottom) or 1)

    drawing, words = [], []
    for y in ticks(low, high, log):
        drawing.append(stroke([(0, up(y)), (1, up(y))], "g"))
        words.append(element("span", number(y), class_="y", style=f"bottom:{100 * up(y):.1f}%"))
    for x in filter(float.is_integer, map(float, ticks(first, last))):
        words.append(element("span", short(x), class_="x", style=f"left:{100 * across(x):.1f}%"))
    for place, line in enumerate(lines):
        shown = thinned(line.points)
        points, middle = [(across(x), up(y)) for x, y in shown], smoothed(shown)
        if len(points) < DOTS:
            drawing += [stroke(points, f"curve s{place}"), dots(points, f"dots s{place}")]
        elif is_rough(shown, middle):
            over = [(across(x), up(y)) for x, y in middle]
            drawing += [stroke(points, f"raw s{place}"), stroke(over, f"curve s{place}")]
        else:
            drawing.append(stroke(points, f"curve s{place}"))
    if mark:
        drawing.append(stroke([(across(mark[0]), 0), (across(mark[0]), 1)], "m"))
    svg = element("svg", *drawing, viewBox=f"0 0 {BOX} {BOX}", preserveAspectRatio="none",
                  class_="cut" if cut else None, aria_hidden="true")  # fmt: skip
    return element("div", legend(title, lines, log, cut, mark), element("div", svg, *words, class_="plot"),
                   class_="chart", role="img", aria_label=described(title, lines))  # fmt: skip


def legend(title: str, lines: Sequence[Line], log: bool, cut: bool, mark: tuple[float, str] | None) -> Html:
    """The title, a sample of each line with its name and last value, and what to know of the axis."""
    notes = ["log scale"] * log + ["outermost values beyond the axis"] * cut + ([f"┆ {mark[1]}"] if mark else [])
    entries = []
    for place, line in enumerate(lines):
        name = "" if line.name == title and len(lines) == 1 else f"{line.name} "
        swatch = element("i", class_=f"s{place}") if len(lines) > 1 else ""
        entries.append(element("span", swatch, f"{name}{number(line.points[-1][1])}"))
    return element("div", element("b", title), *entries, *(element("span", note) for note in notes), class_="legend")


def described(title: str, lines: Sequence[Line]) -> str:
    """A chart for those who do not see it."""
    told = [
        f"{line.name} from {number(line.points[0][1])} at step {line.points[0][0]:,} "
        f"to {number(line.points[-1][1])} at step {line.points[-1][0]:,}"
        for line in lines
    ]
    return f"{title}: {'; '.join(told)}"


def extent(lines: Sequence[Line]) -> tuple[float, float, bool]:
    """The lowest and highest value to show, and whether the outermost are beyond: a few of them, as in the first steps
    of a critic, must not flatten all others."""
    values = np.array([y for line in lines for _, y in line.points], dtype=float)
    low, high = float(values.min()), float(values.max())
    inner, outer = (float(v) for v in np.quantile(values, [0.02, 0.98]))
    cut = len(values) >= DOTS and low <= 0 and high - low > 3 * (outer - inner) > 0
    if cut:
        reach = 0.1 * (outer - inner)
        low, high = max(low, inner - reach), min(high, outer + reach)
    if low == high:
        pad = abs(low) / 10 or 1.0
        low, high = low - pad, high + pad
    return low, high, cut


def thinned(points: Points) -> Points:
    """At most POINTS of them: the means of equal parts."""
    if len(points) <= POINTS:
        return points
    parts = np.array_split(np.array(points, dtype=float), POINTS)
    return [(float(x), float(y)) for x, y in (part.mean(axis=0) for part in parts)]


def smoothed(points: Points) -> Points:
    """The running median."""
    return list(zip((x for x, _ in points), running_median([y for _, y in points]), strict=True))


def is_rough(points: Points, middle: Points) -> bool:
    """Whether a curve jumps about its running median so much that it is easier to follow with that one over it."""
    values, about = (np.array([y for _, y in line]) for line in (points, middle))
    inner, outer = np.quantile(values, [0.02, 0.98])
    return bool(np.median(np.abs(values - about)) > 0.003 * (outer - inner))


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """From three to six round numbers between two, those of a logarithmic axis one, two or five times a power of ten
    where there is room."""
    if low >= high:
        return [low]
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [f * 10.0**k for k in powers for f in factors if low <= f * 10.0**k <= high]
            if 3 <= len(found) <= 6:
                return found
        if len(found) > 6:
            return found[:: math.ceil(len(found) / 6)]
    unit = 10 ** math.floor(math.log10((high - low) / 3))
    step = max(unit * factor for factor in (1, 2, 2.5, 5) if (high - low) / (unit * factor) >= 3 or factor == 1)
    count = math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9)
    return [round(step * (math.ceil(low / step - 1e-9) + place), 12) for place in range(count + 1)]


def short(step: float) -> str:
    """A step below an axis: 500, 2,000, 20k."""
    return number(step / 1000) + "k" if step >= 10_000 else number(step)


def stroke(points: Points, class_: str) -> Html:
    """A line through points in [0,1], from below left."""
    path = "L".join(f"{BOX * x:.0f} {BOX * (1 - min(max(y, -1), 2)):.0f}" for x, y in points)
    return element("path", d=f"M{path}", class_=class_)


def dots(points: Points, class_: str) -> Html:
    """A dot at each: a line of no length with round ends, which stays round in a box that is stretched."""
    path = "".join(f"M{BOX * x:.0f} {BOX * (1 - min(max(y, -1), 2)):.0f}h0" for x, y in points)
    return element("path", d=path, class_=class_)


# --- numbers beside one another -----------------------------------------------------------------------------------


def interval(value: float, low: float | None, high: float | None, span: tuple[float, float]) -> Html:
    """A value as a dot, its interval as a bar, on a line from the lower to the upper end of `span`."""

    def at(x: float) -> float:
        return 100 * min(1.0, max(0.0, (x - span[0]) / ((span[1] - span[0]) or 1)))

    bar = ""
    if low is not None and high is not None:
        bar = element("i", class_="reach", style=f"left:{at(low):.2f}%;width:{at(high) - at(low):.2f}%")
    dot = element("i", class_="dot", style=f"left:{at(value):.2f}%")
    return element("div", element("i", class_="axis"), bar, dot, class_="span", aria_hidden="true")


def shades(values: Sequence[float]) -> Callable[[float], str]:
    """The class of the shade of a value in a row of these: by its logarithm, where all are positive, so that near ones
    are told apart beside one that is far off, and so that those of a row that hardly differ have the same shade: the
    darkest is DECADE times the lowest, or the highest if that is more."""
    log = min(values) > 0
    low, high = (math.log(v) if log else v for v in (min(values), max(values)))
    high = max(high, low + math.log(DECADE)) if log else high
    count = len(HEAT["light"])

    def shade(value: float) -> str:
        place = ((math.log(value) if log else value) - low) / ((high - low) or 1)
        return f"h{min(count - 1, int(count * place))}"

    return shade


def key(low: str, high: str) -> Html:
    """What the shades mean."""
    steps = [element("i", class_=f"h{n}") for n in range(len(HEAT["light"]))]
    return element("div", escaped(low), *steps, escaped(high), class_="key")
