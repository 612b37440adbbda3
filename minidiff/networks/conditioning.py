"""What the U-Net and the transformer have in common: how they are told the timestep and the labels, and what they take.

Rests on torch alone. Vaswani et al. 2017 (the waves); Ho et al. 2020 (the timestep); Ho & Salimans 2022 (labels that
are left out).
"""

import math

import torch
from torch import Tensor, nn

from minidiff.errors import UserError
from minidiff.networks.configs import DiTConfig, UNetConfig


def timestep_embedding(t: Tensor, dim: int, flip_sin_to_cos: bool = False, freq_shift: float = 1) -> Tensor:
    """Turn the timestep t [N] into `dim` waves of rising length, float32 [N,dim] (Vaswani et al. 2017, section 3.5).

    Always float32: at t = 999 the fastest wave has turned 159 times, and bfloat16 could not tell t from t + 1.
    DDPM orders [sin | cos] and divides by half - 1; `flip_sin_to_cos=True, freq_shift=0` is the other convention.
    """
    half = dim // 2
    frequencies = torch.exp(
        -math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - freq_shift)
    )
    angles = t.float()[:, None] * frequencies  # [N,half]
    waves = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
    return torch.cat(waves, dim=1)


class Conditioned(nn.Module):
    """A network that is called with (x_t, t) and, if it knows labels, with labels.

    waves: how many numbers the timestep is first written as. time_dim: how many it becomes, and the labels with it.
    flip_sin_to_cos, freq_shift: see `timestep_embedding`.
    """

    def __init__(
        self, config: UNetConfig | DiTConfig, waves: int, time_dim: int, flip_sin_to_cos: bool, freq_shift: float
    ) -> None:
        super().__init__()
        self.size_rule = config.check_size
        self.in_channels, self.label_dim = config.in_channels, config.label_dim
        self.waves, self.flip_sin_to_cos, self.freq_shift = waves, flip_sin_to_cos, freq_shift
        self.time = nn.Sequential(nn.Linear(waves, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.label = nn.Linear(config.label_dim, time_dim) if config.label_dim else None

    def condition(self, x: Tensor, t: Tensor, labels: Tensor | None, keep: Tensor | None) -> Tensor:
        """Return what the layers are told about t [N] or [1], of whole numbers or floats, and labels: [N,time_dim].

        labels None is unconditional: nothing is added. All zeros mean something else, an image without labels: they add
        the label layer's bias, which is trained. keep: bool [N], False for a row that is unconditional all the same.
        """
        waves = timestep_embedding(t.expand(len(x)), self.waves, self.flip_sin_to_cos, self.freq_shift)
        time: Tensor = self.time(waves.to(x.dtype))
        if self.label is not None and labels is not None:
            label = self.label(labels.to(x.dtype))
            time = time + (label if keep is None else label * keep[:, None])
        return time

    def check_input(self, x: Tensor, labels: Tensor | None) -> None:
        """Raise UserError if x or labels do not fit this network, by their shapes."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise UserError(
                f"images of shape {list(x.shape)} do not fit this network, which takes [N,{self.in_channels},H,W]. "
                f"Build it with in_channels={x.shape[1] if x.ndim == 4 else 'C'}, or convert the images."
            )
        for size in x.shape[2:]:
            self.size_rule(size)
        if labels is not None and list(labels.shape) != [len(x), self.label_dim]:
            raise UserError(
                f"labels of shape {list(labels.shape)} do not fit: this network takes [{len(x)},{self.label_dim}]. "
                + ("Multi-hot, one row for each image." if self.label_dim else "Build it with label_dim > 0.")
            )
