"""`minidiff train dehaze`: its options, of stage 1 and of stage 2."""

from typing import Any

import click

from minidiff.cli.choices import choice
from minidiff.cli.commands import Command, max_pixels, on_bad, section
from minidiff.cli.train_options import PICTURES, how_to_train, large_networks, muon, sample_every, where_to
from minidiff.cli.train_run import carry_out
from minidiff.cli.types import Name, Number, Place, Whole
from minidiff.dehaze.config import DehazeRequest
from minidiff.dehaze.presets import GUESS_PRESETS, REFINE_PRESETS


@click.command(cls=Command)
@section("Data")
@click.option(
    "--dataset",
    type=choice("set of hazy pictures"),
    default=DehazeRequest.dataset,
    show_default=True,
    help="The hazy pictures to train on, with the truth about them.",
)
@click.option(
    "--data-dir",
    type=Place(),
    help="Your photographs, or the pairs of hazy-pairs. Default: Debian's.",
)
@click.option("--image-size", type=Whole(16, 1024), help="Height and width of the pairs. Default: the preset's.")
@on_bad
@max_pixels
@click.option("--flip/--no-flip", default=None, help="Mirror half of the pairs, at random. Default: yes.")
@section("Network")
@click.option(
    "--stage",
    type=Whole(1, 2),
    default=DehazeRequest.stage,
    show_default=True,
    help="1: guess J, T and A. 2: go from the J of stage 1 to a clear picture, by diffusion.",
)
@click.option(
    "--stage-1", type=Place(), metavar="RUN", help="For stage 2: the run of stage 1 that it is trained behind."
)
@click.option(
    "--init",
    metavar="RUN",
    help="Begin with the weights of this run, instead of random ones. For stage 1, a run of stage 2 will do as well, "
    "such as the model dehaze.",
)
@click.option(
    "--preset",
    type=Name("preset", GUESS_PRESETS | REFINE_PRESETS),
    help="A network and its settings, for a purpose. Every other option overrides it. Default: gpu where there is "
    "one, else cpu. See `minidiff train presets`.",
)
@section("Loss")
@click.option(
    "--transmission-weight",
    type=Number(0),
    help=f"How much errors of T and A count beside those of J. Default: the preset's "
    f"({GUESS_PRESETS['cpu'].loss.transmission}).",
)
@click.option(
    "--haze-weight",
    type=Number(0),
    help=f"How much errors of the haze that J, T and A give count. Default: the preset's "
    f"({GUESS_PRESETS['cpu'].loss.haze}).",
)
@click.option(
    "--crop",
    type=Whole(min=8),
    help=f"For stage 2: pixels a side that it is trained on. Default: the preset's (cpu: {REFINE_PRESETS['cpu'].crop}, "
    f"gpu: {REFINE_PRESETS['gpu'].crop}).",
)
@click.option(
    "--fourier-weight",
    type=Number(0),
    help="For stage 2: how much errors in the magnitudes of the Fourier transform count. Default: the preset's (0).",
)
@click.option(
    "--prediction",
    type=choice("prediction"),
    help="For stage 2: what the network learns to predict. Default: the preset's (v).",
)
@click.option(
    "--shift",
    type=choice("shift"),
    help="For stage 2: how J shifts the process that the network sees. Default: the preset's (none).",
)
@how_to_train(GUESS_PRESETS, large_networks(), muon())
@section(PICTURES)
@sample_every()
@click.option(
    "--measure-every",
    type=Whole(min=1),
    help="Steps between measurements on held-out pairs. Default: a tenth, for stage 2 a quarter, at least 200.",
)
@where_to("dehaze")
@click.pass_context
def dehaze(ctx: click.Context, /, **options: Any) -> None:
    """Train a dehazing: stage 1 guesses the clear picture J, the transmission T and the airlight A; stage 2 refines J.

    A run of stage 2 holds the weights of both stages. The defaults below that depend on the preset are of stage 1.

    \b
    minidiff train dehaze
    minidiff train dehaze --data-dir holiday --minutes 30
    minidiff train dehaze --stage 2 --stage-1 runs/dehaze-haze-1
    minidiff train dehaze --resume runs/dehaze-haze-1
    """
    carry_out(ctx, "dehaze", DehazeRequest, **options)
