"""`minidiff data`: what data sets there are, what they look like, and their files for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minidiff.cli.choices import TABLES, choice, table
from minidiff.cli.commands import Group, max_pixels, refuse_lone_severity, typed
from minidiff.cli.messages import in_flags, say, warn
from minidiff.cli.types import Name, Place, Whole
from minidiff.data.config import DataSpec
from minidiff.errors import UserError, printable

if TYPE_CHECKING:
    from minidiff.data.image_data import ImageData

Function = Callable[..., Any]

NAMES = ", ".join(TABLES["corruption"][1])
DATA_DIR = click.option(
    "--data-dir", type=Place(path_type=Path), help="Where the files are, or will be put. Default: the cache folder."
)


def which_data(corruption: Name) -> Callable[[Function], Function]:
    """Add the options that choose the images: all options of `load_data`. corruption: the names that are allowed."""
    more = "" if corruption.shown == TABLES["corruption"][1] else ", all"
    options = [
        click.option(
            "--corruption", type=corruption, default=DataSpec.corruption, show_default=True, metavar="NAME",
            help=f"Damage done to every image: {NAMES}{more}.",
        ),
        click.option(
            "--severity", type=Whole(1, 5), default=DataSpec.severity, show_default=True,
            help="How much of the corruption, 1 to 5.",
        ),
        click.option("--image-size", type=Whole(8, 1024), help="Height and width. Default: the set's own."),
        click.option("--split", default=DataSpec.split, show_default=True, help="See `minidiff data list`."),
        DATA_DIR,
        click.option(
            "--on-bad", type=Name("answer", ["skip", "stop"]), default=DataSpec.on_bad, show_default=True,
            help="Skip images that cannot be read, or stop at the first.",
        ),
        max_pixels,
    ]  # fmt: skip

    def add(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@click.group(cls=Group, no_args_is_help=True)
def data() -> None:
    """List, look at and export data sets.

    \b
    minidiff data list
    minidiff data preview shapes --out grid.png
    minidiff data export shapes my-shapes --num 1000 --image-size 64
    """


@data.command("list")
@DATA_DIR
def list_(data_dir: Path | None) -> None:
    """List the data sets, and say whether they are on this machine.

    \b
    minidiff data list
    """
    from minidiff.data.datasets import DATASETS, splits_of
    from minidiff.data.hazy_sets import HAZY_SETS

    rows = [("name", "images", "size", "labels", "from", "here")]
    for name, known in DATASETS.items():
        sizes = {split: known.splits.get(split) for split in splits_of(name, data_dir)}
        counts = ", ".join(f"{split} {count:,}" if count else f"{split}: your files" for split, count in sizes.items())
        size = f"{known.image_size}x{known.image_size}x{known.channels}" if known.image_size else "any"
        here = "yes" if known.present(data_dir) else "no"
        rows.append((name, counts, size, known.labels, in_flags(known.origin), here))
    for name, hazy in HAZY_SETS.items():
        counts = ", ".join(f"{split} {count:,}" for split, count in hazy.splits.items())
        here = "yes" if hazy.present(data_dir) else "no"
        rows.append((name, counts, "any", "the picture without haze", in_flags(hazy.origin), here))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@data.command()
@click.argument("name", type=choice("data set", "set of hazy pictures"), metavar="NAME")
@click.option("--out", type=Place(path_type=Path), required=True, help="The picture to write, e.g. grid.png.")
@click.option("--num", type=Whole(1, 1024), help="How many images. Default: 64, or 12 hazy ones.")
@click.option("--seed", type=Whole(min=0), default=0, show_default=True, help="Decides which images.")
@click.option("--force", is_flag=True, help="Replace --out if it exists.")
@which_data(Name("corruption", lambda: [*choice("corruption").known(), "all"], [*TABLES["corruption"][1], "all"]))
def preview(name: str, out: Path, num: int | None, seed: int, force: bool, **given: Any) -> None:
    """Show random images of a data set in one picture, and print their labels.

    \b
    minidiff data preview fashion-mnist --out grid.png
    minidiff data preview folder --data-dir my-photos --image-size 64 --out grid.png
    minidiff data preview fashion-mnist --corruption fog --severity 5 --out grid.png
    minidiff data preview fashion-mnist --corruption all --out grid.png       one image under each of them
    minidiff data preview haze --out grid.png              hazy pictures beside the clear ones and the transmission
    """
    from minidiff.data import preview as look
    from minidiff.images.files import write_image

    ctx = click.get_current_context()
    refuse_lone_severity(ctx)
    everything = given["corruption"] == "all"
    if everything and (extra := next((option for option in ("num", "severity") if typed(ctx, option)), None)):
        raise click.UsageError(f"--corruption all shows one image at every severity. Leave --{extra} out.", ctx)
    if out.exists() and not force:
        raise UserError(f"{out} exists. Give another `out`, or `force` to replace it.")
    if name in table("set of hazy pictures"):
        preview_hazy(ctx, name, out, num or 12, seed, **given)
        return
    spec = DataSpec(name, **given | ({"corruption": "identity"} if everything else {}))
    loaded = load(spec)
    if everything:
        found = look.preview_corruptions(loaded, spec.split, seed)
        said = f"image {found.shown[0]} of {name} ({spec.split}), {size_of(loaded)}; each row: clean, severity 1 to 5"
    else:
        found = look.preview(loaded, num or 64, seed)
        said = f"{len(found.shown)} of the {len(loaded):,} images of {name} ({spec.split}), {size_of(loaded)}"
    write_image(out, found.picture)
    for row, words in enumerate(found.labels, 1):
        say(f"row {row}: {printable(words)}")
    say(f"{said}: {out}")


def preview_hazy(
    ctx: click.Context, name: str, out: Path, num: int, seed: int,
    *, image_size: int | None, split: str, data_dir: Path | None, on_bad: str, max_pixels: int, **_: Any,
) -> None:  # fmt: skip
    """Show random pairs of a set of hazy pictures."""
    from minidiff.data.hazy_sets import hazy_pairs
    from minidiff.data.preview import preview_pairs
    from minidiff.images.files import write_image

    if typed(ctx, "corruption"):
        raise click.UsageError("hazy pictures have damage of their own. Leave --corruption out.", ctx)
    size = image_size or 128
    pairs = hazy_pairs(name, size, split=split, data_dir=data_dir, on_bad=on_bad, max_pixels=max_pixels)
    for note in pairs.notes:
        warn(note + ".")
    found = preview_pairs(pairs, num, seed)
    write_image(out, found.picture)
    say(f"{len(found.shown)} of the {len(pairs):,} pairs of {name} ({split}), {size}x{size}: {out}")


@data.command("export", short_help="Write a data set as .png files with its labels.")
@click.argument("name", type=choice("data set"), metavar="NAME")
@click.argument("folder", type=Place(path_type=Path))
@click.option("--num", type=Whole(min=1), help="How many images, from the first on. Default: all.")
@which_data(choice("corruption"))
def export_(name: str, folder: Path, num: int | None, **given: Any) -> None:
    """Write a data set as .png files with its labels, in iCLEVR's format.

    \b
    FOLDER/images/000000.png ...   the images
    FOLDER/objects.json            label -> number
    FOLDER/train.json              file name -> list of labels; --split test: test-images.json
    FOLDER/test.json, new_test.json  (shapes) label lists seen in training, and held out of it

    A second split may go into the same folder. `--dataset iclevr --data-dir FOLDER` reads it all.

    \b
    minidiff data export shapes my-shapes --num 1000
    minidiff data export shapes my-shapes --split test
    """
    from minidiff.data.export import check_new, export
    from minidiff.runtime.progress import progress_bar

    refuse_lone_severity(click.get_current_context())
    spec = DataSpec(name, **given)
    check_new(folder, spec.split)
    loaded = load(spec)
    total = min(len(loaded), num or len(loaded))
    files = export(loaded, folder, spec.split, num)
    with progress_bar(total, unit="image", delay=1) as bar:
        for _ in files:
            bar.update()
    say(f"{total:,} images of {name} ({spec.split}), {size_of(loaded)}, and their labels: {folder}")


def load(spec: DataSpec) -> "ImageData":
    """Load a data set, and print its notes as warnings."""
    from minidiff.data.datasets import load_data

    loaded = load_data(**vars(spec))
    for note in loaded.notes:
        warn(note + ".")
    return loaded


def size_of(loaded: "ImageData") -> str:
    """Write height and width, and the corruption if there is one."""
    size = f"{loaded.images.shape[1]}x{loaded.images.shape[2]}"
    return f"{size}, under {loaded.corruption}" if loaded.corruption else size
