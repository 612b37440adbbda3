"""Check that a fit has enough memory: refuse a picture that is too large before the system kills the process.

Rests on networks.dip.
"""

import math

import torch
from torch import Tensor

from minidiff.dip.config import StopConfig
from minidiff.errors import UserError
from minidiff.files import size_in_words
from minidiff.networks.dip import DipNet
from minidiff.runtime.memory import free_memory


def check_memory(net: DipNet, size: tuple[int, int], enlargement: int, device: torch.device, name: str) -> None:
    """Raise UserError when a fit whose result has `size` (height, width) needs more memory than is free.

    The message suggests a target that fits. It has at most 512 pixels a side, because larger ones take too long.
    """
    free, height, width = free_memory(device), *size
    a_pixel = bytes_a_pixel(net)
    if free is None or a_pixel * height * width < 0.9 * free:
        return
    fits = min(512, int(math.sqrt(0.7 * free / a_pixel)) // 32 * 32 // enlargement)
    raise UserError(
        f"{name} at {width}x{height} needs some {size_in_words(a_pixel * height * width)}, "
        f"{size_in_words(free)} are free. "
        f"Try `size` {max(8, fits)}, which cuts out the centre, or fewer `channels`."
    )


def check_window(stop: StopConfig | None, size: tuple[int, int], channels: int, device: torch.device) -> None:
    """Raise UserError when the outputs that an early stop holds need more memory than is free."""
    free = free_memory(device)
    if stop is None or stop.window is None or free is None:
        return
    needed = 4 * stop.window * channels * math.prod(side // (stop.downscale or 1) for side in size)
    if needed > 0.9 * free:
        raise UserError(
            f"the last {stop.window:,} outputs need some {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free. "
            "Try a smaller `window`."
        )


def bytes_a_pixel(net: DipNet) -> float:
    """Measure what one step takes for every pixel: all that autograd saves at a small size, and as much again to work.

    Measured from 256 to 512 pixels a side, a step takes 1.7 times what autograd saves for hourglass, 2.3 for cnn.
    """
    side = max(64, 2 * net.stride)
    held: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in net.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}  # the running means move
    z = torch.zeros(1, net.in_channels, side, side)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = torch.func.functional_call(net, buffers, (z,))
    del output
    return 2 * sum(held.values()) / side**2
