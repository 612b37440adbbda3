"""The plot, the grid and the table of start_timestep.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minidiff.images.convert import Pixels
from minidiff.images.quality import psnr

if TYPE_CHECKING:
    from start_timestep import Case, Figures, Study

NOISY, STOPPED = "noisy", "stop"
MEANING = {
    "noise": "new noise of start_t added",
    "scale": "taken to hold that noise",
    "as-is": "taken for x_t, unscaled",
}
AUTO = {STOPPED: "DIP, scale, auto", NOISY: "noisy image, scale, auto (no DIP)"}  # the rules behind the stars


def label_of(init: str) -> str:
    return {NOISY: "no DIP: the noisy image", STOPPED: "DIP at its early stop"}.get(init) or f"DIP, step {init}"


def level(study: Study, t: int) -> str:
    """The noise level of t, short; beyond 10 nothing is left of an image."""
    sigma = study.noise_level(t)
    return ">10" if sigma > 10 else f"{sigma:.2f}" if sigma < 1 else f"{sigma:.1f}"


def colours(study: Study) -> dict[str, Any]:
    shades = np.linspace(0.1, 0.9, len(study.dip_steps))
    steps = {str(step): colormaps["viridis"](shade) for step, shade in zip(study.dip_steps, shades, strict=True)}
    return steps | {STOPPED: "tab:red", NOISY: "black"}


def draw_plot(study: Study, results: list[Figures], path: Path) -> None:
    """PSNR over start_t: a row of panels for each level of noise, a panel for each init mode."""
    size = (1.2 + 4.4 * len(study.modes), 1.2 + 3.4 * len(results))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(results), len(study.modes), squeeze=False, sharey="row")
    for row, result in zip(panels, results, strict=True):
        for axes, mode in zip(row, study.modes, strict=True):
            draw_panel(study, result, mode, axes)
        row[0].set_ylabel(f"PSNR to the clean image, dB\n(noise of {result['sigma']}/255)")
    figure.axes[0].plot([], [], "*", color="gray", markersize=11, label="start_t = auto")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), fontsize=9, frameon=False)
    figure.savefig(path, dpi=85)


def draw_panel(study: Study, result: Figures, mode: str, axes: Axes) -> None:
    """A line for each init. The timesteps stand at equal distances, what no chain has touched to the left of them."""
    ts = study.start_t
    places = np.arange(len(ts) + 1)
    for init, words in ((NOISY, "noisy image "), (STOPPED, "DIP alone ")):
        height, colour = result["alone"][init]["psnr"], colours(study)[init]
        axes.axhline(height, color=colour, linewidth=1, linestyle=":")
        axes.text(places[-1] + 0.55, height, words, ha="right", va="bottom", fontsize=8, color=colour, zorder=6,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5})  # fmt: skip
    for init, colour in colours(study).items():
        found = {
            chain["start_t"]: chain["psnr"]
            for chain in result["chains"]
            if (chain["init"], chain["mode"], chain["sampler"]) == (init, mode, "ddim")
        }
        bold = init in (STOPPED, NOISY)
        axes.plot(
            places, [result["alone"][init]["psnr"], *(found[t] for t in ts)], color=colour, marker="o",
            markersize=4.5 if bold else 3, linewidth=2.2 if bold else 1.2,
            linestyle="--" if init == NOISY else "-", label=label_of(init),
        )  # fmt: skip
    if mode == "scale":
        for init, rule in AUTO.items():
            start = float(np.mean([np.interp(t, ts, places[1:]) for t in result["rules"][rule]["start_t"]]))
            star = {"color": colours(study)[init], "markersize": 16, "markeredgecolor": "white", "zorder": 5}
            axes.plot(start, result["rules"][rule]["psnr"], "*", **star)
    axes.set_xticks(places, ["no\nchain", *(f"{t}\n{level(study, t)}" for t in ts)], fontsize=7)
    axes.grid(alpha=0.25)
    axes.set_title(f"init mode {mode}: {MEANING[mode]}", fontsize=10)
    axes.set_xlabel("start_t, and below it the noise there, for images in [-1, 1]", fontsize=8)


def draw_grid(study: Study, case: Case, image: int, path: Path) -> None:
    """For one image, a row for each of some inits, a column for each start_t; the best of a row is framed."""
    ts = [t for t in study.start_t if t >= 25]  # below that, little is to be seen
    ts = [ts[k] for k in np.linspace(0, len(ts) - 1, min(10, len(ts))).round().astype(int)]
    first, last = str(study.dip_steps[0]), str(study.dip_steps[-1])
    inits = [(first, "noise"), (STOPPED, "noise"), (STOPPED, "scale"), (last, "scale"), (NOISY, "scale")]
    inits = [(init, mode) for init, mode in inits if mode in study.modes] or [(STOPPED, study.modes[0])]
    figure = Figure(figsize=(0.95 * (len(ts) + 2) + 0.6, 1.17 * len(inits) + 0.45), layout="constrained")
    panels = figure.subplots(len(inits), len(ts) + 2, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for (init, mode), row in zip(inits, panels, strict=True):
        pictures = [case.init(init), *(study.chain(case, init, mode, t)["image"] for t in ts)]
        values = [psnr(pixels[image], case.clean[image]) for pixels in pictures]
        for pixels, value, axes in zip(pictures, values, row[1:], strict=True):
            show(axes, pixels[image], f"{value:.1f} dB")
        best = row[1 + int(np.argmax(values))]
        best.spines[:].set(visible=True, color="tab:red", linewidth=3)
        label = label_of(init).replace(": ", ":\n").replace(" at ", "\nat ")
        row[1].set_ylabel(f"{label}\nmode {mode}", fontsize=8)
    for axes, pixels, word in zip(panels[:, 0], (case.clean, case.noisy), ("clean", "noisy"), strict=False):
        show(axes, pixels[image], word)
    heads = ["the image", "the init", *(f"start_t {t}\nnoise {level(study, t)}" for t in ts)]
    for axes, head in zip(panels[0], heads, strict=True):
        axes.set_title(head, fontsize=9)
    figure.savefig(path, dpi=90)


def show(axes: Axes, pixels: Pixels, caption: str) -> None:
    """One picture, uint8 [H,W,C], with a line under it."""
    axes.imshow(pixels.repeat(3 // pixels.shape[2], axis=2), interpolation="nearest")
    axes.set_xlabel(caption, fontsize=8, labelpad=2)


def table(study: Study, result: Figures) -> str:
    """The best timestep of every init and mode, the whole DDPM chain beside DDIM, and the rules, in Markdown."""
    chains = {(c["init"], c["mode"], c["start_t"], c["sampler"]): c for c in result["chains"]}
    lines = [
        f"\nNoise of {result['sigma']}/255. PSNR in dB, its standard error in brackets.\n",
        f"| init | alone | {' | '.join(f'best, {mode}' for mode in study.modes)} | t of auto |",
        "| --- " * (3 + len(study.modes)) + "|",
    ]
    for init in study.inits:
        alone = result["alone"][init]
        cells = [label_of(init), f"{alone['psnr']:.1f} ({alone['psnr_error']:.1f})"]
        for mode in study.modes:
            best = max((chains[init, mode, t, "ddim"] for t in study.start_t), key=lambda chain: chain["psnr"])
            cells.append(f"{best['psnr']:.1f} ({best['psnr_error']:.1f}) at {best['start_t']}")
        lines.append(f"| {' | '.join(cells)} | {alone['auto_t']:.0f} |")
    lines += ["\n| init, mode, start_t | DDIM | DDPM, all steps |", "| --- | --- | --- |"]
    for (init, mode, t, sampler), whole in chains.items():
        if sampler == "ddpm" and (few := chains.get((init, mode, t, "ddim"))):
            lines.append(f"| {label_of(init)}, {mode}, {t} | {few['psnr']:.2f} | {whole['psnr']:.2f} |")
    lines += ["\n| rule | start_t | PSNR | SSIM | gain on the DIP alone | one call |", "| --- " * 6 + "|"]
    for name, found in result["rules"].items():
        cells = [name, f"{min(found['start_t'])} to {max(found['start_t'])}", f"{found['psnr']:.2f}",
                 f"{found['ssim']:.3f}", f"{found['gain']:+.2f} ({found['gain_error']:.2f})",
                 f"{found['once']['psnr']:.2f}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
