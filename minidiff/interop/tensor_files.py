"""Files of weights from other libraries: read without running anything in them, or refused by name.

Rests on networks.weights.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.errors import UserError, one_line
from minidiff.files import regular
from minidiff.networks.weights import read_saved

CONFIG = "config.json"
TENSOR_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
TENSOR_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, or a file that torch saved, onto the CPU. Nothing in it is run. Raises UserError."""
    regular(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        tensors = read_saved(path)
    except Exception as error:  # whatever bytes are there: the restricted unpickler fails on them in many ways
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        if called:
            raise UserError(
                f"{path} holds more than tensors: it asks to call {called[1]}, which was not done. "
                "Get the weights as safetensors, or from a source you trust."
            ) from None
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:  # none of torch's many lines helps, and one advises to run the code
            reason = one_line(error) if path.suffix == ".safetensors" else "cut short, or not saved by torch"
        raise UserError(f"{path} is damaged ({reason}). Download it again.") from None
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise UserError(
            f"{path} holds a {type(tensors).__name__}, not a table of tensors. Give the file diffusers saved."
        )
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and (tensor.layout != torch.strided or tensor.device.type != "cpu"):
            kind = f"{tensor.layout} on {tensor.device}"
            raise UserError(f"{path}: {name} is {kind}, not a plain tensor. Save it as a plain tensor on the CPU.")
    return tensors


# --- denoising-diffusion-pytorch ----------------------------------------------------------------------------------

LUCID = ("init_conv.weight", "time_mlp.1.weight", "downs.0.0.block1.proj.weight", "final_conv.weight")


def trainer_files(folder: Path) -> list[Path]:
    """List the model-N.pt of a folder, which the Trainer of that library writes; the highest N first."""
    found = [path for path in folder.glob("model-*.pt") if re.fullmatch(r"model-\d{1,9}\.pt", path.name)]
    return sorted(found, key=lambda path: -int(path.stem.removeprefix("model-")))


def is_lucid(folder: Path) -> bool:
    """Tell whether the newest model-N.pt of a folder holds a network of denoising-diffusion-pytorch."""
    try:
        return any(lucid_network(read_tensor_file(path)) for path in trainer_files(folder)[:1])
    except UserError:  # damaged, so nobody can tell
        return False


def lucid_network(tensors: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], str] | None:
    """Find the network of that library, by itself or in a trainer's file, and the prefix of its names."""
    for part in ("ema", "model", "state_dict"):
        if isinstance(tensors.get(part), dict) and tensors[part]:
            tensors = tensors[part]
            break
    for prefix in ("", "model.", "ema_model.model.", "ema_model.", "module.", "module.model."):
        if all(isinstance(tensors.get(prefix + key), Tensor) for key in LUCID):
            return tensors, prefix
    return None


def refuse_file(path: Path) -> None:
    """Raise UserError for weights without a config. The error says what they are, and what to do."""
    tensors = read_tensor_file(path)
    step = tensors.get("step")
    if found := lucid_network(tensors):
        trained = f", {step:,} steps" if isinstance(step, int) else ""
        raise UserError(
            f"{path} is of denoising-diffusion-pytorch ({lucid_size(*found)}{trained}). Its Unet cannot "
            "be expressed as minidiff's: it convolves before it normalises, by RMSNorm, scales by the timestep, "
            "and has linear attention with memory. Draw the images there; `minidiff fid` reads them."
        )
    if any(key.startswith("down_blocks.") for key in tensors):
        raise UserError(f"{path} holds weights without their settings. Give the folder, with its {CONFIG}.")
    raise UserError(
        f"minidiff does not know the network of the weights in {path}. Give a run, or a folder that diffusers saved."
    )


def lucid_size(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """Read dim and dim_mults of that Unet off the shapes of its weights."""
    dim = tensors[f"{prefix}time_mlp.1.weight"].shape[0] // 4
    ends = [tensors.get(f"{prefix}downs.{level}.3{rest}.weight") for level in range(16) for rest in ("", ".1")]
    mults = ",".join(f"{len(end) / dim:g}" for end in ends if end is not None)
    return f"dim {dim}, mults {mults}"
