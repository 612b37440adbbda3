"""Checkpoints of other libraries, both ways: a table of key names, and a reading of the config.

diffusers' layout: a folder with the network (`config.json`, `diffusion_pytorch_model.safetensors` or `.bin`) at its
top or under `unet/`, and `scheduler_config.json` beside it or under `scheduler/`. From here, or from the Hugging Face
Hub by name. Every key of both configs and every tensor is accounted for: it is expressed, or it has the one value under
which it means what this network does, or it is named in a UserError. Nothing is approximated.
Rests on unet, schedules and checkpoint; diffusers itself is not needed. docs/interop.md has the table in words.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minidiff import __version__, checkpoint
from minidiff.errors import UserError, one_line
from minidiff.schedules import Schedule
from minidiff.unet import UNet

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
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.13


def layer_names(network: Mapping[str, Any]) -> dict[str, str]:
    """Our layer -> diffusers' layer, for every layer such a network might have (a shortcut may be missing)."""
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
    """Every parameter of `UNet(**network)`: our name -> diffusers' name, and the shape, which is the same."""
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
    """diffusers' tensors under our names, float32, for `UNet(**network)`.

    Old names of attention layers and their 1x1 convolutions are understood; a table of class embeddings becomes the
    linear layer that looks a one-hot label up in it. Raises a UserError that lists what is missing, what is too many
    and what has another shape, unless all of it fits.
    """
    tensors = present_names(tensors)
    if network["label_dim"] and CLASS_WEIGHT in tensors and CLASS_BIAS not in tensors:
        table = tensors[CLASS_WEIGHT]  # nn.Embedding: [labels, time_dim], no bias
        tensors |= {CLASS_WEIGHT: table.mT, CLASS_BIAS: torch.zeros_like(table[0])}
    keys = their_keys(network)
    wanted = dict(keys.values())
    wrong = [f"{name} is missing" for name in wanted if name not in tensors]
    wrong += [f"{name} is not of this network" for name in tensors if name not in wanted]
    for name in wanted.keys() & tensors.keys():
        if tensors[name].shape != wanted[name]:
            wrong.append(f"{name} is {list(tensors[name].shape)}, not {list(wanted[name])}")
        elif not tensors[name].is_floating_point():
            wrong.append(f"{name} holds {str(tensors[name].dtype).removeprefix('torch.')}, not floats")
    if wrong:
        raise UserError(
            f"{source} does not fit the network of its config.json: {few(sorted(wrong), '; ')}. "
            "Nothing was loaded; bring the two files that belong together."
        )
    return {key: tensors[name].float().contiguous() for key, (name, _) in keys.items()}


def to_diffusers(network: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `UNet(**network)` under diffusers' names: the way back. See `as_embedding` about labels."""
    theirs = {name: tensors[key].detach().cpu().contiguous() for key, (name, _) in their_keys(network).items()}
    if as_embedding(network, tensors):
        theirs[CLASS_WEIGHT] = theirs[CLASS_WEIGHT].mT.contiguous()
        del theirs[CLASS_BIAS]
    return theirs


CLASS_WEIGHT, CLASS_BIAS = "class_embedding.weight", "class_embedding.bias"


def as_embedding(network: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the label layer is a plain table: without a bias, it is what diffusers calls num_class_embeds.

    A linear layer with a bias, as for multi-hot labels, is in none of its configs: the 2023 lab put it in by hand.
    """
    return bool(network["label_dim"]) and not bool(tensors["label.bias"].any())


def present_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with today's names of attention layers, and those layers as matrices, not as convolutions."""
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
    """The first few of a list, and how many more there are."""
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
    "freq_shift": ("freq_shift", 0),
}
# Their key -> the values under which it asks for what this network does; the first is the default.
FIXED: dict[str, tuple[object, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),  # two names of one function
    "resnet_time_scale_shift": ("default",),
    "class_embed_type": (None,),
}
# Read on their own: the size, the blocks, the labels; two that may repeat what another key says; and one that only a
# learned time embedding, which `time_embedding_type` would have to ask for, looks at.
APART = {"sample_size", "down_block_types", "up_block_types", "num_class_embeds", "time_embedding_dim",
         "attn_norm_num_groups", "num_train_timesteps"}  # fmt: skip
DOWN_BLOCKS = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]  # diffusers' default
UP_BLOCKS = ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
NETWORK_CLASS = "UNet2DModel"


