"""A small gated U-Net that looks at a hazy picture, and says what is behind the haze, how dense it is, and its colour.

Rests on configs and torch. Song et al. 2022 (gUNet: Rethinking Performance Gains in Image Dehazing Networks), of which
it has the gated blocks, the fusion of the skips, and the output as a factor and a summand of the input. Here it works
on squares of 2x2 pixels, it normalises each pixel alone, and it answers with T and A as well.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.networks.configs import GUNetConfig
from minidiff.records import takes, to_json

PATCH = 2  # pixels, each way, that become one of the network's


class Clearing(NamedTuple):
    """What is known, or guessed, of a hazy picture I = J T + A (1 - T)."""

    clear: Tensor  # J, float [N,3,H,W]: about [-1,1]
    transmission: Tensor  # T, float [N,1,H,W] in [0,1]: the share of the light that comes through
    airlight: Tensor  # A, float [N,3] in [-1,1]: the colour of the haze


class GatedBlock(nn.Module):
    """Compute norm, then value times gate, then a linear layer; then add the input (Song et al. 2022, section 3.1).

    The value has seen the pixels around, by a convolution of each channel alone; the gate has seen its own pixel. In
    the layout channels last a 1x1 convolution is a linear layer over the last axis, and on a CPU a faster one.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.value = nn.Linear(channels, channels)
        self.near = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.gate = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,C,H,W] -> [N,C,H,W]."""
        h = self.norm(x.permute(0, 2, 3, 1))  # [N,H,W,C]
        value = self.near(self.value(h).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        change: Tensor = self.out(value * torch.sigmoid(self.gate(h)))
        return x + change.permute(0, 3, 1, 2)


class Fusion(nn.Module):
    """Mix a skip and what comes from below, by shares that each channel of each picture has (Li et al. 2019, SKNet).

    The shares come from the means over the whole picture.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(channels, channels, 1)
        self.shares = nn.Sequential(
            nn.Linear(channels, max(channels // 8, 4)), nn.ReLU(), nn.Linear(max(channels // 8, 4), 2 * channels)
        )

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """Both [N,C,H,W] -> [N,C,H,W]."""
        skip = self.skip(skip)
        shares = self.shares((skip + below).mean((2, 3))).view(len(skip), 2, -1, 1, 1).softmax(dim=1)
        mixed: Tensor = shares[:, 0] * skip + shares[:, 1] * below
        return mixed


class GUNet(nn.Module):
    """The network of stage 1: a hazy picture -> J, T and A, see `Clearing`.

    J = k I - b + I with a factor and a summand for each pixel: that is how the haze model says it, with k = 1/T - 1 and
    b = k A. config: its arguments as JSON, see `GUNetConfig`; `GUNet(**config)` builds the same network.
    """

    @takes(GUNetConfig)
    def __init__(self, config: GUNetConfig) -> None:
        super().__init__()
        self.config: dict[str, Any] = to_json(config)
        self.stride = config.stride
        channels, levels = config.channels, range(len(config.channels) - 1)

        def blocks(level: int) -> nn.Sequential:
            return nn.Sequential(*(GatedBlock(channels[level], config.kernel) for _ in range(config.blocks[level])))

        self.conv_in = nn.Conv2d(3 * PATCH**2, channels[0], 3, padding=1)
        self.down = nn.ModuleList([blocks(level) for level in range(len(channels))])
        self.shrink = nn.ModuleList(
            [nn.Conv2d(channels[level], channels[level + 1], 3, stride=2, padding=1) for level in levels]
        )
        self.airlight = nn.Sequential(nn.Linear(2 * channels[-1], channels[-1]), nn.SiLU(), nn.Linear(channels[-1], 3))
        self.enlarge = nn.ModuleList([nn.Conv2d(channels[level + 1], 4 * channels[level], 1) for level in levels])
        self.fuse = nn.ModuleList([Fusion(channels[level]) for level in levels])
        self.up = nn.ModuleList([blocks(level) for level in levels])
        self.conv_out = nn.Conv2d(channels[0], 5 * PATCH**2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # J begins as the picture itself
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, hazy: Tensor) -> Clearing:
        """Look at pictures, float [N,3,H,W] in [-1,1], of any H and W.

        They are continued at the right and lower edge to what the levels need, and what is made there is cut off.
        """
        height, width = hazy.shape[2:]
        x = F.pad(hazy, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        h, skips = self.conv_in(F.pixel_unshuffle(x, PATCH)), []
        for level, shrink in enumerate(self.shrink):
            h = self.down[level](h)
            skips.append(h)
            h = shrink(h)
        h = self.down[-1](h)
        airlight = torch.tanh(self.airlight(torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1)))
        for level in reversed(range(len(skips))):
            h = F.pixel_shuffle(self.enlarge[level](h), 2)
            h = self.up[level](self.fuse[level](skips[level], h))
        factor, summand, thin = F.pixel_shuffle(self.conv_out(h), PATCH)[..., :height, :width].split((1, 3, 1), dim=1)
        return Clearing(factor * hazy - summand + hazy, torch.sigmoid(thin + 1), airlight)

    def hidden_weights(self) -> list[Tensor]:
        """Return the weights that the optimizer Muon may move: those that mix channels inside the network."""
        return [
            module.weight
            for part in (self.down, self.shrink, self.enlarge, self.up)
            for module in part.modules()
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        ]
