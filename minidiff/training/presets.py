"""Presets: a network and the settings to train it with, named after what they are for.

Everything a preset says can be overridden by an option of its `minidiff train` command. The number of channels of the
images and the labels come from the data, so a preset fits every data set of its size.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One purpose. network: arguments of UNet; diffusion: of the schedule and the loss; training: of TrainConfig."""

    help: str
    image_size: int
    network: dict[str, Any]
    training: dict[str, Any]
    diffusion: dict[str, Any] = field(default_factory=dict)


# What a run is made of unless its preset or an option says otherwise: the choices of the DDPM paper.
DIFFUSION: dict[str, Any] = {
    "schedule": "linear",
    "timesteps": 1000,
    "beta_start": None,  # of the linear schedule; None for both: 1e-4 and 0.02, scaled by 1000 / timesteps
    "beta_end": None,
    "prediction": "eps",
    "min_snr_gamma": None,
    "zero_terminal_snr": False,
    "variance": "fixed_small",
}

# How FID is measured during a training, where it is to be. steps: of the sampler; None: its own default.
FID: dict[str, Any] = {"samples": 10_000, "sampler": "ddim", "steps": 50, "features": "inception", "weights": None}

PRESETS: dict[str, Preset] = {
    "cpu": Preset(
        "a few minutes on a laptop's CPU, recognisable pictures at 32x32",
        image_size=32,
        network={"channels": (32, 64, 96), "layers_per_block": 1, "attention": (False, False, True), "norm_groups": 8,
                 "scale_shift": True},
        diffusion={"schedule": "cosine", "prediction": "v"},
        training={"steps": 600, "batch_size": 32, "lr": 1e-3, "warmup": 100, "decay": "cosine", "ema_decay": 0.995},
    ),
    "gpu": Preset(
        "the CIFAR-10 network in mixed precision where the GPU has it: the default on a GPU",
        image_size=32,
        network={"channels": (128, 256, 256, 256), "attention": (False, True, False, False), "dropout": 0.1},
        training={"steps": 60_000, "batch_size": 128, "lr": 2e-4, "warmup": 1000, "decay": "cosine",
                  "ema_decay": 0.9995},
    ),
    "cifar10": Preset(
        "CIFAR-10 as in the DDPM paper (appendix B): 35.7M parameters, 800,000 steps",
        image_size=32,
        network={"channels": (128, 256, 256, 256), "attention": (False, True, False, False), "dropout": 0.1},
        diffusion={"variance": "fixed_large"},
        training={"steps": 800_000, "batch_size": 128, "lr": 2e-4, "warmup": 5000, "ema_decay": 0.9999},
    ),
    "base-64": Preset(
        "64x64 images: four levels, attention at 16 and 8, cosine schedule as in Improved DDPM",
        image_size=64,
        network={"channels": (128, 256, 384, 512), "attention": (False, False, True, True), "head_dim": 64,
                 "dropout": 0.1},
        diffusion={"schedule": "cosine"},
        training={"steps": 200_000, "batch_size": 128, "lr": 1e-4, "warmup": 2000, "ema_decay": 0.9999},
    ),
    "lab-64": Preset(
        "64x64, the six-level network of the 2023 multi-label course lab: T = 1200, cosine decay",
        image_size=64,
        network={
            "channels": (128, 128, 256, 256, 512, 512), "attention": (False, False, False, False, True, False),
            "head_dim": 8, "norm_eps": 1e-5, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0,
        },
        diffusion={"timesteps": 1200, "beta_start": 1e-4, "beta_end": 0.02},
        training={"steps": 15_000, "batch_size": 96, "lr": 1e-4, "warmup": 500, "decay": "cosine", "ema_decay": 0.999,
                  "weight_decay": 0.01},
    ),
    "celebahq-256": Preset(
        "256x256 as in the DDPM paper (appendix B): 113.7M parameters, six levels, attention at 16",
        image_size=256,
        network={"channels": (128, 128, 256, 256, 512, 512), "attention": (False, False, False, False, True, False)},
        training={"steps": 500_000, "batch_size": 64, "lr": 2e-5, "warmup": 5000, "ema_decay": 0.9999},
    ),
}  # fmt: skip


def default_preset(device_type: str) -> str:
    """`gpu` where there is one, else `cpu`."""
    return "gpu" if device_type == "cuda" else "cpu"


# Of the classifier: network holds arguments of ResNet18.
CLASSIFIER_PRESETS: dict[str, Preset] = {
    "cpu": Preset(
        "a quarter of the width",
        image_size=32,
        network={"width": 16},
        training={"steps": 4000, "batch_size": 64, "lr": 2e-3, "warmup": 200, "decay": "cosine", "weight_decay": 0.05,
                  "ema_decay": 0.998},
    ),
    "gpu": Preset(
        "the width of the paper",
        image_size=32,
        network={"width": 64},
        training={"steps": 12_000, "batch_size": 128, "lr": 2e-3, "warmup": 500, "decay": "cosine",
                  "weight_decay": 0.05, "ema_decay": 0.999},
    ),
}  # fmt: skip

# Of the GANs: network holds arguments of Generator; the critic has the same width. `gpu` has the rate and the batch of
# the papers: DCGAN, section 4; WGAN and WGAN-GP, algorithm 1 of each. In the few steps that a CPU has time for, `cpu`
# gets further at higher ones: docs/gan.md has what was measured.
GAN_TRAINING: dict[str, Any] = {"warmup": 0, "grad_clip": None}
GAN_PRESETS: dict[str, dict[str, Preset]] = {
    kind: {
        "cpu": Preset(
            "a few minutes on a laptop's CPU, a quarter of the width",
            image_size=32,
            network={"latent_dim": 100, "width": 32},
            training=GAN_TRAINING | cpu,
        ),
        "gpu": Preset(
            "figure 1 of DCGAN: 1024, 512, 256 and 128 channels",
            image_size=64,
            network={"latent_dim": 100, "width": 128},
            training=GAN_TRAINING | {"steps": 50_000, "ema_decay": 0.999} | gpu,
        ),
    }
    for kind, cpu, gpu in (
        ("dcgan", {"steps": 2000, "batch_size": 64, "lr": 5e-4, "ema_decay": 0.995}, {"batch_size": 128, "lr": 2e-4}),
        ("wgan", {"steps": 600, "batch_size": 64, "lr": 5e-4, "ema_decay": 0.99}, {"batch_size": 64, "lr": 5e-5}),
        ("wgan-gp", {"steps": 400, "batch_size": 64, "lr": 1e-3, "ema_decay": 0.99}, {"batch_size": 64, "lr": 1e-4}),
    )
}
