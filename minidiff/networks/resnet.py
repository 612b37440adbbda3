"""ResNet-18 for small images: its last layer gives the labels of a picture, the layer before it a measure of likeness.

Rests on torch alone. He et al. 2016 (deep residual learning), table 1 and figure 5, with the stem of section 4.2 for
32x32 images. The parameters have torchvision's names, so its weights fit, except in the stem.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.networks.configs import ResNetConfig
from minidiff.records import takes, to_json


class Block(nn.Module):
    """Apply two 3x3 convolutions, and add the input to the result: [n,in,H,W] -> [n,out,H/stride,W/stride].

    If the shape changes, the input goes through a 1x1 convolution first (option B of the paper). Its stride is taken
    here, by leaving pixels out. With few channels, torch 2.14 overwrites other memory when it differentiates a 1x1
    convolution with a stride, on processors without AVX-512.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.downsample(x[..., :: self.stride, :: self.stride]))


class ResNet18(nn.Module):
    """Apply four stages of two blocks each. From the second on, a stage doubles the channels and halves the size.

    The stem is one 3x3 convolution without a max-pool. The paper's 7x7 with stride 2 would shrink 32x32 images to 8x8.
    classes: number of outputs, of any meaning. channels: 1 or 3, of the images. width: channels of the first stage; 64
    in the paper.
    """

    @takes(ResNetConfig)
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config: dict[str, Any] = to_json(config)  # `ResNet18(**config)` builds the same network
        classes, channels, width = config.classes, config.channels, config.width
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1))
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015, eq. 14

    def features(self, x: Tensor) -> Tensor:
        """Turn x [n,channels,H,W] into what the last layer sees: the last stage's mean over the picture [n,8*width]."""
        h: Tensor = F.relu(self.bn1(self.conv1(x)))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return h.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Turn x [n,channels,H,W] in [-1,1] into logits [n,classes]."""
        logits: Tensor = self.fc(self.features(x))
        return logits
