"""A strip of a chain: which moments it shows, and where it says which they are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from minidiff.ddpm.moments import LONGEST, Film, shown, spread_calls, thinned
from minidiff.ddpm.request import SampleRequest
from minidiff.diffusion.chain import Step
from minidiff.diffusion.samplers import calls
from minidiff.diffusion.schedules import Schedule
from minidiff.images.convert import to_float
from minidiff.images.grid import captioned, label_rows, table
from minidiff.pretrained.pictures import ChainPictures


@pytest.mark.parametrize("schedule", [Schedule.linear(), Schedule.cosine()])
def test_moments_lie_evenly_between_noise_and_image(schedule: Schedule) -> None:
    """Every call of 1000: the angle from image to noise falls by equal parts, within the nearest call.

    Evenly in t, 4 of 10 columns of the linear schedule have less than a tenth of the image in them; here it is 1.
    """
    timesteps = calls("ddpm", schedule, None, None, None)
    chosen = [timesteps[position] for position in spread_calls(schedule, timesteps, 10)]
    angles = [math.degrees(math.acos(math.sqrt(schedule.alphas_cumprod[t]))) for t in chosen]
    steps = -np.diff(angles)
    assert chosen[0] == 999 and chosen[-1] == 0 and steps.max() - steps.min() < 0.5, angles
    assert sum(math.cos(math.radians(angle)) < 0.1 for angle in angles) == 1


@pytest.mark.parametrize("sampler", ["ddim", "dpm++sde", "heun", "unipc"])
@pytest.mark.parametrize("columns", [2, 3, 7, 10, 18, 19, 20, 50, 60])
def test_each_call_is_shown_once_if_there_are_enough(sampler: str, columns: int) -> None:
    """Fails without the lines that move a column to the next call, where two are nearest to the same one."""
    timesteps = calls(sampler, Schedule.linear(), None, None, None)
    chosen = spread_calls(Schedule.linear(), timesteps, columns)
    assert len(chosen) == columns and chosen[0] == 0 and chosen[-1] == len(timesteps) - 1
    assert chosen == sorted(chosen) and len(set(chosen)) == min(columns, len(timesteps))


def test_a_large_picture_is_thinned_and_keeps_its_noise() -> None:
    """Every pixel that is left is one of the picture's, evenly spread; the deviation of noise stays, within 4 sigma.

    A mean over the pixels left out would have a third of it.
    """
    height, width = 3 * LONGEST, 2 * LONGEST - 1
    places = np.stack(np.broadcast_arrays(*np.ogrid[:height, :width], 0), axis=-1)[None]
    small = thinned(places)
    assert small.shape == (1, LONGEST, round(width / 3), 3)
    assert set(np.diff(small[0, :, 0, 0])) == {3} and set(np.diff(small[0, 0, :, 1])) <= {2, 3, 4}
    assert small[0, 0, 0].max() <= 2 and height - small[0, -1, -1, 0] <= 3 and width - small[0, -1, -1, 1] <= 3
    noise = np.random.default_rng(0).normal(128, 20, (1, height, width, 3)).astype(np.uint8)
    assert thinned(noise).std() == pytest.approx(20, rel=0.02)
    x = to_float(noise)
    assert np.array_equal(shown(x), thinned(noise))
    as_they_are = noise[:, :LONGEST, :3]
    assert np.array_equal(thinned(as_they_are), as_they_are)
    assert thinned(noise[:, :1]).shape == (1, 1, LONGEST, 3)  # one row stays one


@pytest.mark.parametrize("columns", [3, 9])
def test_a_film_has_what_the_network_was_given_and_what_it_made_of_it(columns: int) -> None:
    """Call k is given the value -0.1 k, and predicts 0.1 k. Fails when x is taken after the call in place of before."""
    timesteps, film = [40, 30, 20, 10, 0], Film(columns)
    film.start(Schedule.linear(), timesteps, torch.zeros(2, 3, 4, 5))
    for call, t in enumerate(timesteps):
        film.see(Step(t, torch.full((2, 3, 4, 5), -0.1 * (call + 1)), torch.full((2, 3, 4, 5), 0.1 * call)))
    shown = spread_calls(Schedule.linear(), timesteps, min(columns, 5))
    assert film.t == [timesteps[call] for call in shown] and len(film.x) == len(film.x0) == len(shown)
    for call, x, x0 in zip(shown, film.x, film.x0, strict=True):
        assert x.shape == (2, 4, 5, 3)
        assert np.all(x == round(127.5 * (1 - 0.1 * call))) and np.all(x0 == round(127.5 * (1 + 0.1 * call)))


def test_samples_with_timesteps_of_their_own_have_them_below() -> None:
    """Two samples of two rows each, from different t: the t cannot stand above the columns."""
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    drawn = table(images, [["t = 9", "t = 0"], ["t = 5", "t = 1"]], ["a", "b"], rows_each=2)
    below = ["t = 9", "t = 0", "", "", "t = 5", "t = 1", "", ""]
    assert np.array_equal(drawn, label_rows(captioned(images, below, 2), ["a", "b"]))


@pytest.mark.parametrize(
    ("num", "conditions", "columns"),
    [(8, 1, None), (8, 2, None), (4, 2, None), (8, 3, 3), (6, 2, 2), (12, 8, 8), (8, 8, None), (32, 32, None)],
)
def test_conditions_that_take_turns_keep_their_columns(num: int, conditions: int, columns: int | None) -> None:
    """Eight of one condition or of two are two rows of four (None: as any grid); of three, three columns."""
    asked = ["word"] * conditions
    order = ChainPictures(Path("a.png"), False, [], [], None, SampleRequest(num), asked)  # type: ignore[arg-type]
    assert order.columns() == columns
