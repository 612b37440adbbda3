"""When to stop the fit of a deep image prior, without a clean image to compare with.

Rests on networks.weights. An `EarlyStop` looks at each output of a fit, keeps the best answer so far, and says when to
stop.
Wang et al. 2023 (Early Stopping for Deep Image Prior).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.errors import UserError, shown
from minidiff.networks.weights import check_tensor


class EarlyStop:
    """Watch the outputs of a fit, and say when their statistic has not fallen for `patience` steps.

    While the network still learns the image, its outputs settle and the statistic falls. Once it takes up the noise,
    they drift again. So the answer is the output at the minimum. It is kept as `best`, and its step as `best_step`.
    Steps count from 1 as in `FitStep`; the paper's iterations count from 0. A subclass defines the statistic.
    """

    def __init__(self, patience: int = 1000) -> None:
        self.patience = patience
        self.step, self.waited = 0, 0  # steps seen; steps since the minimum
        self.lowest, self.best_step = math.inf, 0
        self.best: Tensor | None = None

    def statistic(self, output: Tensor) -> float | None:
        """Take in the output of `self.step`. Return None while there are too few outputs."""
        raise NotImplementedError

    def update(self, output: Tensor, answer: Tensor | None = None) -> tuple[float | None, bool]:
        """Take in the next raw output [N,C,H,W]. Return the statistic, if there is one yet, and whether to stop.

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
        """Return everything as plain numbers and tensors, settings included."""
        return dict(vars(self))

    def load_state_dict(self, state: Any, shape: Sequence[int] | None = None, source: str = "state") -> None:
        """Go on from a saved state. It brings its settings with it.

        shape: of an output; None: it is not known, and not checked. Raises UserError for the state of something else.
        """
        if not isinstance(state, Mapping) or state.keys() != vars(self).keys():
            raise UserError(f"{source} is not of this early stop: {shown(state)}. Start again, in another folder.")
        for name, value in state.items():
            if name in ("best", *self.held):
                if shape is not None and value is not None:
                    check_tensor(value, self.shape_of(name, shape), f"{name} of its early stop", source)
            elif shape is not None and name in ("window", "downscale", "alpha") and value != vars(self)[name]:
                own = vars(self)[name]
                raise UserError(f"{source}: {name} of its early stop is {shown(value)}, not {own}. Start again.")
            elif type(value) is not type(vars(self)[name]) or value != value or (name != "lowest" and value < 0):
                raise UserError(f"{source}: {name} of its early stop is {shown(value)}. Start again.")
        vars(self).update(state)

    held: tuple[str, ...] = ()  # the tensors beside `best` that the subclass keeps

    def shape_of(self, name: str, shape: Sequence[int]) -> Sequence[int]:
        """Return the shape of a tensor that is kept, for outputs of this shape."""
        return shape


class WindowVariance(EarlyStop):
    """ES-WMV: take the variance of each pixel over the last `window` outputs, averaged over the pixels.

    The first value comes at step `window`. Sums and sums of squares are float64, so the running value equals a direct
    evaluation. The window takes memory: 100 outputs of 256x256 are 79 MB. With downscale = k > 1, the outputs are
    averaged over k x k pixels first. This takes 1 / k^2 of the memory, but is no longer the published statistic.
    """

    held = ("outputs", "sums")

    def shape_of(self, name: str, shape: Sequence[int]) -> Sequence[int]:
        small = (*shape[:2], shape[2] // self.downscale, shape[3] // self.downscale)
        return {"outputs": (self.window, *small), "sums": (2, *small)}.get(name, shape)

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
        return float((mean_square - mean**2).mean())


class MovingVariance(EarlyStop):
    """ES-EMV: use a moving average in place of the window, and so hold two images instead of a hundred.

    alpha: the weight of the newest output. The average starts as black, far from any output, so that the statistic
    starts high and falls. The published notebook starts it at the first output with a variance of 0. Then the small
    values of the first steps would be the minimum.
    """

    held = ("mean",)

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
