"""The embedded data set: scenes of one to three coloured solids on a lit floor, drawn here, in iCLEVR's labels.

Rests on numpy alone. Each solid is ray traced once for each size, depth and turn, into a sprite with coverage, light,
highlight and shadow. A scene is a few sprites laid over the floor from back to front, in under a millisecond.
After Johnson et al. 2017 (CLEVR) and the 24 labels of iCLEVR (El-Nouby et al. 2019).
"""

from functools import lru_cache
from itertools import combinations
from math import ceil, cos, floor, pi, radians, sin, sqrt
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

VERSION = 2  # part of every cache key: raise it when a pixel or a label of any scene changes

SHAPES = ("cube", "sphere", "cylinder")
COLOURS = {  # RGB of a surface in full light; CLEVR's, a little brighter, so that they stay apart at 32x32
    "gray": (84, 84, 88),
    "red": (205, 36, 36),
    "blue": (40, 76, 224),
    "green": (34, 146, 44),
    "brown": (136, 78, 30),
    "purple": (148, 46, 200),
    "cyan": (40, 208, 212),
    "yellow": (250, 222, 40),
}
LABELS = {f"{colour} {shape}": 8 * i + j for i, shape in enumerate(SHAPES) for j, colour in enumerate(COLOURS)}
NAMES = list(LABELS)  # NAMES[label] is "gray cube", ...

SPLITS = ("train", "test", "new_test")
COUNTS = {"train": 12_000, "test": 2_000, "new_test": 2_000}  # how many scenes of each split are drawn by default

# -- Which scenes: the labels ------------------------------------------------------------------------------------------


def held_out(labels: tuple[int, ...] | list[int]) -> bool:
    """Tell whether a set of labels is kept out of training: two of its numbers add up to 0 modulo 13.

    So 21 of the 276 pairs never meet in a training scene, neither alone nor beside a third solid. With the triples that
    contain them, they are about a fifth of all combinations. Every label is in at least one of these pairs, and every
    single label is seen in training. A network that draws the held-out scenes has learned to compose.
    """
    return any((a + b) % 13 == 0 for a, b in combinations(sorted(labels), 2))


@lru_cache
def label_sets(split: str) -> list[list[tuple[int, ...]]]:
    """List the label sets of a split, one list for each number of solids; new_test has no single ones."""
    wanted = split == "new_test"
    by_count = [[s for s in combinations(range(len(LABELS)), k) if held_out(s) == wanted] for k in (1, 2, 3)]
    return [sets for sets in by_count if sets]


def stream(index: int, seed: int, split: str) -> np.random.Generator:
    """Return the generator of one scene. Only `random()` may be called on it: it is the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS.index(split), index])))


def draw_labels(split: str, generator: np.random.Generator) -> list[int]:
    """Draw the number of solids, each equally likely, then one of the split's label sets of that number."""
    by_count = label_sets(split)
    u, v = generator.random(2)
    sets = by_count[int(u * len(by_count))]
    return list(sets[int(v * len(sets))])


def scene(index: int, seed: int = 0, split: str = "train") -> list[int]:
    """Return the labels of scene `index`: one to three different ones, ascending."""
    return draw_labels(split, stream(index, seed, split))


def conditions(split: str, count: int = 32, seed: int = 0) -> list[list[int]]:
    """Return the first `count` different label sets of a split, as iCLEVR's test.json and new_test.json list them."""
    found: list[list[int]] = []
    index = 0
    while len(found) < count:
        labels = scene(index, seed, split)
        if labels not in found:
            found.append(labels)
        index += 1
    return found


# -- One solid: a small ray tracer -------------------------------------------------------------------------------------
# Units: a sphere is 1 wide. x to the right, y away from the viewer, z up; the solid stands on the floor at
# x = y = z = 0. A vector field is a tuple (x, y, z) of arrays.

Floats = NDArray[np.floating[Any]]
Vectors = tuple[Floats, Floats, Floats]
Vector = tuple[float, float, float]
Numbers = Floats | float
V = TypeVar("V", float, Floats)

