"""Arrays in .npy and .npz files from anywhere: what they declare is compared with what is there before it is believed.

Rests on errors, files and numpy. A header of a hundred bytes can declare 10^12 rows, and a zip directory can claim any
size. So a size is taken from a header only where as many bytes follow it. Nothing is ever unpickled.
"""

import io
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import UserError, one_line, printable, shown
from minidiff.files import regular

HEADER = 12 + 10_000  # bytes; numpy reads no longer header, either
SIDES, LONGEST = 32, 1 << 48  # an array has at most so many dimensions, and none longer than this
MEMBERS = 1000  # a .npz with more arrays is no file of one set of images
DEFLATE = 1032  # deflate packs at best 1032 bytes into one
EMPTY, BOMB = 300, 1 << 28  # from 256 MB on, an array packed more than 300 times is as good as empty: no images are
MEND = "Write it again with np.save or np.savez."


@dataclass(frozen=True)
class ArrayFile:
    """An array in a .npy file, or one of those in a .npz file. Its rows are read when they are asked for."""

    path: Path
    member: str | None  # the name of its file in the .npz
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool  # whether the first index runs fastest, which only `whole` can read
    start: int  # bytes before the values

    def __str__(self) -> str:
        return printable(f"{self.path}" + (f":{array_name(self.member)}" if self.member else ""))

    @property
    def described(self) -> str:
        """Say type and shape: uint8 [64, 32, 32, 3]."""
        return f"{self.dtype.name if self.dtype.names is None else 'structured'} {shown(list(self.shape))}"

    @property
    def size(self) -> int:
        """Return how many bytes its values take."""
        return self.dtype.itemsize * math.prod(self.shape)

    def open(self) -> IO[bytes]:
        """Open the bytes of the array, header included."""
        return open(self.path, "rb") if self.member is None else zipfile.ZipFile(self.path).open(self.member)

    def read(self, parts: Iterable[slice]) -> Iterator[NDArray[Any]]:
        """Yield these rows. The slices must ascend. Raise UserError if the file is damaged or has changed."""
        self.check_plain()
        if self.fortran:
            raise UserError(f"{self} is in Fortran order. Save np.ascontiguousarray(array) instead.")
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        with reading(self):
            file = self.open()
        with file:
            for part in parts:
                first, last, _ = part.indices(self.shape[0])
                content = self.read_bytes(file, first * row, max(0, last - first) * row)
                yield np.frombuffer(content, self.dtype).reshape(max(0, last - first), *self.shape[1:])

    def whole(self, most: int | None = None) -> NDArray[Any]:
        """Read all of it. Raise UserError if it is damaged, or has more than `most` bytes."""
        self.check_plain()
        if most is not None and self.size > most:
            raise UserError(f"{self} is {self.described}, larger than it can be. {MEND}")
        with reading(self), self.open() as file:
            content = self.read_bytes(file, 0, self.size)
            values = np.array(np.frombuffer(content, self.dtype))  # a copy, which can be written to
            return np.reshape(values, self.shape, order="F" if self.fortran else "C")

    def mapped(self) -> NDArray[Any]:
        """Map the values of a .npy file into memory, to be read when they are used. They cannot be written to."""
        self.check_plain()
        assert self.member is None
        order: Literal["F", "C"] = "F" if self.fortran else "C"
        with reading(self):  # numpy cannot map a file without values
            return np.asarray(np.memmap(self.path, self.dtype, "r", self.start, self.shape, order))

    def read_bytes(self, file: IO[bytes], first: int, size: int) -> bytes:
        """Read `size` bytes of the values, from the byte `first` on. Raise UserError."""
        with reading(self):
            if size:  # torchrun's last process can have none, beyond the end
                file.seek(self.start + first)
            content = file.read(size)
        if len(content) < size:
            raise UserError(f"{self} is cut short: it ends before its last value. {MEND}")
        return content

    def check_plain(self) -> None:
        """Raise UserError unless the values are numbers, truth values or text."""
        if self.dtype.hasobject:
            raise UserError(f"{self} holds Python objects. Save it as an array of numbers.")
        if self.dtype.kind not in "biufcU":
            raise UserError(f"{self} is of type {shown(str(self.dtype))}. Save it as an array of numbers.")


def array_name(member: str) -> str:
    """Return what numpy calls a member of a .npz: its name without `.npy`."""
    return printable(member.removesuffix(".npy"))


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn whatever numpy and zipfile raise on bytes from elsewhere into one UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, about headers that it then refuses
            yield
    except UserError:
        raise
    except Exception as error:  # there is no end to what damaged headers and zip directories raise
        reason = printable(getattr(error, "strerror", None) or one_line(error))
        reason = reason[:97] + "..." if len(reason) > 100 else reason
        raise UserError(f"{what} cannot be read ({reason}). {MEND}") from None


