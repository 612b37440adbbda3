"""Images that are a Gaussian field: denoiser, posterior, and what a chain makes of it are linear algebra.

For test_posterior.py and benchmarks/posterior.py. Images are torus-shaped, [size,size] and one channel, float64; a
matrix acts on their pixels, row after row.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minidiff.diffusion.levels import Level, Levels
from minidiff.diffusion.measurements import Measurement
from minidiff.diffusion.schedules import Schedule


def matrix_of(operator: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Write a linear map of images [.,1,size,size] as a matrix: one column for each pixel."""
    basis = torch.eye(size * size, dtype=torch.float64).view(-1, 1, size, size)
    return operator(basis).flatten(1).T


def root(matrix: Tensor) -> Tensor:
    """Take the symmetric root of a covariance."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class Field:
    """x0 ~ N(mean, covariance) whose covariance is the same everywhere: independent over frequencies."""

    def __init__(self, size: int, mean: float, deviation: float, falls: float = 0.0) -> None:
        """falls: the exponent of the frequency in the power spectrum; 0 is white, 2 is as in photographs."""
        frequency = torch.fft.fftfreq(size, dtype=torch.float64) * size
        power = (frequency[:, None] ** 2 + frequency**2 + 0.25) ** (-falls / 2)
        self.size, self.mean, self.power = size, mean, power / power.mean() * deviation**2

    def filtered(self, x: Tensor, by: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * by).real

    def covariance(self) -> Tensor:
        return matrix_of(lambda x: self.filtered(x, self.power), self.size)

    def doubt(self, level: Level) -> float:
        """The root mean squared error of the exact guess."""
        if level.alpha_bar == 0:
            return math.sqrt(self.power.mean().item())
        return math.sqrt((self.power * level.var / (level.alpha_bar * self.power + level.var)).mean().item())

    def guess(self, x: Tensor, level: Level) -> Tensor:
        """E[x0 | x_t]: Wiener's filter."""
        by = level.signal * self.power / (level.alpha_bar * self.power + level.var)
        return self.mean + self.filtered(x - level.signal * self.mean, by)

    def network(self, schedule: Schedule):  # type: ignore[no-untyped-def]
        """Make the ideal network, which predicts x0."""

        def model(x: Tensor, t: Tensor) -> Tensor:
            (level,) = schedule.levels([int(t[0])])
            return self.guess(x, level)

        model.prediction = "x0"  # type: ignore[attr-defined]
        return model

    def posterior(self, measurement: Measurement, y: Tensor, sigma_y: float) -> tuple[Tensor, Tensor]:
        """Mean [pixels] and covariance of x0 given one y, by matrices."""
        A, prior = matrix_of(measurement.forward, self.size), self.covariance()
        gain = prior @ A.T @ torch.linalg.pinv(A @ prior @ A.T + sigma_y**2 * torch.eye(len(A)).to(A), hermitian=True)
        mean = torch.full((self.size**2,), self.mean, dtype=torch.float64)
        return mean + gain @ (y.flatten() - A @ mean), prior - gain @ A @ prior


class Chain:
    """What `posterior_rule` makes of a field with mean 0, without drawing: x = B y + noise of covariance V."""

    def __init__(self, field: Field, measurement: Measurement, sigma_y: float) -> None:
        self.field, self.sigma_y = field, sigma_y
        A, self.prior = matrix_of(measurement.forward, field.size), field.covariance()
        self.A = A[A.abs().sum(1) > 0]  # the pixels that a mask leaves out are not measured
        self.spread = self.A @ self.prior @ self.A.T + sigma_y**2 * torch.eye(len(self.A)).to(A)  # of y
        self.gain = torch.linalg.solve(self.spread, self.A @ self.prior).T  # E[x0 | y] = gain y
        self.covariance = self.prior - self.gain @ self.A @ self.prior
        self.eigen = torch.linalg.eigh(self.A @ self.A.T)

    def correction(self, r: float) -> Tensor:
        values, vectors = self.eigen
        return r**2 * self.A.T @ ((vectors / (r**2 * values + self.sigma_y**2)) @ vectors.T)

    def run(
        self, levels: Levels, zeta: float = 1.0, draw: bool = True, doubt: float = 1.0, start: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Go down the levels from pure noise, or from the first guess `start` y with fresh noise.

        draw: False takes the mean of x0 at every level. doubt: a factor of r.
        """
        one = torch.eye(len(self.prior)).to(self.prior)
        first = levels[0][0]
        B, V = torch.zeros_like(self.gain), one * first.power
        if start is not None:
            B, V = first.signal * start, first.var * one
        for level, below in levels:
            r = self.field.doubt(level) * doubt
            K = self.correction(r)
            guess = matrix_of(lambda x, level=level: self.field.guess(x, level), self.field.size)
            mean = (one - K @ self.A) @ guess
            kept = below.noise * math.sqrt(1 - zeta) if below.var > 0 else 0.0
            to_x0 = below.signal - kept * level.signal / level.noise
            step = to_x0 * mean + kept / level.noise * one
            B = step @ B + to_x0 * K
            V = step @ V @ step.T + zeta * below.var * one
            if draw and below.var > 0:
                V = V + to_x0**2 * r**2 * (one - K @ self.A)
        return B, V

    def judge(self, B: Tensor, V: Tensor) -> tuple[float, float, float]:
        """Compare with the posterior, as shares of its variance: error of the mean, distance, variance.

        The distance is Wasserstein's between draws about their means: 0 where the covariance is right.
        """
        total = self.covariance.trace()
        bias = ((B - self.gain) @ self.spread @ (B - self.gain).T).trace()
        half = root(self.covariance)
        common = torch.linalg.eigvalsh(half @ V @ half).clamp(min=0).sqrt().sum()
        return (bias / total).item(), ((V.trace() + total - 2 * common) / total).item(), (V.trace() / total).item()
