"""Ray-traced landscapes: a plain with houses, trees, balls and pillars up to the horizon, and the depth of every pixel.

Rests on shapes, whose solids these are, stretched. The rooms of shapes are shallow; haze needs distance.
Units: a sphere is 1 wide. x to the right, y away from the viewer, z up; the eye is above x = y = z = 0. A ray is scaled
so that it has gone y forward when it has depth y.
"""

from math import exp, log, pi, sqrt
from typing import NamedTuple

import numpy as np

from minidiff.data.depth import enlarged
from minidiff.data.shapes import Floats, V, Vector, distance, normal, turned, unit
from minidiff.images.convert import Pixels

Window = tuple[slice, slice]

VERSION = 1  # raise it when a pixel of any landscape changes
SUPERSAMPLE = 2
HORIZON = 60.0  # the depth of the sky, and of all that is farther
NEAREST, REMOTEST = 4.0, 50.0  # where things stand
AMBIENT, DIFFUSE = 0.5, 0.6
TILE, TEXEL = 64, 24  # a texture is so many texels wide, and has so many in a unit; it repeats


class Camera(NamedTuple):
    """An eye that looks level at the horizon: a point (x, y, z) is seen at focal x / y, focal (z - height) / y."""

    height: float
    focal: float  # in widths of the picture
    horizon: float  # how far down the picture the horizon is, in [0,1]


class Solid(NamedTuple):
    """A solid of shapes, turned about its axis and stretched."""

    shape: str
    place: Vector  # of its foot
    size: Vector
    angle: float
    colour: Floats  # RGB in [0,1]
    windows: float  # rows of them to a unit; 0: it has a rough surface instead


def draw(size: int, random: np.random.Generator) -> tuple[Pixels, Floats]:
    """Draw a landscape, uint8 [size,size,3], and its depth along the view, float32 [size,size], at most HORIZON.

    Equal generators draw the same landscape at every size. At outlines the depth is mixed, as the colours are.
    """
    camera = Camera(random.uniform(1.0, 2.5), random.uniform(0.8, 1.4), random.uniform(0.15, 0.6))
    sun = unit((random.uniform(-1, 1), random.uniform(-1, 0.3), random.uniform(0.4, 1.2)))
    solids = [solid for _ in range(int(random.integers(8, 25))) for solid in thing(camera, random)]
    texture = rough(random)
    fine = size * SUPERSAMPLE
    middles = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    across, up = (middles - 0.5) / camera.focal, (camera.horizon - middles) / camera.focal

    picture, depth = sky(middles - camera.horizon, random), np.full((fine, fine), HORIZON, np.float32)
    lay_plain(picture, depth, across, up, camera, solids, texture, random)
    for solid in solids:
        seen = window(solid, camera, fine)
        paint(picture[seen], depth[seen], across[seen[1]], up[seen[0]], camera, solid, sun, texture)
    blocks = (size, SUPERSAMPLE, size, SUPERSAMPLE)
    colours = picture.reshape(*blocks, 3).mean(axis=(1, 3))
    pixels: Pixels = (np.clip(255 * colours, 0, 255) + 0.5).astype(np.uint8)
    return pixels, depth.reshape(blocks).mean(axis=(1, 3), dtype=np.float32)


# -- What stands there -------------------------------------------------------------------------------------------------


def thing(camera: Camera, random: np.random.Generator) -> list[Solid]:
    """Place a house, a tree, a ball or a pillar in view. Near and far ones are about equally many, on a log scale."""
    y = exp(random.uniform(log(NEAREST), log(REMOTEST)))
    x = random.uniform(-0.55, 0.55) * y / camera.focal
    kind, grown, angle = random.random(), random.uniform(0.4, 1.2) * y**0.4, random.uniform(0, pi / 2)
    colour = random.uniform(0.08, 0.95, 3).astype(np.float32)
    if kind < 0.35:
        size = (grown, grown * random.uniform(0.7, 1.5), grown * random.uniform(0.7, 3))
        return [Solid("cube", (x, y, 0), size, angle, 0.6 * colour + 0.2, random.uniform(1, 3))]
    if kind < 0.7:
        leaves = np.array(random.uniform((0.05, 0.2, 0.02), (0.45, 0.5, 0.2)), np.float32)
        trunk = Solid("cylinder", (x, y, 0), (0.2 * grown, 0.2 * grown, grown), 0, leaves[[1, 0, 2]] * 0.6, 0)
        wide = grown * random.uniform(0.8, 1.3)
        return [trunk, Solid("sphere", (x, y, 0.5 * grown), (wide, wide, 1.4 * grown), 0, leaves, 0)]
    if kind < 0.85:
        return [Solid("sphere", (x, y, 0), (grown, grown, grown), 0, colour, 0)]
    return [Solid("cylinder", (x, y, 0), (0.4 * grown, 0.4 * grown, 2 * grown), 0, colour, 0)]


