"""What bias FID has: real images against others of the same data set, whose true distance is 0. For docs/fid.md.

The images are of FashionMNIST, the features those of the model fashion-mnist-classifier. n images a side are drawn
again and again, in two sets that have none in common. A second pair has a distance that is known and not 0: normal
numbers with the mean and covariance of these features, and of the same if one image in ten is in fog.

python docs/figures/fid_bias.py            # writes docs/pictures/fid-bias.png, two minutes on a CPU
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from torch import Tensor

import minidiff
from minidiff.metrics.features import classifier_features

OUT = Path(__file__).parents[1] / "pictures" / "fid-bias.png"
IMAGES = 12_000  # of the training set, the first ones
COUNTS = (30, 60, 125, 250, 500, 1000, 2000, 5000)
PAIRS = {"real": "two sets of real images, truth 0", "known": "two normal distributions, truth {:.2f}"}


def main(
    out: str | Path = OUT,
    clean: Tensor | None = None,
    damaged: Tensor | None = None,
    counts: tuple[int, ...] = COUNTS,
    repeats: int = 8,
    groups: int = 20,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Measure and draw. Returns for each pair "fd" and "fd_inf", [counts, repeats], and "truth", [].

    clean, damaged: features [N,d] of images, at least twice the largest count; None: of FashionMNIST.
    """
    clean = features() if clean is None else clean
    damaged = features(one_in_ten="fog") if damaged is None else damaged
    random = np.random.default_rng(0)
    one, other = moments(clean), moments(damaged)
    found = {
        name: {"fd": np.zeros((len(counts), repeats)), "fd_inf": np.zeros((len(counts), repeats))} for name in PAIRS
    }
    found["real"]["truth"] = np.array(0.0)
    found["known"]["truth"] = np.array(minidiff.frechet_distance(*one, *other))
    for row, n in enumerate(counts):
        for repeat in range(repeats):
            chosen = random.permutation(len(clean))[: 2 * n]
            sides = {
                "real": (clean[chosen[:n]], clean[chosen[n:]]),
                "known": (normal(one, n, random), normal(other, n, random)),
            }
            for name, (a, b) in sides.items():
                found[name]["fd"][row, repeat] = minidiff.frechet_distance(*moments(a), *moments(b))
                found[name]["fd_inf"][row, repeat] = minidiff.fid_infinity(a, b, groups).value
    draw(out, np.array(counts), found, clean.shape[1])
    return found


def features(one_in_ten: str = "identity") -> Tensor:
    """Compute the features [N,128] of the first training images of FashionMNIST; every tenth may be damaged."""
    network = classifier_features("fashion-mnist-classifier")
    images = np.array(minidiff.load_data("fashion-mnist", image_size=32).images[:IMAGES])
    images[::10] = minidiff.corrupt(images[::10], one_in_ten, 1, range(0, len(images), 10))
    rgb = images.repeat(3, axis=3)
    return torch.cat([network.compute(rgb[i : i + 256])[0] for i in range(0, len(rgb), 256)]).double()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean [d] and covariance [d,d] of features [n,d]."""
    statistics = minidiff.FeatureStatistics.of(x)
    return statistics.mean, statistics.covariance


def normal(gaussian: tuple[Tensor, Tensor], n: int, random: np.random.Generator) -> Tensor:
    """Draw n rows from a normal distribution with this mean and covariance."""
    mean, covariance = gaussian
    values, vectors = torch.linalg.eigh(covariance)
    z = torch.from_numpy(random.standard_normal((n, len(mean))))
    return mean + z * values.clamp(min=0).sqrt() @ vectors.T


def draw(
    out: str | Path, counts: NDArray[np.int64], found: dict[str, dict[str, NDArray[np.float64]]], dims: int
) -> None:
    """Draw FD over n, and over 1/n with the lines that lead to infinitely many images."""
    figure = Figure(figsize=(9, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    line = counts >= 2 * dims  # below, the covariances are nearly singular
    for (name, label), colour in zip(PAIRS.items(), ("tab:blue", "tab:orange"), strict=True):
        fd, truth = found[name]["fd"], float(found[name]["truth"])
        left.errorbar(counts, fd.mean(1), fd.std(1), color=colour, marker="o", ms=4, lw=1, label=label.format(truth))
        if truth:
            left.axhline(truth, color=colour, lw=0.8, ls="--")
        x = np.repeat(1 / counts[line], fd.shape[1])
        slope, at_infinity = np.polyfit(x, fd[line].ravel(), 1)
        reach = np.array([0, 1.08 * x.max()])
        right.plot(reach, at_infinity + slope * reach, color=colour, lw=0.8)
        right.plot(x, fd[line].ravel(), ".", color=colour, ms=4)
        right.plot(x, found[name]["fd_inf"][line].ravel(), "x", color=colour, ms=5, mew=0.8)
        right.plot(0, truth, "*", color=colour, ms=13, mec="black", mew=0.6, clip_on=False, zorder=5)
    left.set(
        xscale="log", yscale="log", xlabel="n, images a side", ylabel="FD", title=f"FD of n images, {dims} features"
    )
    left.set_xticks(counts, [f"{n:,}" for n in counts], fontsize=8)
    left.minorticks_off()
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.legend(fontsize=8)
    right.axhline(0, color="black", lw=0.5)
    right.set(xlabel="1/n", title="a line over 1/n; it ends at the truth")
    right.set_xticks([0, *1 / counts[line]], ["∞", *[f"1/{n}" for n in counts[line]]], fontsize=8)
    right.set_xlim(0, None)
    right.set_ylim(None, 1.3 * right.get_ylim()[1])  # room for the legend
    for style, label in ((".", "FD of n images"), ("x", "FD∞ of the same images"), ("*", "the truth")):
        right.plot([], [], style, color="gray", label=label)
    right.legend(fontsize=8)
    figure.savefig(out)


if __name__ == "__main__":
    for name, values in main().items():
        print(name, f"truth {values['truth']:.3f}")
        for row, n in enumerate(COUNTS):
            print(
                n,
                *(
                    f"{kind} {values[kind][row].mean():.3f} ± {values[kind][row].std():.3f}"
                    for kind in ("fd", "fd_inf")
                ),
            )
