"""How probable images are under a trained DDPM, in one call: what `minidiff likelihood` does, from a script.

    found = minidiff.likelihood("runs/ddpm-fashion-mnist-1", "dataset:fashion-mnist:test")
    found.bits, found.error

Rests on diffusion.likelihood (the equation), on load and on data.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff._version import __version__
from minidiff.data.datasets import ImageData, brought, load_data, read_place
from minidiff.ddpm.run import Run
from minidiff.diffusion.denoiser import denoiser
from minidiff.diffusion.levels import Level
from minidiff.diffusion.likelihood import bits_per_dimension, carry, dequantised, hutchinson, levels_for
from minidiff.diffusion.predictions import prediction_of
from minidiff.errors import UserError, counted
from minidiff.pretrained.likelihood_request import STEPS, LikelihoodRequest
from minidiff.pretrained.load import load
from minidiff.records import record, takes
from minidiff.rng import sample_generators, seed_from
from minidiff.runtime import distributed
from minidiff.runtime.precision import full_precision

if TYPE_CHECKING:
    from minidiff.data.config import Images

OnProgress = Callable[[int, int], object]  # called with how many levels of how many are done

CHECKED = 8  # images that are measured once more with half the steps


@dataclass(frozen=True)
class Likelihood:
    """Bits a dimension of some images, and how sure the number is."""

    each: NDArray[np.float64]  # [n], of each image
    indices: list[int]  # which images of the set they are
    change: float  # how much the mean of the first images changes with half the steps
    lines: list[str]  # what was measured, in words
    warnings: list[str] = field(default_factory=list)

    @property
    def bits(self) -> float:
        """The mean over the images."""
        return float(self.each.mean())

    @property
    def error(self) -> float:
        """The standard error of the mean: the choice of images, what was added to their bytes, and the probes."""
        return float(self.each.std(ddof=1) / math.sqrt(len(self.each)))

    def in_words(self) -> str:
        """Say the number and its errors."""
        return (
            f"{self.bits:.3f} bits a dimension, give or take {self.error:.3f} ({counted(len(self.each), 'image')}); "
            f"half the steps change it by {self.change:+.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers and what is needed to interpret them, as JSON's types."""
        return {
            "minidiff": __version__, "bits_per_dimension": self.bits, "standard_error": self.error,
            "change_with_half_the_steps": self.change, "images": self.indices, "each": self.each.tolist(),
            "about": self.lines, "warnings": self.warnings,
        }  # fmt: skip


