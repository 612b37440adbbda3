"""The export of a data set for other programs: .png images, and their labels in the format of iCLEVR.

Rests on image_data, iclevr and shapes.
El-Nouby et al. 2019 (iCLEVR).
"""

import json
from collections.abc import Iterator
from pathlib import Path

from minidiff.data import iclevr, shapes
from minidiff.data.image_data import ImageData
from minidiff.errors import UserError, shown
from minidiff.files import is_empty, replacing, write_errors
from minidiff.images.files import write_image


def image_name(index: int, split: str) -> str:
    """Name the file of an image: 000000.png in `train`, test-000000.png in `test`. So splits can share a folder."""
    return f"{index:06d}.png" if split == "train" else f"{split}-{index:06d}.png"


def check_new(folder: Path, split: str = "train") -> None:
    """Raise UserError unless `folder` is new, empty, or an exported set without this split."""
    if not folder.exists() or (folder.is_dir() and is_empty(folder)):
        return
    if not folder.is_dir() or not (folder / iclevr.OBJECTS).is_file():
        raise UserError(f"{folder} exists and is not an empty folder. Give another one.")
    for path in (folder / iclevr.listing(split), folder / "images" / image_name(0, split)):
        if path.exists():
            raise UserError(f"{path} exists: the split '{split}' is there already. Give another folder.")


def export(data: ImageData, folder: str | Path, split: str = "train", count: int | None = None) -> Iterator[Path]:
    """Write the first `count` images as .png with their labels, in iCLEVR's format. Yields the path of each image.

    The folder gets images/000000.png, ...; objects.json (label -> number); and train.json, or <split>-images.json for
    another split (file name -> labels). `shapes` also gets test.json and new_test.json, with 32 lists of labels to
    draw. The folder may hold other splits with the same labels. Raises UserError.
    """
    folder = Path(folder)
    check_new(folder, split)
    if odd := next((name for name in data.label_names if not iclevr.plain(name)), None):
        raise UserError(
            f"the label {shown(odd)} cannot go into objects.json: no commas, and single spaces only. Rename it."
        )
    if (folder / iclevr.OBJECTS).is_file() and iclevr.read_names(folder) != data.label_names:
        raise UserError(f"{folder} holds a set with other labels than {data.name}. Give another folder.")
    listed: dict[str, list[str]] = {}
    for index in range(min(len(data), count or len(data))):
        path = folder / "images" / image_name(index, split)
        write_image(path, data.rgb([index])[0], flush=False)
        listed[path.name] = data.names_of(index)
        yield path
    tables: dict[str, object] = {
        iclevr.OBJECTS: {name: number for number, name in enumerate(data.label_names)},
        iclevr.listing(split): listed,
    }
    if data.name == "shapes":
        for other in ("test", "new_test"):
            tables[f"{other}.json"] = [[shapes.NAMES[label] for label in one] for one in shapes.conditions(other)]
    for name, table in tables.items():
        if (folder / name).exists():  # written with another split
            continue
        with write_errors(folder / name), replacing(folder / name) as file:
            file.write(json.dumps(table).encode())
