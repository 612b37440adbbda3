"""Chapter 5: pictures to order. Labels go into the network, and guidance has them followed more closely.

Rests on diffusion (what a sampler takes for a model), shapes (its lists of what to draw) and iclevr (reading such).
Ho & Salimans 2022 (classifier-free guidance).

A condition is a list of label numbers, such as [2, 23] for "blue cube, yellow cylinder"; the network takes it
multi-hot, 24 zeros and ones. In training some are not told, so that one network learns p(x | labels) and p(x).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff.data import shapes
from minidiff.data.iclevr import read_json
from minidiff.errors import UserError, shown, suggestion

# --- conditions in words ----------------------------------------------------------------------------------------------


def parse_condition(text: str, names: Sequence[str]) -> list[int]:
    """Words to numbers in `names`, ascending: "blue cube, yellow cylinder" is [2, 23].

    A name that has a comma in it, as that of a folder may, is asked for alone.
    Raises UserError for an unknown name, the same name twice, or none.
    """
    words = [text] if len(matching(text, names)) == 1 else [word.strip() for word in text.split(",")]
    if not all(words):
        fault = "has an empty label" if text.strip() else "names no label"
        raise UserError(f"{shown(text)} {fault}. Write names with commas between, such as '{names[0]}'.")
    return numbered(words, names)


def numbered(words: Sequence[str], names: Sequence[str]) -> list[int]:
    """Names to numbers, ascending, each found by `matching`. Raises UserError."""
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
            raise UserError(f"{twice} is asked for twice; labels say what is there, not how often. Name it once.")
        condition += found
    return sorted(condition)


def matching(word: str, names: Sequence[str]) -> list[int]:
    """The labels a word may mean: the one it is exactly, or else all that differ from it in case and spaces alone."""
    if word in names:
        return [names.index(word)]
    same = " ".join(word.lower().split())
    return [number for number, name in enumerate(names) if " ".join(name.lower().split()) == same]


def in_words(condition: Sequence[int], names: Sequence[str], between: str = ", ") -> str:
    """[2, 23] -> "blue cube, yellow cylinder": the way back."""
    return between.join(names[number] for number in condition)


def read_conditions(place: str | Path, names: Sequence[str]) -> list[list[int]]:
    """The conditions of a labels file: JSON, a list of lists of names, as iCLEVR's test.json.

    `test` and `new_test`, where no such file lies, are the 32 conditions of the embedded data set, for runs that have
    its labels. Raises UserError where it is no such file, or has a label that is not in `names`, or a condition without
    any.
    """
    if not str(place):
        raise UserError("the name of the labels file is empty. Give one, such as test.json.")
    path = Path(place).expanduser()
    form = 'a list of lists of names, such as [["red cube"], ["blue cube", "gray sphere"]]'
    if str(place) in shapes.SPLITS[1:] and not path.exists() and sorted(names) == sorted(shapes.NAMES):
        lists: Any = [[shapes.NAMES[number] for number in one] for one in shapes.conditions(str(place))]
    else:
        lists = read_json(path, "labels file", form)
    mend = f"A labels file is {form}."
    if not isinstance(lists, list) or not all(isinstance(one, list) for one in lists):
        raise UserError(f"{path} is JSON, but no list of lists. {mend}")
    if not lists:
        raise UserError(f"{path} lists nothing. {mend}")
    conditions = []
    for position, words in enumerate(lists, 1):
        if not all(isinstance(word, str) for word in words):
            raise UserError(f"{path}, condition {position}: {shown(words)} is no list of names. {mend}")
        if not words:
            raise UserError(f"{path}, condition {position} is empty. Name at least one label, or take it out.")
        try:
            conditions.append(numbered(words, names))
        except UserError as error:
            raise UserError(f"{path}, condition {position}: {error}") from None
    return conditions


# --- and as the network takes them ------------------------------------------------------------------------------------


def multi_hot(conditions: Sequence[Sequence[int]], count: int) -> Tensor:
    """Label numbers of M images -> float32 [M,count] of zeros and ones. Raises UserError for a number of no label."""
    labels = torch.zeros(len(conditions), count)
    for row, condition in enumerate(conditions):
        if not all(number in range(count) for number in condition):  # torch would count -1 from the end
            raise UserError(f"{shown(condition)} are no numbers of labels, which are 0 to {count - 1} here.")
        labels[row, list(condition)] = 1
    return labels


def condition_of(labels: Tensor | NDArray[np.uint8]) -> list[int]:
    """One multi-hot row [L] -> the numbers of its labels: the way back."""
    return [number for number, value in enumerate(labels) if value]


def evenly_spread(labels: NDArray[np.uint8], count: int) -> Tensor:
    """`count` rows of the labels [N,L] of a data set, evenly from first to last, again and again if there are fewer:
    float32 [count,L]. What samples are drawn for that are to be like the whole set."""
    rows = np.linspace(0, len(labels), min(count, len(labels)), endpoint=False).astype(int)
    return torch.from_numpy(np.resize(labels[rows], (count, labels.shape[1]))).float()


def examples(labels: NDArray[np.uint8], count: int) -> list[list[int]]:
    """At most `count` different conditions of a data set with labels [N,L], the first ones to appear; classes, where
    each image has one, in order."""
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
