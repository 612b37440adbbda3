"""What one step of a training reports: the record that training loops yield.

Rests on nothing, so that a request can name it without waiting for torch.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class TrainStep(NamedTuple):
    """What an optimizer step did, after weights and EMA have moved. The tensors stay on the device, unread."""

    step: int  # 1, 2, ...
    loss: "Tensor"
    grad_norm: "Tensor"
    lr: float
    also: Mapping[str, "Tensor"] = MappingProxyType({})  # what else there is to log, by name
