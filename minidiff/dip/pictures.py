"""Draw a fit: its curves, and a sheet of where it started, where it is, and what it chose.

Rests on matplotlib and images.quality, and knows nothing of networks.
"""

from pathlib import Path
from typing import Any

import numpy as np

from minidiff.files import write_atomically
from minidiff.images.convert import Pixels
from minidiff.images.quality import psnr


def draw_fit(folder: Path, records: list[dict[str, Any]], best_step: int) -> None:
    """Write curves.png: the loss; PSNR, SSIM and the stopping statistic if there are any; and the chosen step."""
    from matplotlib.figure import Figure

    if not records:
        return
    curves: list[dict[str, str]] = [{"loss": "loss"}]
    if "psnr" in records[-1]:
        curves.append({"psnr": "output", "psnr_average": "averaged"})
    if "ssim" in records[-1]:
        curves.append({"ssim": "output", "ssim_average": "averaged"})
    if any(record.get("statistic") is not None for record in records):
        curves.append({"statistic": "variance over the last outputs"})
    names = {"loss": "loss", "psnr": "PSNR in dB", "ssim": "SSIM", "statistic": "stopping statistic"}

    figure = Figure(figsize=(8, 2.6 * len(curves) + 0.6), layout="constrained")
    panels = figure.subplots(len(curves), sharex=True, squeeze=False)[:, 0]
    for axes, lines in zip(panels, curves, strict=True):
        for key, label in lines.items():
            points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
            axes.plot([step for step, _ in points], [value for _, value in points], label=label)
        first = next(iter(lines))
        axes.set(ylabel=names[first], yscale="linear" if first in ("psnr", "ssim") else "log")
        axes.axvline(best_step, color="tab:gray", linestyle="--", label=f"chosen: step {best_step:,}")
        axes.legend()
    panels[0].set_title(folder.name)
    panels[-1].set_xlabel("step")
    write_atomically(folder / "curves.png", lambda file: figure.savefig(file, format="png", dpi=110))


def draw_sheet(path: Path, panels: dict[str, Pixels], reference: Pixels | None) -> None:
    """Draw pictures, uint8 [H,W,3], side by side, each under its title.

    reference: if there is one, it comes first, and the titles give the PSNR to it.
    """
    from matplotlib.figure import Figure

    titles = list(panels)
    if reference is not None:
        for number, (name, pixels) in enumerate(panels.items()):
            if pixels.shape == reference.shape and name != "input" and not np.array_equal(pixels, reference):
                titles[number] += f"\n{psnr(pixels, reference):.2f} dB"
        panels, titles = {"reference": reference} | panels, ["reference", *titles]
    height, width = next(iter(panels.values())).shape[:2]
    across = 3.2  # inches a picture
    figure = Figure(
        figsize=(across * len(panels), min(4 * across, across * height / width) + 0.6), layout="constrained"
    )
    for axes, title, pixels in zip(figure.subplots(1, len(panels)), titles, panels.values(), strict=True):
        axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 200 else "antialiased")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
