"""`minidiff train ...`: one command for each kind of model. Each builds a request, and the package does the rest."""

from typing import Any, get_args

import click

from minidiff.classifier.config import ClassifierRequest
from minidiff.classifier.presets import CLASSIFIER_PRESETS
from minidiff.cli.choices import choice
from minidiff.cli.commands import Command, Group, section
from minidiff.cli.messages import say
from minidiff.cli.train_dehaze import dehaze
from minidiff.cli.train_options import (
    PICTURES,
    Presets,
    a_gan,
    answer,
    default,
    how_to_train,
    large_networks,
    muon,
    sample_every,
    what_to_train_on,
    where_to,
)
from minidiff.cli.train_run import carry_out
from minidiff.cli.types import JsonObject, Name, Number, Place, Whole
from minidiff.ddpm.config import (
    LABEL_DROPOUT,
    DdpmRequest,
    FidConfig,
    PriorUse,
    ProcessName,
    TimestepSampling,
    UsedPrior,
)
from minidiff.ddpm.presets import DDPM_PRESETS, DdpmPreset
from minidiff.dehaze.presets import GUESS_PRESETS, REFINE_PRESETS, GuessPreset, RefinePreset
from minidiff.gan.config import GanRequest
from minidiff.gan.presets import GAN_PRESETS
from minidiff.priors.config import MOST_NOISE, NET, NOISE, DipPriorRequest
from minidiff.priors.presets import DIP_PRIOR_PRESETS, DipPriorPreset
from minidiff.training.presets import Preset


@click.group(cls=Group)
def train() -> None:
    """Train a model.

    \b
    minidiff train ddpm                              the embedded data set, a few minutes on a CPU
    minidiff train ddpm --dataset fashion-mnist
    minidiff train dcgan --dataset fashion-mnist       or wgan, or wgan-gp
    minidiff train classifier --dataset fashion-mnist
    torchrun --nproc_per_node=4 -m minidiff train ddpm --dataset cifar100 --preset cifar10
    """


