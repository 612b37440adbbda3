"""`minidiff sample`: images from a trained model, into a grid, a folder or an array."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click

from minidiff.cli.choices import GUIDANCE_SCALE, choice, own_steps, table
from minidiff.cli.commands import Command, max_pixels, own_network, section, which_weights
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import TIMESTEP, Counted, Device, Name, Number, Place, Size, Steps, Whole, complete_run
from minidiff.ddpm.request import FROM_INIT, FROM_NOISE
from minidiff.errors import UserError
from minidiff.pretrained.request import DrawRequest


class SampleCommand(Command):
    """A command with two flags for the package's one `clip`."""

    def translated(self, message: str) -> str:
        return super().translated(clip_flags(message))


def clip_flags(message: str) -> str:
    """Name the flag that stands for the package's `clip`: False, a quantile, or either."""
    message = message.replace("`clip` False", "--no-clip")
    message = re.sub(r"`clip` (0\.\d+)", r"--threshold \1", message)
    return message.replace("`clip`", "--no-clip or --threshold")


@contextmanager
def usage(ctx: click.Context) -> Iterator[None]:
    """Turn the error of a record into an error about the usage of this command."""
    try:
        yield
    except UserError as error:
        command = ctx.command
        message = command.translated(str(error)) if isinstance(command, Command) else str(error)
        raise click.UsageError(message, ctx) from None


