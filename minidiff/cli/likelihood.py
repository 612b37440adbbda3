"""`minidiff likelihood`: how probable images are under a trained DDPM."""

import json
from typing import Any

import click

from minidiff.cli.commands import Command, max_pixels, on_bad, own_network, section, which_weights
from minidiff.cli.messages import remark, say, warn
from minidiff.cli.types import Device, Place, Whole, complete_run
from minidiff.pretrained.likelihood_request import STEPS, LikelihoodRequest


@click.command(cls=Command)
@click.argument("run", shell_complete=complete_run)
@click.argument("images")
@section("Measuring")
@click.option("-n", "--num", type=Whole(min=2), default=100, show_default=True, help="How many of the images.")
@click.option(
    "--steps",
    type=Whole(min=3),
    help="Levels between picture and noise, each with two calls of the network and a gradient. Default: "
    f"{STEPS}, or as many as there are.",
)
@click.option(
    "--probes",
    type=Whole(min=1),
    default=1,
    show_default=True,
    help="Random directions that estimate the trace at each level. More make each image surer, and take longer; more "
    "images do so, too.",
)
@click.option("--seed", type=Whole(min=0), default=0, show_default=True, help="Of the images and the directions.")
@which_weights("Measure with")
@section("Images of a folder or of dataset:NAME")
@on_bad
@max_pixels
@click.option("--data-dir", type=Place(), help="The folder with the files of a dataset:NAME. Default: the cache.")
@section("Computing")
@click.option("--batch-size", type=Whole(min=1), default=32, show_default=True, help="Images at a time.")
@own_network()
@click.option("--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@section("Output")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and the rest on standard error.")
def likelihood(run: str, images: str, as_json: bool, device: str, **asked: Any) -> None:
    """Measure how many bits a dimension RUN, a DDPM, needs to describe IMAGES: fewer are better.

    IMAGES is dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]], a folder of images, or a .npy file. Take images that the run
    was not trained on, such as those of the split test. See docs/likelihood.md for what the number means.

    \b
    minidiff likelihood runs/ddpm-fashion-mnist-1 dataset:fashion-mnist:test --num 100
    minidiff likelihood runs/ddpm-cifar10-1 dataset:cifar10:test --steps 200 --probes 4 --json
    """
    request = LikelihoodRequest(**asked)

    from minidiff.pretrained.likelihood import Measurement
    from minidiff.runtime.progress import progress_bar

    measurement = Measurement(run, images, request, device)
    for line in measurement.lines:
        remark(line, err=as_json)
    for warning in measurement.warnings:
        warn(warning)
    with progress_bar(measurement.total, unit="level") as bar:
        found = measurement.measure(lambda done, total: bar.update(done - bar.n))
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))  # JSON has escapes of its own
    else:
        say(found.in_words())
