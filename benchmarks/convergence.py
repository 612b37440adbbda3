"""How fast does the error of each sampler fall with its calls? On data whose denoiser and whose flow are formulas.

python benchmarks/convergence.py [--out docs/pictures/convergence.png] [--data fashion-mnist]

Left and middle: the distance from the exact path, from pure noise and from the middle, on a schedule so fine that no
step is rounded. Right: the distance of the samples from the data (Wasserstein 2) with DDPM's own schedule, integer
timesteps and each sampler's own spacing; this panel has the samplers with noise, too. Prints the figures as a table.
--data: try every spacing on a Gaussian with the mean and covariance of real images instead. There all is a formula.
"""

import math
import statistics
import sys
from itertools import product
from pathlib import Path

import click
import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from mixture import THREE, even_schedule, path_error  # noqa: E402

from minidiff.data.datasets import load_data  # noqa: E402
from minidiff.diffusion.samplers import SAMPLERS, calls  # noqa: E402
from minidiff.diffusion.schedules import Schedule  # noqa: E402
from minidiff.diffusion.spacings import SPACINGS  # noqa: E402
from minidiff.errors import UserError  # noqa: E402
from minidiff.images.convert import to_float  # noqa: E402

COLOURS = dict(zip(SAMPLERS, ("#9467bd", "#1f77b4", "#ff7f0e", "#8c564b", "#2ca02c", "#d62728"), strict=True))
NOISY = ("ddpm", "dpm++sde")
INTERVALS = (4, 5, 8, 10, 16, 20, 32, 40, 64, 80, 160)  # all divide 320 and 640
CALLS = (5, 7, 9, 13, 19, 27, 39, 55, 77, 109, 155)
DRAWS = 2**17

Curve = list[tuple[int, float]]  # calls, error


