"""The one kind of error a user meets: a single line that says what is wrong and how to mend it."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")

NAMES = 20  # a message lists at most this many


class UserError(ValueError):
    """An error that the user can put right. The message is one line: what is wrong, with the value, then what to do.

    The command line prints it after `Error: ` and exits with code 1, without a traceback. A message names an argument
    in backticks, which the command line turns into a flag. told: whether another process prints the line already, so
    that torchrun's processes do not all repeat it.
    """

    told = False


def suggestion(name: str, known: Iterable[str]) -> str:
    """Write a sentence with the nearest known name, if one is near, and the known names or the first of them."""
    known = list(known)
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"Did you mean '{nearest[0]}'? " if nearest else ""
    more = f" and {len(known) - NAMES} more" * (len(known) > NAMES)
    return f"{hint}Known: {', '.join(known[:NAMES])}{more}."


def shown(value: object) -> str:
    """Write a value from a user or a file for a message: text in quotes, short, in one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def listed(names: Sequence[str], word: str = "and") -> str:
    """Write names in words: a; a and b; a, b and c."""
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(number: int, noun: str) -> str:
    """Write a number of things in words: 1 image; 2 images; 12,000 images."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def lookup(kind: str, name: str, table: Mapping[str, Value]) -> Value:
    """Return `table[name]`. Raises UserError, which names the nearest entry."""
    if name not in table:
        raise UserError(f"unknown {kind} '{name}'. {suggestion(name, table)}")
    return table[name]


def one_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its name when it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
