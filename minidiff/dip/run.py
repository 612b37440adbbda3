"""Find the files of a fit that others use: its answer, and its output at the saved steps.

Rests on dip.config and runs.folder; no network is built.
"""

import re
import shlex
from pathlib import Path

from minidiff.dip.config import (
    ANSWER,
    ANSWERS,
    IMAGES,
    RESULT,
    STEPS,
    DipConfig,
    DipFolderConfig,
    FitResult,
    read_any_fit,
)
from minidiff.dip.job import step_file
from minidiff.errors import UserError
from minidiff.files import read_json
from minidiff.images.files import free_name, image_shape, read_image, write_image
from minidiff.images.pictures import FORMAT, read_picture, write_picture
from minidiff.records import from_json
from minidiff.runs import folder as run_folder


def is_dip_run(folder: str | Path) -> bool:
    """Tell whether this is the run folder of a fit, of one picture or of several."""
    folder = Path(folder)
    return (folder / run_folder.CONFIG).is_file() and run_folder.read_config(folder)["kind"] == "dip"


def read_fit(folder: Path) -> DipConfig | DipFolderConfig:
    """Read the config.json of a fit. Raises UserError, also when its result.json is damaged."""
    config = read_any_fit(run_folder.read_config(folder, kind="dip"), folder / run_folder.CONFIG)
    if (folder / RESULT).exists():
        from_json(FitResult, read_json(folder / RESULT), folder / RESULT)
    return config


def chosen_images(folder: str | Path) -> list[Path]:
    """List the answers of a fit: its dip.png, or one for each picture of a folder. Raises UserError without any."""
    folder = Path(folder)
    several = isinstance(read_fit(folder), DipFolderConfig)
    found = sorted((folder / ANSWERS).glob("*.png")) if several else [folder / ANSWER]
    if not found or not found[0].exists():
        again = f"minidiff dip fit --resume {shlex.quote(str(folder))}"
        raise UserError(f"{folder} is not finished, so it has no answer yet. Resume it with `{again}`.")
    return found


def saved_step(folder: str | Path, step: int) -> Path:
    """Find the file of a fit's output at a step. Raises UserError, naming the nearest steps, if it was not saved."""
    folder = Path(folder)
    if isinstance(read_fit(folder), DipFolderConfig):
        raise UserError(f"{folder} holds the fits of several pictures. Name one of the runs in {folder / IMAGES}.")
    path = step_file(folder, step)
    if path.exists():
        return path
    steps = sorted(int(file.stem) for file in (folder / STEPS).glob("*.png") if file.stem.isdigit())
    near = sorted(sorted(steps, key=lambda there: abs(there - step))[:2])
    known = f"The nearest are {' and '.join(map(str, near))}." if near else "It has saved none yet."
    raise UserError(f"{folder} has not saved step {step}. {known}")


def newer_answer(answer: Path) -> Path | None:
    """Find a later answer beside one that `deliver` wrote: dip-2.png beside dip.png. None if there is none.

    Only a fit of the same picture counts. The runs under runs/ tell which answer is of which picture. An answer that no
    run has counts if it has the same size.
    """
    numbered = re.compile(rf"{Path(ANSWER).stem}(-\d+)?{Path(ANSWER).suffix}")
    if not numbered.fullmatch(answer.name) or not answer.is_file():
        return None
    age = answer.stat().st_mtime_ns
    beside = [file for file in answer.parent.iterdir() if numbered.fullmatch(file.name) and file.is_file()]
    later = [file for file in beside if file.stat().st_mtime_ns > age]
    if not later:
        return None
    pictures = pictures_of_answers()
    mine, shape = pictures.get(answer.read_bytes()), image_shape(answer)
    for file in sorted(later, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        its = pictures.get(file.read_bytes())
        if its == mine if mine and its else image_shape(file) == shape:
            return file
    return None


def pictures_of_answers(root: Path = Path("runs")) -> dict[bytes, str]:
    """Map the answer of each fit under `root`, the bytes of its file, to the picture that was fitted."""
    found = {}
    for folder in root.glob("*"):
        try:
            if is_dip_run(folder) and (folder / ANSWER).is_file():
                found[(folder / ANSWER).read_bytes()] = str(run_folder.read_config(folder).get("image"))
        except UserError:  # a damaged run of somebody else's
            continue
    return found


def deliver(answer: Path, target: Path, replace: bool) -> Path:
    """Copy an answer to `target`, with all that it has. If that is there and `replace` is False, copy it beside it.

    Returns the copy.
    """
    target = target if replace else free_name(target)
    if target.suffix.lower() in FORMAT:
        write_picture(target, read_picture(answer))
    else:  # such as .bmp, which has room for the pixels alone
        write_image(target, read_image(answer))
    return target
