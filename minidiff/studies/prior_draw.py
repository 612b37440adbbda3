"""The samples of a study of priors: chains of a DDPM as it was after so many steps, from noise or from a prior.

Rests on ddpm and priors.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.data.datasets import ImageData
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.networks.weights import load_exactly
from minidiff.priors.run import OUTPUTS, PriorRun, load_prior, show
from minidiff.rng import seed_from
from minidiff.runs.folder import MODEL, read_tensors
from minidiff.runtime.progress import progress_bar
from minidiff.studies.config import model_of, seed_of
from minidiff.studies.prior_config import ALONE, CALLS, SAMPLER, SHOWN_WRONG, PriorStudy, parts_of, sibling
from minidiff.studies.study import CELLS, RUN

AT = "at"  # of a cell: a folder for each step that is measured, with the averaged weights
BLUR = 1 / 16  # the deviation of the blur, of the height: 2 pixels at 32x32


@dataclass(frozen=True)
class Drawn:
    """Samples uint8 [n,H,W,3], and what they cost."""

    images: Pixels
    calls: int  # of the DDPM for a sample
    prior_calls: int
    seconds: float


def drawn_by(
    study: PriorStudy, folder: Path, cell: str, data: ImageData, point: tuple[int, float], device: torch.device
) -> Drawn:
    """Draw the samples of a cell. point: the step whose weights draw, and the share of the calls.

    data: the training images. Sample k of a seed begins with the same noise in every cell.
    """
    use, net = parts_of(cell)
    step, share = point
    seed = seed_of(study, cell)
    batch = 256 if device.type == "cuda" else 64
    if use == ALONE:
        prior = load_prior(folder / CELLS / cell / RUN, device=device)
        began = time.perf_counter()
        made = torch.cat([prior.outputs(data, rows, seed).cpu() for rows in batches(study.num, batch)])
        return Drawn(to_uint8(made), 0, 1, time.perf_counter() - began)
    run = run_at(folder / CELLS / study.source_of(cell), step, device)
    run.images = data
    calls = max(1, round(CALLS * share))
    began, init, start_t, seen = time.perf_counter(), None, None, None
    if use == "start":
        start_t = max(calls, round(run.schedule.T * share))
        init = pictures_for(study, folder, cell, data, batch, device)
    if model_of(cell) == SHOWN_WRONG:  # in place of the outputs that its network sees otherwise
        seen = pictures_for(study, folder, cell, data, batch, device)
    parts = []
    with progress_bar(study.num, f"samples of {model_of(cell)} at step {step}", unit="image") as bar:
        for rows in batches(study.num, batch):
            x = run.draw(
                rows, seed=seed, batch_size=batch, sampler=SAMPLER, steps=calls, init=init, start_t=start_t, prior=seen
            )
            parts.append(to_uint8(x))
            bar.update(len(rows))
    prior_calls = int(use == "residual" or (use == "start" and net not in ("mean", "blurred")))
    return Drawn(np.concatenate(parts), calls, prior_calls, time.perf_counter() - began)


def batches(count: int, size: int) -> list[range]:
    """Cut the numbers of the samples into batches."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def parameters_of(study: PriorStudy, folder: Path, cell: str) -> int:
    """Count the parameters of the network that a cell draws with; of a prior alone, those of the prior."""
    run = folder / CELLS / study.source_of(cell) / RUN
    model = load_prior(run).model if parts_of(cell)[0] == ALONE else load_ddpm(run).model
    return sum(parameter.numel() for parameter in model.parameters())


def run_at(place: Path, step: int, device: torch.device) -> Run:
    """Open the DDPM of a cell with the averaged weights that it had after a step."""
    run, path = load_ddpm(place / RUN, device=device), place / AT / str(step) / MODEL
    if path.exists() or not is_last(run, step):  # whose weights the run itself has
        load_exactly(run.model, read_tensors(path), path)
    return run


def is_last(run: Run, step: int) -> bool:
    """Say whether a run was trained up to this step."""
    return run.config.training is not None and run.config.training.steps == step


# --- what chains start from, or see -----------------------------------------------------------------------------------


def pictures_for(
    study: PriorStudy, folder: Path, cell: str, data: ImageData, batch: int, device: torch.device
) -> Tensor:
    """Return what the chains of a cell start from, or see: float [M,C,H,W] in [-1,1], one for each sample or for all.

    Sample k of a seed has the same training image behind it in every cell but that of the mean.
    """
    _, net = parts_of(cell)
    seed = seed_of(study, cell)
    if net == "mean":
        return mean_image(data)
    if net == "blurred":
        return blurred(torch.stack([shown(data, 0.0, seed, index) for index in range(study.num)]))
    wrong = net == "wrong"
    prior = load_prior(
        folder / CELLS / sibling(cell, f"{ALONE}-{study.nets[0] if wrong else net}") / RUN, device=device
    )
    make = wrong_outputs if wrong else PriorRun.outputs
    return torch.cat([make(prior, data, rows, seed).cpu() for rows in batches(study.num, batch)])


def shown(data: ImageData, noise: float, seed: int, index: int) -> Tensor:
    """Return the training image behind a sample, with noise: float [C,H,W], the same that `PriorRun.outputs` takes."""
    return show(data, noise, torch.Generator().manual_seed(seed_from(seed, index, OUTPUTS)))


def wrong_outputs(prior: PriorRun, data: ImageData, rows: range, seed: int) -> Tensor:
    """Draw what a prior makes of pictures that are none of the data's: training images with their quarters exchanged.

    They have the colours and the texture of the data, and the noise that the prior knows, but what they show is cut
    through. If chains from these do as well, it was not the prior's picture that helped.
    """
    noisy = torch.stack([shown(data, prior.config.noise, seed, index) for index in rows])
    height, width = noisy.shape[2:]
    return prior.clean(noisy.roll((height // 2, width // 2), dims=(2, 3)))


def mean_image(data: ImageData, at_once: int = 1024) -> Tensor:
    """Return the mean of all training images, float [1,C,H,W] in [-1,1]."""
    total, count = torch.zeros(()).double(), len(data)
    for first in range(0, count, at_once):
        block = np.array(data.images[first : first + at_once])
        total = total + to_float(block).double().sum(dim=0, keepdim=True)
    return (total / count).float()


def blurred(images: Tensor) -> Tensor:
    """Blur float [N,C,H,W] by a Gaussian whose deviation is BLUR of the height. The edges are mirrored."""
    channels, height = images.shape[1:3]
    deviation = BLUR * height
    reach = min(height - 1, round(3 * deviation))
    x = torch.arange(-reach, reach + 1, dtype=images.dtype)
    weights = torch.exp(-(x**2) / (2 * deviation**2))
    kernel = (weights / weights.sum()).expand(channels, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    across = F.conv2d(padded, kernel[:, :, None, :], groups=channels)
    return F.conv2d(across, kernel[:, :, :, None], groups=channels)