CUBE = 0.41  # half the edge
CYLINDER = (0.43, 0.84)  # radius, height
ELEVATION = radians(35)  # of the camera above the floor
DISTANCE = 5.0  # of the camera: near enough for a little perspective
LIGHT: Vector = (-0.52, -0.22, 0.82)  # towards the lamp: from the left, a little in front
AMBIENT, DIFFUSE, BOUNCE = 0.48, 0.66, 0.10
GLOSS = {"cube": 0.0, "sphere": 0.75, "cylinder": 0.35}  # strength of the highlight
SHADOW, OCCLUSION = 0.40, 0.42  # how much of the floor's light the lamp and the sky give
SUPERSAMPLE = 4
PATCH = (-1.6, 1.8, -1.3, 0.95)  # left, right, top, bottom of a sprite around its foot: the solid and its shadow


def distance(shape: str, origin: Vectors | Vector, ray: Vectors | Vector) -> Floats:
    """Return how far along each ray it enters the solid: negative from inside, infinite where it misses."""
    (ox, oy, oz), (dx, dy, dz) = origin, ray
    with np.errstate(divide="ignore", invalid="ignore"):
        if shape == "sphere":
            near, far = roots(
                dx * dx + dy * dy + dz * dz,
                ox * dx + oy * dy + (oz - 0.5) * dz,
                ox * ox + oy * oy + (oz - 0.5) ** 2 - 0.25,
            )
        else:  # between the planes of the floor and the top, and ...
            height = 2 * CUBE if shape == "cube" else CYLINDER[1]
            near, far = np.minimum(-oz / dz, (height - oz) / dz), np.maximum(-oz / dz, (height - oz) / dz)
            if shape == "cube":  # ... between two other pairs of planes
                for o, d in ((ox, dx), (oy, dy)):
                    near = np.maximum(near, np.minimum((-CUBE - o) / d, (CUBE - o) / d))
                    far = np.minimum(far, np.maximum((-CUBE - o) / d, (CUBE - o) / d))
            else:  # ... inside an endless pipe
                enter, leave = roots(dx * dx + dy * dy, ox * dx + oy * dy, ox * ox + oy * oy - CYLINDER[0] ** 2)
                near, far = np.maximum(near, enter), np.minimum(far, leave)
        return np.where((near <= far) & (far > 0), near, np.inf)


def roots(a: Numbers, half_b: Numbers, c: Numbers) -> tuple[Floats, Floats]:
    """Solve a t^2 + 2 half_b t + c = 0: both solutions, the smaller first; NaN where there is none."""
    root = np.sqrt(half_b * half_b - a * c)
    return (-half_b - root) / a, (-half_b + root) / a


def normal(shape: str, point: Vectors) -> Vectors:
    """Return the outward unit normal at points of the solid's surface."""
    x, y, z = point
    if shape == "sphere":
        return 2 * x, 2 * y, 2 * z - 1
    if shape == "cube":
        top = z > 2 * CUBE - 1e-3
        side = ~top & (np.abs(x) > np.abs(y))
        return np.where(side, np.sign(x), 0), np.where(~top & ~side, np.sign(y), 0), top.astype(x.dtype)
    top = z > CYLINDER[1] - 1e-3
    return np.where(top, 0, x / CYLINDER[0]), np.where(top, 0, y / CYLINDER[0]), top.astype(x.dtype)


def unit(vector: Vector) -> Vector:
    """Scale a vector to length 1."""
    length = sqrt(sum(v * v for v in vector))
    return vector[0] / length, vector[1] / length, vector[2] / length


def turned(vector: tuple[V, V, V], angle: float) -> tuple[V, V, V]:
    """Turn a vector, or a field of them, into the frame of a solid that is turned by `angle` about its own axis."""
    x, y, z = vector
    return x * cos(angle) + y * sin(angle), y * cos(angle) - x * sin(angle), z


