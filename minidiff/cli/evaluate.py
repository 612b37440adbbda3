"""`minidiff evaluate`: whether a conditional model draws what it is asked for, as a classifier sees it."""

from dataclasses import replace
from typing import Any

import click

from minidiff.cli.choices import GUIDANCE_SCALE, choice, own_steps
from minidiff.cli.commands import Command, own_network, section, typed
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import Device, Number, Place, Whole, complete_run
from minidiff.ddpm.request import FROM_NOISE
from minidiff.evaluation.config import PER_CLASS, EvaluateRequest

OF_RUNS = ("labels_files", "per_class", "guidance_scale", "sampler", "steps", "seeds", "seed", "batch_size")
OF_DATA = ("num", "data_dir", "image_size")


@click.command("evaluate", cls=Command)
@click.argument("source", metavar="RUN", shell_complete=complete_run)
@section("Judging")
@click.option(
    "--classifier",
    type=Place(),
    required=True,
    shell_complete=complete_run,
    help="The classifier: a classifier run with the same labels, the name of one that comes with minidiff, or a "
    "checkpoint of the 2023 course lab's evaluator.",
)
@section("What to draw")
@click.option(
    "--labels-file",
    "labels_files",
    type=Place(),
    multiple=True,
    help="What to draw: a JSON list of lists of names, like iCLEVR's test.json. May be given several times. For test, "
    "the folder of the run's data set is searched for test.json; else test and new_test are lists of minidiff's own "
    "shapes.",
)
@click.option(
    "--per-class",
    type=Whole(min=1),
    default=PER_CLASS,
    show_default=True,
    help="Draw each class this many times, if the run has one class an image and no labels file is given.",
)
@section("Reverse chain")
@click.option(
    "--guidance",
    "guidance_scale",
    type=Number(0),
    help=f"How closely to follow the labels. Default: {GUIDANCE_SCALE:g}.",
)
@click.option(
    "--sampler", type=choice("sampler"), default=FROM_NOISE, show_default=True, help="How to walk down the chain."
)
@click.option("--steps", type=Whole(min=1), help=f"Calls of the network. Default: {own_steps()}.")
@section("What to draw")
@click.option("--seeds", type=Whole(min=1), default=3, show_default=True, help="How often to draw each list.")
@click.option("--seed", type=Whole(min=0), default=0, show_default=True, help="The first of the seeds.")
@section("Computing")
@click.option(
    "--batch-size",
    type=Whole(min=1),
    default=64,
    show_default=True,
    help="Images to draw at a time, in each process.",
)
@section("Images of dataset:NAME")
@click.option("-n", "--num", type=Whole(min=1), help="Look at this many images of dataset:NAME. Default: all.")
@click.option("--data-dir", type=Place(), help="Where the data set of dataset:NAME lies.")
@click.option("--image-size", type=Whole(8, 1024), help="Size of dataset:NAME. Default: the classifier's.")
@section("Computing")
@own_network()
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@section("Output")
@click.option(
    "--out", type=Place(), help="The folder for all of it, new or to go on with. Default: a new one under runs/."
)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Let RUN, a conditional model, draw lists of labels, and let a classifier say what it sees.

    The score is the share of all labels asked for that the classifier finds. If a picture should show k labels, they
    must be among the classifier's k highest outputs. (The 2023 course lab scored in this way.) RUN can also be
    dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]: real images, which show how good the classifier is.

    \b
    minidiff evaluate runs/ddpm-shapes-1 --classifier runs/classifier-shapes-1
    minidiff evaluate runs/ddpm-iclevr-1 --classifier checkpoint.pth --labels-file test.json --labels-file new_test.json
    minidiff evaluate dataset:shapes:test --classifier runs/classifier-shapes-1
    """
    data = given["source"].startswith("dataset:")
    wrong = [name for name in (OF_RUNS if data else OF_DATA) if typed(ctx, name)]
    if wrong:
        source = given["source"]
        kind = f"a run, and {source} is a data set" if data else f"a dataset:NAME, and {source} is a run"
        raise click.UsageError(translated(ctx, f"`{wrong[0]}` is for {kind}. Leave it out."), ctx)
    request = EvaluateRequest(**given)

    from minidiff.evaluation.evaluate import plan
    from minidiff.evaluation.figures import table
    from minidiff.runtime import distributed
    from minidiff.runtime.progress import progress_bar

    device = distributed.local_device(str(request.device))
    with distributed.process_group(device):
        evaluation = plan(replace(request, device=device))
        for line in evaluation.lines:
            remark(translated(ctx, line))
        for warning in evaluation.warnings:
            warn(warning)
        with progress_bar(unit="call", delay=0.5, leave=True) as bar:

            def on_progress(done: int, total: int, what: str) -> None:
                bar.total = total
                bar.set_description(what, refresh=False)
                bar.update(done - bar.n)

            found = evaluation.run(on_progress)
        if distributed.is_main():
            for line in table(found.lists):
                say(line)
        for written in found.written:
            say(f"written   {written}")
        for problem in found.problems:
            warn(problem)


def translated(ctx: click.Context, message: str) -> str:
    """Name flags in place of the arguments of the package."""
    return ctx.command.translated(message) if isinstance(ctx.command, Command) else message
