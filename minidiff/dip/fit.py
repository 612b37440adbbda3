"""The deep image prior: fit an untrained network to one damaged image, and stop before it learns the damage too.

Rests on networks.dip. A `Fitter` is a generator of steps, like a training; dip/early_stop.py says when to stop it.
Ulyanov et al. 2018 (Deep Image Prior).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.dip.config import FitConfig
from minidiff.errors import UserError, lookup, shown
from minidiff.images.show import png_of
from minidiff.networks.dip import DipNet
from minidiff.networks.weights import check_tensor, load_exactly, load_optimizer
from minidiff.records import LARGEST_INT
from minidiff.rng import Draws, seed_from

# The random streams of a fit's seed. A stream of its own for each purpose keeps them independent.
INPUT_STREAM, JITTER_STREAM, NET_STREAM, NOISE_STREAM = range(4)


class FitStep(NamedTuple):
    """What one step saw, before the optimizer moved on. The tensors stay on the device; nothing overwrites them."""

    step: int  # 1, 2, ...
    loss: Tensor
    output: Tensor  # [1,C,H,W] in [-1,1]: the image this loss was computed from
    averaged: Tensor  # [1,C,H,W]: the exponential moving average of the outputs so far, corrected as Adam's are

    def __repr__(self) -> str:
        return f"FitStep(step={self.step}, loss={self.loss.item():.4g}, output={list(self.output.shape)})"

    def _repr_png_(self) -> bytes | None:
        return png_of(self.averaged)


# --- what the target shows of the image ---------------------------------------------------------------------------

Degrade = Callable[[Tensor], Tensor]  # the image x -> what is known of it, A(x)


def show_all(mask: Tensor | None, factor: int) -> Degrade:
    """Show the whole image: the target is the image with noise on it."""
    return lambda x: x


def show_known(mask: Tensor | None, factor: int) -> Degrade:
    """Show the pixels where the mask is 1."""
    if mask is None:
        raise UserError("the task inpaint needs a mask of what is known. Give one, or take the task denoise.")
    if not mask.any():
        raise UserError("the mask is 0 everywhere, so nothing of the image is known. Set it to 1 where it is.")
    return lambda x: x * mask


def show_smaller(mask: Tensor | None, factor: int) -> Degrade:
    """Show a smaller version: bicubic with antialiasing, as an image editor resizes."""

    def shrink(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return F.interpolate(x, (height // factor, width // factor), mode="bicubic", antialias=True)

    return shrink


TASKS: dict[str, Callable[[Tensor | None, int], Degrade]] = {
    "denoise": show_all,
    "inpaint": show_known,
    "super-resolve": show_smaller,
}


# --- what the network is given ------------------------------------------------------------------------------------


def noise_input(net: DipNet, known: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    """Draw 0.1 * U(0,1) in as many channels as the network takes, on the CPU: the same for every device."""
    return 0.1 * Draws(seed_from(seed, INPUT_STREAM), 1, slice(None)).rand(net.in_channels, *size)


def image_input(net: DipNet, known: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    """Take what is known of the image itself, enlarged if the result is to be larger."""
    if known.shape[1] != net.in_channels:
        raise UserError(
            f"the image has {known.shape[1]} channels, the network takes {net.in_channels}. "
            f"Build it with in_channels={known.shape[1]}, or take the input noise."
        )
    return known if known.shape[-2:] == size else F.interpolate(known, size, mode="bicubic")


INPUTS: dict[str, Callable[[DipNet, Tensor, tuple[int, int], int], Tensor]] = {
    "noise": noise_input,
    "image": image_input,
}


# --- the fit ------------------------------------------------------------------------------------------------------


class Fitter:
    """Hold a network, its input and its optimizer at one step of a fit; `steps()` moves them on.

    target: float [1,C,H,W] in [-1,1]. mask, for inpainting: [1,1,H,W], 1 where the target is known, 0 in the holes.
    It minimises |A(net(z)) - A(target)|^2 over the weights, with z fixed but for the jitter (Ulyanov et al. 2018,
    eq. 2). Every random number is a function of (seed, step). So on a CPU a resumed fit equals one that was never
    interrupted, to the bit. Raises UserError for options that do not suit each other, or the image.
    """

    def __init__(
        self,
        net: DipNet,
        target: Tensor,
        config: FitConfig,
        mask: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if target.ndim != 4 or len(target) != 1:
            raise ValueError(f"a target is one image [1,C,H,W], not {list(target.shape)}")
        if mask is not None and mask.shape != (1, 1, *target.shape[-2:]):
            raise UserError(f"the mask is {list(mask.shape)}: make it [1, 1, H, W] of the image {list(target.shape)}.")
        self.config, self.device, self.step = config, torch.device(device), 0
        self.net = net.to(self.device).train()
        target = target.to(self.device, torch.float32)
        mask = None if mask is None else mask.to(target)
        self.degrade = lookup("task", config.task, TASKS)(mask, config.factor)
        size = (target.shape[-2] * config.enlargement, target.shape[-1] * config.enlargement)
        self.shape = (1, target.shape[1], *size)  # of an output
        self.known = target if config.enlargement > 1 else self.degrade(target)  # a small target is A(image) already
        make_input = lookup("input", config.input_kind, INPUTS)
        self.input = make_input(net, self.known, size, config.seed).to(self.device)
        self.arrange(layout_for(self.device))
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), lr=config.lr, fused=self.device.type in ("cpu", "cuda")
        )
        self.averaged: Tensor | None = None
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.net) if config.compile else self.net
        torch.backends.cudnn.benchmark = True  # every step has the same shapes: try the algorithms once

    def arrange(self, layout: torch.memory_format) -> None:
        """Lay weights and images out in memory by pixels (channels_last) or by planes. It changes rounding alone."""
        self.net.to(memory_format=layout)
        self.input = self.input.contiguous(memory_format=layout)

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on."""
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
        }

    def load_state_dict(self, state: Any, source: str = "state") -> None:
        """Go on from a saved state. Raises UserError for the state of another network; source names it there."""
        if not isinstance(state, Mapping) or (missing := {"net", "optimizer", "step", "averaged"} - state.keys()):
            what = f"it has no {min(missing)}" if isinstance(state, Mapping) else f"it is {shown(state)}"
            raise UserError(f"{source} is not the state of a fit: {what}. Start again, in another folder.")
        load_exactly(self.net, state["net"], source)
        if self.device.type == "cpu":
            self.arrange(layout_of(state["net"]))  # with another layout it would round otherwise
        load_optimizer(self.optimizer, state["optimizer"], source)
        step, averaged = state["step"], state["averaged"]
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= LARGEST_INT:
            raise UserError(f"{source} is not the state of a fit: its step is {shown(step)}. Start again.")
        if averaged is not None:
            check_tensor(averaged, self.shape, "averaged", source)
            averaged = averaged.to(self.device)
        self.step, self.averaged = step, averaged

    def steps(self) -> Iterator[FitStep]:
        """Fit from the present step to `config.steps`. Yields one record after each step of the optimizer."""
        config = self.config
        while self.step < config.steps:
            step = self.step + 1
            z = self.input
            if config.jitter > 0:
                draws = Draws(seed_from(config.seed, JITTER_STREAM, step), 1, slice(None), self.device)
                z = z + config.jitter * draws.randn(*z.shape[1:])
            output = self.forward(z)
            loss = F.mse_loss(self.degrade(output), self.known)  # eq. 2
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            output = output.detach()
            # Without this correction the first output, which is no picture yet, would still count a third at step 100.
            weight = config.average * (1 - config.average ** (step - 1)) / (1 - config.average**step)  # Adam, section 3
            past = output if self.averaged is None else self.averaged
            self.averaged = weight * past + (1 - weight) * output
            self.step = step
            yield FitStep(step, loss.detach(), output, self.averaged.clone())


def layout_for(device: torch.device) -> torch.memory_format:
    """Choose the layout in which a fit is fastest: by pixels, but by planes on a CPU with AVX2 and no AVX-512.

    There oneDNN's gradient of the weights by pixels takes four times as long: docs/dip.md has the times.
    """
    by_planes = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.contiguous_format if by_planes else torch.channels_last


def layout_of(weights: Mapping[str, Tensor]) -> torch.memory_format:
    """Find the layout of a network's saved weights, which the file keeps."""
    by_planes = all(tensor.is_contiguous() for tensor in weights.values())
    return torch.contiguous_format if by_planes else torch.channels_last


def fit(
    net: DipNet, target: Tensor, config: FitConfig, mask: Tensor | None = None, device: torch.device | str = "cpu"
) -> Iterator[FitStep]:
    """Fit the network to the target from the start. Yields the steps of a `Fitter`; leave the loop when you like."""
    return Fitter(net, target, config, mask, device).steps()
