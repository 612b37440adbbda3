"""The guided filter: what was computed on a small picture, such as depth, gets the outlines of the large one.

Rests on torch alone. He et al. 2013 (Guided Image Filtering); He & Sun 2015 (Fast Guided Filter), who find the
coefficients on the small picture.
"""

import torch.nn.functional as F
from torch import Tensor


def box_mean(x: Tensor, radius: int) -> Tensor:
    """Average over the windows of side 2 radius + 1 around each pixel, [N,C,H,W]; outside the picture there is nothing.

    Rows first, then columns, so that the work grows with the radius and not with its square.
    """
    for sides in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
        padding = (sides[0] // 2, sides[1] // 2)
        x = F.avg_pool2d(x, sides, stride=1, padding=padding, count_include_pad=False)
    return x


def guided_lines(guide: Tensor, values: Tensor, radius: int, smooth: float) -> tuple[Tensor, Tensor]:
    """Find a and b such that values = a guide + b in each window, and average them over the windows at each pixel.

    guide [N,1 or C,H,W], values [N,C,H,W]; a, b [N,C,H,W]. radius: half the side of a window, in pixels. smooth: a
    window of which the guide has a smaller variance than this counts as one flat colour. He et al. 2013, eq. 5 to 8.
    """
    mean_guide, mean_values = box_mean(guide, radius), box_mean(values, radius)
    variance = box_mean(guide * guide, radius) - mean_guide**2
    covariance = box_mean(guide * values, radius) - mean_guide * mean_values
    a = covariance / (variance + smooth)  # eq. 5
    b = mean_values - a * mean_guide  # eq. 6
    return box_mean(a, radius), box_mean(b, radius)


def guided_upsample(guide: Tensor, small_guide: Tensor, values: Tensor, radius: int, smooth: float) -> Tensor:
    """Bring values of a small picture to a large one, with the outlines of the large one: [N,C,H,W].

    guide [N,1 or C,H,W]: the large picture. small_guide: the same picture, [N,1 or C,h,w]. values [N,C,h,w].
    He & Sun 2015, algorithm 2.
    """
    a, b = guided_lines(small_guide, values, radius, smooth)
    large = [F.interpolate(each, size=guide.shape[2:], mode="bilinear", align_corners=False) for each in (a, b)]
    return large[0] * guide + large[1]
