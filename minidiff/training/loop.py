"""The training loop: one for every network of minidiff.

A `Trainer` owns the state (weights, EMA, optimizer, step) and is a generator of steps; what happens between steps,
saving, pictures, progress, belongs to `journal`. What is trained is a closure, `loss(model, images, labels, draws)`,
so DDPM, classifier and dehazing share this loop. Two networks that play against each other have a loop of their own,
in gan_train, with the same surface: a `Training`.

Every random number is a function of (seed, step): the order of the images, flips, timesteps, noise, dropout. So there
is no random state to save, and a resumed run is the run that was never interrupted, to the bit on a CPU.
"""

import copy
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minidiff.data.datasets import ImageData
from minidiff.errors import UserError
from minidiff.images.files import to_float
from minidiff.rng import Draws, seed_from
from minidiff.runs.folder import load_exactly
from minidiff.runtime import distributed

# images [n,C,H,W] in [-1,1], labels float [n,L], the random numbers of these n samples -> the mean loss, a scalar
Loss = Callable[[nn.Module, Tensor, Tensor, Draws], Tensor]

ORDER, NOISE, DROPOUT = range(3)  # what a seed is for; keeps the streams apart


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


class TrainStep(NamedTuple):
    """What one optimizer step did, after weights and EMA have moved. The tensors stay on the device, unread."""

    step: int  # 1, 2, ...
    loss: Tensor
    grad_norm: Tensor
    lr: float
    also: Mapping[str, Tensor] = MappingProxyType({})  # what else there is to log, by name


class Training(Protocol):
    """What journal and job need of a trainer, whatever it trains."""

    config: TrainConfig
    device: torch.device
    slice_size: int  # images that go through the network at once, in this process
    step: int  # the last that was done; 0 before the first

    @property
    def model(self) -> nn.Module: ...

    @property
    def ema(self) -> nn.Module: ...  # of the model, in eval mode: the weights to use

    def steps(self) -> Iterator[TrainStep]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], source: str = "state") -> None: ...


def slice_size(config: TrainConfig) -> int:
    """The images that go through a network at once. Raises UserError when the batch does not divide."""
    slices = distributed.world_size() * config.accumulate
    if config.batch_size % slices:
        raise UserError(
            f"--batch-size {config.batch_size} does not divide by {distributed.world_size()} processes times "
            f"--accumulate {config.accumulate}. Try {math.ceil(config.batch_size / slices) * slices}."
        )
    return config.batch_size // slices


class Trainer:
    """Model, EMA and optimizer at one step of a run; `steps()` moves them on.

    Raises UserError when the batch does not divide.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, data: ImageData, config: TrainConfig, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.data, self.loss = config, data, loss
        self.device = torch.device(device)
        self.slice_size = slice_size(config)
        self.step = 0
        # Channels last is how the fast convolutions of both CPU and GPU want their images.
        self.model = model.to(self.device).to(memory_format=torch.channels_last).train()
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.autocast = mixed_precision(config.precision, self.device)
        self.forward: nn.Module = self.model
        if distributed.world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.model, device_ids=ids, gradient_as_bucket_view=True)
        torch.backends.cudnn.benchmark = True  # every batch has the same shape: try the algorithms once
        pays = self.device.type == "cuda" and config.steps >= 2000 and can_compile()
        if config.compile or (config.compile is None and pays):
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], source: str = "state") -> None:
        """Go on from a saved state; a state of another network is a UserError."""
        if missing := sorted({"model", "ema", "optimizer", "step"} - state.keys()):
            raise UserError(f"{source} is no training state: it has no {missing[0]}. Start again in another --out.")
        load_exactly(self.model, state["model"], source)
        load_exactly(self.ema, state["ema"], source)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def steps(self) -> Iterator[TrainStep]:
        """Train from the present step to `config.steps`, one record after each optimizer and EMA step."""
        config, rank = self.config, distributed.rank()
        batches = load_batches(self.data, config, self.slice_size, self.step, self.device)
        while self.step < config.steps:
            step = self.step + 1
            lr = config.learning_rate(step)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed(seed_from(config.seed, DROPOUT, step, rank))
            total = torch.zeros((), device=self.device)
            for number in range(config.accumulate):
                images, labels, rows = next(batches)
                draws = Draws(seed_from(config.seed, NOISE, step), config.batch_size, rows, self.device)
                with self.synchronised(last=number == config.accumulate - 1):
                    with self.autocast():
                        loss = self.loss(self.forward, prepare(images, self.data.flip, draws), labels, draws)
                    (loss / config.accumulate).backward()
                total += loss.detach() / config.accumulate
            clip = math.inf if config.grad_clip is None else config.grad_clip
            grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            update_ema(self.ema, self.model, config.ema_decay_at(step))
            self.step = step
            yield TrainStep(step, distributed.mean_over_processes(total), grad_norm, lr)

    def synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients travel between processes once a step, with the last accumulation slice."""
        wrapped = getattr(self.forward, "_orig_mod", self.forward)
        if isinstance(wrapped, DistributedDataParallel) and not last:
            return wrapped.no_sync()
        return nullcontext()


