"""Stage 1: a network guesses J, T and A of a hazy picture, and is corrected by each of them that is known.

Rests on networks.gunet, data.haze and images.guided. A large picture is guessed at a size that the network knows, and
what was guessed is carried back to all of its pixels by the guided filter.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.data.haze import invert, recompose
from minidiff.data.packed_pairs import unpack
from minidiff.dehaze.config import GuessLoss
from minidiff.images.guided import guided_upsample
from minidiff.networks.gunet import Clearing
from minidiff.rng import Draws
from minidiff.training.loop import Loss


def guess_loss(weights: GuessLoss) -> Loss:
    """Make the closure that `Trainer` calls: the mean absolute error of J, and of T, A and the recomposed haze.

    The recomposed haze J T + A (1 - T) is compared with the hazy picture itself, which is always known. It binds the
    three guesses to each other: a network that makes the sky clear has to say that there was haze.
    """

    def loss(model: nn.Module, packed: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        pair = unpack(packed)
        guess: Clearing = model(pair.hazy)
        again = recompose(guess.clear, guess.transmission, guess.airlight)
        total = F.l1_loss(guess.clear, pair.clear) + weights.haze * F.l1_loss(again, pair.hazy)
        if pair.transmission is not None and pair.airlight is not None:
            wrong = F.l1_loss(guess.transmission, pair.transmission) + F.l1_loss(guess.airlight, pair.airlight)
            total = total + weights.transmission * wrong
        return total

    return loss


# --- pictures of any size ---------------------------------------------------------------------------------------------

ROOM = 80 / 64  # the longest side that the network looks at, as a multiple of the squares that it has learnt from
RADIUS, SMOOTH = 2, 4e-3  # of the guided filter: benchmarks/dehaze_sizes.py has tried others


def working_size(learnt: int) -> int:
    """Return the longest side, in pixels, at which a network looks at pictures. learnt: a side of its squares."""
    return round(ROOM * learnt)


def guess_large(guess: Callable[[Tensor], Clearing], hazy: Tensor, working: int) -> Clearing:
    """Guess J, T and A of large pictures, float [N,3,H,W] in [-1,1], from small copies of them.

    working: the longest side of these copies, see `working_size`. A network knows haze at the size of the squares that
    it has learnt from: larger copies show it less of a place at a time than it is used to, smaller ones lose detail.
    T gets the outlines of the large picture by the guided filter, and the haze model is inverted there: so texture
    comes from the large picture itself. The network knows more than the haze model, for it was shown noisy pictures,
    and its J need not agree with its T and A. What its J has beyond the inverted picture is seen in the small picture,
    and is added: it changes slowly, so it can be enlarged.
    """
    scale = working / max(hazy.shape[2:])
    if scale >= 1:
        return guess(hazy)
    small_size = [max(1, round(scale * side)) for side in hazy.shape[2:]]
    small = resized(hazy, small_size)
    found = guess(small)
    hazy, small = hazy.to(found.clear), small.to(found.clear)
    grey, small_grey = hazy.mean(1, keepdim=True), small.mean(1, keepdim=True)
    through = guided_upsample(grey, small_grey, found.transmission, RADIUS, SMOOTH).clamp(0, 1)
    inverted = invert(hazy, through, found.airlight)
    correction = found.clear - resized(inverted, small_size)
    return Clearing(inverted + resized(correction, hazy.shape[2:]), through, found.airlight)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bring pictures [N,C,H,W] to another height and width; a smaller one is the mean of what is there."""
    return F.interpolate(x, size=list(size), mode="bilinear", antialias=True, align_corners=False)


def thinned(hazy: Tensor, clear: Tensor, transmission: Tensor, strength: float) -> Tensor:
    """Leave some of the haze in a picture: as much as there is when T becomes T^(1 - strength).

    At 1 this is the clear picture, and at 0 the hazy one. As hazy = J T + A (1 - T), what is left of the haze,
    J T' + A (1 - T') with T' = T^(1 - strength), is a mean of the two with the weight (T' - T) / (1 - T), and needs no
    A. Where there is no haze, T = 1, the weight is its limit, the strength.
    """
    if strength == 1:
        return clear
    left = transmission ** (1 - strength)
    haze = 1 - transmission
    weight = torch.where(haze > 1e-3, (left - transmission) / haze.clamp(min=1e-3), torch.full_like(haze, strength))
    return hazy + weight.clamp(0, 1) * (clear - hazy)
