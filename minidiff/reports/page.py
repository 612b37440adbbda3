"""A page of HTML out of small pieces, all in one file: pictures, charts and colours are within it, and no script.

What is `Html` is markup; any other text is escaped where it enters a piece, so a label or a path with `<` in it is
shown as it is and does nothing. Rests on style (how it looks), images and checkpoint.
"""

import base64
import html
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidiff._version import __version__
from minidiff.errors import UserError
from minidiff.files import write_atomically
from minidiff.images.convert import Pixels
from minidiff.images.files import as_webp, read_image
from minidiff.reports.style import STYLE

PICTURES = 8_000_000  # bytes that all pictures of a page may have together
PICTURE = 250_000  # and one of them; what has more is compressed, and made smaller where that is not enough
FINE = 160  # pixels: a picture below this is enlarged by its pixels, not smoothed
MANY = 50  # entries of a list that are written out
VOID = {"img", "meta", "br"}  # elements without an end


class Html(str):
    """Text that is markup already. What is added to it is escaped unless it is, too."""

    def __add__(self, other: str) -> "Html":
        return Html(str.__add__(self, escaped(other)))


def escaped(child: str | None) -> Html:
    """Any text as markup that shows it; Html as it is; None as nothing."""
    return child if isinstance(child, Html) else Html(html.escape(child or "", quote=True))


def joined(children: Iterable[str | None]) -> Html:
    return Html("".join(map(escaped, children)))


def element(tag: str, /, *children: str | None, **attributes: str | None) -> Html:
    """`<tag attribute="...">children</tag>`, all text escaped. class_ is class; an attribute of None is left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{given}>" + ("" if tag in VOID else f"{joined(children)}</{tag}>"))


# --- the page -----------------------------------------------------------------------------------------------------


def page(title: str, kind: str, head: Html, sections: Sequence[tuple[str, Html]], written: str) -> Html:
    """The whole page. kind: a line below the title; head: what comes before the sections, each a title and its body,
    of which an empty one is left out; written: of when it is, for the last line."""
    sections = [(name, body) for name, body in sections if body]
    ids = {name: name.lower().replace(" ", "-") for name, _ in sections}
    nav = element("nav", *(element("a", name, href=f"#{ids[name]}") for name, _ in sections), aria_label="Contents")
    body = (
        element("header", element("h1", title), element("div", kind, class_="kind"), head, nav),
        element("main", *(element("section", element("h2", name), body, id=ids[name]) for name, body in sections)),
        element("footer", f"Written by minidiff {__version__}. {written}"),
    )
    meta = (
        element("meta", charset="utf-8")
        + element("meta", name="viewport", content="width=device-width, initial-scale=1")
        + element("title", f"{title}: minidiff")
        + Html(f"<style>{STYLE}</style>")
    )
    return Html(f'<!doctype html>\n<html lang="en">\n<head>{meta}</head>\n<body>{joined(body)}</body>\n</html>\n')


def write_page(path: Path, text: Html) -> Path:
    """A page to a file, whole or not at all. Raises UserError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Give another --out.") from None
    return path


# --- words and numbers --------------------------------------------------------------------------------------------


def facts(pairs: dict[str, str]) -> Html:
    """Names and what they are, in two columns; on a phone below one another."""
    return element("dl", *(element("dt", k) + element("dd", v) for k, v in pairs.items() if v), class_="facts")


def tiles(pairs: dict[str, str]) -> Html:
    """A few figures to be seen first: what they are -> how much."""
    return element("div", *(element("div", element("b", v), element("span", k)) for k, v in pairs.items()),
                   class_="tiles")  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str] | Html], align: str, caption: str | None = None) -> Html:
    """A table that scrolls within itself where the screen is narrow.

    rows: the cells of each, the first of which names it; or a whole row as markup, see `row`. align: a letter for each
    column, l or r (numbers).
    """
    made = [line if isinstance(line, Html) else row(line, align) for line in rows]
    titles = [element("th", name, scope="col", class_=CLASS[a]) for name, a in zip(head, align, strict=True)]
    above = element("caption", caption) if caption else ""
    return element(
        "div", element("table", above, element("thead", element("tr", *titles)), element("tbody", *made)), class_="wide"
    )


