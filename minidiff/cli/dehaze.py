"""`minidiff dehaze`: pictures taken out of the haze."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minidiff.cli.commands import Command, max_pixels, section
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import Device, Number, Place, Whole
from minidiff.dehaze.config import ClearRequest
from minidiff.errors import UserError, counted, printable
from minidiff.runs.folder import CONFIG

if TYPE_CHECKING:
    from minidiff.dehaze.pictures import Cleared

DEFAULTS = ClearRequest()


class FromNoise(Whole):
    """Take a timestep, or `noise` for a chain that begins in pure noise. Gives None for that."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "noise" else super().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "T|noise"


@click.command(cls=Command)
@click.argument("places", type=Place(), nargs=-1, required=True, metavar="RUN PICTURE...")
@section("Model")
@click.option(
    "--strength",
    type=Number(0, 1),
    default=DEFAULTS.strength,
    show_default=True,
    help="How much of the haze goes; at 0 all of it stays.",
)
@click.option(
    "--steps",
    type=Whole(min=0),
    default=DEFAULTS.steps,
    show_default=True,
    help="Calls of the network of stage 2. More give more texture. 0: stage 1 alone, which is quick.",
)
@click.option(
    "--start-t",
    type=FromNoise(min=0),
    default=DEFAULTS.start_t,
    show_default=True,
    help="Where the chain begins, from the J of stage 1 with the noise of this timestep. noise: in pure noise.",
)
@click.option("--seed", type=Whole(min=0), default=DEFAULTS.seed, show_default=True, help="The seed of the noise.")
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@section("Pictures")
@click.option(
    "--reference",
    type=Place(),
    metavar="PICTURE",
    help="The clear picture of the same place, to measure PSNR and SSIM against.",
)
@max_pixels
@section("Output")
@click.option(
    "--out",
    type=Place(),
    metavar="FILE|FOLDER",
    help="The result, or the folder for several. Default: dehazed.png, or dehazed.",
)
@click.option("--dump-stages", is_flag=True, help="Write J, T and A as pictures beside the result, and a strip of all.")
@click.option("--resume", is_flag=True, help="Leave out pictures whose result is there.")
@click.option("--force", is_flag=True, help="Replace results that are there.")
def dehaze(places: tuple[str, ...], out: str | None, resume: bool, force: bool, device: str, **asked: Any) -> None:
    """Take the haze off pictures, or off all pictures of a folder.

    RUN is what `minidiff train dehaze` has made. Its stage 1 guesses the clear picture, how much light comes through,
    and the colour of the haze. A run of stage 2 begins at that guess, and draws what stage 1 cannot know. Pictures of
    any size stay as large as they are.

    \b
    minidiff dehaze runs/dehaze-haze-2 hazy.jpg
    minidiff dehaze runs/dehaze-haze-2 hazy.jpg --strength 0.7 --out clear.png --dump-stages
    minidiff dehaze runs/dehaze-haze-2 holiday/ --out clear/ --resume
    minidiff dehaze runs/dehaze-haze-1 hazy.jpg                        stage 1 alone
    """
    from minidiff.dehaze.pictures import begin
    from minidiff.runtime.distributed import local_device
    from minidiff.runtime.progress import progress_bar

    model = places[0] if (Path(places[0]) / CONFIG).is_file() else None
    sources = places[1:] if model else places
    job = begin(sources, model, ClearRequest(**asked), out, resume, force, local_device(device))
    remark(job.describe())
    for warning in job.warnings:
        warn(warning)
    with progress_bar(len(job.targets), unit="picture", initial=len(job.targets) - len(job.left)) as bar:

        def ended(file: Path, result: "Cleared") -> None:
            bar.update()
            if len(job.targets) <= 20:
                say(line_of(file.name, result))
            for doubt in result.doubts:
                warn(f"{file.name}: {doubt}")

        done = job.work(on_end=ended)
    for failure in done.failures:
        warn(failure)
    if job.left and not done.results:
        raise UserError(f"none of {counted(len(job.left), 'picture')} could be dehazed.")
    targets = list(job.targets.values())
    say(f"written   {targets[0] if len(targets) == 1 else targets[0].parent}")


def line_of(name: str, result: "Cleared") -> str:
    """Say in a line what was done to a picture."""
    light = ", ".join(map(str, result.airlight))
    figures = [f"{which} {value:.2f} dB, SSIM {result.ssim[which]:.3f}" for which, value in result.psnr.items()]
    more = f"; {'; '.join(figures)}" * bool(figures)
    through = f"{100 * result.transmission:.0f}% of the light comes through"
    return f"{printable(name)}: {through}, airlight {light}; {result.seconds:.1f} s{more}"
