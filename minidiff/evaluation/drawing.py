"""The conditions that a run draws, and its pictures as files: drawn once, and read again when the evaluation goes on.

Rests on ddpm (which draws) and data.conditions (what to draw).
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minidiff.arrays import MEND, read_npz
from minidiff.data.conditions import multi_hot, read_conditions, say_list
from minidiff.ddpm.chains import resolve
from minidiff.ddpm.request import Sampling
from minidiff.ddpm.run import Run
from minidiff.diffusion.chain import Step
from minidiff.diffusion.levels import PLANS
from minidiff.errors import UserError, counted
from minidiff.evaluation.config import PER_CLASS, SAMPLES, SamplingSettings
from minidiff.evaluation.evaluator import Evaluator
from minidiff.files import write_atomically
from minidiff.images.convert import Pixels, to_uint8
from minidiff.runtime import distributed
from minidiff.runtime.precision import mixed_precision

# --- what to draw -----------------------------------------------------------------------------------------------------


def names_of(run: Run, evaluator: Evaluator) -> list[str]:
    """Find the names of a run's labels, and check that the classifier has the same names. Raises UserError.

    An imported run does not know its names. It is assumed to have the classifier's names, in their order.
    """
    if not run.label_names:
        raise UserError(
            f"{run.folder} was trained without labels, so you cannot ask it for any. Train a conditional run."
        )
    if not run.labels.named and len(run.label_names) == len(evaluator.names):
        return evaluator.names
    evaluator.columns(run.label_names)
    return run.label_names


def open_lists(run: Run, names: Sequence[str], places: Sequence[str], per_class: int = PER_CLASS) -> dict[str, Tensor]:
    """Read the lists of conditions to draw: name of the list -> multi-hot float32 [M,L].

    places: labels files, see `find_list`; a list has the name of its file, without the suffix. Without any, a run
    of single classes draws each class `per_class` times, and a run of the embedded data set its two lists.
    Raises UserError.
    """
    if not places and run.labels.one_hot:
        classes = [[number] for number in range(len(names)) for _ in range(per_class)]
        return {"classes": multi_hot(classes, len(names))}
    if not places and run.config.data.name != "shapes":
        raise UserError(f"what should {run.folder} draw? Name it in `labels_files`, such as test.json.")
    lists: dict[str, Tensor] = {}
    for place in places or ("test", "new_test"):
        name = Path(place).stem
        if name in lists:
            raise UserError(f"two of the labels files are called {name}. Rename one of them.")
        known = run.label_names == names  # an imported run does not know its names
        conditions = run.conditions(file=place) if known else read_conditions(place, names, run.labels.data_dir)
        lists[name] = multi_hot(conditions, len(names))
    return lists


def say_lists(run: Run, names: Sequence[str], places: Sequence[str], lists: Mapping[str, Tensor]) -> list[str]:
    """Say where each list comes from that `open_lists` read, and how long it is. Arguments: as given there."""
    if not places:
        places = [name for name in lists if name != "classes"]
    return [
        f"list      {say_list(place, names, run.labels.data_dir)}: {counted(len(lists[Path(place).stem]), 'condition')}"
        for place in places
    ]


# --- how --------------------------------------------------------------------------------------------------------------


def settings_for(
    run: Run, sampler: str = "ddim", steps: int | None = None, guidance_scale: float | None = None
) -> SamplingSettings:
    """Decide how a run draws, as config.json keeps it. None: the value that suits the run. Raises UserError."""
    labels = torch.eye(1, len(run.label_names))  # any condition would do
    request = resolve(run, Sampling(sampler=sampler, steps=steps, guidance_scale=guidance_scale, labels=labels))
    spacing = request.spacing or PLANS[sampler].spacing  # a default may change, and then the samples are others
    wide = mixed_precision(run.precision, next(run.model.parameters()).device) is nullcontext
    return SamplingSettings(
        sampler=sampler,
        guidance_scale=run.labels.guidance(guidance_scale),
        calls=len(run.timesteps(sampler, steps=steps, spacing=spacing)),
        precision="fp32" if wide else "bf16",
        steps=steps,
        spacing=spacing,
        variance=request.variance,
    )


def fingerprint(run: Run) -> str:
    """Compute the SHA-256 of a run's tensors, by which its weights are recognised."""
    digest = hashlib.sha256()
    for name, tensor in sorted(run.model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# --- the pictures as files --------------------------------------------------------------------------------------------


def samples_path(folder: Path, name: str, seed: int) -> Path:
    """Name the file of a list's samples."""
    return folder / SAMPLES / f"{name}-{seed}.npz"


def drawn_seeds(folder: Path, name: str) -> list[int]:
    """List the seeds from which a list has been drawn, ascending."""
    pattern = re.compile(re.escape(name) + r"-(0|[1-9]\d*)\.npz")
    found = [pattern.fullmatch(path.name) for path in (folder / SAMPLES).glob("*.npz")]
    return sorted(int(match[1]) for match in found if match)


def missing(folder: Path, lists: Mapping[str, Tensor], size: int, seeds: Iterable[int]) -> list[tuple[str, int]]:
    """List what is not drawn yet, as (name of the list, seed).

    Under torchrun the main process looks, and tells the others. Raises UserError if samples are damaged, or were
    drawn for other labels or in another size.
    """

    def absent() -> list[tuple[str, int]]:
        there = {name: drawn_seeds(folder, name) for name in lists}
        for name in lists:
            for seed in there[name]:
                read_samples(samples_path(folder, name, seed), lists[name], size)
        return [(name, seed) for name in lists for seed in seeds if seed not in there[name]]

    return distributed.from_main(distributed.main_first(absent)) or []


def draw_samples(
    run: Run,
    path: Path,
    labels: Tensor,
    seed: int,
    settings: SamplingSettings,
    batch_size: int = 64,
    on_step: Callable[[Step], object] | None = None,
) -> None:
    """Draw samples 0 .. M-1 of a seed, one for each row of labels [M,L], and write them into a file.

    Under torchrun the processes share them, and the main process writes. on_step: called after each network call.
    """
    drawn = run.sample(
        len(labels), labels=labels, seed=seed, batch_size=batch_size, on_step=on_step, sampler=settings.sampler,
        steps=settings.steps, spacing=settings.spacing, variance=settings.variance,
        guidance_scale=settings.guidance_scale,
    )  # fmt: skip
    images = np.concatenate([to_uint8(batch) for batch in drawn])
    asked = labels.to(torch.uint8).numpy()

    def write() -> None:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, images=images, labels=asked))

    distributed.main_first(write)


def read_samples(path: Path, labels: Tensor, size: int) -> Pixels:
    """Read the images of a file that `draw_samples` wrote: uint8 [M,size,size,3].

    Raises UserError if it is damaged, or was drawn for other labels than `labels` [M,L].
    """
    images: Pixels
    try:
        images, asked = read_npz(path, "images", "labels")
        of_bytes = images.dtype == asked.dtype == np.uint8
        if not of_bytes or asked.ndim != 2 or images.shape != (len(asked), size, size, 3):
            found = f"{images.dtype} {list(images.shape)}"
            raise UserError(f"{path}: the images are {found}, not {size}x{size} in colour.")
    except UserError as error:
        reason = str(error).removeprefix(f"{path}").removesuffix(MEND).strip(": ")
        raise UserError(f"{path} is damaged: {reason} Remove it, and the pictures are drawn again.") from None
    if asked.shape != tuple(labels.shape) or (asked != labels.numpy()).any():
        raise UserError(f"{path} was drawn for other labels than the list has now. Give another `out`.")
    return images
