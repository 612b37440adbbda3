"""The presets of `minidiff train dip-prior`."""

from dataclasses import dataclass

from minidiff.training.config import TrainConfig


@dataclass(frozen=True)
class DipPriorPreset:
    """A preset for one purpose. The network is chosen by its name, and has no other settings."""

    help: str
    image_size: int
    training: TrainConfig


DIP_PRIOR_PRESETS: dict[str, DipPriorPreset] = {
    "cpu": DipPriorPreset(
        "a minute and a half on one core with conv2, 22 with resnet18",
        image_size=32,
        training=TrainConfig(steps=1000, batch_size=32, lr=1e-3, warmup=50, decay="cosine", ema_decay=0.99),
    ),
    "gpu": DipPriorPreset(
        "more steps, larger batches",
        image_size=32,
        training=TrainConfig(steps=10_000, batch_size=128, lr=1e-3, warmup=200, decay="cosine", ema_decay=0.999),
    ),
}
