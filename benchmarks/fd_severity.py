"""Does the distance rise with what is wrong with the images? FD(classifier) of blurred and of noisy FashionMNIST.

python benchmarks/fd_severity.py runs/classifier-fashion-mnist-1 [--run runs/ddpm-fashion-mnist-1] [--out OUT]

The reference is the training split. Measured against it: the test split as it is, blurred, and with noise, at five
severities each, and, with --run, samples of a trained model. Prints a table, and draws the curves and a sheet of what
the severities look like.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from minidiff import load_data
from minidiff.ddpm.samples import of_run
from minidiff.images.convert import Pixels
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.metrics import compare as measure
from minidiff.metrics import extraction
from minidiff.metrics.features import FeatureNetwork, choose
from minidiff.metrics.sources import ImageSource, dataset_source
from minidiff.pretrained.load import load
from minidiff.runtime.progress import progress_bar

BLUR = (0.4, 0.6, 0.8, 1.2, 2.0)  # standard deviation in pixels, of 32
NOISE = (5, 10, 20, 40, 80)  # standard deviation, of 255
RANDOM = np.random.default_rng(0)


def blurred(images: Pixels, sigma: float) -> Pixels:
    """uint8 [n,H,W,3], smoothed by a Gaussian."""
    return np.rint(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))).astype(np.uint8)


def noisy(images: Pixels, sigma: float) -> Pixels:
    """uint8 [n,H,W,3] with grey Gaussian noise, rounded and clipped."""
    noise = RANDOM.normal(0, sigma, (*images.shape[:3], 1))
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def corrupted(source: ImageSource, name: str, corrupt: Callable[..., Pixels], severity: float) -> ImageSource:
    """The images of a source, each batch of them corrupted."""
    return ImageSource(
        name, source.count, source.size,
        lambda batch_size: (corrupt(np.asarray(batch), severity) for batch in source.batches(batch_size)),
    )  # fmt: skip


def distances(network: FeatureNetwork, reference: extraction.MeasuredSet, source: ImageSource) -> dict[str, float]:
    """FD and KD of a source to the reference, and KD's standard error."""
    with progress_bar(source.count, source.name, unit="image") as bar:
        side = extraction.extract(source, network, batch_size=256, wanted=("fid", "kid"), on_images=bar.update)
    found = measure.compute_metrics(side, reference, network, ("fid", "kid"))
    return {"fd": found["fid"], "kd": found["kid"].value, "se": found["kid"].se}


def draw(path: Path, rows: dict[str, list[dict[str, float]]], clean: float, samples: float | None) -> None:
    """FD against severity, a line for each corruption; level lines for the clean test split and a model's samples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, found in rows.items():
        axes.plot(range(1, 6), [row["fd"] for row in found], marker="o", label=name)
    axes.axhline(clean, color="tab:green", linestyle="--", label=f"test split as it is ({clean:.2g})")
    if samples is not None:
        axes.axhline(samples, color="tab:gray", linestyle=":", label=f"samples of a DDPM ({samples:.3g})")
    axes.set(xlabel="severity", ylabel="FD(classifier) to the training split", yscale="log", xticks=range(1, 6))
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", help="a run folder of `minidiff train classifier --dataset fashion-mnist`")
    parser.add_argument("--run", help="a ddpm run on fashion-mnist, to sample from")
    parser.add_argument("--num", type=int, default=2000, help="samples of it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("fd-severity"), help="folder for the pictures")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)

    network = choose(asked.classifier, device=asked.device)
    train, test = (
        dataset_source(split, load_data("fashion-mnist", split=split), "fashion-mnist") for split in ("train", "test")
    )
    reference = extraction.extract(train, network, batch_size=256, wanted=("kid",))

    def row(label: str, source: ImageSource) -> dict[str, float]:
        found = distances(network, reference, source)
        print(f"| {label} | {found['fd']:.4g} | {found['kd']:.3g} ± {found['se']:.1g} |", flush=True)
        return found

    print(f"| {test.count:,} test images, to {train.count:,} training images | FD(classifier) | KD(classifier) |")
    print("| --- | --- | --- |")
    clean = row("as they are", test)
    rows: dict[str, list[dict[str, float]]] = {"blur": [], "noise": []}
    for sigma in BLUR:
        rows["blur"].append(row(f"blurred, {sigma} pixels", corrupted(test, "blurred", blurred, sigma)))
    for sigma in NOISE:
        rows["noise"].append(row(f"noise of {sigma}/255", corrupted(test, "noisy", noisy, sigma)))
    samples = None
    if asked.run:
        model = load(asked.run, device=asked.device)
        samples = row(f"{asked.num:,} samples of {asked.run}", of_run("samples", model, asked.num))["fd"]
    draw(asked.out / "fd-severity.png", rows, clean["fd"], samples)
    some = np.asarray(next(test.batches(8)))
    sheet = [some, *(blurred(some, sigma) for sigma in BLUR), *(noisy(some, sigma) for sigma in NOISE)]
    write_image(asked.out / "fd-severity-sheet.png", grid(np.concatenate(sheet), columns=8))


if __name__ == "__main__":
    main()
