"""The deep image prior: fit an untrained network to one spoilt image, and stop before it learns the spoiling too.

Rests on dip_nets for the networks. A `Fitter` is a generator of steps, like `train.Trainer`; an `EarlyStop` looks at
each output and says when to stop, without a clean image to compare with.
Ulyanov et al. 2018 (deep image prior); Wang et al. 2023 (Early Stopping for Deep Image Prior).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import UserError, lookup
from minidiff.networks.dip import DipNet
from minidiff.networks.weights import load_exactly
from minidiff.rng import Draws, seed_from

INPUT, JITTER = range(2)  # what a seed is for; keeps the streams apart


@dataclass(frozen=True)
class FitConfig:
    """How a network is fitted to an image. The defaults are the published ones for denoising."""

    steps: int = 3000
    lr: float = 0.01
    task: str = "denoise"  # one of TASKS
    factor: int = 4  # of super-resolve: how many times larger than the target the result is
    input_kind: str = "noise"  # one of INPUTS
    jitter: float = 1 / 30  # deviation of the noise added to the input, anew in every step
    average: float = 0.99  # weight of the past in the averaged output; 0 for no averaging
    seed: int = 0  # of input and jitter; the initial weights are the network's own
    compile: bool = False  # the network with torch.compile, which takes a minute first and needs a C compiler


class FitStep(NamedTuple):
    """What one step saw, after the optimizer has moved on. The tensors are its own, on the device, unread."""

    step: int  # 1, 2, ...
    loss: Tensor
    output: Tensor  # [1,C,H,W] in [-1,1]: the image this loss was computed from
    averaged: Tensor  # [1,C,H,W]: the exponential moving average of the outputs so far, corrected as Adam's are


# --- what the target shows of the image ---------------------------------------------------------------------------

Degrade = Callable[[Tensor], Tensor]  # the image x -> what is known of it, A(x)


def denoise(mask: Tensor | None, factor: int) -> Degrade:
    """All of it."""
    return lambda x: x


def inpaint(mask: Tensor | None, factor: int) -> Degrade:
    """The pixels where the mask is 1."""
    if mask is None:
        raise UserError("the task inpaint needs a mask of what is known. Give one, or take the task denoise.")
    if not mask.any():
        raise UserError("the mask is 0 everywhere, so nothing of the image is known. Set it to 1 where it is.")
    return lambda x: x * mask


def super_resolve(mask: Tensor | None, factor: int) -> Degrade:
    """A smaller version: bicubic with antialiasing, what an image editor's resize does."""

    def reduce(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return F.interpolate(x, (height // factor, width // factor), mode="bicubic", antialias=True)

    return reduce


TASKS: dict[str, Callable[[Tensor | None, int], Degrade]] = {
    "denoise": denoise,
    "inpaint": inpaint,
    "super-resolve": super_resolve,
}


# --- what the network is given ------------------------------------------------------------------------------------


def noise_input(net: DipNet, known: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    """0.1 * U(0,1) in as many channels as the network takes, from a CPU generator: the same on every device."""
    return 0.1 * Draws(seed_from(seed, INPUT), 1, slice(None)).rand(net.in_channels, *size)


def image_input(net: DipNet, known: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    """What is known of the image itself, enlarged if the result is to be larger."""
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
    """A network, its input and its optimizer at one step of a fit; `steps()` moves them on.

    target: float [1,C,H,W] in [-1,1]. mask, for inpainting: [1,1,H,W], 1 where the target is known, 0 in the holes.
    Minimises |A(net(z)) - A(target)|^2 over the weights, z fixed but for the jitter (Ulyanov et al. 2018, eq. 2).
    Every random number is a function of (seed, step), so a resumed fit is the one never interrupted, to the bit on a
    CPU. Raises UserError on options that do not fit each other, or the image.
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
        check(config)
        self.config, self.device, self.step = config, torch.device(device), 0
        layout = torch.channels_last  # how the fast convolutions of both CPU and GPU want their images
        self.net = net.to(self.device).to(memory_format=layout).train()
        target = target.to(self.device, torch.float32)
        mask = None if mask is None else mask.to(target)
        self.degrade = lookup("task", config.task, TASKS)(mask, config.factor)
        enlarge = config.factor if config.task == "super-resolve" else 1
        size = (target.shape[-2] * enlarge, target.shape[-1] * enlarge)
        self.known = target if enlarge > 1 else self.degrade(target)  # A(target); a small target is that already
        make_input = lookup("input", config.input_kind, INPUTS)
        self.input = make_input(net, self.known, size, config.seed).to(self.device, memory_format=layout)
        self.optimizer = torch.optim.Adam(
            self.net.parameters(), lr=config.lr, fused=self.device.type in ("cpu", "cuda")
        )
        self.averaged: Tensor | None = None
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.net) if config.compile else self.net
        torch.backends.cudnn.benchmark = True  # every step has the same shapes: try the algorithms once

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
        }

    def load_state_dict(self, state: dict[str, Any], source: str = "state") -> None:
        """Go on from a saved state; a state of another network is a UserError."""
        load_exactly(self.net, state["net"], source)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.averaged = None if state["averaged"] is None else state["averaged"].to(self.device)

    def steps(self) -> Iterator[FitStep]:
        """Fit from the present step to `config.steps`, one record after each step of the optimizer."""
        config = self.config
        while self.step < config.steps:
            step = self.step + 1
            z = self.input
            if config.jitter > 0:
                draws = Draws(seed_from(config.seed, JITTER, step), 1, slice(None), self.device)
                z = z + config.jitter * draws.randn(*z.shape[1:])
            output = self.forward(z)
            loss = F.mse_loss(self.degrade(output), self.known)
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


def fit(
    net: DipNet, target: Tensor, config: FitConfig, mask: Tensor | None = None, device: torch.device | str = "cpu"
) -> Iterator[FitStep]:
    """Fit the network to the target from the start: the steps of a `Fitter`, which see. Break off when you like."""
    return Fitter(net, target, config, mask, device).steps()


def check(config: FitConfig) -> None:
    """UserError unless every number lies where it makes sense."""
    if config.steps < 1 or not config.lr > 0 or config.jitter < 0:
        raise UserError(
            f"{config.steps} steps, rate {config.lr}, jitter {config.jitter}: take at least 1 step, a rate above 0, "
            "a jitter of 0 or more."
        )
    if not 0 <= config.average < 1:
        raise UserError(f"the average's weight of the past, {config.average}, is outside [0, 1). Take 0.99, or 0.")
    if config.task == "super-resolve" and config.factor < 2:
        raise UserError(f"a factor of {config.factor} enlarges nothing. Take 2 or more.")


# --- when to stop -------------------------------------------------------------------------------------------------


class EarlyStop:
    """Watches the outputs of a fit, and says when its statistic has not fallen for `patience` steps.

    While the network still learns the image its outputs settle, and the statistic falls; once it takes up the noise
    they drift again. So the answer is the output at the minimum. It is kept as `best`, that of step `best_step`:
    1, 2, ... as in `FitStep`, one more than the paper's iterations. A subclass says what the statistic is.
    """

    def __init__(self, patience: int = 1000) -> None:
        self.patience = patience
        self.step, self.waited = 0, 0  # steps seen; steps since the minimum
        self.lowest, self.best_step = math.inf, 0
        self.best: Tensor | None = None

    def statistic(self, output: Tensor) -> float | None:
        """Take in the output of `self.step`; None while there are too few."""
        raise NotImplementedError

    def update(self, output: Tensor, answer: Tensor | None = None) -> tuple[float | None, bool]:
        """Take in the next raw output [N,C,H,W]. Returns the statistic, if there is one yet, and whether to stop.

        answer: what to keep if this is the minimum, such as the averaged output; None keeps the output itself.
        """
        self.step += 1
        value = self.statistic(output.detach())
        if value is None:
            return None, False
        if value < self.lowest:  # strictly: of equal minima the first one counts
            self.lowest, self.best_step, self.waited = value, self.step, 0
            self.best = (output if answer is None else answer).detach().clone()
        else:
            self.waited += 1
        return value, self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """All of it: plain numbers and tensors."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; its options come with it."""
        vars(self).update(state)


class WindowVariance(EarlyStop):
    """ES-WMV: the variance of each pixel over the last `window` outputs, averaged over the pixels.

    First at step `window`. Sums and sums of squares are float64, so the running value equals a direct evaluation. It
    holds `window` outputs: 79 MB at 256x256. downscale: k > 1 watches outputs averaged over k x k pixels instead, for
    1 / k^2 of the memory; that is a statistic of its own, no longer the published one.
    """

    def __init__(self, window: int = 100, patience: int = 1000, downscale: int = 1) -> None:
        super().__init__(patience)
        self.window, self.downscale = window, downscale
        self.outputs: Tensor | None = None  # [window, N,C,H,W], a ring: step s lies at (s - 1) % window
        self.sums: Tensor | None = None  # [2, N,C,H,W] float64: of the outputs in the ring, and of their squares

    def statistic(self, output: Tensor) -> float | None:
        if self.downscale > 1:
            output = F.avg_pool2d(output, self.downscale)
        if self.outputs is None or self.sums is None:
            self.outputs = output.new_zeros(self.window, *output.shape)
            self.sums = torch.zeros(2, *output.shape, dtype=torch.float64, device=output.device)
        oldest = self.outputs[(self.step - 1) % self.window]  # zeros until the ring is full
        self.sums[0] += output.double() - oldest.double()
        self.sums[1] += output.double() ** 2 - oldest.double() ** 2
        oldest.copy_(output)
        if self.step < self.window:
            return None
        mean, mean_square = self.sums / self.window
        return (mean_square - mean**2).mean().item()


class MovingVariance(EarlyStop):
    """ES-EMV: the same with a moving average in place of the window, so it holds two images instead of a hundred.

    alpha: the weight of the newest output. The average starts as black, far from any output, so that the statistic
    starts high and falls. The published notebook starts it at the first output with a variance of 0, which leaves the
    small values of the first steps to beat.
    """

    def __init__(self, alpha: float = 0.1, patience: int = 1000) -> None:
        super().__init__(patience)
        self.alpha = alpha
        self.mean: Tensor | None = None  # [N,C,H,W] float64
        self.variance = 0.0  # averaged over the pixels

    def statistic(self, output: Tensor) -> float | None:
        alpha, x = self.alpha, output.double()
        if self.mean is None:
            self.mean = torch.full_like(x, -1.0)
        distance = (x - self.mean).square().mean().item()
        self.variance = (1 - alpha) * self.variance + alpha * (1 - alpha) * distance  # algorithm 2
        self.mean = (1 - alpha) * self.mean + alpha * x  # algorithm 2
        return self.variance


EARLY_STOPS: dict[str, Callable[..., EarlyStop]] = {"window": WindowVariance, "moving": MovingVariance}
