"""The details of a long work, for who asks for them: what was read from where, what a cache held, how long it took.

Rests on verbosity and progress. A detail is an INFO record of a logger below the standard logger "minidiff", so a
script may send the details where it likes, or use `set_verbosity("verbose")`.
"""

import logging
import os
import platform
import sys
import time
from importlib.metadata import version

from minidiff._version import __version__
from minidiff.errors import UserError, printable, suggestion
from minidiff.runtime.progress import print_above
from minidiff.runtime.verbosity import LEVELS, VARIABLE, is_first

LOGGER = logging.getLogger("minidiff")


def set_verbosity(level: str) -> None:
    """Choose how much is said, in this process and in those it will start. Raises UserError for an unknown level.

    quiet: no progress bars; commands print their results, warnings and errors alone. verbose: print also the details,
    on standard error. normal: neither.
    """
    if level not in LEVELS:
        raise UserError(f"unknown verbosity '{level}'. {suggestion(level, LEVELS)}")
    os.environ[VARIABLE] = level
    for handler in [handler for handler in LOGGER.handlers if isinstance(handler, Details)]:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(logging.NOTSET)
    if level == "verbose":
        LOGGER.addHandler(Details())
        LOGGER.setLevel(logging.INFO)
        LOGGER.info(versions())


def versions() -> str:
    """Name the versions that a report of an error should name."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy"))
    return f"minidiff {__version__}, Python {platform.python_version()}, {packages}, {platform.platform()}"


class Details(logging.Handler):
    """Print each detail on standard error, after the seconds since the first one could be printed."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.start = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        if is_first():
            print_above(f"{time.monotonic() - self.start:8.2f} s  {printable(record.getMessage())}", sys.stderr)
