"""What the doctor finds, and how to write it without what belongs to one person.

Rests on records alone.
"""

import re
from pathlib import Path
from typing import Final, Literal

from minidiff.records import record

State = Literal["ok", "warning", "fault"]
OK: Final = "ok"
WARNING: Final = "warning"
FAULT: Final = "fault"


@record
class Finding:
    """One thing that the doctor looked at. A fault must be mended first; a warning makes work slow, or a part of it."""

    name: str  # of what was looked at, such as torch
    state: State
    seen: str  # a line
    mend: str = ""  # what to do; empty where nothing is wrong

    def __str__(self) -> str:
        return f"{self.state:8} {self.name:14} {self.seen}" + f"\n{'':23} mend: {self.mend}" * bool(self.mend)


class Wrong(Exception):
    """Say in a line what a trial came to that is not right."""


# A path from the root of a disk, but no URL. Its folders can name a person, a laboratory or a project.
PATH = re.compile(r"(?<![\w:/.~])(?:[A-Za-z]:)?[/\\](?:[^\s'\"<>|:,;()/\\]+[/\\])+")


def without_home(path: str | Path) -> str:
    """Write a path with `~` for the home folder."""
    text, home = str(path), str(Path.home())
    return "~" + text[len(home) :] if text == home or text.startswith((home + "/", home + "\\")) else text


def without_paths(text: str) -> str:
    """Leave the folders of every file out of a message, which may come from any library."""
    return PATH.sub(".../", text)


def said(error: BaseException) -> str:
    """Write an error in a line: what it is, and the first line that calls itself an error. Leave folders out."""
    first, *others = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    telling = [line for line in others if re.search(r"\berror\b", line, re.IGNORECASE)][:1]
    return without_paths("; ".join([first, *telling]))[:300]
