"""Our U-Net and diffusers' side by side: the same architecture, the same weights, by interop's table of names.

For the tests and the benchmark alone; nothing in the package rests on diffusers.
"""

from typing import Any

import torch
from torch import nn

from minidiff.interop.layers import layer_names
from minidiff.networks.unet import UNet


def their_key(config: dict[str, Any], key: str) -> str:
    """diffusers' name of our parameter `key`."""
    layer, _, kind = key.rpartition(".")
    return f"{layer_names(config)[layer]}.{kind}"


def diffusers_unet(config: dict[str, Any]) -> nn.Module:
    """The UNet2DModel with the architecture of `UNet(**config)`, its weights drawn anew."""
    import diffusers

    attention = config["attention"]
    network: Any = diffusers.UNet2DModel(  # Any: the checker cannot see through its lazy imports
        sample_size=config["image_size"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        block_out_channels=tuple(config["channels"]),
        down_block_types=tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in attention),
        up_block_types=tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention)),
        layers_per_block=config["layers_per_block"],
        add_attention=config["mid_attention"],
        attention_head_dim=config["head_dim"],
        dropout=config["dropout"],
        norm_num_groups=config["norm_groups"],
        norm_eps=config["norm_eps"],
        downsample_padding=config["downsample_padding"],
        flip_sin_to_cos=config["flip_sin_to_cos"],
        freq_shift=config["freq_shift"],
        resnet_time_scale_shift="scale_shift" if config["scale_shift"] else "default",
        attn_norm_num_groups=config["norm_groups"],
    )
    if config["label_dim"]:  # as the lab did it, by hand
        network.class_embedding = nn.Linear(config["label_dim"], 4 * config["channels"][0])
    return network


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Every parameter at random, norms and biases too: a fresh network's ones and zeros would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.3 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def copy_weights(theirs: nn.Module, ours: UNet) -> None:
    """Load `theirs` into `ours`; an AssertionError names every key of either side that finds no partner."""
    source, target = theirs.state_dict(), ours.state_dict()
    table = {key: their_key(ours.config, key) for key in target}
    assert set(table.values()) == set(source), sorted(set(table.values()) ^ set(source))
    assert len(set(table.values())) == len(table), "two of our keys have the same partner"
    ours.load_state_dict({key: source[name] for key, name in table.items()})  # strict: shapes and keys must fit


def pair(config: dict[str, Any], seed: int = 0) -> tuple[nn.Module, UNet]:
    """diffusers' network and ours: the same architecture, the same random weights, both in eval mode."""
    ours = UNet(**config)
    theirs = diffusers_unet(ours.config)
    randomise(theirs, seed)
    copy_weights(theirs, ours)
    return theirs.eval(), ours.eval()
