"""Clouds of points that stand for the features of images: drawn from a seed, with covariances made to order.

For test_frechet.py and test_metrics.py. Everything is float64.
"""

import numpy as np
import torch


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(d: int, seed: int, lowest: float = 0.1) -> torch.Tensor:
    """Eigenvalues from 1 down to `lowest`, in directions of its own."""
    q, _ = torch.linalg.qr(normal(d, d, seed=seed))
    return (q * torch.logspace(0, np.log10(lowest), d, dtype=torch.float64)) @ q.T


def symmetric(matrix: torch.Tensor) -> torch.Tensor:
    return (matrix + matrix.T) / 2


def sample_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As numpy computes them."""
    return x.mean(dim=0), torch.from_numpy(np.cov(x.numpy(), rowvar=False))
