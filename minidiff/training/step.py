"""The report of one training step: the record that training loops yield.

Rests on nothing, so that a request can name it without waiting for torch.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class TrainStep(NamedTuple):
    """The result of an optimizer step, after weights and EMA have moved. The tensors stay on the device."""

    step: int  # 1, 2, ...
    loss: "Tensor"
    grad_norm: "Tensor"
    lr: float
    also: Mapping[str, "Tensor"] = MappingProxyType({})  # what else there is to log, by name
