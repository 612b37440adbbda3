"""`minidiff import` and `minidiff export`: runs out of checkpoints of diffusers, and runs as such."""

import shlex
from dataclasses import replace
from pathlib import Path

import click

from minidiff.cli.types import Name, Place, say


@click.command("import")
@click.argument("source")
@click.argument("run", type=Place(path_type=Path), required=False)
def import_(source: str, run: Path | None) -> None:
    """Write RUN, a run folder, out of SOURCE: a folder that diffusers saved, or owner/name on the Hugging Face Hub.

    RUN is runs/NAME if it is left out. To draw images once, no import is needed: `minidiff sample SOURCE`.

    \b
    minidiff import google/ddpm-celebahq-256
    minidiff import my-diffusers-folder runs/mine
    """
    from minidiff.interop import checkpoints as foreign

    target = Path("runs", Path(source).expanduser().absolute().name) if run is None else run
    foreign.check_new(target)
    found = foreign.open_source(source)
    network, diffusion = found.config["network"], found.config["diffusion"]
    say(f"source    {source}: {network['image_size']}x{network['image_size']}, {network['in_channels']} channels, "
        f"{sum(tensor.numel() for tensor in found.tensors.values()):,} parameters, all accounted for")  # fmt: skip
    say(f"diffusion {diffusion['schedule']} schedule, T = {diffusion['timesteps']}, predicts {diffusion['prediction']}")
    for note in found.config["source"]["notes"]:
        say(f"note      {note}")
    foreign.write_run(target, found.config, found.tensors)
    say(f"written   {target}")
    say(f"next      minidiff sample {shlex.quote(str(target))} --num 4 --out grid.png")


def formats() -> list[str]:
    from minidiff.interop.checkpoints import FORMATS

    return list(FORMATS)


@click.command()
@click.argument("run")
@click.argument("folder", type=Place(path_type=Path), metavar="DIR")
@click.option(
    "--format",
    "kind",
    type=Name("format", formats),
    default="diffusers",
    show_default=True,
    help="diffusers: what DDPMPipeline.from_pretrained opens.",
)
@click.option("--weights", type=Name("weights", ("ema", "raw")), default="ema", show_default=True,
              help="The averaged weights, or those being trained.")  # fmt: skip
def export(run: str, folder: Path, kind: str, weights: str) -> None:
    """Write DIR, a new folder, out of RUN, for another library.

    \b
    minidiff export runs/ddpm-shapes-1 shapes-diffusers --format diffusers
    """
    from minidiff.ddpm import run as pipeline
    from minidiff.ddpm.recipe import build_schedule
    from minidiff.interop import checkpoints as foreign
    from minidiff.records import to_json

    foreign.check_new(folder)
    model = pipeline.load_ddpm(run, weights)
    plain = build_schedule(replace(model.config.diffusion, zero_terminal_snr=False))
    notes = foreign.FORMATS[kind](folder, to_json(model.config), model.model.state_dict(), plain)
    for note in notes:
        say(f"note      {note}")
    say(f"written   {folder}: diffusers.DDPMPipeline.from_pretrained({str(folder)!r})")
