"""The options of `minidiff train ...` that several commands share. Their help names the values of the presets."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from minidiff.cli.choices import choice
from minidiff.cli.commands import Function, max_pixels, on_bad, section
from minidiff.cli.types import Device, Name, Number, Place, Whole
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.gan.config import CRITIC_NAMES, GAMES
from minidiff.gan.presets import GAN_PRESETS
from minidiff.training.presets import Preset

Presets = Mapping[str, Preset]

PICTURES = "Pictures and measurements"  # the section of help about what is drawn and measured during a training


def default(help: str, name: str, presets: Presets = DDPM_PRESETS) -> str:
    """Return the help of an option whose default is in the preset, with the values of the default presets."""
    values = [answer(presets[preset], name) for preset in ("cpu", "gpu")]
    said = f"{values[0]}" if values[0] == values[1] else f"cpu: {values[0]}, gpu: {values[1]}"
    return f"{help} Default: the preset's ({said})."


def answer(preset: Preset, name: str) -> Any:
    """Find an option's value in a preset, in its training or in its diffusion."""
    parts = (preset, preset.training, getattr(preset, "diffusion", None))
    return next(getattr(part, name) for part in parts if hasattr(part, name))


def what_to_train_on(presets: Presets) -> Callable[[Function], Function]:
    """Add the options of every training that come first: the data, and the preset, which begins the network's."""
    return together(
        section("Data"),
        click.option(
            "--dataset", type=choice("data set"), default="shapes", show_default=True, help="What to train on."
        ),
        click.option("--data-dir", type=Place(), help="The folder of the data set, or where to download it."),
        click.option("--image-size", type=Whole(8, 1024), help="Height and width in pixels. Default: the preset's."),
        click.option(
            "--corruption",
            type=choice("corruption"),
            default="identity",
            show_default=True,
            metavar="NAME",
            help="Damage done to every image: see `minidiff data preview NAME --corruption all`.",
        ),
        click.option(
            "--severity",
            type=Whole(1, 5),
            default=3,
            show_default=True,
            help="Severity of the corruption, 1 to 5.",
        ),
        on_bad,
        max_pixels,
        click.option(
            "--flip/--no-flip",
            default=None,
            help="Mirror half of the images, at random. Default: as suits the data set.",
        ),
        section("Network"),
        click.option(
            "--init",
            metavar="RUN",
            help="Begin with the weights of this run, or of a checkpoint of diffusers, instead of random ones.",
        ),
        click.option(
            "--preset",
            type=Name("preset", presets),
            help="A network and its settings, for a purpose. Every other "
            "option overrides it. Default: gpu where there is one, else cpu. See `minidiff train presets`.",
        ),
    )


def how_to_train(
    presets: Presets, *own: Callable[[Function], Function], steps: tuple[str, ...] = ("--steps",)
) -> Callable[[Function], Function]:
    """Add the options of every training's loop and machine. own: the options of this kind of training.

    steps: the flags that say how long to train; the first one is shown in messages.
    """
    return together(
        section("Training"),
        click.option(*steps, "steps", type=Whole(min=1), help=default("Optimizer steps.", "steps", presets)),
        click.option(
            "--epochs", type=Number(0, min_open=True), help="How often to see each image, in place of --steps."
        ),
        click.option(
            "--minutes",
            type=Number(0, min_open=True),
            help="How long to train, in place of --steps: as many steps as fit. Their number is corrected on the way.",
        ),
        click.option(
            "--batch-size",
            type=Whole(min=1),
            help=default("Images in each step, of all processes together.", "batch_size", presets),
        ),
        click.option(
            "--lr",
            type=Number(0, 1, min_open=True),
            help=default("Highest learning rate, reached after the warm-up.", "lr", presets),
        ),
        click.option(
            "--warmup",
            type=Whole(min=0),
            help=default("Steps in which the rate rises to --lr.", "warmup", presets),
        ),
        *own,
        click.option(
            "--ema-decay",
            type=Number(0, 1, max_open=True),
            help=default("How slowly the averaged weights follow the trained ones.", "ema_decay", presets),
        ),
        click.option(
            "--precision",
            type=Name("precision", ("auto", "fp32", "bf16")),
            help="auto takes bf16 where it is faster: on a GPU that has it, on a processor with AMX. Default: auto.",
        ),
        click.option(
            "--device", type=Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
        ),
        click.option(
            "--seed",
            type=Whole(min=0),
            default=0,
            show_default=True,
            help="The seed of all random numbers of the run.",
        ),
    )


def where_to(kind: str) -> Callable[[Function], Function]:
    """Add the options of every training that come last: what it leaves in which folder."""
    return together(
        section("Output"),
        click.option(
            "--save-every",
            type=Whole(min=1),
            help="Steps between checkpoints. Default: a tenth of all steps, at most 1000.",
        ),
        click.option("--out", type=Place(), help=f"The run folder. Default: the next free runs/{kind}-DATASET-N."),
        click.option(
            "--resume", type=Place(), help="Go on with the training of this run folder, as if it had never stopped."
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be trained, and stop."),
    )


def large_networks() -> Callable[[Function], Function]:
    """Add the options that make a large network need less memory, or run faster."""
    return together(
        click.option(
            "--accumulate",
            type=Whole(min=1),
            help="Cut each batch into this many slices, so that it fits into memory. Default: 1.",
        ),
        click.option(
            "--compile/--no-compile", default=None, help="Use torch.compile. Default: on a GPU, in long runs."
        ),
    )


def muon() -> Callable[[Function], Function]:
    """Add the option that chooses the optimizer."""
    return click.option(
        "--muon/--no-muon",
        default=None,
        help="Move the weights inside the network by Muon, and not by AdamW. Default: as the preset says.",
    )


def a_gan(kind: str) -> Callable[[Function], Function]:
    """Add the options that all GANs share, and those of this kind."""
    game, presets = GAMES[kind], GAN_PRESETS[kind]
    own = [
        click.option(
            "--critic-steps",
            type=Whole(min=1),
            help=f"Steps of the {CRITIC_NAMES[kind]} for each step of the generator. Default: {game.critic_steps}.",
        )
    ]
    if game.clip is not None:
        own += [
            click.option(
                "--clip",
                type=Number(0, min_open=True),
                help=f"Clip the critic's weights to -CLIP ... CLIP. Default: {game.clip:g}.",
            )
        ]
    if game.penalty is not None:
        own += [
            click.option(
                "--penalty",
                type=Number(0, min_open=True),
                help=f"Weight of the gradient penalty, lambda. Default: {game.penalty:g}.",
            )
        ]
    return together(
        what_to_train_on(presets),
        click.option(
            "--latent-dim",
            type=Whole(min=1),
            help=default("How many random numbers an image is made from.", "latent_dim", presets),
        ),
        click.option(
            "--width",
            type=Whole(min=1),
            help=default(
                "Channels of both networks next to the image; inside there are up to 8 times as many.", "width", presets
            ),
        ),
        how_to_train(presets, *own),
        section(PICTURES),
        sample_every(),
        where_to(kind),
    )


def sample_every() -> Callable[[Function], Function]:
    """Add the option that says how often to draw samples."""
    return click.option(
        "--sample-every",
        type=Whole(min=1),
        help="Steps between grids of samples. Default: a quarter of all steps, at most 5000; "
        "fewer if they would take over a tenth of the time.",
    )


def together(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Combine several decorators into one, in the order in which they are read."""

    def decorate(command: Function) -> Function:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate
