"""The memory that is free, and networks that do not fit into it: refused before the system ends the process.

Rests on torch alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from minidiff.errors import UserError

Network = TypeVar("Network", bound=nn.Module)

# Bytes that training takes for each number of a network, without any image: the weights, their average, their
# gradients and the two moments of Adam, in float32.
TRAINED = 20


def free_memory(device: torch.device) -> int | None:
    """Ask how many bytes are free on the device; None if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        text = Path("/proc/meminfo").read_text()
        return 1024 * int(text.split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return None


def build_to_train(build: Callable[[], Network], device: torch.device) -> Network:
    """Build a network that will be trained. Raises UserError if its weights alone need more memory than is free.

    Its numbers are counted on the meta device first, which has shapes and no memory. The random numbers of the first
    weights are not touched by that.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        count = sum(parameter.numel() for parameter in build().parameters())
    free = free_memory(device)
    if free is not None and TRAINED * count > free:
        raise UserError(
            f"a network of {count:,} parameters needs {TRAINED * count / 1e9:,.0f} GB to be trained, and "
            f"{free / 1e9:,.0f} GB are free. Take fewer channels."
        )
    return build()
