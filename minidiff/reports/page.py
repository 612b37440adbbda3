"""A page of HTML, all in one file: pictures, charts and style are within it, and there is no script.

A page is made of blocks: small records, each drawn by the macro of its name in templates/blocks.html. Jinja escapes all
text, so a label or a path with `<` in it is shown as it is and does nothing. Rests on images and files.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from minidiff._version import __version__
from minidiff.errors import UserError
from minidiff.files import write_atomically, write_errors
from minidiff.images.convert import Pixels
from minidiff.images.files import as_webp, read_image

PICTURES = 8_000_000  # bytes that all pictures of a page may have together
PICTURE = 250_000  # and one of them; what has more is compressed, and made smaller where that is not enough
FINE = 160  # a picture of fewer pixels in width and height is enlarged by its pixels, not smoothed
MANY = 50  # entries of a list that are written out
SHADES = 7  # of a heat map, see style.css


# --- blocks -------------------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """A paragraph. look: a class of style.css (lead, soft, bad). tag: h3 for a heading, pre for lines to be typed."""

    text: str
    look: str = ""
    tag: str = "p"


class Items(NamedTuple):
    """A list; each line has a name, which is bold and may be empty, and a text."""

    lines: Sequence[tuple[str, str]]


class Facts(NamedTuple):
    """Names and values in two columns; empty ones are left out. tiles: a few figures to be seen first."""

    pairs: Mapping[str, str]
    title: str = ""
    tiles: bool = False


class Bar(NamedTuple):
    """A value as a dot and its interval as a bar, on a line of length 100."""

    dot: float
    reach: tuple[float, float] | None = None


class Cell(NamedTuple):
    """A cell of a table. small: text after it; chips: words in a frame, with their looks; across: columns it takes."""

    text: str = ""
    look: str = ""
    bold: bool = False
    small: str = ""
    chips: Sequence[tuple[str, str]] = ()
    bar: Bar | None = None
    across: int = 1


class Row(NamedTuple):
    """A row of a table; its first cell names it."""

    cells: Sequence[Cell]
    look: str = ""


class Table(NamedTuple):
    """A table, which scrolls by itself where the screen is narrow. align: l or r for each column."""

    head: Sequence[str]
    rows: Sequence[Row]
    align: str
    caption: str = ""
    look: str = ""  # heat: a heat map, which stands beside others where there is room; its caption is a heading


class Picture(NamedTuple):
    """A picture with words below it, or in its place the reason why there is none."""

    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    why: str = ""
    bad: bool = False


class Album(NamedTuple):
    """Pictures side by side, as many as there is room for. look: small, large, one below the other, or named."""

    pictures: Sequence[Picture]
    look: str = ""


class Line(NamedTuple):
    """A curve, and its name."""

    name: str
    points: Sequence[tuple[float, float]]  # step and value, both finite
    band: Sequence[
        tuple[float, float, float]
    ] = ()  # step, lowest and highest value of several curves; points: the mean


class Chart(NamedTuple):
    """A drawing with its title, its lines for the legend, and notes about its axis."""

    title: str
    lines: Sequence[Line]
    notes: Sequence[str]
    svg: Markup


class Charts(NamedTuple):
    """Charts side by side, in groups; a group of the name "" has no heading."""

    groups: Mapping[str, Sequence[Chart]]
    wide: bool = False


Block = Text | Items | Facts | Table | Album | Charts
Blocks = Sequence[Block]


# --- the page -----------------------------------------------------------------------------------------------------


@dataclass
class Page:
    """A page: its head, and its sections by name. A section without blocks is left out."""

    title: str
    kind: str  # a line below the title
    head: Blocks = ()
    sections: Mapping[str, Blocks] = field(default_factory=dict)
    written: str = ""  # from when it is, for the last line

    def html(self) -> str:
        """Return the whole page."""
        found = {name: blocks for name, blocks in self.sections.items() if blocks}
        shown = vars(self) | {"sections": found, "version": __version__}
        return environment().get_template("page.html").render(shown) + "\n"

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all. Raises UserError."""
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(self.html().encode()))
        return path


@lru_cache
def environment() -> jinja2.Environment:
    """Open the templates of this folder. Everything is escaped; a name that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "macro": lambda block: type(block).__name__.lower()}
    made.globals |= {"shades": SHADES, "fine": FINE}
    return made


def simple_table(head: Sequence[str], lines: Sequence[Sequence[str]], align: str, caption: str = "") -> list[Table]:
    """Return a table of plain text, or nothing if it has no lines."""
    rows = [Row([Cell(text) for text in line]) for line in lines]
    return [Table(head, rows, align, caption)] if rows else []


def bar(value: float, low: float | None, high: float | None, span: tuple[float, float]) -> Bar:
    """Place a value and its interval, if there is one, on a line from the lower to the upper end of `span`."""

    def at(x: float) -> float:
        return 100 * min(1.0, max(0.0, (x - span[0]) / ((span[1] - span[0]) or 1)))

    return Bar(at(value), None if low is None or high is None else (at(low), at(high)))


# --- words and numbers --------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Write a time in two units at most: 8 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 1 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min" + f" {whole % 60} s" * bool(whole % 60)
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float, decimals: int | None = None) -> str:
    """Write a number to be read: with `decimals`, or with four significant digits."""
    if not math.isfinite(value):
        return str(value)
    if decimals is not None:
        text = f"{value:,.{decimals}f}"
    elif value == int(value) and abs(value) < 1e9:
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return text.replace("-", "−")  # noqa: RUF001


def in_words(value: object) -> str:
    """Write a setting in words."""
    if value is None or value == {}:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {in_words(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MANY} more" * (len(value) > MANY)
        return ", ".join(map(in_words, value[:MANY])) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


# --- pictures -----------------------------------------------------------------------------------------------------


def room_for(count: int) -> int:
    """Return how many bytes each of `count` pictures may have."""
    return min(PICTURE, PICTURES // max(1, count))


def picture(path: Path, caption: str, room: int) -> Picture:
    """Fit an image file into about `room` bytes. If it cannot be read, the reason takes its place.

    A .png that is small enough goes in as it is, to the bit. Any other file is compressed as WebP, and halved until it
    fits.
    """
    try:
        pixels = read_image(path)
    except UserError as error:
        return Picture(caption, why=str(error), bad=True)
    held, content = "png", path.read_bytes()
    if path.suffix.lower() != ".png" or len(content) > room:
        held, content = "webp", as_webp(pixels, 90)
        if len(content) > room:
            content = as_webp(pixels, 75)
        while len(content) > room and min(pixels.shape[:2]) > 64:
            pixels = halved(pixels)
            content = as_webp(pixels, 75)
    uri = f"data:image/{held};base64,{base64.b64encode(content).decode()}"
    return Picture(caption, uri, pixels.shape[1], pixels.shape[0])


def halved(pixels: Pixels) -> Pixels:
    """Shrink uint8 [H,W,3] to [H//2,W//2,3]: each pixel is the mean of four."""
    height, width = (side // 2 for side in pixels.shape[:2])
    blocks = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    means: Pixels = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return means
