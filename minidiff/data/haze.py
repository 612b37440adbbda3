"""Haze with truth: the equation of a hazy picture, and hazy pictures of which everything is known.

Rests on images, rng and data/config, whose `Haze` has the ranges. Light from a point at distance d reaches the eye with
a share T = exp(-beta d) (Koschmieder 1924); the rest of what is seen is airlight, which the haze scatters into the line
of sight. Narasimhan & Nayar 2002; Wu et al. 2023 (RIDCP) for how hazy pictures are made.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from minidiff.data.config import Haze
from minidiff.images.convert import Pixels, to_float, to_uint8

Floats = NDArray[np.float32]

FARTHEST = 2.0  # the depth of the farthest point: RIDCP's exponent is -2 beta (1 - nearness), with nearness in [0,1]
FLOOR = 0.1  # He et al. 2009, section 4.3: a smaller transmission would blow noise up

# -- The equation ------------------------------------------------------------------------------------------------------


def transmission(depth: Tensor, beta: float | Tensor) -> Tensor:
    """Return the share of light that arrives from a depth: T = exp(-beta depth), in (0,1], of the shape of `depth`."""
    return torch.exp(-beta * depth)


def recompose(clear: Tensor, transmission: Tensor, airlight: Tensor) -> Tensor:
    """Put haze over a clear picture: I = J T + A (1 - T).

    clear: float [N,3,H,W]. transmission: [N,1,H,W] in (0,1]. airlight: [N,3], in the units of the pictures. The two
    weights add up to 1, so the equation is the same for pictures in [0,1] and in [-1,1]; here all are in [-1,1].
    Narasimhan & Nayar 2002, eq. 3; He et al. 2009, eq. 1.
    """
    return clear * transmission + airlight[:, :, None, None] * (1 - transmission)


def invert(hazy: Tensor, transmission: Tensor, airlight: Tensor, floor: float = FLOOR) -> Tensor:
    """Take the haze off a picture: J = (I - A) / max(T, floor) + A.

    Shapes as in `recompose`. Where T is below the floor, some haze stays. Nothing is clipped: a wrong T or A can give
    values outside [-1,1]. He et al. 2009, eq. 16.
    """
    light = airlight[:, :, None, None]
    return (hazy - light) / transmission.clamp(min=floor) + light


# -- Pairs -------------------------------------------------------------------------------------------------------------


class HazyPair(NamedTuple):
    """Hazy pictures and the truth about them. All in float32; N pictures of one size.

    Without damage, hazy = recompose(clear, transmission, airlight) holds exactly. Of pairs that a camera took, only the
    first two are known.
    """

    hazy: Tensor  # I [N,3,H,W] in [-1,1]
    clear: Tensor  # J [N,3,H,W] in [-1,1]
    transmission: Tensor | None  # T [N,1,H,W] in (0,1]
    airlight: Tensor | None  # A [N,3] in [-1,1]
    depth: Tensor | None  # [N,1,H,W] from 0 to FARTHEST, after its gamma: T = exp(-beta depth)


def join(pairs: Sequence[HazyPair]) -> HazyPair:
    """Join pairs of one size to one batch."""
    hazy, clear, *known = zip(*pairs, strict=True)
    return HazyPair(
        torch.cat(hazy), torch.cat(clear), *(None if part[0] is None else torch.cat(part) for part in known)
    )


# -- Random haze -------------------------------------------------------------------------------------------------------

GAMMA_CHANCE = 0.3  # of a depth gamma, as HazeAug has it
DARKER = (1.5, 3.0)  # the power by which a picture is darkened: haze often comes with little light
NOISE = (2, 25)  # standard deviation of the noise, in levels of 255
QUALITY = (30, 95)  # of JPEG


def add_haze(clear: Pixels, depth: Floats, haze: Haze, random: np.random.Generator) -> HazyPair:
    """Put random haze over a picture: a batch of one.

    clear: uint8 [H,W,3]. depth: float32 [H,W] from 0 to FARTHEST. random: every number comes from it, as many for a
    small picture as for a large one, but for those of the noise.

    The damage is what RIDCP does: the picture is darkened and gets noise before the haze, and is compressed after it.
    So noise is weaker behind the haze, as everything is. `clear` in the pair is the picture without noise and JPEG. But
    it is dark: a dark day is no haze. A network that was to undo it, as RIDCP's is, made clear pictures brighter, too.
    """
    beta, bright = random.uniform(*haze.beta), random.uniform(*haze.airlight)
    tint = random.uniform(-haze.colour, haze.colour, 3)
    has_gamma, gamma = random.random() < GAMMA_CHANCE, random.uniform(*haze.gamma)
    dark, noisy, packed = random.random(3) < haze.damage
    power, noise, quality = (random.uniform(*ends) for ends in (DARKER, NOISE, QUALITY))
    if haze.clear and random.random() < haze.clear:
        beta = 0.0

    if has_gamma:
        depth = FARTHEST * (depth / FARTHEST) ** np.float32(gamma)
    far = torch.from_numpy(np.ascontiguousarray(depth, np.float32))[None, None]
    airlight = torch.tensor(2 * np.clip(bright + tint, 0, 1) - 1, dtype=torch.float32)[None]
    through = transmission(far, beta)
    truth = to_float(clear[None])
    if dark:
        truth = 2 * ((truth + 1) / 2) ** power - 1
    seen = truth
    if noisy:
        grains = random.standard_normal(truth.shape, np.float32)
        seen = (seen + (2 * noise / 255) * torch.from_numpy(grains)).clamp(-1, 1)
    hazy = recompose(seen, through, airlight)
    if packed:
        hazy = compressed(hazy, int(quality))
    return HazyPair(hazy, truth, through, airlight, far)


def compressed(image: Tensor, quality: int) -> Tensor:
    """Write a picture, float [1,3,H,W] in [-1,1], as a JPEG file in memory, and read it again."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)[0]).save(buffer, format="JPEG", quality=quality)
    return to_float(np.array(Image.open(buffer))[None])
