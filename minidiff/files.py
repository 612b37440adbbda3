"""Files: read JSON, write atomically, hold a folder for one process.

Rests on errors alone, so that listing runs does not wait for torch.
"""

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from minidiff.errors import UserError, one_line

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the quota, or in a file


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)` so that `path` becomes the whole new content or stays what it was. Raises UserError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink()
        # torch.save reports a failed write as a RuntimeError, with the OSError it met as the context.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            mend = " Make room, then try again." if cause.errno in FULL else ""
            kept = "What was there before is unharmed."
            raise UserError(f"cannot write {path}: {cause.strerror}. {kept}{mend}") from None
        if isinstance(error, RuntimeError):
            raise UserError(f"cannot write {path}: {one_line(error)}. The old file is unharmed.") from None
        raise


def write_json(path: Path, value: object) -> None:
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def read_json(path: Path, mend: str = "") -> dict[str, Any]:
    """A JSON object out of a file. mend: a sentence for the end of the message. Raises UserError."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. {mend}".rstrip()) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}). {mend}".rstrip()) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read (it holds no object). {mend}".rstrip())
    return found


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process: two trainings in one folder would write over each other.

    The lock goes with the process, `kill -9` included. Raises UserError when another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks; there it is the user who must not start two
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is at work in {folder}. Wait for it, or stop it first.") from None
        yield
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and vanishes when it does not."""
    for left_over in path.parent.glob(f".{path.name}.tmp*"):  # by a process that was killed, a day ago or more
        with suppress(FileNotFoundError):
            if time.time() - left_over.stat().st_mtime > 86_400:
                left_over.unlink()
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def printable(text: str) -> str:
    """File names may hold bytes that are no characters; a terminal takes them as question marks."""
    return text.encode(errors="replace").decode()


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
