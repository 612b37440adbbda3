"""Hazy pictures with their clear partners in folders of your own, by the names of NH-HAZE, Dense-Haze and RESIDE.

Rests on haze and images. Nobody knows the transmission and the airlight of these pictures.
Ancuti et al. 2020 (NH-HAZE), Ancuti et al. 2019 (Dense-Haze), Li et al. 2019 (RESIDE).
"""

import os
import re
from math import exp, log
from pathlib import Path

import numpy as np
from PIL import Image

from minidiff.data.config import Haze
from minidiff.data.haze import HazyPair
from minidiff.data.image_data import LoadRequest
from minidiff.errors import UserError, counted
from minidiff.images.convert import Pixels, to_float
from minidiff.images.files import IMAGE_SUFFIXES, image_shape, read_image

HAZY, CLEAR = ("hazy", "haze"), ("clear", "gt", "clean")  # names of folders, and ends of names; in any case of letters
BORDER = 10  # pixels by which RESIDE's clear indoor pictures exceed the hazy ones on every side
HELD_OUT = 10  # of so many clear pictures, one is held out: of the 55 of NH-HAZE the last five
FARTHEST_OUT = 4.0  # a crop shows up to so many times its own side, scaled down
KEPT = 512 << 20  # bytes; so much of the pictures stays in memory once it is decoded


