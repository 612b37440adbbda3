"""One job of the race: train, draw, and measure how near the pictures come to the data."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import machine, versions
from contenders import CONTENDERS, Learner, Setting
from minutes_race import Job, Task, add_result
from minutes_rates import PEERS, Row, steps_in
from numpy.typing import NDArray
from torch import Tensor

from minidiff import load_data, open_evaluator
from minidiff.data.config import called
from minidiff.files import write_atomically
from minidiff.images.convert import Pixels
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.metrics import extraction
from minidiff.metrics.features import FeatureNetwork, choose
from minidiff.metrics.frechet import FeatureStatistics, frechet_distance
from minidiff.metrics.kid import kid
from minidiff.metrics.sources import ImageSource, dataset_source

SHOWN = 36  # images of a grid
SURE = 0.1  # how near to 0 or 1 each output of a classifier is that can tell a scene


# --- train --------------------------------------------------------------------------------------------------------


def learn(job: Job, step_seconds: float) -> Iterator[tuple[Row, Learner]]:
    """Train. Yields the learner after each of the job's times, with the beginning of a line of results.jsonl."""
    contender = CONTENDERS[job.contender]
    lengths = [steps_in(minutes, step_seconds) for minutes in job.minutes]
    learner = contender.make(Setting(job.task.data, job.task.size, job.seed, job.rate, job.batch, lengths[-1]))
    step = 0
    for minutes, length in zip(job.minutes, lengths, strict=True):
        while step < length:
            learner.step()
            step += 1
        yield job.row(minutes) | {"steps": length, "step_seconds": step_seconds}, learner


# --- measure pictures ---------------------------------------------------------------------------------------------


def features_of(source: ImageSource, network: FeatureNetwork) -> NDArray[np.float32]:
    """Return the features of all images, float32 [N,d]."""
    return extraction.extract(source, network, batch_size=250, wanted=("kid",)).features[:]


def features_of_images(images: Pixels, network: FeatureNetwork) -> NDArray[np.float32]:
    """Return the features of uint8 [N,H,W,3], float32 [N,d]."""
    parts = [images[first : first + 250] for first in range(0, len(images), 250)]
    return features_of(ImageSource("samples", len(images), "", lambda _: iter(parts)), network)


def reference(task: Task, network: FeatureNetwork, out: Path) -> NDArray[np.float32]:
    """Return the features of the training images, float32 [N,d]; they are kept in OUT."""
    path = out / f"reference-{task.data}-{task.size}-{network.sha256[:8]}.npy"
    if not path.exists():
        data = load_data(task.data, image_size=task.size)
        features = features_of(dataset_source(task.data, data, called(task.data, None)), network)
        write_atomically(path, partial(np.save, arr=features))
    loaded: NDArray[np.float32] = np.load(path)
    return loaded


def distances(images: Pixels, of_data: NDArray[np.float32], network: FeatureNetwork) -> tuple[float, float]:
    """Measure FD and KD of uint8 [N,H,W,3] from the training images."""
    features = features_of_images(images, network)
    mine, theirs = FeatureStatistics.of(features), FeatureStatistics.of(of_data)
    fd = frechet_distance(mine.mean, mine.covariance, theirs.mean, theirs.covariance)
    return fd, kid(features, of_data, subset_size=min(1000, len(features))).value


def told(images: Pixels, of_data: NDArray[np.float32], features: str) -> float:
    """Return the share of scenes, uint8 [N,H,W,3], in which the classifier can tell every object.

    A drawn scene has no labels to be compared with, so the classifier has to be sure of all it says: each of its 24
    outputs is below 0.1 or above 0.9, and one to three, as many as scenes have, are above. An object that is none, or
    half one and half another, leaves an output in between; an empty scene has none above. But a classifier can be sure
    of pure noise, too. So the scene has to look like one: in its features it is as near to a training scene as 99 in
    100 scenes of `new_test`, whose objects never meet in the training.

    With a classifier of `minidiff train classifier --dataset shapes`, so many count at 32x32: of real scenes 99.8%
    (test) and 91.4% (new_test), and every one of them that counts in test is told rightly; with noise of sigma 20 (of
    255) 83%, of sigma 40 12%; of the means of two scenes 19%; of pure noise none, of which the classifier alone is sure
    in 47%; of empty floors none. A right half put on the left half of another scene counts in 77%: cut objects are
    objects.
    """
    network = choose(features)
    unseen = load_data("shapes", image_size=images.shape[1], split="new_test")
    real = nearest(features_of(dataset_source("shapes:new_test", unseen, "shapes"), network), of_data)
    near = nearest(features_of_images(images, network), of_data) <= real.quantile(0.99)
    sure = torch.sigmoid(open_evaluator(features).logits(images))
    yes, no = sure > 1 - SURE, sure < SURE
    count = yes.sum(dim=1)
    return float((near & (yes | no).all(dim=1) & (count >= 1) & (count <= 3)).float().mean())


def nearest(features: NDArray[np.float32], of_data: NDArray[np.float32]) -> Tensor:
    """Return the distance of each image to the nearest of the data, [N]."""
    return torch.cdist(torch.tensor(features), torch.tensor(of_data)).amin(dim=1)


# --- draw, measure, and write it down -----------------------------------------------------------------------------


def measured(job: Job, begun: Row, learner: Learner, features: str, out: Path) -> Row:
    """Draw, measure, and write a grid and a line: what `learn` has begun, and all that is found."""
    network = choose(features)
    began = time.process_time()
    images = learner.draw(job.task.num, job.seed)
    drawing = time.process_time() - began
    of_data = reference(job.task, network, out)
    fd, kd = distances(images, of_data, network)
    row = begun | {"fd": fd, "kd": kd}
    row |= {"told": told(images, of_data, features)} if job.task.data == "shapes" else {}
    row |= {
        "sample_seconds": round(drawing, 2), "sampler": learner.sampler, "calls": learner.calls,
        "parameters": sum(each.numel() for each in learner.network.parameters() if each.requires_grad),
        "features": network.sha256[:8], "versions": versions(*PEERS), "cpu": machine("cpu"),
    }  # fmt: skip
    write_image(picture(out, row), grid(images[:SHOWN], 6))
    add_result(out, row)
    return row


def picture(out: Path, row: Row) -> Path:
    """Return the place of a measurement's grid."""
    rate = "" if row["rate"] is None else f"-lr{row['rate']:.2g}-b{row['batch']}"
    name = f"{row['contender']}-{row['data']}-{row['size']}-s{row['seed']}-{row['minutes']:g}min{rate}-n{row['num']}"
    return out / "grids" / f"{name}-{row['version']}.png"
