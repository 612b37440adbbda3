"""The networks of the deep image prior: each is fitted to one image without training, so its shape is all it knows.

Rests on torch alone; `resnet18` takes its encoder from torchvision. `DIP_NETS` names them, dip/fit.py fits them.
Activations work in place, because neither convolution nor batch norm needs its output for the backward pass.
Ulyanov et al. 2018 (Deep Image Prior); He et al. 2016 (ResNet).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import UserError, one_line


class DipNet(nn.Module):
    """Take an input of any size, and return an image of the same size that cannot leave [-1, 1].

    A network that halves its input n times needs sides divisible by its stride 2^n. An input with other sides is padded
    by reflection, and the image is cropped back. A subclass sets `image`: the layers from [N,in_channels,H,W] to
    [N,out_channels,H,W].
    """

    image: nn.Module

    def __init__(self, in_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.in_channels, self.stride = in_channels, stride

    def forward(self, z: Tensor) -> Tensor:
        """Turn z [N,in_channels,H,W], noise or an image, into float [N,out_channels,H,W] in [-1,1].

        Raises UserError when a side is smaller than the stride.
        """
        height, width = z.shape[-2:]
        top, bottom = self.padding(height)
        left, right = self.padding(width)
        if top + bottom + left + right:
            z = F.pad(z, (left, right, top, bottom), mode="reflect")
        image = 2 * torch.sigmoid(self.image(z)) - 1
        return image[..., top : top + height, left : left + width]

    def padding(self, side: int) -> tuple[int, int]:
        """Count the pixels to add before and behind, up to the next multiple of the stride.

        The coarsest level needs two pixels: one alone has no reflection, and no variance for batch norm.
        """
        if side < self.stride:
            raise UserError(
                f"a side of {side} pixels is less than the {self.stride} this network reduces to one. "
                f"Take at least {self.stride}x{self.stride}, fewer `scales`, or the net cnn."
            )
        least = 2 * self.stride if self.stride > 1 else 1
        missing = max(least, -(-side // self.stride) * self.stride) - side
        return missing // 2, missing - missing // 2


# --- without a bottleneck -----------------------------------------------------------------------------------------


class CNN(DipNet):
    """Apply `layers` convolutions at full resolution, with ReLU between them and `channels` channels inside.

    kernel_size: odd. An output pixel sees layers * (kernel_size - 1) + 1 pixels across, so the prior is local
    smoothness.
    """

    def __init__(
        self, in_channels: int = 32, out_channels: int = 3, layers: int = 4, channels: int = 128, kernel_size: int = 3
    ) -> None:
        super().__init__(in_channels)
        if layers < 2:
            raise UserError(f"a network of {layers} layers has nothing between input and output. Take 2 or more.")
        if kernel_size % 2 == 0:
            raise UserError(f"a kernel of {kernel_size} pixels has no middle. Take an odd size, such as 3.")
        widths = [in_channels, *[channels] * (layers - 1), out_channels]
        self.image = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(widths)):
            if number > 0:
                self.image.append(nn.ReLU(inplace=True))
            self.image.append(nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2))


def conv2(in_channels: int = 32, out_channels: int = 3, channels: int = 64) -> CNN:
    """Build two 3x3 convolutions with a ReLU between: the smallest network that has a prior at all."""
    return CNN(in_channels, out_channels, layers=2, channels=channels)


# --- a bottleneck -------------------------------------------------------------------------------------------------


class ResNet18(DipNet):
    """Go down the ResNet18 encoder to 512 channels at 1/32 of the size, and back up five transposed convolutions.

    weights: None, or "imagenet" for torchvision's pretrained encoder. Unless there are 3 input channels, its first
    convolution stays untrained. Raises UserError when the weights are neither here nor can be downloaded.
    """

    def __init__(self, in_channels: int = 32, out_channels: int = 3, weights: str | None = None) -> None:
        from torchvision.models import resnet18

        super().__init__(in_channels, stride=32)
        if weights not in (None, "imagenet"):
            raise UserError(f"unknown weights '{weights}' for resnet18. Take 'imagenet', or none.")
        encoder = resnet18()
        if weights:
            encoder.load_state_dict(imagenet_weights())
        if in_channels != 3:
            encoder.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.image = nn.Sequential()
        for name, layer in encoder.named_children():  # conv1, bn1, relu, maxpool, layer1 ... layer4
            if name not in ("avgpool", "fc"):
                self.image.append(layer)
        widths = [512, 256, 128, 64, 32, 16]  # H/32 ... H
        for before, after in pairwise(widths):
            # Kernel 4 at stride 2: every output pixel is a sum of equally many terms, so no checkerboard appears.
            self.image.append(nn.ConvTranspose2d(before, after, 4, stride=2, padding=1))
            self.image.append(nn.BatchNorm2d(after))
            self.image.append(nn.ReLU(inplace=True))
        self.image.append(nn.Conv2d(widths[-1], out_channels, 3, padding=1))


def imagenet_weights() -> dict[str, Tensor]:
    """Read torchvision's ResNet18 from its cache, or download it. Raises UserError when neither works."""
    from torchvision.models import ResNet18_Weights

    source = ResNet18_Weights.IMAGENET1K_V1
    try:
        return dict(source.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:  # no network, no room; a file that is not what its name says
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise UserError(
            f"no ImageNet weights ({one_line(error)}). Put {source.url} (45 MB) in {folder}, or leave them out."
        ) from None


# --- a bottleneck, and ways around it -----------------------------------------------------------------------------


def layer(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Build the brick of the hourglass: convolution with reflection padding, batch norm, LeakyReLU 0.2."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            padding_mode="reflect" if kernel_size > 1 else "zeros",  # a 1x1 convolution has nothing to pad
        ),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.2, inplace=True),
    )


