"""What looks wrong with a dehazed picture, found by comparing it with what it was made from.

Rests on images. White noise alone is found by images.faults. But a network whose weights do not fit paints noise over a
picture that stays visible, and such a result can pass for a picture: here it is compared with the J that it was given.
"""

import torch
from torch import Tensor

from minidiff.networks.gunet import Clearing

# A first model `dehaze` had 0.4 times the grain of a noisy J, and 4 times that of a smooth one, which is still below
# LEAST_GRAIN. With a random first convolution it had 18 to 96 times that of a smooth J, but only 1.1 times that of a
# noisy one. What it leaves of noise that was put there tells them apart: at most 0.06, and 0.69 or more.
NOISE_LEFT = 0.3  # see `DehazeRun.noise_left`
GRAIN = 2.5  # times: how much more fine detail a result may have than its J and the hazy picture together
LEAST_GRAIN = 0.03  # of [-1,1]: fine detail below this is no noise that anybody sees
UNCHANGED = 2 / 127.5  # of [-1,1]: two levels of 255
CLEAR_AIR = 0.95  # a mean transmission above this is no haze
FLAT = 0.01  # a transmission with less deviation than this is the same everywhere


def doubts(hazy: Tensor, guess: Clearing, answer: Tensor | None, noise_left: float = 0.0) -> list[str]:
    """Say what looks wrong, a sentence each. All pictures [1,C,H,W] in [-1,1]; answer: of stage 2, if it was asked.

    noise_left: see `DehazeRun.noise_left`.
    """
    found = []
    through, change = guess.transmission, (guess.clear - hazy).abs().mean()
    if through.mean() > CLEAR_AIR:
        found.append(f"there is no haze here: {100 * through.mean():.0f}% of the light comes through.")
    elif change < UNCHANGED:
        found.append(
            "stage 1 changed nothing, though it finds haze. Its weights are untrained, or do not belong to it."
        )
    elif through.numel() > 1 and through.std() < FLAT:
        found.append(
            f"T is constant ({through.mean():.2f}): stage 1 tells near from far nowhere. It was trained too briefly, "
            "or on other pictures."
        )
    if answer is not None:
        painted, before = grain(answer), max(grain(guess.clear), grain(hazy))
        if painted > max(GRAIN * before, before + LEAST_GRAIN) or noise_left > NOISE_LEFT:
            found.append(
                f"stage 2 painted noise over a good J ({painted / max(before, 1e-3):.1f} times the grain; of noise "
                f"that it was shown it left {100 * noise_left:.0f}%): its weights do not fit, or were hardly trained. "
                "Bring back the file as it was written, or take the J of stage 1, by `steps` 0."
            )
    return found


def grain(picture: Tensor) -> float:
    """Measure fine detail, in [-1,1]: the median of how much a pixel differs from the mean of the four around it.

    Outlines and texture are at few places and leave the median alone; noise is everywhere.
    """
    if min(picture.shape[2:]) < 3:
        return 0.0
    middle = picture[..., 1:-1, 1:-1]
    around = picture[..., :-2, 1:-1] + picture[..., 2:, 1:-1] + picture[..., 1:-1, :-2] + picture[..., 1:-1, 2:]
    return float(torch.median((middle - around / 4).abs()))
