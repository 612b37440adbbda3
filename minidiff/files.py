"""Files: write whole or not at all, read JSON, hold a folder for one process.

Rests on errors alone, so that listing runs does not wait for torch. `replacing` writes every file of minidiff: to a
working file beside its place, which is flushed to the disk and then renamed. At any moment, `kill -9` included, a
file is the whole old one or the whole new one.
"""

import errno
import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from minidiff.errors import NoMemory, UserError, one_line, shown

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the quota, or in a file
DAY = 86_400  # seconds
HOST = platform.node() or "here"
LOCK = ".lock"  # in a folder that one process holds, or held; it is empty and hidden, and may stay


# --- write --------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, flush: bool = True) -> Iterator[BinaryIO]:
    """Open a file to write. It takes the place of `path` when the block ends well, and vanishes when it does not.

    flush: wait until the disk has it, which takes some 5 ms, and remove what killed processes left of this file.
    Streams of thousands of pictures, which can be drawn again, do without. Raises OSError.
    """
    if flush:
        remove_left_overs(path)
    working = working_place(path)
    try:
        with open(working, "wb") as file:
            yield file
            file.flush()
            if flush:
                os.fsync(file.fileno())
        os.replace(working, path)
        if flush:
            flush_folder(path.parent)
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            working.unlink()


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Make a folder to fill. It takes the place of `folder`, which is empty or absent, when the block ends well.

    It vanishes when the block does not end well. Raises OSError.
    """
    folder = folder.absolute()
    remove_left_overs(folder)
    working = working_place(folder)
    try:
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        yield working
        flush_folder(working)
        if folder.exists():
            folder.rmdir()
        os.rename(working, folder)
        flush_folder(folder.parent)
    finally:
        shutil.rmtree(working, ignore_errors=True)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what stops a write to `path` into a UserError: one line with the reason and what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save reports a failed write as a RuntimeError, with the OSError it met as the context.
        cause = error if isinstance(error, OSError) else error.__context__
        number, reason = None, one_line(error)
        if isinstance(cause, OSError):
            number, reason = cause.errno, cause.strerror or one_line(cause)
        if number == errno.ENOENT and not path.parent.is_dir():
            raise UserError(f"cannot write {path}: the folder {path.parent} is not there, or no longer.") from None
        mend = "Make room, then try again." if number in FULL else "Choose another place."
        raise UserError(f"cannot write {path}: {reason}. What was there before is unharmed. {mend}") from None


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write(file)`, so that `path` becomes the whole new content or stays what it was. Raises UserError."""
    with write_errors(path), replacing(path) as file:
        write(file)


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON, whole or not at all. Raises UserError."""
    write_atomically(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder: a rename is lost without it when the power fails."""
    with suppress(OSError):  # Windows cannot open a folder, and some network disks cannot flush one
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def size_in_words(count: float) -> str:
    """Write a number of bytes: "812 B", "1.2 kB", "4.5 GB". A kB has 1000 bytes, as in the SI."""
    power = min(3, int(math.log10(max(1, count)) / 3))
    value = count / 1000**power
    return f"{value:,.{int(power > 0 and value < 99.95)}f} {('B', 'kB', 'MB', 'GB')[power]}"


# --- working files ------------------------------------------------------------------------------------------------

# `.NAME.tmp-HOST-PID`. Earlier versions wrote `.NAME.tmp` and `.NAME.tmpPID`.
WORKING = re.compile(r"\.(.+)\.tmp(?:-(.+)-(\d+)|\d*)")


def working_place(path: Path) -> Path:
    """Return where this process writes before it renames to `path`: beside it, hidden, under a name of its own."""
    return path.with_name(f".{path.name}.tmp-{HOST}-{os.getpid()}")


def is_working_name(name: str) -> bool:
    """Tell whether a file of this name is a working file, or what a killed process left of one."""
    return WORKING.fullmatch(name) is not None


