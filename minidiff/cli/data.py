"""`minidiff data`: what sets there are, what they look like, and their files for other programs."""

from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from minidiff.cli.types import Name, Place, refuse_lone_severity, say, typed, warn
from minidiff.data.corrupted import all_of, seed_of
from minidiff.data.corruptions import CORRUPTIONS
from minidiff.data.datasets import DATASETS, ImageData, load_data, splits_of
from minidiff.data.export import check_new, export
from minidiff.errors import UserError
from minidiff.images.files import write_image
from minidiff.images.grid import grid, label_rows

DATA_DIR = click.option(
    "--data-dir", type=Place(path_type=Path), help="Where the files are, or are to go. Default: the cache folder."
)
IMAGE_SIZE = click.option("--image-size", type=click.IntRange(8, 1024), help="Height and width. Default: its own.")
SPLIT = click.option("--split", default="train", show_default=True, help="train, test, ...: see `minidiff data list`.")
ON_BAD = click.option(
    "--on-bad", type=Name("answer", ["skip", "stop"]), default="skip", show_default=True,
    help="Leave out images that cannot be read, or stop at the first.",
)  # fmt: skip
SEVERITY = click.option(
    "--severity", type=click.IntRange(1, 5), default=3, show_default=True, help="How much of the corruption, 1 to 5."
)


def corruption(*more: str) -> Any:
    """The option of that name; `more` are further answers to it."""
    return click.option(
        "--corruption", type=Name("corruption", [*CORRUPTIONS, *more]), default="identity", show_default=True,
        metavar="NAME", help=f"Damage done to every image: {', '.join([*CORRUPTIONS, *more])}.",
    )  # fmt: skip


@click.group(no_args_is_help=True)
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
    """What data sets there are, and whether they are on this machine."""
    rows = [("name", "images", "size", "labels", "from", "here")]
    for name, source in DATASETS.items():
        sizes = {split: source.splits.get(split) for split in splits_of(name, data_dir)}
        counts = ", ".join(f"{split} {count:,}" if count else f"{split}: your files" for split, count in sizes.items())
        size = f"{source.image_size}x{source.image_size}x{source.channels}"
        here = "yes" if source.present(data_dir) else "no"
        rows.append((name, counts, size, source.labels, source.origin, here))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@data.command()
@click.argument("name", type=Name("data set", DATASETS), metavar="NAME")
@click.option("--out", type=Place(path_type=Path), required=True, help="The picture to write, e.g. grid.png.")
@click.option("--num", type=click.IntRange(1, 1024), default=64, show_default=True, help="How many images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which images.")
@click.option("--force", is_flag=True, help="Replace --out if it exists.")
@corruption("all")
@SEVERITY
@IMAGE_SIZE
@SPLIT
@DATA_DIR
@ON_BAD
@click.pass_context
def preview(
    ctx: click.Context, name: str, out: Path, num: int, seed: int, force: bool, corruption: str, split: str,
    **options: Any,
) -> None:  # fmt: skip
    """Random images of a data set in one picture, and their labels.

    \b
    minidiff data preview fashion-mnist --out grid.png
    minidiff data preview folder --data-dir my-photos --image-size 64 --out grid.png
    minidiff data preview fashion-mnist --corruption fog --severity 5 --out grid.png
    minidiff data preview fashion-mnist --corruption all --out grid.png       one image under each of them
    """
    refuse_lone_severity(ctx)
    everything = corruption == "all"
    if everything and (extra := next((option for option in ("num", "severity") if typed(ctx, option)), None)):
        raise click.UsageError(f"--corruption all shows one image at every severity. Leave --{extra} out.", ctx)
    if out.exists() and not force:
        raise UserError(f"{out} exists. Give another --out, or --force to replace it.")
    loaded = load(name, split, corruption="identity" if everything else corruption, **options)
    chosen = np.random.default_rng(seed).permutation(len(loaded))[:num]
    if everything:
        index = int(chosen[0])
        images, names = all_of(loaded.images[index], index, seed_of(split))
        write_image(out, label_rows(grid(images, columns=len(images) // len(names)), names))
        say(f"image {index} of {name} ({split}), {size_of(loaded)}; in each row clean, then severity 1 to 5: {out}")
        return
    write_image(out, grid(loaded.rgb(chosen)))
    columns = int(np.ceil(np.sqrt(len(chosen))))
    for row in range(0, len(chosen), columns):
        words = [" + ".join(loaded.names_of(i)) or "-" for i in chosen[row : row + columns]]
        if loaded.label_names:
            say(f"row {row // columns + 1}: {' | '.join(words)}")
    say(f"{len(chosen)} of the {len(loaded):,} images of {name} ({split}), {size_of(loaded)}: {out}")


@data.command("export", short_help="Write a data set as .png files with its labels.")
@click.argument("name", type=Name("data set", DATASETS), metavar="NAME")
@click.argument("folder", type=Place(path_type=Path))
@click.option("--num", type=click.IntRange(min=1), help="How many images, from the first on. Default: all.")
@corruption()
@SEVERITY
@IMAGE_SIZE
@SPLIT
@DATA_DIR
@ON_BAD
@click.pass_context
def export_(ctx: click.Context, name: str, folder: Path, num: int | None, split: str, **options: Any) -> None:
    """Write a data set as .png files with its labels, in iCLEVR's format.

    \b
    FOLDER/images/000000.png ...   the images
    FOLDER/objects.json            label -> number
    FOLDER/train.json              file name -> list of labels; --split test: test-images.json
    FOLDER/test.json, new_test.json  (shapes) label lists seen in training, and held out of it

    A second split may go into the same folder. `--dataset iclevr --data-dir FOLDER` reads it all.
    """
    refuse_lone_severity(ctx)
    check_new(folder, split)
    loaded = load(name, split, **options)
    total = min(len(loaded), num or len(loaded))
    for _ in tqdm(export(loaded, folder, split, num), total=total, unit="image", delay=1, leave=False, disable=None):
        pass
    say(f"{total:,} images of {name} ({split}), {size_of(loaded)}, and their labels: {folder}")


def load(name: str, split: str, **options: Any) -> ImageData:
    """The data set, its notes passed on as warnings. options: of `load_data`."""
    loaded = load_data(name, split=split, **options)
    for note in loaded.notes:
        warn(note + ".")
    return loaded


def size_of(loaded: ImageData) -> str:
    """Height and width, and the corruption if there is one."""
    size = f"{loaded.images.shape[1]}x{loaded.images.shape[2]}"
    return f"{size}, under {loaded.corruption}" if loaded.corruption else size
