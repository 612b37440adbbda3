"""Chapter 5, pictures of what you ask for: conditions in words, in files and as the network takes them.

Rests on shapes (the lists of the embedded data set) and iclevr (reading such lists).
Ho & Salimans 2022 (classifier-free guidance).

A condition is a list of label numbers, such as [2, 23] for "blue cube, yellow cylinder". The network takes it
multi-hot, as 24 zeros and ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff.data import shapes
from minidiff.data.iclevr import read_label_json
from minidiff.errors import UserError, shown, suggestion

# --- conditions in words ----------------------------------------------------------------------------------------------


def parse_condition(text: str, names: Sequence[str]) -> list[int]:
    """Turn words into their numbers in `names`, ascending: "blue cube, yellow cylinder" is [2, 23].

    A name with a comma in it, such as the name of a folder, can only be asked for alone.
    Raises UserError for an unknown name, for the same name twice, or for no name.
    """
    words = [text] if len(matching(text, names)) == 1 else [word.strip() for word in text.split(",")]
    if not all(words):
        fault = "has an empty label" if text.strip() else "names no label"
        raise UserError(f"{shown(text)} {fault}. Write names with commas between, such as '{names[0]}'.")
    return numbered(words, names)


def numbered(words: Sequence[str], names: Sequence[str]) -> list[int]:
    """Turn names into numbers, ascending; `matching` finds each. Raises UserError."""
    condition: list[int] = []
    for word in words:
        found = matching(word, names)
        if not found:
            raise UserError(f"unknown label {shown(word)}. {suggestion(word, names)}")
        if len(found) > 1:
            either = " or ".join(shown(names[number]) for number in found)
            raise UserError(f"{shown(word)} may be {either}. Write it exactly as one of them.")
        if found[0] in condition:
            twice = shown(names[found[0]])
            raise UserError(f"{twice} is asked for twice, but labels say what is there, not how often. Name it once.")
        condition += found
    return sorted(condition)


def matching(word: str, names: Sequence[str]) -> list[int]:
    """Find the labels that a word may mean: the one it is exactly, else all that differ only in case and spaces."""
    if word in names:
        return [names.index(word)]
    same = " ".join(word.lower().split())
    return [number for number, name in enumerate(names) if " ".join(name.lower().split()) == same]


def labels_in_words(condition: Sequence[int], names: Sequence[str], between: str = ", ") -> str:
    """Turn numbers back into words: [2, 23] is "blue cube, yellow cylinder"."""
    return between.join(names[number] for number in condition)


def find_list(place: str | Path, names: Sequence[str], data_dir: Path | None = None) -> Path | None:
    """Find the labels file that `place` means. None stands for a list of the embedded data set.

    A file of that name comes first. Then, for a name without folders such as `test`, the data folder of the run,
    `data_dir`: its file `test` or `test.json`. For runs with the labels of the embedded data set, `test` and `new_test`
    are otherwise the lists of that set. Raises UserError for an empty name.
    """
    if not str(place):
        raise UserError("the name of the labels file is empty. Give one, such as test.json.")
    path = Path(place).expanduser()
    if path.exists() and not path.is_dir():
        return path
    if data_dir is not None and str(place) == path.name:
        for own in (data_dir / path, data_dir / f"{path}.json"):
            if own.is_file():
                return own
    embedded = str(place) in shapes.SPLITS[1:] and sorted(names) == sorted(shapes.NAMES)
    return None if embedded else path


def say_list(place: str | Path, names: Sequence[str], data_dir: Path | None = None) -> str:
    """Say which list `place` means, for the user. Arguments and errors: see `find_list`."""
    path = find_list(place, names, data_dir)
    if path is not None:
        return str(path)
    absent = f"; {data_dir} has no {place}.json" if data_dir is not None else ""
    return f"{place}, the list of minidiff's own shapes{absent}"


def read_conditions(place: str | Path, names: Sequence[str], data_dir: Path | None = None) -> list[list[int]]:
    """Read the conditions of a labels file: a JSON list of lists of names, like iCLEVR's test.json.

    place, data_dir: where it is looked for, see `find_list`. Raises UserError for another kind of file, an unknown
    label, or a condition without labels.
    """
    form = 'a list of lists of names, such as [["red cube"], ["blue cube", "gray sphere"]]'
    found = find_list(place, names, data_dir)
    path = found or Path(place)
    if found is None:
        lists: Any = [[shapes.NAMES[number] for number in one] for one in shapes.conditions(str(place))]
    else:
        lists = read_label_json(path, "labels file", form)
    mend = f"A labels file is {form}."
    if not isinstance(lists, list) or not all(isinstance(one, list) for one in lists):
        raise UserError(f"{path} is JSON, but not a list of lists. {mend}")
    if not lists:
        raise UserError(f"{path} lists nothing. {mend}")
    conditions = []
    for position, words in enumerate(lists, 1):
        if not all(isinstance(word, str) for word in words):
            raise UserError(f"{path}, condition {position}: {shown(words)} is not a list of names. {mend}")
        if not words:
            raise UserError(f"{path}, condition {position} is empty. Name at least one label, or take it out.")
        try:
            conditions.append(numbered(words, names))
        except UserError as error:
            raise UserError(f"{path}, condition {position}: {error}") from None
    return conditions


# --- and as the network takes them ------------------------------------------------------------------------------------


def multi_hot(conditions: Sequence[Sequence[int]], count: int) -> Tensor:
    """Write the label numbers of M images as zeros and ones: float32 [M,count]. Raises UserError for other numbers."""
    labels = torch.zeros(len(conditions), count)
    for row, condition in enumerate(conditions):
        if not all(number in range(count) for number in condition):  # torch would count -1 from the end
            mend = " `run.conditions` makes numbers of names." if isinstance(condition, str) else ""
            raise UserError(f"{shown(condition)} are no numbers of labels, which are 0 to {count - 1} here.{mend}")
        labels[row, list(condition)] = 1
    return labels


def condition_of(labels: Tensor | NDArray[np.uint8]) -> list[int]:
    """Turn one multi-hot row [L] back into the numbers of its labels."""
    return [number for number, value in enumerate(labels) if value]


def evenly_spread(labels: NDArray[np.uint8], count: int) -> Tensor:
    """Pick `count` rows of the labels [N,L] of a data set, spread evenly from first to last: float32 [count,L].

    If there are fewer rows they are repeated. Samples drawn for these labels show the same things as the whole set,
    equally often.
    """
    rows = np.linspace(0, len(labels), min(count, len(labels)), endpoint=False).astype(int)
    return torch.from_numpy(np.resize(labels[rows], (count, labels.shape[1]))).float()


def examples(labels: NDArray[np.uint8], count: int) -> list[list[int]]:
    """Pick the first `count` different conditions that appear in a data set with labels [N,L].

    If each image has one class, these are the classes in order.
    """
    if (labels.sum(axis=1) == 1).all():
        return [[number] for number in range(min(count, labels.shape[1]))]
    found: list[list[int]] = []
    for row in labels:
        condition = condition_of(row)
        if condition and condition not in found:
            found.append(condition)
        if len(found) == count:
            break
    return found