# --- the parts of a step ------------------------------------------------------------------------------------------


def prepare(images: Tensor, flip: bool, draws: Draws) -> Tensor:
    """uint8 [n,H,W,C] -> float32 [n,C,H,W] in [-1,1]; half of them mirrored left to right where that makes sense."""
    x = to_float(images)
    if not flip:
        return x
    mirrored = draws.rand(1, 1, 1) < 0.5
    return torch.where(mirrored, x.flip(3), x)


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model, in one fused call; buffers (batch-norm statistics) are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    for mine, theirs in zip(ema.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)


def mixed_precision(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The context to compute in. `auto` is bf16 on a GPU that has it, else fp32: emulated bf16 on a CPU is 0.4x."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if fast else "fp32"
    if precision == "fp32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


def can_compile() -> bool:
    """Whether torch.compile can work on a GPU here: it needs Triton and a C compiler."""
    return find_spec("triton") is not None and any(shutil.which(name) for name in ("cc", "gcc", "clang"))


# --- the order of the data ----------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def epoch_order(seed: int, count: int, epoch: int) -> np.ndarray:
    """The permutation of `count` images that epoch 0, 1, ... goes through: a function of the seed and the epoch."""
    return np.random.default_rng(seed_from(seed, ORDER, epoch)).permutation(count)


def global_batch(seed: int, count: int, batch_size: int, step: int) -> np.ndarray:
    """The image indices of step 1, 2, ...: one long sequence of epochs, cut into batches. int64 [batch_size]."""
    first = (step - 1) * batch_size
    epochs = range(first // count, (first + batch_size - 1) // count + 1)
    start = first % count
    return np.concatenate([epoch_order(seed, count, epoch) for epoch in epochs])[start : start + batch_size]


def slices_of(count: int, config: TrainConfig, slice_size: int, step: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Which images this process reads, slice after slice, beyond `step`; and their rows in the global batch."""
    for following in range(step + 1, config.steps + 1):
        batch = global_batch(config.seed, count, config.batch_size, following)
        for number in range(config.accumulate):
            start = (distributed.rank() * config.accumulate + number) * slice_size
            rows = slice(start, start + slice_size)
            yield batch[rows], rows


class Reader(torch.utils.data.Dataset):
    """Reads whole slices for the workers of a DataLoader."""

    def __init__(self, data: ImageData) -> None:
        self.data = data

    def __getitem__(self, item: tuple[np.ndarray, slice]) -> tuple[Tensor, Tensor, slice]:
        indices, rows = item
        images = torch.from_numpy(np.ascontiguousarray(self.data.images[indices]))
        return images, torch.from_numpy(self.data.labels[indices]).float(), rows


def load_batches(
    data: ImageData, config: TrainConfig, slice_size: int, step: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """uint8 images [n,H,W,C] and float labels [n,L] on the device, with their rows, slice after slice.

    A data set that fits a quarter of the GPU's free memory is kept there whole. A larger one is read by worker
    processes into pinned memory, ahead of the network. On a CPU the images are read where they lie.
    """
    items = slices_of(len(data.images), config, slice_size, step)
    if device.type == "cuda" and data.images.nbytes < torch.cuda.mem_get_info(device)[0] / 4:
        images = torch.from_numpy(np.array(data.images)).to(device)
        labels = torch.from_numpy(data.labels).to(device).float()
        for indices, rows in items:
            chosen = torch.from_numpy(indices).to(device, non_blocking=True)
            yield images[chosen], labels[chosen], rows
    elif device.type == "cuda":
        for images, labels, rows in read_by_workers(data, items):
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True), rows
    else:
        reader = Reader(data)
        for item in items:
            images, labels, rows = reader[item]
            yield images.to(device), labels.to(device), rows


def read_by_workers(data: ImageData, items: Iterable[tuple[np.ndarray, slice]], workers: int = 4) -> Iterable[Any]:
    """The slices in order, read ahead by other processes; in pinned memory where there is a GPU to send them to."""
    pinned = torch.cuda.is_available()
    return torch.utils.data.DataLoader(
        Reader(data),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        pin_memory=pinned,  # type: ignore[arg-type]
    )
