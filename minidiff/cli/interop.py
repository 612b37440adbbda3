"""`minidiff import` and `minidiff export`: make a run from a checkpoint of diffusers, or a checkpoint from a run."""

import shlex
from pathlib import Path

import click

from minidiff.cli.commands import Command, which_weights
from minidiff.cli.messages import remark, say
from minidiff.cli.sample import sample
from minidiff.cli.types import Name, Place, complete_run


@click.command("import", cls=Command)
@click.argument("source")
@click.argument("run", type=Place(path_type=Path), required=False)
def import_(source: str, run: Path | None) -> None:
    """Make a run folder, RUN, from SOURCE: a folder that diffusers saved, or owner/name on the Hugging Face Hub.

    The default of RUN is runs/NAME. To draw images only once, you need no import: `minidiff sample SOURCE`.

    \b
    minidiff import google/ddpm-celebahq-256
    minidiff import my-diffusers-folder runs/mine
    """
    from minidiff.pretrained.exchange import import_run

    found = import_run(source, run)
    network, diffusion = found.config.network, found.config.diffusion
    size = f"{network.image_size}x{network.image_size}"
    counts = f"{network.in_channels} channels, {found.parameters:,} parameters, all accounted for"
    remark(f"source    {source}: {size}, {counts}")
    remark(f"diffusion {diffusion.describe()}")
    order = ""
    if network.label_dim:
        many = "one" if found.config.source and found.config.source.one_hot else "any number of them"
        remark(f"labels    {network.label_dim}, {many} an image; it draws nothing without: --labels 0")
        order = "--labels 0 "
    for note in found.notes:
        remark(f"note      {sample.translated(note)}")
    say(f"written   {found.folder}")
    remark(f"next      minidiff sample {shlex.quote(str(found.folder))} {order}--num 4")


def formats() -> list[str]:
    """List the formats that a run can be exported to."""
    from minidiff.interop.writing import FORMATS

    return list(FORMATS)


@click.command(cls=Command)
@click.argument("run", shell_complete=complete_run)
@click.argument("folder", type=Place(path_type=Path), metavar="DIR")
@click.option(
    "--format",
    "kind",
    type=Name("format", formats, ("diffusers",)),
    default="diffusers",
    show_default=True,
    help="Write what DDPMPipeline.from_pretrained of diffusers opens.",
)
@which_weights("Write")
def export(run: str, folder: Path, kind: str, weights: str) -> None:
    """Write RUN as DIR, a new folder for another library.

    \b
    minidiff export runs/ddpm-shapes-1 shapes-diffusers --format diffusers
    """
    from minidiff.pretrained.exchange import export_run

    for note in export_run(run, folder, kind, weights):
        remark(f"note      {note}")
    say(f"written   {folder}: diffusers.DDPMPipeline.from_pretrained({str(folder)!r})")
