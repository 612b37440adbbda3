"""The settings of a GAN: what a user can ask for, and what the config.json of its run holds.

Rests on records alone, so that help and `minidiff info` need no torch.
Radford et al. 2016 (DCGAN); Arjovsky et al. 2017 (WGAN); Gulrajani et al. 2017 (WGAN-GP).
"""

from dataclasses import KW_ONLY
from typing import Any, Literal

from minidiff.networks.configs import GeneratorConfig
from minidiff.records import LARGEST_FLOAT, demand, record
from minidiff.training.config import RunConfig, TrainConfig, TrainRequest, check_same, read_as

MOST_TURNS = 1000  # steps of the critic to one of the generator; the papers take up to 100
GanKind = Literal["dcgan", "wgan", "wgan-gp"]


@record
class GameConfig:
    """How generator and critic play against each other."""

    norm: str  # of the critic: one of `networks.gan.NORMS`
    critic_steps: int  # of the critic to each step of the generator
    optimizer: Literal["adam", "rmsprop"]
    betas: tuple[float, float] | None = None  # of adam
    clip: float | None = None  # the critic's weights are kept within +- this; None: they are free
    penalty: float | None = None  # the weight of the gradient penalty; None: there is none

    def __post_init__(self) -> None:
        demand(1 <= self.critic_steps <= MOST_TURNS, "critic_steps", self.critic_steps, f"1 to {MOST_TURNS:,}")
        demand(self.clip is None or 0 < self.clip <= LARGEST_FLOAT, "clip", self.clip, "a number above 0")
        demand(self.penalty is None or 0 < self.penalty <= LARGEST_FLOAT, "penalty", self.penalty, "a number above 0")
        within = self.betas is None or all(0 <= beta < 1 for beta in self.betas)
        demand(within, "betas", self.betas, "two numbers from 0 up to, but not including, 1")
        if self.optimizer == "adam":
            demand(self.betas is not None, "betas", self.betas, "two numbers, which the optimizer adam needs")


GAMES: dict[str, GameConfig] = {
    "dcgan": GameConfig(norm="batch", critic_steps=1, optimizer="adam", betas=(0.5, 0.999)),  # section 4
    "wgan": GameConfig(norm="batch", critic_steps=5, optimizer="rmsprop", clip=0.01),  # algorithm 1
    "wgan-gp": GameConfig(
        norm="layer", critic_steps=5, optimizer="adam", betas=(0.0, 0.9), penalty=10.0
    ),  # algorithm 1
}

# DCGAN's tells real from made, and is called a discriminator; WGAN's gives a score, and is called a critic.
CRITIC_NAMES = {"dcgan": "discriminator", "wgan": "critic", "wgan-gp": "critic"}


@record
class GanConfig(RunConfig):
    """The config.json of a dcgan, wgan or wgan-gp run."""

    _: KW_ONLY
    kind: GanKind
    network: GeneratorConfig
    gan: GameConfig
    training: TrainConfig
    sample_every: int | None = None  # steps between grids of samples; None: the default

    def __post_init__(self) -> None:
        super().__post_init__()
        check_same("network.channels", self.network.channels, self.data.channels, "data.channels")
        check_same("network.image_size", self.network.image_size, self.data.image_size, "data.image_size")


def read_gan(stored: dict[str, Any], where: object) -> GanConfig:
    """Read the config.json of a GAN's run. Raises UserError, see `read_as`."""
    return read_as(GanConfig, stored, where)


@record
class GanRequest(TrainRequest):
    """The options of `minidiff train dcgan`, `wgan` and `wgan-gp`. None: the preset decides."""

    latent_dim: int | None = None  # numbers of noise that an image is made of
    width: int | None = None  # channels of both networks next to the image; inside up to 8 times as many
    critic_steps: int | None = None  # of the critic to each step of the generator
    clip: float | None = None  # of wgan: the critic's weights stay within +- this
    penalty: float | None = None  # of wgan-gp: the weight of the gradient penalty, lambda
    sample_every: int | None = None  # steps between grids of samples; None: a quarter of the steps, at most 5000
