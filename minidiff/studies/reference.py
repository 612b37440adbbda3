"""What the cells of one data set are held against: its real images, clean or corrupted, in one feature network.

Rests on distance. Written down with the statistics is which images they are of; a cell trained on others, or a network
that is another by now, is refused: a table is of one data set and one network, or of nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from minidiff.data.datasets import ImageData, splits_of
from minidiff.errors import UserError
from minidiff.files import write_atomically, write_json
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.metrics import extraction, features
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.sources import ImageSource
from minidiff.metrics.statistics import StoredStatistics, save_statistics
from minidiff.pretrained.sources import open_place
from minidiff.runs import folder as checkpoint
from minidiff.studies import study as studies
from minidiff.studies.distance import at_once, distances, extracted, images_bar, of_rows, spread
from minidiff.studies.models import data_options, folder_of
from minidiff.studies.study import CELLS, DATA, FEATURES, REAL, RESULT, RUN, STATISTICS
from minidiff.training.data import load_together

SHOWN = 64  # images of a grid
KID_ROWS = 10_000  # real images whose features are kept


def load(study: dict[str, Any], name: str, split: str = "train") -> ImageData:
    """The images of DATASET.CORRUPTION."""
    asked = data_options(study, name)
    return load_together(asked.pop("dataset"), split=split, **asked)


def network_of(study: dict[str, Any], device: torch.device) -> FeatureNetwork:
    """The feature network of a study. Raises UserError where its weights are others than when the study began."""
    network = features.choose(study["features"], device=device)
    if study.get("network", {}).get("weights", network.sha256) != network.sha256:
        raise UserError(
            f"{study['features']} is another network than this study began with. Bring back its weights, or begin "
            "another --out: distances in two networks make no table."
        )
    return network


def prepare(study: dict[str, Any], folder: Path, name: str, device: torch.device) -> None:
    """The reference of DATASET.CORRUPTION: a grid of real images, features of at most 10,000 of them, the statistics of
    all; and how far as many images of the test split are away, where perfect samples would be.

    The statistics are written last, and say that the rest is there.
    """
    place = studies.home(folder, name)
    data, network = load(study, name), network_of(study, device)
    digest = data.fingerprint()
    for cell in studies.cells_of(study, name):
        if (run := folder / CELLS / cell / RUN).exists():
            check_data(cell, digest, checkpoint.read_config(run)["data"].get("fingerprint"))
    write_image(place / REAL, grid(data.rgb(spread(len(data), SHOWN))))
    everything = of_rows(name, data, np.arange(len(data)))
    everything.fingerprint = digest
    with images_bar("training images", len(data)) as bar:
        whole = extraction.measure_set(everything, network, batch_size=at_once(network, device), on_images=bar.update)
    kept = extracted("features to keep", of_rows(name, data, spread(len(data), KID_ROWS)), network, device).features[:]
    write_atomically(place / FEATURES, lambda file: np.save(file, kept))
    dataset = name.split(".")[0]
    if "test" in splits_of(dataset, folder_of(study, dataset)):
        test = load(study, name, "test")
        rows = spread(len(test), study["num"])  # the bias of FID depends on their number
        unseen = extracted("test images", of_rows(name, test, rows), network, device)
        found = {"metrics": distances(unseen, whole, kept, network), "num": len(rows)}
        write_json(place / RESULT, studies.about(study, name) | found)
    stored = extraction.statistics_of(whole, network)
    stored.about["fingerprint"] = digest
    save_statistics(place / STATISTICS, stored)


def check_data(name: str, digest: str | None, trained_on: str | None) -> None:
    """Raise UserError unless a training is of the images with this fingerprint."""
    if digest not in (None, trained_on):
        raise UserError(
            f"the images of {name} are not those that its study began with. Bring them back, or begin another --out: "
            "trainings on two data sets make no table."
        )


def digest_of(folder: Path, name: str) -> str | None:
    """The fingerprint of the images that the reference of this name is of."""
    reference = open_place(str(folder / DATA / name / STATISTICS))
    assert isinstance(reference, StoredStatistics)
    found: str | None = reference.about.get("fingerprint")
    return found


def measure_samples(study: dict[str, Any], folder: Path, cell: str, device: torch.device) -> dict[str, Any]:
    """The distances of a cell's samples to the training images."""
    shared, network = folder / DATA / studies.data_of(cell), network_of(study, device)
    samples = open_place(str(folder / CELLS / cell / studies.SAMPLES))
    reference = open_place(str(shared / STATISTICS))
    assert isinstance(samples, ImageSource) and isinstance(reference, StoredStatistics)
    real = extraction.from_stored(reference, network)
    return distances(extracted("samples measured", samples, network, device), real, np.load(shared / FEATURES), network)
