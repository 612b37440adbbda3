"""Chapter 3, a reverse chain to look at: x_t and the predicted x0 at some moments on the way.

Rests on chains and drawing. Only small pictures of the moments are kept, so a long chain of photographs costs little
memory.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minidiff.ddpm.chains import chains_of, shape_of
from minidiff.ddpm.drawing import Drawing, begin, walk
from minidiff.ddpm.request import Sampling
from minidiff.diffusion.chain import Step
from minidiff.diffusion.schedules import Process
from minidiff.images.convert import Pixels, to_uint8

LONGEST = 256  # pixels: the longest side of a picture of a moment


class Moments(NamedTuple):
    """Pictures from the chains of n samples, see `record_moments`. h and w: see `thinned`."""

    t: list[list[int]]  # of every sample, the timestep of each column
    x: Pixels  # uint8 [n,columns,h,w,3]: x_t, as the network was given it there
    x0: Pixels  # uint8 [n,columns,h,w,3]: the image it predicted from that
    image: Pixels  # uint8 [n,H,W,3]: what came out in the end

    def strip(self) -> Pixels:
        """Order the pictures for a grid `columns` wide, two rows a sample: x_t, and the x0 predicted from it."""
        return np.stack([self.x, self.x0], axis=1).reshape(-1, *self.x.shape[2:])

    def table(self, init: Pixels) -> Pixels:
        """Order them for a grid `columns` + 2 wide, one row a sample: its init (uint8 [n,H,W,3]), every x_t, the image.
        """  # fmt: skip
        rows = np.concatenate([thinned(init)[:, None], self.x, thinned(self.image)[:, None]], axis=1)
        return rows.reshape(-1, *self.x.shape[2:])


def thinned(images: Pixels) -> Pixels:
    """Leave out rows and columns of uint8 [n,H,W,3], evenly, until no side is longer than LONGEST: uint8 [n,h,w,3].

    The pixels that stay are as they were. Averages over several would hide the noise that a strip is to show.
    """
    rows, columns = places(*images.shape[1:3])
    return images[:, rows[:, None], columns]


def shown(x: Tensor) -> Pixels:
    """Turn float [n,C,H,W] in [-1,1] into uint8 [n,h,w,3], see `thinned`. Even a large image costs next to nothing."""
    rows, columns = (torch.from_numpy(each).to(x.device) for each in places(*x.shape[2:]))
    return to_uint8(x[:, :, rows[:, None], columns])


def places(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the rows and columns of an image that its picture in a strip has."""
    scale = min(1.0, LONGEST / max(height, width))
    rows, columns = (
        ((np.arange(max(1, round(scale * side))) + 0.5) / scale).astype(np.int64).clip(0, side - 1)
        for side in (height, width)
    )
    return rows, columns


class Film:
    """Pictures of some calls of one chain: x_t, as the network was given it, and the x0 predicted from that.

    columns: how many calls at most, see `spread_calls`. First comes `start`, then `see` after every network call.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.t: list[int] = []  # the timestep of each column
        self.x: list[Pixels] = []  # of each column, uint8 [n,h,w,3], see `thinned`
        self.x0: list[Pixels] = []
        self.shown: list[int] = []  # the call of each column
        self.call = 0

    def start(self, schedule: Process, timesteps: Sequence[int], x: Tensor) -> None:
        """Choose the calls to show. timesteps: of all calls. x: what the chain begins with, float [n,C,H,W]."""
        self.shown = spread_calls(schedule, timesteps, min(self.columns, len(timesteps)))
        self.t = [timesteps[call] for call in self.shown]
        self.call, self.given = 0, shown(x)

    def see(self, step: Step) -> None:
        """Keep pictures of a call, if it is one of those to show."""
        if self.call in self.shown:
            self.x.append(self.given)
            self.x0.append(shown(step.x0))
        self.call += 1
        if self.call in self.shown:
            self.given = shown(step.x)


def spread_calls(schedule: Process, timesteps: Sequence[int], columns: int) -> list[int]:
    """Choose the calls of a chain to show: `columns` positions in `timesteps`, from the first to the last.

    They lie evenly in the angle phi, with x_t = cos(phi) x0 + sin(phi) eps (Salimans & Ho 2022, appendix D). Evenly in
    t, half of a strip would be noise, because x_t shows next to nothing while t is large.
    """
    count = len(timesteps)
    if count <= columns:  # all calls, some of them twice
        return [round(position) for position in np.linspace(0, count - 1, columns).tolist()]
    angle = np.array([math.atan2(level.noise, level.signal) for level in schedule.levels(timesteps)])
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
    image = np.empty((count, height, width, 3), np.uint8)
    t: list[list[int]] = [[]] * count
    x_t, x0 = np.empty((2, count, columns, *thinned(image).shape[1:]), np.uint8)
    for chain in walks:
        film = Film(columns)
        film.start(run.schedule, chain.timesteps, begin(run, chain)[0])
        for step in walk(run, chain):
            film.see(step)
            if request.on_step is not None:
                request.on_step(step)
        places = np.linspace(0, len(film.t) - 1, columns).round().astype(int)  # a short chain has some of them twice
        for row in chain.rows:
            t[row] = [film.t[place] for place in places]
        x_t[chain.rows], x0[chain.rows] = np.stack(film.x, axis=1)[:, places], np.stack(film.x0, axis=1)[:, places]
        image[chain.rows] = to_uint8(step.x)
    return Moments(t, x_t, x0, image)
