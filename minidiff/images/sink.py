"""Write a stream of samples to a picture, an array or a folder. Memory holds only the images that a grid shows.

Rests on files, which writes whole or not at all, and on the images of this folder. An array is npy format 1.0 in an
uncompressed zip, as numpy's savez makes it.
"""

import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np

from minidiff.errors import UserError, counted
from minidiff.files import is_empty, is_working_name, remove_left_overs, replacing, working_place, write_errors
from minidiff.images.convert import Pixels
from minidiff.images.files import IMAGE_SUFFIXES, write_image
from minidiff.images.grid import grid


def check_target(path: str | Path, overwrite: bool = False) -> None:
    """Raise UserError unless images may go to `path`: a name of a known kind, in a place that can be written.

    What lies there already is only replaced with `overwrite`.
    """
    path = Path(path)
    kind = kind_of(path)
    taken = not is_empty(path) if path.is_dir() else path.exists()
    if taken and not overwrite:
        raise UserError(f"{path} exists. Give another `out`, or `force` to replace it.")
    if path.exists() and path.is_dir() != (kind == "folder"):
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'a file'}. Give another `out`.")
    above = path.absolute().parents
    home = path if path.is_dir() else next(parent for parent in above if parent.exists())
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise UserError(
            f"cannot write {path}: {home} is {'read-only' if home.is_dir() else 'a file'}. Choose another place."
        )


def kind_of(path: Path) -> str:
    """Tell by its suffix what a target is: "grid", "array" or "folder". Raises UserError for any other suffix."""
    kind = {".npz": "array", "": "folder"}.get(path.suffix.lower(), "grid")
    if kind == "grid" and path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"cannot tell what '{path}' should be. Give a .png, a .npz, or a folder without a suffix.")
    return kind


class ImageSink:
    """Write a stream of images to a grid (`.png`), an array (`.npz`, uint8 [N,H,W,3] named `images`) or a folder.

    A grid of one image is this image alone, without a frame and in its own size.
    `write` takes uint8 [n,H,W,3] batches in order. `finish` completes the file and returns a line about it. An array
    goes through a raw file beside the target, so memory does not grow with the number of images. A grid is for looking
    at: it keeps the first `keep` images, and every kind has these as `shown`. As a context manager the sink leaves no
    working files, however it ends. It replaces nothing unless `overwrite` is set. Raises UserError.
    """

    keep = 256

    def __init__(self, path: str | Path, columns: int | None = None, overwrite: bool = False) -> None:
        self.path, self.columns, self.count = Path(path), columns, 0
        check_target(path, overwrite)
        self.kind = kind_of(self.path)
        self.first: list[Pixels] = []
        home = self.path if self.kind == "folder" else self.path.parent
        raw = home / f"{self.path.name}.raw"
        self.raw = working_place(raw)
        with write_errors(self.path):
            home.mkdir(parents=True, exist_ok=True)
            remove_left_overs(raw)
            self.raw.touch()  # a read-only place is found out now, not after the sampling
            if self.kind == "folder":
                self.clear()

    def clear(self) -> None:
        """Remove the images of an earlier sampling. Raises UserError when the folder holds anything else."""
        self.raw.unlink()
        there = list(self.path.iterdir())
        ours = [path for path in there if re.fullmatch(r"\d{6}\.png", path.name) or is_working_name(path.name)]
        if foreign := sorted(set(there) - set(ours)):
            raise UserError(f"{self.path} holds more than samples ({foreign[0].name}). Give another `out`.")
        for path in ours:
            path.unlink()

    def write(self, images: Pixels) -> None:
        """Add uint8 [n,H,W,3] images."""
        if self.kind == "folder":
            for number, image in enumerate(images, self.count):
                write_image(self.path / f"{number:06d}.png", image, flush=False)
        elif self.kind == "array":
            with write_errors(self.path), open(self.raw, "ab") as file:
                file.write(np.ascontiguousarray(images).tobytes())
        self.first.extend(images[: self.keep - len(self.first)])
        self.count += len(images)

    @property
    def shown(self) -> Pixels:
        """The first images written, uint8 [n,H,W,3]."""
        return np.stack(self.first)

    def finish(self) -> str:
        """Complete the file, and return how many images went where."""
        if self.kind == "array":
            with write_errors(self.path):
                self.write_array()
        elif self.kind == "grid":
            write_image(self.path, grid(self.shown, self.columns))
        rest = f" (the grid shows the first {self.keep})" if self.kind == "grid" and self.count > self.keep else ""
        alone = f" of {self.first[0].shape[1]}x{self.first[0].shape[0]}" if self.count == 1 else ""
        return f"{counted(self.count, 'image')}{alone}: {self.path}{rest}"

    def write_array(self) -> None:
        """Copy the raw file into an .npz, behind the header that numpy expects."""
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *self.first[0].shape)}
        with (
            replacing(self.path) as finished,
            zipfile.ZipFile(finished, "w", zipfile.ZIP_STORED) as archive,
            archive.open("images.npy", "w", force_zip64=True) as member,
            open(self.raw, "rb") as raw,
        ):
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(raw, member, 1 << 22)

    def __enter__(self) -> "ImageSink":
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.unlink(missing_ok=True)
