"""A network that does not fit into memory is refused before it is built; any other has the same first weights."""

import pytest
import torch
from torch import nn

from minidiff.errors import UserError
from minidiff.runtime.memory import build_to_train

pytestmark = pytest.mark.quick


def test_a_network_of_terabytes_is_not_built() -> None:
    """Breaks when it is built first: the allocation fails with a traceback, or the kernel ends the test."""
    with pytest.raises(UserError, match=r"needs 87,961 GB to be trained, and [\d,]+ GB are free"):
        build_to_train(lambda: nn.Linear(1 << 20, 1 << 22, bias=False), torch.device("cpu"))


def test_the_first_weights_are_those_of_the_seed() -> None:
    """Breaks when counting the parameters draws random numbers."""
    torch.manual_seed(3)
    plain = nn.Linear(4, 4)
    torch.manual_seed(3)
    assert torch.equal(build_to_train(lambda: nn.Linear(4, 4), torch.device("cpu")).weight, plain.weight)
