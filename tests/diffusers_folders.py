"""Folders as diffusers saves them, with small networks of random weights, for the tests of what opens them."""

import json
from pathlib import Path
from typing import Any

import diffusers
from diffusers_weights import randomise
from torch import nn

SMALL = {
    "sample_size": 16, "block_out_channels": (16, 32), "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


def peer(config: dict[str, Any], seed: int = 0) -> nn.Module:
    """diffusers' network with random weights, in eval mode."""
    network = diffusers.UNet2DModel(**config)
    randomise(network, seed)
    return network.eval()


def save(network: nn.Module, folder: Path, flat: bool = False, safe: bool = True, **scheduler: Any) -> Path:
    """Let diffusers write the two, nested as it does now or flat as the google/ddpm folders are."""
    kinds = {"DDPMScheduler": diffusers.DDPMScheduler, "DDIMScheduler": diffusers.DDIMScheduler}
    noise = kinds[scheduler.pop("_class_name", "DDPMScheduler")](**scheduler)
    if flat:
        network.save_pretrained(folder, safe_serialization=safe)
        noise.save_pretrained(folder)
    else:
        diffusers.DDPMPipeline(network, noise).save_pretrained(folder, safe_serialization=safe)
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Other values in a JSON file; `...` takes a key out."""
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
