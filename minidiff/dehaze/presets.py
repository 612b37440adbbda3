"""The presets of `minidiff train dehaze`."""

from dataclasses import dataclass

from minidiff.dehaze.config import GuessLoss
from minidiff.networks.configs import GUNetConfig
from minidiff.training.config import TrainConfig


@dataclass(frozen=True)
class GuessPreset:
    """A preset of stage 1. image_size: of the squares that are cut out of photographs."""

    help: str
    image_size: int
    network: GUNetConfig
    training: TrainConfig
    loss: GuessLoss = GuessLoss()  # noqa: RUF009 - a frozen record


SMALL = GUNetConfig(channels=(32, 64, 96, 128), blocks=(2, 2, 2, 4))

GUESS_PRESETS: dict[str, GuessPreset] = {
    "cpu": GuessPreset(
        "half an hour on one core",
        image_size=128,
        network=SMALL,
        training=TrainConfig(steps=2000, batch_size=8, lr=2e-3, muon=True, warmup=100, decay="cosine", ema_decay=0.99),
    ),
    "gpu": GuessPreset(
        "twice the blocks, larger squares",
        image_size=256,
        network=GUNetConfig(channels=(32, 64, 96, 128), blocks=(4, 4, 4, 8)),
        training=TrainConfig(
            steps=60_000, batch_size=32, lr=1e-3, muon=True, warmup=1000, decay="cosine", ema_decay=0.9995
        ),
    ),
}
