"""Haze: the equation against closed forms, random haze within its ranges, equal pairs when read again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from minidiff.data.config import DENSE, Haze
from minidiff.data.haze import FARTHEST, add_haze, invert, recompose, transmission
from minidiff.errors import UserError
from minidiff.images.convert import to_float


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    return np.linspace(0, FARTHEST, height * width, dtype=np.float32).reshape(height, width)


def test_a_constant_depth_has_the_transmission_of_the_law() -> None:
    """Fails when the exponent loses its sign, or a factor."""
    depth = torch.full((1, 1, 4, 4), 1.5, dtype=torch.float64)
    torch.testing.assert_close(transmission(depth, 0.8), torch.full_like(depth, np.exp(-1.2)))
    assert float(transmission(torch.zeros(1), 2.8)) == 1


def test_inverting_undoes_recomposing_above_the_floor() -> None:
    """In float64, to 1e-12 where T > floor. Below it, the haze that stays is known, too: J' - J = (J - A)(T/floor - 1).

    Fails when A is left out of either, when T and 1 - T change places, and without the floor.
    """
    random = torch.Generator().manual_seed(0)
    clear = 2 * torch.rand(2, 3, 5, 7, dtype=torch.float64, generator=random) - 1
    airlight = 2 * torch.rand(2, 3, dtype=torch.float64, generator=random) - 1
    through = torch.rand(2, 1, 5, 7, dtype=torch.float64, generator=random).clamp(min=1e-3)
    back = invert(recompose(clear, through, airlight), through, airlight, floor=0.3)
    light = airlight[:, :, None, None]
    expected = torch.where(through >= 0.3, clear, light + (clear - light) * through / 0.3)
    assert (through < 0.3).any() and (through > 0.3).any()
    torch.testing.assert_close(back, expected, rtol=0, atol=1e-12)


def test_the_equation_is_the_same_in_other_units() -> None:
    """Pictures in [0,1] and in [-1,1]. Fails when one of the two weights is not 1 minus the other."""
    clear, airlight, through = torch.rand(1, 3, 4, 4), torch.rand(1, 3), torch.rand(1, 1, 4, 4)
    inside = recompose(2 * clear - 1, through, 2 * airlight - 1)
    torch.testing.assert_close(inside, 2 * recompose(clear, through, airlight) - 1)


def test_without_damage_the_pair_is_the_equation() -> None:
    """To the bit. Fails when noise, darkening or JPEG is added though its chance is 0."""
    for seed in range(20):
        pair = add_haze(picture(), ramp(), Haze(damage=0), np.random.default_rng(seed))
        assert torch.equal(pair.hazy, recompose(pair.clear, pair.transmission, pair.airlight))


def test_some_pictures_have_no_haze() -> None:
    """As many as `clear` says, which then are their own truth; without it the haze of before, to the bit."""
    hazy, none = Haze(damage=0), 0
    for seed in range(300):
        with_some, without = (
            add_haze(picture(8, 8), ramp(8, 8), haze, np.random.default_rng(seed))
            for haze in (replace(hazy, clear=0.2), hazy)
        )
        if (with_some.transmission == 1).all():
            none += 1
            torch.testing.assert_close(with_some.hazy, with_some.clear)
        else:
            assert torch.equal(with_some.hazy, without.hazy)
        assert without.transmission.min() < 1
    assert 40 <= none <= 80


@pytest.mark.parametrize("haze", [Haze(), DENSE])
def test_random_haze_keeps_to_its_ranges_and_reaches_their_ends(haze: Haze) -> None:
    """Fails for another range, and when it is drawn from a part of it only."""
    betas, lights, damaged, bent, dark = [], [], 0, 0, 0
    for seed in range(300):
        pair = add_haze(picture(8, 8), ramp(8, 8), haze, np.random.default_rng(seed))
        betas.append(-float(pair.transmission.min().log()) / FARTHEST)
        bent += not np.allclose(pair.depth[0, 0], ramp(8, 8))
        lights.append((pair.airlight[0].numpy() + 1) / 2)
        damaged += not torch.equal(pair.hazy, recompose(pair.clear, pair.transmission, pair.airlight))
        dark += not torch.equal(pair.clear, to_float(picture(8, 8)[None]))
        assert pair.hazy.abs().max() <= 1 and pair.transmission.min() > 0 and pair.transmission.max() <= 1
    for values, (low, high) in ((betas, haze.beta), (np.mean(lights, axis=1), haze.airlight)):
        slack = 0.05 * (high - low) + haze.colour * (values is not betas)
        assert low - slack < min(values) < low + slack and high - slack < max(values) < high + slack
    assert 0.03 < np.ptp(lights, axis=1).max() <= 2 * haze.colour + 1e-6
    assert 0.68 < damaged / 300 < 0.82  # 3/4: noise or JPEG, each with chance one half
    assert 0.42 < dark / 300 < 0.58  # so is darkness, but the clear picture has it, too
    assert 0.2 < bent / 300 < 0.4


@pytest.mark.parametrize("wrong", [{"beta": (1.0, 0.5)}, {"airlight": (0.0, 1.2)}, {"damage": 2}])
def test_ranges_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Haze(**wrong)
