"""The one kind of error a user meets: a single line that says what is wrong and how to mend it."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")

NAMES = 20  # a message lists at most this many

# What a terminal obeys rather than shows: control characters (C0, DEL, C1), marks that change the direction of writing,
# separators of lines, the byte order mark; and halves of surrogate pairs, which cannot be written at all.
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class UserError(ValueError):
    """An error that the user can put right. The message is one line: what is wrong, with the value, then what to do.

    The command line prints it after `Error: ` and exits with code 1, without a traceback. A message names an argument
    in backticks, which the command line turns into a flag. It may quote names from elsewhere as they are: what is not
    `printable` in them is replaced here. told: whether another process prints the line already, so that torchrun's
    processes do not all repeat it.
    """

    told = False

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class NoMemory(UserError):
    """The memory does not suffice for one thing, which the message names. The thing itself is not to blame."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Write a sentence with the nearest known name, if one is near, and the known names or the first of them."""
    known = list(known)
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f"Did you mean '{nearest[0]}'? " if nearest else ""
    more = f" and {len(known) - NAMES} more" * (len(known) > NAMES)
    return f"{hint}Known: {', '.join(known[:NAMES])}{more}."


def shown(value: object) -> str:
    """Write a value from a user or a file for a message: text in quotes, short, in one line."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # lists in lists in lists, or a number of 5000 digits, from a file
        text = f"a {type(value).__name__}"
    text = " ".join(text.split()) if "\n" in text else text  # a tensor or an array
    return text if len(text) <= 80 else text[:77] + "..."


def printable(text: str) -> str:
    """Return a text as one line that is safe to print: `\\x1b` in letters in place of the character, and so on.

    The names of files, labels and tensors, and the messages of libraries that quote them, can hold codes that a
    terminal obeys, or line ends. Bytes of a file name that are no character are shown by their number, too.
    """
    return OBEYED.sub(lambda found: escaped(found[0]), text)


def printable_lines(text: str) -> str:
    """Do as `printable` does to each line of a text that we set in lines."""
    return "\n".join(map(printable, text.split("\n")))


def escaped(character: str) -> str:
    """Write one character by its number, as Python's `repr` does. Python reads the byte ff of a file name as dcff."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return ascii(character)[1:-1]


TOLD: set[str] = set()  # warnings that this process has printed


def warn_once(message: str) -> None:
    """Print a warning on standard error, the first time it is given, from torchrun's main process only."""
    if message not in TOLD and os.environ.get("RANK", "0") == "0":
        print(f"Warning: {printable(message)}", file=sys.stderr)
    TOLD.add(message)


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
