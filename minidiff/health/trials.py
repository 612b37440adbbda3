"""Trials: compute something small on a device, and compare it with what is known to be right.

Each is asked for in a process of its own, because a wrong driver can end one. Rests on runtime.precision and on the
models that come with the package.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.health.findings import FAULT, OK, Finding, Wrong, said
from minidiff.runs.folder import read_config
from minidiff.runs.shipped import MODELS, shipped
from minidiff.runtime.precision import full_precision, mixed_precision

FAR = 1e-4  # of the largest number: float32 is off by 1e-6, and by 1e-3 with TF32, which is switched off here


def try_device(name: str) -> str:
    """Convolve on a device, forwards and backwards, and take a training step. Return what was seen; raise Wrong."""
    device = torch.device(name)
    far = far_from_truth(device)
    if not far < FAR:  # NaN, too
        raise Wrong(f"a convolution is off by {far:.2g} of its largest value")
    before, after, kind = training_step(device)
    if not after < before:
        raise Wrong(f"a training step in {kind} brought the loss from {before:.3g} to {after:.3g}")
    return f"convolutions are right to {far:.0e}, forwards and backwards; a training step in {kind} lowers the loss"


def far_from_truth(device: torch.device) -> float:
    """Return how far a convolution in float32 and its gradients are from those in float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, generator=generator) for shape in ((8, 16, 32, 32), (32, 16, 3, 3)))
    truth = convolved(x.double(), weight.double(), torch.device("cpu"))
    with full_precision():
        found = convolved(x, weight, device)
    far = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, truth, strict=True)]
    return max(far, key=lambda each: float("inf") if each != each else each)


def convolved(x: Tensor, weight: Tensor, device: torch.device) -> list[Tensor]:
    """Return the output of a convolution and the gradients of its mean square, float64 on the CPU."""
    x, weight = (tensor.to(device).requires_grad_() for tensor in (x, weight))
    y = F.conv2d(x, weight, padding=1)
    gradients = torch.autograd.grad(y.square().mean(), [x, weight])
    return [tensor.detach().cpu().double() for tensor in (y, *gradients)]


def training_step(device: torch.device) -> tuple[float, float, str]:
    """Take a step in the precision that trainings use. Return the loss before and after it, and the precision."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1)).to(device)
    x = torch.randn(8, 3, 32, 32).to(device)
    computing = mixed_precision("auto", device, training=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses, kind = [], ""
    for _ in range(2):
        with computing():
            y = network(x)
            kind = "mixed precision (bf16)" if y.dtype == torch.bfloat16 else "float32"
            loss = F.mse_loss(y.float(), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[1], kind


def try_compile(name: str) -> str:
    """Compile a function with its gradient for a device, and compare. Return what was seen; raise Wrong."""
    device = torch.device(name)
    x = torch.linspace(-2, 2, 1000, device=device, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return (x.sin() * x + x.tanh()).sum()

    results = []
    for each in (function, torch.compile(function)):
        value = each(x)
        results.append((value.item(), torch.autograd.grad(value, x)[0]))
    (_, plain), (_, compiled) = results
    far = max(abs(results[0][0] - results[1][0]), (plain - compiled).abs().max().item())
    if not far < 1e-3:
        raise Wrong(f"a compiled function is off by {far:.2g}")
    return "a small function compiles, and its gradient is right"


def try_models() -> Iterator[Finding]:
    """Open every model that comes with the package, and check its weights to the bit."""
    for name in shipped():
        try:
            yield Finding(f"model {name}", OK, try_model(name))
        except Exception as error:  # a damaged file can fail in many ways
            mend = "Install minidiff anew: its files are not as they were made."
            yield Finding(f"model {name}", FAULT, said(error), mend)


def try_model(name: str) -> str:
    """Open one. Return what was seen; raise UserError if it does not fit its config exactly."""
    from minidiff.classifier.run import load_classifier
    from minidiff.dehaze.run import load_dehaze
    from minidiff.pretrained.load import load

    folder = MODELS / name
    kind = read_config(folder)["kind"]
    opens: dict[str, Callable[[Path], Any]] = {"classifier": load_classifier, "dehaze": load_dehaze}
    run = opens.get(kind, load)(folder)
    return f"{kind}, {sum(parameter.numel() for parameter in run.model.parameters()):,} parameters, all in their places"
