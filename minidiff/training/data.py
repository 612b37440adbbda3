"""Load the images and labels of a training, and describe them for its config.json.

Rests on data. Under torchrun the main process reads first, so that a download or a decoding happens once.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from minidiff.data.array_set import IMAGES, kept_labels
from minidiff.data.config import KEPT, DataConfig, DataSpec, Images, Labels
from minidiff.data.datasets import ImageData, brought, check_brought, load_data, place_of, usual_size
from minidiff.data.own_images import OWN
from minidiff.errors import UserError
from minidiff.records import takes
from minidiff.runtime.distributed import main_first
from minidiff.training.config import TrainRequest


@takes(DataSpec)
def load_together(spec: DataSpec) -> ImageData:
    """Load a data set as `load_data` does: first in the main process, then in the others, from the filled cache."""
    return main_first(lambda: load_data(**vars(spec))) or load_data(**vars(spec))


def open_data(request: TrainRequest, image_size: int) -> tuple[ImageData, DataConfig]:
    """Load the images of a request, and return what config.json says of them. Raises UserError."""
    severity = request.severity if request.corruption != "identity" else DataConfig.severity
    check_brought(request.dataset, request.labels, request.label_names, request.data_dir)
    name, data_dir = OWN, None
    if brought(request.dataset):
        data = load_data(
            request.dataset, image_size=image_size, corruption=request.corruption, severity=severity,
            flip=request.flip, labels=request.labels, label_names=request.label_names,
        )  # fmt: skip
    else:
        name, where = place_of(request.dataset, request.data_dir)
        data_dir = os.path.abspath(where) if where else None
        data = load_together(
            name, data_dir, image_size, on_bad=request.on_bad,
            corruption=request.corruption, severity=severity, flip=request.flip, max_pixels=request.max_pixels,
        )  # fmt: skip
    described = DataConfig(
        name=name,
        data_dir=data_dir,
        image_size=image_size,
        on_bad=request.on_bad,
        corruption=request.corruption,
        severity=severity,
        flip=request.flip,
        max_pixels=request.max_pixels,
        channels=data.images.shape[3],
        images=len(data.images),
        fingerprint=data.fingerprint(),
    )
    return data, described


def size_for(request: TrainRequest, preset: int) -> int:
    """Choose the size to train at: what the request says, or the size of its own images, or the preset's."""
    return request.image_size or usual_size(request.dataset, request.data_dir) or preset


def open_again(config: DataConfig, labels: Labels | None, folder: Path, images: "Images | None" = None) -> ImageData:
    """Load the images that a run was trained on. Raises UserError if they or their labels are not the same now.

    images: those that a script brings once more, for a run whose folder does not keep them.
    """
    spec = config.spec(folder)
    if images is None:
        if config.brought and not (folder / KEPT / IMAGES).is_file():
            raise UserError(
                f"{folder} does not keep the images that it was trained on. "
                f"Give them once more, in a script: minidiff.resume({str(folder)!r}, images)."
            )
        data = load_together(**vars(spec))
    elif not config.brought:
        raise UserError(f"{folder} was trained on {config.name}, which is found without `images`. Leave them out.")
    else:
        options = {name: value for name, value in vars(spec).items() if name not in ("name", "data_dir")}
        rows, names = kept_labels(folder / KEPT, config.images or 0)
        data = replace(load_data(images, **options), labels=rows, label_names=names)
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
