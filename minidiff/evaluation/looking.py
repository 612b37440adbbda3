"""Look at pictures with a classifier: at drawn pictures, or at real images, whose labels are known.

Rests on evaluator (which looks), drawing (the pictures) and training.job (data sets).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minidiff.data.config import called
from minidiff.data.datasets import read_place, splits_of
from minidiff.errors import UserError
from minidiff.evaluation.drawing import drawn_seeds, read_samples, samples_path
from minidiff.evaluation.evaluator import Evaluator
from minidiff.images.convert import Pixels
from minidiff.training.data import load_together


@dataclass
class Looked:
    """The outputs of a classifier for the pictures of one list of M conditions, drawn from S seeds."""

    name: str  # of the list
    labels: Tensor  # [M,L], zeros and ones: what was asked
    images: Pixels  # uint8 [S,M,H,W,3]
    logits: Tensor  # float32 [S,M,L], in the order of the names
    seeds: list[int]
    names: list[str]  # of the L labels
    one_hot: bool  # whether the classifier's outputs compete


def look(
    evaluator: Evaluator, folder: Path, name: str, labels: Tensor, size: int, names: Sequence[str]
) -> Looked:  # fmt: skip
    """Look at the samples of a list, of all seeds that have been drawn. Raises UserError."""
    columns, seeds = evaluator.columns(names), drawn_seeds(folder, name)
    images = np.stack([read_samples(samples_path(folder, name, seed), labels, size) for seed in seeds])
    logits = torch.stack([evaluator.logits(of_seed)[:, columns] for of_seed in images])
    return Looked(name, labels, images, logits, seeds, list(names), evaluator.one_hot)


def look_at_data(
    evaluator: Evaluator, place: str, num: int | None = None, data_dir: str | Path | None = None,
    image_size: int | None = None,
) -> Looked:  # fmt: skip
    """Look at real images and compare with their own labels, to examine the classifier itself.

    Arguments: see `open_images`. Raises UserError.
    """
    return look_at_images(evaluator, open_images(evaluator, place, num, data_dir, image_size))


class LabelledImages(NamedTuple):
    """Real images with their labels."""

    name: str  # of the data set, its split and its corruption
    images: Pixels  # uint8 [M,H,W,3]
    labels: Tensor  # [M,L], zeros and ones
    names: list[str]  # of the L labels
    data: str  # the data set, as `called` names it


def open_images(
    evaluator: Evaluator, place: str, num: int | None = None, data_dir: str | Path | None = None,
    image_size: int | None = None,
) -> LabelledImages:  # fmt: skip
    """Load the images of `dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`, by default of the test split.

    num: at most this many, spread evenly. image_size: by default the classifier's. Raises UserError.
    """
    name, split, corruption = read_place(place)
    which = split or ("test" if "test" in splits_of(name, data_dir) else "train")
    data = load_together(name, split=which, data_dir=data_dir, image_size=image_size or evaluator.size, **corruption)
    if not data.label_names:
        raise UserError(f"{name} has no labels, so the classifier cannot be examined on it.")
    evaluator.columns(data.label_names)  # raises where the classifier has others
    chosen = np.linspace(0, len(data) - 1, min(len(data), num or len(data))).astype(int)
    labels = torch.from_numpy(data.labels[chosen])
    if not labels.any():
        raise UserError(
            f"none of the {len(labels)} images of {name}:{which} has a label, so there is nothing to score."
        )
    shown = "-".join(filter(None, (name, which, data.corruption)))
    return LabelledImages(shown, data.rgb(chosen), labels, data.label_names, called(name, data_dir))


def look_at_images(evaluator: Evaluator, real: LabelledImages) -> Looked:
    """Look at images whose labels are known, as if they were one seed of one list."""
    logits = evaluator.logits(real.images)[:, evaluator.columns(real.names)]
    return Looked(real.name, real.labels, real.images[None], logits[None], [0], real.names, evaluator.one_hot)
