"""The presets of `minidiff train dcgan`, `wgan` and `wgan-gp`.

`gpu` has the rate and the batch of the papers: DCGAN, section 4; WGAN and WGAN-GP, algorithm 1 of each. In the few
steps that a CPU has time for, `cpu` gets further at higher rates: docs/gan.md has what was measured.
"""

from dataclasses import dataclass

from minidiff.training.config import TrainConfig


@dataclass(frozen=True)
class GanPreset:
    """A preset for one purpose. latent_dim, width: of the generator; the critic has the same width."""

    help: str
    image_size: int
    latent_dim: int
    width: int
    training: TrainConfig


def cpu(steps: int, lr: float, ema_decay: float) -> GanPreset:
    return GanPreset(
        "a few minutes on a laptop's CPU, a quarter of the width",
        image_size=32,
        latent_dim=100,
        width=32,
        training=TrainConfig(steps=steps, batch_size=64, lr=lr, warmup=0, grad_clip=None, ema_decay=ema_decay),
    )


def gpu(batch_size: int, lr: float) -> GanPreset:
    return GanPreset(
        "figure 1 of DCGAN: 1024, 512, 256 and 128 channels",
        image_size=64,
        latent_dim=100,
        width=128,
        training=TrainConfig(steps=50_000, batch_size=batch_size, lr=lr, warmup=0, grad_clip=None, ema_decay=0.999),
    )


GAN_PRESETS: dict[str, dict[str, GanPreset]] = {
    "dcgan": {"cpu": cpu(2000, lr=5e-4, ema_decay=0.995), "gpu": gpu(batch_size=128, lr=2e-4)},
    "wgan": {"cpu": cpu(600, lr=5e-4, ema_decay=0.99), "gpu": gpu(batch_size=64, lr=5e-5)},
    "wgan-gp": {"cpu": cpu(400, lr=1e-3, ema_decay=0.99), "gpu": gpu(batch_size=64, lr=1e-4)},
}
