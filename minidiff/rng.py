"""Randomness that can be repeated: every random number is a function of the seed and of what it is for.

Nothing here keeps state between steps. Noise for sample k of seed s comes from a generator seeded with (s, k), so an
image does not depend on the batch it was drawn in, on the number of processes, or on the device.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

Noise = torch.Generator | Sequence[torch.Generator] | None


def seed_from(*parts: int) -> int:
    """Mix one 63-bit seed out of several non-negative integers: (1, 2) and (2, 1) share nothing."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def sample_generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """Make one generator for each sample index: on the CPU, so that every device draws the same images."""
    return [torch.Generator().manual_seed(seed_from(seed, index)) for index in indices]


def randn(shape: Sequence[int], generator: Noise, like: Tensor) -> Tensor:
    """Draw standard normal noise of `shape` [N,...], on the device and in the dtype of `like`.

    generator: None for torch's global one, one generator for the whole batch, or a list of N, where row i comes from
    generator i alone.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = like.device if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=device)
    else:
        if len(generator) != shape[0]:
            raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}: give one for each sample")
        noise = torch.stack([torch.randn(shape[1:], generator=g, device=g.device) for g in generator])
    return noise.to(device=like.device, dtype=like.dtype)


class Draws:
    """The random numbers of one slice of a global batch.

    Each process, and each accumulation slice, draws for the whole batch of `total` samples and keeps its own `rows`:
    so one process with a batch of 64 and four with 16 each see the same timesteps and the same noise. Normal noise is
    cheap beside a network; sending it around is not.
    """

    def __init__(self, seed: int, total: int, rows: slice, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.total, self.rows, self.device = total, rows, device

    def randn(self, *shape: int) -> Tensor:
        """Standard normal float32 [n, *shape]."""
        return torch.randn(self.total, *shape, generator=self.generator, device=self.device)[self.rows]

    def rand(self, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1), [n, *shape]."""
        return torch.rand(self.total, *shape, generator=self.generator, device=self.device)[self.rows]

    def randint(self, high: int) -> Tensor:
        """Uniform int64 in [0, high), [n]."""
        return torch.randint(high, (self.total,), generator=self.generator, device=self.device)[self.rows]

    def stratified(self, high: int) -> Tensor:
        """Uniform int64 in [0, high), [n], spread evenly over the batch: sample k of N is in the k-th Nth of the range.

        Each is uniform over the batches only if its place in the batch is drawn at random, as that of an image is.
        """
        places = torch.arange(self.total, device=self.device)
        drawn = torch.rand(self.total, generator=self.generator, device=self.device, dtype=torch.float64)
        return ((places + drawn) * (high / self.total)).long().clamp(max=high - 1)[self.rows]
