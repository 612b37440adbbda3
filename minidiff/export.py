"""A data set as files for other programs: .png images, and their labels in the format of iCLEVR.

Rests on data, shapes and images.
El-Nouby et al. 2019 (iCLEVR).
"""

import json
from collections.abc import Iterator
from pathlib import Path

from minidiff import shapes
from minidiff.data import ImageData
from minidiff.decoded import replacing
from minidiff.errors import UserError
from minidiff.images import write_image


def check_new(folder: Path) -> None:
    """A UserError if there is anything in the way of a new folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder. Give another one.")


def export(data: ImageData, folder: str | Path, split: str = "train", count: int | None = None) -> Iterator[Path]:
    """Write the first `count` images as .png with their labels, in iCLEVR's format; yields each image's path.

    images/000000.png, ...; objects.json: label -> number; train.json (<split>-images.json for another split): file
    name -> labels. For `shapes` also test.json and new_test.json, 32 label lists each: what to draw, not what is there.
    """
    folder = Path(folder)
    check_new(folder)
    listing: dict[str, list[str]] = {}
    for index in range(min(len(data), count or len(data))):
        path = folder / "images" / f"{index:06d}.png"
        write_image(path, data.rgb([index])[0])
        listing[path.name] = data.names_of(index)
        yield path
    tables: dict[str, object] = {
        "objects": {name: number for number, name in enumerate(data.label_names)},
        "train" if split == "train" else f"{split}-images": listing,
    }
    if data.name == "shapes":
        for other in ("test", "new_test"):
            tables[other] = [[shapes.NAMES[label] for label in labels] for labels in shapes.conditions(other)]
    for name, table in tables.items():
        try:
            with replacing(folder / f"{name}.json") as file:
                file.write(json.dumps(table).encode())
        except OSError as error:
            raise UserError(f"cannot write {folder / name}.json: {error.strerror}.") from None
