"""The sets of hazy pictures with their truth: `hazy_pairs("hazy-photos", 128)[[0, 1, 2]]` is a batch of three pairs.

Rests on haze, on depth for photographs, and on landscapes and shapes, which know theirs. Pair i of a set is a function
of (set, size, split, seed, i) alone, so that a training can be resumed to the bit.
"""

import hashlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import exp, log
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidiff.data import landscapes, photos, shapes
from minidiff.data.config import Haze
from minidiff.data.corrupted import seed_of
from minidiff.data.crops import chances, detail
from minidiff.data.depth import plausible
from minidiff.data.haze import FARTHEST, Floats, HazyPair, add_haze, join
from minidiff.data.hazy_folders import PairFolder, open_folder
from minidiff.data.image_data import LoadRequest
from minidiff.data.photo_store import SCALES
from minidiff.errors import UserError, lookup
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.convert import Pixels
from minidiff.images.files import squeeze

VERSION = 3  # of the rules for pictures, depth and haze; raise it when any pair comes out differently
WIDE = 4  # of the copies of a photograph, those whose shorter side is at most so many times that of a square
STREAM = 0x4A  # what a seed is for: keeps these numbers apart from those of other random things

Scene = Callable[[np.random.Generator], tuple[Pixels, Floats]]  # a picture [S,S,3] and its depth [S,S] to FARTHEST


class Source(NamedTuple):
    """Where the clear pictures of a set come from, opened for one size and split."""

    scene: Scene
    digest: str  # a text that differs for other pictures
    notes: list[str]

    def pair(self, row: int, random: np.random.Generator, haze: Haze) -> HazyPair:
        """Make a pair, a batch of one. Its number has no use: all that is random comes from the generator."""
        return add_haze(*self.scene(random), haze, random)


class HazyPairs:
    """Read random pairs like an array: `pairs[7]`, `pairs[:16]` and `pairs[[3, 1]]` are batches, see `HazyPair`."""

    def __init__(self, source: Source | PairFolder, count: int, haze: Haze, split: str, seed: int) -> None:
        self.source, self.count, self.haze, self.split, self.seed = source, count, haze, split, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[np.integer]) -> HazyPair:
        """Make the pairs of these numbers."""
        return join([self.pair(int(row)) for row in np.arange(len(self))[index].flat])

    def pair(self, row: int) -> HazyPair:
        """Make one pair, a batch of one."""
        random = np.random.default_rng([self.seed, STREAM, seed_of(self.split), row])
        return self.source.pair(row, random, self.haze)

    @property
    def notes(self) -> list[str]:
        """What the user should know about the pictures, a line each."""
        return self.source.notes

    def fingerprint(self) -> str:
        """Return a digest by which the same pairs can be recognised."""
        text = f"version {VERSION} {self.source.digest} {self.haze} {self.split} {self.seed}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- The sources -------------------------------------------------------------------------------------------------------


def open_photos(request: LoadRequest) -> Source:
    """Open crops of photographs, upright, with plausible depth. See `data/photos.py` for the photographs.

    How much haze there is can be told from much of a photograph, not from a detail of it. So a crop is wide: up to the
    whole shorter side, and then scaled down. Its side is drawn evenly on a scale of logarithms. To train on, its
    light and colours are changed: see `recoloured`.
    """
    photographs, notes = photos.open_photographs(request)
    size = request.image_size
    shorter = [min(place.height, place.width) for place in photographs.places]
    fitting = [number for number, side in enumerate(shorter) if side >= size]
    if not fitting:
        raise UserError(f"no photograph has {size}x{size} pixels. Take a smaller `image_size`.")

    def largest(number: int) -> int:
        """How large a copy of a photograph is taken; its smallest that fits always is."""
        first = number // len(SCALES) * len(SCALES)  # the copies of a photograph lie together
        return max(WIDE * size, min(side for side in shorter[first : first + len(SCALES)] if side >= size))

    photographs = photographs.of([number for number in fitting if shorter[number] <= largest(number)])
    shares = chances(np.array([(place.height, place.width) for place in photographs.places])).cumsum()[:-1]

    def scene(random: np.random.Generator) -> tuple[Pixels, Floats]:
        squares = []
        for which, wide, top, left in random.random((2, 4)):
            picture = photographs[int(np.searchsorted(shares, which, side="right"))]
            side = round(size * (min(picture.shape[:2]) / size) ** wide)
            row, column = int(top * (picture.shape[0] - side + 1)), int(left * (picture.shape[1] - side + 1))
            squares.append(squeeze(picture[row : row + side, column : column + side], size))
        square = max(squares, key=detail)  # as data/crops.py chooses
        if random.random() < 0.5:
            square = square[:, ::-1]
        square = recoloured(square, random) if request.split == "train" else np.ascontiguousarray(square)
        return square, FARTHEST * plausible(square, random)

    return Source(scene, f"photos {size} {' '.join(place.digest for place in photographs.places)}", notes)


