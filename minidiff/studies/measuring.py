"""The distances that every cell of a study measures: FID and KID to real images, with their intervals.

Rests on metrics. Images are chosen evenly from a set, so that all classes of an ordered set are among them.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from minidiff.data.datasets import ImageData
from minidiff.images.convert import Pixels
from minidiff.metrics.compare import KID_SUBSET, title
from minidiff.metrics.extraction import MeasuredSet, extract, usual_batch_size
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.fid_infinity import fid_infinity
from minidiff.metrics.frechet import frechet_distance
from minidiff.metrics.kid import kid
from minidiff.metrics.sources import ImageSource
from minidiff.runtime.progress import progress_bar
from minidiff.studies.results import Figure


def evenly(count: int, wanted: int) -> NDArray[np.int64]:
    """Return the numbers of at most `wanted` of `count` images, chosen evenly."""
    return np.linspace(0, count - 1, min(count, wanted)).astype(np.int64)


def rows_source(name: str, data: ImageData, rows: NDArray[np.int64]) -> ImageSource:
    """Return some of the images of a data set as a source."""
    height, width = data.images.shape[1:3]

    def batches(batch_size: int) -> Iterator[Pixels]:
        return (data.rgb(rows[first : first + batch_size]) for first in range(0, len(rows), batch_size))

    return ImageSource(name, len(rows), f"{height}x{width}", batches)


def distances(
    measured: MeasuredSet, real: MeasuredSet, real_features: NDArray[np.float32], network: FeatureNetwork
) -> dict[str, Figure]:
    """Return FID and KID of a set from its features, each with its 95% interval.

    The interval of FID is the jackknife interval of `fid_infinity`, centred on FID itself, with the bias that all cells
    have in common. It says how much FID would change with other samples of the same model.
    """
    fid = frechet_distance(measured.mean, measured.covariance, real.mean, real.covariance)
    unbiased = fid_infinity(measured.features, (real.mean, real.covariance))
    low, high = (max(0.0, fid + end - unbiased.value) for end in (unbiased.low, unbiased.high))
    size = min(KID_SUBSET, len(measured.features), len(real_features))
    mmd = kid(measured.features, real_features, subset_size=size)
    return {
        "fid": Figure(fid, title("fid", network), low, high),
        "kid": Figure(mmd.value, title("kid", network), mmd.low, mmd.high),
    }


def extract_all(what: str, source: ImageSource, network: FeatureNetwork, device: torch.device) -> MeasuredSet:
    """Send a source through the network, under a progress bar, and keep the features of every image."""
    with progress_bar(source.count, what, unit="image") as bar:
        size = usual_batch_size(network, device)
        return extract(source, network, batch_size=size, wanted=("kid",), on_images=bar.update)
