"""Load weights exactly: every name, shape and number must be right, or nothing is loaded.

Rests on errors alone; the tensors come from files that other modules read. Nothing in a file is believed before it is
compared: a network that a damaged config.json describes is laid out without memory first, see `build_with`.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from minidiff.errors import UserError, shown

if TYPE_CHECKING:  # a run can be listed and described without waiting for torch
    from torch import Tensor, nn

Network = TypeVar("Network", bound="nn.Module")

FIT = "use the weights that belong to this config.json"


def build_with(build: Callable[[], Network], tensors: object, source: str | Path, mend: str = FIT) -> Network:
    """Build a network and load weights into it. Raises UserError, see `load_exactly`.

    The network is built on torch's meta device first, which has shapes and no memory. So one of terabytes, of which
    the file holds no weights, is refused at once.
    """
    import torch

    with torch.device("meta"):
        check_fit(build().state_dict(), tensors, source, mend)
    network = build()
    load_exactly(network, tensors, source, mend)
    return network


def load_exactly(module: "nn.Module", tensors: object, source: str | Path, mend: str = FIT) -> None:
    """Copy `tensors`, a mapping, into `module` if all names, shapes and numbers are right.

    Otherwise raise UserError, and copy nothing. source: where the tensors come from, and mend: what to do about it, for
    the message.
    """
    own = module.state_dict()
    checked = check_fit(own, tensors, source, mend)
    faults = [f"{name} {fault}" for name in own if (fault := fault_of(checked[name], own[name]))]
    if faults:
        raise UserError(f"{source} holds weights that no network can use: {some(faults)}. Nothing was loaded; {mend}.")
    module.load_state_dict(checked)


def check_fit(own: Mapping[str, "Tensor"], tensors: object, source: str | Path, mend: str = FIT) -> "dict[str, Tensor]":
    """Return the tensors if their names and shapes are those of a network's own. Otherwise raise UserError."""
    from torch import Tensor

    if not isinstance(tensors, Mapping):
        raise UserError(
            f"{source} holds {shown(tensors)} for weights, not tensors by name. Nothing was loaded; {mend}."
        )
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{shown_name(name)} is not of this network" for name in tensors if name not in own]
    for name in (name for name in own if name in tensors):
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):
            wrong.append(f"{name} is {shown(tensor)}, not a tensor")
        elif tensor.shape != own[name].shape:
            wrong.append(f"{name} is {list(tensor.shape)}, not {list(own[name].shape)}")
    if wrong:
        raise UserError(f"{source} does not fit this network: {some(wrong)}. Nothing was loaded; {mend}.")
    return dict(tensors)


def fault_of(tensor: "Tensor", own: "Tensor") -> str:
    """Say what is wrong with the numbers of a tensor that is to be copied into `own`; nothing if they can be used.

    Weights are plain tensors of float64, float32, float16 or bfloat16, and finite. A count, such as the batches that a
    batch normalisation has seen, is int64. One pass over the numbers, and no copy of them.
    """
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return "is not a plain tensor"
    kind = str(tensor.dtype).removeprefix("torch.")
    if not own.is_floating_point():
        return "" if tensor.dtype == own.dtype else f"holds {kind}, not {str(own.dtype).removeprefix('torch.')}"
    if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        return f"holds {kind}, not float32 or float16"
    if not tensor.numel():
        return ""
    most = torch.finfo(own.dtype).max
    low, high = (end.item() for end in tensor.aminmax())  # NaN if any number is
    if -most <= low <= high <= most:
        return ""
    return f"holds a number beyond {most:.0e}" if math.isfinite(low + high) else "holds NaN or infinity"


def some(faults: list[str]) -> str:
    """List the first three faults, and count the rest."""
    return "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")


def shown_name(name: object) -> str:
    """Write a tensor's name for a message: as it is, or short and with escapes."""
    plain = isinstance(name, str) and name.isprintable() and len(name) <= 80
    return str(name) if plain else shown(name)
