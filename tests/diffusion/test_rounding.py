"""A JPEG file as a measurement: against files that Pillow wrote, dense matrices, and a posterior in closed form."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_posterior import SIGMAS, normal, strange
from torch import Tensor

from minidiff.diffusion.denoiser import denoiser
from minidiff.diffusion.jpeg import Coding, Rounded, rounded, rounding_noise, unit_matrix
from minidiff.diffusion.posterior import POSTERIOR_PLAN, Evidence, posterior_rule, white_doubt
from minidiff.diffusion.predictions import PREDICTIONS
from minidiff.diffusion.schedules import Schedule
from minidiff.images.jpeg import read_jpeg

LINEAR = Schedule.linear()
SAMPLINGS = {0: (1, 1), 1: (1, 2), 2: (2, 2)}  # Pillow's `subsampling`: blocks of Y in a unit, down and across


def codings(subsampling: int, light: float = 30.0, colour: float = 60.0) -> list[Coding]:
    ramp = 1 + torch.arange(64, dtype=torch.float64).view(8, 8) / 16
    return [Coding(light * ramp, *SAMPLINGS[subsampling]), Coding(colour * ramp), Coding(2 * colour * ramp)]


def blank(given: list[Coding], down: int, across: int) -> Rounded:
    """A file of zeros, of some units."""
    return rounded([torch.zeros(down * each.down, across * each.across, 8, 8) for each in given], given)


@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_the_true_picture_is_within_what_rounds_to_the_file(subsampling: int, tmp_path: Path) -> None:
    """Pillow writes a picture; the numbers are read from its file.

    A x0 - y is at most half a step, and its variance that of a uniform number. Fails without the shift by 128, with the
    steps transposed, with Cb and Cr exchanged, with the mean of pixels taken for their sum.
    """
    random = np.random.default_rng(0)
    small = random.normal(128, 40, (6, 6, 3)).clip(60, 200).astype(np.uint8)
    pixels = np.array(Image.fromarray(small).resize((96, 64), Image.Resampling.BICUBIC)) + random.integers(
        -8, 9, (64, 96, 3)
    ).astype(np.int16)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.jpg", quality=85, subsampling=subsampling)
    planes = read_jpeg(tmp_path / "a.jpg").planes
    told = rounded(
        [torch.from_numpy(each.numbers.copy()) for each in planes],
        [Coding(torch.from_numpy(each.steps), each.down, each.across) for each in planes],
    )
    x0 = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    apart = told.measurement.forward(x0) - told.y
    assert (apart.abs() > told.reach * 1.1).float().mean() < 1e-3
    alive = apart[..., :10]  # low frequencies of Y, spread over many steps
    assert alive.square().mean().item() == pytest.approx(1, abs=0.15)
    assert torch.allclose(told.fitted(x0), x0, atol=0.02)


@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_the_transpose_and_the_equation_are_those_of_the_matrix(subsampling: int) -> None:
    """Two units beside each other: <A x, y> = <x, A^T y>, and the solution of the dense equation."""
    given = codings(subsampling)
    told = blank(given, 1, 2)
    A = told.measurement
    x = normal(2, 3, told.height, told.width)
    y = normal(*A.forward(x).shape, seed=1)
    assert (A.forward(x) * y).sum().item() == pytest.approx((x * A.transpose(y)).sum().item(), rel=1e-9)
    w = A.solve(y, 0.3, 1.0)
    again = 0.3**2 * A.forward(A.transpose(w)) + w
    assert torch.allclose(again, y, atol=1e-8)


def test_a_point_has_the_cosines_of_the_standard() -> None:
    """T.81, A.3.3, written out for a grey point at row 2, column 5, and the last frequency."""
    matrix = unit_matrix(codings(0))
    seen = matrix[:64].view(8, 8, 3, 8, 8).sum(2)[:, :, 2, 5]
    for v, u in ((0, 0), (3, 0), (7, 7)):
        scale = 0.25 * (math.sqrt(0.5) if u == 0 else 1) * (math.sqrt(0.5) if v == 0 else 1)
        value = scale * math.cos((2 * 2 + 1) * v * math.pi / 16) * math.cos((2 * 5 + 1) * u * math.pi / 16)
        assert seen[v, u].item() == pytest.approx(value, abs=1e-9)


def test_what_is_fitted_rounds_to_the_file() -> None:
    """And what does so already stays as it is."""
    given = codings(2)
    told = blank(given, 2, 1)
    x = 0.8 * normal(1, 3, told.height, told.width).float()
    fitted = told.fitted(x)
    assert (told.measurement.forward(x).abs() > told.reach).any()
    assert ((told.measurement.forward(fitted) - told.y).abs() <= told.reach * 1.0001).all()
    assert torch.allclose(told.fitted(fitted), fitted, atol=1e-4)


# --- the posterior --------------------------------------------------------------------------------------------------


def strays(told: float = 1.0, draws: int = 2000) -> float:
    """Measure in sigmas how far a chain from pure noise is from p(x0 | y) at the level below the first, and the last.

    Pixels are N(0.1, 0.4^2), a unit of 8x8 in three channels. told: a factor of the steps as the chain takes them.
    """
    taken = blank(codings(0, 40 * told, 90 * told), 1, 1)
    M = unit_matrix(codings(0, 40, 90))
    steps = torch.cat([each.steps.flatten() for each in codings(0, 40, 90)])
    noise = ((steps**2 + 1) / 12) / 127.5**2
    y = M @ (0.1 + 0.4 * normal(192, seed=3)) + noise.sqrt() * normal(192, seed=4)
    precision = torch.eye(192).double() / 0.16 + M.T @ (M / noise[:, None])
    covariance = torch.linalg.inv(precision)
    mean = covariance @ (0.1 / 0.16 * torch.ones(192).double() + M.T @ (y / noise))

    def model(x: Tensor, t: Tensor) -> Tensor:
        (level,) = LINEAR.levels([int(t[0])])
        gain = level.signal * 0.16 / (level.alpha_bar * 0.16 + level.var)
        return 0.1 + gain * (x - level.signal * 0.1)

    deviation = ((told * steps) ** 2 / 12 + 1 / 12).sqrt() / 127.5
    evidence = Evidence(taken.measurement, (y / deviation)[None, None], 1.0, white_doubt(0.4))
    levels = POSTERIOR_PLAN.levels(LINEAR, 2)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(draws, 3, 8, 8, generator=generator).double()
    network = denoiser(model, PREDICTIONS["x0"], clip=False)
    (_, below), _ = levels
    step = next(posterior_rule(network, x, levels, generator, evidence))
    values, vectors = torch.linalg.eigh(below.alpha_bar * covariance + below.var * torch.eye(192).double())
    apart = (step.x.flatten(1) - below.signal * mean) @ vectors / values.sqrt()
    spread = math.sqrt(draws) * (apart.T @ apart / draws - torch.eye(192).double())
    return max(
        strange(math.sqrt(draws) * apart.mean(0)),
        strange(spread.diagonal() / math.sqrt(2)),
        strange(spread[tuple(torch.triu_indices(192, 192, offset=1))]),
    )


def test_the_chain_follows_the_posterior_under_rounding_noise() -> None:
    """Mean and covariance against the formula, with noise that differs from number to number.

    Steps taken for a fifth less or a quarter more than they are put it 130 and 110 sigma off.
    """
    assert strays() < SIGMAS
    assert min(strays(told) for told in (0.8, 1.25)) > 2 * SIGMAS


# --- how much was rounded away --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [4.0, 40.0, 400.0])
def test_the_noise_of_rounding_is_found(step: float) -> None:
    """Laplacian numbers whose scale falls with frequency^1.5: within a tenth of their true loss, or a third of it where
    next to nothing is left. Uniform noise alone would be 80 times too large there."""
    random = np.random.default_rng(0)
    k = np.arange(8)
    scale = 120 * np.maximum(np.hypot(k[:, None], k), 0.5) ** -1.5
    values = random.laplace(0, scale, (24, 24, 8, 8))
    written = np.round(values / step)
    lost = np.square(values - written * step).mean((0, 1))
    found = rounding_noise(torch.from_numpy(written), Coding(torch.full((8, 8), step).double())).numpy()
    lost, found = lost.ravel()[1:].sum(), found.ravel()[1:].sum()
    assert found == pytest.approx(lost, rel=0.1 if step < 100 else 0.34)


def test_a_flat_picture_has_lost_little() -> None:
    noise = rounding_noise(torch.zeros(8, 8, 8, 8), Coding(torch.full((8, 8), 100.0).double()))
    assert torch.isfinite(noise).all() and noise.sum() - noise[0, 0] < 5 * 100**2 / 12
    assert rounding_noise(torch.zeros(1, 1, 8, 8), Coding(torch.zeros(8, 8).double())).max() < 1e-6