def read_network(config: Mapping[str, Any], source: str | Path = "config.json") -> dict[str, Any]:
    """The arguments of `UNet` that a UNet2DModel's config.json asks for. Raises a UserError that names what does not
    fit. label_dim is num_class_embeds; a linear label layer is not in the config, see `read_labels`.
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

    fixed = FIXED | {"time_embedding_dim": (None, 4 * values["block_out_channels"][0]),
                     "attn_norm_num_groups": (None, values["norm_num_groups"])}  # fmt: skip
    wrong = [f"{key} {json.dumps(config[key])} (it knows {' or '.join(map(json.dumps, known))})"
             for key, known in fixed.items() if config.get(key, known[0]) not in known]  # fmt: skip
    down, up = ([block.removeprefix("UNetRes") for block in blocks] for blocks in (down, up))  # names of 2022
    foreign = [block for block in (*down, *up) if block not in (*BLOCKS["down"], *BLOCKS["up"])]
    wrong += [f"the block {block} (it knows DownBlock2D, AttnDownBlock2D and their Up)" for block in dict.fromkeys(foreign)]
    attention = [block == BLOCKS["down"][1] for block in down]
    if not foreign and (down, up) != (blocks_of(attention, "down"), blocks_of(attention[::-1], "up")):
        wrong.append(f"up_block_types {', '.join(up)}, which do not mirror {', '.join(down)}")
    wrong += unknown_keys(config, {*SETTINGS, *FIXED, *APART})
    if wrong:
        raise UserError(f"{source} asks for what minidiff's U-Net does not have: {few(wrong)}. Use diffusers for it.")
    ours = {name: values[key] for key, (name, _) in SETTINGS.items()}
    network = {"image_size": size, **ours, "attention": attention, "label_dim": labels or 0}
    return buildable(network, source)


BLOCKS = {"down": ("DownBlock2D", "AttnDownBlock2D"), "up": ("UpBlock2D", "AttnUpBlock2D")}  # without, with attention


def blocks_of(attention: Iterable[bool], way: str) -> list[str]:
    """diffusers' name of each level's block, in the order given."""
    return [BLOCKS[way][bool(attends)] for attends in attention]


def read_labels(network: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same arguments, with label_dim read off a linear label layer, which no config of diffusers mentions."""
    weight = tensors.get(CLASS_WEIGHT)
    if network["label_dim"] == 0 and weight is not None and weight.ndim == 2 and CLASS_BIAS in tensors:
        return network | {"label_dim": weight.shape[1]}
    return network


def write_network(network: Mapping[str, Any], embedding: bool = False) -> dict[str, Any]:
    """The config.json of the UNet2DModel that is `UNet(**network)`, with every key said. embedding: `as_embedding`."""
    return {
        "_class_name": NETWORK_CLASS,
        "sample_size": network["image_size"],
        **{key: network[name] for key, (name, _) in SETTINGS.items()},
        "down_block_types": blocks_of(network["attention"], "down"),
        "up_block_types": blocks_of(reversed(network["attention"]), "up"),
        **{key: known[0] for key, known in FIXED.items()},
        "num_class_embeds": network["label_dim"] if embedding else None,
    }


def alike(value: object, example: object) -> bool:
    """Whether a value out of a JSON file is of the type of `example`; of a list, all its items; ints pass as floats."""
    if isinstance(example, list):
        return isinstance(value, list) and bool(value) and all(alike(item, example[0]) for item in value)
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    return isinstance(value, int | float if isinstance(example, float) else type(example))


