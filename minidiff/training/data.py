"""Load the images and labels of a training, and describe them for its config.json.

Rests on data. Under torchrun the main process reads first, so that a download or a decoding happens once.
"""

import hashlib
import os

import numpy as np

from minidiff.data.config import DataConfig, DataSpec, Labels
from minidiff.data.datasets import ImageData, load_data
from minidiff.errors import UserError
from minidiff.records import takes
from minidiff.runtime.distributed import main_first
from minidiff.training.config import TrainRequest


@takes(DataSpec)
def load_together(spec: DataSpec) -> ImageData:
    """Load a data set as `load_data` does: first in the main process, then in the others, from the filled cache."""
    return main_first(lambda: load_data(**vars(spec))) or load_data(**vars(spec))


def open_data(request: TrainRequest, image_size: int) -> tuple[ImageData, DataConfig]:
    """Load the data set that a request names, and return what config.json says of it."""
    data_dir = os.path.abspath(request.data_dir) if request.data_dir else None
    severity = request.severity if request.corruption != "identity" else DataConfig.severity
    data = load_together(
        request.dataset,
        data_dir,
        image_size,
        on_bad=request.on_bad,
        corruption=request.corruption,
        severity=severity,
    )
    found = DataConfig(
        name=data.name,
        data_dir=data_dir,
        image_size=image_size,
        on_bad=request.on_bad,
        corruption=request.corruption,
        severity=severity,
        channels=data.images.shape[3],
        images=len(data.images),
        fingerprint=data.fingerprint(),
    )
    return data, found


def open_again(config: DataConfig, labels: Labels | None, folder: object) -> ImageData:
    """Load the data set that a run was trained on. Raises UserError if its images or labels are not the same now."""
    data = load_together(**vars(config.spec))
    if labels is not None and labels_of(data) != Labels(labels.names, labels.one_hot, labels.fingerprint):
        raise UserError(f"the labels of {config.name} are not the ones that {folder} began with. Bring those back.")
    if (len(data.images), data.fingerprint()) != (config.images, config.fingerprint):
        raise UserError(
            f"{folder} was trained on {config.images} images and {config.name} now holds {len(data.images)} "
            "that are not the same. Bring back the data it began with, or start a new run."
        )
    return data


def labels_of(data: ImageData) -> Labels:
    """Describe the labels of a data set for config.json, with a digest to know them again."""
    return Labels(
        names=tuple(data.label_names),
        one_hot=bool((data.labels.sum(axis=1) == 1).all()),
        fingerprint=hashlib.sha256(np.ascontiguousarray(data.labels).tobytes()).hexdigest()[:16],
    )


def check_labels(data: ImageData, use: str) -> None:
    """Raise UserError unless there are two labels or more, and images with labels. use: what needs them."""
    if len(data.label_names) < 2:
        has = "only one label" if data.label_names else "no labels"
        notes = f" ({'; '.join(data.notes)})" if data.notes else ""
        mend = " Put the images of each class into a sub-folder of its own." if data.name == "folder" else ""
        raise UserError(f"{data.name} has {has}{notes}; {use} needs two.{mend}")
    if not data.labels.any():
        raise UserError(
            f"none of the {len(data)} images of {data.name} has a label, and {use} needs some. "
            "Say in its files what they show."
        )
