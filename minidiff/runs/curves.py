"""A picture of a training's progress: curves.png, drawn from metrics.jsonl.

Rests on log. matplotlib is loaded when a picture is drawn, so that nothing else waits for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidiff.files import write_atomically
from minidiff.runs.log import is_measurement, name_of_loss, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN_WORDS = {
    "accuracy_real": "real images recognised", "accuracy_fake": "generated images recognised",
    "wasserstein": "Wasserstein estimate", "diversity": "diversity of the samples (the data: 1)",
}  # fmt: skip
APART = {"step", "loss", "grad_norm", "lr", "images_per_second"}  # have a place of their own, or are not drawn


def draw_curves(folder: Path) -> None:
    """Draw curves.png: the losses and the learning rate, below them what else was logged, and what was measured.

    A value of the training is drawn as it was logged, thin, and as its running median.
    """
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    records = read_metrics(folder)
    training = [record for record in records if not is_measurement(record)]
    measured = [record for record in records if is_measurement(record)]
    found = names_in(measured, {"step"})
    if not training:
        return
    others = names_in(training, APART)
    losses = ["loss", *(name for name in others if name.endswith("_loss"))]
    others = [name for name in others if name not in losses]
    panels = 1 + bool(others) + bool(found)
    figure = Figure(figsize=(8, 1 + 3.5 * panels), layout="constrained")
    axes, *below = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    draw_losses(axes, training, losses)
    axes.set_title(folder.name)
    if others:
        for name in others:
            plot_smoothed(below[0], training, name)
        below[0].legend()
        below[0].set_ylabel("share" if all(name.startswith("accuracy") for name in others) else "value")
    if found:
        for name in found:
            points = points_of(measured, name)
            below[-1].plot(*zip(*points, strict=True), marker=".", label=in_words(name))
        below[-1].legend()
        below[-1].set_ylabel("measured")
    [axes, *below][-1].set_xlabel("step (thin lines: as logged; thick lines: their running median)")
    write_atomically(folder / "curves.png", lambda file: figure.savefig(file, format="png", dpi=110))


def draw_losses(axes: "Axes", training: list[dict[str, Any]], losses: list[str]) -> None:
    """Draw the losses, on a log axis if all are positive, and the learning rate beside them."""
    for name in losses:
        plot_smoothed(axes, training, name)
    positive = all(value > 0 for name in losses for _, value in points_of(training, name))
    axes.set(ylabel="loss", yscale="log" if positive else "linear")
    rates, points = axes.twinx(), points_of(training, "lr")
    rates.plot([step for step, _ in points], [lr for _, lr in points], color="tab:gray", linestyle=":",
               label="learning rate (right)")  # fmt: skip
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    axes.legend(handles=[handle for each in (axes, rates) for handle in each.get_legend_handles_labels()[0]])


def names_in(records: list[dict[str, Any]], without: set[str]) -> list[str]:
    """Return the names of the values in the records, in the order in which they first appear."""
    named = (name for record in records for name, value in record.items() if value is not None)
    return list(dict.fromkeys(name for name in named if name not in without))


def points_of(records: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return (step, value) for every record that has the value."""
    return [(record["step"], record[name]) for record in records if record.get(name) is not None]


def plot_smoothed(axes: "Axes", records: list[dict[str, Any]], name: str) -> None:
    """Draw a value as it was logged, thin, and its running median."""
    steps, values = zip(*points_of(records, name), strict=True)
    (line,) = axes.plot(steps, values, alpha=0.3, linewidth=0.8)
    label = name_of_loss(records[-1]) if name == "loss" else in_words(name)
    axes.plot(steps, running_median(values), color=line.get_color(), label=label)


def running_median(values: Sequence[float]) -> list[float]:
    """Return the median of a fifteenth of the values around each, fewer at the ends.

    It does not lag behind a loss that falls, and a single outlier does not move it.
    """
    most, last = max(2, len(values) // 30), len(values) - 1
    reaches = [min(most, place, last - place) for place in range(len(values))]
    return [float(np.median(values[place - r : place + r + 1])) for place, r in enumerate(reaches)]


def in_words(name: str) -> str:
    """Return what a legend calls a value."""
    return IN_WORDS.get(name, spaced(name))


def spaced(name: str) -> str:
    """Return the name of a value as words: "test_accuracy" is "test accuracy"."""
    return name.replace("_", " ")
