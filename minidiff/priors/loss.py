"""What a data-set-level prior learns: the image, from the image with noise.

Rests on networks.dip. A deep image prior is fitted to one noisy picture, and has to be stopped before it learns the
noise (Ulyanov et al. 2018). Trained on many pictures it is a denoiser: the noise of each is new, so it is never learnt,
and the least squared error is that of the posterior mean E[x0 | x0 + noise].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import UserError, lookup
from minidiff.networks.dip import DIP_NETS, DipNet
from minidiff.rng import Draws
from minidiff.training.loop import Loss


def build_prior(net: str, channels: int) -> DipNet:
    """Build a network from images to images, float [N,C,H,W], whose output cannot leave [-1,1].

    Raises UserError for an unknown name.
    """
    return lookup("net", net, DIP_NETS)(in_channels=channels, out_channels=channels)


def check_side(net: str, size: int) -> None:
    """Raise UserError if images of this size are too small for the network."""
    with torch.device("meta"):
        stride = build_prior(net, 1).stride
    if size < stride:
        raise UserError(
            f"{net} halves its images until {stride} pixels are one, and these have {size} a side. "
            f"Take an `image_size` of {stride} or more, or the `net` conv2."
        )


def noisy(x0: Tensor, sigma: float, noise: Tensor) -> Tensor:
    """Add noise of deviation sigma to images: x0 + sigma * noise, float [N,C,H,W]. Nothing is cut off at -1 and 1.

    x0 is in [-1,1], and sigma is in its units. For values from 0 to 1, the same noise has half the deviation.
    """
    return x0 + sigma * noise


def prior_loss(sigma: float) -> Loss:
    """Make the closure that `Trainer` calls: the mean squared error between the network's output and the clean image.

    Both are in [-1,1]. (A network that ends in a sigmoid of values from 0 to 1 can never reach the dark half of them.)
    """

    def loss(model: nn.Module, x0: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        output: Tensor = model(noisy(x0, sigma, draws.randn(*x0.shape[1:])))
        return F.mse_loss(output.to(x0.dtype), x0)

    return loss
