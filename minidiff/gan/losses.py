"""The losses of the two networks, in DCGAN, WGAN and WGAN-GP, and the table of these kinds.

Rests on gan.config.
Goodfellow et al. 2014 (GAN); Radford et al. 2016 (DCGAN); Arjovsky et al. 2017 (WGAN); Gulrajani et al. 2017 (WGAN-GP).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from minidiff.gan.config import CRITIC_NAMES, GAMES, GameConfig


def entropy_critic(real: Tensor, fake: Tensor) -> Tensor:
    """Return -log D(x) - log(1 - D(G(z))), with D the sigmoid of the score (Goodfellow et al. 2014, eq. 1).

    real, fake: scores [N].
    """
    return softplus(-real).mean() + softplus(fake).mean()


def entropy_generator(fake: Tensor) -> Tensor:
    """Return -log D(G(z)). It has a gradient even where the critic is sure (Goodfellow et al. 2014, section 3)."""
    return softplus(-fake).mean()


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """Return E f(x) - E f(G(z)) (WGAN, eq. 2).

    For the best f of slope at most 1 this is the distance of the two distributions.
    """
    return real.mean() - fake.mean()


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """Return what the critic minimises."""
    return -wasserstein(real, fake)  # WGAN, eq. 3: the critic looks for the f with the largest difference


def wasserstein_generator(fake: Tensor) -> Tensor:
    """Return what the generator minimises."""
    return -fake.mean()  # WGAN, algorithm 1, line 10


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Return the mean of (|grad f(x)| - 1)^2 at points x between real and made images (WGAN-GP, eq. 3).

    real, fake: [N,C,H,W]. mix: uniform in [0,1), [N,1,1,1]. It computes in float32, also under autocast.
    """
    with torch.autocast(real.device.type, enabled=False):
        x = (mix * real + (1 - mix) * fake).detach().requires_grad_()  # algorithm 1, line 6
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        slopes: Tensor = gradient.flatten(1).norm(dim=1)
        return (slopes - 1).square().mean()


@torch.no_grad()
def clip_weights(critic: nn.Module, clip: float) -> None:
    """Clip every weight to [-clip, clip] (WGAN, algorithm 1, line 7)."""
    for parameter in critic.parameters():
        parameter.clamp_(-clip, clip)


@dataclass(frozen=True)
class Method:
    """A kind of GAN: the losses and the rules of its game. Its rate and batch are in its presets, GAN_PRESETS."""

    title: str
    paper: str
    critic_name: str
    critic_loss: Callable[[Tensor, Tensor], Tensor]  # of the scores of real and of made images
    generator_loss: Callable[[Tensor], Tensor]  # of the scores of made images
    game: GameConfig


def method(kind: str, title: str, paper: str, critic: Callable[[Tensor, Tensor], Tensor],
           generator: Callable[[Tensor], Tensor]) -> Method:  # fmt: skip
    """Put a kind of GAN together with its game."""
    return Method(title, paper, CRITIC_NAMES[kind], critic, generator, GAMES[kind])


GANS: dict[str, Method] = {
    "dcgan": method("dcgan", "DCGAN", "Radford et al. 2016", entropy_critic, entropy_generator),
    "wgan": method("wgan", "WGAN", "Arjovsky et al. 2017", wasserstein_critic, wasserstein_generator),
    "wgan-gp": method("wgan-gp", "WGAN-GP", "Gulrajani et al. 2017", wasserstein_critic, wasserstein_generator),
}
