"""Generative adversarial networks: a generator makes images out of noise, and a critic tells them from real images.

Here are the networks and their first weights; gan/losses.py and gan/trainer.py train them. Rests on networks.configs.
Radford et al. 2016 (DCGAN), Arjovsky et al. 2017 (WGAN), Gulrajani et al. 2017 (WGAN-GP).

z = torch.randn(64, 100); images = Generator()(z); scores = Critic()(images)
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from minidiff.errors import UserError, lookup
from minidiff.networks.configs import GeneratorConfig
from minidiff.records import takes, to_json

# --- the networks -------------------------------------------------------------------------------------------------

STARTS = (4, 7)  # pixels a side of the smallest feature map: 4 in the papers, 7 for images of 28 pixels
LARGEST = 256
WIDEST = 8  # times the width: figure 1 of DCGAN goes from 128 channels to 1024


def levels(image_size: int) -> int:
    """Count how often the smallest feature map doubles to reach the size of the image. Raises UserError if never."""
    for start in STARTS:
        doublings = (image_size // start).bit_length() - 1
        if doublings >= 1 and image_size == start << doublings <= LARGEST:
            return doublings
    known = sorted(start << k for start in STARTS for k in range(1, 7) if start << k <= LARGEST)
    nearest = min(known, key=lambda size: abs(size - image_size))
    raise UserError(
        f"`image_size` {image_size} is not 4 or 7 doubled a few times, which a GAN's networks need. Try {nearest}."
    )


def widths(width: int, image_size: int) -> list[int]:
    """List the channels of the feature maps, from the one next to the image to the smallest one."""
    return [width * min(2**level, WIDEST) for level in range(levels(image_size))]


class Generator(nn.Module):
    """Turn noise z, float [N,latent_dim], standard normal, into images, float [N,channels,H,W] in [-1,1].

    DCGAN, figure 1: z is projected to a small feature map of many channels. Fractionally strided convolutions double
    its size until it is the image. Each but the last is followed by batch normalisation and ReLU; the last ends in
    tanh. In eval mode an image does not depend on the others of its batch.

    The kernels are 4x4, as in the code of WGAN; the figure has 5x5. With a stride of 2, every pixel is then a sum of
    equally many taps, and the size exactly doubles. z is normal, as in WGAN's code and WGAN-GP; DCGAN drew it
    uniformly. Raises UserError for a size that does not double.
    """

    @takes(GeneratorConfig)
    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config: dict[str, Any] = to_json(config)  # `Generator(**config)` builds the same network
        latent_dim, channels = config.latent_dim, config.channels
        inner = widths(config.width, config.image_size)
        start = config.image_size >> len(inner)
        # On a 1x1 image, a transposed convolution is the linear projection and the reshaping in one.
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, inner[-1], start, bias=False), *normed(inner[-1])]
        for wide, narrow in pairwise(reversed(inner)):
            layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False), *normed(narrow)]
        layers += [nn.ConvTranspose2d(inner[0], channels, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.layers(z[:, :, None, None])
        return images


def normed(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()]


class Critic(nn.Module):
    """Score images, float [N,channels,H,W] in [-1,1]: float [N], higher means more real.

    It is the generator turned round. 4x4 convolutions with a stride of 2 halve the image down to 4x4 (or 7x7) pixels,
    and a last one over all of these gives the score. LeakyReLU has slope 0.2 (DCGAN, section 3). There is no sigmoid:
    DCGAN's loss contains it, and WGAN has none.

    norm: `batch`, after every convolution but the first and the last (DCGAN, WGAN), or `layer` (WGAN-GP, section 4).
    WGAN-GP penalises the gradient at each image, so a score must not depend on the other images of the batch.
    Batch normalisation uses the current batch in eval mode too, because a critic is not used after the training.
    """

    def __init__(self, width: int = 128, image_size: int = 64, channels: int = 3, norm: str = "batch") -> None:
        super().__init__()
        norm_layer = lookup("norm", norm, NORMS)
        inner = widths(width, image_size)
        layers: list[nn.Module] = [nn.Conv2d(channels, inner[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(inner):
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=False), norm_layer(wide), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(inner[-1], 1, image_size >> len(inner))]
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.layers(images)
        return scores.flatten()


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "layer": lambda channels: nn.GroupNorm(1, channels),  # mean and variance over all channels and pixels of an image
}


def initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2) (DCGAN, section 4); the factors of a normalisation from N(1, 0.02^2) (its code)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
