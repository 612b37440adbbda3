"""`minidiff fid`: how far two sets of images are apart, and whether the number can be trusted."""

import json
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from minidiff.cli.types import Device, Name, Names, Place, say, warn
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.errors import UserError
from minidiff.metrics import compare as measure
from minidiff.metrics import extraction
from minidiff.metrics.features import DIMS, MODES, choose
from minidiff.metrics.sources import Source, save_statistics
from minidiff.pretrained.sources import open_source
from minidiff.runtime import distributed


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@click.option(
    "--metrics",
    "wanted",
    type=Names("metric", measure.METRICS),
    default="fid",
    show_default=True,
    help=f"Any of {','.join(measure.METRICS)}.",
)
@click.option(
    "--features",
    default="inception",
    show_default=True,
    metavar="inception|RUN",
    help="The network to measure in: Inception, or a classifier run, for data that ImageNet knows nothing of.",
)
@click.option("--weights", type=Place(), help="Inception's weights. Default: from the cache, or downloaded.")
@click.option("--dims", type=click.Choice([str(dims) for dims in DIMS]), help="Features of Inception. Default: 2048.")
@click.option(
    "--mode", type=Name("mode", MODES), help="Whose resizing and normalising, with Inception. Default: pytorch-fid."
)
@click.option("-n", "--num", type=click.IntRange(min=2), help="How many samples of a run. Default: 10000.")
@click.option("--sampler", type=Name("sampler", SAMPLERS), help="How a DDPM is sampled. Default: ddim.")
@click.option("--steps", type=click.IntRange(min=1), help="Calls for a sample. Default: the sampler's own.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the samples of a run. Default: 0.")
@click.option("--data-dir", type=Place(), help="Where the data set of a dataset:NAME lies.")
@click.option("--image-size", type=click.IntRange(8, 1024), help="Of a dataset:NAME. Default: the set's own.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Images at a time, a process. Default: 32 with Inception on a CPU, else 64.",
)
@click.option("--save-stats", type=Place(), metavar="FILE.npz", help="Keep mu and sigma of A, to stand for A later.")
@click.option("--force", is_flag=True, help="Replace what is at --save-stats.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output, all else on the other.")
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.pass_context
def fid(
    ctx: click.Context, a: str, b: str | None, wanted: list[str], features: str, weights: str | None, dims: str | None,
    mode: str | None, num: int | None, sampler: str | None, steps: int | None, seed: int | None, data_dir: str | None,
    image_size: int | None, batch_size: int | None, save_stats: str | None, force: bool, as_json: bool, device: str,
) -> None:  # fmt: skip
    """The distance between A, the samples, and B, the reference.

    Each is a folder of images, a .npy or .npz of images, a statistics .npz (mu, sigma), a run folder, which is sampled,
    or dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]].

    \b
    minidiff fid samples.npz dataset:cifar10
    minidiff fid runs/ddpm-cifar10-1 dataset:cifar10:test --num 10000 --metrics fid,kid,fid-inf
    minidiff fid runs/ddpm-fashion-mnist-1 dataset:fashion-mnist --features runs/classifier-fashion-mnist-1
    minidiff fid dataset:mnist:test:motion_blur-3 dataset:mnist --features runs/classifier-mnist-1
    minidiff fid dataset:cifar10 --save-stats cifar10.npz
    torchrun --nproc_per_node=8 -m minidiff fid samples.npz cifar10.npz
    """
    if b is None and not save_stats:
        raise click.UsageError("B is missing: what to compare with. With --save-stats alone, A is enough.", ctx)
    target = Path(save_stats) if save_stats else None
    if target and target.suffix != ".npz":
        raise click.UsageError(f"--save-stats {target} must end in .npz.", ctx)
    if target and target.exists() and not force:
        raise UserError(f"{target} exists. Give another --save-stats, or --force to replace it.")
    if target and not target.parent.is_dir():
        raise UserError(f"--save-stats {target}: there is no folder {target.parent}. Make it first.")
    place = distributed.local_device(device)
    with distributed.process_group(place):
        bar = tqdm(unit="image", disable=not distributed.is_main(), dynamic_ncols=True, delay=0.5)
        sampling: dict[str, Any] = {"sampler": sampler, "steps": steps, "seed": seed, "num": num}
        given = {name: value for name, value in sampling.items() if value is not None}

        def on_step(step: Any) -> None:  # a batch of samples can take minutes: show where its chain is
            bar.set_postfix_str(f"t = {step.t}", refresh=False)

        sides = [
            open_source(side, data_dir=data_dir, image_size=image_size, device=place, **given, on_step=on_step)
            for side in (a, b) if side is not None
        ]  # fmt: skip
        if given and not any(isinstance(side, Source) and side.sampled for side in sides):
            raise click.UsageError(f"--{next(iter(given))} is for sampling a run, and neither A nor B is one.", ctx)
        if target and not isinstance(sides[0], Source):
            raise UserError(f"--save-stats keeps the statistics of A, and {a} is statistics already. Give images.")
        for option, value in (("data-dir", data_dir), ("image-size", image_size)):
            if value is not None and not any(str(side).startswith("dataset:") for side in (a, b)):
                raise click.UsageError(f"--{option} is for a dataset:NAME, and neither A nor B is one.", ctx)
        network = choose(features, weights=weights, dims=int(dims) if dims else None, mode=mode, device=place)
        measure.check_wanted(wanted, sides, network)
        say(f"features  {measure.described(network)}", err=as_json)
        at_once = 32 if network.name == "inception" and place.type == "cpu" else 64
        of_each = [wanted, [metric for metric in wanted if metric != "is"]]  # IS asks nothing of B
        known = [extraction.recalled(side, network, asked) for side, asked in zip(sides, of_each, strict=False)]
        bar.total = sum(s.count for s, side in zip(sides, known, strict=True) if isinstance(s, Source) and side is None)
        done = []

        def on_images(count: int) -> None:  # of this process: the others are as far
            bar.update(min(count * distributed.world_size(), bar.total - bar.n))

        with bar:
            for label, source, side, asked in zip("AB", sides, known, of_each, strict=False):
                bar.set_description(label, refresh=False)
                size = batch_size or at_once
                done.append(
                    side or extraction.measured(source, network, wanted=asked, batch_size=size, on_images=on_images)
                )
        for label, side in zip("AB", done, strict=False):
            say(f"{label}         {measure.told(side)}", err=as_json)
        if not distributed.is_main():
            return
        if target:
            save_statistics(target, extraction.statistics_of(done[0], network))
            say(f"written   {target}: mu and sigma of A", err=as_json)
        if len(done) < 2:
            return
        with tqdm(unit="piece", leave=False, dynamic_ncols=True, delay=0.5) as bar:

            def on_progress(metric: str, count: int, total: int) -> None:
                bar.set_description(metric, refresh=False)
                bar.total, bar.n = total, count
                bar.update(0)

            found = measure.compare(done[0], done[1], network, wanted, on_progress)
        doubts = measure.doubts(done[0], done[1], network, wanted)
        for doubt in doubts:
            warn(doubt)
        if as_json:
            click.echo(json.dumps(measure.report(done[0], done[1], network, found, doubts), indent=2))
        else:
            titles = {name: measure.title(name, network) for name in found}
            width = max(9, *map(len, titles.values()))
            for name, value in found.items():
                say(f"{titles[name]:{width}} {measure.worded(value)}")
