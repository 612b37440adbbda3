"""A strip of a chain: which moments it shows, and where it says which they are."""

import math
from pathlib import Path

import numpy as np
import pytest

from minidiff.ddpm.moments import spread_calls
from minidiff.ddpm.request import SampleRequest
from minidiff.diffusion.samplers import calls
from minidiff.diffusion.schedules import Schedule
from minidiff.images.grid import captioned, label_rows
from minidiff.pretrained.pictures import ChainPictures, table


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