@train.command(cls=Command)
@what_to_train_on(DDPM_PRESETS)
@click.option(
    "--conditional", is_flag=True, help="Tell the network the labels, so that `sample --labels` can ask for them."
)
@click.option(
    "--label-dropout",
    type=Number(0, 1, max_open=True),
    help=f"Share of images whose labels are hidden in training, for guidance. Default: {LABEL_DROPOUT}.",
)
@click.option("--prior", type=Place(), metavar="RUN", help="A prior of such images: what `train dip-prior` has made.")
@click.option(
    "--prior-use",
    type=Name("prior use", get_args(PriorUse)),
    help="target: learn the prior's outputs. start: begin chains at them. residual: show them to the network.",
)
@click.option(
    "--prior-shift",
    type=choice("shift"),
    help=f"For residual: how the outputs shift the process that the network sees. Default: {UsedPrior.shift}.",
)
@click.option(
    "--network",
    metavar="NAME",
    help="unet, dit (a transformer), or MODULE:CLASS of your own: a torch module that takes (x, t). Default: unet.",
)
@click.option(
    "--network-arguments", type=JsonObject(), help="The arguments of that network, as JSON: '{\"width\": 64}'."
)
@section("Diffusion")
@click.option(
    "--process",
    type=Name("process", get_args(ProcessName)),
    help="What is learnt: DDPM's chain, flow matching, or EDM. Default: ddpm.",
)
@click.option("--schedule", type=choice("schedule"), help=default("The noise schedule.", "schedule"))
@click.option("--timesteps", type=Whole(2, 100_000), help=default("T, the number of noise levels.", "timesteps"))
@click.option(
    "--beta-start",
    type=Number(0, 1, min_open=True),
    help="First beta of linear and scaled_linear. Default: of linear 1e-4, scaled by 1000 / T.",
)
@click.option(
    "--beta-end",
    type=Number(0, 1, min_open=True),
    help="Last beta of linear and scaled_linear. Default: of linear 0.02, scaled by 1000 / T.",
)
@click.option(
    "--prediction",
    type=choice("prediction"),
    help=default("What the network learns to predict.", "prediction"),
)
@click.option(
    "--min-snr-gamma",
    type=Number(0, min_open=True),
    help="Weight the loss by min-SNR with this gamma; 5 is usual. Default: no weighting.",
)
@click.option(
    "--timestep-sampling",
    type=Name("timestep_sampling", get_args(TimestepSampling)),
    help=default(
        "How the images of a batch get their timesteps: each by itself, or spread evenly; dense half way (of flow), or "
        "where the image takes shape (of edm).",
        "timestep_sampling",
    ),
)
@click.option(
    "--trained-below",
    type=Whole(min=1),
    metavar="T",
    help=default(
        "Train only timesteps below this one. Such a run finishes images, but draws none from noise.", "trained_below"
    ),
)
@click.option(
    "--file-noise",
    type=Number(0, 1),
    help=default("Share of images whose noise is as in a file: cut to 0 to 255, and rounded.", "file_noise"),
)
@click.option(
    "--grey",
    type=Number(0, 1),
    help=default("Share of images shown in grey, with noise that is the same in all channels.", "grey"),
)
@click.option(
    "--zero-terminal-snr/--no-zero-terminal-snr",
    default=None,
    help="Rescale the schedule to end in pure noise. Default: no.",
)
@click.option(
    "--shift",
    type=Number(0, min_open=True),
    help="Of flow: make all timesteps noisier, as large images need; 3 at 1024x1024. Default: 1.",
)
@how_to_train(DDPM_PRESETS, large_networks(), muon())
@section(PICTURES)
@sample_every()
@click.option(
    "--fid-every",
    type=Whole(min=0),
    help="Steps between measurements of FID to the training images. Default: 0, it is not measured.",
)
@click.option(
    "--fid-samples", type=Whole(min=2), help=f"Samples for a measurement of FID. Default: {FidConfig.samples}."
)
@click.option("--fid-sampler", type=choice("sampler"), help=f"The sampler for it. Default: {FidConfig.sampler}.")
@click.option(
    "--fid-steps",
    type=Whole(min=1),
    help="Calls of the network for each sample. Default: 50 for ddim, else the sampler's own.",
)
@click.option(
    "--fid-features",
    metavar="inception|RUN",
    help="The network to measure in: Inception, or a classifier run. Default: inception.",
)
@click.option("--fid-weights", type=Place(), help="Inception's weights. Default: from the cache, or downloaded.")
@where_to("ddpm")
@click.pass_context
def ddpm(ctx: click.Context, /, **options: Any) -> None:
    """Train a DDPM, and draw pictures from it as it learns.

    \b
    minidiff train ddpm
    minidiff train ddpm --dataset folder --data-dir photos --image-size 64 --preset base-64
    minidiff train ddpm --conditional               draws what `minidiff sample --labels "blue cube"` asks for
    minidiff train ddpm --dataset cifar10 --fid-every 3000
    minidiff train ddpm --dataset mnist --prior runs/dip-prior-mnist-1 --prior-use start
    minidiff train ddpm --process flow              the same, in another notation; or edm
    minidiff train ddpm --resume runs/ddpm-shapes-1
    """
    carry_out(ctx, "ddpm", DdpmRequest, **options)


@train.command(cls=Command)
@a_gan("dcgan")
@click.pass_context
def dcgan(ctx: click.Context, /, **options: Any) -> None:
    """Train a DCGAN: a generator against a discriminator (Radford et al. 2016).

    \b
    minidiff train dcgan --dataset fashion-mnist
    minidiff train dcgan --dataset folder --data-dir photos --image-size 64
    minidiff train dcgan --resume runs/dcgan-fashion-mnist-1
    """
    carry_out(ctx, "dcgan", GanRequest, **options)


@train.command(cls=Command)
@a_gan("wgan")
@click.pass_context
def wgan(ctx: click.Context, /, **options: Any) -> None:
    """Train a Wasserstein GAN: its critic's weights are clipped (Arjovsky et al. 2017).

    \b
    minidiff train wgan --dataset fashion-mnist
    minidiff train wgan --resume runs/wgan-fashion-mnist-1
    """
    carry_out(ctx, "wgan", GanRequest, **options)


@train.command(cls=Command)
@a_gan("wgan-gp")
@click.pass_context
def wgan_gp(ctx: click.Context, /, **options: Any) -> None:
    """Train a Wasserstein GAN with gradient penalty in place of clipping (Gulrajani et al. 2017).

    \b
    minidiff train wgan-gp --dataset fashion-mnist
    minidiff train wgan-gp --resume runs/wgan-gp-fashion-mnist-1
    """
    carry_out(ctx, "wgan-gp", GanRequest, **options)


