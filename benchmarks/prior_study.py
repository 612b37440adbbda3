"""The tables and the chart that docs/results.md has of a study of priors: means over the seeds, and their range.

python benchmarks/prior_study.py STUDY [--chart FILE.png] [--strips FILE.png]

STUDY is the folder of `minidiff compare-priors`, finished or not. Prints Markdown.
"""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import matplotlib.pyplot as plt
import numpy as np

from minidiff.images.files import read_image, write_image
from minidiff.studies.config import model_of
from minidiff.studies.prior_config import MAIN, SHARES, PriorStudy, parts_of
from minidiff.studies.study import read_study

SHOWN = ("plain", "prior-conv2", "prior-resnet18", "target-conv2", "start-conv2", "residual-conv2", "residual-wrong")
Point = tuple[str, int, float]  # the model, the steps of its training, the share of the calls


def points_of(study: PriorStudy, folder: Path) -> dict[Point, list[dict[str, Any]]]:
    """Read what was measured, of every point one record a seed."""
    found = defaultdict(list)
    for cell in study.cells:
        path = folder / "cells" / cell / "measured.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            record = json.loads(line)
            found[model_of(cell).partition("+")[0], record["step"], record["share"]].append(record)
    return found


def values(records: list[dict[str, Any]], name: str) -> list[float]:
    return [record["metrics"][name]["value"] for record in records]


def ranged(records: list[dict[str, Any]]) -> str:
    """The mean FD, and the lowest and highest of the seeds."""
    found = values(records, "fid")
    return f"{fmean(found):.1f} ({min(found):.1f} to {max(found):.1f})" if found else ""


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--chart", type=click.Path(dir_okay=False, path_type=Path), help="FD against evaluations, as a picture.")
@click.option("--strips", type=click.Path(dir_okay=False, path_type=Path), help="Samples of the first seed, by step.")
def main(folder: Path, chart: Path | None, strips: Path | None) -> None:
    study = read_study(folder)
    if not isinstance(study, PriorStudy):
        raise click.ClickException(f"{folder} is no study of priors")
    points, last = points_of(study, folder), study.moments[-1]
    models = dict.fromkeys(point[0] for point in points)
    alone = [model for model in models if (model, 0, 1.0) in points]
    trained = [model for model in models if model not in alone]

    steps = [f"{step:,} steps" for step in study.moments]
    print(f"| | {' | '.join(steps)} | KD | diversity | nearest |\n" + "| --- " * (len(steps) + 4) + "|")
    for model in [*trained, *alone]:
        share = MAIN.get(parts_of(model)[0], 1.0)
        ends = points[model, 0, 1.0] if model in alone else points[model, last, share]
        way = [points[model, step, share] for step in study.moments[:-1]]
        more = " | ".join(f"{fmean(values(ends, name)):.2f}" for name in ("kid", "diversity", "nearest"))
        print(f"| `{model}` | {' | '.join(map(ranged, [*way, ends]))} | {more} |")

    print(
        f"\n| | {' | '.join(f'{share:.0%} of the calls' for share in SHARES)} |\n" + "| --- " * (len(SHARES) + 1) + "|"
    )
    for model in trained:
        print(f"| `{model}` | {' | '.join(ranged(points[model, last, share]) for share in SHARES)} |")

    if chart is not None:
        draw_chart(chart, points, trained, alone, last)
    if strips is not None:
        pictures = [
            read_image(folder / "cells" / f"{study.datasets[0]}.identity.{name}" / "strips.png") for name in SHOWN
        ]
        width = max(each.shape[1] for each in pictures)
        padded = [np.pad(each, ((8, 0), (width - each.shape[1], 0), (0, 0)), constant_values=255) for each in pictures]
        write_image(strips, np.concatenate(padded))


def draw_chart(
    path: Path, points: dict[Point, list[dict[str, Any]]], trained: list[str], alone: list[str], last: int
) -> None:
    """FD after the last step against the evaluations of a sample, those of the prior counted."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for model in [*trained, *alone]:
        curve = []
        for (name, step, _), records in sorted(points.items()):
            if records and name == model and step == (0 if model in alone else last):
                found = values(records, "fid")
                curve.append((records[0]["calls"] + records[0]["prior_calls"], fmean(found), min(found), max(found)))
        calls, mean, low, high = map(np.array, zip(*sorted(curve), strict=True))
        style = {"plain": "k-", "prior": "*", "target": "s:", "residual": "o-"}.get(model.split("-")[0], "^--")
        axes.errorbar(calls, mean, (mean - low, high - mean), fmt=style, label=model, capsize=2, markersize=5)
    axes.set(xlabel="network evaluations of a sample, the prior's counted", ylabel="FD, mean and range of the seeds")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
