"""How a training went, as a picture: curves.png, drawn from what metrics.jsonl has of every step.

Rests on checkpoint. matplotlib is loaded when a picture is drawn, so that nothing else waits for it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidiff.files import write_atomically
from minidiff.runs.log import read_metrics

NOT_PLOTTED = {"step", "loss", "grad_norm", "lr", "images_per_second"}  # of what is logged, or not by itself


def draw_curves(folder: Path) -> None:
    """curves.png from metrics.jsonl: the losses as logged, thin, and their running medians, and the learning rate;
    below it what else was logged of each step, and what was measured, if anything was."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    records = read_metrics(folder)
    training = [record for record in records if not is_measurement(record)]
    measured = [record for record in records if is_measurement(record)]
    if not training:
        return
    more = names_in(training, NOT_PLOTTED)
    losses = ["loss", *(name for name in more if name.endswith("_loss"))]
    others = [name for name in more if name not in losses]
    panels = 1 + bool(others) + bool(measured)
    figure = Figure(figsize=(8, 1 + 3.5 * panels), layout="constrained")
    axes, *below = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for name in losses:
        plot_smoothed(axes, training, name)
    positive = all(record[name] > 0 for record in training for name in losses if name in record)
    axes.set(ylabel="loss", yscale="log" if positive else "linear", title=folder.name)
    steps, rates = [r["step"] for r in training], axes.twinx()
    rates.plot(steps, [r["lr"] for r in training], color="tab:gray", linestyle=":", label="learning rate (right)")
    rates.set_ylim(bottom=0)
    handles = [handle for ax in (axes, rates) for handle in ax.get_legend_handles_labels()[0]]
    axes.legend(handles=handles)
    if others:
        for name in others:
            plot_smoothed(below[0], training, name)
        below[0].legend()
    if measured:
        for name in names_in(measured, {"step"}):
            points = [(record["step"], record[name]) for record in measured if name in record]
            below[-1].plot(*zip(*points, strict=True), marker=".", label=in_words(name))
        below[-1].legend()
    [axes, *below][-1].set_xlabel("step")
    write_atomically(folder / "curves.png", lambda file: figure.savefig(file, format="png", dpi=110))


def names_in(records: list[dict[str, Any]], without: set[str]) -> list[str]:
    """What the records hold, in the order it first comes."""
    return list(dict.fromkeys(name for record in records for name in record if name not in without))


def plot_smoothed(axes: Any, records: list[dict[str, Any]], name: str) -> None:
    """A value as logged, thin, and its running median."""
    points = [(record["step"], record[name]) for record in records if name in record]
    steps, values = zip(*points, strict=True)
    (line,) = axes.plot(steps, values, alpha=0.3, linewidth=0.8)
    axes.plot(steps, running_median(values), color=line.get_color(), label=in_words(name))


def running_median(values: Sequence[float]) -> list[float]:
    """The median of a fifteenth of the values around each, fewer at the ends: it does not lag behind a loss that falls,
    nor is it torn away by one step that went astray."""
    most, last = max(2, len(values) // 30), len(values) - 1
    reaches = [min(most, place, last - place) for place in range(len(values))]
    return [float(np.median(values[place - r : place + r + 1])) for place, r in enumerate(reaches)]


def is_measurement(record: dict[str, Any]) -> bool:
    """Whether a record of metrics.jsonl is one of `measure`, not of the training itself."""
    return "loss" not in record


def in_words(name: str) -> str:
    return name.replace("_", " ")
