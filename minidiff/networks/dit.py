"""The transformer: in place of the U-Net, patches of the image that ask each other, block after block, at one scale.

Rests on conditioning. Peebles & Xie 2023 ("Scalable Diffusion Models with Transformers": DiT); Dosovitskiy et al. 2021
(images as patches); Vaswani et al. 2017 (attention, positions as waves); Goyal et al. 2017 (blocks that start as the
identity). Layer for layer it computes what the paper's code does: see docs/dit.md.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.networks.conditioning import Conditioned, timestep_embedding
from minidiff.networks.configs import DiTConfig
from minidiff.records import takes, to_json

WAVES = 256  # numbers that the timestep is first written as, in a DiT of any size (the paper's code, models.py)
EPSILON = 1e-6  # of every norm (ibid.)


def patchify(x: Tensor, patch: int) -> Tensor:
    """Cut images [N,C,H,W] into patches, row by row: [N, H/p * W/p, C*p*p]. No number is changed or lost."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(patches: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Undo `patchify`: put patches [N, H/p * W/p, C*p*p] together to images [N,C,H,W]."""
    grid = patches.transpose(1, 2).unflatten(2, (height // patch, width // patch))
    return F.pixel_shuffle(grid, patch)


def positions(rows: int, columns: int, width: int, like: Tensor) -> Tensor:
    """Write the place of each patch as waves: [rows*columns, width], of which half says the column and half the row.

    Attention has no order: without these a shuffled image would be the same to it. A place is written as a timestep is
    (`timestep_embedding`), so a step to the right is a rotation of pairs of numbers, the same one everywhere.
    """
    row, column = torch.arange(rows, device=like.device), torch.arange(columns, device=like.device)
    of_row, of_column = (timestep_embedding(place, width // 2, freq_shift=0) for place in (row, column))
    pairs = [of_column.repeat(rows, 1), of_row.repeat_interleave(columns, dim=0)]  # patches go row by row
    return torch.cat(pairs, dim=1).to(like.dtype)


def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Bring each patch of h [N,T,D] to mean 0 and variance 1, then scale and shift it by what [N,1,D] says: adaLN.

    The norm has no weights of its own. shift and scale come from the timestep and the labels, and take their place.
    """
    normed = F.layer_norm(h, h.shape[-1:], eps=EPSILON)
    return torch.addcmul(shift, normed, 1 + scale)


class SelfAttention(nn.Module):
    """Let every patch ask all others, by its query, in several heads at once.

    Three layers make query, key and value, where the paper's code has one of three times the size: it is the same sum,
    and the optimizer Muon takes each for the matrix that it is.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """h [N,T,D] -> [N,T,D]."""
        q, k, v = (
            layer(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )  # each [N,heads,T,D/heads]
        answers = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(D/heads)) v
        out: Tensor = self.out(answers.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Add to each patch what others answer, then what two layers make of it; both as timestep and labels tell.

    The condition c [N,D] becomes six vectors of D numbers (adaLN-zero; section 3.2 and figure 3 of the paper):

        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = W SiLU(c) + b
        h <- h + gate_1 * attention(norm(h) * (1 + scale_1) + shift_1)
        h <- h + gate_2 * mlp(norm(h) * (1 + scale_2) + shift_2)

    W and b start at 0. So both gates are 0, and a fresh block passes h on as it is.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.condition = nn.Linear(width, 6 * width)
        self.attention = SelfAttention(width, heads)
        inside = mlp_ratio * width
        self.mlp = nn.Sequential(nn.Linear(width, inside), nn.GELU(approximate="tanh"), nn.Linear(inside, width))

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h [N,T,D], c [N,D] (already through SiLU) -> [N,T,D]."""
        told = self.condition(c)[:, None].chunk(6, dim=2)  # each [N,1,D]
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = told
        h = h + gate_1 * self.attention(modulate(h, shift_1, scale_1))
        h = h + gate_2 * self.mlp(modulate(h, shift_2, scale_2))
        return h


class DiT(Conditioned):
    """The diffusion transformer: (x_t, t) -> a prediction with the shape of an image. The defaults are DiT-S/2.

    Called as a `UNet` is. There is one scale, so no skips: every block sees all patches, and the residual path through
    them is the skip. config: its arguments as JSON, see `DiTConfig`; `DiT(**config)` builds the same network.
    """

    @takes(DiTConfig)
    def __init__(self, config: DiTConfig) -> None:
        width, patch, out_channels = config.width, config.patch, config.out_channels or config.in_channels
        super().__init__(config, WAVES, width, flip_sin_to_cos=True, freq_shift=0)
        self.config: dict[str, Any] = to_json(config)
        self.patch = patch
        self.patch_in = nn.Linear(config.in_channels * patch**2, width)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.condition_out = nn.Linear(width, 2 * width)
        self.patch_out = nn.Linear(width, out_channels * patch**2)
        initialise(self)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """x float [N,in_channels,H,W], t int64 [N], labels [N,label_dim] or None -> [N,out_channels,H,W].

        t may also be float. labels, keep: see `Conditioned.condition`.
        """
        self.check_input(x, labels)
        c = F.silu(self.condition(x, t, labels, keep))  # once: every block wants it

        height, width = x.shape[2:]
        h: Tensor = self.patch_in(patchify(x, self.patch))  # [N,T,D]: T patches of D numbers
        h = h + positions(height // self.patch, width // self.patch, h.shape[2], like=x)
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.condition_out(c)[:, None].chunk(2, dim=2)
        return unpatchify(self.patch_out(modulate(h, shift, scale)), self.patch, height, width)

    def hidden_weights(self) -> list[Tensor]:
        """Return the weights that the optimizer Muon may move: what is a matrix between features of patches.

        So not the first and the last layer, and nothing that timestep and labels go through.
        """
        return [
            module.weight
            for block in self.blocks
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear) and name != "condition"
        ]


def initialise(network: DiT) -> None:
    """Set the paper's first weights: Xavier uniform, biases 0, and 0 in all that makes gates and in the last layer.

    So each block starts as the identity and the network predicts 0, as a fresh `UNet` does. The timestep's two layers
    and the labels' start normal, of deviation 0.02.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name in ("time.0", "time.2", "label"):
                nn.init.normal_(module.weight, std=0.02)
            elif name.endswith(".condition"):
                nn.init.zeros_(module.weight)
    nn.init.zeros_(network.condition_out.weight)
    nn.init.zeros_(network.patch_out.weight)
