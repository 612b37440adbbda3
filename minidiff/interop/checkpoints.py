"""Checkpoints of other libraries as files: found here or on the Hugging Face Hub, read, refused, written.

diffusers' layout: a folder with the network (`config.json`, `diffusion_pytorch_model.safetensors` or `.bin`) at its
top or under `unet/`, and `scheduler_config.json` beside it or under `scheduler/`. What is in them: interop.py
and scheduler_config.py, on which this rests, as on checkpoint.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidiff._version import __version__
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError, one_line
from minidiff.files import is_empty, read_json, replacing_folder, write_atomically, write_errors, write_json
from minidiff.interop.layers import (
    NETWORK_CLASS,
    as_embedding,
    few,
    from_diffusers,
    read_labels,
    read_network,
    to_diffusers,
    write_network,
)
from minidiff.interop.scheduler import read_diffusion, sampling_notes, write_diffusion
from minidiff.runs import folder as checkpoint

# --- folders ------------------------------------------------------------------------------------------------------

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler_config.json", "model_index.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
AGAIN = "Download it again."


class Foreign(NamedTuple):
    """A checkpoint of another library, as a run."""

    folder: Path  # where its files are on this machine
    config: dict[str, Any]  # as a run's config.json
    tensors: dict[str, Tensor]  # of `UNet(**config["network"])`, float32


def is_foreign(source: str | Path) -> bool:
    """Whether `source` is for `open_source`: a folder of diffusers, a file of weights, or a name on the Hub.

    What is here comes first: `owner/name` is looked up on the Hub only where there is no such folder, nor an `owner`;
    the name of a folder mistyped should not travel.
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
        return path.suffix in WEIGHT_SUFFIXES
    owner, _, name = str(source).partition("/")
    a_name = re.fullmatch(r"\w[\w.-]*", owner) and re.fullmatch(r"[\w.-]+", name)
    a_path = owner == "runs" or Path(owner).exists() or path.suffix in WEIGHT_SUFFIXES  # which is missing
    return bool(a_name) and not a_path


def open_source(source: str | Path) -> Foreign:
    """A checkpoint of diffusers: a folder, or `owner/name` on the Hugging Face Hub. Raises UserError."""
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
            f"{config_file} takes {channels} channels and gives {network['out_channels']}: such a network draws no "
            "pictures by itself. minidiff samples those that take and give 1 or 3."
        )
    weights_file = find_weights(network_folder)
    tensors = read_weights(weights_file)
    other = [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if other:
        raise UserError(f"{weights_file}: {few(other)} is no tensor. Give the file that diffusers saved.")
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
    """A UserError for a pipeline with more in it than a network and a scheduler: a latent's decoder, a text encoder."""
    index = read_json(folder / INDEX, AGAIN, missing={})
    parts = [name for name, value in index.items() if isinstance(value, list) and value[:1] != [None]]
    more = [name for name in parts if name not in ("unet", "scheduler")]
    if more:
        raise UserError(
            f"{folder} is a {index.get('_class_name', 'pipeline')}, which has {few(more)} beside its network. "
            "minidiff opens networks that draw pictures themselves, such as a DDPMPipeline's."
        )


def find_scheduler(folder: Path) -> Path:
    """The scheduler_config.json of a folder; of a unet/ given by itself, that beside it. Raises UserError."""
    places = [folder / "scheduler" / SCHEDULER, folder / SCHEDULER]
    places += [folder.absolute().parent / "scheduler" / SCHEDULER] * (folder.absolute().name == "unet")
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{folder} has no {SCHEDULER}, neither there nor under scheduler/. Without it the noise the network was "
        "trained on is unknown; put it there."
    )


def find_weights(folder: Path) -> Path:
    """The file of weights: safetensors where there is one. Raises UserError."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.glob("diffusion_pytorch_model*"))
    found = f"; {few(others)} cannot be read" if others else ""
    raise UserError(f"{folder} has no weights ({' or '.join(WEIGHTS)}{found}). Download it again, whole.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of one that torch saved, on the CPU. Nothing in it is ever run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that torch did not write
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever bytes are there: the restricted unpickler fails on them in many ways
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        if called:
            raise UserError(
                f"{path} holds more than tensors: it asks to call {called[1]}, which was not done. "
                "Get the weights as safetensors, or from someone you trust."
            ) from None
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:  # of torch's many lines none helps, and one advises to run the code
            reason = one_line(error) if path.suffix == ".safetensors" else "cut short, or not saved by torch"
        raise UserError(f"{path} is damaged ({reason}). Download it again.") from None
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{path} holds a {type(tensors).__name__}, no table of tensors. Give the file diffusers saved.")
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and (tensor.layout != torch.strided or tensor.device.type != "cpu"):
            kind = f"{tensor.layout} on {tensor.device}"
            raise UserError(f"{path}: {name} is {kind}, no plain tensor. Save it as one, on the CPU.")
    return tensors


# --- the Hugging Face Hub -----------------------------------------------------------------------------------------


def download(name: str) -> Path:
    """The folder of `owner/name` in the Hub's cache, fetched where it is not there yet. Raises UserError.

    huggingface_hub keeps its own cache, and asks nothing of the network when HF_HUB_OFFLINE=1.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name} is no folder here, and a name on the Hugging Face Hub needs huggingface_hub. "
            "Install it: pip install 'minidiff[hub]', or pip install huggingface_hub."
        ) from None

    def fetch(weights: str) -> Path:
        return Path(snapshot_download(name, allow_patterns=["*.json", weights, f"unet/{weights}"]))

    try:
        folder = fetch(WEIGHTS[0])
        if not any((folder / place / WEIGHTS[0]).exists() for place in ("", "unet")):
            folder = fetch(WEIGHTS[1])  # only where there are no safetensors: most have both, of 455 MB each
    except Exception as error:  # the library, the network below it and the disk have many ways to fail
        raise UserError(f"{name} is no folder here, and {hub_reason(name, error)}") from None
    return folder


