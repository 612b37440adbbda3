"""The folders where downloads are kept: where they are, whether they can be written, and what is in them.

Rests on data.cache and on metrics.inception_weights, which know the places.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from minidiff.data.cache import cache_dir
from minidiff.errors import counted
from minidiff.files import sha256_of, size_in_words
from minidiff.health.findings import FAULT, OK, WARNING, Finding, without_home
from minidiff.metrics.inception_weights import FIDELITY_FILE, PUBLISHED_FILE, PUBLISHED_SHA256

ROOM = 2 << 30  # bytes that should be free: CelebA takes 1.4 GB, and the decoded images of a large set as much
NAMES = 6  # entries of a folder that are named


def look_into_caches() -> Iterator[Finding]:
    """Look into the cache for data and at the weights that are fetched when they are needed."""
    yield data_cache(cache_dir())
    yield fid_weights(cache_dir(), Path(torch.hub.get_dir()) / "checkpoints")


def data_cache(folder: Path) -> Finding:
    """Try to write into the cache for data, and say what is in it."""
    name, place = "data cache", without_home(folder)
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    mend = "Set MINIDIFF_CACHE to a folder that you may write into, on a disk with room."
    try:
        if not there.is_dir():
            raise NotADirectoryError(20, "there is a file in its place")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
        if folder.is_dir():
            with tempfile.TemporaryFile(dir=folder) as file:  # some disks only say so when it is tried
                file.write(b"0" * 4096)
    except OSError as error:
        return Finding(name, FAULT, f"{place} cannot be written: {error.strerror}", mend)
    free = shutil.disk_usage(there).free
    seen = f"{place}, {contents(folder)}; {size_in_words(free)} free on its disk"
    return Finding(name, OK, seen) if free >= ROOM else Finding(name, WARNING, seen, f"Make room. Or: {mend}")


def contents(folder: Path) -> str:
    """Name what is in a folder, the largest first, with sizes."""
    if not folder.is_dir():
        return "which does not exist yet"
    sizes = {each.name: size_of(each) for each in folder.iterdir() if not each.name.startswith(".")}
    if not sizes:
        return "which is empty"
    largest = sorted(sizes, key=lambda name: -sizes[name])
    more = f" and {counted(len(sizes) - NAMES, 'other')}" if len(sizes) > NAMES else ""
    return "with " + ", ".join(f"{name} {size_in_words(sizes[name])}" for name in largest[:NAMES]) + more


def size_of(path: Path) -> int:
    """Add up the bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    inside = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    return sum(file.lstat().st_size for file in inside)


def fid_weights(*folders: Path) -> Finding:
    """Look for the published weights of FID's network, and check them to the bit."""
    name = "FID weights"
    for folder in folders:
        for file in (folder / PUBLISHED_FILE, folder / FIDELITY_FILE):
            if not file.is_file():
                continue
            if sha256_of(file) == PUBLISHED_SHA256:
                return Finding(name, OK, f"the published ones, in {without_home(folder)}")
            seen = f"{without_home(file)} is not the published file, by its SHA-256"
            return Finding(name, FAULT, seen, "Remove it. It is fetched again when it is needed.")
    return Finding(
        name, OK, f"not on this machine; `minidiff fid` fetches them (96 MB) into {without_home(folders[0])}"
    )