def spiral(count: int, spread: float) -> list[tuple[float, float]]:
    """Spread `count` points evenly over a disc (Vogel's spiral)."""
    golden = pi * (3 - sqrt(5))
    radii = [spread * sqrt((i + 0.5) / count) for i in range(count)]
    return [(r * cos(golden * i), r * sin(golden * i)) for i, r in enumerate(radii)]


@lru_cache
def lamp_rays() -> list[tuple[float, Vector]]:
    """Return directions from the floor to the light, with weights: a broad lamp, and the sky."""
    lamp = [(SHADOW / 32, unit((LIGHT[0] + a, LIGHT[1] + b, LIGHT[2]))) for a, b in spiral(32, 0.22)]
    sky = [(OCCLUSION / 40, (a, b, sqrt(1 - a * a - b * b))) for a, b in spiral(40, 0.7)]
    return lamp + sky


def neighbours(picture: Floats) -> Floats:
    """Sum the 3x3 pixels around each pixel."""
    rows = picture + np.roll(picture, 1, axis=0) + np.roll(picture, -1, axis=0)
    return rows + np.roll(rows, 1, axis=1) + np.roll(rows, -1, axis=1)


class Sprite(NamedTuple):
    """One solid as float32 [h,w,1] pictures; its foot is `-top` rows down and `-left` columns in."""

    left: int
    top: int
    clear: Floats  # 1 - coverage
    light: Floats  # times the colour: the shaded surface, already times coverage
    gloss: Floats  # the white highlight, already times coverage
    floor: Floats  # what the shadow leaves of the floor's light
    relief: Floats  # how much farther than its foot the surface is, along the view, already times coverage


@lru_cache(maxsize=4096)
def sprite(shape: str, scale: float, angle: float, right: float, down: float) -> Sprite:
    """Ray trace one solid: `scale` pixels to the unit, its foot (right, down) of a pixel from the pixel's corner."""
    left, top = floor(PATCH[0] * scale), floor(PATCH[2] * scale)
    width, height = ceil(PATCH[1] * scale) - left, ceil(PATCH[3] * scale) - top
    eye = turned((0.0, -DISTANCE * cos(ELEVATION), DISTANCE * sin(ELEVATION)), angle)
    across, up = turned((1.0, 0.0, 0.0), angle), turned((0.0, sin(ELEVATION), cos(ELEVATION)), angle)

    def rays(per_pixel: int) -> Vectors:
        u = (left - right + (np.arange(width * per_pixel, dtype=np.float32) + 0.5) / per_pixel) / scale
        v = -(top - down + (np.arange(height * per_pixel, dtype=np.float32)[:, None] + 0.5) / per_pixel) / scale
        x, y, z = (u * a + v * b - e for a, b, e in zip(across, up, eye, strict=True))
        return x, y, z

    def reduced(picture: Floats) -> Floats:
        blocks = picture.reshape(height, SUPERSAMPLE, width, SUPERSAMPLE)
        means: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
        return means[..., None]

    ray = rays(SUPERSAMPLE)
    near = distance(shape, eye, ray)
    seen = np.isfinite(near)
    x, y, z = (e + np.where(seen, near, 0) * d for e, d in zip(eye, ray, strict=True))
    nx, ny, nz = normal(shape, (x, y, z))
    lx, ly, lz = unit(turned(LIGHT, angle))
    back = unit(eye)
    hx, hy, hz = unit((lx + back[0], ly + back[1], lz + back[2]))  # Blinn: half way between the lamp and the eye
    diffuse = AMBIENT + DIFFUSE * np.maximum(nx * lx + ny * ly + nz * lz, 0) - BOUNCE * np.minimum(nz, 0)
    gloss = GLOSS[shape] * np.clip(nx * hx + ny * hy + nz * hz, 0, 1) ** 60

    x, y, z = rays(1)
    reach = np.where(z < 0, -eye[2] / np.minimum(z, -1e-6), 0)
    ground = (eye[0] + reach * x, eye[1] + reach * y, np.full_like(x, 1e-4))
    lit, outside = np.ones_like(x), np.ones_like(x)
    for weight, towards in lamp_rays():
        met = distance(shape, ground, turned(towards, angle))
        lit -= weight * np.isfinite(met)
        outside[met < 0] = 0  # below the solid
    # A pixel on the solid's lower edge shows some floor though its centre is below the solid: as light as beside it.
    lit = np.where(outside > 0, lit, neighbours(lit * outside) / np.maximum(neighbours(outside), 1))
    relief = DISTANCE * (np.where(seen, near, 1) - 1)  # all rays reach the depth of the foot at 1
    return Sprite(
        left, top, 1 - reduced(seen), reduced(diffuse * seen), reduced(gloss * seen), lit.astype(np.float32)[..., None],
        reduced(relief),
    )  # fmt: skip