class Scale(nn.Module):
    """One scale of the hourglass: halve the size, go through everything below, double it again, join with the skip.

    [N,in_channels,H,W] -> [N,channels,H,W], H and W even. below: the next scale; at the coarsest it does nothing.
    """

    def __init__(self, in_channels: int, channels: int, skip_channels: int, below: nn.Module, upsample: str) -> None:
        super().__init__()
        self.skip = layer(in_channels, skip_channels, 1)
        self.down = nn.Sequential(layer(in_channels, channels, 3, stride=2), layer(channels, channels, 3))
        self.below = below
        self.up = nn.Upsample(scale_factor=2, mode=upsample)
        self.join = nn.Sequential(
            nn.BatchNorm2d(skip_channels + channels),
            layer(skip_channels + channels, channels, 3),
            layer(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(self.below(self.down(x)))
        joined: Tensor = self.join(torch.cat([self.skip(x), h], dim=1))
        return joined


class Hourglass(DipNet):
    """Build the encoder-decoder with narrow skips of Ulyanov et al. 2018, as their code sets it for denoising.

    scales: how often the size is halved; 5 needs sides of 32 pixels, so small pictures need fewer. channels: the same
    at every scale. skip_channels: few, so that fine detail has to pass a bottleneck. upsample: bilinear or nearest.
    """

    def __init__(
        self,
        in_channels: int = 32,
        out_channels: int = 3,
        scales: int = 5,
        channels: int = 128,
        skip_channels: int = 4,
        upsample: str = "bilinear",
    ) -> None:
        super().__init__(in_channels, stride=2**scales)
        if scales < 1 or upsample not in ("bilinear", "nearest"):
            raise UserError(f"{scales} scales, upsample '{upsample}': take 1 or more, and bilinear or nearest.")
        below: nn.Module = nn.Identity()
        for number in reversed(range(scales)):  # from the coarsest outwards
            below = Scale(in_channels if number == 0 else channels, channels, skip_channels, below, upsample)
        self.image = nn.Sequential(below, nn.Conv2d(channels, out_channels, 1))


DIP_NETS: dict[str, Callable[..., DipNet]] = {
    "conv2": conv2,
    "cnn": CNN,
    "resnet18": ResNet18,
    "hourglass": Hourglass,
}
