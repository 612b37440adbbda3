"""The precision that a network computes in: mixed precision for training, plain float32 for measuring.

Rests on torch alone. Micikevicius et al. 2018 (mixed precision training); Kalamkar et al. 2019 (bfloat16).
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch


def mixed_precision(
    precision: str, device: torch.device, training: bool = False
) -> Callable[[], AbstractContextManager[Any]]:
    """Return the context to compute in. `auto` is bf16 on a GPU that has it, else fp32.

    training: on a processor with AMX `auto` is bf16, too. Samples are drawn in fp32 there: a seed should give the same
    picture on every processor.
    """
    if precision == "auto":
        fast = on_gpu_in_bf16(device) or (training and device.type == "cpu" and has_amx())
        precision = "bf16" if fast else "fp32"
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def on_gpu_in_bf16(device: torch.device) -> bool:
    """Return whether a device is a GPU that computes with bfloat16."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def has_amx() -> bool:
    """Return whether the processor multiplies bfloat16 matrices in tiles: Intel's since Sapphire Rapids (2023).

    A training step of the CPU presets then takes 0.5 (ddpm) to 0.85 (wgan-gp) of the time. With instructions for
    bfloat16 but without tiles (AVX512-BF16) it took 0.8, and with none at all 2.5 times as long.
    """
    capabilities: Callable[[], dict[str, object]] = getattr(torch.cpu, "get_capabilities", dict)  # newer than torch 2.6
    return bool(capabilities().get("amx_bf16"))


def can_compile() -> bool:
    """Return whether torch.compile can work on a GPU here: it needs Triton and a C compiler."""
    return find_spec("triton") is not None and any(shutil.which(name) for name in ("cc", "gcc", "clang"))


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute in plain float32 inside: no TF32, no bfloat16, no autocast. Their seven to ten bits move a FID."""
    matmul, cudnn, onednn = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
    switches: list[object] = [matmul, cudnn]
    name, off = "allow_tf32", False  # type: tuple[str, object]
    if hasattr(cudnn, "conv") and hasattr(onednn, "conv"):  # torch 2.9: new switches, not to be mixed with the old
        switches = [matmul, cudnn.conv, *(getattr(onednn, kind) for kind in ("matmul", "conv"))]
        name, off = "fp32_precision", "ieee"
    before = [getattr(switch, name) for switch in switches]
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        try:
            for switch in switches:
                setattr(switch, name, off)
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                setattr(switch, name, value)
