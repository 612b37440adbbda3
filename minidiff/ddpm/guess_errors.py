"""How far a run's guess at the clean image is off, level by level: measured once, and stored beside the model.

Rests on run and diffusion.posterior. A chain that explains a measurement weighs this guess against the measurement. The
training of a model for pictures of any size ends with it (ddpm.job).
Song et al. 2023 (PiGDM: r_t); how it is used: docs/restoration.md.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minidiff.data.datasets import DATASETS, ImageData, load_data
from minidiff.ddpm.drawing import device_of
from minidiff.ddpm.run import Run
from minidiff.diffusion.denoiser import denoiser
from minidiff.diffusion.noise_level import timestep_for
from minidiff.diffusion.posterior import Doubt, guess_error, measured_doubt, white_doubt
from minidiff.diffusion.predictions import prediction_of
from minidiff.errors import UserError
from minidiff.files import read_json, write_json
from minidiff.images.convert import to_float
from minidiff.records import demand, from_json, record, to_json
from minidiff.rng import seed_from

GUESS_ERRORS = "guess_errors.json"  # beside the weights of a run
LEVELS = 12
IMAGES, PIXELS = 16, 1 << 16  # at most, that the end of a training measures on: seconds
FEW = 10_000  # images: a larger test split is not loaded for this
UNMEASURED = 0.5  # the deviation of pixels in [-1,1] that is assumed for a run without the file: an upper bound


@record
class GuessErrors:
    """The root mean squared errors of a run's guess, of images in [-1,1], at rising noise levels."""

    sigmas: tuple[float, ...]  # noise for a signal of 1
    errors: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise(self.sigmas))
        demand(len(self.sigmas) > 0 and self.sigmas[0] > 0 and rising, "sigmas", self.sigmas, "rising numbers above 0")
        demand(len(self.errors) == len(self.sigmas), "errors", self.errors, "as many numbers as `sigmas` has")
        demand(all(error > 0 for error in self.errors), "errors", self.errors, "numbers above 0")


def measure_guess_errors(run: Run, images: Sequence[Tensor], seed: int = 0) -> GuessErrors:
    """Measure the errors at a dozen levels that the run knows, on images [1,C,H,W] that it was not trained on."""
    top = (run.schedule.T if run.trained_below is None else run.trained_below) - 1
    low, high = (level.sigma for level in run.schedule.levels([0, top]))
    wanted = [low * (high / low) ** (k / (LEVELS - 1)) for k in range(LEVELS)]
    timesteps = sorted({min(timestep_for(run.schedule, sigma), top) for sigma in wanted})
    model = run.denoiser()
    guess = denoiser(model, prediction_of(model, run.schedule, None), True)
    levels, errors = run.schedule.levels(timesteps), []
    for level in levels:
        squares = 0.0
        for number, image in enumerate(images):
            noise = torch.Generator().manual_seed(seed_from(seed, number))
            squares += guess_error(guess, image.to(device_of(run)), level, noise) ** 2
        errors.append((squares / len(images)) ** 0.5)
    return GuessErrors(tuple(level.sigma for level in levels), tuple(errors))


def measure_run(run: Run, training: ImageData) -> GuessErrors:
    """Measure the errors of a run on a few images of its data set, and store them beside its weights.

    They come from the test split, if it is there and small; otherwise from the training images. On the model `photos`
    training images gave errors as large as others to within a few percent: the noise of each is new.
    """
    images = held_out(run, training).images
    count = min(len(images), IMAGES, max(2, PIXELS // (images.shape[1] * images.shape[2])))
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    found = measure_guess_errors(run, [to_float(np.array(images[[number]])) for number in chosen])
    write_guess_errors(run.folder, found)
    return found


def held_out(run: Run, training: ImageData) -> ImageData:
    """Load images that a run was not trained on; or return those that it was, if its data set has no others at hand."""
    data = run.config.data
    known = DATASETS.get(data.name)
    if known is not None and (known.splits.get("test") or FEW + 1) <= FEW:
        with suppress(UserError):  # a folder of one's own, or a file that is not there
            return load_data(**vars(replace(data.spec(run.folder), split="test")))
    return training


def write_guess_errors(folder: Path, found: GuessErrors) -> None:
    """Store the errors beside a model."""
    write_json(folder / GUESS_ERRORS, to_json(found))


def read_guess_errors(run: Run) -> GuessErrors | None:
    """Read what was measured of a run; None if nothing was. Raises UserError for a file that is damaged."""
    place = run.folder / GUESS_ERRORS
    return from_json(GuessErrors, read_json(place), place) if place.is_file() else None


def doubt_of(run: Run) -> Doubt:
    """Give r of a level for a run: as it was measured, or an upper bound if it was not."""
    found = read_guess_errors(run)
    return white_doubt(UNMEASURED) if found is None else measured_doubt(found.sigmas, found.errors)
