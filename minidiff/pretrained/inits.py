"""The images that reverse chains start from (`init`), read from a file, a folder or the run of a DIP.

Rests on dip (its run folders) and images.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from minidiff.ddpm.run import Run
from minidiff.errors import UserError
from minidiff.images.convert import to_float
from minidiff.images.files import image_files, read_images
from minidiff.runs import folder as checkpoint


def read_inits(
    run: Run, init: str | Path, steps: Sequence[int] | None = None, num: int | None = None
) -> tuple[Tensor, list[str]]:
    """Read the first `num` inits as the run takes them: float [M,C,H,W] in [-1,1]; and their names, for messages.

    steps: saved steps of the DIP run at `init`. Raises UserError.
    """
    files = init_files(init, steps)[:num]
    images = to_float(read_images(files, run.shape[1], run.shape[0]))
    return images, [f"step {step}" for step in steps] if steps else [file.name for file in files]


def init_files(init: str | Path, steps: Sequence[int] | None) -> list[Path]:
    """List the files that `init` names: an image, a folder's images, or the answers or saved steps of a DIP run."""
    folder = Path(init)
    if (folder / checkpoint.CONFIG).is_file():
        from minidiff.dip import run as dip_run

        if dip_run.is_dip_run(folder):
            return [dip_run.saved_step(folder, step) for step in steps] if steps else dip_run.chosen_images(folder)
        kind = checkpoint.read_config(folder)["kind"]
        raise UserError(f"{init} is a {kind} run, and no image to start from. Give an image, a folder, or a dip run.")
    if steps:
        raise UserError(f"`init_steps` needs a dip run as `init`, and {init} is none. `minidiff dip fit` makes one.")
    return image_files(folder) if folder.is_dir() else [folder]
