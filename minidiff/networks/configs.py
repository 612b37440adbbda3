"""The arguments of the networks that draw, named once: to build them, and to store them in a run's config.json.

Rests on records alone, so that presets, help and `minidiff info` need no torch. See `unet.py`, `dit.py` and `gan.py`.
"""

import math
from typing import Any, Literal

from minidiff.errors import UserError
from minidiff.records import demand, demand_range, record

# The largest numbers that a network can be asked for. No published one comes near them. They keep a damaged or hostile
# config.json from a network that takes hours to lay out; whether it fits into memory, its weights say.
MOST_PIXELS, MOST_CHANNELS, MOST_LABELS = 8192, 65_536, 1_000_000
MOST_LAYERS, MOST_GROUPS, MOST_LEVELS = 64, 8192, 14  # of a level; of a norm; halvings of MOST_PIXELS, and one

Norm = Literal["group", "channel", "none"]


@record
class UNetConfig:
    """The arguments of `UNet`. The defaults are DDPM's network for CIFAR-10 (Ho et al. 2020, appendix B)."""

    image_size: int = 32  # the size it is meant for; `forward` takes any height and width that the levels divide
    in_channels: int = 3
    out_channels: int | None = None  # None: as many as in_channels
    channels: tuple[int, ...] = (128, 256, 256, 256)  # of each level, finest first; every level halves the image
    layers_per_block: int = 2
    attention: tuple[bool, ...] = (False, True, False, False)  # at which levels
    mid_attention: bool = True
    head_dim: int | None = None  # channels of one attention head; None: ONE head over all (diffusers' absent key is 8)
    dropout: float = 0.0
    # "group": over groups of channels and all pixels (DDPM); "channel": over the channels of each pixel; "none": none.
    norm: Norm = "group"
    norm_groups: int = 32  # of the norm "group"; the others have none
    norm_eps: float = 1e-6
    downsample_padding: int = 0  # 0 pads right and bottom by one (DDPM), 1 all round
    flip_sin_to_cos: bool = False  # the order in the timestep embedding, see `timestep_embedding`
    freq_shift: float = 1
    label_dim: int = 0  # L > 0 takes multi-hot labels [N,L], added to the timestep embedding by a linear layer
    scale_shift: bool = False  # how the timestep enters a residual block, see `ResidualBlock`; False is DDPM's way

    def __post_init__(self) -> None:
        """Fill in out_channels, and raise UserError for arguments that no network can be built from."""
        fill = object.__setattr__  # the record is frozen, but not yet finished
        fill(self, "out_channels", self.in_channels if self.out_channels is None else self.out_channels)
        fill(self, "channels", tuple(self.channels))
        fill(self, "attention", tuple(bool(attends) for attends in self.attention))
        fill(self, "scale_shift", bool(self.scale_shift))
        check_unet(self)

    @property
    def stride(self) -> int:
        """How many pixels of the image one pixel of the coarsest level covers, each way."""
        return 1 << (len(self.channels) - 1)

    def check_size(self, size: int, name: str = "image size") -> None:
        """Raise UserError unless the levels divide this height or width."""
        check_size(size, self.stride, name)

    @property
    def any_size(self) -> bool:
        """Whether a pixel of the output depends on the pixels near it alone, and so not on the size of the image.

        Attention and the norm "group" look at the whole image: in one of another size they find other statistics.
        """
        return self.norm != "group" and not any(self.attention) and not self.mid_attention


@record
class DiTConfig:
    """The arguments of `DiT`. The defaults are DiT-S/2 (Peebles & Xie 2023, table 1), for images in colour."""

    image_size: int = 32  # the size it is meant for; `forward` takes any height and width that the patch divides
    in_channels: int = 3
    out_channels: int | None = None  # None: as many as in_channels
    patch: int = 2  # pixels of a patch, each way
    width: int = 384  # numbers that stand for one patch, in every block
    depth: int = 12  # blocks
    heads: int = 6  # of attention, each over width / heads numbers
    mlp_ratio: int = 4  # how many times as wide a block's two-layer network is inside
    label_dim: int = 0  # L > 0 takes multi-hot labels [N,L], added to the timestep embedding by a linear layer
    kind: Literal["dit"] = "dit"  # tells it from a U-Net in a config.json

    def __post_init__(self) -> None:
        """Fill in out_channels, and raise UserError for arguments that no network can be built from."""
        out = self.in_channels if self.out_channels is None else self.out_channels
        object.__setattr__(self, "out_channels", out)  # the record is frozen, but not yet finished
        demand_range(self, 1, MOST_PIXELS, "image_size", "patch")
        demand_range(self, 1, MOST_CHANNELS, "in_channels", "out_channels", "width", "heads")
        demand_range(self, 1, MOST_LAYERS, "depth", "mlp_ratio")
        demand_range(self, 0, MOST_LABELS, "label_dim")
        self.check_size(self.image_size)
        if self.width % self.heads:
            other = nearest_multiple(self.width, math.lcm(self.heads, 4))
            raise UserError(f"{self.heads} heads do not divide the width {self.width}. Try a width of {other}.")
        # Half of it says the row of a patch and half the column, each by pairs of a sine and a cosine.
        demand(self.width % 4 == 0, "width", self.width, f"a multiple of 4, such as {nearest_multiple(self.width, 4)}")

    def check_size(self, size: int, name: str = "image size") -> None:
        """Raise UserError unless the patch divides this height or width."""
        check_size(size, self.patch, name, f"this network's patches of {self.patch}x{self.patch}")


BUILT_IN: dict[str, type[UNetConfig | DiTConfig]] = {"unet": UNetConfig, "dit": DiTConfig}  # by what a user types


