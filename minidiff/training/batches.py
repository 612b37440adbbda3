"""Which images a training step sees, in which order, and how they are read in advance.

Rests on data and rng. The order is a function of (seed, step), so a resumed run sees the same images as a run that was
never interrupted.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.data.datasets import ImageData
from minidiff.images.convert import to_float
from minidiff.rng import Draws, seed_from
from minidiff.runtime import distributed
from minidiff.training.config import ORDER, TrainConfig

BLOCK = 1024  # images sent to a GPU at a time


def prepare(images: Tensor, flip: bool, draws: Draws) -> Tensor:
    """Turn uint8 [n,H,W,C] into float32 [n,C,H,W] in [-1,1]. With `flip`, mirror half of them left to right."""
    x = to_float(images)
    if not flip:
        return x
    mirrored = draws.rand(1, 1, 1) < 0.5
    return torch.where(mirrored, x.flip(3), x)


@lru_cache(maxsize=2)
def epoch_order(seed: int, count: int, epoch: int) -> np.ndarray:
    """Return the order of `count` images in epoch 0, 1, ...: a permutation that depends only on seed and epoch."""
    return np.random.default_rng(seed_from(seed, ORDER, epoch)).permutation(count)


def global_batch(seed: int, count: int, batch_size: int, step: int) -> np.ndarray:
    """Return the image indices of step 1, 2, ...: one long sequence of epochs, cut into batches. int64 [batch_size]."""
    first = (step - 1) * batch_size
    epochs = range(first // count, (first + batch_size - 1) // count + 1)
    start = first % count
    return np.concatenate([epoch_order(seed, count, epoch) for epoch in epochs])[start : start + batch_size]


def slices_of(count: int, config: TrainConfig, slice_size: int, step: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Yield which images this process reads after `step`, slice by slice, and their rows in the global batch."""
    for following in range(step + 1, config.steps + 1):
        batch = global_batch(config.seed, count, config.batch_size, following)
        for number in range(config.accumulate):
            start = (distributed.rank() * config.accumulate + number) * slice_size
            rows = slice(start, start + slice_size)
            yield batch[rows], rows


class Reader(torch.utils.data.Dataset[tuple[Tensor, Tensor, slice]]):
    """Read whole slices, for the workers of a DataLoader."""

    def __init__(self, data: ImageData) -> None:
        self.data = data

    def __getitem__(self, item: tuple[np.ndarray, slice]) -> tuple[Tensor, Tensor, slice]:
        indices, rows = item
        images = torch.from_numpy(np.ascontiguousarray(self.data.images[indices]))
        return images, torch.from_numpy(self.data.labels[indices]).float(), rows


def load_batches(
    data: ImageData, config: TrainConfig, slice_size: int, step: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Yield uint8 images [n,H,W,C] and float labels [n,L] on the device, with their rows, slice by slice.

    A data set that fits a quarter of the GPU's free memory is kept there whole. A larger one is read by worker
    processes into pinned memory, ahead of the network. On a CPU the images are read where they lie.
    """
    items = slices_of(len(data.images), config, slice_size, step)
    if device.type == "cuda" and data.images.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        images = torch.empty(data.images.shape, dtype=torch.uint8, device=device)
        for first in range(0, len(images), BLOCK):  # corrupted images and crops are made when they are read
            images[first : first + BLOCK] = torch.from_numpy(np.array(data.images[first : first + BLOCK])).to(device)
        labels = torch.from_numpy(data.labels).to(device).float()
        for indices, rows in items:
            chosen = torch.from_numpy(indices).to(device, non_blocking=True)
            yield images[chosen], labels[chosen], rows
    elif device.type == "cuda":
        for images, labels, rows in read_by_workers(data, items):
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True), rows
    else:
        reader = Reader(data)
        for item in items:
            images, labels, rows = reader[item]
            yield images.to(device), labels.to(device), rows


def read_by_workers(data: ImageData, items: Iterable[tuple[np.ndarray, slice]], workers: int = 4) -> Iterable[Any]:
    """Read the slices in order, ahead, in other processes; into pinned memory if there is a GPU to send them to."""
    pinned = torch.cuda.is_available()
    return torch.utils.data.DataLoader(
        Reader(data),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        pin_memory=pinned,
    )