def check_class(config: Mapping[str, Any], known: tuple[str, ...], source: str | Path) -> None:
    """A UserError unless the config is of one of these classes of diffusers."""
    name = config.get("_class_name")
    if name not in known:
        what = f"is of the class {name}" if name else "names no class of diffusers"
        raise UserError(f"{source} {what}. minidiff opens {', '.join(known)}.")


def unknown_keys(config: Mapping[str, Any], known: set[str]) -> list[str]:
    """The keys that are nobody's; those with an underscore in front say where a file came from."""
    return [f"the key {key}, of which nothing is known" for key in config if key not in known and key[0:1] != "_"]


def buildable(network: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """The arguments again, unless no network can be built from them: then a UserError that names the file."""
    try:
        with torch.device("meta"):
            UNet(**network)
    except (UserError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"{source} describes no network that can be built: {one_line(error)}") from None
    return network


# --- the scheduler's config ---------------------------------------------------------------------------------------

SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler",
              "UniPCMultistepScheduler")  # fmt: skip
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
BUILD: dict[str, Callable[..., Schedule]] = {
    "linear": Schedule.linear, "scaled_linear": Schedule.scaled_linear, "squaredcos_cap_v2": Schedule.cosine,
}  # fmt: skip
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "fixed_large": "fixed_large"}
TRAINED = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
           "trained_betas": None, "prediction_type": "epsilon", "variance_type": "fixed_small",
           "rescale_betas_zero_snr": False, "predict_epsilon": True}  # fmt: skip
# How that scheduler would sample. Here that is said when sampling, so these are known and not kept.
SAMPLING = set(
    "clip_sample clip_sample_range thresholding dynamic_thresholding_ratio sample_max_value timestep_spacing "
    "steps_offset set_alpha_to_one skip_prk_steps solver_order algorithm_type solver_type lower_order_final "
    "euler_at_final final_sigmas_type lambda_min_clipped use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
    "use_lu_lambdas predict_x0 disable_corrector solver_p sigma_min sigma_max tensor_format timestep_values".split()
)
# These change what the network's timesteps and outputs mean; under any other value it is no diffusion of this kind.
FLOW: dict[str, tuple[object, ...]] = {
    "use_flow_sigmas": (False,), "use_dynamic_shifting": (False,), "flow_shift": (1, None), "shift_terminal": (None,),
    "time_shift_type": ("exponential", "linear"),
}  # fmt: skip


def read_diffusion(config: Mapping[str, Any], source: str | Path = "scheduler_config.json") -> dict[str, Any]:
    """What a run's config.json says under `diffusion`, of a scheduler_config.json. Raises UserError."""
    check_class(config, SCHEDULERS, source)
    said = {key: config.get(key, default) for key, default in TRAINED.items()}
    said["variance_type"] = said["variance_type"] or "fixed_small"  # DPM-Solver's null: it never asks
    if said["predict_epsilon"] is False and "prediction_type" not in config:  # the name it had in 2022
        said["prediction_type"] = "sample"
    wrong = [f"{key} is {json.dumps(said[key])}" for key in ("num_train_timesteps", "beta_start", "beta_end")
             if not alike(said[key], TRAINED[key])]  # fmt: skip
    tables = {"beta_schedule": SCHEDULES, "prediction_type": PREDICTIONS, "variance_type": VARIANCES}
    for key, table in tables.items():
        if said[key] not in table:
            why = ": the network would have to predict its variance too" if "learned" in str(said[key]) else ""
            wrong.append(f"{key} is {json.dumps(said[key])}{why} (known: {', '.join(table)})")
    wrong += [f"{key} is {json.dumps(config[key])}" for key, known in FLOW.items()
              if config.get(key, known[0]) not in known]  # fmt: skip
    wrong += unknown_keys(config, {*TRAINED, *SAMPLING, *FLOW})
    if wrong:
        raise UserError(f"{source} describes a diffusion that minidiff does not have: {few(wrong)}. Use diffusers.")
    name = said["beta_schedule"]
    if said["trained_betas"] is not None:
        name, said["beta_start"], said["beta_end"] = named_schedule(said["trained_betas"], source)
        said["num_train_timesteps"] = len(said["trained_betas"])
    ends = {} if name == "squaredcos_cap_v2" else {end: said[end] for end in ("beta_start", "beta_end")}
    try:
        BUILD[name](said["num_train_timesteps"], **ends)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return {
        "schedule": SCHEDULES[name],
        "timesteps": said["num_train_timesteps"],
        "beta_start": None,
        "beta_end": None,
        **ends,
        "prediction": PREDICTIONS[said["prediction_type"]],
        "min_snr_gamma": None,
        "zero_terminal_snr": bool(said["rescale_betas_zero_snr"]),
        "variance": VARIANCES[said["variance_type"]],
    }


