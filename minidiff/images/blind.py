"""Find two faults that are no noise, so that a measurement of noise overlooks them: salt and pepper, and JPEG blocks.

Rests on torch alone. Both are found by what they do to neighbours. A pixel that is hit by salt or pepper is white or
black and far from the median of the eight around it. The blocks of a JPEG file meet in steps, so the differences across
every eighth boundary are larger than those between.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

APART = 0.3  # of [-1,1], 38 of 255: a pixel nearer to the median of its neighbours is no outlier
SHARE = 0.01  # of the pixels: photographs have 0.0001 at most, a drawing had 0.003; salt on 5% of them gives 0.035
STEP = 1.3  # photographs have 1.09 at most, drawings had 1.2, and JPEG files of quality 30 at least 1.36


def outliers(x: Tensor, sigma: float, most: int = 8) -> Tensor:
    """Find pixels of an image [1,C,H,W] in [-1,1] that are black or white, unlike those around: bool [H,W].

    sigma: the deviation of its noise, which alone may make a pixel black or white; outliers are four times as far from
    the median. most: of the eight neighbours that are about as dark or bright. In a line one pixel wide there are two,
    so 1 leaves drawings out.
    """
    grey = x.mean(1, keepdim=True)
    around = F.unfold(F.pad(grey, (1, 1, 1, 1), mode="replicate"), 3).view(9, *x.shape[2:])
    median = around[[0, 1, 2, 3, 5, 6, 7, 8]].median(0).values
    far = (grey[0, 0] - median).abs() > max(APART, 4 * sigma)
    found, near = torch.zeros_like(far), 1 - max(APART, 2 * sigma)
    for side in (-x, x):  # black, white
        close = (side.mean(1, keepdim=True) > near).float()
        alike = 9 * F.avg_pool2d(close, 3, stride=1, padding=1) - close
        found |= ((side >= 1).all(1) & (alike[0] < most + 0.5))[0] & far
    return found


def block_step(x: Tensor) -> float:
    """Compare the differences across every eighth boundary with the others, in an image [1,C,H,W]: 1 without blocks.

    Of the eight places where the first boundary may be, as in a picture that was turned or cropped, the one with the
    largest. The smaller of both directions, as lines of the picture itself may be upright or level. An image that was
    scaled after it was compressed has no such boundaries, and is not found.
    """
    ratios = []
    for dim in (2, 1):
        grey = x.mean(1)
        apart = grey.diff(dim=dim).abs().mean((0, 3 - dim))
        whole = apart[: len(apart) // 8 * 8].view(-1, 8).double().mean(0)
        largest = whole.max().item() if len(apart) >= 8 else 0.0
        inside = (whole.sum().item() - largest) / 7 if largest > 0 else 0.0
        ratios.append(largest / inside if inside > 0 else 1.0)
    return min(ratios)


def faults(x: Tensor, sigma: float, is_jpeg: bool) -> list[str]:
    """Say in a sentence each what is wrong with an image that denoising does not mend. sigma: of the noise found."""
    found = []
    share = outliers(x, sigma, most=1).float().mean().item()
    if share > SHARE:
        found.append(
            f"{100 * share:.0f}% of the pixels are black or white, unlike those around them. That is no Gaussian "
            "noise: `task` inpaint with the `mask` auto takes them for holes."
        )
    if block_step(x) > STEP:
        mend = "`task` jpeg takes them out." if is_jpeg else "tell a `noise` of 10 to 20, or give the JPEG file."
        found.append(f"the picture has the blocks of a JPEG file, which are no noise: {mend}")
    return found
