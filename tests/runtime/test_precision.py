"""Which precision `auto` takes: bf16 where it is faster."""

from contextlib import nullcontext

import pytest
import torch

from minidiff.runtime import precision
from minidiff.runtime.precision import mixed_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("amx", "training", "wide"), [
    (True, True, False), (True, False, True), (False, True, True), (False, False, True),
])  # fmt: skip
def test_a_processor_with_amx_trains_in_bf16_and_samples_in_fp32(
    monkeypatch: pytest.MonkeyPatch, amx: bool, training: bool, wide: bool
) -> None:
    """Fails when samples of one seed depend on the processor, and when a processor without AMX gets slow bf16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    context = mixed_precision("auto", CPU, training)
    with context():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert (context is nullcontext) == wide and product.dtype == (torch.float32 if wide else torch.bfloat16)


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor has; and an older torch, which cannot say, trains in fp32."""
    monkeypatch.setattr(precision, "has_amx", lambda: True)
    assert mixed_precision("fp32", CPU, training=True) is nullcontext
    assert mixed_precision("bf16", CPU) is not nullcontext
    monkeypatch.undo()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not precision.has_amx() and mixed_precision("auto", CPU, training=True) is nullcontext
