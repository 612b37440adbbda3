"""The Hugging Face Hub: a checkpoint by its name, through the library huggingface_hub and its cache."""

import os
from pathlib import Path

from minidiff.errors import UserError, one_line
from minidiff.interop.tensor_files import TENSOR_FILES

# Files of weights as patterns, the best first: in full, in shards, and variants. See weight_files.
WEIGHTS = (TENSOR_FILES[0], "diffusion_pytorch_model-*.safetensors", TENSOR_FILES[1], "diffusion_pytorch_model-*.bin",
           "diffusion_pytorch_model.*.safetensors", "diffusion_pytorch_model.*.bin")  # fmt: skip


def download(name: str) -> Path:
    """Find the folder of `owner/name` in the Hub's cache, and fetch it if it is not there yet. Raises UserError.

    huggingface_hub keeps its own cache, and does not use the network when HF_HUB_OFFLINE=1.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name} is no folder here, and a name on the Hugging Face Hub needs huggingface_hub. "
            "Install it: pip install 'minidiff[hub]', or pip install huggingface_hub."
        ) from None

    try:
        for weights in WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=["*.json", weights, f"unet/{weights}"]))
            if any(any((folder / place).glob(weights)) for place in ("", "unet")):
                break  # many repositories have several, of 455 MB each
    except Exception as error:  # the library, the network below it and the disk have many ways to fail
        raise UserError(f"{name} is no folder here, and {hub_reason(name, error)}") from None
    return folder


def hub_reason(name: str, error: Exception) -> str:
    """Tell what went wrong on the Hub, and what to do.

    An exception is recognised by its name, because its module moves between versions.
    """
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
