"""The presets of `minidiff train classifier`."""

from dataclasses import dataclass

from minidiff.training.config import TrainConfig


@dataclass(frozen=True)
class ClassifierPreset:
    """A preset for one purpose. width: channels of the first stage of the ResNet-18."""

    help: str
    image_size: int
    width: int
    training: TrainConfig


CLASSIFIER_PRESETS: dict[str, ClassifierPreset] = {
    "cpu": ClassifierPreset(
        "a quarter of the width",
        image_size=32,
        width=16,
        training=TrainConfig(
            steps=4000, batch_size=64, lr=2e-3, warmup=200, decay="cosine", weight_decay=0.05, ema_decay=0.998
        ),
    ),
    "gpu": ClassifierPreset(
        "the width of the paper",
        image_size=32,
        width=64,
        training=TrainConfig(
            steps=12_000, batch_size=128, lr=2e-3, warmup=500, decay="cosine", weight_decay=0.05, ema_decay=0.999
        ),
    ),
}