def recoloured(picture: Pixels, random: np.random.Generator) -> Pixels:
    """Show a picture, uint8 [H,W,3], in another light, by another camera: gamma, saturation, exposure, white balance.

    There are a few dozen photographs. A network that knows them by heart knows how bright and colourful each is without
    haze, and learns that in place of the haze.
    """
    gamma, exposure = np.exp(random.uniform(-0.5, 0.5)), np.exp(random.uniform(-0.3, 0.3))
    saturation, balance = random.uniform(0.4, 1.6), np.exp(random.uniform(-0.15, 0.15, 3))
    light = (picture / np.float32(255)) ** np.float32(gamma)
    grey = light.mean(axis=2, keepdims=True)
    light = (grey + np.float32(saturation) * (light - grey)) * (exposure * balance).astype(np.float32)
    levels: Pixels = (255 * light.clip(0, 1)).round().astype(np.uint8)
    return levels


def open_landscapes(request: LoadRequest) -> Source:
    """Open ray-traced landscapes, in which the haze ends the view at 12 to HORIZON units."""

    def scene(random: np.random.Generator) -> tuple[Pixels, Floats]:
        picture, depth = landscapes.draw(request.image_size, random)
        view = exp(random.uniform(log(12), log(landscapes.HORIZON)))
        return picture, (FARTHEST * np.minimum(depth / view, 1)).astype(np.float32)

    return Source(scene, f"landscapes {landscapes.VERSION} {request.image_size}", [])


def open_shapes(request: LoadRequest) -> Source:
    """Open scenes of the data set `shapes`. The back of the floor is as far away as anything."""

    def scene(random: np.random.Generator) -> tuple[Pixels, Floats]:
        index = int(random.integers(shapes.COUNTS[request.split]))
        picture, depth = shapes.draw_with_depth(index, request.image_size, split=request.split)
        return picture, (FARTHEST * np.minimum(depth / shapes.floor_depth(0.0), 1)).astype(np.float32)

    return Source(scene, f"shapes {shapes.VERSION} {request.image_size}", [])


def open_stereo(request: LoadRequest) -> Source:
    """Open crops of scikit-image's stereo pair, whose depth was measured. It is never trained on."""
    picture, depth = stereo()
    size = request.image_size
    if size > min(depth.shape):
        raise UserError(f"no crop of {size}x{size} fits into the stereo picture. Take an `image_size` of at most 500.")

    def scene(random: np.random.Generator) -> tuple[Pixels, Floats]:
        top, left = (int(random.random() * (side - size + 1)) for side in depth.shape)
        part = np.s_[top : top + size, left : left + size]
        return picture[part], depth[part]

    return Source(scene, f"stereo {size}", [])


FOCAL, DOFFS = 994.978, 31.086  # pixels: what scikit-image says of the pair's calibration
BASELINE = 0.193001  # metres between the two cameras