def rough(random: np.random.Generator) -> Floats:
    """Draw a texture, float32 [TILE,TILE] in [-1,1]: random squares of four sizes, the small ones weaker."""
    octaves = [(cells, random.uniform(-1, 1, (cells, cells))) for cells in (8, 16, 32, 64)]
    texture = np.zeros((TILE, TILE), np.float32)
    for cells, values in octaves:
        texture += np.kron(values, np.ones((TILE // cells, TILE // cells))) * sqrt(8 / cells)
    scaled: Floats = texture / np.abs(texture).max()
    return scaled


def at(texture: Floats, x: Floats, y: Floats, depth: Floats) -> Floats:
    """Read a texture at points of a surface. Far away it fades, because a pixel covers many texels there."""
    rows, columns = (np.floor(TEXEL * v).astype(np.int32) % TILE for v in (y, x))
    faded: Floats = texture[rows, columns] / (1 + (depth / 12) ** 2)
    return faded


# -- How it is seen ----------------------------------------------------------------------------------------------------


def sky(below: Floats, random: np.random.Generator) -> Floats:
    """Draw a sky with clouds, float32 [n,n,3] in [0,1]. below: how far each row is below the horizon, in pictures."""
    bright, blue, clouds = random.uniform(0.45, 0.95), random.uniform(0, 0.45), random.uniform(0, 0.5)
    zenith = np.array([bright * (1 - blue), bright * (1 - blue / 2), bright], np.float32)
    rim = np.array(bright * random.uniform((0.9, 0.8, 0.7), (1.1, 1.05, 1.05)), np.float32)
    height = np.clip(-2 * below, 0, 1)[:, None, None]
    puffs = enlarged(random.random((14, 5), np.float32), np.empty((len(below), len(below), 3), np.uint8))
    white = (clouds * np.clip(3 * puffs - 1.5, 0, 1))[..., None]
    plain = rim + (zenith - rim) * np.sqrt(height)
    above: Floats = np.clip(plain + (bright - plain) * white, 0, 1, dtype=np.float32)
    return above


def lay_plain(
    picture: Floats, depth: Floats, across: Floats, up: Floats, camera: Camera,
    solids: list[Solid], texture: Floats, random: np.random.Generator,
) -> None:  # fmt: skip
    """Draw the plain below the horizon into a picture and its depth: rough ground, dark where things stand."""
    colours = random.uniform((0.1, 0.15, 0.05), (0.7, 0.65, 0.5), (2, 3)).astype(np.float32)
    rows = np.flatnonzero(up < -camera.height / HORIZON)
    y = (-camera.height / up[rows])[:, None]
    x = y * across[None]
    u, v = x + random.uniform(0, 20), np.broadcast_to(y, x.shape)
    grain = at(texture, u, v, y) + at(texture, u / 8, v / 8, y / 8)
    light = np.ones_like(x)
    for solid in solids:
        (left, away, base), reach = solid.place, 0.7 * max(solid.size[:2])
        close = slice(*np.searchsorted(-y[:, 0], (-(away + 3 * reach), -(away - 3 * reach))))  # y falls from row to row
        if base == 0:
            light[close] *= 1 - 0.6 * np.exp(-((x[close] - left) ** 2 + (y[close] - away) ** 2) / reach**2)
    mixed = (0.5 + 0.5 * np.clip(grain, -1, 1))[..., None]
    picture[rows] = (colours[0] + (colours[1] - colours[0]) * mixed) * light[..., None]
    depth[rows] = y


def window(solid: Solid, camera: Camera, fine: int) -> Window:
    """Return the rows and columns of a picture of fine x fine pixels in which a solid may be seen."""
    (x, y, z), reach = solid.place, 0.6 * max(solid.size[:2])
    scales = [camera.focal / max(depth, 0.1) for depth in (y - reach, y + reach)]
    columns = [0.5 + scale * side for scale in scales for side in (x - reach, x + reach)]
    rows = [camera.horizon - scale * (end - camera.height) for scale in scales for end in (z, z + solid.size[2])]
    (top, bottom), (left, right) = (
        np.clip([int(fine * min(ends)), int(fine * max(ends)) + 1], 0, fine).tolist() for ends in (rows, columns)
    )
    return slice(top, bottom), slice(left, right)


def paint(
    picture: Floats, depth: Floats, across: Floats, up: Floats, camera: Camera,
    solid: Solid, sun: Vector, texture: Floats,
) -> None:  # fmt: skip
    """Draw a solid into a part of a picture and its depth, where nothing nearer is."""
    if not depth.size:
        return
    (x, y, z), (wide, deep, high) = solid.place, solid.size
    origin = squeezed(turned((-x, -y, camera.height - z), solid.angle), solid.size)
    ones = np.ones((1, 1), np.float32)
    ray = squeezed(turned((across[None], ones, up[:, None]), solid.angle), solid.size)
    near = distance(solid.shape, origin, ray)
    seen = near < depth
    t = near[seen].astype(np.float32)
    points = [o + t * np.broadcast_to(d, seen.shape)[seen] for o, d in zip(origin, ray, strict=True)]
    nx, ny, nz = (
        n / s for n, s in zip(normal(solid.shape, (points[0], points[1], points[2])), solid.size, strict=True)
    )
    lx, ly, lz = turned(sun, solid.angle)
    lit = np.maximum((nx * lx + ny * ly + nz * lz) / np.sqrt(nx * nx + ny * ny + nz * nz), 0)
    along, height = points[0] * wide + points[1] * deep, points[2] * high
    if solid.windows:
        panes = (np.sin(2 * pi * solid.windows * height) > 0.3) & (np.sin(2 * pi * solid.windows * along) > 0)
        surface: Floats = 1 - 0.5 * panes * (nz * high < 0.5) / (1 + (t / 25) ** 2)
    else:
        surface = 1 + 0.6 * at(texture, along, height, t)
    picture[seen] = solid.colour * (surface * (AMBIENT + DIFFUSE * lit))[:, None]
    depth[seen] = t


def squeezed(vector: tuple[V, V, V], size: Vector) -> tuple[V, V, V]:
    """Bring a vector into the frame of a solid before it was stretched."""
    return vector[0] / size[0], vector[1] / size[1], vector[2] / size[2]
