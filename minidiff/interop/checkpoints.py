"""Checkpoints of diffusers as folders: found on this machine or on the Hugging Face Hub, and read as a run.

The layout: a folder with the network (`config.json`, `diffusion_pytorch_model.safetensors` or `.bin`) at its top or
under `unet/`, and `scheduler_config.json` beside it or under `scheduler/`. Rests on layers (what the network's config
and tensors mean), scheduler (what the noise schedule means), tensor_files and hub.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from minidiff._version import __version__
from minidiff.errors import UserError
from minidiff.files import read_json
from minidiff.interop.hub import download
from minidiff.interop.layers import few, from_diffusers, read_labels, read_network
from minidiff.interop.scheduler import read_diffusion, sampling_notes
from minidiff.interop.tensor_files import CONFIG, TENSOR_FILES, TENSOR_SUFFIXES, read_tensor_file, refuse_file

SCHEDULER, INDEX = "scheduler_config.json", "model_index.json"
AGAIN = "Download it again."


class Foreign(NamedTuple):
    """A checkpoint of another library, as a run."""

    folder: Path  # where its files are on this machine
    config: dict[str, Any]  # as a run's config.json
    tensors: dict[str, Tensor]  # of `UNet(**config["network"])`, float32


def is_foreign(source: str | Path) -> bool:
    """Tell whether `source` is for `open_checkpoint`: a folder of diffusers, a file of weights, or a name on the Hub.

    Folders on this machine come first. `owner/name` is looked up on the Hub only if neither that folder nor `owner`
    exists, so a mistyped folder name is not sent to the Hub.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / INDEX).is_file() or (path / "unet" / CONFIG).is_file():
            return True
        try:
            return "_class_name" in read_json(path / CONFIG, missing={})
        except UserError:  # damaged: a run's, as far as one can tell
            return False
    if path.exists():
        return path.suffix in TENSOR_SUFFIXES
    owner, _, name = str(source).partition("/")
    a_name = re.fullmatch(r"\w[\w.-]*", owner) and re.fullmatch(r"[\w.-]+", name)
    a_path = owner == "runs" or Path(owner).exists() or path.suffix in TENSOR_SUFFIXES  # which is missing
    return bool(a_name) and not a_path


def open_checkpoint(source: str | Path) -> Foreign:
    """Open a checkpoint of diffusers: a folder, or `owner/name` on the Hugging Face Hub. Raises UserError."""
    path = Path(source).expanduser()
    if not path.exists():
        if not is_foreign(source):
            raise UserError(f"{source} does not exist. Give a folder of diffusers, or owner/name on the Hub.")
        path = download(str(source))
    if path.is_file():
        refuse_file(path)
    network_folder = path / "unet" if (path / "unet" / CONFIG).is_file() else path
    check_pipeline(path)
    if not (network_folder / CONFIG).is_file():
        for file in sorted(path.glob("*.pt")):  # a folder of results, perhaps of denoising-diffusion-pytorch
            refuse_file(file)
        raise UserError(f"{path} has no {CONFIG}, neither there nor under unet/. Give a folder that diffusers saved.")
    config_file = network_folder / CONFIG
    network = read_network(read_json(config_file, AGAIN), config_file)
    scheduler_file = find_scheduler(path)
    scheduler = read_json(scheduler_file, AGAIN)
    diffusion = read_diffusion(scheduler, scheduler_file)
    channels = network["in_channels"]
    if channels != network["out_channels"] or channels not in (1, 3):
        raise UserError(
            f"{config_file} takes {channels} channels and gives {network['out_channels']}, so it draws no "
            "pictures by itself. minidiff samples networks that take and give 1 or 3."
        )
    weights_file = find_weights(network_folder)
    tensors = read_tensor_file(weights_file)
    other = [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if other:
        raise UserError(f"{weights_file}: {few(other)} is not a tensor. Give the file that diffusers saved.")
    network = read_labels(network, tensors)
    notes = sampling_notes(scheduler)
    if network["label_dim"]:
        notes.append(f"it knows {network['label_dim']} labels, and is sampled without: `minidiff sample` gives none")
    config = {
        "minidiff": __version__,
        "kind": "ddpm",
        "data": {"name": str(source), "image_size": network["image_size"], "channels": channels},
        "network": network,
        "diffusion": diffusion,
        "training": {},
        "source": {"format": "diffusers", "place": str(source), "notes": notes},
    }
    return Foreign(path, config, from_diffusers(network, tensors, weights_file))


def check_pipeline(folder: Path) -> None:
    """Raise UserError for a pipeline with more than a network and a scheduler, such as a decoder or a text encoder."""
    index = read_json(folder / INDEX, AGAIN, missing={})
    parts = [name for name, value in index.items() if isinstance(value, list) and value[:1] != [None]]
    more = [name for name in parts if name not in ("unet", "scheduler")]
    if more:
        raise UserError(
            f"{folder} is a {index.get('_class_name', 'pipeline')}, which has {few(more)} beside its network. "
            "minidiff opens networks that draw pictures themselves, such as a DDPMPipeline's."
        )


def find_scheduler(folder: Path) -> Path:
    """Find the scheduler_config.json of a folder; if a unet/ is given, look beside it. Raises UserError."""
    places = [folder / "scheduler" / SCHEDULER, folder / SCHEDULER]
    places += [folder.absolute().parent / "scheduler" / SCHEDULER] * (folder.absolute().name == "unet")
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{folder} has no {SCHEDULER}, neither there nor under scheduler/. It says which noise the network "
        "was trained on. Put it there."
    )


def find_weights(folder: Path) -> Path:
    """Find the file of weights, safetensors if there is one. Raises UserError."""
    for name in TENSOR_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.glob("diffusion_pytorch_model*"))
    found = f"; {few(others)} cannot be read" if others else ""
    raise UserError(f"{folder} has no weights ({' or '.join(TENSOR_FILES)}{found}). Download it again.")
