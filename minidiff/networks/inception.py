"""Inception: FID compares images by the features of this network. All names are as in its published weights.

Rests on torch alone. Szegedy et al. 2016 ("Rethinking the Inception Architecture", figures 5 to 7 and 10), in the form
of TensorFlow's inception-2015-12-05, which Heusel et al. 2017 used for FID. It is not torchvision's Inception v3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE_SIZE = 299  # the network was trained at 299x299, values in [-1, 1]
DIMS = (64, 192, 768, 2048)  # channels at the two max-pools, before the third grid and at the end
CLASSES = 1008


class ConvNorm(nn.Module):
    """Apply a convolution without bias, batch norm and ReLU. After `fold`: a convolution with bias, and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int | tuple[int, int], stride: int = 1,
                 padding: int | tuple[int, int] = 0) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,in_channels,H,W] -> [N,out_channels,H',W']."""
        return F.relu_(self.bn(self.conv(x)))

    @torch.no_grad()
    def fold(self) -> None:
        """Move batch norm into the convolution for good: with stored statistics it is only a scale and a shift."""
        bn = self.bn
        assert isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None and bn.running_var is not None
        scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
        self.conv.weight.copy_(self.conv.weight * scale[:, None, None, None])
        self.conv.bias = nn.Parameter((bn.bias - bn.running_mean * scale).to(self.conv.weight.dtype))
        self.bn = nn.Identity()


def mean_around(x: Tensor) -> Tensor:
    """Average each pixel's 3x3 neighbourhood; at the border only over the pixels that exist, without padding."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Mixed35(nn.Module):
    """Work on the 35x35 grid with 1x1; 5x5; 3x3 twice; and a mean of neighbours, side by side (figure 5)."""

    def __init__(self, in_channels: int, pool_channels: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(in_channels, 64, 1)
        self.branch5x5_1 = ConvNorm(in_channels, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(in_channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(in_channels, pool_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,in_channels,35,35] -> [N,224 + pool_channels,35,35]."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(mean_around(x))], 1)


class To17(nn.Module):
    """Go from the 35x35 grid to 17x17 by convolutions and a max-pool of stride 2, side by side (figure 10)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(in_channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,in_channels,35,35] -> [N,480 + in_channels,17,17]."""
        twice = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), twice, F.max_pool2d(x, 3, stride=2)], 1)


class Mixed17(nn.Module):
    """Work on the 17x17 grid, with 7x7 done as 1x7 and 7x1 (figure 6). narrow: the channels between the two."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(768, 192, 1)
        self.branch7x7_1 = ConvNorm(768, narrow, 1)
        self.branch7x7_2 = ConvNorm(narrow, narrow, (1, 7), padding=(0, 3))
        self.branch7x7_3 = ConvNorm(narrow, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = ConvNorm(768, narrow, 1)
        self.branch7x7dbl_2 = ConvNorm(narrow, narrow, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = ConvNorm(narrow, narrow, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = ConvNorm(narrow, narrow, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = ConvNorm(narrow, 192, (1, 7), padding=(0, 3))
        self.branch_pool = ConvNorm(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,768,17,17] -> [N,768,17,17]."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(mean_around(x))], 1)


class To8(nn.Module):
    """Go from the 17x17 grid to 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNorm(768, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(768, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,768,17,17] -> [N,1280,8,8]."""
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], 1)


class Mixed8(nn.Module):
    """Work on the 8x8 grid, with 1x3 and 3x1 side by side (figure 7).

    max_pool: the last block of the published network takes the maximum of the neighbours. All other blocks, and the
    paper, take the mean. It is a slip from 2015, and every FID since has kept it.
    """

    def __init__(self, in_channels: int, max_pool: bool) -> None:
        super().__init__()
        self.max_pool = max_pool
        self.branch1x1 = ConvNorm(in_channels, 320, 1)
        self.branch3x3_1 = ConvNorm(in_channels, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvNorm(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvNorm(in_channels, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNorm(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvNorm(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvNorm(in_channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,in_channels,8,8] -> [N,2048,8,8]."""
        three = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        around = F.max_pool2d(x, 3, stride=1, padding=1) if self.max_pool else mean_around(x)
        branches = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        branches += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(around)]
        return torch.cat(branches, 1)


class Inception(nn.Module):
    """Turn images into features, and features into logits; 566 tensors, named as published.

    Call `fold` after the weights are loaded. It moves the batch norms into the convolutions and makes the layout
    channels_last, which is twice as fast and changes the features by rounding only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = Mixed35(192, pool_channels=32)
        self.Mixed_5c = Mixed35(256, pool_channels=64)
        self.Mixed_5d = Mixed35(288, pool_channels=64)
        self.Mixed_6a = To17(288)
        self.Mixed_6b = Mixed17(narrow=128)
        self.Mixed_6c = Mixed17(narrow=160)
        self.Mixed_6d = Mixed17(narrow=160)
        self.Mixed_6e = Mixed17(narrow=192)
        self.Mixed_7a = To8()
        self.Mixed_7b = Mixed8(1280, max_pool=False)
        self.Mixed_7c = Mixed8(2048, max_pool=True)
        self.fc = nn.Linear(2048, CLASSES)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, dims: int = 2048) -> Tensor:
        """Turn x float32 [N,3,299,299] in [-1,1] into features [N,dims], their mean over the grid.

        Layers deeper than needed are left out. Every size from 75 works, but only 299 gives FID's features.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        if dims == 64:
            return x.mean((2, 3))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        if dims == 192:
            return x.mean((2, 3))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        if dims == 768:
            return x.mean((2, 3))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))

    def logits(self, features: Tensor, bias: bool = True) -> Tensor:
        """Turn features [N,2048] into logits [N,1008]. The Inception Score leaves out the bias, by an old slip."""
        return F.linear(features, self.fc.weight, self.fc.bias if bias else None)

    def fold(self) -> "Inception":
        """Make the network fast, as described above. No weights can be loaded afterwards."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self.to(memory_format=torch.channels_last)
