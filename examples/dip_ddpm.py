"""A deep image prior in a DDPM: a report's three experiments at its own settings, measured so that they tell something.

plain    a DDPM of the images
target   a DDPM that learns what a prior makes of the images; the prior is two convolutions (conv2) or a ResNet18
start    chains of the plain DDPM from half of the timesteps, begun at what the prior makes of training images

The report found its first measurement the best, and could not say why. docs/priors.md has the four faults that explain
it. Here images are in [-1, 1], the averaged weights draw, and thousands of samples are measured against images that no
network has seen. Two rows are to compare with: the prior alone, without a DDPM, and as many training images.

python examples/dip_ddpm.py              # CIFAR-10, for a GPU; if it was stopped, the same line goes on
python examples/dip_ddpm.py --dataset shapes --dim 8 --steps 6 --every 3 --prior-steps 4 --num 40 --features CLASSIFIER
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

import minidiff
from minidiff.ddpm.presets import DDPM_PRESETS, DdpmPreset
from minidiff.files import write_json
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.metrics.sources import ImageSource
from minidiff.networks.configs import UNetConfig
from minidiff.training.config import TrainConfig

NETS = ("conv2", "resnet18")
SAMPLER, CALLS = "dpm++sde", 20  # of a chain from noise; one from half of the timesteps takes half of the calls
SIZE, AT_ONCE = 32, 250  # pixels a side; samples


def report_preset(dim: int) -> DdpmPreset:
    """Return the report's settings, with T = 1000. It gathered two batches of 8 for each step: 16 images."""
    network = UNetConfig(channels=(dim, 2 * dim, 4 * dim, 8 * dim), norm_groups=8)
    training = TrainConfig(batch_size=16, accumulate=2, lr=8e-5, warmup=0, ema_decay=0.995)
    return DdpmPreset("a report's settings", SIZE, network, training)


def trained(kind: Any, folder: Path, steps: int | None, **settings: Any) -> Any:
    """Train up to a step. A run that is there goes on: at a constant rate the two are one and the same training."""
    if (folder / "config.json").exists():
        return minidiff.resume(folder, steps=steps, device=settings["device"])
    return minidiff.train(kind, out=folder, steps=steps, **settings)


def measure(file: Path, batches: Iterable[Tensor], reference: str, features: str) -> None:
    """Measure how far images, float [n,C,H,W] in [-1,1], are from a data set. Write it down, beside some of them."""
    images = np.concatenate([to_uint8(batch) for batch in batches])
    count, size = images.shape[:2]
    source = ImageSource(file.stem, count, "", lambda some: (images[k : k + some] for k in range(0, count, some)))
    found = minidiff.distance(source, reference, features=features, image_size=size).values["fid"]
    write_image(file.with_suffix(".png"), grid(images[:64]))
    write_json(file, found)
    print(f"{file.stem}: {found:.2f}")


def table(names: Iterable[str], steps: Sequence[int], file: Callable[[str, int], Path]) -> Iterator[str]:
    """Lay out all that was measured: a row for each system, a column for each step."""
    yield "| distance after steps | " + " | ".join(f"{step:,}" for step in steps) + " |"
    yield "| --- " * (1 + len(steps)) + "|"
    for name in names:
        places = [file(name, step) for step in steps]
        values = [f"{json.loads(place.read_text()):.2f}" if place.exists() else "" for place in places]
        yield f"| {name} | {' | '.join(values)} |"


@click.command()
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--steps", default=30_000, show_default=True, help="Of every DDPM.")
@click.option("--every", default=3000, show_default=True, help="Steps between measurements.")
@click.option("--prior-steps", type=int, help="Of every prior. Default: its preset's.")
@click.option("--num", default=10_000, show_default=True, help="Samples of a measurement.")
@click.option("--dim", default=64, show_default=True, help="Channels of the U-Net's finest level.")
@click.option("--features", default="inception", show_default=True, help="The network to measure in, or a classifier.")
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Default: runs/dip-ddpm-DATASET.")
def main(
    dataset: str, steps: int, every: int, prior_steps: int | None, num: int, dim: int, features: str, device: str,
    out: Path | None,
) -> None:  # fmt: skip
    """Train and measure what is missing, and print a table."""
    out = out or Path("runs", f"dip-ddpm-{dataset}")
    (out / "measured").mkdir(parents=True, exist_ok=True)
    asked = {"dataset": dataset, "prior_steps": prior_steps, "every": every, "num": num, "dim": dim}
    asked["features"] = features
    there = out / "asked.json"
    if there.exists() and json.loads(there.read_text()) != asked:
        raise click.UsageError(f"{out} was begun with {there.read_text()}. Give the same, or another --out.")
    write_json(there, asked)

    DDPM_PRESETS["report"] = report_preset(dim)
    common, against = {"dataset": dataset, "image_size": SIZE, "device": device}, (f"dataset:{dataset}:test", features)
    priors = {net: trained("dip-prior", out / f"prior-{net}", prior_steps, net=net, **common) for net in NETS}
    outputs = {net: torch.cat(list(prior.sample(num))) for net, prior in priors.items()}  # for training images
    real = minidiff.load_data(dataset, image_size=SIZE).images
    some = to_float(np.array(real[np.linspace(0, len(real) - 1, min(num, len(real))).astype(int)]))
    without = {**{f"prior-{net}": outputs[net] for net in NETS}, "training-images": some}
    plain: dict[str, dict[str, Any]] = {"plain": {}}
    targets = {f"target-{net}": {"prior": out / f"prior-{net}", "prior_use": "target"} for net in NETS}
    starts = {f"start-{net}": outputs[net] for net in NETS}
    moments = [*range(every, steps, every), steps]

    def file(name: str, step: int) -> Path:
        return out / "measured" / f"{name}-{step:06d}.json"

    for name, images in without.items():
        if not file(name, steps).exists():
            measure(file(name, steps), [images], *against)
    for step in moments:
        for name, prior in {**plain, **targets}.items():
            also = starts if name == "plain" else {}
            if all(file(each, step).exists() for each in (name, *also)):
                continue  # the run may be further by now
            run = trained("ddpm", out / name, step, preset="report", **common, **prior)
            chain: dict[str, Any] = {"sampler": SAMPLER, "batch_size": AT_ONCE}
            measure(file(name, step), run.sample(num, steps=CALLS, **chain), *against)
            for each, init in also.items():
                half = {"init": init, "start_t": run.schedule.T // 2, "steps": CALLS // 2}
                measure(file(each, step), run.sample(num, **half, **chain), *against)
    for line in table([*plain, *targets, *starts, *without], moments, file):
        print(line)


if __name__ == "__main__":
    main()
