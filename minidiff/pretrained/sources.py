"""Open anything that can be measured: images, arrays, statistics, data sets, and models that draw.

Rests on metrics (sources, array_files) and on the systems that draw (ddpm, gan).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from minidiff.ddpm.run import Run
from minidiff.ddpm.samples import of_run
from minidiff.diffusion.chain import Step
from minidiff.errors import UserError
from minidiff.gan.run import GanRun
from minidiff.gan.samples import of_gan
from minidiff.images.budget import MAX_PIXELS
from minidiff.interop.checkpoints import is_foreign
from minidiff.interop.tensor_files import refuse_file
from minidiff.metrics.array_files import open_file, split_place
from minidiff.metrics.sources import ImageSource, open_dataset, open_folder
from minidiff.metrics.statistics import StoredStatistics
from minidiff.pretrained.load import load
from minidiff.priors.run import PriorRun
from minidiff.priors.samples import of_prior
from minidiff.runs import folder as run_folder
from minidiff.runs.shipped import is_name


def open_place(
    place: str,
    *,
    num: int | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    on_bad: Literal["skip", "stop"] = "skip",
    max_pixels: int = MAX_PIXELS,
    device: torch.device | str = "cpu",
    on_step: Callable[[Step], None] | None = None,
) -> ImageSource | StoredStatistics:
    """Open a folder of images, a .npy or .npz file, a run folder, or `dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`.

    The name of a model that comes with the package stands for it where nothing of that name lies.
    `FILE.npz:NAME` is one array of a .npz file in which several could be meant. A run can be ours or a folder of
    diffusers. It draws `num` images (10,000) on `device`, when they are asked for: a DDPM with `sampler`, `steps` and
    `seed`, a GAN with `seed` alone. data_dir, image_size: of a data set, see `load_data`. on_bad: skip image files that
    cannot be read, or stop at the first. on_step: called after every call of a DDPM's network. Raise UserError.
    """
    if place.startswith("dataset:"):
        return open_dataset(place, data_dir, image_size, on_bad, max_pixels)
    path, named = Path(place).expanduser(), is_name(place)
    if path.is_dir() or named:
        if not named and not (path / run_folder.CONFIG).is_file() and not is_foreign(path):
            return open_folder(place, on_bad, max_pixels)
        run = load(place if named else path, device=device)
        if isinstance(run, Run) and run.trained_below is not None:
            raise UserError(f"{place} only finishes pictures that are there, and draws none from noise. Name another.")
        if isinstance(run, GanRun | PriorRun):
            for option, value in (("sampler", sampler), ("steps", steps)):
                if value is not None:
                    run.refuse(f"`{option}`")
        if isinstance(run, PriorRun):
            return of_prior(place, run, num or 10_000, seed=seed or 0)
        if isinstance(run, GanRun):
            return of_gan(place, run, num or 10_000, seed=seed or 0)
        return of_run(place, run, num or 10_000, on_step, sampler=sampler or "ddim", steps=steps, seed=seed or 0)
    place, array = split_place(place)
    path = Path(place).expanduser()
    if not path.exists():
        raise UserError(f"{place}: no such file or folder. Give images, an array, statistics, a run, or dataset:NAME.")
    if path.suffix.lower() in (".npy", ".npz"):
        return open_file(place, array)
    if is_foreign(path):
        refuse_file(path)
    raise UserError(
        f"{place} is not a folder, a .npy or a .npz. A single image has no distribution: give a folder of images."
    )
