"""Translate the U-Net of diffusers into minidiff's, and back: the names of its layers, and the keys of its config.

Every key of a `config.json` and every tensor is accounted for. Either minidiff has the same setting, or the key has the
only value that minidiff's network can have, or a UserError names it. Nothing is approximated. docs/interop.md explains
all of this. Rests on networks.unet; diffusers is not needed. The noise schedule is in scheduler.py, the files are in
checkpoints.py.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.errors import UserError, one_line
from minidiff.networks.unet import UNet
from minidiff.networks.weights import fault_of

# --- the names of the layers --------------------------------------------------------------------------------------

OUTSIDE = {
    "time.0": "time_embedding.linear_1", "time.2": "time_embedding.linear_2", "label": "class_embedding",
    "conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out",
}  # fmt: skip
BLOCK = {
    "norm1": "norm1", "conv1": "conv1", "time": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
    "shortcut": "conv_shortcut",
}  # fmt: skip
ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # at first
CLASS_WEIGHT, CLASS_BIAS = "class_embedding.weight", "class_embedding.bias"


def layer_names(network: Mapping[str, Any]) -> dict[str, str]:
    """Map our layers to diffusers' layers, for every layer that this network might have (a shortcut may be missing)."""
    levels, layers = len(network["channels"]), network["layers_per_block"]
    # Ours are consecutive; theirs are grouped by level, residual blocks and attentions in lists of their own.
    stages = {f"down.{level * (layers + 1) + i}": (f"down_blocks.{level}", i)
              for level in range(levels) for i in range(layers)}  # fmt: skip
    stages |= {f"up.{level * (layers + 2) + i}": (f"up_blocks.{level}", i)
               for level in range(levels) for i in range(layers + 1)}  # fmt: skip
    stages |= {"mid.0": ("mid_block", 0), "mid.1": ("mid_block", 1)}
    names = dict(OUTSIDE)
    for ours, (theirs, i) in stages.items():
        names |= {f"{ours}.block.{a}": f"{theirs}.resnets.{i}.{b}" for a, b in BLOCK.items()}
        names |= {f"{ours}.attention.{a}": f"{theirs}.attentions.{i}.{b}" for a, b in ATTENTION.items()}
    for level in range(levels - 1):
        names[f"down.{level * (layers + 1) + layers}.conv"] = f"down_blocks.{level}.downsamplers.0.conv"
        names[f"up.{level * (layers + 2) + layers + 1}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return names


def their_keys(network: Mapping[str, Any]) -> dict[str, tuple[str, torch.Size]]:
    """Map every parameter of `UNet(**network)` to diffusers' name for it, and its shape, which is the same."""
    with torch.device("meta"):  # shapes without memory
        parameters = UNet(**network).state_dict()
    names, keys = layer_names(network), {}
    for key, tensor in parameters.items():
        layer, _, kind = key.rpartition(".")
        keys[key] = f"{names[layer]}.{kind}", tensor.shape
    return keys


def from_diffusers(
    network: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str | Path = "the checkpoint"
) -> dict[str, Tensor]:
    """Give diffusers' tensors our names, as float32, for `UNet(**network)`.

    Old names of attention layers and their 1x1 convolutions are understood. A table of class embeddings becomes the
    linear layer that looks a one-hot label up in it. Unless all of it fits, raises a UserError that lists which tensors
    are missing, unknown, or of another shape.
    """
    tensors = present_names(tensors)
    if network["label_dim"] and CLASS_WEIGHT in tensors and CLASS_BIAS not in tensors:
        table = tensors[CLASS_WEIGHT]  # nn.Embedding: [labels, time_dim], no bias
        tensors |= {CLASS_WEIGHT: table.mT, CLASS_BIAS: torch.zeros_like(table[0])}
    keys = their_keys(network)
    wanted = dict(keys.values())
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is not of this network" for name in tensors if name not in wanted]
    for name in (name for name in wanted if name in tensors):
        if tensors[name].shape != wanted[name]:
            wrong.append(f"{name} is {list(tensors[name].shape)}, not {list(wanted[name])}")
        elif fault := fault_of(tensors[name], torch.zeros(0)):
            wrong.append(f"{name} {fault}")
    if wrong:
        raise UserError(
            f"{source} does not fit the network of its config.json: {few(wrong, '; ')}. "
            "Nothing was loaded; bring the two files that belong together."
        )
    return {key: tensors[name].float().contiguous() for key, (name, _) in keys.items()}


def to_diffusers(network: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of `UNet(**network)` diffusers' names. For labels see `as_embedding`."""
    theirs = {name: tensors[key].detach().cpu().contiguous() for key, (name, _) in their_keys(network).items()}
    if as_embedding(network, tensors):
        theirs[CLASS_WEIGHT] = theirs[CLASS_WEIGHT].mT.contiguous()
        del theirs[CLASS_BIAS]
    return theirs


def as_embedding(network: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the label layer is a plain table: without a bias it is what diffusers calls num_class_embeds.

    No config of diffusers describes a linear layer with a bias, as multi-hot labels need. The 2023 course lab added one
    by hand.
    """
    return bool(network["label_dim"]) and not bool(tensors["label.bias"].any())


def present_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give attention layers today's names, and turn their 1x1 convolutions into matrices."""
    present = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
        if found:
            new = found[1] + OLD_ATTENTION[found[2]] + found[3]
            name = name if new in tensors else new  # with both there, the old one is one too many
        if re.search(r"\.attentions\.\d+\.to_\w+(\.0)?\.weight$", name) and tensor.ndim in (3, 4):
            size = tensor.shape
            tensor = tensor.flatten(1) if set(size[2:]) == {1} else tensor
        present[name] = tensor
    return present


def few(items: Iterable[str], between: str = ", ", count: int = 3) -> str:
    """List the first few, and tell how many more there are."""
    items = list(items)
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return between.join(items[:count]) + more


# --- the network's config -----------------------------------------------------------------------------------------

# Their key -> our argument of `UNet`, and what diffusers takes where the key is left out: its defaults, not ours.
# A null is not an absent key: attention_head_dim null is one head, absent it is heads of 8 channels.
SETTINGS: dict[str, tuple[str, Any]] = {
    "in_channels": ("in_channels", 3),
    "out_channels": ("out_channels", 3),
    "block_out_channels": ("channels", [224, 448, 672, 896]),
    "layers_per_block": ("layers_per_block", 2),
    "add_attention": ("mid_attention", True),
    "attention_head_dim": ("head_dim", 8),
    "dropout": ("dropout", 0.0),
    "norm_num_groups": ("norm_groups", 32),
    "norm_eps": ("norm_eps", 1e-5),
    "downsample_padding": ("downsample_padding", 1),
    "flip_sin_to_cos": ("flip_sin_to_cos", True),
    "freq_shift": ("freq_shift", 0.0),  # as a number, whole or not
}
# Their key -> the values under which it asks for what this network can do; the first is the default.
FIXED: dict[str, tuple[object, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),  # two names of one function
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
}
# Read on their own: the size, the blocks, the labels; two that may repeat what another key says; and one that only a
# learned time embedding, which `time_embedding_type` would have to ask for, looks at.
APART = {"sample_size", "down_block_types", "up_block_types", "num_class_embeds", "time_embedding_dim",
         "attn_norm_num_groups", "num_train_timesteps"}  # fmt: skip
# What EMAModel.save_pretrained adds to the config of the network whose weights it averages: how, and how far.
AVERAGE = {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma",
           "power"}  # fmt: skip
DOWN_BLOCKS = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]  # diffusers' default
UP_BLOCKS = ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
NETWORK_CLASS = "UNet2DModel"


def read_network(config: Mapping[str, Any], source: str | Path = "config.json") -> dict[str, Any]:
    """Find the arguments of `UNet` that a UNet2DModel's config.json asks for.

    label_dim is num_class_embeds; a linear label layer is not in the config, see `read_labels`. Raises a UserError that
    names what does not fit.
    """
    check_class(config, (NETWORK_CLASS,), source)
    values = {key: config.get(key, default) for key, (_, default) in SETTINGS.items()}
    wrong = [f"{key} is {json.dumps(values[key])}" for key, (_, default) in SETTINGS.items()
             if not alike(values[key], default) and (key, values[key]) != ("attention_head_dim", None)]  # fmt: skip
    down, up = config.get("down_block_types", DOWN_BLOCKS), config.get("up_block_types", UP_BLOCKS)
    size, labels = config.get("sample_size"), config.get("num_class_embeds")
    wrong += [f"{key} is {json.dumps(value)}" for key, value in (("down_block_types", down), ("up_block_types", up))
              if not alike(value, DOWN_BLOCKS)]  # fmt: skip
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if not alike(size, 0):
        wrong.append(f"sample_size is {json.dumps(size)}, where one number is needed")
    if labels is not None and not (alike(labels, 0) and labels > 0):
        wrong.append(f"num_class_embeds is {json.dumps(labels)}")
    if wrong:
        raise UserError(f"{source} is not the config of a {NETWORK_CLASS} for square images: {few(wrong)}. Mend it.")

    groups, scale_shift = values["norm_num_groups"], config.get("resnet_time_scale_shift") == "scale_shift"
    # A null one means the usual norm before the attention in the middle, but with scale and shift no norm at all.
    in_the_middle = (groups,) if scale_shift and values["add_attention"] else (None, groups)
    fixed = FIXED | {"time_embedding_dim": (None, 4 * values["block_out_channels"][0]),
                     "attn_norm_num_groups": in_the_middle}  # fmt: skip
    config = {"attn_norm_num_groups": None, **config}
    wrong = [f"{key} {json.dumps(config[key])} (it knows {' or '.join(map(json.dumps, known))})"
             for key, known in fixed.items() if config.get(key, known[0]) not in known]  # fmt: skip
    down, up = ([block.removeprefix("UNetRes") for block in blocks] for blocks in (down, up))  # names of 2022
    foreign = [block for block in (*down, *up) if block not in (*BLOCKS["down"], *BLOCKS["up"])]
    wrong += [f"the block {block} (it knows DownBlock2D, UpBlock2D, AttnDownBlock2D, AttnUpBlock2D)"
              for block in dict.fromkeys(foreign)]  # fmt: skip
    attention = [block == BLOCKS["down"][1] for block in down]
    if not foreign and (down, up) != (blocks_of(attention, "down"), blocks_of(attention[::-1], "up")):
        wrong.append(f"up_block_types {', '.join(up)}, which do not mirror {', '.join(down)}")
    wrong += unknown_keys(config, {*SETTINGS, *FIXED, *APART, *AVERAGE})
    if wrong:
        raise UserError(f"{source} asks for what minidiff's U-Net does not have: {few(wrong)}. Use diffusers for it.")
    ours = {name: values[key] for key, (name, _) in SETTINGS.items()}
    network = {"image_size": size, **ours, "attention": attention, "label_dim": labels or 0, "scale_shift": scale_shift}
    return buildable(network, source)


BLOCKS = {"down": ("DownBlock2D", "AttnDownBlock2D"), "up": ("UpBlock2D", "AttnUpBlock2D")}  # without, with attention


def blocks_of(attention: Iterable[bool], way: str) -> list[str]:
    """Name each level's block as diffusers does, in the order given."""
    return [BLOCKS[way][bool(attends)] for attends in attention]


def read_labels(network: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Add label_dim to the arguments, read off a linear label layer, which no config of diffusers mentions."""
    weight = tensors.get(CLASS_WEIGHT)
    if network["label_dim"] == 0 and weight is not None and weight.ndim == 2 and CLASS_BIAS in tensors:
        return network | {"label_dim": weight.shape[1]}
    return network


def is_table(network: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether diffusers' labels are a table, of which an image takes one row: num_class_embeds, without a bias."""
    return bool(network["label_dim"]) and CLASS_BIAS not in tensors


def write_network(network: Mapping[str, Any], embedding: bool = False) -> dict[str, Any]:
    """Write the config.json of the UNet2DModel that is `UNet(**network)`, with every key. embedding: `as_embedding`.

    Raises UserError for any norm but group norms, which every UNet2DModel has.
    """
    if network["norm"] != "group":
        raise UserError(
            f"this network's `norm` is {network['norm']}, and every {NETWORK_CLASS} of diffusers has group norms. "
            "It cannot be exported."
        )
    return {
        "_class_name": NETWORK_CLASS,
        "sample_size": network["image_size"],
        **{key: network[name] for key, (name, _) in SETTINGS.items()},
        "freq_shift": whole(network["freq_shift"]),
        "down_block_types": blocks_of(network["attention"], "down"),
        "up_block_types": blocks_of(reversed(network["attention"]), "up"),
        **{key: known[0] for key, known in FIXED.items()},
        "resnet_time_scale_shift": "scale_shift" if network["scale_shift"] else "default",
        "attn_norm_num_groups": network["norm_groups"] if network["scale_shift"] else None,
        "num_class_embeds": network["label_dim"] if embedding else None,
    }


def whole(number: float) -> int | float:
    """Write a whole number as diffusers does: 1, not 1.0."""
    return int(number) if number == int(number) else number


def alike(value: object, example: object) -> bool:
    """Tell whether a value from a JSON file has the type of `example`; in a list, all items. Ints pass as floats."""
    if isinstance(example, list):
        return isinstance(value, list) and bool(value) and all(alike(item, example[0]) for item in value)
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    return isinstance(value, int | float if isinstance(example, float) else type(example))


def check_class(config: Mapping[str, Any], known: tuple[str, ...], source: str | Path) -> None:
    """Raise UserError unless the config is of one of these classes of diffusers."""
    name = config.get("_class_name")
    if name not in known:
        what = f"is of the class {name}" if name else "names no class of diffusers"
        raise UserError(f"{source} {what}. minidiff opens {', '.join(known)}.")


def unknown_keys(config: Mapping[str, Any], known: set[str]) -> list[str]:
    """List the keys that are not known. Keys that begin with an underscore tell a file's origin, and are skipped."""
    return [f"the key {key}, of which nothing is known" for key in config if key not in known and key[0:1] != "_"]


LARGEST = {"image_size": 8192, "channels": 65_536, "layers_per_block": 64, "norm_groups": 8192, "label_dim": 1_000_000}


def buildable(network: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """Order the arguments as `UNet` does. Raises a UserError that names the file if no network can be built."""
    wrong = []
    for name, most in LARGEST.items():
        values = network[name] if isinstance(network.get(name), list) else [network.get(name, 0)]
        wrong += [f"{name} {value} is beyond {most}" for value in values if value > most]
    if not network.get("norm_eps", 1) > 0:
        wrong.append(f"norm_eps {network['norm_eps']} is not above 0")
    if wrong:
        raise UserError(f"{source} describes no network that can be built: {few(wrong)}.")
    try:
        with torch.device("meta"):
            return UNet(**network).config
    except (UserError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"{source} describes no network that can be built: {one_line(error)}") from None
