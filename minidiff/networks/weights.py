"""Load weights exactly: every name, shape and number must be right, or nothing is loaded.

Rests on files; most tensors come from files that other modules read. Nothing in a file is believed before it is
compared: a network that a damaged config.json describes is laid out without memory first, see `build_with`.
"""

import hashlib
import math
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minidiff.errors import UserError, shown
from minidiff.files import regular

if TYPE_CHECKING:  # a run can be listed and described without waiting for torch
    import torch
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


def read_saved(path: Path) -> Any:
    """Read what torch.save wrote, onto the CPU. Nothing in it is run.

    Raises OSError for what cannot be read, and any other Exception for what torch did not write: the restricted
    unpickler fails on arbitrary bytes in many ways. The parts of such a file are never compressed, and a small file
    that unpacks to gigabytes is refused.
    """
    import torch

    regular(path)
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise ValueError("it declares more than it holds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that torch did not write
        return torch.load(path, map_location="cpu", weights_only=True)


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


# What an optimizer keeps for each parameter: a count of its steps, and tensors of the parameter's shape.
KEPT = {
    "Adam": ("step", "exp_avg", "exp_avg_sq"),
    "AdamW": ("step", "exp_avg", "exp_avg_sq"),
    "RMSprop": ("step", "square_avg"),
    "Muon": ("momentum",),
}


def load_optimizer(optimizer: "torch.optim.Optimizer", state: object, source: str | Path) -> None:
    """Load the moments and step counts of an optimizer's saved state, and keep its own settings.

    The settings are those of the run's config.json. Raises UserError for a state that is not of this optimizer, or not
    of this network, or holds a number that is not finite.
    """
    own = optimizer.state_dict()
    count = sum(len(group["params"]) for group in own["param_groups"])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = KEPT[type(optimizer).__name__]
    moments = state.get("state") if isinstance(state, Mapping) else None
    if not isinstance(moments, Mapping) or not all(isinstance(key, int) and 0 <= key < count for key in moments):
        raise UserError(f"{source} holds no state of this network's optimizer. Start again, in another folder.")
    for key, kept in moments.items():
        wanted = {name: () if name == "step" else parameters[key].shape for name in names}
        if not isinstance(kept, Mapping) or kept.keys() != wanted.keys():
            raise UserError(f"{source} is of another optimizer than {type(optimizer).__name__}. Start again.")
        for name, shape in wanted.items():
            check_tensor(kept[name], shape, f"{name} of parameter {key} of its optimizer", source)
    optimizer.load_state_dict({"state": dict(moments), "param_groups": own["param_groups"]})


def check_tensor(tensor: object, shape: Sequence[int], what: str, source: str | Path) -> None:
    """Raise UserError unless this part of a state is a tensor of finite floats, and has this shape. what: its name."""
    import torch

    if not isinstance(tensor, torch.Tensor):
        fault = f"is {shown(tensor)}, not a tensor"
    elif tuple(tensor.shape) != tuple(shape):
        fault = f"is {list(tensor.shape)}, not {list(shape)}"
    else:
        fault = fault_of(tensor, torch.zeros(0))
    if fault:
        raise UserError(f"{source}: {what} {fault}. Start again, in another folder.")


def some(faults: list[str]) -> str:
    """List the first three faults, and count the rest."""
    return "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")


def shown_name(name: object) -> str:
    """Write a tensor's name for a message: as it is, or short and with escapes."""
    plain = isinstance(name, str) and name.isprintable() and len(name) <= 80
    return str(name) if plain else shown(name)


def fingerprint(tensors: Mapping[str, "Tensor"]) -> str:
    """Compute a digest of weights, by which they can be recognised."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_unchanged(tensors: Mapping[str, "Tensor"], wanted: str | None, model: str | Path, begun: str | Path) -> None:
    """Raise UserError unless a model has the weights with which something was begun: what is left would not fit it.

    wanted: their `fingerprint`; None: an earlier version, which did not note it, began it. begun: the run folder.
    """
    found = wanted if wanted is None else fingerprint(tensors)
    if found != wanted:
        raise UserError(
            f"{model} has other weights ({found}) than those that {begun} was begun with ({wanted}). "
            "Bring them back, or begin anew, without `resume`."
        )
