"""The presets of `minidiff train dehaze`, for each of its stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minidiff.ddpm.config import DiffusionConfig
from minidiff.dehaze.config import CONDITION, GuessLoss
from minidiff.networks.configs import GUNetConfig, UNetConfig
from minidiff.training.config import TrainConfig

WEIGHED = GuessLoss(transmission=0.1)  # ten times as in PPDM: large pictures rest on T


@dataclass(frozen=True)
class GuessPreset:
    """A preset of stage 1. image_size: of the squares that are cut out of photographs."""

    help: str
    image_size: int
    network: GUNetConfig
    training: TrainConfig
    loss: GuessLoss = WEIGHED


@dataclass(frozen=True)
class RefinePreset:
    """A preset of stage 2. image_size: of what stage 1 sees; crop: of what stage 2 sees of it, `crops` times."""

    help: str
    image_size: int
    network: UNetConfig
    diffusion: DiffusionConfig
    training: TrainConfig
    crop: int
    crops: int
    error: Literal["l1", "l2"] = "l2"
    fourier: float = 0.0
    shift: str = "none"


SMALL = GUNetConfig(channels=(32, 64, 96, 128), blocks=(2, 2, 2, 4))

GUESS_PRESETS: dict[str, GuessPreset] = {
    "cpu": GuessPreset(
        "half an hour on one core",
        image_size=64,
        network=SMALL,
        training=TrainConfig(steps=3000, batch_size=32, lr=3e-3, muon=True, warmup=100, decay="cosine", ema_decay=0.99),
    ),
    "gpu": GuessPreset(
        "twice the blocks, many more steps",
        image_size=64,
        network=GUNetConfig(channels=(32, 64, 96, 128), blocks=(4, 4, 4, 8)),
        training=TrainConfig(
            steps=60_000, batch_size=32, lr=1e-3, muon=True, warmup=1000, decay="cosine", ema_decay=0.9995
        ),
    ),
}


def seeing(channels: tuple[int, ...], layers: int, dropout: float = 0.0) -> UNetConfig:
    """Return a U-Net that sees x_t, J and T; of any size, as it has no attention and norms of each pixel."""
    return UNetConfig(
        in_channels=3 + CONDITION, out_channels=3, channels=channels, layers_per_block=layers, norm="channel",
        attention=(False,) * len(channels), mid_attention=False, dropout=dropout, scale_shift=True,
    )  # fmt: skip


REFINE_PRESETS: dict[str, RefinePreset] = {
    "cpu": RefinePreset(
        "half an hour on one core",
        image_size=256,
        network=seeing((32, 64, 96), layers=1),
        diffusion=DiffusionConfig(schedule="cosine", prediction="v", timestep_sampling="stratified"),
        training=TrainConfig(steps=1500, batch_size=4, lr=2e-3, muon=True, warmup=100, decay="cosine", ema_decay=0.99),
        crop=64,
        crops=2,
    ),
    "gpu": RefinePreset(
        "wider, on larger crops",
        image_size=256,
        network=seeing((64, 128, 192, 256), layers=2),
        diffusion=DiffusionConfig(schedule="cosine", prediction="v", timestep_sampling="stratified"),
        training=TrainConfig(
            steps=60_000, batch_size=16, lr=1e-3, muon=True, warmup=1000, decay="cosine", ema_decay=0.9995
        ),
        crop=128,
        crops=4,
    ),
    "dehazeddpm": RefinePreset(
        "stage 2 as Yu et al. 2023 published it; pictures at sizes that 16 divides",
        image_size=560,
        network=UNetConfig(
            in_channels=3 + CONDITION, out_channels=3, channels=(64, 128, 256, 512, 512), layers_per_block=2,
            attention=(False,) * 5, mid_attention=True, dropout=0.2,
        ),
        diffusion=DiffusionConfig(schedule="linear", timesteps=2000, beta_start=1e-6, beta_end=1e-2),
        training=TrainConfig(steps=1_000_000, batch_size=1, lr=1e-4, warmup=0, grad_clip=None),
        crop=560,
        crops=1,
        error="l1",
        fourier=0.01,
    ),
}  # fmt: skip

PRESETS: dict[int, Mapping[str, GuessPreset | RefinePreset]] = {1: GUESS_PRESETS, 2: REFINE_PRESETS}
