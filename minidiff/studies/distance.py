"""How far images are from real ones, as every cell of a study measures it: FID and KID with their intervals.

Rests on measure, frechet and metrics. Images are chosen evenly from a set, so that one ordered by class is not cut
short.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from minidiff.data.datasets import ImageData
from minidiff.images.convert import Pixels
from minidiff.metrics import compare as measure
from minidiff.metrics import extraction
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.fid_infinity import fid_infinity
from minidiff.metrics.frechet import frechet_distance
from minidiff.metrics.kid import kid as mean_kid
from minidiff.metrics.sources import ImageSource


def spread(count: int, wanted: int) -> NDArray[np.int64]:
    """The numbers of at most `wanted` of `count` images, spread evenly."""
    return np.linspace(0, count - 1, min(count, wanted)).astype(np.int64)


def of_rows(name: str, data: ImageData, rows: NDArray[np.int64]) -> ImageSource:
    """Some of the images of a data set, to be measured."""
    height, width = data.images.shape[1:3]

    def batches(batch_size: int) -> Iterator[Pixels]:
        return (data.rgb(rows[first : first + batch_size]) for first in range(0, len(rows), batch_size))

    return ImageSource(name, len(rows), f"{height}x{width}", batches)


def distances(
    side: extraction.MeasuredSet,
    real: extraction.MeasuredSet,
    real_features: NDArray[np.float32],
    network: FeatureNetwork,
) -> dict[str, Any]:
    """FID and KID of images whose features are at hand, for result.json: title, value, 95% interval.

    The interval of FID is the jackknife's, as of `fid_infinity`, laid about FID itself, with its bias of so
    many images, which the cells have in common: how far other samples of the same model would move it.
    """
    fid = frechet_distance(side.mean, side.covariance, real.mean, real.covariance)
    unbiased = fid_infinity(side.features, (real.mean, real.covariance))
    low, high = (max(0.0, fid + end - unbiased.value) for end in (unbiased.low, unbiased.high))
    size = min(1000, len(side.features), len(real_features))
    kid = mean_kid(side.features, real_features, subset_size=size)
    return {
        "fid": {"title": measure.title("fid", network), "value": fid, "low": low, "high": high},
        "kid": {"title": measure.title("kid", network), "value": kid.value, "low": kid.low, "high": kid.high},
    }


def extracted(what: str, source: ImageSource, network: FeatureNetwork, device: torch.device) -> extraction.MeasuredSet:
    """A source through the network, under a bar, with the features of every image."""
    with images_bar(what, source.count) as bar:
        return extraction.extract(
            source, network, batch_size=at_once(network, device), wanted=("kid",), on_images=bar.update
        )


def at_once(network: FeatureNetwork, device: torch.device) -> int:
    return 32 if network.name == "inception" and device.type == "cpu" else 64


def images_bar(what: str, count: int) -> tqdm:
    return tqdm(total=count, desc=what, unit="image", leave=False, dynamic_ncols=True)