def remove_left_overs(path: Path) -> None:
    """Remove what killed processes left beside `path` when they were writing it."""
    for place in path.parent.glob(f".{glob.escape(path.name)}.tmp*"):
        with suppress(OSError):
            if is_left_over(place):
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder and in the folders inside it.

    Only a process that holds the folder may call this, and before it writes anything itself: in a container a killed
    process may have had the number that this one has.
    """
    for place in sorted(folder.rglob(".*.tmp*")):
        found = WORKING.fullmatch(place.name)
        with suppress(OSError):
            if is_left_over(place) or (found and found[2] == HOST and int(found[3]) == os.getpid()):
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def is_left_over(place: Path) -> bool:
    """Tell whether nobody works on a working file: its process is gone, or has not touched the file for a day.

    The process of another computer, on a shared disk, may be at work although none here has its number.
    """
    found = WORKING.fullmatch(place.name)
    if not found:
        return False
    gone = found[2] == HOST and not is_running(int(found[3]))
    return gone or time.time() - place.stat().st_mtime > DAY


def is_running(pid: int) -> bool:
    """Tell whether this computer has a process of this number; yes where that cannot be found out."""
    if os.name != "posix":  # on Windows the same call would stop the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


def is_empty(folder: Path) -> bool:
    """Tell whether a folder holds nothing but a lock and working files."""
    return all(path.name == LOCK or is_working_name(path.name) for path in folder.iterdir())


# --- read ---------------------------------------------------------------------------------------------------------

TEXT_LIMIT = 64 << 20  # bytes of a text file (JSON, a list); iCLEVR's table of 18,000 images takes 1.4 MB

KINDS = {  # of what is no file
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


def regular(path: str | Path) -> Path:
    """Return `path` if it is a regular file, or a link to one. Raises UserError for a pipe, a device, a folder, ...

    Every file from elsewhere goes through here before it is opened: to open a pipe waits for its other end, and a
    device such as /dev/zero has no end. A file that is not there passes, since to open it says so.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except OSError:
        return path
    except ValueError:  # a NUL in the name
        raise UserError(f"{path} cannot be the name of a file.") from None
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        mend = "Give a file in it." if stat.S_ISDIR(mode) else "Copy what comes out of it into a file, and give that."
        raise UserError(f"{path} is {kind}, not a file. {mend}")
    return path


def read_text_bytes(path: str | Path, limit: int = TEXT_LIMIT) -> bytes:
    """Read a text file whole, as bytes. Raises UserError if it is no `regular` file or above `limit`; or OSError."""
    size = regular(path).stat().st_size
    if size > limit:
        raise UserError(f"{path} has {size / 1e6:,.0f} MB; a text of more than {limit / 1e6:,.0f} MB is not read.")
    with memory_for(path), open(path, "rb") as file:
        return file.read(limit)


@contextmanager
def memory_for(path: Path | str, mend: str = "Close other programs, or give a smaller file.") -> Iterator[None]:
    """Turn a MemoryError while a file is read into one that names the file."""
    try:
        yield
    except MemoryError:
        raise NoMemory(f"the memory does not suffice to read {path}. {mend}") from None


def read_json(path: Path, mend: str = "", missing: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read the JSON object in a file. Raises UserError.

    mend: a sentence for the end of the message. missing: what to return where there is no such file.
    """
    if missing is not None and not path.exists():
        return missing
    found = read_any_json(path, mend)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {shown(found)}, not a JSON object. {mend}".rstrip())
    return found


def read_any_json(path: Path, mend: str = "") -> Any:
    """Read any JSON value from a file; UTF-8, UTF-16 and a byte order mark are recognised.

    Raises UserError for a file that is no regular file, is larger than TEXT_LIMIT, is nested deeper than DEEPEST, or
    has one key twice in an object.
    """
    try:
        with memory_for(path):
            found = json.loads(read_text_bytes(path), object_pairs_hook=each_key_once)
            check_values(found)
        return found
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. {mend}".rstrip()) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or one_line(error)}). {mend}".rstrip()) from None
    except UserError as error:
        raise UserError(f"{error} {mend}".rstrip()) from None
    except RecursionError:
        raise UserError(f"{path} is no JSON that can be read: it is nested too deeply. {mend}".rstrip()) from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({one_line(error)}). {mend}".rstrip()) from None


DEEPEST = 64  # lists and objects inside of each other; no file of minidiff's or diffusers' has more than six


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values. Raises ValueError for a key that is there twice: which would count?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"it has the key {shown(key)} twice")
    return found


def check_values(found: object) -> None:
    """Raise RecursionError for a value that is nested deeper than DEEPEST, and ValueError for half a character."""
    level = [found]
    for _ in range(DEEPEST):
        inner: list[object] = []
        for value in level:
            if isinstance(value, str):
                value.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate such as \ud800
            elif isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list):
                inner += value
        level = inner
        if not level:
            return
    raise RecursionError


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(regular(path), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- hold a folder ------------------------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process: two trainings in one folder would write over each other.

    The lock ends with the process, `kill -9` included; only the empty file LOCK stays, unless it is new and the block
    ends with an error. Raises UserError when another process holds the folder.
    """
    from filelock import FileLock, Timeout  # takes 50 ms, which help and `minidiff info` do without

    is_new = not (folder / LOCK).exists()
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)  # it may be released in another thread
    try:
        folder.stat()  # FileLock would make a folder that is missing
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is at work in {folder}. Wait for it, or stop it first.") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"cannot lock {folder}: {reason}. Choose another place.") from None
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                (folder / LOCK).unlink()
        raise
    finally:
        lock.release()


def hold(folder: Path) -> ExitStack:
    """Hold a folder as `locked` does, until the result is closed. Raises UserError."""
    held = ExitStack()
    held.enter_context(locked(folder))
    return held
