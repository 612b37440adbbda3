"""The presets of `minidiff train ddpm`: networks and settings of papers, and two for a first try."""

from dataclasses import dataclass

from minidiff.ddpm.config import DiffusionConfig
from minidiff.networks.configs import DiTConfig, UNetConfig
from minidiff.training.config import TrainConfig

DDPM_PAPER = DiffusionConfig()  # what its defaults are


@dataclass(frozen=True)
class DdpmPreset:
    """A preset for one purpose. The network's image_size, channels of the images and labels come from the data."""

    help: str
    image_size: int
    network: UNetConfig
    training: TrainConfig
    diffusion: DiffusionConfig = DDPM_PAPER
    dit: DiTConfig | None = None  # in place of the U-Net, if it is asked for; None: the preset has none


CIFAR10 = UNetConfig(channels=(128, 256, 256, 256), attention=(False, True, False, False), dropout=0.1)

DDPM_PRESETS: dict[str, DdpmPreset] = {
    "cpu": DdpmPreset(
        "a few minutes on a laptop's CPU, recognisable pictures at 32x32",
        image_size=32,
        network=UNetConfig(
            channels=(32, 64, 96), layers_per_block=1, attention=(False, False, True), norm_groups=8, scale_shift=True
        ),
        diffusion=DiffusionConfig(schedule="cosine", prediction="v", timestep_sampling="stratified"),
        training=TrainConfig(steps=600, batch_size=32, lr=3e-3, muon=True, warmup=60, decay="cosine", ema_decay=0.995),
        dit=DiTConfig(width=128, depth=4, heads=4),  # a step takes as long as one of the U-Net
    ),
    "gpu": DdpmPreset(
        "the CIFAR-10 network in mixed precision where the GPU has it: the default on a GPU",
        image_size=32,
        network=CIFAR10,
        diffusion=DiffusionConfig(timestep_sampling="stratified"),
        training=TrainConfig(steps=60_000, batch_size=128, lr=2e-4, warmup=1000, decay="cosine", ema_decay=0.9995),
        dit=DiTConfig(),  # DiT-S/2: 33M parameters, as many as the U-Net has
    ),
    "cifar10": DdpmPreset(
        "CIFAR-10 as in the DDPM paper (appendix B): 35.7M parameters, 800,000 steps",
        image_size=32,
        network=CIFAR10,
        diffusion=DiffusionConfig(variance="fixed_large"),
        training=TrainConfig(steps=800_000, batch_size=128, lr=2e-4, warmup=5000, ema_decay=0.9999),
    ),
    "base-64": DdpmPreset(
        "64x64 images: four levels, attention at 16 and 8, cosine schedule as in Improved DDPM",
        image_size=64,
        network=UNetConfig(
            channels=(128, 256, 384, 512), attention=(False, False, True, True), head_dim=64, dropout=0.1
        ),
        diffusion=DiffusionConfig(schedule="cosine", timestep_sampling="stratified"),
        training=TrainConfig(steps=200_000, batch_size=128, lr=1e-4, warmup=2000, ema_decay=0.9999),
    ),
    "lab-64": DdpmPreset(
        "64x64, the six-level network of the 2023 multi-label course lab: T = 1200, cosine decay",
        image_size=64,
        network=UNetConfig(
            channels=(128, 128, 256, 256, 512, 512),
            attention=(False, False, False, False, True, False),
            head_dim=8,
            norm_eps=1e-5,
            downsample_padding=1,
            flip_sin_to_cos=True,
            freq_shift=0,
        ),
        diffusion=DiffusionConfig(timesteps=1200, beta_start=1e-4, beta_end=0.02),
        training=TrainConfig(
            steps=15_000, batch_size=96, lr=1e-4, warmup=500, decay="cosine", ema_decay=0.999, weight_decay=0.01
        ),
    ),
    "photos": DdpmPreset(
        "photographs, for `minidiff restore`: crops of 64x64, noise up to 122 of 255, on a CPU; then any size",
        image_size=64,
        network=UNetConfig(
            channels=(32, 64, 96),
            attention=(False, False, False),
            mid_attention=False,
            norm="channel",
            scale_shift=True,
        ),
        diffusion=DiffusionConfig(
            prediction="v", timestep_sampling="stratified", trained_below=250, file_noise=0.5, grey=0.2
        ),
        training=TrainConfig(steps=4000, batch_size=8, lr=3e-3, muon=True, warmup=60, decay="cosine", ema_decay=0.998),
    ),
    "celebahq-256": DdpmPreset(
        "256x256 as in the DDPM paper (appendix B): 113.7M parameters, six levels, attention at 16",
        image_size=256,
        network=UNetConfig(
            channels=(128, 128, 256, 256, 512, 512), attention=(False, False, False, False, True, False)
        ),
        training=TrainConfig(steps=500_000, batch_size=64, lr=2e-5, warmup=5000, ema_decay=0.9999),
    ),
}
