"""`minidiff fid`: how far two sets of images are apart, and whether you can trust the number."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minidiff.cli.choices import choice
from minidiff.cli.commands import Command, max_pixels, on_bad, own_network, section
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import Device, Names, Place, Whole, complete_run
from minidiff.errors import UserError
from minidiff.metrics.config import INCEPTION_DIMS, METRICS, MeasureRequest

if TYPE_CHECKING:
    from minidiff.pretrained.distance import Progress


@click.command(cls=Command)
@click.argument("a", metavar="A", shell_complete=complete_run)
@click.argument("b", metavar="[B]", required=False, shell_complete=complete_run)
@section("Measuring")
@click.option(
    "--metrics",
    type=Names("metric", METRICS),
    default="fid",
    show_default=True,
    help=f"One or more of {','.join(METRICS)}.",
)
@click.option(
    "--features",
    default="inception",
    show_default=True,
    metavar="inception|RUN",
    shell_complete=complete_run,
    help="The network to measure in: Inception, or for images unlike ImageNet's photographs a classifier: a run, or "
    "the name of one that comes with minidiff, such as fashion-mnist.",
)
@click.option("--weights", type=Place(), help="A file with Inception's weights. Default: the published ones, fetched.")
@click.option(
    "--dims",
    type=click.Choice([str(dims) for dims in INCEPTION_DIMS]),
    help="Take the layer of Inception that has this many features. Default: 2048.",
)
@click.option(
    "--mode",
    type=choice("mode"),
    help="With Inception: resize and scale images as this package does. Default: pytorch-fid.",
)
@section("Samples of a run")
@click.option("-n", "--num", type=Whole(min=2), help="Draw this many samples from a run. Default: 10000.")
@click.option("--sampler", type=choice("sampler"), help="Draw from a DDPM with this sampler. Default: ddim.")
@click.option("--steps", type=Whole(min=1), help="Network calls for a sample of a DDPM. Default: the sampler's own.")
@click.option("--seed", type=Whole(min=0), help="The seed for samples of a run. Default: 0.")
@section("Images of a folder or of dataset:NAME")
@on_bad
@max_pixels
@click.option("--data-dir", type=Place(), help="The folder with the files of a dataset:NAME. Default: the cache.")
@click.option("--image-size", type=Whole(8, 1024), help="Resize the images of a dataset:NAME. Default: the set's size.")
@section("Computing")
@click.option(
    "--batch-size",
    type=Whole(min=1),
    help="Images at a time in each process. Default: 32 with Inception on a CPU, else 64.",
)
@section("Output")
@click.option(
    "--save-stats", type=Place(), metavar="FILE.npz", help="Write mu and sigma of A, to be used in place of A later."
)
@click.option("--force", is_flag=True, help="Replace the file at --save-stats if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and the rest on standard error.")
@section("Computing")
@own_network()
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.pass_context
def fid(
    ctx: click.Context, /, a: str, b: str | None, save_stats: str | None, force: bool, as_json: bool, device: str,
    metrics: list[str], dims: str | None, **asked: Any,
) -> None:  # fmt: skip
    """Measure the distance between A, the samples, and B, the reference.

    Each is a folder of images, a .npy or .npz with images, a .npz with statistics (mu, sigma), a run folder, which is
    sampled, or dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]. FILE.npz:NAME is one of several arrays of a .npz.

    \b
    minidiff fid samples.npz dataset:cifar10
    minidiff fid runs/ddpm-cifar10-1 dataset:cifar10:test --num 10000 --metrics fid,kid,fid-inf
    minidiff fid runs/ddpm-fashion-mnist-1 dataset:fashion-mnist --features fashion-mnist
    minidiff fid dataset:mnist:test:motion_blur-3 dataset:mnist --features runs/classifier-mnist-1
    minidiff fid dataset:cifar10 --save-stats cifar10.npz
    torchrun --nproc_per_node=8 -m minidiff fid samples.npz cifar10.npz
    """
    if b is None and not save_stats:
        raise click.UsageError("B is missing: what to compare with. With --save-stats, A alone is enough.", ctx)
    target = file_to_write(save_stats, force, ctx)
    request = MeasureRequest(tuple(metrics), dims=int(dims) if dims else None, **asked)

    from minidiff.metrics.compare import describe_network, describe_set, describe_value
    from minidiff.metrics.statistics import StoredStatistics
    from minidiff.pretrained.distance import Comparison
    from minidiff.runtime import distributed

    place = distributed.local_device(device)
    with distributed.process_group(place):
        comparison = Comparison(a, b, request, place)
        if target and (isinstance(images := comparison.sources[0], StoredStatistics) or images.statistics):
            raise UserError(f"--save-stats keeps the statistics of A, and {a} is statistics already. Give images.")
        remark(f"features  {describe_network(comparison.network)}", err=as_json)
        with Bars() as bars:
            found = comparison.measure(bars.show)
        for label, side in (("A", found.a), ("B", found.b)):
            if side is not None:
                remark(f"{label}         {describe_set(side)}", err=as_json)
        if not distributed.is_main():
            return
        if target:
            found.save_statistics(target)
            say(f"written   {target}: mu and sigma of A", err=as_json)
        for doubt in found.warnings:
            warn(doubt)
        if as_json and found.values:
            click.echo(json.dumps(found.to_json(), indent=2))  # JSON has escapes of its own
        elif found.values:
            width = max(9, *map(len, found.titles.values()))
            for name, value in found.values.items():
                say(f"{found.titles[name]:{width}} {describe_value(value)}")


def file_to_write(save_stats: str | None, force: bool, ctx: click.Context) -> Path | None:
    """Return the file of --save-stats, if it can be written. Raise an error before the long work if not."""
    if not save_stats:
        return None
    target = Path(save_stats)
    if target.suffix != ".npz":
        raise click.UsageError(f"--save-stats {target} must end in .npz.", ctx)
    if target.exists() and not force:
        raise UserError(f"{target} exists. Give another --save-stats, or --force to replace it.")
    if not target.parent.is_dir():
        raise UserError(f"--save-stats {target}: there is no folder {target.parent}. Make it first.")
    return target


class Bars:
    """A progress bar for each stage of a measurement, one after the other."""

    def __init__(self) -> None:
        self.stage = ""
        self.bar: Any = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, progress: "Progress") -> None:
        """Move the bar of this stage, or begin a new one."""
        from minidiff.runtime.progress import progress_bar

        if progress.stage != self.stage:
            self.__exit__()
            self.stage = progress.stage
            self.bar = progress_bar(progress.total, progress.stage, unit=progress.unit, delay=0.5)
        self.bar.set_postfix_str(progress.note, refresh=False)
        self.bar.update(progress.done - self.bar.n)