@train.command(cls=Command)
@what_to_train_on(CLASSIFIER_PRESETS)
@click.option(
    "--width",
    type=Whole(min=1),
    help=default("Channels of the first stage; the last has 8 times as many.", "width", CLASSIFIER_PRESETS),
)
@how_to_train(
    CLASSIFIER_PRESETS,
    click.option(
        "--shift",
        type=Whole(min=0),
        help="Move training images by up to this many pixels each way. Default: a 16th of their size.",
    ),
    large_networks(),
)
@section(PICTURES)
@click.option(
    "--measure-every",
    type=Whole(min=1),
    help="Steps between measurements of the accuracy, with their pictures. Default: a tenth, at least 200.",
)
@where_to("classifier")
@click.pass_context
def classifier(ctx: click.Context, /, **options: Any) -> None:
    """Train a classifier, a ResNet-18, and measure it on the test split as it learns.

    \b
    minidiff train classifier --dataset fashion-mnist
    minidiff train classifier --dataset folder --data-dir photos       its sub-folders are the classes
    minidiff train classifier --resume runs/classifier-fashion-mnist-1
    """
    carry_out(ctx, "classifier", ClassifierRequest, **options)


train.add_command(dehaze)


@train.command("dip-prior", cls=Command)
@what_to_train_on(DIP_PRIOR_PRESETS)
@click.option("--net", type=choice("net"), help=f"The network, from an image to an image. Default: {NET}.")
@click.option(
    "--noise",
    type=Number(0, MOST_NOISE, min_open=True),
    help=f"Deviation of the noise that it takes off, of values from -1 to 1. Default: {NOISE}.",
)
@how_to_train(DIP_PRIOR_PRESETS, large_networks(), steps=("--steps", "--dip-steps"))
@section(PICTURES)
@sample_every()
@click.option(
    "--measure-every",
    type=Whole(min=1),
    help="Steps between measurements of the PSNR, on images of the test split. Default: a tenth, at least 200.",
)
@where_to("dip-prior")
@click.pass_context
def dip_prior(ctx: click.Context, /, **options: Any) -> None:
    """Train a prior of a whole data set: a small network that takes noise off its images.

    \b
    minidiff train dip-prior --net conv2 --dataset fashion-mnist --noise 0.2
    minidiff train dip-prior --net resnet18 --dataset cifar10
    minidiff train dip-prior --resume runs/dip-prior-fashion-mnist-1
    minidiff train ddpm --dataset fashion-mnist --prior runs/dip-prior-fashion-mnist-1 --prior-use residual
    """
    carry_out(ctx, "dip-prior", DipPriorRequest, **options)


@train.command(cls=Command)
def presets() -> None:
    """List the presets of every kind of training.

    \b
    minidiff train presets
    """
    tables: dict[str, Presets] = {"ddpm": DDPM_PRESETS, **GAN_PRESETS, "classifier": CLASSIFIER_PRESETS}
    tables |= {"dehaze": GUESS_PRESETS, "dehaze --stage 2": REFINE_PRESETS, "dip-prior": DIP_PRIOR_PRESETS}
    for kind, table in tables.items():
        say(f"minidiff train {kind}")
        for name, preset in table.items():
            training = preset.training
            say(f"  {name:14} {preset.help}")
            say(
                f"  {'':14} {preset.image_size}x{preset.image_size}, {size_of(preset)}; "
                f"{training.steps:,} steps of {training.batch_size}, lr {training.lr:g}"
            )


def size_of(preset: Preset) -> str:
    """Return how large a preset's network is, in words."""
    if isinstance(preset, DdpmPreset):
        dit = f" (dit: {preset.dit.depth} blocks of {preset.dit.width})" if preset.dit else ""
        return f"channels {', '.join(map(str, preset.network.channels))}{dit}"
    if isinstance(preset, GuessPreset | RefinePreset):
        return f"channels {', '.join(map(str, preset.network.channels))}"
    if isinstance(preset, DipPriorPreset):
        return f"the network {NET}, or another one by --net"
    return f"width {answer(preset, 'width')}"