def named_schedule(betas: object, source: str | Path) -> tuple[str, float, float]:
    """Which schedule a list of betas is, to the rounding of float32, with its ends; a UserError when it is none."""
    if alike(betas, [0.0]) and isinstance(betas, list):
        given = torch.tensor(betas, dtype=torch.float64)
        for name, build in BUILD.items():
            ends = () if name == "squaredcos_cap_v2" else (betas[0], betas[-1])
            if given.min() > 0 and given.max() < 1 and torch.allclose(build(len(betas), *ends).betas, given, rtol=1e-6):
                return name, betas[0], betas[-1]
    raise UserError(f"{source} has trained_betas, a list that is none of {', '.join(BUILD)}. A run needs a named one.")


def sampling_notes(config: Mapping[str, Any]) -> list[str]:
    """Where this scheduler would sample otherwise than `minidiff sample` does by itself, in words, with the option."""
    notes = []
    if config.get("clip_sample") is False and not config.get("thresholding"):
        notes.append("its scheduler does not clip the predicted image: sample with --no-clip to do the same")
    if config.get("thresholding"):
        notes.append("its scheduler uses dynamic thresholding, which is not kept")
    if config.get("clip_sample", True) and config.get("clip_sample_range", 1) != 1:
        notes.append(f"its scheduler clips the predicted image to ±{config['clip_sample_range']}, here to ±1")
    return notes


def write_diffusion(diffusion: Mapping[str, Any], schedule: Schedule) -> dict[str, Any]:
    """The scheduler_config.json of a DDPMScheduler with a run's diffusion. schedule: before its zero-SNR rescaling."""
    theirs = {ours: name for name, ours in SCHEDULES.items()}
    config: dict[str, Any] = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": diffusion["timesteps"],
        "beta_schedule": theirs[diffusion["schedule"]],
        "beta_start": float(schedule.betas[0]),
        "beta_end": float(schedule.betas[-1]),
        "trained_betas": None,
        "prediction_type": {ours: name for name, ours in PREDICTIONS.items()}[diffusion["prediction"]],
        "variance_type": diffusion["variance"],
        "rescale_betas_zero_snr": diffusion["zero_terminal_snr"],
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "timestep_spacing": "trailing",
        "steps_offset": 0,
    }
    if diffusion["schedule"] == "cosine":
        config |= {"beta_start": 1e-4, "beta_end": 0.02}  # not looked at
    elif not torch.allclose(BUILD[config["beta_schedule"]](schedule.T, config["beta_start"], config["beta_end"]).betas,
                            schedule.betas, rtol=1e-9):  # fmt: skip
        config["trained_betas"] = schedule.betas.tolist()  # few timesteps: some betas were held under 0.999
    return config


# --- folders ------------------------------------------------------------------------------------------------------

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler_config.json", "model_index.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
WEIGHT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


class Foreign(NamedTuple):
    """A checkpoint of another library, as a run."""

    folder: Path  # where its files are on this machine
    config: dict[str, Any]  # as a run's config.json
    tensors: dict[str, Tensor]  # of `UNet(**config["network"])`, float32


