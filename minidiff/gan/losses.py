"""What the two networks of a GAN play for: the losses of DCGAN, WGAN and WGAN-GP, and their table.

Rests on nothing but torch.
Goodfellow et al. 2014 (GAN); Radford et al. 2016 (DCGAN); Arjovsky et al. 2017 (WGAN); Gulrajani et al. 2017 (WGAN-GP).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def entropy_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), with D the sigmoid of the score (Goodfellow et al. 2014, eq. 1). Scores [N]."""
    return softplus(-real).mean() + softplus(fake).mean()


def entropy_generator(fake: Tensor) -> Tensor:
    """-log D(G(z)), which has a gradient where the critic is sure, too (Goodfellow et al. 2014, section 3)."""
    return softplus(-fake).mean()


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """E f(x) - E f(G(z)): for the best f of slope at most 1, the distance of the two distributions (WGAN, eq. 2)."""
    return real.mean() - fake.mean()


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    return -wasserstein(real, fake)  # WGAN, eq. 3: the critic looks for the f with the largest difference


def wasserstein_generator(fake: Tensor) -> Tensor:
    return -fake.mean()  # WGAN, algorithm 1, line 10


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """The mean of (|grad f(x)| - 1)^2 at points x between real and fake images (WGAN-GP, eq. 3).

    real, fake: [N,C,H,W]; mix: uniform in [0,1), [N,1,1,1]. Float32, under autocast too.
    """
    with torch.autocast(real.device.type, enabled=False):
        x = (mix * real + (1 - mix) * fake).detach().requires_grad_()  # algorithm 1, line 6
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@torch.no_grad()
def clip_weights(critic: nn.Module, clip: float) -> None:
    """Every weight into [-clip, clip] (WGAN, algorithm 1, line 7)."""
    for parameter in critic.parameters():
        parameter.clamp_(-clip, clip)


@dataclass(frozen=True)
class Method:
    """How a kind of GAN is trained. Its learning rate and batch size stand with its presets, in presets.GAN_PRESETS."""

    title: str
    paper: str
    critic_loss: Callable[[Tensor, Tensor], Tensor]  # of the scores of real and of made images
    generator_loss: Callable[[Tensor], Tensor]  # of the scores of made images
    norm: str  # of the critic
    critic_steps: int  # to one of the generator
    optimizer: str  # "adam" or "rmsprop"
    betas: list[float] | None = None  # of adam
    clip: float | None = None  # the critic's weights are kept within it
    penalty: float | None = None  # the weight of the gradient penalty

    @property
    def critic_name(self) -> str:
        """DCGAN's tells real from made, and is called a discriminator; WGAN's scores, and is called a critic."""
        return "discriminator" if self.critic_loss is entropy_critic else "critic"

    def settings(self) -> dict[str, Any]:
        """What a config.json says of it: all that are numbers and words, without what this kind has not."""
        names = ("norm", "critic_steps", "optimizer", "betas", "clip", "penalty")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def changed(self, settings: Mapping[str, Any]) -> "Method":
        """This kind of GAN with the settings of a config.json."""
        return replace(self, **settings)


GANS: dict[str, Method] = {
    "dcgan": Method(
        "DCGAN", "Radford et al. 2016", entropy_critic, entropy_generator,
        norm="batch", critic_steps=1, optimizer="adam", betas=[0.5, 0.999],
    ),  # section 4
    "wgan": Method(
        "WGAN", "Arjovsky et al. 2017", wasserstein_critic, wasserstein_generator,
        norm="batch", critic_steps=5, optimizer="rmsprop", clip=0.01,
    ),  # algorithm 1
    "wgan-gp": Method(
        "WGAN-GP", "Gulrajani et al. 2017", wasserstein_critic, wasserstein_generator,
        norm="layer", critic_steps=5, optimizer="adam", betas=[0.0, 0.9], penalty=10.0,
    ),  # algorithm 1
}  # fmt: skip
