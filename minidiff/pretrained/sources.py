"""Opening anything that a distance can be measured to: images, arrays, statistics, data sets, trained models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minidiff.ddpm.samples import of_run
from minidiff.errors import UserError
from minidiff.gan.run import GanRun
from minidiff.gan.samples import of_gan
from minidiff.interop.checkpoints import is_foreign
from minidiff.metrics.sources import Source, Stored, open_dataset, open_file, open_folder
from minidiff.pretrained.load import load
from minidiff.runs import folder as checkpoint


def open_source(
    place: str,
    *,
    num: int = 10_000,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[Any], None] | None = None,
    **sampling: Any,
) -> Source | Stored:
    """What `place` names: a folder of images, a .npy or .npz file, a run, diffusers' too, or
    `dataset:NAME[:SPLIT[:CORRUPTION-SEVERITY]]`.

    data_dir, image_size: of a data set, see `load_data`. num, device, sampling (sampler, steps, seed, ...): of a run,
    which is sampled as its images are asked for; of a GAN there is the seed alone to say. on_step is called after every
    call of a DDPM's network.
    Raises UserError.
    """
    if place.startswith("dataset:"):
        return open_dataset(place, data_dir, image_size)
    path = Path(place).expanduser()
    if path.is_dir():
        if (path / checkpoint.CONFIG).is_file() or is_foreign(path):
            run = load(path, device=device)
            if isinstance(run, GanRun):
                return of_gan(place, run, num, **sampling)
            return of_run(place, run, num, on_step, **sampling)
        return open_folder(place)
    if not path.exists():
        raise UserError(f"{place}: no such file or folder. Give images, an array, statistics, a run, or dataset:NAME.")
    if path.suffix.lower() in (".npy", ".npz"):
        return open_file(place)
    raise UserError(f"{place} is no folder, .npy or .npz. A single image has no distribution; give a folder of them.")
