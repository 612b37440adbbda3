"""Checkpoints of diffusers as folders: found on this machine or on the Hugging Face Hub, and read as a run.

The layout: a folder with the network (`config.json`, and weights as in weight_files) at its top or under `unet/`, and
`scheduler_config.json` beside it or under `scheduler/`. Rests on layers (what the network's config and tensors mean),
scheduler (what the noise schedule means), weight_files, tensor_files and hub.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from minidiff._version import __version__
from minidiff.errors import UserError, shown
from minidiff.files import read_json
from minidiff.interop.hub import download
from minidiff.interop.layers import AVERAGE, few, from_diffusers, is_table, read_labels, read_network
from minidiff.interop.scheduler import read_diffusion, sampling_notes
from minidiff.interop.tensor_files import CONFIG, TENSOR_SUFFIXES, is_lucid, refuse_file, trainer_files
from minidiff.interop.weight_files import AGAIN, read_weights

SCHEDULER, INDEX = "scheduler_config.json", "model_index.json"
NETWORKS = ("unet", "unet_ema")  # folders of a network within another: the first is what diffusers opens


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
        if (path / INDEX).is_file() or any((path / name / CONFIG).is_file() for name in NETWORKS):
            return True
        if not (path / CONFIG).exists():
            return is_lucid(path)
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
    check_pipeline(path)
    network_folder, found = find_network(path)
    config_file = network_folder / CONFIG
    stored = read_json(config_file, AGAIN)
    network = read_network(stored, config_file)
    if AVERAGE & stored.keys():
        how = f"decay {shown(stored.get('decay'))}, step {shown(stored.get('optimization_step'))}"
        found.append(f"its weights are an average over a training ({how})")
    scheduler_file = find_scheduler(path)
    scheduler = read_json(scheduler_file, AGAIN)
    diffusion = read_diffusion(scheduler, scheduler_file)
    channels = network["in_channels"]
    if channels != network["out_channels"] or channels not in (1, 3):
        raise UserError(
            f"{config_file} takes {channels} channels and gives {network['out_channels']}, so it draws no "
            "pictures by itself. minidiff samples networks that take and give 1 or 3."
        )
    weights_file, tensors, stored_as = read_weights(network_folder)
    other = [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if other:
        raise UserError(f"{weights_file}: {few(other)} is not a tensor. Give the file that diffusers saved.")
    network = read_labels(network, tensors)
    source_of = {
        "format": "diffusers",
        "place": str(source),
        "notes": sampling_notes(scheduler),
        "weights": [*found, *stored_as],
        "one_hot": is_table(network, tensors),
    }
    config = {
        "minidiff": __version__,
        "kind": "ddpm",
        "data": {"name": str(source), "image_size": network["image_size"], "channels": channels},
        "network": network,
        "diffusion": diffusion,
        "training": {},
        "source": source_of,
    }
    return Foreign(path, config, from_diffusers(network, tensors, weights_file))


def find_network(folder: Path) -> tuple[Path, list[str]]:
    """Find the folder of the network, `folder` itself or one of NETWORKS in it, and notes. Raises UserError."""
    found = [name for name in NETWORKS if (folder / name / CONFIG).is_file()]
    if len(found) > 1:
        return folder / found[0], [f"it has {found[1]}/, the averaged weights, beside {found[0]}/, which is used"]
    if found:
        return folder / found[0], []
    if not (folder / CONFIG).is_file():
        for file in trainer_files(folder) or sorted(folder.glob("*.pt")):  # perhaps of denoising-diffusion-pytorch
            refuse_file(file)
        raise UserError(f"{folder} has no {CONFIG}, neither there nor under unet/. Give a folder that diffusers saved.")
    return folder, []


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
    """Find the scheduler_config.json of a folder. Raises UserError.

    If the folder is a network's, unet/ or unet_ema/, or a training's checkpoint-500/, look beside it, too.
    """
    place = folder.absolute()
    while True:
        for path in (place / "scheduler" / SCHEDULER, place / SCHEDULER):
            if path.is_file():
                return path
        if not re.fullmatch(r"unet|unet_ema|checkpoint-\d+", place.name):
            break
        place = place.parent
    raise UserError(
        f"{folder} has no {SCHEDULER}, neither there nor under scheduler/. It says which noise the network "
        "was trained on. Put it there."
    )