class Measurement:
    """A run and images, opened and checked. `measure` does the long work."""

    def __init__(
        self, run: "str | Path | Run", images: "Images", request: LikelihoodRequest, device: torch.device | str = "cpu"
    ) -> None:
        """Open everything. Raises UserError if something would fail."""
        opened = run if isinstance(run, Run) else load(run, request.weights, device, "fp32")
        if not isinstance(opened, Run):
            raise UserError(f"{run} is a {opened.config.kind} run, which says nothing of how probable an image is.")
        self.run, self.request = opened, request
        if opened.trained_below is not None:
            raise UserError(
                f"{opened.folder} only finishes pictures, and knows no way to pure noise. Name another run."
            )
        self.levels = levels_for(opened.schedule, request.steps or min(STEPS, opened.schedule.T))
        self.data = open_images(images, opened, request)
        count = min(request.num, len(self.data))
        if count < 2:
            raise UserError(f"{counted(count, 'image')} has no standard error. Give 2 or more.")
        generator = torch.Generator().manual_seed(seed_from(request.seed))
        self.indices = sorted(torch.randperm(len(self.data), generator=generator)[:count].tolist())
        self.labels = self.labels_of()
        low, high = self.levels[0], self.levels[-1]
        self.lines = [
            f"images    {count:,} of {len(self.data):,} of {self.data.name}",
            f"way       {len(self.levels)} levels, from sigma {low.sigma:.3g}, where the run ends "
            f"({127.5 * low.sigma:.2g} grey values), to {high.sigma:.3g}; {counted(request.probes, 'probe')}",
        ]
        if opened.label_names:
            told = "of each image, as the run was told them" if self.labels is not None else "none"
            self.lines.append(f"labels    {told}")
        self.warnings = list(self.data.notes)
        if self.data.fingerprint() == opened.config.data.fingerprint:
            self.warnings.append(
                "the run was trained on these images, so the number says less. Take others, such as "
                f"dataset:{self.data.name}:test."
            )

    def labels_of(self) -> Tensor | None:
        """Return the labels of all images [N,L] as the run takes them; None where it is measured without."""
        run, names = self.run, list(self.data.label_names)
        if not run.label_names:
            return None
        if names == run.label_names:
            return torch.as_tensor(np.asarray(self.data.labels)).float()
        if run.label_dropout:
            return None
        raise UserError(f"{run.folder} needs labels, and {self.data.name} has not the same ones.")

    @property
    def total(self) -> int:
        """The number of levels that `measure` visits, over all batches."""
        batches = math.ceil(len(self.indices) / self.request.batch_size)
        return batches * len(self.levels) + len(self.levels) + len(halved(self.levels))

    def measure(self, on_progress: OnProgress | None = None) -> Likelihood:
        """Carry the images up to the noise."""
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if on_progress is not None:
                on_progress(done, self.total)

        size, found = self.request.batch_size, []
        for begin in range(0, len(self.indices), size):
            found.append(self.bits_of(self.indices[begin : begin + size], self.levels, advance))
        first = self.indices[:CHECKED]
        whole, half = (
            self.bits_of(first, levels, advance, fresh=False) for levels in (self.levels, halved(self.levels))
        )
        each = torch.cat(found).numpy()
        return Likelihood(each, self.indices, float((half - whole).mean()), self.lines, self.warnings)

    def bits_of(
        self, indices: Sequence[int], levels: Sequence[Level], advance: Callable[[], None], fresh: bool = True
    ) -> Tensor:
        """Measure a batch: float64 [n]. An image is the same in any batch, up to rounding."""
        run = self.run
        device = next(run.model.parameters()).device
        generators = sample_generators(self.request.seed, indices)
        pixels = torch.from_numpy(np.array(self.data.images[indices])).permute(0, 3, 1, 2)
        x = dequantised(pixels, generators).to(device)
        model = run.denoiser(None if self.labels is None else self.labels[indices], None if self.labels is None else 1)
        guess = denoiser(model, prediction_of(model, run.schedule), clip=False)
        trace = hutchinson(generators, self.request.probes, fresh)
        with full_precision():
            for at in carry(guess, x, levels, trace):
                log_p = at.log_p
                advance()
        return bits_per_dimension(log_p, x[0].numel()).cpu()


def halved(levels: Sequence[Level]) -> list[Level]:
    """Leave out every second level between the first and the last."""
    return [*levels[:-1:2], levels[-1]]


def open_images(images: "Images", run: Run, request: LikelihoodRequest) -> ImageData:
    """Load images at the size of the run. Raises UserError if they have other channels."""
    options: dict[str, Any] = {"image_size": run.shape[1]}
    if not brought(images):
        options |= {"data_dir": request.data_dir, "on_bad": request.on_bad, "max_pixels": request.max_pixels}
        if str(images).startswith("dataset:"):
            images, split, corruption = read_place(str(images))
            options |= corruption | {"split": split or "train"}
    data = load_data(images, **options)
    if data.images.shape[3] != run.shape[0]:
        channels = {1: "grey", 3: "in colour"}
        have, draws = (channels.get(count, f"of {count} channels") for count in (data.images.shape[3], run.shape[0]))
        raise UserError(f"the images of {data.name} are {have}, and those of {run.folder} are {draws}.")
    return data


@record
class LikelihoodCall(LikelihoodRequest):
    """A request, and two things that do not change the result: where to compute, and whom to tell."""

    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps; auto: a GPU if there is one
    on_progress: OnProgress | None = None  # called after every level with (done, total)


@takes(LikelihoodCall)
def likelihood(run: "str | Path | Run", images: "Images", call: LikelihoodCall) -> Likelihood:
    """Measure how many bits a dimension a trained DDPM needs for images: see docs/likelihood.md.

    run: a run folder, a name, or what `load` returned. images: `dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`, or what
    `load_data` takes. Raises UserError.
    """
    measurement = Measurement(run, images, call, distributed.local_device(call.device))
    return measurement.measure(call.on_progress)
