"""Checkpoints of diffusers, in and out: the same output, every key accounted for, one line for what does not fit."""

import inspect
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers_folders import SMALL, edit, peer, save
from diffusers_weights import randomise
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import minidiff
from minidiff import cli, load
from minidiff.ddpm import run as pipeline
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.images.files import write_image
from minidiff.interop import layers as interop
from minidiff.interop import scheduler as scheduler_config
from minidiff.interop.checkpoints import open_checkpoint
from minidiff.interop.tensor_files import TENSOR_FILES, read_tensor_file
from minidiff.interop.writing import write_run
from minidiff.metrics import sources
from minidiff.networks.unet import UNet
from minidiff.pretrained.sources import open_place
from minidiff.records import to_json
from minidiff.restoration import with_dip
from minidiff.restoration.config import RestoreRequest
from minidiff.runs import folder as checkpoint

diffusers = pytest.importorskip("diffusers", reason="the peer is missing: pip install -e '.[test]'")

DDPM = {  # what both google/ddpm networks have: not diffusers' defaults
    "attention_head_dim": None, "norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
CIFAR10 = DDPM | {
    "sample_size": 32, "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
SIX = {
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
}  # fmt: skip
CELEBAHQ = DDPM | SIX | {"sample_size": 256}
LAB = SIX | {"sample_size": 64}
NARROW = {"block_out_channels": (16, 16, 32, 32, 64, 64), "norm_num_groups": 8}
ALL_ATTEND = {"down_block_types": ("AttnDownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2}
NONE_ATTENDS = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}

NETWORKS: dict[str, dict[str, Any]] = {
    "cifar10 layout": CIFAR10 | {"block_out_channels": (32, 64, 64, 64)},
    "celebahq layout": CELEBAHQ | NARROW | {"sample_size": 64},
    "lab layout": LAB | NARROW,
    "diffusers' defaults": SMALL,
    "DDPM's settings": SMALL | DDPM,
    "one layer": SMALL | {"layers_per_block": 1},
    "three layers, one channel": SMALL | {"layers_per_block": 3, "in_channels": 1, "out_channels": 1},
    "attention everywhere": SMALL | ALL_ATTEND,
    "no attention": SMALL | NONE_ATTENDS | {"add_attention": False},
    "attention in the middle alone": SMALL | NONE_ATTENDS,
    "one head": SMALL | {"attention_head_dim": None},
    "heads of 4": SMALL | {"attention_head_dim": 4},
    "heads of 16, one down": SMALL | {"attention_head_dim": 16},
    "eps 1e-6": SMALL | {"norm_eps": 1e-6},
    "padding 0": SMALL | {"downsample_padding": 0},
    "sin first": SMALL | {"flip_sin_to_cos": False},
    "shift 1": SMALL | {"freq_shift": 1},
    "dropout": SMALL | {"dropout": 0.1},
    "swish": SMALL | {"act_fn": "swish"},
    "class table": SMALL | {"num_class_embeds": 5},
    "scale and shift": SMALL | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A small network, saved flat."""
    return save(peer(SMALL), tmp_path / "theirs", flat=True)


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


@torch.no_grad()
def distance(theirs: nn.Module, ours: nn.Module, size: int | None = None) -> float:
    """The largest absolute difference of the two outputs, on pixels and on labels where there are any."""
    generator = torch.Generator().manual_seed(1)
    config = theirs.config
    size = size or config["sample_size"]
    x = torch.randn(2, config["in_channels"], size, size, generator=generator)
    t, ids = torch.tensor([999, 20]), torch.tensor([3, 0])
    one_hot = None
    if config["num_class_embeds"]:
        one_hot = torch.nn.functional.one_hot(ids, config["num_class_embeds"]).float()
    expected = theirs(x, t, class_labels=None if one_hot is None else ids).sample
    assert expected.std() > 0.1  # or agreement would mean nothing
    return (ours(x, t, one_hot) - expected).abs().max().item()


# ---- there and back ----


@pytest.mark.parametrize("name", NETWORKS)
def test_what_diffusers_saved_computes_the_same_here_and_back_there(name, tmp_path):
    """Under 1e-4 in float32 (5e-6 seen); back in diffusers every tensor bit for bit, and every key of the config.

    Nested and flat, safetensors and .bin, in turn.
    """
    flat, safe = list(NETWORKS).index(name) % 2 == 0, list(NETWORKS).index(name) % 3 != 0
    theirs = peer(NETWORKS[name])
    run = load(save(theirs, tmp_path / "theirs", flat, safe))
    assert distance(theirs, run.model) < 1e-4
    assert cli.run(["export", str(tmp_path / "theirs"), "back", "--format", "diffusers"]) == 0
    back = diffusers.DDPMPipeline.from_pretrained("back").unet
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key
    assert len(back.state_dict()) == len(theirs.state_dict())
    for key, value in theirs.config.items():
        if key[0] != "_" and (key, value) != ("act_fn", "swish"):
            same = list(value) if isinstance(value, tuple) else value
            assert back.config[key] == value or list(back.config[key]) == same, key


@pytest.mark.parametrize("name", NETWORKS)
def test_reading_and_writing_a_config_are_inverse(name):
    """Each of our arguments says what it said, after there and back. Fails when one is forgotten on either way."""
    theirs = {**diffusers.UNet2DModel(**NETWORKS[name]).config, "_class_name": "UNet2DModel"}
    ours = interop.read_network(json.loads(json.dumps(theirs)))
    assert interop.read_network(interop.write_network(ours, embedding=bool(ours["label_dim"]))) == ours
    assert UNet(**ours).config == ours


def test_cifar10_in_full(tmp_path):
    theirs = peer(CIFAR10)
    run = load(save(theirs, tmp_path, flat=True, variance_type="fixed_large"))
    assert sum(parameter.numel() for parameter in run.model.parameters()) == 35_746_307
    assert len(run.model.state_dict()) == 328 and run.config.diffusion.variance == "fixed_large"
    assert distance(theirs, run.model) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("config", "count"), [(CELEBAHQ, 113_673_219), (LAB, 113_686_019)], ids=["celebahq", "lab"])
def test_the_large_ones_in_full(config, count, tmp_path):
    """All of the architecture; an image of 64x64, which it takes as well. The lab's with its linear label layer."""
    theirs = peer(config)
    if config is LAB:
        theirs.class_embedding = nn.Linear(24, 512)
    run = load(save(theirs, tmp_path, num_train_timesteps=1200 if config is LAB else 1000))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()  # 455 MB
    assert sum(parameter.numel() for parameter in run.model.parameters()) == count
    if config is LAB:
        assert distance_with_labels(theirs, run.model) < 1e-4
    else:
        assert distance(theirs, run.model, size=64) < 1e-4


@torch.no_grad()
def distance_with_labels(theirs: nn.Module, ours: UNet) -> float:
    """With multi-hot labels, which the linear layer takes; for it alone, `theirs` has a class_embedding by hand."""
    generator = torch.Generator().manual_seed(1)
    size = theirs.config["sample_size"]
    x = torch.randn(2, 3, size, size, generator=generator)
    labels = torch.randint(2, (2, ours.label_dim), generator=generator).float()
    t = torch.tensor([1100, 3])
    expected = theirs(x, t, class_labels=labels).sample
    assert (ours(x, t) - expected).abs().max() > 1e-2  # the labels matter
    return (ours(x, t, labels) - expected).abs().max().item()


def test_a_linear_label_layer_is_found_in_the_weights(tmp_path, capsys):
    """The 2023 lab set it by hand, so no config mentions it; written back, it is in the weights again, and said."""
    theirs = peer(SMALL)
    theirs.class_embedding = nn.Linear(6, 64)
    randomise(theirs)
    run = load(save(theirs, tmp_path / "theirs"))
    assert run.config.network.label_dim == 6 and not run.config.source.one_hot
    assert distance_with_labels(theirs, run.model) < 1e-4
    assert cli.run(["export", str(tmp_path / "theirs"), "back"]) == 0
    assert "set unet.class_embedding = torch.nn.Linear(6, 64)" in capsys.readouterr().out
    back = load_file("back/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(back[key], tensor) for key, tensor in theirs.state_dict().items())
    assert len(back) == len(theirs.state_dict())


@pytest.mark.parametrize("convolutions", [False, True])
def test_the_first_names_of_attention_layers(convolutions, folder):
    """query, key, value, proj_attn, as the google/ddpm files have them; and as 1x1 convolutions."""
    theirs = peer(SMALL)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for new, first in old.items():
                if f".{new}." in name:
                    tensor = tensors.pop(name)
                    convolve = convolutions and tensor.ndim == 2
                    tensors[name.replace(new, first)] = tensor[..., None, None] if convolve else tensor

    edit_weights(folder, rename)
    assert distance(theirs, load(folder).model) < 1e-4


def test_half_precision_becomes_float32(folder):
    edit_weights(folder, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    assert {tensor.dtype for tensor in open_checkpoint(folder).tensors.values()} == {torch.float32}
    assert distance(peer(SMALL), load(folder).model) < 0.05


# ---- every key of the configs ----


def test_null_and_absent_head_dimensions_are_two_things():
    """Loaded silently the wrong way round, it computes something else."""
    config = interop.write_network(UNet(image_size=16, channels=(16, 32), attention=(0, 1), norm_groups=8).config)
    assert config["attention_head_dim"] is None and interop.read_network(config)["head_dim"] is None
    del config["attention_head_dim"]
    assert interop.read_network(config)["head_dim"] == 8


def test_a_norm_over_channels_has_no_config_of_diffusers():
    with pytest.raises(UserError, match="`norm` is channel, and every UNet2DModel of diffusers has group norms"):
        interop.write_network(UNet(image_size=16, channels=(16, 32), attention=(0, 1), norm="channel").config)


def test_what_is_left_out_is_diffusers_default():
    """All of them: our own defaults are those of DDPM, which differ."""
    theirs = {**diffusers.UNet2DModel(sample_size=32).config, "_class_name": "UNet2DModel"}
    short = {"_class_name": "UNet2DModel", "sample_size": 32}
    assert interop.read_network(short) == interop.read_network(json.loads(json.dumps(theirs)))


def test_every_key_of_diffusers_is_known():
    """Fails when a new version has a new one: then it must be looked at, and said what it means."""
    keys = set(inspect.signature(diffusers.UNet2DModel.__init__).parameters) - {"self", "args", "kwargs"}
    assert keys <= {*interop.SETTINGS, *interop.FIXED, *interop.APART}
    for name in scheduler_config.SCHEDULERS:
        keys = set(inspect.signature(getattr(diffusers, name).__init__).parameters) - {"self"}
        assert keys <= {*scheduler_config.TRAINED, *scheduler_config.SAMPLING, *scheduler_config.FLOW}, name


BAD_NETWORKS = {
    "another class": ({"_class_name": "UNet2DConditionModel"}, "is of the class UNet2DConditionModel"),
    "no class": ({"_class_name": ...}, "names no class"),
    "gelu": ({"act_fn": "gelu"}, 'act_fn "gelu" .it knows "silu" or "swish"'),
    "fourier": ({"time_embedding_type": "fourier"}, 'time_embedding_type "fourier" .it knows "positional"'),
    "centred": ({"center_input_sample": True}, "center_input_sample true"),
    "scaled middle": ({"mid_block_scale_factor": 1.4142}, "mid_block_scale_factor 1.4142"),
    "no middle": ({"mid_block_type": None}, "mid_block_type null"),
    "no norm in the middle": (
        {"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups null .it knows 8.",
    ),
    "spatial": ({"resnet_time_scale_shift": "spatial"}, 'resnet_time_scale_shift "spatial"'),
    "resnet down": ({"downsample_type": "resnet"}, "downsample_type"),
    "resnet up": ({"upsample_type": "resnet"}, "upsample_type"),
    "classes as timesteps": ({"class_embed_type": "timestep"}, "class_embed_type"),
    "time width": ({"time_embedding_dim": 100}, "time_embedding_dim 100 .it knows null or 64"),
    "other groups": ({"attn_norm_num_groups": 4}, "attn_norm_num_groups 4 .it knows null or 8"),
    "skip blocks": ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "the block SkipDownBlock2D"),
    "not mirrored": ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "do not mirror"),
    "unknown key": ({"flux": 3}, "the key flux, of which nothing is known"),
    "several": ({"act_fn": "mish", "flux": 1, "capacitor": 2, "upsample_type": "resnet"}, "and 1 more"),
    "words": ({"layers_per_block": "two"}, 'layers_per_block is "two"'),
    "a bool": ({"norm_num_groups": True}, "norm_num_groups is true"),
    "no channels": ({"block_out_channels": []}, "block_out_channels"),
    "a null": ({"norm_num_groups": None}, "norm_num_groups is null"),
    "no size": ({"sample_size": None}, "sample_size is null"),
    "oblong": ({"sample_size": [16, 32]}, "sample_size is .16, 32."),
    "huge": ({"sample_size": 1_000_000_000}, "image_size 1000000000 is beyond 8192"),
    "endless": ({"layers_per_block": 1_000_000_000}, "layers_per_block 1000000000 is beyond 64"),
    "negative eps": ({"norm_eps": -1.0}, "norm_eps -1.0 is not above 0"),
    "odd size": ({"sample_size": 15}, "15 does not divide by 2"),
    "odd groups": ({"norm_num_groups": 5}, "do not divide into 5 norm groups"),
    "odd heads": ({"attention_head_dim": 5}, "head_dim 5 does not divide"),
    "levels": ({"block_out_channels": [16, 32, 64]}, "describes no network that can be built"),
    "latents": ({"in_channels": 4, "out_channels": 4}, "takes 4 channels and gives 4"),
    "learned variance": ({"out_channels": 6}, "takes 3 channels and gives 6"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_a_network_that_is_not_ours_is_named(name, folder, capsys):
    """Through the command, as one line; nothing is written."""
    changes, message = BAD_NETWORKS[name]
    edit(folder / "config.json", **changes)
    refused(folder, message, capsys)


def refused(source: Path | str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By `minidiff.load` and `minidiff import` alike, in one line that begins the same."""
    with pytest.raises(UserError, match=message):
        open_checkpoint(source)
    before = sorted(os.listdir())
    assert cli.run(["import", str(source), "runs/new"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("Error: ") and said.err.count("\n") == 1 and len(said.err) < 700 and not said.out
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("harmless", [
    {"time_embedding_dim": 64}, {"attn_norm_num_groups": 8}, {"num_train_timesteps": 1000}, {"sample_size": [16, 16]},
    {"down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"]}, {"_name_or_path": "x"},
], ids=str)  # fmt: skip
def test_the_same_said_otherwise(harmless, folder):
    edit(folder / "config.json", **harmless)
    assert distance(peer(SMALL), load(folder).model) < 1e-4


# ---- schedules ----

NAMELESS = {"schedule": "betas", "timesteps": 30, "beta_start": None, "beta_end": None}
SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # theirs; what of ours is not the default
    "linear": ({}, {}),
    "another T": ({"num_train_timesteps": 1200}, {"timesteps": 1200}),
    "DehazeDDPM": ({"num_train_timesteps": 2000, "beta_start": 1e-6, "beta_end": 0.01},
                   {"timesteps": 2000, "beta_start": 1e-6, "beta_end": 0.01}),
    "cosine": ({"beta_schedule": "squaredcos_cap_v2"}, {"schedule": "cosine", "beta_start": None, "beta_end": None}),
    "scaled": ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
               {"schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    "v, zero SNR": ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
                    {"prediction": "v", "zero_terminal_snr": True}),
    "x0": ({"prediction_type": "sample"}, {"prediction": "x0"}),
    "fixed_large": ({"variance_type": "fixed_large"}, {"variance": "fixed_large"}),
    "in logarithms": ({"variance_type": "fixed_small_log"}, {}),
    "by DDIM": ({"_class_name": "DDIMScheduler", "clip_sample": False}, {}),
    "a list that is linear": ({"trained_betas": torch.linspace(1e-4, 0.02, 1000).tolist()}, {}),
    "a list": ({"trained_betas": [1e-4, 0.3, 0.2] * 10, "num_train_timesteps": 30}, NAMELESS),
    "a list, v, zero SNR": ({"trained_betas": [1e-4, 0.3, 0.2] * 10, "num_train_timesteps": 30,
                             "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
                            NAMELESS | {"prediction": "v", "zero_terminal_snr": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_there_and_back(name, tmp_path):
    """The levels are diffusers' own to its float32 (1e-5 of alpha_bar), from its file and in the file written back."""
    theirs, ours = SCHEDULES[name]
    save(peer(SMALL), tmp_path / "theirs", **theirs)
    run = load(tmp_path / "theirs")
    expected = pipeline_default() | ours
    given = {key: getattr(run.config.diffusion, key) for key in expected}
    assert given == pytest.approx(expected) and run.model.prediction == expected["prediction"]
    kind = getattr(diffusers, theirs.get("_class_name", "DDPMScheduler"))
    alphas = kind.from_pretrained(tmp_path / "theirs" / "scheduler").alphas_cumprod
    torch.testing.assert_close(run.schedule.alphas_cumprod.float(), alphas, rtol=0, atol=1e-5)
    assert cli.run(["export", str(tmp_path / "theirs"), "back"]) == 0
    back = diffusers.DDPMPipeline.from_pretrained("back").scheduler
    torch.testing.assert_close(back.alphas_cumprod, alphas, rtol=0, atol=1e-6)
    again, before = to_json(load("back").config.diffusion), to_json(run.config.diffusion)
    assert again.pop("betas") == before.pop("betas") and again == pytest.approx(before)
    for key in ("prediction_type", "rescale_betas_zero_snr"):
        assert back.config[key] == theirs.get(key, back.config[key])


def pipeline_default() -> dict[str, Any]:
    return {
        "schedule": "linear", "timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "prediction": "eps",
        "min_snr_gamma": None, "zero_terminal_snr": False, "variance": "fixed_small",
    }  # fmt: skip


@pytest.mark.parametrize("T", [10, 300])
def test_betas_scaled_to_another_T_are_written_as_they_are(T):
    """minidiff's linear default depends on T, and holds betas under 0.999: at T = 10 no named range gives them."""
    schedule = Schedule.linear(T)
    diffusion = pipeline_default() | {"timesteps": T, "beta_start": None, "beta_end": None}
    written = scheduler_config.write_diffusion(diffusion, schedule)
    back = diffusers.DDPMScheduler.from_config(written)
    torch.testing.assert_close(back.betas, schedule.betas.float(), rtol=1e-6, atol=0)


BAD_SCHEDULERS = {
    "another class": ({"_class_name": "ScoreSdeVeScheduler"}, "is of the class ScoreSdeVeScheduler"),
    "sigmoid": ({"beta_schedule": "sigmoid"}, 'beta_schedule is "sigmoid" .known: linear'),
    "learned": ({"variance_type": "learned_range"}, "would have to predict its variance"),
    "flow": ({"prediction_type": "flow_prediction"}, 'prediction_type is "flow_prediction"'),
    "flow sigmas": ({"use_flow_sigmas": True}, "use_flow_sigmas is true"),
    "a list beyond 1": ({"trained_betas": [1e-4, 1.3] * 15, "num_train_timesteps": 30}, "betas run from 0.0001 to 1.3"),
    "a short list": ({"trained_betas": torch.linspace(1e-4, 0.02, 500).tolist()}, "500 trained_betas for 1000"),
    "a word": ({"trained_betas": "linear"}, "trained_betas is 'linear', and not a list"),
    "T": ({"num_train_timesteps": 0}, "T = 0 timesteps is empty"),
    "T in words": ({"num_train_timesteps": "1000"}, 'num_train_timesteps is "1000"'),
    "negative": ({"beta_start": -1.0}, "betas run from -1"),
    "unknown key": ({"flux": 1}, "the key flux"),
    "a list for a name": ({"beta_schedule": ["linear"]}, "beta_schedule is"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SCHEDULERS)
def test_a_diffusion_that_is_not_ours_is_named(name, folder, capsys):
    changes, message = BAD_SCHEDULERS[name]
    edit(folder / "scheduler_config.json", **changes)
    refused(folder, message, capsys)


def test_a_scheduler_that_samples_otherwise_is_noted(folder, capsys):
    edit(folder / "scheduler_config.json", clip_sample=False)
    assert cli.run(["import", str(folder), "new"]) == 0
    assert "note      its scheduler, a DDPMScheduler, does not clip" in capsys.readouterr().out


# ---- damaged and missing files ----


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


def weights_of(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    return lambda folder: edit_weights(folder, change)


def as_bin(content: object) -> Callable[[Path], None]:
    """The weights replaced by a .bin of this."""

    def replace(folder: Path) -> None:
        (folder / "diffusion_pytorch_model.safetensors").unlink()
        path = folder / "diffusion_pytorch_model.bin"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)

    return replace


def cut(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def sharded(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    path.rename(folder / "diffusion_pytorch_model-00001-of-00002.safetensors")


BIAS = "down_blocks.0.resnets.0.conv1.bias"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no scheduler": (lambda folder: (folder / "scheduler_config.json").unlink(), "has no scheduler_config.json"),
    "no weights": (lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(), "has no weights"),
    "in shards": (sharded, "00001-of-00002.safetensors' without an index cannot be read"),
    "config cut": (lambda folder: (folder / "config.json").write_text('{"_class_name": "UNet2'), "is no JSON"),
    "config a list": (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
    "config binary": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), "is no JSON"),
    "weights cut": (cut, "safetensors is damaged"),
    "weights empty": (as_bin(b""), "bin is damaged .cut short"),
    "weights text": (as_bin(b"hello, I am a web page"), "bin is damaged .cut short"),
    "no table": (as_bin([torch.zeros(1)]), "holds a list, not a table of tensors"),
    "runs code": (as_bin({"a": Evil()}), "asks to call (posix|nt|os).system, which was not done"),
    "one missing": (weights_of(lambda tensors: tensors.pop(BIAS)), f"{BIAS} is missing. Nothing was loaded"),
    "one too many": (weights_of(lambda tensors: tensors.update(more=torch.ones(1))), "more is not of this network"),
    "both names": (
        weights_of(lambda t: t.update({"mid_block.attentions.0.query.bias": torch.ones(32)})),
        "mid_block.attentions.0.query.bias is not of this network",
    ),
    "another shape": (weights_of(lambda t: t.update({BIAS: torch.ones(7)})), r"conv1.bias is .7., not .16."),
    "integers": (weights_of(lambda t: t.update({BIAS: t[BIAS].int()})), "conv1.bias holds int32, not float32"),
    "many missing": (weights_of(lambda tensors: [tensors.pop(name) for name in list(tensors)[:9]]), "and 6 more"),
    "not tensors": (as_bin({"conv_in.weight": 3}), "conv_in.weight is not a tensor"),
    "a pipeline of more": (
        lambda folder: (folder / "model_index.json").write_text(
            '{"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}'
        ),
        "is a LDMPipeline, which has vqvae beside its network",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_or_does_not_fit_is_one_line(name, folder, capsys):
    damage, message = DAMAGE[name]
    damage(folder)
    refused(folder, message, capsys)
    assert not Path("evil").exists()


def test_a_plain_pickle_is_refused_without_a_warning():
    """torch warns about pickles of other protocols than its own: lines that help nobody."""
    Path("weights.bin").write_bytes(pickle.dumps({"a": Evil()}, protocol=4))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(UserError, match="bin is damaged"):
            read_tensor_file(Path("weights.bin"))
    assert not seen and not Path("evil").exists()


LUCID = {  # what a Unet(dim=8, dim_mults=(1, 2)) of denoising-diffusion-pytorch 2.3.4 holds, in part
    "init_conv.weight": (8, 3, 7, 7), "time_mlp.1.weight": (32, 8), "downs.0.0.block1.proj.weight": (8, 8, 3, 3),
    "downs.0.0.block1.norm.g": (1, 8, 1, 1), "downs.0.2.mem_kv": (2, 4, 32, 4), "downs.0.3.1.weight": (8, 32, 1, 1),
    "downs.1.3.weight": (16, 8, 3, 3), "final_conv.weight": (3, 8, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("form", ["bare", "diffusion", "trainer"])
def test_a_checkpoint_of_denoising_diffusion_pytorch_is_told_what_it_is(form, capsys):
    bare = {name: torch.zeros(shape) for name, shape in LUCID.items()}
    inner = {"betas": torch.zeros(10)} | {f"model.{name}": tensor for name, tensor in bare.items()}
    averaged = {"step": torch.tensor(7)} | {f"ema_model.{name}": tensor for name, tensor in inner.items()}
    trainer = {"step": 70_000, "model": inner, "opt": {}, "ema": averaged, "scaler": None, "version": "2.3.4"}
    torch.save({"bare": bare, "diffusion": inner, "trainer": trainer}[form], "model-7.pt")
    size = "dim 8, mults 1,2" + (", 70,000 steps" if form == "trainer" else "")
    refused("model-7.pt", rf"is of denoising-diffusion-pytorch .{size}..*RMSNorm", capsys)
    refused(".", "is of denoising-diffusion-pytorch", capsys)
    with pytest.raises(UserError, match="denoising-diffusion-pytorch"):
        load("model-7.pt")


def test_weights_by_themselves_are_told_what_they_lack(folder, capsys):
    refused(folder / "diffusion_pytorch_model.safetensors", "holds weights without their settings", capsys)
    torch.save({"w": torch.zeros(1)}, "some.pt")
    refused("some.pt", "does not know the network", capsys)


# ---- the Hub ----


class Hub:
    """Stands in for huggingface_hub: `owner/name` is a folder here, and what is asked of it is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.error = folder, [], None

    def snapshot_download(self, name: str, allow_patterns: list[str]) -> str:
        self.asked.append((name, allow_patterns))
        if self.error:
            raise self.error
        return str(self.folder)


@pytest.fixture()
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=hub.snapshot_download))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return hub


def test_a_name_on_the_hub_is_a_run(hub, capsys):
    """Sampled at once, from an image too; nothing is written but the pictures, and .bin is not asked for in vain."""
    assert cli.run(["sample", "google/ddpm-small", "-n", "1", "--steps", "2", "--out", "a.png"]) == 0
    sample = ["sample", "google/ddpm-small", "--start-t", "1", "--init", "a.png", "--out", "b.png"]
    assert cli.run(sample) == 0
    assert not Path("runs").exists() and Path("b.png").exists()
    assert {name for name, _ in hub.asked} == {"google/ddpm-small"}
    assert not any(pattern.endswith(".bin") for _, patterns in hub.asked for pattern in patterns)
    assert load("google/ddpm-small").config.data.name == "google/ddpm-small"
    with pytest.raises(UserError, match="one set of weights"):
        load("google/ddpm-small", weights="raw")


def test_a_repository_without_safetensors_is_asked_for_its_bin(hub, folder):
    save(peer(SMALL), folder, flat=True, safe=False)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    assert distance(peer(SMALL), load("google/ddpm-small").model) < 1e-4
    asked = [patterns[1] for _, patterns in hub.asked]
    assert asked[0] == TENSOR_FILES[0] and asked[-1] == TENSOR_FILES[1]


def test_a_folder_here_comes_before_the_hub(hub, tmp_path):
    """And what looks like a path, mistyped, is not asked for on the Hub."""
    save(peer(SMALL, seed=1), tmp_path / "google" / "ddpm-small")
    assert distance(peer(SMALL, seed=1), load("google/ddpm-small").model) < 1e-4
    for path in ("google/other", "runs/mistyped", "./a/b", "../a", "a/b/c", "nothing", "results/model-1.pt"):
        with pytest.raises(UserError, match="does not exist"):
            load(path)
    assert not hub.asked


@pytest.mark.parametrize(
    ("kind", "offline", "message"),
    [
        ("RepositoryNotFoundError", "0", "has no such model, or it is private"),
        ("GatedRepoError", "0", "only some read it"),
        ("LocalEntryNotFoundError", "0", "cannot be reached, nor is it in its cache"),
        ("LocalEntryNotFoundError", "1", "not in the Hub's cache, with HF_HUB_OFFLINE set"),
        ("HFValidationError", "0", "not a name of the Hugging Face Hub either"),
        ("SomethingNew", "0", "did not give it .details."),
    ],
)
def test_what_the_hub_refuses_is_one_line(kind, offline, message, hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    hub.error = type(kind, (OSError,), {})("details\nand a long explanation")
    refused("google/ddpm-small", f"google/ddpm-small is no folder here, and .*{message}", capsys)


def test_without_huggingface_hub_it_is_said_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("google/ddpm-small", "pip install 'minidiff.hub.'", capsys)


def test_the_real_hub_s_cache_is_used_offline(folder, tmp_path):
    """Its own layout, in its own process: the library reads its settings when it is imported."""
    pytest.importorskip("huggingface_hub")
    commit = "0123456789" * 4
    home = tmp_path / "home" / "hub" / "models--google--ddpm-small"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots").mkdir()
    folder.rename(home / "snapshots" / commit)
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    env.pop("HF_HUB_CACHE", None)
    code = "import minidiff; print(minidiff.load('google/ddpm-small').schedule)\n"
    code += "from minidiff.cli import run; run(['sample', 'google/another', '--steps', '2'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "Schedule(T=1000" in done.stdout and "Traceback" not in done.stderr
    assert "google/another is no folder here, and it is not in the Hub's cache" in done.stderr


# ---- run folders, and out again ----


def test_import_writes_a_run_that_every_command_takes(folder, capsys, monkeypatch):
    assert cli.run(["import", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "253,123 parameters" in said and "written   runs/theirs" in said
    assert sorted(os.listdir("runs/theirs")) == ["config.json", "model.safetensors"]
    assert os.listdir("runs") == ["theirs"]
    imported, direct = load("runs/theirs"), load(folder)
    for key, tensor in direct.model.state_dict().items():
        assert torch.equal(imported.model.state_dict()[key], tensor)
    assert imported.config == direct.config and checkpoint.list_runs(kind="ddpm")[0] == Path("runs/theirs")
    assert cli.run(["info", "runs/theirs"]) == 0 and cli.run(["info"]) == 0
    said = capsys.readouterr().out
    assert "of diffusers" in said and "253,123 in 208 tensors" in said and "16x16, from " in said
    assert cli.run(["sample", "--steps", "2", "-n", "2", "--out", "out.npz"]) == 0
    job = with_dip.begin(image(), "runs/theirs", RestoreRequest(start_t=5))
    assert job.config.model == os.path.abspath("runs/theirs")
    save(peer(SMALL), Path("nested"))
    for place in ("runs/theirs", "nested", str(folder)):  # as `minidiff fid` takes them
        drawn = open_place(place, num=3, steps=2)
        assert isinstance(drawn, sources.ImageSource) and sum(len(batch) for batch in drawn.batches(2)) == 3
    capsys.readouterr()
    assert cli.run(["train", "ddpm", "--resume", "runs/theirs"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no training to go on with" in said


def test_a_script_imports_and_exports_as_the_commands_do(folder):
    """There and back: the weights are those of the checkpoint, and nothing is lost on the way."""
    found = minidiff.import_run(folder)
    assert found.folder == Path("runs/theirs") and found.parameters == 253_123 and found.config.source is not None
    assert minidiff.export_run(found.folder, "back") == []
    weights = "diffusion_pytorch_model.safetensors"
    one, two = load_file(folder / weights), load_file(f"back/unet/{weights}")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(UserError, match="unknown format 'onnx'"):
        minidiff.export_run(found.folder, "other", "onnx")


def image() -> str:
    write_image("picture.png", np.full((16, 16, 3), 100, np.uint8))
    return "picture.png"


def test_a_picture_can_be_restored_by_a_name_on_the_hub(hub, folder):
    """The run remembers where the files are, not the name: it must be found again from another folder."""
    job = with_dip.begin(image(), "google/ddpm-small", RestoreRequest(start_t=5))
    assert job.config.model == str(folder)


def test_nothing_is_written_over(folder, capsys, monkeypatch):
    for command in (["import", str(folder), "taken"], ["export", str(folder), "taken"]):
        Path("taken").mkdir(exist_ok=True)
        Path("taken/mine").write_text("mine")
        assert cli.run(command) == 1
        assert "taken exists and is not an empty folder" in capsys.readouterr().err
        with pytest.raises(UserError, match="taken exists and is not an empty folder"):  # from a script, too
            write_run(Path("taken"), {}, {})
        Path("taken/mine").unlink()
        assert cli.run(command) == 0  # an empty one is fine
        assert not Path("taken/mine").exists() and os.listdir("taken")
        for path in sorted(Path("taken").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_a_write_that_fails_leaves_nothing(folder, capsys, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for writer in ("interop.writing.write_atomically", "runs.folder.write_atomically"):
        monkeypatch.setattr(f"minidiff.{writer}", full)
    for command in (["import", str(folder), "new/run"], ["export", str(folder), "new/run"]):
        assert cli.run(command) == 1
        assert "No space left" in capsys.readouterr().err
        assert not Path("new/run").exists() and not list(Path("new").iterdir())


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_a_run_of_ours_is_the_same_pipeline_in_diffusers(weights, trained):
    """The whole chain, from the same noise, step by step: within 1e-4, with the weights asked for."""
    assert cli.run(["export", str(trained), "out", "--weights", weights]) == 0
    chains_agree(load(trained, weights), "out")


def chains_agree(run: pipeline.Run, place: str) -> None:
    """DDPM's chain on every timestep, both with a generator of the same seed."""
    theirs = diffusers.DDPMPipeline.from_pretrained(place)
    theirs.scheduler.set_timesteps(run.schedule.T)
    x = y = torch.randn(2, *run.shape, generator=torch.Generator().manual_seed(0))
    one, other = (torch.Generator().manual_seed(1) for _ in range(2))
    variance = run.config.diffusion.variance
    chain = SAMPLERS["ddpm"](run.denoiser(), run.schedule, x, generator=one, variance=variance)
    worst = 0.0
    with torch.no_grad():
        for t, step in zip(theirs.scheduler.timesteps, chain, strict=True):
            y = theirs.scheduler.step(theirs.unet(y, t).sample, t, y, generator=other).prev_sample
            assert step.t == t
            worst = max(worst, (step.x - y).abs().max().item())
    assert worst < 1e-4


@pytest.mark.parametrize(
    "diffusion",
    [{"schedule": "cosine", "prediction": "v"}, {"prediction": "v", "zero_terminal_snr": True},
     {"variance": "fixed_large"}, {"schedule": "scaled_linear", "prediction": "x0"}],
    ids=str,
)  # fmt: skip
def test_other_diffusions_are_the_same_pipeline_too(diffusion, tmp_path):
    network = UNet(image_size=16, channels=(16, 32), attention=(False, True), norm_groups=8)
    randomise(network)
    ours = pipeline_default() | {"timesteps": 60, "beta_start": None, "beta_end": None} | diffusion
    data = {"name": "test", "image_size": 16, "channels": 3}
    config = {
        "minidiff": "0.1.0",
        "kind": "ddpm",
        "data": data,
        "network": network.config,
        "diffusion": ours,
        "training": {},
        "source": {"format": "diffusers", "place": "test", "notes": []},
    }
    write_run(tmp_path / "run", config, network.state_dict())
    assert cli.run(["export", str(tmp_path / "run"), "out"]) == 0
    chains_agree(load(tmp_path / "run"), "out")


def test_export_of_what_is_no_run(capsys):
    for source, message in (("nothing", "does not exist"), (".", "not a run folder")):
        assert cli.run(["export", source, "out"]) == 1
        assert message in capsys.readouterr().err
    assert cli.run(["export", ".", "out", "--format", "onnx"]) == 2
    assert "unknown format 'onnx'. Known: diffusers" in capsys.readouterr().err


def test_untidy_files_of_weights_are_one_line(folder, capsys):
    """Tensors that are sparse, without content, or not finite; names that are no words; a table of nothing."""
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    name = "conv_in.weight"
    broken = tensors[name].clone()
    broken.view(-1)[0] = float("nan")
    save_file(tensors | {name: broken}, weights)
    refused(folder, f"{name} holds NaN or infinity", capsys)
    weights.unlink()
    for change, message in (
        ({name: tensors[name].flatten(1).to_sparse()}, f"{name} is torch.sparse_coo on cpu, not a plain tensor"),
        ({name: tensors[name].to("meta")}, f"{name} is torch.strided on meta, not a plain tensor"),
        ({7: tensors[name]}, "not a table of tensors"),
    ):
        torch.save(tensors | change, folder / "diffusion_pytorch_model.bin")
        refused(folder, message, capsys)


def test_eps_without_any_signal_is_refused(folder, capsys):
    edit(folder / "scheduler_config.json", rescale_betas_zero_snr=True, prediction_type="epsilon")
    refused(folder, "eps is predicted where there is no signal", capsys)
    edit(folder / "scheduler_config.json", rescale_betas_zero_snr="yes", prediction_type="v_prediction")
    refused(folder, 'rescale_betas_zero_snr is "yes"', capsys)


def test_fixed_large_is_exported_to_end_at_zero():
    """diffusers adds noise after the last call unless that is at t = 0: `trailing` would leave it in the image."""
    for variance, spacing in (("fixed_small", "trailing"), ("fixed_large", "leading")):
        diffusion = {"timesteps": 1000, "schedule": "linear", "prediction": "eps", "variance": variance,
                     "zero_terminal_snr": False}  # fmt: skip
        scheduler = diffusers.DDPMScheduler.from_config(scheduler_config.write_diffusion(diffusion, Schedule.linear()))
        scheduler.set_timesteps(50)
        assert scheduler.config.timestep_spacing == spacing
        assert variance == "fixed_small" or scheduler.timesteps[-1] == 0


def test_what_a_checkpoint_does_otherwise_is_said_when_it_is_sampled(folder, capsys):
    edit(folder / "scheduler_config.json", thresholding=True, dynamic_thresholding_ratio=0.99, sample_max_value=2)
    assert cli.run(["sample", str(folder), "--steps", "2", "-n", "1", "--out", "out.png"]) == 0
    said = capsys.readouterr().err
    assert "Warning: its scheduler, a DDPMScheduler, divides" in said and "--threshold 0.99" in said