@record
class OwnNetwork:
    """A network that is not of this package: the class that makes it, and what it is for. See `own.py`."""

    module: str  # its importable name, such as my_module:MyUNet
    arguments: dict[str, Any]  # by keyword
    image_size: int
    in_channels: int  # of the images that it takes and gives
    label_dim: int = 0  # L > 0 takes multi-hot labels [N,L] as its third argument

    def __post_init__(self) -> None:
        for name in ("image_size", "in_channels"):
            demand(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        demand(self.label_dim >= 0, "label_dim", self.label_dim, "0 or more")


@record
class GeneratorConfig:
    """The arguments of `Generator`. The defaults are figure 1 of DCGAN."""

    latent_dim: int = 100  # numbers of noise that an image is made of
    width: int = 128  # channels next to the image; inside up to 8 times as many. The critic has the same
    image_size: int = 64
    channels: int = 3

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_CHANNELS, "latent_dim", "width", "channels")
        demand_range(self, 1, MOST_PIXELS, "image_size")


@record
class ResNetConfig:
    """The arguments of `ResNet18`."""

    classes: int  # outputs, whatever they mean
    channels: int  # of the images: 1 or 3
    width: int = 64  # channels of the first stage; the last has 8 times as many

    def __post_init__(self) -> None:
        demand_range(self, 1, MOST_LABELS, "classes")
        demand_range(self, 1, MOST_CHANNELS, "channels", "width")


@record
class GUNetConfig:
    """The arguments of `GUNet`, the network of stage 1 of dehazing."""

    channels: tuple[int, ...] = (32, 64, 128)  # of each level, finest first; every level halves the picture
    blocks: tuple[int, ...] = (2, 2, 4)  # gated blocks of each level, on the way down; on the way up as many
    kernel: int = 5  # pixels, each way, that a gated block looks at

    def __post_init__(self) -> None:
        levels = len(self.channels)
        demand(1 <= levels <= MOST_LEVELS, "channels", self.channels, f"a number for each level, of 1 to {MOST_LEVELS}")
        wide = all(1 <= width <= MOST_CHANNELS for width in self.channels)
        demand(wide, "channels", self.channels, f"1 to {MOST_CHANNELS:,} each")
        fitting = len(self.blocks) == levels and all(1 <= count <= MOST_LAYERS for count in self.blocks)
        demand(fitting, "blocks", self.blocks, f"{levels} numbers, of 1 to {MOST_LAYERS}")
        demand(self.kernel in range(1, 32, 2), "kernel", self.kernel, "an odd number up to 31")

    @property
    def stride(self) -> int:
        """How many pixels of the picture one pixel of the coarsest level covers, each way."""
        return 2 << (len(self.channels) - 1)


def check_size(size: int, stride: int, name: str = "image size", whose: str | None = None) -> None:
    """Raise UserError unless `size` divides by `stride`. The message offers the nearest two sizes that do.

    whose: what needs it; None: the levels of a U-Net.
    """
    if size < 1 or size % stride:
        smaller = max(size // stride, 1) * stride
        whose = whose or f"this network's {stride.bit_length()} levels"
        raise UserError(
            f"{name} {size} does not divide by {stride}, which {whose} need. Try {smaller} or {smaller + stride}."
        )


def nearest_multiple(number: int, of: int) -> int:
    """Return the multiple of `of` that is nearest to a number, and not 0."""
    return max(round(number / of), 1) * of


def check_unet(config: UNetConfig) -> None:
    """Raise UserError for arguments that no U-Net can be built from."""
    channels, attention, groups, head_dim = config.channels, config.attention, config.norm_groups, config.head_dim
    demand(1 <= len(channels) <= MOST_LEVELS, "channels", channels, f"a number for each level, of 1 to {MOST_LEVELS}")
    demand(all(1 <= width <= MOST_CHANNELS for width in channels), "channels", channels, f"1 to {MOST_CHANNELS:,} each")
    demand_range(config, 1, MOST_PIXELS, "image_size")
    demand_range(config, 1, MOST_CHANNELS, "in_channels", "out_channels", "head_dim")
    demand_range(config, 1, MOST_LAYERS, "layers_per_block")
    demand_range(config, 1, MOST_GROUPS, "norm_groups")
    demand_range(config, 0, MOST_LABELS, "label_dim")
    demand(0 < config.norm_eps <= 1, "norm_eps", config.norm_eps, "a number above 0 and up to 1, such as 1e-6")
    if len(attention) != len(channels):
        raise UserError(
            f"attention has {len(attention)} entries for {len(channels)} levels of channels {list(channels)}. "
            "Give True or False for each."
        )
    config.check_size(config.image_size)
    for level, width in enumerate(channels):
        if config.norm == "group" and width % groups:
            raise UserError(
                f"{width} channels do not divide into {groups} norm groups. "
                f"Try {max(width // groups, 1) * groups} channels, or norm_groups={math.gcd(*channels)}."
            )
        attends = attention[level] or (config.mid_attention and level == len(channels) - 1)
        if attends and head_dim is not None and (head_dim < 1 or width % head_dim):
            raise UserError(
                f"head_dim {head_dim} does not divide the {width} channels of level {level}, which has attention. "
                f"Try {math.gcd(width, max(head_dim, 1))}, or None for one head."
            )
    if channels[0] % 2 or channels[0] < 4:
        raise UserError(f"the first level has {channels[0]} channels. The timestep embedding needs an even 4 or more.")
    demand(config.freq_shift < channels[0] // 2, "freq_shift", config.freq_shift, "1 (DDPM) or 0")
    demand(config.downsample_padding in (0, 1), "downsample_padding", config.downsample_padding,
           "0 (right and bottom, DDPM) or 1 (all round)")  # fmt: skip
    demand(0 <= config.dropout < 1, "dropout", config.dropout, "a probability from 0 up to, but not including, 1")