def stereo() -> tuple[Pixels, Floats]:
    """Return the left picture of scikit-image's stereo pair, uint8 [500,741,3], and its depth, float32 [500,741].

    Two cameras see a point z metres away `disparity` pixels apart: z = focal baseline / (disparity + doffs).
    The farthest known point, at 5.0 m, is at FARTHEST. 7% of the pixels have no known depth, mostly because one camera
    does not see them. Of the nearest known pixels to the left and right in their row, they get the farther one's depth.
    Scharstein et al. 2014. Raises UserError if scikit-image is not installed.
    """
    try:
        from skimage.data import stereo_motorcycle
    except ModuleNotFoundError:
        raise UserError("the stereo picture needs a further package, scikit-image. Install it.") from None
    left, _, disparity = stereo_motorcycle()  # type: ignore[no-untyped-call]
    metres = np.where(np.isfinite(disparity), FOCAL * BASELINE / (disparity + DOFFS), np.nan)  # unknown ones are inf
    behind = np.maximum(from_left(metres), from_left(metres[:, ::-1])[:, ::-1])
    metres = np.where(np.isfinite(metres), metres, behind)
    return left, (metres * (FARTHEST / metres.max())).astype(np.float32)


def has_stereo(data_dir: Path | None) -> bool:
    """Tell whether scikit-image is installed."""
    return find_spec("skimage") is not None


def from_left(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return for each place of [H,W] the last finite value of its row up to there; 0 where there is none."""
    last = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(values.shape[1]), -1), axis=1)
    return np.where(last >= 0, np.take_along_axis(values, last, axis=1), 0)


def open_all(request: LoadRequest) -> Source:
    """Open what a network is trained on: photographs for what pictures look like, drawings for what depth looks like.

    Where there are no photographs, a note says so, and landscapes take their place.
    """
    landscape, room = open_landscapes(request), open_shapes(request)
    try:
        photo, notes = open_photos(request), []
    except UserError as error:
        photo, notes = landscape, [f"without photographs: {str(error).rstrip('.')}"]
    sources = (photo, landscape, room)

    def scene(random: np.random.Generator) -> tuple[Pixels, Floats]:
        return sources[int(np.searchsorted(MIXED, random.random(), side="right"))].scene(random)

    return Source(scene, f"{MIXED} {' '.join(source.digest for source in sources)}", photo.notes + notes)


MIXED = (0.7, 0.92)  # below which random number it is a photograph, and a landscape; the rest are rooms


class HazySet(NamedTuple):
    """An entry of HAZY_SETS: how to open it, and how many pairs each split has. They are an epoch."""

    open: Callable[[LoadRequest], Source | PairFolder]
    splits: dict[str, int]
    origin: str
    present: Callable[[Path | None], bool] = lambda data_dir: True  # whether it is on this machine


DRAWN = {"train": 100_000, "test": 1_000}
HAZY_SETS = {
    "haze": HazySet(open_all, DRAWN, "photos, landscapes and shapes"),
    "hazy-photos": HazySet(open_photos, DRAWN, "Debian packages or `data_dir`; plausible depth", photos.present),
    "hazy-landscapes": HazySet(open_landscapes, DRAWN, "drawn by minidiff"),
    "hazy-shapes": HazySet(open_shapes, DRAWN, "drawn by minidiff"),
    "hazy-stereo": HazySet(open_stereo, {"test": 1_000}, "scikit-image; measured depth", has_stereo),
    "hazy-pairs": HazySet(
        open_folder,
        DRAWN | {"all": 100_000},
        "`data_dir`: NH-HAZE, Dense-Haze, RESIDE",
        lambda data_dir: bool(data_dir and data_dir.is_dir()),
    ),
}


def hazy_pairs(
    source: str = "haze",
    size: int = 128,
    seed: int = 0,
    *,
    split: str = "train",
    haze: Haze | None = None,
    data_dir: str | Path | None = None,
    on_bad: str = "skip",
    max_pixels: int = MAX_PIXELS,
) -> HazyPairs:
    """Open a set of hazy pictures with their truth, by its name in HAZY_SETS.

    size: pixels a side. seed: other seeds give other pictures, depths and haze. split: train or test, which share no
    picture. haze: the ranges; those of `Haze` by default. data_dir: a folder of photographs of your own.
    Raises UserError.
    """
    found = lookup("set of hazy pictures", source, HAZY_SETS)
    lookup(f"split of {source}", split, found.splits)
    folder = Path(data_dir).expanduser() if data_dir else None
    opened = found.open(LoadRequest(source, split, size, folder, on_bad, max_pixels))
    return HazyPairs(opened, found.splits[split], haze or Haze(), split, seed)
