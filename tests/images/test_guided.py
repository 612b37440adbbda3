"""The guided filter: against a filter that is written pixel by pixel, and on pictures whose answer is known."""

import pytest
import torch
from torch import Tensor

from minidiff.images.guided import box_mean, guided_lines, guided_upsample


def test_means_are_over_the_part_of_a_window_that_is_inside() -> None:
    x = torch.rand(1, 2, 6, 9, generator=torch.Generator().manual_seed(0))
    for row in range(6):
        for column in range(9):
            window = x[..., max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            assert torch.allclose(box_mean(x, 2)[..., row, column], window.mean((2, 3)), atol=1e-6)


def test_lines_are_those_of_least_squares() -> None:
    """In the one window that holds the whole picture: the slope of a ridge regression (He et al. 2013, eq. 5)."""
    random = torch.Generator().manual_seed(0)
    guide, values = (torch.rand(1, 1, 5, 5, generator=random, dtype=torch.float64) for _ in range(2))
    a, b = guided_lines(guide, values, radius=5, smooth=0.01)
    g, v = guide - guide.mean(), values - values.mean()
    slope = (g * v).mean() / ((g * g).mean() + 0.01)
    assert torch.allclose(a, slope.expand_as(a)) and torch.allclose(
        b, (values.mean() - slope * guide.mean()).expand_as(b)
    )


def outlines(size: int) -> Tensor:
    """A square before a ground, [1,1,size,size]."""
    picture = torch.full((1, 1, size, size), -0.5)
    picture[..., size // 4 : size // 2, size // 4 : size // 2] = 0.5
    return picture


def test_what_is_small_gets_the_outlines_of_what_is_large() -> None:
    """A line in the guide is carried over to 0.03, where windows mix; enlarging alone blurs the edge by over 0.1."""
    large, small = outlines(128), outlines(32)
    carried = guided_upsample(large, small, 0.3 * small + 0.2, radius=3, smooth=1e-6)
    assert (carried - (0.3 * large + 0.2)).abs().max() < 0.04
    blurred = torch.nn.functional.interpolate(0.3 * small + 0.2, size=(128, 128), mode="bilinear")
    assert (blurred - (0.3 * large + 0.2)).abs().max() > 0.1
    flat = guided_upsample(large * 0, small * 0, torch.full_like(small, 0.7), radius=3, smooth=1e-3)
    assert flat.numpy() == pytest.approx(0.7, abs=1e-6)
