"""Save what was trained by hand, in a loop of one's own, as a run folder that every command takes.

Rests on ddpm and interop, which writes a folder whole or not at all.

run = minidiff.save_run("runs/mine", trainer.ema, schedule, prediction="v")
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minidiff.data.config import DataConfig
from minidiff.ddpm.config import DdpmConfig, DiffusionConfig, Origin, ToldLabels
from minidiff.ddpm.recipe import build_schedule
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.diffusion.predictions import PREDICTIONS, check_prediction
from minidiff.diffusion.schedules import SCHEDULES, Schedule
from minidiff.errors import UserError, lookup
from minidiff.interop.writing import check_new, write_run
from minidiff.networks.configs import DiTConfig, OwnNetwork, UNetConfig
from minidiff.networks.dit import DiT
from minidiff.networks.own import build_own, plain_arguments, try_network, use_network
from minidiff.networks.unet import UNet
from minidiff.networks.weights import load_exactly
from minidiff.records import from_json, to_json

BY_HAND = "a script"  # what `minidiff info` says of where such a run comes from


def save_run(
    folder: str | Path,
    model: nn.Module,
    schedule: Schedule,
    *,
    prediction: str | None = None,
    shape: Sequence[int] | None = None,
    network: str | None = None,
    network_arguments: Mapping[str, Any] | None = None,
    label_names: Sequence[str] = (),
    label_dropout: float = 0.0,
    variance: str = DiffusionConfig.variance,
) -> Run:
    """Save a trained network as a new run folder, and open it. It is drawn from, measured and exported like any run.

    model: a `UNet`, a `DiT`, or any module that takes (x, t); its weights are those to sample from, usually averaged.
    prediction: what it predicts, one of PREDICTIONS; by default its attribute `prediction`, or eps.
    shape: [C,H,W] of an image; these two know it. network, network_arguments: the importable name of another class,
    such as my_module:MyUNet, and what makes this network of it; see `networks.own`.
    label_names: of a network that takes labels. label_dropout: the share of images whose labels were left out in its
    training; 0 is a network that always had them. variance: of the sampler ddpm, one of VARIANCES.
    Raises UserError for a folder that is not empty, and for parts that do not fit each other.
    """
    check_new(Path(folder))
    known = prediction or getattr(model, "prediction", None) or "eps"
    lookup("prediction", known, PREDICTIONS)
    check_prediction(schedule, known)
    described = describe_network(model, shape, network, network_arguments, len(label_names))
    if described.label_dim != len(label_names):
        raise UserError(f"the network takes {described.label_dim} labels, and `label_names` has {len(label_names)}.")
    names = tuple(label_names)
    config = DdpmConfig(
        data=DataConfig(name=BY_HAND, image_size=described.image_size, channels=described.in_channels),
        labels=ToldLabels(names=names, one_hot=False, fingerprint="", dropout=label_dropout) if names else None,
        network=described,
        diffusion=describe_schedule(schedule, known, variance),
        training=None,
        source=Origin(format=BY_HAND, place="minidiff.save_run"),
    )
    write_run(Path(folder), to_json(config), model.state_dict())
    return load_ddpm(folder, device=next(model.parameters()).device)


def describe_network(
    model: nn.Module, shape: Sequence[int] | None, name: str | None, arguments: Mapping[str, Any] | None, labels: int
) -> UNetConfig | DiTConfig | OwnNetwork:
    """Return what config.json says of a network. Raises UserError unless the same network can be made from that."""
    if isinstance(model, UNet | DiT):
        if name is not None or arguments is not None:
            raise UserError(
                f"a {type(model).__name__} knows its arguments, so leave out `network` and `network_arguments`."
            )
        config: UNetConfig | DiTConfig
        if isinstance(model, UNet):
            config = from_json(UNetConfig, model.config, "the network")
        else:
            config = from_json(DiTConfig, model.config, "the network")
        if shape is not None:
            channels, size = square_shape(shape)
            if channels != config.in_channels:
                raise UserError(f"`shape` {list(shape)} is no image of this network, of {config.in_channels} channels.")
            config = replace(config, image_size=size)
        if config.in_channels not in (1, 3) or config.out_channels != config.in_channels:
            raise UserError(f"it takes {config.in_channels} channels and gives {config.out_channels}: no pictures.")
        return config
    if shape is None:
        raise UserError("this network does not say how large its images are. Give `shape`, such as (3, 32, 32).")
    channels, size = square_shape(shape)
    own = OwnNetwork(use_network(name or type(model)), plain_arguments(arguments), size, channels, labels)
    copy = build_own(own)
    load_exactly(copy, model.state_dict(), "the model", f"give the `network_arguments` that make this {own.module}")
    try_network(copy, own)
    return own


def square_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return channels and size of an image of this shape. Raises UserError unless it is grey or colour, and square."""
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise UserError(f"`shape` is {list(shape)}. Give [C,H,W] of a square image, with C 1 (grey) or 3 (colour).")
    return shape[0], shape[1]


def describe_schedule(schedule: Schedule, prediction: str, variance: str) -> DiffusionConfig:
    """Find the name of a schedule, or else list its betas."""
    ends = float(schedule.betas[0]), float(schedule.betas[-1])
    for name in SCHEDULES:
        for zero in (False, True):
            for first, last in ((None, None), ends) if name != "cosine" else ((None, None),):
                found = DiffusionConfig(
                    schedule=name, timesteps=schedule.T, beta_start=first, beta_end=last, prediction=prediction,
                    zero_terminal_snr=zero, variance=variance,
                )  # fmt: skip
                if same(build_schedule(found), schedule):
                    return found
    betas = tuple(schedule.betas.tolist())
    found = DiffusionConfig(
        schedule="betas", timesteps=schedule.T, betas=betas, prediction=prediction, variance=variance
    )
    if not same(build_schedule(found), schedule):
        raise UserError("this schedule's alphas_cumprod do not follow from its betas. Make it by Schedule.from_betas.")
    return found


def same(a: Schedule, b: Schedule) -> bool:
    """Tell whether two schedules have the same levels, but for the last digits of float64."""
    return all(
        torch.allclose(one, other.cpu(), rtol=1e-12, atol=1e-15)
        for one, other in ((a.betas, b.betas), (a.alphas_cumprod, b.alphas_cumprod))
    )
