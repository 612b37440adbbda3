"""Load weights exactly: every name and shape must agree, or nothing is loaded.

Rests on errors alone; the tensors come from files that other modules read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from minidiff.errors import UserError

if TYPE_CHECKING:  # a run can be listed and described without waiting for torch
    from torch import Tensor, nn


def load_exactly(
    module: "nn.Module",
    tensors: Mapping[str, "Tensor"],
    source: str | Path,
    mend: str = "use the weights that belong to this config.json",
) -> None:
    """Copy `tensors` into `module` if all names and shapes agree. Otherwise raise UserError, and copy nothing.

    source: where the tensors come from, and mend: what to do about it, for the message.
    """
    own = module.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in tensors]
    wrong += [f"{name} is not of this network" for name in tensors if name not in own]
    wrong += [
        f"{name} is {list(tensors[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{source} does not fit this network: {'; '.join(wrong[:3])}{more}. Nothing was loaded; {mend}."
        )
    module.load_state_dict(dict(tensors))
