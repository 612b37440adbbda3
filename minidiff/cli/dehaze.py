"""`minidiff dehaze`: pictures taken out of the haze."""

from pathlib import Path
from typing import Any

import click

from minidiff.cli.commands import Command, max_pixels, refuse_options, section
from minidiff.cli.picture_run import answer_options, go_through
from minidiff.cli.types import Device, Number, OrAuto, Place, Whole
from minidiff.dehaze.config import ANSWER, DEHAZE, ClearRequest
from minidiff.errors import UserError
from minidiff.files import read_json
from minidiff.runs.folder import CONFIG, read_config
from minidiff.runs.shipped import find_run, shipped

DEFAULTS = ClearRequest()


class FromNoise(OrAuto):
    """Take a timestep, `auto`, or `noise` for a chain that begins in pure noise. Gives None for that."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "noise" else super().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "T|auto|noise"


@click.command(cls=Command)
@click.argument("places", type=Place(), nargs=-1, metavar="[RUN] PICTURE...")
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
    help="Calls of the network of stage 2. More draw more texture, which need not be true. 0: stage 1 alone, which is "
    "quick.",
)
@click.option(
    "--start-t",
    type=FromNoise(Whole(min=0), "a timestep, noise"),
    default=DEFAULTS.start_t,
    show_default=True,
    help="Where the chain begins, from the J of stage 1 with the noise of this timestep. auto: where there is as much "
    "noise as in J. noise: in pure noise, which needs about 20 --steps.",
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
@answer_options(ANSWER, "clear")
@click.option("--dump-stages", is_flag=True, help="Write J, T and A as pictures, at full size, into the run folder.")
@click.option(
    "--resume",
    type=Place(),
    metavar="FOLDER",
    help="Go on with this run folder, by its settings, where it was stopped.",
)
@click.pass_context
def dehaze(
    ctx: click.Context, /, places: tuple[str, ...], out: str | None, run: str | None, resume: str | None,
    force: bool, device: str, **asked: Any,
) -> None:  # fmt: skip
    """Take the haze off pictures, or off all pictures of a folder.

    RUN is what `minidiff train dehaze` has made. Without it the model that comes with minidiff does the work. Stage 1
    guesses the clear picture, how much light comes through, and the colour of the haze. Stage 2 begins at that guess,
    and draws what stage 1 cannot know. Pictures of any size stay as large as they are.

    \b
    minidiff dehaze hazy.jpg
    minidiff dehaze hazy.jpg --strength 0.7 --out clear.png
    minidiff dehaze holiday/ --out clear/
    minidiff dehaze --resume runs/clear-holiday-1
    minidiff dehaze runs/dehaze-haze-2 hazy.jpg           a model of your own
    minidiff dehaze runs/dehaze-haze-1 hazy.jpg           stage 1 alone
    """
    from minidiff.dehaze import pictures
    from minidiff.runtime.distributed import local_device

    if bool(places) == (resume is not None):
        raise click.UsageError("give PICTURES to dehaze, or --resume FOLDER to go on with some.", ctx)
    if resume is not None:
        refuse_options(ctx, {"resume", "device"})
        job = pictures.reopen(resume, local_device(device))
    else:
        model, sources = model_and_pictures(places)
        job = pictures.begin(sources, model, ClearRequest(**asked), out, run, force, local_device(device))
    go_through(job, "dehaze", "dehazed")


def model_and_pictures(places: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Tell the model, which may come first, from the pictures. Raises UserError where it is not clear.

    A run folder is a model, also if pictures lie in it. `dehaze` is the name of the model that comes with the package,
    unless it stands alone and is a folder of pictures; ./dehaze is always that folder.
    """
    first, *others = places
    by_name = first in shipped() and (not Path(first).exists() or (first == DEHAZE and bool(others)))
    if by_name or is_run(first):
        if not others:
            refuse_lone_run(first)
        model, pictures = first, tuple(others)
    else:
        check_is_picture(first, bool(others))
        model, pictures = None, places
    for place in filter(is_run, others):
        if read_config(place)["kind"] == DEHAZE:
            raise UserError(f"{place} is a dehaze run. Name one, and the pictures after it.")
    return model, pictures


def is_run(place: str) -> bool:
    """Tell whether a place is a run folder, of whatever kind. A config.json of another program makes none."""
    config = Path(place) / CONFIG
    try:
        return config.is_file() and "kind" in read_json(config)
    except UserError:  # it is damaged, which is said when it is opened
        return True


def refuse_lone_run(place: str) -> None:
    """Raise UserError for a run without pictures."""
    if read_config(find_run(place))["kind"] == "clear":
        raise UserError(f"{place} holds what was found in pictures. Go on with them by `resume` {place}.")
    raise UserError(f"{place} is a run, and no picture is named after it. Name some, or a folder of them.")


def check_is_picture(place: str, first_of_several: bool) -> None:
    """Raise UserError for what may have been meant as RUN: a folder without pictures, or a name that is nowhere."""
    from minidiff.images.files import IMAGE_SUFFIXES, image_files

    is_name = Path(place).suffix.lower() not in IMAGE_SUFFIXES and place != DEHAZE
    if Path(place).is_dir():
        try:
            image_files(place)
        except UserError as error:
            raise UserError(f"{str(error).rstrip('.')}, and it is no run, as it has no {CONFIG}.") from None
    elif first_of_several and is_name and not Path(place).exists():
        raise UserError(
            f"{place} does not exist, so it is neither a run nor a picture. `minidiff info` lists the runs."
        )
