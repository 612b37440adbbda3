"""The two forms of an image: float32 [N,C,H,W] in [-1, 1] inside, uint8 [N,H,W,3] on disk and in metrics.

Only this module turns one form into the other. A picture of a user's own may have 16 bits, uint16, in place of 8.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff.errors import UserError

Pixels = NDArray[np.uint8]
DeepPixels = NDArray[np.uint16]


def to_float(images: Pixels | DeepPixels | Tensor) -> Tensor:
    """Turn uint8 or uint16 [N,H,W,C] into float32 [N,C,H,W]: 0 becomes -1, and 255, or 65535, becomes 1.

    It stays on its device.
    """
    tensor = torch.as_tensor(images)
    if tensor.dtype not in (torch.uint8, torch.uint16) or tensor.ndim != 4:
        raise ValueError(f"to_float takes uint8 or uint16 [N,H,W,C], not {tensor.dtype} {list(tensor.shape)}")
    half = torch.iinfo(tensor.dtype).max / 2
    return tensor.permute(0, 3, 1, 2).float().div_(half).sub_(1)


def to_uint8(images: Tensor) -> Pixels:
    """Turn float [N,C,H,W] in [-1, 1] into uint8 [N,H,W,3]: rounded and clipped, and one channel repeated to three."""
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"to_uint8 takes float [N,1 or 3,H,W], not {images.dtype} {list(images.shape)}")
    bytes_ = images.detach().float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return bytes_.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def to_uint16(images: Tensor) -> DeepPixels:
    """Turn float [N,C,H,W] in [-1, 1] into uint16 [N,H,W,C]: rounded and clipped. All 65536 values survive."""
    if not images.is_floating_point() or images.ndim != 4:
        raise ValueError(f"to_uint16 takes float [N,C,H,W], not {images.dtype} {list(images.shape)}")
    values = images.detach().float().add(1).mul(32767.5).round_().clamp_(0, 65535)
    return values.permute(0, 2, 3, 1).contiguous().cpu().numpy().astype(np.uint16)


def grey_like(picture: Tensor, answer: Tensor) -> Tensor:
    """Make the channels of an answer equal, if they are in the picture it was made from. Both are [N,C,H,W]."""
    if bool((picture == picture[:, :1]).all()):
        return answer.mean(dim=1, keepdim=True).expand_as(answer)
    return answer


# The ranges of arrays from elsewhere. Their values become bytes by value * scale + shift, rounded and clipped.
VALUE_RANGES = {"[0, 1]": (255.0, 0.0), "[-1, 1]": (127.5, 127.5), "[0, 255]": (1.0, 0.0)}


def value_range(low: float, high: float) -> str:
    """Return which of VALUE_RANGES an array of floats from `low` to `high` fits. Raises UserError if none fits.

    Resizing overshoots, so values may exceed an end by 0.1.
    """
    if low >= -0.1 and high <= 1.1:
        return "[0, 1]"
    if low >= -1.1 and high <= 1.1:
        return "[-1, 1]"
    if low >= -0.5 and 2 < high <= 255.5:
        return "[0, 255]"
    known = ", ".join(VALUE_RANGES)
    raise UserError(f"values from {low:.4g} to {high:.4g} are in none of {known}. Rescale or clip them.")


def as_bytes(values: NDArray[Any], held: str) -> Pixels:
    """Turn numbers in the range `held`, one of VALUE_RANGES, into uint8: rounded and clipped, of any shape."""
    scale, shift = VALUE_RANGES[held]
    clipped: Pixels = np.clip(np.rint(values.astype(np.float32) * scale + shift), 0, 255).astype(np.uint8)
    return clipped
