"""The likelihood against closed forms: Gaussians in several dimensions, a mixture in one, and Hutchinson's estimate."""

import math

import pytest
import torch
from mixture import THREE, even_schedule
from torch import Tensor

from minidiff.diffusion.denoiser import Denoise
from minidiff.diffusion.levels import Level
from minidiff.diffusion.likelihood import (
    bits_per_dimension,
    carry,
    dequantised,
    exact_trace,
    hutchinson,
    levels_for,
)
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.rng import sample_generators

DIMS = 12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


TURN = torch.linalg.qr(normal(DIMS, DIMS))[0]
MEAN = 0.3 * normal(DIMS, seed=1)
COVARIANCE = TURN @ torch.diag(torch.logspace(-3, 0, DIMS, dtype=torch.float64)) @ TURN.T
DATA = torch.distributions.MultivariateNormal(MEAN, COVARIANCE)


def gaussian(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """The exact denoiser of DATA: eps is -noise times the score."""
    spread = level.alpha_bar * COVARIANCE + level.var * torch.eye(DIMS, dtype=torch.float64)
    away = x.flatten(1) - level.signal * MEAN
    eps = (level.noise * torch.linalg.solve(spread, away.T).T).view_as(x)
    return (x - level.noise * eps) / level.signal, eps


def draws(count: int, seed: int = 2) -> Tensor:
    return (MEAN + normal(count, DIMS, seed=seed) @ torch.linalg.cholesky(COVARIANCE).T).view(count, 3, 2, 2)


def log_p(denoise: Denoise, x: Tensor, levels, trace=exact_trace) -> Tensor:  # type: ignore[no-untyped-def]
    *_, end = carry(denoise, x, levels, trace)
    return end.log_p


def at_first(x: Tensor, sigma: float) -> Tensor:
    """The exact density of the data with the noise of the first level."""
    spread = COVARIANCE + sigma**2 * torch.eye(DIMS, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(MEAN, spread).log_prob(x.flatten(1))


def levels_of(kind: str, steps: int) -> list[Level]:
    """Rising levels of three processes, on the same sigmas from 0.005 to 160."""
    sigmas = torch.linspace(math.log(0.005), math.log(160), steps, dtype=torch.float64).exp().tolist()
    rates = {
        "vp": lambda s: (1 / (1 + s * s), s * s / (1 + s * s)),
        "straight": lambda s: ((1 / (1 + s)) ** 2, (s / (1 + s)) ** 2),
        "variance-exploding": lambda s: (1.0, s * s),
    }
    return [Level(k, *rates[kind](s)) for k, s in enumerate(sigmas)]


@pytest.mark.parametrize("kind", ["vp", "straight", "variance-exploding"])
def test_bits_of_a_gaussian_are_those_of_its_density(kind: str) -> None:
    """Within 1e-3 bits a dimension of the closed form, picture by picture; and of the density without any noise.

    Fails when the trace is that of x0 (2 bits), when the scale of the last level is forgotten, when log p of the noise
    lacks its constant, and for `straight` when the noise is taken to have variance 1.
    """
    x, levels = draws(6), levels_of(kind, 320)
    found = bits_per_dimension(log_p(gaussian, x, levels), DIMS)
    assert (found - bits_per_dimension(at_first(x, 0.005), DIMS)).abs().max() < 1e-3
    assert (found - bits_per_dimension(DATA.log_prob(x.flatten(1)), DIMS)).abs().max() < 0.02  # 0.005 is not 0


def test_the_error_falls_with_the_square_of_the_steps() -> None:
    """Order 1.9 to 2.1. It is 1 without the mean of both eps, or with the trace at one end of each step."""
    x = draws(6)
    errors = [
        (log_p(gaussian, x, levels_of("vp", steps)) - at_first(x, 0.005)).abs().max().item() for steps in (21, 41, 81)
    ]
    assert math.log2(errors[0] / errors[1]) > 1.7 and math.log2(errors[1] / errors[2]) > 1.8


def test_the_density_of_a_mixture() -> None:
    """No Gaussian: the path of x matters as much as the trace, and the density at three bumps is a formula."""

    def denoise(x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        x0 = THREE.guess(x / level.signal, level.sigma)
        return x0, (x - level.signal * x0) / level.noise

    schedule = even_schedule(300, 0.01, 160)
    x = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64).view(-1, 1, 1, 1)
    deviation = (THREE.deviations**2 + 0.01**2).sqrt()
    z = (x.view(-1, 1) - THREE.means) / deviation
    exact = (THREE.shares / deviation * (-(z**2) / 2).exp()).sum(1).log() - math.log(2 * math.pi) / 2
    assert (log_p(denoise, x, levels_for(schedule, 300)) - exact).abs().max() < 5e-3


def test_hutchinson_is_right_in_the_mean() -> None:
    """Over 400 draws of signs: within 4 standard errors of the exact trace, which are under 0.02 bits. More probes
    have less spread, each half of it with four times as many. A picture does not depend on the batch it is in.
    """
    x, levels = draws(2), levels_of("vp", 12)
    exact = log_p(gaussian, x, levels)
    many = x[:1].expand(400, -1, -1, -1)
    spreads = []
    for probes in (1, 4):
        found = log_p(gaussian, many, levels, hutchinson(sample_generators(3, range(400)), probes))
        spreads.append(found.std().item())
        assert abs(found.mean() - exact[0]) < 4 * found.std() / 20
        assert found.std() > 0
    assert spreads[0] / spreads[1] == pytest.approx(2, rel=0.2)
    both = log_p(gaussian, x, levels, hutchinson(sample_generators(3, range(2))))
    alone = log_p(gaussian, x[1:], levels, hutchinson(sample_generators(3, [1])))
    torch.testing.assert_close(both[1:], alone)


def test_bytes_are_spread_over_the_values_that_round_to_them() -> None:
    """Every value rounds back to its byte, the mean is k / 127.5 - 1, and uniform bytes have 8 bits."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(200, -1, -1, -1)
    x = dequantised(pixels, sample_generators(0, range(200)))
    grey = (x + 1) * 127.5
    assert torch.equal(grey.round().clamp(0, 255).to(torch.uint8), pixels)
    assert (grey - pixels).mean().abs() < 4 / math.sqrt(12 * grey.numel())
    assert (grey - pixels).var().item() == pytest.approx(1 / 12, rel=0.03)
    uniform = torch.tensor([-5 * math.log(256 / 127.5)], dtype=torch.float64)  # the density of 256 values, 5 times
    assert bits_per_dimension(uniform, 5).item() == pytest.approx(8)


def test_levels_are_finite_and_rise() -> None:
    """Pure noise has no density to compare with in x / signal, so a schedule that ends in it begins one level lower."""
    for schedule in (Schedule.linear(), Schedule.cosine(), Schedule.linear().zero_terminal_snr()):
        levels = levels_for(schedule, 50)
        sigmas = [level.sigma for level in levels]
        assert sigmas == sorted(sigmas) and math.isfinite(sigmas[-1]) and 49 <= len(levels) <= 50
        assert levels[0].t == 0 and sigmas[-1] > 70
    with pytest.raises(UserError, match="too few"):
        levels_for(Schedule.linear(), 2)