def paths(start_t: int) -> dict[str, Curve]:
    """Measure the errors on the fine schedule, from the level start_t of 0 ... 640."""
    schedule, found = even_schedule(641), dict[str, Curve]()
    for name in (name for name in SAMPLERS if name not in NOISY):
        steps = [2 * (n // 2) + 1 if name == "heun" else n + 1 for n in INTERVALS]
        found[name] = [(n, path_error(name, THREE, schedule, n, start_t, "linspace")) for n in dict.fromkeys(steps)]
    return found


def samples() -> dict[str, Curve]:
    """Measure the distances of DRAWS samples from the data, from pure noise, with DDPM's schedule."""
    schedule, found = Schedule.linear(), dict[str, Curve]()
    share = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    data = THREE.quantiles(share, 0.0)
    model = THREE.denoiser(schedule)
    for name, sampler in SAMPLERS.items():
        for n in CALLS:
            x = torch.special.ndtri(share).view(1, 1, 1, -1)  # standard normal, at even quantiles
            generator = torch.Generator().manual_seed(0)
            *_, last = sampler(model, schedule, x, steps=n, clip=False, generator=generator)
            distance = (last.x.flatten().sort().values - data).square().mean().sqrt().item()
            found.setdefault(name, []).append((len(calls(name, schedule, n)), distance))
    return found


def least() -> float:
    """Measure how far DRAWS draws of the data are from the data, mean of 20: no noisy sampler can be better."""
    generator = torch.Generator().manual_seed(1)
    even = THREE.quantiles((torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS, 0.0)
    found = []
    for _ in range(20):
        share = torch.rand(DRAWS, generator=generator, dtype=torch.float64).sort().values
        found.append((THREE.quantiles(share, 0.0) - even).square().mean().sqrt().item())
    return statistics.mean(found)


def spacings(data: str) -> None:
    """Print the table of `--data`: squared distance (Wasserstein 2) of the sampled Gaussian from the true one.

    Along each principal direction a deterministic sampler is a straight line x -> a x + b, found from x = 0 and x = 1.
    So the result is a Gaussian as well: b should be the true mean and |a| the true deviation.
    """
    images = to_float(load_data(data).images[:10_000]).flatten(1).double()
    values, directions = torch.linalg.eigh(images.T.cov())
    variance, mean = values.clamp(min=1e-8), directions.T @ images.mean(0)
    x = torch.stack([torch.zeros_like(mean), torch.ones_like(mean)]).view(2, 1, 1, -1)
    for title, schedule in (("linear", Schedule.linear()), ("cosine", Schedule.cosine())):

        def model(x_t: Tensor, t: Tensor, schedule: Schedule = schedule) -> Tensor:
            alpha_bar = schedule.alphas_cumprod[int(t[0])].item()
            shrink = math.sqrt(alpha_bar) * variance / (alpha_bar * variance + 1 - alpha_bar)
            return mean + shrink * (x_t - math.sqrt(alpha_bar) * mean)

        print(f"\n| {title} | {' | '.join(SPACINGS)} |\n| --- |{' --- |' * len(SPACINGS)}")
        for (name, sampler), n in product(SAMPLERS.items(), (5, 10, 20, 50)):
            row = []
            for spacing in SPACINGS if name not in NOISY else ():
                try:
                    chain = sampler(model, schedule, x, steps=n, spacing=spacing, clip=False, prediction="x0")
                    *_, last = (step.x.view(2, -1) for step in chain)
                except UserError:
                    row.append("-")
                    continue
                deviation = (last[1] - last[0]).abs()
                row.append(f"{((last[0] - mean) ** 2 + (deviation - variance.sqrt()) ** 2).sum().item():.2f}")
            if row:
                print(f"| {name}, {n} | {' | '.join(row)} |")


def draw(axes: Axes, title: str, curves: dict[str, Curve]) -> None:
    """Draw one panel."""
    for name, curve in curves.items():
        style = "--" if name in NOISY else "-"
        axes.loglog(*zip(*curve, strict=True), style, marker="o", ms=3, lw=1.5, color=COLOURS[name], label=name)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("calls of the network")
    axes.set_xlim(4.2, 230)
    axes.set_xticks([5, 10, 20, 50, 100, 200], ["5", "10", "20", "50", "100", "200"])
    axes.minorticks_off()
    axes.grid(True, alpha=0.3)


def slopes(axes: Axes, anchors: dict[int, float]) -> None:
    """Draw dotted lines of these slopes through (20, anchor)."""
    for order, anchor in anchors.items():
        x = [14, 160]
        axes.plot(x, [anchor * (20 / n) ** order for n in x], ":", color="0.45", lw=1)
        axes.text(170, anchor * (20 / 170) ** order, str(order), color="0.35", fontsize=9, va="center")


@click.command()
@click.option("--out", default=str(ROOT / "docs" / "pictures" / "convergence.png"), show_default=True)
@click.option("--data", help="A data set: the table of all spacings on a Gaussian like it.")
def main(out: str, data: str | None) -> None:
    """Draw the error against the calls for every sampler, as a picture and a table."""
    torch.set_num_threads(1)
    if data is not None:
        spacings(data)
        return
    whole, middle, distances, floor = paths(640), paths(320), samples(), least()
    for title, curves in (("path, from sigma 100", whole), ("path, from sigma 1", middle), ("distance", distances)):
        print(f"\n| {title} | calls: error | order at the end |\n| --- | --- | --- |")
        for name, curve in curves.items():
            (n, error), (more, less) = curve[-3], curve[-1]
            order = math.log(error / less) / math.log(more / n)
            print(f"| {name} | {', '.join(f'{n}: {error:.1e}' for n, error in curve)} | {order:.2f} |")
    print(f"\ndraws of the data themselves: {floor:.1e}")

    figure, panels = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    draw(panels[0], "distance from the exact path,\nfrom pure noise ($\\sigma$ = 100)", whole)
    draw(panels[1], "the same from the middle ($\\sigma$ = 1)", middle)
    draw(panels[2], "distance of the samples from the data,\nDDPM's linear schedule, own spacings", distances)
    slopes(panels[0], {1: 7e-2, 2: 9e-3, 3: 1.4e-3})
    slopes(panels[1], {1: 3e-2, 2: 1.4e-3, 3: 2e-4})
    panels[2].axhline(floor, color="0.45", lw=1, ls=":")
    panels[2].text(5, floor * 0.8, f"{DRAWS:,} draws of the data", color="0.35", fontsize=8, va="top")
    panels[2].legend(fontsize=8)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    print(f"written {out}")


if __name__ == "__main__":
    main()
