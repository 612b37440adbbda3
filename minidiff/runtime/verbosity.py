"""How much is said on the way: nothing but results and warnings, the usual lines and bars, or every detail.

Rests on errors. `details.set_verbosity` changes it.
"""

import os

from minidiff.errors import UserError, suggestion

VARIABLE = "MINIDIFF_VERBOSITY"  # an environment variable, so that the processes of a study know it, too
LEVELS = ("quiet", "normal", "verbose")


def verbosity() -> str:
    """Return one of LEVELS: what was set last, or the environment's, or "normal". Raises UserError."""
    level = os.environ.get(VARIABLE) or "normal"
    if level not in LEVELS:
        raise UserError(f"the environment variable {VARIABLE} is '{level}'. {suggestion(level, LEVELS)}")
    return level


def is_quiet() -> bool:
    """Return whether bars and lines on the way are unwanted."""
    return verbosity() == "quiet"


def is_first() -> bool:
    """Return whether this is the process that talks: torchrun numbers them by RANK. This needs no torch."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