def hub_reason(name: str, error: Exception) -> str:
    """What went wrong on the Hub, and the mend, by the name of the exception: its module moves between versions."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return "its owner lets only some read it on the Hugging Face Hub. Ask there, then `hf auth login`."
    if "RepositoryNotFoundError" in kinds:
        return "the Hugging Face Hub has no such model, or it is private. Check the spelling, or `hf auth login`."
    if "HFValidationError" in kinds:
        return f"not a name of the Hugging Face Hub either ({one_line(error)}). Write owner/name."
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "it is not in the Hub's cache, with HF_HUB_OFFLINE set. Unset it once, to download it."
    if kinds & {"LocalEntryNotFoundError", "ConnectionError", "ConnectError", "Timeout", "TimeoutException"}:
        return "the Hugging Face Hub cannot be reached, nor is it in its cache. Connect, or copy the folder here."
    return f"the Hugging Face Hub did not give it ({one_line(error)}). Try again, or copy the folder here."


# --- denoising-diffusion-pytorch ----------------------------------------------------------------------------------

LUCID = ("init_conv.weight", "time_mlp.1.weight", "downs.0.0.block1.proj.weight", "final_conv.weight")


def refuse_file(path: Path) -> None:
    """Weights without a config: a UserError that says what they are, and what to do."""
    tensors = read_weights(path)
    step = tensors.get("step")
    for part in ("ema", "model", "state_dict"):  # of a trainer's file, its network
        if isinstance(tensors.get(part), dict) and tensors[part]:
            tensors = tensors[part]  # type: ignore[assignment]
            break
    for prefix in ("", "model.", "ema_model.model.", "ema_model.", "module.", "module.model."):
        if all(isinstance(tensors.get(prefix + key), Tensor) for key in LUCID):
            trained = f", {step:,} steps" if isinstance(step, int) else ""
            raise UserError(
                f"{path} is of denoising-diffusion-pytorch ({lucid_size(tensors, prefix)}{trained}). Its Unet cannot "
                "be expressed as minidiff's: it convolves before it normalises, by RMSNorm, scales by the timestep, "
                "and has linear attention with memory. Sample it there; `minidiff fid` reads the images."
            )
    if any(key.startswith("down_blocks.") for key in tensors):
        raise UserError(f"{path} holds weights without their settings. Give the folder, with its {CONFIG}.")
    raise UserError(f"{path} holds weights of no network known here. Give a run, or a folder that diffusers saved.")


def lucid_size(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """dim and dim_mults of that Unet, read off the shapes of its weights."""
    dim = tensors[f"{prefix}time_mlp.1.weight"].shape[0] // 4
    ends = [tensors.get(f"{prefix}downs.{level}.3{rest}.weight") for level in range(16) for rest in ("", ".1")]
    mults = ",".join(f"{len(end) / dim:g}" for end in ends if end is not None)
    return f"dim {dim}, mults {mults}"


# --- writing ------------------------------------------------------------------------------------------------------


def check_new(folder: Path) -> None:
    """A UserError if there is anything in the way of a new folder."""
    if os.path.lexists(folder) and not (folder.is_dir() and is_empty(folder)):
        raise UserError(f"{folder} exists and is not an empty folder. Give another one.")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Call `write(other)` on a folder beside it, then rename: `folder` is there whole or not at all.

    Raises UserError; what is there already is never written over.
    """
    check_new(folder)
    with write_errors(folder), replacing_folder(folder) as place:
        write(place)


def write_run(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """A run folder with this config and these weights. Raises UserError."""

    def write(place: Path) -> None:
        write_json(place / checkpoint.CONFIG, config)
        checkpoint.save_model(place, tensors)

    write_folder(folder, write)


def write_diffusers(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], schedule: Schedule
) -> list[str]:
    """A run as the folder of a DDPMPipeline; returns what it cannot say, in words. Raises UserError.

    config: of the run; tensors: of its network; schedule: the one its config names, before its zero-SNR rescaling.
    """
    from safetensors.torch import save

    network, embedding = config["network"], as_embedding(config["network"], tensors)
    index = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"],
             "unet": ["diffusers", NETWORK_CLASS]}  # fmt: skip
    weights = to_diffusers(network, tensors)

    def write(place: Path) -> None:
        (place / "unet").mkdir()
        (place / "scheduler").mkdir()
        write_json(place / INDEX, index)
        write_json(place / "unet" / CONFIG, write_network(network, embedding))
        write_json(place / "scheduler" / SCHEDULER, write_diffusion(config["diffusion"], schedule))
        content = save(weights, metadata={"format": "pt"})  # diffusers asks for this
        write_atomically(place / "unet" / WEIGHTS[0], lambda file: file.write(content))

    write_folder(folder, write)
    told = (config.get("source") or {}).get("notes", [])
    notes = [f"{note}; this one clips to ±1" for note in told if note.startswith("its scheduler")]
    if embedding:
        notes.append("a DDPMPipeline gives no class_labels, which this network wants: call its unet yourself")
    elif network["label_dim"]:
        linear = f"torch.nn.Linear({network['label_dim']}, {4 * network['channels'][0]})"
        notes.append(f"no config of diffusers has linear labels: set unet.class_embedding = {linear} and load again")
    return notes


FORMATS: dict[str, Callable[..., list[str]]] = {"diffusers": write_diffusers}