def is_foreign(source: str | Path) -> bool:
    """Whether `source` is for `open_source`: a folder of diffusers, a file of weights, or a name on the Hub.

    What is here comes first: `owner/name` is looked up on the Hub only where there is no such folder, nor an `owner`.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        places = (path / INDEX, path / "unet" / CONFIG)
        return any(place.is_file() for place in places) or "_class_name" in (read_json(path / CONFIG, {}) or {})
    if path.exists():
        return path.suffix in WEIGHT_SUFFIXES
    name = str(source)
    return bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)) and not Path(name.split("/")[0]).exists() and (
        not name.startswith("runs/")
    )


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
    network = read_network(read_json(config_file), config_file)
    scheduler_file = find_scheduler(path)
    scheduler = read_json(scheduler_file)
    diffusion = read_diffusion(scheduler, scheduler_file)
    channels = network["in_channels"]
    if channels != network["out_channels"] or channels not in (1, 3):
        raise UserError(
            f"{config_file} takes {channels} channels and gives {network['out_channels']}: such a network draws no "
            "pictures by itself. minidiff samples those that take and give 1 or 3."
        )
    weights_file = find_weights(network_folder)
    tensors = read_weights(weights_file)
    network = read_labels(network, tensors)
    config = {
        "minidiff": __version__,
        "kind": "ddpm",
        "data": {"name": str(source), "image_size": network["image_size"], "channels": channels},
        "network": network,
        "diffusion": diffusion,
        "training": {},
        "source": {"format": "diffusers", "place": str(source), "notes": sampling_notes(scheduler)},
    }
    return Foreign(path, config, from_diffusers(network, tensors, weights_file))


def check_pipeline(folder: Path) -> None:
    """A UserError for a pipeline with more in it than a network and a scheduler: a latent's decoder, a text encoder."""
    index = read_json(folder / INDEX, {})
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


def read_json(path: Path, missing: Any = None) -> Any:
    """The object in a JSON file; `missing`, where that is given, for a file that is not there. Raises UserError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing is not None:
            return missing
        raise UserError(f"{path} is missing. Download it again.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}). Download it again.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no settings, but a {type(value).__name__}. Download it again.")
    return value


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of one that torch saved, on the CPU. Nothing in it is ever run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever bytes are there: the restricted unpickler fails on them in many ways
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise UserError(f"{path} holds more than tensors, and would run code. It was not opened further.") from None
        raise UserError(f"{path} is damaged ({one_line(error)}). Download it again.") from None
    if not isinstance(tensors, dict):
        raise UserError(f"{path} holds a {type(tensors).__name__}, no table of tensors. Give the file diffusers saved.")
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
            "Install it with: pip install huggingface_hub"
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
        if isinstance(tensors.get(part), dict):
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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder. Give another one.")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Call `write(other)` on a folder beside it, then rename: `folder` is there whole or not at all.

    Raises UserError; what is there already is never written over.
    """
    check_new(folder)
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
        write(temporary)
        if folder.exists():
            folder.rmdir()  # empty
        os.rename(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}. Give another one.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_run(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """A run folder with this config and these weights. Raises UserError."""

    def write(place: Path) -> None:
        checkpoint.write_json(place / checkpoint.CONFIG, config)
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
        checkpoint.write_json(place / INDEX, index)
        checkpoint.write_json(place / "unet" / CONFIG, write_network(network, embedding))
        checkpoint.write_json(place / "scheduler" / SCHEDULER, write_diffusion(config["diffusion"], schedule))
        content = save(weights, metadata={"format": "pt"})  # diffusers asks for this
        checkpoint.write_atomically(place / "unet" / WEIGHTS[0], lambda file: file.write(content))

    write_folder(folder, write)
    if network["label_dim"] and not embedding:
        linear = f"torch.nn.Linear({network['label_dim']}, {4 * network['channels'][0]})"
        return [f"no config of diffusers has a linear label layer: set unet.class_embedding = {linear} and load again"]
    return []


FORMATS: dict[str, Callable[..., list[str]]] = {"diffusers": write_diffusers}