# -- One scene ---------------------------------------------------------------------------------------------------------

FAR, NEAR = 0.27, 0.37  # width of a sphere at the back and at the front, as a share of the picture's
ROWS = (0.46, 0.86)  # where a foot stands at the back and at the front, from the top
DEPTHS = 6  # steps of size between back and front
TURNS = (18.0, 27.0, 36.0, 45.0, 54.0, 63.0, 72.0)  # of cubes, in degrees: two sides and the top always in view
TRIES = 48


@lru_cache
def empty_floor(size: int) -> Floats:
    """Draw the bare floor, float32 [size,size,3] in [0,255]: a pool of light, darker at the back and the corners."""
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    y = x[:, None]
    pool = np.exp(-((x - 0.42) ** 2) / 0.5 - (y - 0.62) ** 2 / 0.32)
    grey = 152 + 56 * pool
    return (grey[..., None] * np.array([1.0, 0.995, 0.985], dtype=np.float32)).astype(np.float32)


def places(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Place `count` solids: [count,2] of (across, depth) in [0,1], depth 0 at the back.

    Takes the first of TRIES in which all solids clear each other, or else the one that comes nearest to that. In 3,000
    scenes, at least 53% of every solid was visible.
    """
    tries = generator.random((TRIES, count, 2))
    width = FAR + (NEAR - FAR) * tries[..., 1]
    across = 0.62 * width + (1 - 1.24 * width) * tries[..., 0]
    rows = ROWS[0] + (ROWS[1] - ROWS[0]) * tries[..., 1]
    gaps = []  # between each two, 1 where they just clear each other; a solid in front hides more than one beside
    for a, b in combinations(range(count), 2):
        beside = (across[:, a] - across[:, b]) / (1.15 * (width[:, a] + width[:, b]) / 2)
        gaps.append(np.hypot(beside, (rows[:, a] - rows[:, b]) / 0.37))
    gap = np.min(gaps, axis=0) if gaps else np.ones(TRIES)
    good = gap >= 1
    best = int(np.argmax(good)) if good.any() else int(np.argmax(gap))
    return np.stack([across[best], tries[best, :, 1]], axis=-1)


class Piece(NamedTuple):
    """A sprite in its place: the window of the sheet it covers, and where its foot is, from the top of the picture."""

    sprite: Sprite
    colour: NDArray[np.float32]
    window: tuple[slice, slice]
    foot: float


def lay_out(labels: list[int], size: int, generator: np.random.Generator) -> list[Piece]:
    """Put each label's solid somewhere on the floor, ordered from the back to the front.

    The windows lie on a sheet three pictures wide and high, with the picture in the middle: a shadow may leave it.
    """
    spots, turns = places(len(labels), generator), generator.random(len(labels))
    steps = max(1, 128 // size)  # feet stand on a grid of 1/128 of the picture, or of pixels where those are finer
    pieces = []
    for label, (across, depth), turn in sorted(zip(labels, spots, turns, strict=True), key=lambda piece: piece[1][1]):
        shape = SHAPES[label // 8]
        scale = size * (FAR + (NEAR - FAR) * round(depth * (DEPTHS - 1)) / (DEPTHS - 1))
        angle = radians(TURNS[int(turn * len(TURNS))]) if shape == "cube" else 0.0
        column, right = divmod(round(across * size * steps), steps)
        row, down = divmod(round((ROWS[0] + (ROWS[1] - ROWS[0]) * depth) * size * steps), steps)
        solid = sprite(shape, scale, angle, right / steps, down / steps)
        height, width = solid.clear.shape[:2]
        top, left = size + row + solid.top, size + column + solid.left
        colour = np.array(COLOURS[NAMES[label].split()[0]], dtype=np.float32)
        window = np.s_[top : top + height, left : left + width]
        pieces.append(Piece(solid, colour, window, (row + down / steps) / size))
    return pieces


def render(labels: list[int], size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one scene, uint8 [size,size,3]; equal generators draw the same scene at every size."""
    return paint(lay_out(labels, size, generator), size)


def paint(pieces: list[Piece], size: int) -> NDArray[np.uint8]:
    """Lay sprites over the bare floor from the back to the front: uint8 [size,size,3]."""
    sheet = np.zeros((3 * size, 3 * size, 3), dtype=np.float32)
    picture = sheet[size : 2 * size, size : 2 * size]
    picture[:] = empty_floor(size)
    for solid, _, window, _ in pieces:
        sheet[window] *= solid.floor
    for solid, colour, window, _ in pieces:
        sheet[window] = sheet[window] * solid.clear + colour * solid.light + 255 * solid.gloss
    return (np.minimum(picture, 255) + 0.5).astype(np.uint8)


def floor_depth(row: Numbers) -> Numbers:
    """Return how far away the floor is at a row, from 0 at the top of the picture to 1, in widths of a sphere.

    A sphere there is a share FAR to NEAR of the picture's width, linear in the row. What is k times as far away looks
    k times smaller, so the floor is a plane, and its horizon is where that share is 0: above the picture, at -0.62.
    """
    share = FAR + (NEAR - FAR) * (row - ROWS[0]) / (ROWS[1] - ROWS[0])
    return DISTANCE * NEAR / share  # a sphere that is NEAR wide is seen from DISTANCE


def depth_of(pieces: list[Piece], size: int) -> Floats:
    """Return how far away each pixel is along the view, float32 [size,size]: mixed at outlines, as the colours are."""
    sheet = np.zeros((3 * size, 3 * size, 1), dtype=np.float32)
    depth = sheet[size : 2 * size, size : 2 * size, 0]
    depth[:] = floor_depth((np.arange(size) + 0.5) / size)[:, None]  # type: ignore[index]
    for solid, _, window, foot in pieces:
        sheet[window] = sheet[window] * solid.clear + floor_depth(foot) * (1 - solid.clear) + solid.relief
    return depth


def draw_with_depth(
    index: int, size: int = 32, seed: int = 0, split: str = "train"
) -> tuple[NDArray[np.uint8], Floats]:
    """Draw the picture of `scene(index, seed, split)` as `draw` does, and its depth: see `depth_of`."""
    generator = stream(index, seed, split)
    pieces = lay_out(draw_labels(split, generator), size, generator)
    return paint(pieces, size), depth_of(pieces, size)


def draw(index: int, size: int = 32, seed: int = 0, split: str = "train") -> NDArray[np.uint8]:
    """Draw the picture of `scene(index, seed, split)`, uint8 [size,size,3]."""
    generator = stream(index, seed, split)
    return render(draw_labels(split, generator), size, generator)


def make(
    count: int, size: int = 32, seed: int = 0, split: str = "train", start: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw scenes from `start` on: images uint8 [count,size,size,3] and multi-hot labels uint8 [count,24]."""
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    for i in range(count):
        images[i] = draw(start + i, size, seed, split)
    return images, make_labels(count, seed, split, start)


def make_labels(count: int, seed: int = 0, split: str = "train", start: int = 0) -> NDArray[np.uint8]:
    """Return the labels of `make` alone, uint8 [count,24], which takes almost no time."""
    labels = np.zeros((count, len(LABELS)), dtype=np.uint8)
    for i in range(count):
        labels[i, scene(start + i, seed, split)] = 1
    return labels