class PairFolder:
    """The pairs of a folder. files: paths of hazy and clear pictures. size: of crops. notes: what was left out."""

    def __init__(self, files: list[tuple[Path, Path]], size: int, notes: list[str], max_pixels: int) -> None:
        self.files, self.size, self.notes, self.max_pixels = files, size, notes, max_pixels
        self.kept: dict[int, tuple[Pixels, Pixels]] = {}

    @property
    def digest(self) -> str:
        """A text that differs for other files."""
        states = [(path.name, path.stat().st_size) for pair in self.files for path in pair]
        return f"pairs {self.size} {states}"

    def read(self, number: int) -> tuple[Pixels, Pixels]:
        """Read a hazy picture and its clear partner, uint8 [H,W,3] each. Raises UserError."""
        if number in self.kept:
            return self.kept[number]
        hazy, clear = (read_image(path, max_pixels=self.max_pixels) for path in self.files[number])
        top, left = ((a - b) // 2 for a, b in zip(clear.shape, hazy.shape, strict=True) if a != 3)
        clear = clear[top : top + hazy.shape[0], left : left + hazy.shape[1]]
        if sum(each.nbytes for pair in self.kept.values() for each in pair) < KEPT:
            self.kept[number] = hazy, clear
        return hazy, clear

    def whole(self, number: int) -> HazyPair:
        """Return a whole pair, a batch of one."""
        hazy, clear = (to_float(np.ascontiguousarray(each)[None]) for each in self.read(number))
        return HazyPair(hazy, clear, None, None, None)

    def pair(self, row: int, random: np.random.Generator, haze: Haze) -> HazyPair:
        """Cut a square out of pair `row` modulo their number, scaled down and mirrored at random. `haze` has no use."""
        pictures = self.read(row % len(self.files))
        height, width = pictures[0].shape[:2]
        widest = min(FARTHEST_OUT, min(height, width) / self.size)
        side = round(self.size * exp(random.uniform(0, log(widest))))
        top, left = int(random.random() * (height - side + 1)), int(random.random() * (width - side + 1))
        box, mirrored = (left, top, left + side, top + side), random.random() < 0.5
        squares = []
        for picture in pictures:
            square = Image.fromarray(picture).crop(box).resize((self.size, self.size), Image.Resampling.LANCZOS)
            if mirrored:
                square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            squares.append(to_float(np.array(square)[None]))
        return HazyPair(squares[0], squares[1], None, None, None)


def open_folder(request: LoadRequest) -> PairFolder:
    """Find and check the pairs of `data_dir`: each hazy picture with a clear one of its size. Raises UserError.

    A hazy picture without a partner, or of another size, is left out and noted, or ends the search if on_bad is stop.
    """
    if request.data_dir is None:
        raise UserError("the set 'hazy-pairs' needs `data_dir`, the folder with hazy and clear pictures.")
    root = Path(os.path.abspath(request.data_dir))
    hazy, clear = listing(root)
    pairs, faults = [], []
    for key, path in sorted(hazy.items()):
        partner = partner_of(key, clear)
        if partner is None:
            faults.append(f"{path.relative_to(root)} has no clear partner")
        elif fault := fault_of(path, clear[partner], request):
            faults.append(fault)
        else:
            pairs.append((partner, path))
    lonely = len(clear) - len({partner_of(key, clear) for key in hazy} - {None})
    faults += (
        [f"{counted(lonely, 'clear picture')} {'has' if lonely == 1 else 'have'} no hazy partner"] if lonely else []
    )
    if faults and request.on_bad == "stop":
        raise UserError(f"{root}: {faults[0]}.")
    if not pairs:
        raise UserError(f"{root} has no pair of a hazy and a clear picture: {faults[0]}.")
    names = sorted({partner for partner, _ in pairs})
    held_out = {*names[-(len(names) // HELD_OUT or 1) :]} if len(names) > 1 else set()
    chosen = [
        (path, clear[name])
        for name, path in pairs
        if request.split == "all" or (name in held_out) == (request.split == "test")
    ]
    if not chosen:
        raise UserError(f"{root} has one clear picture, so that none is held out. Take the `split` 'all'.")
    small = [path for path, _ in chosen if min(image_shape(path, request.max_pixels)) < request.image_size]
    if small:
        raise UserError(
            f"{small[0]} is smaller than {request.image_size}x{request.image_size}. Take a smaller `image_size`."
        )
    notes = [f"{counted(len(faults), 'fault')} in {root}: {'; '.join(faults[:3])}"] if faults else []
    return PairFolder(chosen, request.image_size, notes, request.max_pixels)


def listing(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Find the hazy and the clear pictures of a folder, each by its key. Raises UserError if either are missing.

    They lie in two folders, hazy/ and clear/ or GT/, or in one, as 01_hazy.png and 01_GT.png.
    """
    if not root.is_dir():
        raise UserError(f"`data_dir` {root} {'is a file, not a folder' if root.exists() else 'does not exist'}.")
    inner = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    folders = [next((inner[name] for name in names if name in inner), None) for names in (HAZY, CLEAR)]
    found = []
    for folder, names in zip(folders, (HAZY, CLEAR), strict=True):
        ending = re.compile(rf"[_-]?({'|'.join(names)})$", re.IGNORECASE)
        files = [path for path in sorted((folder or root).iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
        files = [path for path in files if path.name[0] != "." and (folder or ending.search(path.stem))]
        found.append({ending.sub("", path.stem): path for path in files})
        if not files:
            what = "hazy" if names is HAZY else "clear"
            where = folder or root
            raise UserError(
                f"{where} holds no {what} pictures. Put them into hazy/ and clear/ (or GT/), or name them "
                "01_hazy.png and 01_GT.png."
            )
    return found[0], found[1]


def partner_of(key: str, clear: dict[str, Path]) -> str | None:
    """Find the key of the clear partner: RESIDE's 1400_10 and 0001_0.8_0.2 are the clear pictures 1400 and 0001."""
    while key not in clear:
        key, cut, _ = key.rpartition("_")
        if not cut:
            return None
    return key


def fault_of(hazy: Path, clear: Path, request: LoadRequest) -> str:
    """Say what is wrong with a pair of files, from their first bytes; nothing if they fit."""
    try:
        shape, other = (image_shape(path, request.max_pixels) for path in (hazy, clear))
    except UserError as error:
        return str(error).rstrip(".")
    if shape != other and other != (shape[0] + 2 * BORDER, shape[1] + 2 * BORDER):
        sizes = [f"{width}x{height}" for height, width in (shape, other)]
        return f"{hazy.name} is {sizes[0]} and its clear partner {clear.name} {sizes[1]}"
    return ""
