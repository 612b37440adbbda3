"""The published files of data sets: fetch them whole or not at all, and check them while they are read.

Rests on torchvision, which knows the addresses and the checksums.
LeCun et al. 1998 (MNIST and its IDX files), Liu et al. 2015 (CelebA).
"""

import gzip
import logging
import math
import os
import shutil
import socket
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from minidiff.arrays import DEFLATE
from minidiff.errors import UserError
from minidiff.files import read_text_bytes, regular
from minidiff.images.convert import Pixels

LOG = logging.getLogger(__name__)

LARGEST_IDX = 1 << 31  # bytes; the largest set of this kind, EMNIST, has 0.6e9


def download(name: str, classes: str, folder: Path, where: str, archive: str = "") -> None:
    """Let torchvision fetch `folder`, whole or not at all. An `archive` that lies beside it is unpacked instead.

    classes: torchvision's name for the set. where: what to put where by hand, for the message. Raises UserError.
    """
    import torchvision

    root = folder.parent
    made = [parent for parent in (root, *root.parents) if not parent.exists()]
    timeout = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            if archive and (root / archive).is_file():
                os.symlink(os.path.abspath(root / archive), Path(temporary) / archive)
            LOG.info(f"fetching {name} into {folder}")
            socket.setdefaulttimeout(20)  # seconds of silence: a firewall must not look like a slow server
            getattr(torchvision.datasets, classes)(temporary, download=True)
            if folder.exists():  # some of the files, not all
                shutil.copytree(Path(temporary) / folder.name, folder, copy_function=os.replace, dirs_exist_ok=True)
            else:
                os.replace(Path(temporary) / folder.name, folder)
    except Exception as error:  # whatever went wrong in the net, the server or the disk, the mend is the same
        with suppress(OSError):
            for parent in made:
                parent.rmdir()
        reason = reason_of(error)
        raise UserError(
            f"{name} is not in {root} and cannot be downloaded ({reason}). Put {where}. They are at "
            f"{address_of(classes)}. If you have them elsewhere, name the folder that holds them by `data_dir`."
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def address_of(classes: str) -> str:
    """Return where a set of torchvision can be fetched by hand."""
    import torchvision

    known = getattr(torchvision.datasets, classes)
    mirrors = getattr(known, "mirrors", ["https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"])
    return str(getattr(known, "url", mirrors[0]))


def reason_of(error: Exception) -> str:
    """Return the last line of an error's message, where torchvision puts the reason, without brackets and full stop."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip(" <>.") if lines else type(error).__name__


def read_idx(path: Path, item: tuple[int, ...]) -> Pixels:
    """Read an IDX file of bytes, gzipped or not, as uint8 [N,*item]. Raises UserError.

    The format is: two zero bytes, 8 for unsigned bytes, the number of dimensions; each dimension in 4 bytes, the
    highest first; the data. item: [28,28] for images, [] for labels. The size that the header declares is compared with
    the size of the file, or with the one in the last bytes of a gzip file, before the data are read.
    """
    regular(path)
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else open(path, "rb") as file:
            magic = file.read(4)
            if magic != bytes([0, 0, 8, 1 + len(item)]):
                expected = bytes([0, 0, 8, 1 + len(item)]).hex()
                raise UserError(f"{path} begins with '{magic.hex()}', not '{expected}'. Fetch it again.")
            count, *sides = struct.unpack(f">{1 + len(item)}I", file.read(4 + 4 * len(item)))
            start, size = 8 + 4 * len(item), count * math.prod(item)
            if tuple(sides) != item:
                raise UserError(f"{path} is {[count, *sides]}; it should be {['N', *item]}. Fetch it again.")
            there = unpacked_size(path) if packed else path.stat().st_size
            most = min(LARGEST_IDX, path.stat().st_size * DEFLATE)
            if (start + size) % (1 << 32 if packed else 1 << 64) != there or size > most:
                raise UserError(f"{path} is {[count, *sides]} but holds {there - start:,} bytes. Fetch it again.")
            values: Pixels = np.frombuffer(file.read(size), np.uint8).reshape(count, *item).copy()
            if file.read(1):
                raise UserError(f"{path} holds more than the {[count, *sides]} it declares. Fetch it again.")
            return values
    except (OSError, EOFError, ValueError, zlib.error, struct.error) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be read ({reason}). Fetch it again.") from None


def unpacked_size(path: Path) -> int:
    """Return the size that a gzip file says its content has, modulo 2^32: it stands in the last four bytes."""
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        size: int = struct.unpack("<I", file.read(4))[0]
    return size


def read_attributes(path: Path, names: list[str]) -> tuple[Pixels, list[str]]:
    """Read CelebA's list of attributes for these files: labels uint8 [N,L], and the names of the L. Raises UserError.

    The file has a count; the attributes' names; then, a line each, a file name and a 1 or -1 for each attribute.
    """
    try:
        lines = read_text_bytes(path).decode().splitlines()
        attributes = lines[1].split()
        rows = dict(line.split(None, 1) for line in lines[2:] if line.strip())
        labels = np.array([[int(value) > 0 for value in rows[name].split()] for name in names], np.uint8)
        return labels.reshape(len(names), len(attributes)), [name.replace("_", " ") for name in attributes]
    except UserError:
        raise
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"{path} is incomplete or damaged ({reason_of(error)}). Fetch it again.") from None
