"""Write a folder for another library, or a run that came from one: a new folder, whole or not at all.

Rests on layers and scheduler (diffusers' words) and files.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.files import is_empty, replacing_folder, write_atomically, write_errors, write_json
from minidiff.interop.checkpoints import INDEX, SCHEDULER
from minidiff.interop.layers import NETWORK_CLASS, as_embedding, to_diffusers, write_network
from minidiff.interop.scheduler import write_diffusion
from minidiff.interop.tensor_files import CONFIG, TENSOR_FILES
from minidiff.runs import folder as run_folder


def check_new(folder: Path) -> None:
    """Raise UserError if there is anything in the way of a new folder."""
    if os.path.lexists(folder) and not (folder.is_dir() and is_empty(folder)):
        raise UserError(f"{folder} exists and is not an empty folder. Give another one.")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Call `write(other)` on a folder beside `folder`, then rename it: `folder` is there whole or not at all.

    No existing file is overwritten. Raises UserError.
    """
    check_new(folder)
    with write_errors(folder), replacing_folder(folder) as place:
        write(place)


def write_run(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a run folder with this config and these weights. Raises UserError."""

    def write(place: Path) -> None:
        write_json(place / run_folder.CONFIG, config)
        run_folder.save_model(place, tensors)

    write_folder(folder, write)


def write_diffusers(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], schedule: Schedule
) -> list[str]:
    """Write a run as the folder of a DDPMPipeline; return notes about what that folder cannot hold. Raises UserError.

    config: of the run. tensors: of its network. schedule: as its config names it, before the zero-SNR rescaling.
    """
    from safetensors.torch import save

    network, embedding = config["network"], as_embedding(config["network"], tensors)
    index = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"],
             "unet": ["diffusers", NETWORK_CLASS]}  # fmt: skip
    described = write_network(network, embedding)
    weights = to_diffusers(network, tensors)

    def write(place: Path) -> None:
        (place / "unet").mkdir()
        (place / "scheduler").mkdir()
        write_json(place / INDEX, index)
        write_json(place / "unet" / CONFIG, described)
        write_json(place / "scheduler" / SCHEDULER, write_diffusion(config["diffusion"], schedule))
        content = save(weights, metadata={"format": "pt"})  # diffusers asks for this
        write_atomically(place / "unet" / TENSOR_FILES[0], lambda file: file.write(content))

    write_folder(folder, write)
    told = (config.get("source") or {}).get("notes", [])
    notes = [f"{note.partition(':')[0]}; the DDPMScheduler written here clips it to ±1"
             for note in told if note.startswith("its scheduler") and "predicted image" in note]  # fmt: skip
    if embedding:
        notes.append("a DDPMPipeline gives no class_labels, which this network wants: call its unet yourself")
    elif network["label_dim"]:
        linear = f"torch.nn.Linear({network['label_dim']}, {4 * network['channels'][0]})"
        notes.append(f"no config of diffusers has linear labels: set unet.class_embedding = {linear} and load again")
    return notes


FORMATS: dict[str, Callable[..., list[str]]] = {"diffusers": write_diffusers}
