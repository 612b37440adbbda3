"""How a network is trained: the numbers, and the learning rate and EMA decay they give at each step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. Sizes and counts are global: the same whatever the number of processes."""

    steps: int = 10_000
    batch_size: int = 128  # images for each optimizer step, over all processes and accumulation slices
    lr: float = 2e-4  # the peak rate
    warmup: int = 200  # steps of linear rise to it
    decay: str = "constant"  # or "cosine": down to 0 at the last step
    weight_decay: float = 0.0
    grad_clip: float | None = 1.0  # largest norm of the gradient; None: any
    ema_decay: float = 0.9999
    accumulate: int = 1  # slices a batch is cut into, to fit the memory
    precision: str = "auto"  # fp32, bf16, or auto: bf16 on a GPU that has it
    compile: bool | None = None  # None: on a GPU, when the run is long enough to repay it
    seed: int = 0

    def learning_rate(self, step: int) -> float:
        """The rate of step 1, 2, ...: linear warm-up, then constant or half a cosine down to 0."""
        if step <= self.warmup:
            return self.lr * step / max(1, self.warmup)
        if self.decay == "constant":
            return self.lr
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))

    def ema_decay_at(self, step: int) -> float:
        """The EMA's decay with warm-up: a short memory at first, or the initial weights would linger for long."""
        return min(self.ema_decay, (1 + step) / (10 + step))


ORDER, NOISE, DROPOUT = range(3)  # what a seed is for; keeps the streams apart
