"""The files of iCLEVR: images of a few coloured solids, and tables in JSON that say what is in each.

Rests on errors alone. The images themselves are decoded by data, and export writes such a folder.
El-Nouby et al. 2019 (iCLEVR); the tables are those of the 2023 course lab.

DIR/objects.json           label -> number: "gray cube" -> 0
DIR/train.json             file name -> labels: "CLEVR_train_001032_1.png" -> ["yellow sphere", "gray cylinder"]
DIR/test-images.json       the same for another split, here `test`; the lab has none
DIR/images/ and so on      the images, see PLACES
"""

import json
import os
from pathlib import Path
from typing import Any

from minidiff.errors import UserError, one_line, shown, suggestion
from minidiff.files import memory_for, read_text_bytes

OBJECTS = "objects.json"
PLACES = ("images", "iclevr", "train", ".")  # where images are looked for, from DIR; the lab's archive says iclevr


def listing(split: str) -> str:
    """Name the table of a split. It cannot be test.json, which lists labels to draw in the lab, not images."""
    return "train.json" if split == "train" else f"{split}-images.json"


def splits_in(root: Path) -> list[str]:
    """List the splits whose tables a folder holds, `train` first."""
    others = {path.name.removesuffix(listing("")) for path in root.glob("*" + listing(""))} - {"", "train"}
    return ["train"] * os.path.isfile(root / listing("train")) + sorted(others)


def read_names(root: Path) -> list[str]:
    """Read the labels of objects.json, in the order of their numbers: 0, 1, ..., each once. Raises UserError."""
    if not os.path.isfile(root / OBJECTS):
        fault = "is not a folder" if os.path.exists(root) else "is not there"
        fault = f"has no {OBJECTS}" if os.path.isdir(root) else fault
        raise UserError(f"{root} {fault}. iCLEVR is a folder with {OBJECTS}, {listing('train')} and images.")
    numbers = read_table(root / OBJECTS, 'label to number, such as {"gray cube": 0, "red cube": 1}')
    names = [""] * len(numbers)
    for name, number in numbers.items():
        if type(number) is not int or not 0 <= number < len(names) or names[number] or not plain(name):
            raise UserError(
                f"{root / OBJECTS} gives {shown(name)} the number {shown(number)}. Its {len(names)} labels need plain "
                f"names, without commas and with single spaces, and the numbers 0 to {len(names) - 1}, each once."
            )
        names[number] = name
    return names


def plain(name: str) -> bool:
    """Tell whether a label can stand in a line of labels with commas between, see `parse_condition`."""
    return bool(name) and name.isprintable() and "," not in name and name == " ".join(name.split())


def read_listing(root: Path, split: str, names: list[str]) -> dict[str, list[int]]:
    """Read the table of a split: file name -> numbers of its labels, in the table's order. Raises UserError."""
    path = root / listing(split)
    if split not in splits_in(root):
        there = ", ".join(splits_in(root)) or "none"
        raise UserError(f"{path} is not there. It would list the images of the split '{split}'. Splits: {there}.")
    number_of = {name: number for number, name in enumerate(names)}
    listed = {}
    for file, labels in read_table(path, 'file name to labels, such as {"1.png": ["red cube", "gray cube"]}').items():
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"{path}: {shown(file)} has {shown(labels)}, which is not a list of labels.")
        unknown = next((label for label in labels if label not in number_of), None)
        if unknown is not None:
            has = f"{shown(file)} has the label {shown(unknown)}, which {OBJECTS} does not have"
            raise UserError(f"{path}: {has}. {suggestion(unknown, names)}")
        listed[file] = [number_of[label] for label in labels]
    return listed


def read_table(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object that is not empty. what: what it should be, for the message of the UserError."""
    table = read_label_json(path, "table", f"a table of {what}")
    if not isinstance(table, dict) or not table:
        raise UserError(
            f"{path} is {'an empty table' if table == {} else 'not a table'}. It should be a table of {what}."
        )
    return table


def read_label_json(path: Path, kind: str, what: str) -> Any:
    """Read a JSON file of any form. kind: of file; what: it should hold. Both are for the message of the UserError."""
    try:
        with memory_for(path):
            return json.loads(read_text_bytes(path))  # from bytes, json finds the encoding, and skips a byte order mark
    except OSError as error:
        raise UserError(f"cannot read the {kind} {path}: {error.strerror}.") from None
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({one_line(error)}). It should be {what}.") from None


def find_images(root: Path, table: str, files: list[str], on_bad: str) -> tuple[Path, list[str], list[str]]:
    """Find the folder of the images, the `files` that are there, and notes for the user, a line each.

    The images lie in the one of PLACES that has the most of them. table: the file that lists them. on_bad: "skip"
    leaves missing images out, "stop" raises UserError for them. If all are missing, UserError is raised either way.
    """
    folders = [root / place for place in PLACES]
    there = {folder: [file for file in files if os.path.isfile(folder / file)] for folder in folders if folder.is_dir()}
    place = max(there, key=lambda folder: len(there[folder]))  # root is always among them
    found = set(there[place])
    missing = [file for file in files if file not in found]
    if not found:
        places = ", ".join(str(folder) for folder in folders[:-1])
        raise UserError(
            f"none of the {len(files)} images that {root / table} lists is there. {shown(files[0])} is the first. "
            f"Looked in {places} and {root} itself: put them into one of these."
        )
    count = f"{len(missing)} of the {len(files)} images that {table} lists are not in {place}"
    if missing and on_bad == "stop":
        mend = "Bring them back, take them off the list, or let such files be skipped."
        raise UserError(f"{count}; {shown(missing[0])} is the first. {mend}")
    some = ", ".join(shown(file) for file in missing[:3]) + ", ..." * (len(missing) > 3)
    return place, there[place], [f"{count} and are left out: {some}"] if missing else []