@click.command(cls=SampleCommand)
@click.argument("run", required=False, shell_complete=complete_run)
@section("Images")
@click.option(
    "-n",
    "--num",
    type=Whole(min=1),
    help="How many images to draw. Default: 16, or one for each init or each line of --labels-file.",
)
@click.option(
    "--size",
    type=Size(),
    help="Width and height of the images, from a model that takes any size (minidiff info says so). Default: the size "
    "it was trained at, or that of --init.",
)
@section("Reverse chain")
@click.option(
    "--sampler",
    type=choice("sampler"),
    help=f"How to walk down the reverse chain. Default: {FROM_NOISE}; with --init {FROM_INIT} (docs/results.md).",
)
@click.option("--steps", type=Whole(min=1), help=f"Calls of the network. Default: {own_steps()}.")
@click.option("--eta", type=Number(0, 1), help="How much noise ddim adds: 0 none, 1 as much as ddpm. Default: 0.")
@click.option(
    "--variance", type=choice("variance"), help="How much noise ddpm adds. Default: what the run was trained for."
)
@click.option(
    "--spacing",
    type=choice("spacing"),
    help="How to spread the timesteps when some are skipped. Default: the sampler's own (docs/samplers.md).",
)
@section("A picture to start from")
@click.option(
    "--start-t",
    "--start-step",
    type=TIMESTEP,
    help="The first timestep of the chain. auto measures the noise in --init and starts where x_t has as much. "
    "Default: T-1; T/2 for a run that starts from a prior.",
)
@click.option(
    "--init",
    type=Place(),
    help="Start from this image, folder of images, or DIP run, at --start-t. It is brought to the model's size, "
    "unless the model takes any size (minidiff info says so).",
)
@max_pixels
@click.option(
    "--init-mode",
    type=choice("init mode"),
    help="What to do with the init. noise: add the noise of --start-t. scale: it has that noise, so only scale it to "
    "x_t. as-is: it is x_t already. Default: noise; with --start-t auto scale.",
)
@click.option(
    "--init-steps",
    type=Steps(),
    help="Start from these saved steps of the DIP run at --init. A picture at --out then has a row for each step: "
    "the init, x_t at --progressive moments (8 by default), the image.",
)
@click.option(
    "--prior/--no-prior",
    "use_prior",
    default=True,
    show_default=True,
    help="Whether a run that was trained for it starts from the outputs of its prior, for training images with fresh "
    "noise (docs/priors.md).",
)
@section("A picture's own noise")
@click.option(
    "--invert",
    type=Place(),
    metavar="PICTURE",
    help="Walk ddim's chain upwards from this picture, or folder of pictures, to the noise that it is made of, and "
    "back. --out: a sheet, with the noise beside it in OUT-noise.npz; or a .npz, the noise alone.",
)
@click.option(
    "--noise",
    type=Place(),
    metavar="FILE.npz",
    help="Draw from the noise that --invert wrote: the same picture, or with other --labels one like it.",
)
@click.option(
    "--interpolate",
    nargs=2,
    metavar="A B",
    help="Draw --num frames on the way from A to B, each a seed or a picture. Default: 9.",
)
@section("Labels")
@click.option(
    "--labels",
    multiple=True,
    metavar="NAME,NAME,...",
    help="What to draw with a conditional run, such as 'blue cube, yellow cylinder'. Give it several times for several "
    "conditions: they take turns.",
)
@click.option(
    "--labels-file",
    metavar="FILE",
    help="What to draw, as a JSON list of lists of names. For test, the folder of the run's data set is searched for "
    "test.json; else test and new_test are the lists of minidiff's own shapes.",
)
@click.option(
    "--guidance",
    "guidance_scale",
    type=Number(0),
    help="How closely to follow the labels: 1 as trained; more follows them more closely, with less variety. "
    f"Default: {GUIDANCE_SCALE:g}.",
)
@section("Reverse chain")
@click.option("--clip/--no-clip", default=True, show_default=True, help="Hold the predicted image in [-1, 1].")
@click.option(
    "--threshold",
    type=Number(0, 1, min_open=True, max_open=True),
    help="Scale instead of cutting off: where this quantile of the predicted image, such as 0.995, is beyond 1, divide "
    "by it.",
)
@section("Images")
@click.option("--seed", type=Whole(min=0), default=0, show_default=True, help="Image k of a seed is always the same.")
@which_weights("Draw with")
@section("Computing")
@click.option(
    "--batch-size",
    type=Whole(min=1),
    default=64,
    show_default=True,
    help="Images to draw at a time, in each process.",
)
@section("Output")
@click.option(
    "--progressive",
    type=Whole(min=2),
    metavar="N",
    help="Also show x_t and the predicted x0 of up to 8 images at N moments of the chain, spread evenly between noise "
    "and image, with their t.",
)
@click.option(
    "--compare",
    type=Counted("sampler", lambda: table("sampler")),
    help="Draw the same noise with several samplers, each with its number of calls: a row for each, with times.",
)
@section("Computing")
@click.option("--precision", type=Name("precision", ("auto", "fp32", "bf16")), help="Default: as the run was trained.")
@own_network()
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@section("Output")
@click.option(
    "--out",
    type=Place(),
    help="A grid (.png; a single image is written plain), an array (.npz, uint8 [N,H,W,3]), or a folder. "
    "Default: sample.png, or sample-2.png, ... if that exists.",
)
@click.option("--force", is_flag=True, help="Replace what is at --out.")
@click.pass_context
def sample(ctx: click.Context, /, **given: Any) -> None:
    """Draw images from a trained model: RUN, a DDPM or a GAN, or the newest run under runs/.

    \b
    minidiff sample runs/ddpm-shapes-1 --num 64 --out grid.png
    minidiff sample --num 50000 --batch-size 500 --out samples.npz
    minidiff sample runs/dcgan-shapes-1 --num 64 --seed 1 --out grid.png
    minidiff sample --compare ddpm:1000,ddim:50,dpm++:20 --num 8 --out compare.png
    minidiff sample --start-t 100 --init dip.png
    minidiff sample --start-t auto --init noisy.png
    minidiff sample runs/ddpm-shapes-2 --labels "blue cube, yellow cylinder" --guidance 2
    minidiff sample runs/ddpm-shapes-2 --labels-file test --progressive 8
    minidiff sample --start-t 100 --init runs/dip-photo-1 --init-steps 30,250,460
    minidiff sample --invert photo.png --out photo-inverted.png
    minidiff sample --noise photo-inverted-noise.npz --out again.png
    minidiff sample --interpolate one.png two.png --num 9
    minidiff sample --interpolate 3 4
    torchrun --nproc_per_node=8 -m minidiff sample -n 50000 --out samples.npz
    """
    if ctx.params["threshold"] is not None and not ctx.params["clip"]:
        raise click.UsageError("--threshold and --no-clip exclude each other. Leave one of them out.", ctx)
    if (threshold := given.pop("threshold")) is not None:
        given["clip"] = threshold
    with usage(ctx):
        request = DrawRequest(**given)

    from minidiff.pretrained.sampling import plan
    from minidiff.runtime import distributed
    from minidiff.runtime.progress import progress_bar

    flags = ctx.command.translated if isinstance(ctx.command, Command) else str
    device = distributed.local_device(str(request.device))
    with distributed.process_group(device):
        order = plan(replace(request, device=device))
        for line in order.lines:
            remark(flags(line))
        for warning in order.warnings:
            warn(flags(warning))
        with progress_bar(order.total, unit=order.unit, leave=True) as bar:

            def aside(line: str) -> None:
                bar.clear()
                say(line)

            drawn = order.draw(bar.update, aside)
        for written in drawn.written:
            say(f"written   {written}")
        for problem in drawn.problems:
            warn(problem)
