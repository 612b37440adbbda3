"""`minidiff dip ...`: fit an untrained network to one picture, and stop before it has learnt the noise."""

import shlex
from pathlib import Path
from typing import Any

import click

from minidiff.cli.types import Device, Name, Number, Place, refuse_options, warn
from minidiff.dip.fit import EARLY_STOPS, INPUTS, TASKS, FitConfig
from minidiff.errors import UserError
from minidiff.networks.dip import DIP_NETS

DEFAULTS = FitConfig()

# What a fit takes; `minidiff restore` begins with one, and takes the same.
FIT_OPTIONS = [
    click.option("--net", type=Name("net", DIP_NETS), default="hourglass", show_default=True, help="The network."),
    click.option("--layers", type=click.IntRange(min=2), help="Layers of cnn. Default: 4."),
    click.option("--channels", type=click.IntRange(min=1), help="Channels inside. Default: 128; conv2 64."),
    click.option("--kernel-size", type=click.IntRange(min=1), help="Of cnn, odd. Default: 3."),
    click.option("--scales", type=click.IntRange(1, 8), help="Of hourglass. Default: 5, of thumbnails fewer."),
    click.option("--weights", type=Name("weights", ("imagenet",)), help="Encoder of resnet18. Default: untrained."),
    click.option(
        "--steps", type=click.IntRange(min=1), default=DEFAULTS.steps, show_default=True, help="The most to take."
    ),
    click.option("--lr", type=Number(0, 1, min_open=True), default=DEFAULTS.lr, show_default=True, help="Adam's rate."),
    click.option("--input", type=Name("input", INPUTS), help="For the network. Default: noise; conv2, cnn: image."),
    click.option(
        "--jitter", type=Number(0), default=DEFAULTS.jitter, show_default="1/30",
        help="Noise added to the input in every step.",
    ),
    click.option(
        "--average", type=Number(0, 1, max_open=True), default=DEFAULTS.average, show_default=True,
        help="Weight of the past in the averaged output, which is the answer; 0 for none.",
    ),
    click.option(
        "--early-stop", type=Name("early stop", (*EARLY_STOPS, "off")), default="window", show_default=True,
        help="What watches for the noise; off: run all steps and take the last.",
    ),
    click.option(
        "--patience", type=click.IntRange(min=1),
        help="Steps without a new minimum. Default: 1000; of small pictures 4 for each pixel of a side.",
    ),
    click.option("--window", type=click.IntRange(2, 10_000), help="Outputs of --early-stop window. Default: 100."),
    click.option(
        "--save-every", type=click.IntRange(min=1), default=10, show_default=True, help="Steps between saved outputs."
    ),
    click.option("--reference", type=Place(), metavar="IMAGE", help="The clean picture, for PSNR and SSIM."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The one seed of the fit."),
    click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
    click.option("--compile/--no-compile", default=False, help="torch.compile; takes minutes first. Default: no."),
]  # fmt: skip


def fit_options(command: Any) -> Any:
    """The options of a fit, above a command."""
    for option in reversed(FIT_OPTIONS):
        command = option(command)
    return command


@click.group()
def dip() -> None:
    """Deep image prior: one picture, one untrained network.

    \b
    minidiff dip fit photo.png
    minidiff sample --start-t 100 --init dip.png
    """


@dip.command()
@click.argument("image", type=Place(), required=False)
@click.option("--task", type=Name("task", TASKS), default="denoise", show_default=True, help="What is wrong with it.")
@click.option(
    "--mask", type=Place(), metavar="IMAGE", help="For inpaint: white where the picture is known, black holes."
)
@click.option("--factor", type=click.IntRange(min=2), help="For super-resolve: how many times larger. Default: 4.")
@click.option(
    "--size", type=click.IntRange(8, 4096), help="Cut out the centre square at this size. Default: all of it."
)
@click.option(
    "--noise-sigma", type=Number(0, 255), default=0.0, help="Add noise of this deviation, of 255, to a clean picture."
)
@fit_options
@click.option("--out", type=Place(), help="The run folder. Default: the next free runs/dip-IMAGE-N, and ./dip.png.")
@click.option("--resume", type=Place(), metavar="RUN", help="Go on with this run folder, to the bit.")
@click.option(
    "--force", is_flag=True, help="Replace ./dip.png. Without it one that is there is kept: then dip-2.png, ..."
)
@click.pass_context
def fit(
    ctx: click.Context, image: str | None, out: str | None, resume: str | None, force: bool, device: str, **options: Any
) -> None:
    """Fit a network to IMAGE, or to every picture of a folder; the output before it learns the noise is the answer.

    Transparent parts are laid over white, 16 bits become 8, and a picture is turned upright as its EXIF data say.

    \b
    minidiff dip fit photo.png
    minidiff dip fit clean.png --noise-sigma 25 --size 256
    minidiff dip fit holes.png --task inpaint --mask known.png
    """
    import torch

    from minidiff.dip import folder as dip_folder
    from minidiff.dip import job as dip_job
    from minidiff.dip import plan as dip_plan
    from minidiff.runs import folder as checkpoint

    place = torch.device(device)
    chosen = {name: value for name, value in options.items() if value is not None}
    if (image is None) == (resume is None):
        raise click.UsageError("give an IMAGE to fit, or --resume RUN to go on with one.", ctx)
    if resume is not None:
        refuse_options(ctx, {"resume", "device", "force"})
        config = checkpoint.read_config(resume, kind="dip")
        if "images" in config:
            return fit_folder(dip_folder.resume_folder(Path(resume), config, place))
        if (Path(resume) / dip_job.RESULT).exists():
            raise UserError(f"{resume} is finished: its answer is {Path(resume) / dip_job.ANSWER}.")
        job = dip_plan.resume(resume, place)
        deliver = config.get("deliver", False)
    elif Path(str(image)).is_dir():
        return fit_folder(dip_folder.FolderJob(Path(str(image)), chosen | {"out": out}, place))
    else:
        job = dip_plan.plan(str(image), place, chosen | {"out": out})
        deliver = job.config["deliver"] = out is None
    click.echo(job.describe())
    click.echo(job.start())
    result = job.run()
    assert job.folder is not None
    click.echo(f"done      {dip_job.conclusion(result)}")
    answer = job.folder / dip_job.ANSWER
    if deliver:
        answer = dip_job.deliver(answer, Path(dip_job.ANSWER), force)
    click.echo(f"written   {answer}; look at {job.folder / 'sheet.png'} and {job.folder / 'curves.png'}")
    click.echo(f"next      minidiff sample --start-t 100 --init {shlex.quote(str(answer))}")


def fit_folder(job: Any) -> None:
    """Fit every picture of a folder; those that could not be are named at the end."""
    click.echo(job.start())
    failures = job.run(click.echo)
    for failure in failures:
        warn(failure)
    click.echo(f"written   {job.folder / 'dip'}")
    if failures:
        raise UserError(f"{len(failures)} of the pictures could not be fitted; see above.")
    click.echo(f"next      minidiff sample --start-t 100 --init {shlex.quote(str(job.folder))}")
