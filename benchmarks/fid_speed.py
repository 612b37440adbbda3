"""How fast is FID? Features of Inception, and the distance of two Gaussians, beside pytorch-fid and torch-fidelity.

The same seeded random weights, the same images. Features: every contender has a process of its own, since what
`minidiff.cpu` tells the allocator holds for a whole process; they take turns in an order drawn anew each round, and the
ratio is taken within a round. Prints a Markdown table: see README.md here.
"""

import datetime
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import common
import torch
from common import Racer, gib, machine, ratio, resident, rounds_of, seconds, take_turns, versions
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import peers  # noqa: E402
from pytorch_fid.fid_score import calculate_frechet_distance  # noqa: E402

from minidiff.images.convert import Pixels  # noqa: E402
from minidiff.metrics.features import inception_features  # noqa: E402
from minidiff.metrics.frechet import FeatureStatistics, frechet_distance  # noqa: E402
from minidiff.runtime import cpu  # noqa: E402

DIMS, CPU = 2048, torch.device("cpu")
Features = Callable[[Pixels], Tensor]


# --- features: uint8 [N,H,W,3] in, [N,2048] out -------------------------------------------------------------------


def pytorch_fid(weights: Path, device: torch.device) -> Features:
    """As its own `get_activations` does: the images as float32 to the device, resized in the network."""
    network = peers.pytorch_fid_network(weights).to(device)

    @torch.no_grad()
    def features(images: Pixels) -> Tensor:
        batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
        return network(batch.to(device))[0].squeeze(3).squeeze(2).cpu()

    return features


def torch_fidelity(weights: Path, device: torch.device) -> Features:
    """The images as uint8 to the device, resized in the network."""
    network = peers.torch_fidelity_network(weights).to(device)

    @torch.no_grad()
    def features(images: Pixels) -> Tensor:
        return network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device))[0].cpu()

    return features


def ours(weights: Path, device: torch.device) -> Features:
    """In the mode pytorch-fid."""
    network = inception_features(weights=weights, device=device)
    return lambda images: network.compute(images)[0]


CONTENDERS = {"pytorch-fid": pytorch_fid, "torch-fidelity": torch_fidelity, "minidiff": ours}


def feature_lines(rounds: int, batch_size: int, image_size: int) -> list[str]:
    """The race, a line for each."""
    racers = {name: Racer("--contender", name) for name in CONTENDERS}
    times = rounds_of({name: racer.turn for name, racer in racers.items()}, rounds)
    for racer in racers.values():
        racer.close()
    lines = [
        f"| features of {image_size}x{image_size} images, batch {batch_size} | images/s | ratio (range) | "
        "peak memory, GiB |",
        "| --- | --- | --- | --- |",
    ]
    for name, mine in times.items():
        rate = batch_size / statistics.median(mine)
        lines.append(f"| {name} | {rate:.1f} | {ratio(times['pytorch-fid'], mine)} | {gib(racers[name].peak)} |")
    return lines


# --- the distance: two Gaussians in, a number out -----------------------------------------------------------------


def distance_lines(rounds: int) -> list[str]:
    """Statistics of more images than features, and of fewer, whose covariances have no inverse."""
    lines = [
        f"| Frechet distance of {DIMS} features | ms, pytorch-fid (sqrtm) | ms, minidiff | ratio (range) | "
        "relative difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(0, -1.5, DIMS)
    for count in (10_000, 1_000):
        one, other = (FeatureStatistics.of(torch.randn(count, DIMS, generator=generator) * scales) for _ in range(2))
        gaussians = (one.mean, one.covariance, other.mean, other.covariance)
        arrays = [tensor.numpy() for tensor in gaussians]
        values: dict[str, float] = {}

        def theirs(arrays=arrays, values=values) -> None:  # type: ignore[no-untyped-def]
            values["theirs"] = calculate_frechet_distance(*arrays)

        def mine(gaussians=gaussians, values=values) -> None:  # type: ignore[no-untyped-def]
            values["ours"] = frechet_distance(*gaussians)

        clocks = {"theirs": partial(seconds, theirs, 1, CPU), "ours": partial(seconds, mine, 1, CPU)}
        times = rounds_of(clocks, rounds)
        cells = [f"{1e3 * statistics.median(times[name]):.0f}" for name in ("theirs", "ours")]
        cells += [ratio(times["theirs"], times["ours"]), f"{abs(values['ours'] / values['theirs'] - 1):.1e}"]
        lines.append(f"| of {count:,} images | " + " | ".join(cells) + " |")
    return lines


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--image-size", type=click.IntRange(min=1), default=64, show_default=True, help="Pixels a side.")
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True, help="Paired, shuffled rounds.")
@click.option("--turn", type=float, default=4.0, show_default=True, help="Seconds of a turn, at least.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: torch's choice.")
@click.option("--seed", default=0, show_default=True, help="Of the weights and of the order of the rounds.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the table here.")
@click.option("--contender", hidden=True, help="Be this one, in a process of its own.")
def main(device: str, batch_size: int, image_size: int, rounds: int, turn: float, threads: int | None, seed: int,
         out: Path | None, contender: str | None) -> None:  # fmt: skip
    """Time our features and our distance beside pytorch-fid's and torch-fidelity's."""
    common.clock = "wall"
    if threads:
        torch.set_num_threads(threads)
    weights = peers.weights_file(Path(tempfile.gettempdir()), seed)
    if contender:
        if contender == "minidiff":
            cpu.tune()
        features = CONTENDERS[contender](weights, torch.device(device))
        images, before = peers.pictures(batch_size, image_size, image_size, seed), resident("VmRSS")
        features(images)
        take_turns(lambda: features(images), turn, torch.device(device), before)
        return
    cpu.tune()  # its word to OpenMP passes on to all contenders: a busy machine is no handicap for the others
    random.seed(seed)
    lines = [
        f"### FID: {machine(device)}, {datetime.date.today()}",
        "",
        f"`{' '.join(['python benchmarks/fid_speed.py', *sys.argv[1:]])}`: {rounds} rounds, {torch.get_num_threads()} "
        f"CPU threads, {versions('pytorch_fid', 'torch_fidelity', 'scipy')}.",
        "",
        *feature_lines(rounds, batch_size, image_size),
        "",
        *distance_lines(max(3, rounds // 2)),
    ]
    table = "\n".join(lines) + "\n"
    print(table)
    if out:
        out.write_text(table)


if __name__ == "__main__":
    main()
