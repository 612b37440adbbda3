"""Chapter 3, a reverse chain to look at: x_t and the predicted x0 at some moments on the way.

Rests on chains and drawing. Only the pictures are kept, so a long chain of large images costs little memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidiff.ddpm.chains import chains_of, shape_of
from minidiff.ddpm.drawing import Drawing, begin, walk
from minidiff.ddpm.request import Sampling
from minidiff.diffusion.schedules import Schedule
from minidiff.images.convert import Pixels, to_uint8


class Moments(NamedTuple):
    """Pictures from the chains of n samples, see `record_moments`."""

    t: list[list[int]]  # of every sample, the timestep of each column
    x: Pixels  # uint8 [n,columns,H,W,3]: x_t, as the network was given it there
    x0: Pixels  # uint8 [n,columns,H,W,3]: the image it predicted from that
    image: Pixels  # uint8 [n,H,W,3]: what came out in the end

    def strip(self) -> Pixels:
        """Order the pictures for a grid `columns` wide, two rows a sample: x_t, and the x0 predicted from it."""
        return np.stack([self.x, self.x0], axis=1).reshape(-1, *self.image.shape[1:])

    def table(self, init: Pixels) -> Pixels:
        """Order them for a grid `columns` + 2 wide, one row a sample: its init (uint8 [n,H,W,3]), every x_t, the image.
        """  # fmt: skip
        rows = np.concatenate([init[:, None], self.x, self.image[:, None]], axis=1)
        return rows.reshape(-1, *self.image.shape[1:])


def spread_calls(schedule: Schedule, timesteps: Sequence[int], columns: int) -> list[int]:
    """Choose the calls of a chain to show: `columns` positions in `timesteps`, from the first to the last.

    They lie evenly in the angle phi, with x_t = cos(phi) x0 + sin(phi) eps (Salimans & Ho 2022, appendix D). Evenly in
    t, half of a strip would be noise, because x_t shows next to nothing while t is large.
    """
    count = len(timesteps)
    if count <= columns:  # all calls, some of them twice
        return [round(position) for position in np.linspace(0, count - 1, columns).tolist()]
    angle = schedule.alphas_cumprod[list(timesteps)].sqrt().arccos().cpu().numpy()
    wanted = np.linspace(angle[0], angle[-1], columns)
    nearest = np.abs(angle - wanted[:, None]).argmin(axis=1).tolist()
    chosen = [0]
    for column in range(1, columns - 1):  # each call once, although two columns may be nearest to the same one
        chosen.append(min(max(nearest[column], chosen[-1] + 1), count - columns + column))
    return [*chosen, count - 1]


def record_moments(run: Drawing, indices: Sequence[int], columns: int, request: Sampling) -> Moments:
    """Draw a few samples, and keep pictures of `columns` calls from the first to the last, see `spread_calls`.

    If no chain has that many calls there are fewer columns. A chain shorter than the others shows some calls twice.
    """
    walks = list(chains_of(run, indices, request))
    columns = min(columns, max(len(chain.timesteps) for chain in walks))
    count, (_, height, width) = len(indices), shape_of(run, request)
    t: list[list[int]] = [[]] * count
    x_t, x0 = np.empty((2, count, columns, height, width, 3), np.uint8)
    image = np.empty((count, height, width, 3), np.uint8)
    for chain in walks:
        shown = spread_calls(run.schedule, chain.timesteps, columns)
        for row in chain.rows:
            t[row] = [chain.timesteps[position] for position in shown]
        x, _ = begin(run, chain)
        for call, step in enumerate(walk(run, chain)):
            for column in [column for column, position in enumerate(shown) if position == call]:
                x_t[chain.rows, column], x0[chain.rows, column] = to_uint8(x), to_uint8(step.x0)
            x = step.x
            if request.on_step is not None:
                request.on_step(step)
        image[chain.rows] = to_uint8(x)
    return Moments(t, x_t, x0, image)
