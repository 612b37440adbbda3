"""Stage 1: a network guesses J, T and A of a hazy picture, and is corrected by each of them that is known.

Rests on networks.gunet and data.haze.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.data.haze import recompose
from minidiff.data.packed_pairs import unpack
from minidiff.dehaze.config import GuessLoss
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