CLASS = {"l": None, "r": "n", "-": "line"}  # of the letters of `align`


def row(cells: Sequence[str], align: str, class_: str | None = None) -> Html:
    first, *rest = cells
    body = [element("td", cell, class_=CLASS[a]) for cell, a in zip(rest, align[1:], strict=True)]
    return element("tr", element("th", first, scope="row", class_=CLASS[align[0]]), *body, class_=class_)


def duration(seconds: float) -> str:
    """A time in words, two units at most: 8 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 1 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min" + f" {whole % 60} s" * bool(whole % 60)
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float, decimals: int | None = None) -> str:
    """A number to read: with `decimals`, or four digits that say something."""
    if not math.isfinite(value):
        return str(value)
    if decimals is not None:
        text = f"{value:,.{decimals}f}"
    elif value == int(value) and abs(value) < 1e9:
        text = f"{value:,.0f}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return text.replace("-", "−")  # noqa: RUF001


def worded(value: Any) -> str:
    """A setting in words."""
    if value is None or value == {}:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {worded(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MANY} more" * (len(value) > MANY)
        return ", ".join(map(worded, value[:MANY])) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, int | float) else str(value)


# --- pictures -----------------------------------------------------------------------------------------------------


def room_for(count: int) -> int:
    """How many bytes each of so many pictures may have."""
    return min(PICTURE, PICTURES // max(1, count))


def data_uri(path: Path, room: int) -> tuple[str, int, int]:
    """An image file as a URI that holds it, in about `room` bytes; its width and height as it is shown.

    A file that is small enough goes in as it is, to the bit. Any other is compressed as WebP, and halved until it fits.
    Raises UserError when it is no image.
    """
    pixels = read_image(path)
    held, content = "png", path.read_bytes()
    if path.suffix.lower() != ".png" or len(content) > room:
        held, content = "webp", as_webp(pixels, 90)
        if len(content) > room:
            content = as_webp(pixels, 75)
        while len(content) > room and min(pixels.shape[:2]) > 64:
            pixels = halved(pixels)
            content = as_webp(pixels, 75)
    return f"data:image/{held};base64,{base64.b64encode(content).decode()}", pixels.shape[1], pixels.shape[0]


def halved(pixels: Pixels) -> Pixels:
    """uint8 [H,W,3] at half its size, [H//2,W//2,3]: the mean of every four pixels."""
    height, width = (side // 2 for side in pixels.shape[:2])
    blocks = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def figure(path: Path, caption: str, room: int) -> Html:
    """A picture with words below it; in its place the reason, where it cannot be read."""
    try:
        uri, width, height = data_uri(path, room)
    except UserError as error:
        return absent(str(error), caption, bad=True)
    fine = "fine" if max(width, height) < FINE else None
    shown = element("img", src=uri, width=str(width), height=str(height), alt=plain(caption), class_=fine)
    return element("figure", shown, element("figcaption", caption))


def absent(why: str, caption: str, bad: bool = False) -> Html:
    """What stands where a picture would be."""
    return element("figure", element("div", why, class_="absent bad" if bad else "absent"),
                   element("figcaption", caption))  # fmt: skip


def plain(caption: str) -> str:
    """A caption without its markup."""
    return html.unescape(re.sub("<[^>]*>", "", caption)) if isinstance(caption, Html) else caption


def album(pictures: Sequence[Html], size: str = "") -> Html:
    """Pictures side by side, as many as there is room for. size: "", small or large."""
    return element("div", *pictures, class_=f"album {size}".strip()) if pictures else Html("")
