"""Where a stream of samples goes: a grid, an array or a folder, with no more of it in memory than a grid shows.

Rests on images, which writes the files. An array is npy format 1.0 in an uncompressed zip, as numpy's savez makes it.
"""

import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np

from minidiff.errors import UserError
from minidiff.images.convert import Pixels
from minidiff.images.files import IMAGE_SUFFIXES, write_image
from minidiff.images.grid import grid


class ImageSink:
    """Where a stream of images goes: a grid (`.png`), an array (`.npz`, uint8 [N,H,W,3] named `images`) or a folder.

    `write` takes uint8 [n,H,W,3] batches in order; `finish` completes the file and returns what was written, in words.
    An array goes through a raw file beside the target, so memory does not grow with the number of images; a grid is
    for looking at and keeps the first `keep`, which are there as `shown` for every kind. As a context manager it leaves
    no working files, however it ends. Refuses to replace anything unless `overwrite`. Raises UserError.
    """

    keep = 256

    def __init__(self, path: str | Path, columns: int | None = None, overwrite: bool = False) -> None:
        self.path, self.columns, self.count = Path(path), columns, 0
        self.kind = {".npz": "array", "": "folder"}.get(self.path.suffix.lower(), "grid")
        if self.kind == "grid" and self.path.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"cannot tell what '{path}' should be. Give a .png, a .npz, or a folder without a suffix.")
        taken = any(self.path.iterdir()) if self.path.is_dir() else self.path.exists()
        if taken and not overwrite:
            raise UserError(f"{path} exists. Give another --out, or --force to replace it.")
        if self.path.exists() and self.path.is_dir() != (self.kind == "folder"):
            raise UserError(f"{path} is {'a folder' if self.path.is_dir() else 'a file'}. Give another --out.")
        self.first: list[Pixels] = []
        home = self.path if self.kind == "folder" else self.path.parent
        self.raw = home / f".{self.path.name}.tmp{os.getpid()}"
        try:
            home.mkdir(parents=True, exist_ok=True)
            self.raw.touch()  # a read-only place is found out now, not after the sampling
            if self.kind == "folder":
                self.clear()
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}.") from None

    def clear(self) -> None:
        """Take the images of an earlier sampling out of the folder; one that holds anything else is not ours."""
        killed = re.escape(f".{self.path.name}.tmp") + r"\d+|\.\d{6}\.png\.tmp\d+"  # what kill -9 leaves of a sampling
        ours = rf"\d{{6}}\.png|{killed}"
        self.raw.unlink()
        if foreign := [path.name for path in self.path.iterdir() if not re.fullmatch(ours, path.name)]:
            raise UserError(f"{self.path} holds more than samples ({foreign[0]}). Give another --out.")
        for path in self.path.iterdir():
            path.unlink()

    def write(self, images: Pixels) -> None:
        try:
            if self.kind == "folder":
                for offset, image in enumerate(images):
                    write_image(self.path / f"{self.count + offset:06d}.png", image)
            elif self.kind == "array":
                with open(self.raw, "ab") as file:
                    file.write(np.ascontiguousarray(images).tobytes())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}.") from None
        self.first.extend(images[: self.keep - len(self.first)])
        self.count += len(images)

    @property
    def shown(self) -> Pixels:
        """The first images written, uint8 [n,H,W,3]."""
        return np.stack(self.first)

    def finish(self) -> str:
        try:
            if self.kind == "array":
                shape = (self.count, *self.first[0].shape)
                finished = Path(f"{self.raw}.npz")
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                with (
                    zipfile.ZipFile(finished, "w", zipfile.ZIP_STORED) as archive,
                    archive.open("images.npy", "w", force_zip64=True) as member,
                    open(self.raw, "rb") as raw,
                ):
                    np.lib.format.write_array_header_1_0(member, header)
                    shutil.copyfileobj(raw, member, 1 << 22)
                os.replace(finished, self.path)
            elif self.kind == "grid":
                write_image(self.path, grid(self.shown, self.columns))
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}.") from None
        cut = f" (the grid shows the first {self.keep})" if self.kind == "grid" and self.count > self.keep else ""
        return f"{self.count} image{'s' * (self.count != 1)}: {self.path}{cut}"

    def __enter__(self) -> "ImageSink":
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.unlink(missing_ok=True)
        Path(f"{self.raw}.npz").unlink(missing_ok=True)
