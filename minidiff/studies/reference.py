"""The real images that the cells of one data set are measured against, clean or corrupted, in one feature network.

The statistics hold a fingerprint of their images. A cell that was trained on other images is refused, and so is a
network whose weights have changed, because a table must belong to one data set and one network. Rests on measuring.
"""

from pathlib import Path

import numpy as np
import torch

from minidiff.arrays import open_npy
from minidiff.data.datasets import ImageData, splits_of
from minidiff.errors import UserError
from minidiff.files import write_atomically, write_json
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.metrics import extraction, features
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.sources import ImageSource
from minidiff.metrics.statistics import open_statistics, save_statistics
from minidiff.pretrained.load import read_drawing
from minidiff.pretrained.sources import open_place
from minidiff.records import to_json
from minidiff.runtime.progress import progress_bar
from minidiff.studies.config import Planned, data_of
from minidiff.studies.measuring import distances, evenly, extract_all, rows_source
from minidiff.studies.models import data_options
from minidiff.studies.results import Figure, RealResult
from minidiff.studies.study import CELLS, DATA, FEATURES, REAL, RESULT, RUN, SAMPLES, STATISTICS, folder_of
from minidiff.training.data import load_together

SHOWN = 64  # images of a grid
KID_ROWS = 10_000  # real images whose features are kept


def load_images(study: Planned, name: str, split: str = "train") -> ImageData:
    """Load the images of DATASET.CORRUPTION."""
    asked = data_options(study, name)
    return load_together(asked.pop("dataset"), split=split, **asked)


def network_of(study: Planned, device: torch.device) -> FeatureNetwork:
    """Open the feature network of a study. Raise UserError if its weights have changed since the study began."""
    network = features.choose(study.features, device=device)
    if study.network is not None and study.network.weights != network.sha256:
        raise UserError(
            f"{study.features} is not the network this study began with. Bring back its weights, or begin a new study "
            "in another `out`: one table cannot hold distances in two networks."
        )
    return network


def prepare(study: Planned, folder: Path, name: str, device: torch.device) -> None:
    """Prepare the files that the cells of DATASET.CORRUPTION share.

    They are a grid of real images, the features of at most 10,000 of them, the statistics of all, and the distance of
    as many images of the test split, which perfect samples would have. The statistics are written last: if they are
    there, the other files are there too.
    """
    place = folder_of(folder, name)
    data, network = load_images(study, name), network_of(study, device)
    digest = data.fingerprint()
    for cell in study.cells_with(name):
        if (run := folder / CELLS / cell / RUN).exists():
            check_data(cell, digest, read_drawing(run).data.fingerprint)
    write_image(place / REAL, grid(data.rgb(evenly(len(data), SHOWN))))
    everything = rows_source(name, data, np.arange(len(data)))
    everything.fingerprint = digest
    with progress_bar(len(data), "training images", unit="image") as bar:
        size = extraction.usual_batch_size(network, device)
        whole = extraction.measure_set(everything, network, batch_size=size, on_images=bar.update)
    some = rows_source(name, data, evenly(len(data), KID_ROWS))
    kept = extract_all("features to keep", some, network, device).features[:]
    write_atomically(place / FEATURES, lambda file: np.save(file, kept))
    dataset, corruption = name.split(".")
    if "test" in splits_of(dataset, study.folder_of(dataset)):
        test = load_images(study, name, "test")
        rows = evenly(len(test), study.num)  # the bias of FID depends on their number
        unseen = extract_all("test images", rows_source(name, test, rows), network, device)
        found = distances(unseen, whole, kept, network)
        result = RealResult(found, name, dataset, corruption, study.severity, len(rows))
        write_json(place / RESULT, to_json(result))
    stored = extraction.statistics_of(whole, network)
    stored.about["fingerprint"] = digest
    save_statistics(place / STATISTICS, stored)


def check_data(name: str, digest: str | None, trained_on: str | None) -> None:
    """Raise UserError unless a training was on the images with this fingerprint."""
    if digest not in (None, trained_on):
        raise UserError(
            f"the images of {name} are not the ones that its study began with. Bring them back, or begin a new study "
            "in another `out`: one table cannot hold trainings on two data sets."
        )


def digest_of(folder: Path, name: str) -> str | None:
    """Return the fingerprint of the images from which the statistics of DATASET.CORRUPTION were computed."""
    found: str | None = open_statistics(str(folder / DATA / name / STATISTICS)).about.get("fingerprint")
    return found


def measure_samples(study: Planned, folder: Path, cell: str, device: torch.device) -> dict[str, Figure]:
    """Measure how far a cell's samples are from the training images."""
    shared, network = folder / DATA / data_of(cell), network_of(study, device)
    samples = open_place(str(folder / CELLS / cell / SAMPLES))
    if not isinstance(samples, ImageSource):
        raise UserError(f"{samples.name} holds statistics, not samples. Remove it, and they are drawn again.")
    real = extraction.from_stored(open_statistics(str(shared / STATISTICS)), network)
    features_kept = open_npy(shared / FEATURES)
    if features_kept.dtype != np.float32 or features_kept.shape[1:] != (network.dims,):
        raise UserError(f"{features_kept} is {features_kept.described}, not features of this network. Remove it and "
                        f"{shared / STATISTICS}, and both are computed again.")  # fmt: skip
    of_samples = extract_all("samples measured", samples, network, device)
    return distances(of_samples, real, features_kept.whole(), network)
