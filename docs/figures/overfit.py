"""How a deep image prior overfits: its outputs over the steps of one fit, and their PSNR. For docs/dip.md.

The network is fitted to a noisy photograph and never sees the clean one. Its distance to the noisy one only falls; its
distance to the clean one falls and then rises, because in the end it has the noise as well.

python docs/figures/overfit.py            # writes docs/pictures/overfit.png, some minutes on a CPU
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from matplotlib.figure import Figure

import minidiff
from minidiff.dip.config import FitConfig
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import crop_resize

OUT = Path(__file__).parents[1] / "pictures" / "overfit.png"
SIGMA = 25  # of the noise, of 255 grey levels


def main(
    out: str | Path = OUT, size: int = 64, steps: int = 3000, channels: int = 32, scales: int = 4
) -> dict[str, list[float]]:
    """Fit the noisy astronaut and draw. Returns the PSNR of every output in dB, against "clean" and "noisy"."""
    clean = crop_resize(skimage.data.astronaut(), size)
    noise = np.random.default_rng(0).normal(0, SIGMA, clean.shape)
    noisy = np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)
    torch.manual_seed(0)  # the first weights
    net = minidiff.DIP_NETS["hourglass"](scales=scales, channels=channels)
    curves: dict[str, list[float]] = {"clean": [], "noisy": []}
    outputs = []
    for step in minidiff.fit(net, to_float(noisy[None]), FitConfig(steps=steps)):
        outputs.append(to_uint8(step.output)[0])
        curves["clean"].append(minidiff.psnr(outputs[-1], clean))
        curves["noisy"].append(minidiff.psnr(outputs[-1], noisy))
    draw(out, outputs, curves, noisy, clean)
    return curves


def draw(
    out: str | Path, outputs: list[np.ndarray], curves: dict[str, list[float]], noisy: np.ndarray, clean: np.ndarray
) -> None:
    """Draw six pictures above the two curves."""
    best = int(np.argmax(curves["clean"])) + 1  # steps count from 1
    shown = [max(1, best // 20), max(1, best // 4), best, len(outputs)]
    pictures = [("fitted to this", noisy, minidiff.psnr(noisy, clean))]
    for step in shown:
        pictures.append(
            (f"step {step}{', the best' if step == best else ''}", outputs[step - 1], curves["clean"][step - 1])
        )
    figure = Figure(figsize=(9, 5.2), dpi=100, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    for axes, (name, image, decibels) in zip(
        upper.subplots(1, 6), [*pictures, ("never seen", clean, None)], strict=True
    ):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("the clean one" if decibels is None else f"{decibels:.1f} dB", fontsize=9)
        axes.set_xticks([], [])
        axes.set_yticks([], [])
    axes = lower.subplots()
    numbers = np.arange(1, len(outputs) + 1)
    axes.plot(
        numbers, curves["noisy"], color="tab:orange", lw=0.8, label="against the noisy picture, which it is fitted to"
    )
    axes.plot(
        numbers, curves["clean"], color="tab:blue", lw=0.8, label="against the clean picture, which it never sees"
    )
    axes.axhline(pictures[0][2], color="gray", lw=0.8, ls="--", label="the noisy picture against the clean one")
    for step in shown:
        axes.axvline(step, color="gray", lw=0.6, ls=":")
    axes.set(xscale="log", xlabel="step", ylabel="PSNR in dB", xlim=(1, len(outputs)))
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(out)


if __name__ == "__main__":
    found = main()["clean"]
    print(f"best {max(found):.1f} dB at step {int(np.argmax(found)) + 1}, {found[-1]:.1f} dB at the last")
