"""From an image to the input of Inception: three conventions of resizing and scaling.

Rests on torch. Each convention takes uint8 [n,3,H,W] on any device, and gives float32 [n,3,299,299] from -1 to about 1.
Parmar et al. 2022 (how much the resizing alone changes FID).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import lookup
from minidiff.images.budget import LARGE
from minidiff.images.convert import Pixels
from minidiff.networks.inception import IMAGE_SIZE

STRIP = 1 << 22  # pixels of a large image that are resized at a time


def interpolate(
    images: Tensor, size: int, prepare: Callable[[Tensor], Tensor], mode: str, antialias: bool = False
) -> Tensor:
    """Make floats of bytes [n,C,H,W] by `prepare`, and resize them to [n,C,size,size].

    Both directions are resized at once, as in PyTorch. Large images would take gigabytes as floats, so their rows are
    resized first, a strip at a time. Antialiased, PyTorch does the same on the CPU: there the result is the same to the
    bit, and strips begin at STRIP pixels. Elsewhere it differs by rounding, and they begin above LARGE.
    """
    height, width = images.shape[2:]
    if height * width <= (STRIP if antialias and images.device.type == "cpu" else LARGE):
        return F.interpolate(prepare(images), (size, size), mode=mode, antialias=antialias)
    rows = [
        F.interpolate(prepare(strip), (strip.shape[2], size), mode=mode, antialias=antialias)
        for strip in images.split(max(1, STRIP // width), dim=2)
    ]
    return F.interpolate(torch.cat(rows, dim=2), (size, size), mode=mode, antialias=antialias)


def as_pytorch_fid(images: Tensor) -> Tensor:
    """Resize bilinearly, without antialiasing. Black becomes -1, and white 1."""
    return interpolate(images, IMAGE_SIZE, lambda strip: strip.float().div_(255), "bilinear").mul_(2).sub_(1)


def as_torch_fidelity(images: Tensor) -> Tensor:
    """Resize bilinearly as TensorFlow 1 did: output pixel i lies at i * H / 299 of the input.

    Half a pixel is missing there, so a picture that is enlarged moves up and to the left. White becomes 127/128.
    """
    x = images
    for axis in (3, 2):
        low, high, weight = tensorflow_positions(images.shape[axis], images.device)
        weight = weight if axis == 3 else weight[:, None]
        x = torch.lerp(x.index_select(axis, low).float(), x.index_select(axis, high).float(), weight)
    return (x - 128) / 128


def tensorflow_positions(size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two neighbours in the input of each of 299 output pixels, and the weight of the second."""
    position = torch.arange(IMAGE_SIZE, device=device) * torch.tensor(size / IMAGE_SIZE, dtype=torch.float32)
    low = position.long()
    return low, (low + 1).clamp_max(size - 1), position - low


def as_clean_fid(images: Tensor) -> Tensor:
    """Resize each channel as Pillow does floats: bicubic, antialiased, clipped to 0..255. White becomes 127/128.

    Pillow computes its weights in float64. In float64 the two agree to 3e-5 of 255, in float32 to 6e-3.
    """
    x = interpolate(images, IMAGE_SIZE, Tensor.double, "bicubic", antialias=True).clamp_(0, 255)
    return ((x - 128) / 128).float()


MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "pytorch-fid": as_pytorch_fid,
    "torch-fidelity": as_torch_fidelity,
    "clean": as_clean_fid,
}


def network_input(images: Pixels | Sequence[Pixels], mode: str, device: torch.device | str = "cpu") -> Tensor:
    """Resize and scale images by a mode of MODES: float32 [n,3,299,299], in the layout channels_last.

    images: uint8 [n,H,W,3], or a list of uint8 [H,W,3] of any sizes. Images of one size are resized together.
    """
    convert = lookup("mode", mode, MODES)
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"images are uint8 [H,W,3], not {image.dtype} {list(image.shape)}")
        rows_of.setdefault(image.shape, []).append(row)
    shape = (len(images), 3, IMAGE_SIZE, IMAGE_SIZE)
    inputs = torch.empty(shape, device=device, memory_format=torch.channels_last)
    for rows in rows_of.values():
        same = torch.from_numpy(stacked([images[row] for row in rows])).to(device).permute(0, 3, 1, 2)
        if len(rows_of) == 1:
            return convert(same).contiguous(memory_format=torch.channels_last)
        inputs[rows] = convert(same)
    return inputs


def stacked(images: Sequence[Pixels]) -> Pixels:
    """Stack images of one size. A single one is copied only if it is read-only, which torch does not like."""
    return images[0][None] if len(images) == 1 and images[0].flags.writeable else np.stack(images)
