"""The U-Net: the network that looks at a noisy image and its timestep, and predicts the noise in it.

Rests on conditioning. Ho et al. 2020 (DDPM), appendix B; Ronneberger et al. 2015 (U-Net); Vaswani et al. 2017.
Layer for layer it computes what the `google/ddpm-*` networks do, so their weights fit: see docs/unet.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.networks.conditioning import Conditioned
from minidiff.networks.configs import UNetConfig
from minidiff.records import takes, to_json


class ChannelNorm(nn.LayerNorm):
    """Bring the channels of each pixel to mean 0 and variance 1; then scale and shift each channel (Ba et al. 2016).

    It looks at one pixel alone. So what a pixel becomes does not depend on the size of the image (Liu et al. 2022 have
    it in ConvNeXt, Chen et al. 2022 in NAFNet, for restoration).
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [N,C,H,W] -> [N,C,H,W]. In channels_last the channels of a pixel lie side by side, and nothing is copied.
        """  # fmt: skip
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NormLayer = Callable[[int], nn.Module]  # makes the norm of so many channels


def norm_layer(config: UNetConfig) -> NormLayer:
    """Return what makes the norms of a network."""
    if config.norm == "channel":
        return partial(ChannelNorm, eps=config.norm_eps)
    if config.norm == "none":
        return lambda channels: nn.Identity()
    return partial(nn.GroupNorm, config.norm_groups, eps=config.norm_eps)


class ResidualBlock(nn.Module):
    """Compute norm, SiLU, conv, + timestep, norm, SiLU, dropout, conv; then add the input. H and W stay.

    The shortcut is the input itself, or a 1x1 convolution of it where the number of channels changes.
    scale_shift: the timestep enters after the second norm, as a factor and a summand for each channel, and not before
    it as a summand (Dhariwal & Nichol 2021, section 4.3). So it can turn a channel off, or up.
    """

    def __init__(
        self, in_channels: int, out_channels: int, time_dim: int, dropout: float, norm: NormLayer, scale_shift: bool
    ) -> None:
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.scale_shift = scale_shift
        self.time = nn.Linear(time_dim, 2 * out_channels if scale_shift else out_channels)
        self.norm2 = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [N,in_channels,H,W], time [N,time_dim] (already through SiLU) -> [N,out_channels,H,W]."""
        h: Tensor = self.conv1(F.silu(self.norm1(x)))
        time = self.time(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + time)
        h = self.conv2(self.dropout(F.silu(h)))
        shortcut: Tensor = self.shortcut(x)
        return shortcut + h


class Attention(nn.Module):
    """Let every pixel ask all others, by its query, and add what they answer to itself: self-attention.

    heads: how many ask independently, each about channels / heads of the channels.
    """

    def __init__(self, channels: int, heads: int, norm: NormLayer) -> None:
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,C,H,W] -> [N,C,H,W]."""
        n, c, height, width = x.shape
        h = self.norm(x).permute(0, 2, 3, 1).reshape(n, height * width, c)  # a sequence of pixels
        q, k, v = (
            layer(h).view(n, height * width, self.heads, c // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # each [N,heads,H*W,C/heads]
        h = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(C/heads)) v
        h = self.out(h.transpose(1, 2).reshape(n, height * width, c))
        answers: Tensor = h.reshape(n, height, width, c).permute(0, 3, 1, 2)
        return x + answers


class Stage(nn.Module):
    """Take one step of the network at one resolution: a residual block and, if the level has it, attention."""

    def __init__(self, block: ResidualBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [N,in_channels,H,W], time [N,time_dim] -> [N,out_channels,H,W]."""
        h: Tensor = self.block(x, time)
        if self.attention is not None:
            h = self.attention(h)
        return h


class Downsample(nn.Module):
    """Halve height and width by a 3x3 convolution of stride 2. It pads one pixel: right and bottom, or all round."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,C,H,W] -> [N,C,H/2,W/2]."""
        half: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)) if self.padding == 0 else x)
        return half


