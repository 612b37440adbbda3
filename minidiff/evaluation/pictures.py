"""Sheets of an evaluation's pictures, with the labels that were asked for and the ones that the classifier sees.

Rests on looking (what was seen) and files.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from minidiff.classifier.loss import highest
from minidiff.evaluation.looking import Looked
from minidiff.files import write_atomically

SHOWN = 200  # pictures on a page
ACROSS = 8  # pictures in a row
CELL, LINE, GAP, LETTERS = 96, 12, 8, 19  # pixels: of a picture at least, of a line, between; letters to a line
RIGHT, MISSED, BESIDE = "black", "#c00000", "#c06000"  # also told by - and +, for those who do not see them


def caption(looked: Looked, seed: int, row: int) -> list[tuple[str, str]]:
    """Make the caption of a picture: a line for each label, and its colour.

    A - marks a label that was asked for and missed, a + one that is seen instead or in addition. In an empty picture
    nothing is seen, so there is no +, although some outputs are the k highest there as well.
    """
    logits, asked = looked.logits[seed, row], looked.labels[row].bool()
    among = highest(logits, asked)
    yes = among if looked.one_hot else logits > 0
    lines = []
    for k, name in enumerate(looked.names):
        if asked[k] and among[k] and yes[k]:
            lines.append((name, RIGHT))
        elif asked[k]:
            lines.append((f"- {name}", BESIDE if among[k] else MISSED))
    extra = [k for k in range(len(asked)) if not asked[k] and yes[k]]
    lines += [(f"+ {looked.names[k]}", MISSED if among[k] else BESIDE) for k in extra]
    return [(text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…", colour) for text, colour in lines]


def failures(looked: Looked) -> list[tuple[int, int]]:
    """List the pictures that are not exactly as asked, as (seed, row).

    The ones that lower the score come first, and among them the ones of which the classifier is surest.
    """
    asked = looked.labels.bool().expand(looked.logits.shape)
    among = highest(looked.logits, asked)
    missed = among != asked
    wrong = missed if looked.one_hot else missed | ((looked.logits > 0) != asked)
    certain = (looked.logits.abs() * wrong).amax(dim=2)
    failing = [(seed, row) for seed, row in wrong.any(dim=2).nonzero().tolist()]
    return sorted(failing, key=lambda at: (not missed[at].any(), -certain[at].item()))


def draw_grid(path: Path, looked: Looked) -> None:
    """Draw a picture for each condition, from the first seed; of at most SHOWN conditions, spread evenly."""
    count = len(looked.labels)
    rows = np.linspace(0, count, min(count, SHOWN), endpoint=False).astype(int).tolist()
    cut = f", {len(rows)} of them shown" if len(rows) < count else ""
    title = f"{looked.name}: {count} asked for{cut}; - missed, + seen unasked"
    draw_page(path, looked, [(0, row) for row in rows], title, across(looked.labels[rows]))


def across(labels: Tensor) -> int:
    """Choose how many pictures stand in a row, for pictures of these labels [n,L].

    If each condition comes several times, a row holds whole conditions.
    """
    same = int((labels == labels[0]).all(dim=1).cumprod(dim=0).sum())  # the first one, before another comes
    if same > 20 or len(labels) % same or (labels != labels[::same].repeat_interleave(same, dim=0)).any():
        return ACROSS
    return same * max(1, ACROSS // same)


def draw_failures(path: Path, looked: Looked) -> int:
    """Draw the failures of all seeds, and return their number.

    If there are none, nothing is drawn, and the page of an earlier look is removed.
    """
    failing = failures(looked)
    of = looked.logits.shape[0] * looked.logits.shape[1]
    cut = f", the first {SHOWN}" if len(failing) > SHOWN else ""
    if not failing:
        path.unlink(missing_ok=True)
        return 0
    title = f"{looked.name}: {len(failing)} of {of} not as asked{cut}; - missed, + seen unasked"
    path.parent.mkdir(exist_ok=True)
    draw_page(path, looked, failing[:SHOWN], title)
    return len(failing)


def draw_page(path: Path, looked: Looked, shown: Sequence[tuple[int, int]], title: str, columns: int = ACROSS) -> None:
    """Draw pictures, given as (seed, row), each with its caption, and with a frame in the colour of its worst line."""
    from matplotlib.figure import Figure

    captions = [caption(looked, *at) for at in shown]
    scale = max(1, -(-CELL // max(looked.images.shape[2:4])))
    height, width = scale * looked.images.shape[2], scale * looked.images.shape[3]
    aside, down = max(width, CELL) + GAP, height + LINE * max(map(len, captions)) + 2 * GAP
    rows = -(-len(shown) // columns)
    top, wide = 2 * LINE + GAP, max(6, min(columns, len(shown)))  # room for the title
    sheet = np.full((top + rows * down, wide * aside + GAP, 3), 255, np.uint8)
    figure = Figure(figsize=(sheet.shape[1] / 100, sheet.shape[0] / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for number, ((seed, row), lines) in enumerate(zip(shown, captions, strict=True)):
        y, x = top + number // columns * down, GAP + number % columns * aside
        sheet[y : y + height, x : x + width] = looked.images[seed, row].repeat(scale, 0).repeat(scale, 1)
        worst = next((colour for colour in (MISSED, BESIDE) if colour in [line[1] for line in lines]), None)
        if worst:
            axes.plot([x - 2, x + width + 1, x + width + 1, x - 2, x - 2],
                      [y - 2, y - 2, y + height + 1, y + height + 1, y - 2], color=worst, linewidth=2)  # fmt: skip
        for place, (text, colour) in enumerate(lines):
            axes.text(x, y + height + (place + 1) * LINE, text, fontsize=7, color=colour, parse_math=False)
    axes.text(GAP, 1.4 * LINE, title, fontsize=8, parse_math=False)
    axes.imshow(sheet, interpolation="none")
    axes.set(xlim=(-0.5, sheet.shape[1] - 0.5), ylim=(sheet.shape[0] - 0.5, -0.5))
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