# --- open ---------------------------------------------------------------------------------------------------------


def open_npy(path: Path) -> ArrayFile:
    """Open a .npy file. Raise UserError unless it holds one array, whole."""
    check_file(path)
    with reading(path), open(path, "rb") as file:
        start = file.read(HEADER)
        if start.startswith(b"PK"):
            mend = "Name it so." if path.suffix == ".npy" else "Give a .npy file: np.save writes one."
            raise UserError(f"{path} is a zip archive, as .npz files are. {mend}")
        return checked(path, None, start, os.fstat(file.fileno()).st_size)


def open_npz(path: Path) -> dict[str, ArrayFile]:
    """Open a .npz file. Return its arrays by name. Raise UserError unless each of them is whole."""
    check_file(path)
    found: dict[str, ArrayFile] = {}
    with reading(path):
        with open(path, "rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                raise UserError(f"{path} is a single array, as .npy files are. Give a .npz file, or name it so.")
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if len(members) > MEMBERS:
                raise UserError(f"{path} holds {len(members):,} arrays. Save the images as one, [N,H,W,3].")
            for info in members:
                name = array_name(info.filename)
                if name in found:
                    raise UserError(f"{path} holds two arrays called {name}. Save it again with one of them.")
                check_member(path, info)
                with archive.open(info) as member:
                    found[name] = checked(path, info.filename, member.read(HEADER), info.file_size)
    return found


def read_npz(path: Path, *names: str) -> list[NDArray[Any]]:
    """Read these arrays of a .npz file whole. Raise UserError if one is missing or damaged."""
    arrays = open_npz(path)
    if missing := [name for name in names if name not in arrays]:
        raise UserError(f"{path} holds no array {missing[0]}. {MEND}")
    return [arrays[name].whole() for name in names]


def check_file(path: Path) -> None:
    """Raise UserError unless this is a file: a pipe or a device would be waited for, or never end."""
    if not regular(path).exists():
        raise UserError(f"{path}: no such file.")


def check_member(path: Path, info: zipfile.ZipInfo) -> None:
    """Compare what the zip directory says of a member with what can be true. Raise UserError."""
    name = array_name(info.filename)
    if info.flag_bits & 1:
        raise UserError(f"{path}:{name} is encrypted. Unpack it, and save it with np.savez.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"{path}:{name} is compressed in a way that numpy does not write (method {info.compress_type}). {MEND}"
        )
    most = info.compress_size * (DEFLATE if info.compress_type == zipfile.ZIP_DEFLATED else 1)
    if info.header_offset + info.compress_size > path.stat().st_size or info.file_size > most:
        raise UserError(
            f"{path}:{name} is damaged: {info.file_size:,} bytes cannot be in the {info.compress_size:,} it has. {MEND}"
        )
    if info.file_size > max(BOMB, EMPTY * info.compress_size):
        raise UserError(
            f"{path}:{name} unpacks {info.compress_size:,} bytes to {info.file_size:,}, so it is as good as empty. "
            "If it is not, save it with np.savez, uncompressed."
        )


def checked(path: Path, member: str | None, start: bytes, size: int) -> ArrayFile:
    """Read the header of an array, and compare it with the bytes there are.

    start: its first bytes, at least the header. size: of all its bytes. Raise UserError.
    """
    what = printable(str(path) + (f":{array_name(member)}" if member else ""))
    with reading(what):
        shape, fortran, dtype, begins = read_header(start)
        array = ArrayFile(path, member, shape, dtype, fortran and len(shape) > 1, begins)
        declared, there = array.size, size - begins
    if not dtype.hasobject and declared != there:  # pickled objects have any length, and are refused elsewhere
        fault = "is cut short" if declared > there else "holds more than one array"
        raise UserError(f"{array} {fault}: it declares {array.described}, {declared:,} bytes of {there:,}. {MEND}")
    return array


def read_header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read shape, Fortran order, type and length of a .npy header. Raise ValueError, or what numpy raises."""
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"its format is {version[0]}.{version[1]}")
    shape, fortran, dtype = (
        np.lib.format.read_array_header_1_0(file) if version == (1, 0) else np.lib.format.read_array_header_2_0(file)
    )
    if len(shape) > SIDES or not all(0 <= side < LONGEST for side in shape):
        raise ValueError("its shape has a side that no array can have")
    return tuple(map(int, shape)), fortran, dtype, file.tell()