class Upsample(nn.Module):
    """Double height and width: every pixel becomes four equal ones, and a 3x3 convolution smooths them.

    Both steps are done in one. After the doubling, a 3x3 window sees only 2x2 different values. So the two steps are
    exactly a transposed convolution whose 4x4 kernel holds sums of the 3x3 weights: 16 products instead of 36, and half
    the time on a CPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [N,C,H,W] -> [N,C,2H,2W]."""
        kernel = self.conv.weight.flip(2, 3).transpose(0, 1)  # as a transposed convolution wants it
        kernel = F.avg_pool2d(kernel, 2, stride=1, padding=1, divisor_override=1)  # sums of its 2x2 corners: 4x4
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


class UNet(Conditioned):
    """The network of DDPM: (x_t, t) -> a prediction with the shape of an image. The defaults are its CIFAR-10 network.

    config: its arguments as JSON, see `UNetConfig`; `UNet(**config)` builds the same network.
    """

    @takes(UNetConfig)
    def __init__(self, config: UNetConfig) -> None:
        channels, head_dim, norm = config.channels, config.head_dim, norm_layer(config)
        time_dim = 4 * channels[0]
        super().__init__(config, channels[0], time_dim, config.flip_sin_to_cos, config.freq_shift)
        self.config: dict[str, Any] = to_json(config)

        def stage(before: int, after: int, attends: bool) -> Stage:
            block = ResidualBlock(before, after, time_dim, config.dropout, norm, config.scale_shift)
            heads = 1 if head_dim is None else after // head_dim
            return Stage(block, Attention(after, heads, norm) if attends else None)

        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        width, skips = channels[0], [channels[0]]  # channels of h, and of everything the way up will be handed
        self.down = nn.ModuleList()
        for level, (after, attends) in enumerate(zip(channels, config.attention, strict=True)):
            for _ in range(config.layers_per_block):
                self.down.append(stage(width, after, attends))
                width = after
                skips.append(width)
            if level < len(channels) - 1:
                self.down.append(Downsample(width, config.downsample_padding))
                skips.append(width)

        self.mid = nn.ModuleList([stage(width, width, config.mid_attention), stage(width, width, False)])

        self.up = nn.ModuleList()
        for level in reversed(range(len(channels))):
            for _ in range(
                config.layers_per_block + 1
            ):  # one more than on the way down: it takes what `Downsample` left
                self.up.append(stage(width + skips.pop(), channels[level], config.attention[level]))
                width = channels[level]
            if level > 0:
                self.up.append(Upsample(width))

        self.norm_out = norm(width)
        self.conv_out = nn.Conv2d(width, config.out_channels or config.in_channels, 3, padding=1)
        initialise(self)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x float [N,in_channels,H,W], t int64 [N], labels [N,label_dim] or None -> [N,out_channels,H,W].

        t may also be float. labels, keep: see `Conditioned.condition`.
        """
        self.check_input(x, labels)
        time = F.silu(self.condition(x, t, labels, keep))  # once: every residual block wants it

        h = self.conv_in(x)
        skips = [h]
        for module in self.down:
            h = module(h) if isinstance(module, Downsample) else module(h, time)
            skips.append(h)
        for module in self.mid:
            h = module(h, time)
        for module in self.up:
            h = module(h) if isinstance(module, Upsample) else module(torch.cat([h, skips.pop()], dim=1), time)
        prediction: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return prediction

    def hidden_weights(self) -> list[Tensor]:
        """Return the weights that the optimizer Muon may move: what is a matrix between features of an image.

        So not the first and the last convolution, and nothing that the timestep goes through.
        """
        return [
            module.weight
            for part in (self.down, self.mid, self.up)
            for name, module in part.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and not name.endswith(".time")
        ]


def initialise(network: UNet) -> None:
    """Set DDPM's first weights: Xavier uniform, biases 0, and 0 in the last layer of every residual branch.

    So each block starts as its shortcut, and the network predicts 0. The loss starts at 1, whatever the depth, and a
    branch comes in as it learns to help.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.out.weight)
    nn.init.zeros_(network.conv_out.weight)
