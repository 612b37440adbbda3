"""How far is FID from the truth at N images? Two Gaussians whose distance is known, drawn from again and again.

For every N: the mean and the spread of plain FID and of FID-infinity, and how often the latter's 95% interval holds
the truth. Prints a Markdown table.
"""

import math
import statistics
from typing import NamedTuple

import click
import torch
from torch import Tensor

from minidiff.metrics.fid_infinity import fid_infinity
from minidiff.metrics.frechet import FeatureStatistics, frechet_distance

DIMS = 64


class Trial(NamedTuple):
    """What one pair of sets of images said."""

    plain: float
    infinity: float
    held: bool  # the truth, by the interval


def symmetric_root(lowest: float, seed: int) -> Tensor:
    """A matrix [DIMS,DIMS] with eigenvalues from 1 down to `lowest` along random directions: a covariance's root."""
    generator = torch.Generator().manual_seed(seed)
    directions, _ = torch.linalg.qr(torch.randn(DIMS, DIMS, generator=generator, dtype=torch.float64))
    eigenvalues = torch.logspace(0, math.log10(lowest), DIMS, dtype=torch.float64)
    return directions * eigenvalues @ directions.T


def trial(root_a: Tensor, root_b: Tensor, count: int, truth: float, seed: int) -> Trial:
    """Draw `count` features on each side, and measure."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(count, DIMS, generator=generator, dtype=torch.float64) @ root.T for root in (root_a, root_b))
    one, other = FeatureStatistics.of(a), FeatureStatistics.of(b)
    estimate = fid_infinity(a, b, seed=seed)
    assert estimate.low is not None and estimate.high is not None
    plain = frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    return Trial(plain, estimate.value, estimate.low <= truth <= estimate.high)


@click.command()
@click.option("--counts", default="50,100,200,500,2000,10000", show_default=True, help="Images a side.")
@click.option("--trials", type=click.IntRange(min=2), default=200, show_default=True, help="Fewer from 2,000 on.")
def main(counts: str, trials: int) -> None:
    """The table of docs/metrics.md."""
    root_a = symmetric_root(0.1, seed=1)
    root_b = root_a + 0.3 * symmetric_root(0.1, seed=2)
    zero = torch.zeros(DIMS, dtype=torch.float64)
    truth = frechet_distance(zero, root_a @ root_a.T, zero, root_b @ root_b.T)
    print(f"{DIMS} features, truth {truth:.3f}\n")
    print("| images a side | FID, mean ± spread | FID∞, mean ± spread | truth within the interval |")
    print("| --- | --- | --- | --- |")
    for count in map(int, counts.split(",")):
        repeats = min(trials, max(20, trials * 1000 // count))
        seen = [trial(root_a, root_b, count, truth, seed) for seed in range(repeats)]
        cells = [f"{count:,}"]
        for values in ([one.plain for one in seen], [one.infinity for one in seen]):
            cells.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}")
        cells.append(f"{sum(one.held for one in seen)} of {repeats}")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
