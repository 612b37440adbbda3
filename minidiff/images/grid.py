"""Many images as one picture to look at: grids, names of rows and columns, captions.

Rests on convert, which says what `Pixels` are, and on Pillow for the letters.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minidiff.images.convert import Pixels


def grid(images: Pixels, columns: int | None = None, pad: int = 2) -> Pixels:
    """Lay out uint8 [N,H,W,3] row by row on white: uint8 [H',W',3].

    columns: by default the number that `columns_for` finds; then a single image stays as it is, without a frame. Images
    under 64 pixels are enlarged by a whole factor without smoothing, so that a grid of 32x32 samples can be judged on a
    screen.
    """
    count, height, width, _ = images.shape
    if columns is None and count == 1:
        alone: Pixels = images[0]
        return alone
    columns = min(count, columns or columns_for(count))
    rows = math.ceil(count / columns)
    scale = max(1, 64 // max(height, width))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale + pad, width * scale + pad
    canvas = np.full((rows * height + pad, columns * width + pad, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * height + pad, (index % columns) * width + pad
        canvas[top : top + height - pad, left : left + width - pad] = image
    return canvas


def columns_for(count: int) -> int:
    """Choose how many columns lay out `count` images with the fewest empty places: 8 are two rows of four.

    There are never fewer columns than rows, and at most twice as many and one. Of equally full grids the one nearest to
    a square is taken.
    """
    least = math.ceil(math.sqrt(count))
    fitting = [columns for columns in range(least, count + 1) if columns <= 2 * math.ceil(count / columns) + 1]
    return min(fitting or [count], key=lambda columns: -count % columns)


def cut(picture: Pixels, size: int, pad: int = 2) -> Pixels:
    """Cut a picture that `grid` laid out into its images, uint8 [N,size,size,3]; empty places are white images."""
    if picture.shape[:2] == (size, size):  # one image, which has no frame
        return picture[None]
    scale = max(1, 64 // size)
    side = size * scale + pad
    rows, columns = ((length - pad) // side for length in picture.shape[:2])
    cells = picture[pad : pad + rows * side, pad : pad + columns * side].reshape(rows, side, columns, side, 3)
    shown = cells[:, : side - pad : scale, :, : side - pad : scale]
    images: Pixels = shown.transpose(0, 2, 1, 3, 4).reshape(-1, size, size, 3)
    return images


LEADING = 4  # pixels between the lines that Pillow writes


def label_rows(picture: Pixels, labels: Sequence[str], size: int = 15) -> Pixels:
    """Name the rows of a grid, uint8 [H,W,3], in a margin at its left. All rows have the same height.

    size: of the letters, in pixels. A label may have several lines. If a row is too low for them, the letters are
    smaller; if even letters of 9 pixels do not fit, the last line says how many lines are left out.
    """
    height = picture.shape[0] // len(labels)
    most = max(label.count("\n") + 1 for label in labels)
    size = max(min(size, 9), min(size, height // most - LEADING))
    labels = [first_lines(label, max(2, height // (size + LEADING))) for label in labels]
    font = ImageFont.load_default(size)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [measure.multiline_textbbox((0, 0), label, font=font) for label in labels]
    margin = 2 * size // 3
    width = int(max(box[2] for box in boxes)) + 2 * margin
    canvas = Image.new("RGB", (picture.shape[1] + width, picture.shape[0]), "white")
    canvas.paste(Image.fromarray(picture), (width, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (label, box) in enumerate(zip(labels, boxes, strict=True)):
        middle = (row + 0.5) * picture.shape[0] / len(labels)
        draw.multiline_text((margin, middle - (box[1] + box[3]) / 2), label, fill="black", font=font)
    return np.array(canvas)


def name_columns(picture: Pixels, names: Sequence[str], left: int = 0, size: int = 12) -> Pixels:
    """Name the columns of a grid, uint8 [H,W,3], in a margin above it. All columns have the same width.

    left: where the first column begins, such as the width of a margin that `label_rows` made. size: of the letters, in
    pixels; they are smaller if the longest name is wider than a column, but never under 7.
    """
    width = (picture.shape[1] - left) / len(names)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    longest = max(measure.textlength(name, font=ImageFont.load_default(size)) for name in names)
    font = ImageFont.load_default(max(7, min(size, int(size * width / max(longest, 1)))))
    margin = 3 * size // 2
    canvas = Image.new("RGB", (picture.shape[1], picture.shape[0] + margin), "white")
    canvas.paste(Image.fromarray(picture), (0, margin))
    for column, name in enumerate(names):
        at = (left + (column + 0.5) * width, margin // 2)
        ImageDraw.Draw(canvas).text(at, name, fill="black", font=font, anchor="mm")
    return np.array(canvas)


def first_lines(text: str, count: int) -> str:
    """Shorten a text to `count` lines; the last one says how many are left out."""
    lines = text.split("\n")
    if len(lines) <= count:
        return text
    return "\n".join([*lines[: count - 1], f"and {len(lines) - count + 1} more"])


def captioned(images: Pixels, captions: Sequence[str], columns: int | None = None, size: int = 12) -> Pixels:
    """Lay out uint8 [N,H,W,3] as `grid` does, each with a caption below it: uint8 [H',W',3].

    Cells are wide enough for the captions. size: of the letters, in pixels. A caption may have several lines.
    """
    font = ImageFont.load_default(size)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [measure.multiline_textbbox((0, 0), caption, font=font) for caption in captions]
    scale, pad = max(1, 96 // max(images.shape[1:3])), size // 2
    height, width = images.shape[1] * scale, images.shape[2] * scale
    cell = np.full((len(images), height + int(max(box[3] for box in boxes)) + 2 * pad,
                    max(width, int(max(box[2] for box in boxes))) + pad, 3), 255, np.uint8)  # fmt: skip
    left = (cell.shape[2] - width) // 2
    cell[:, :height, left : left + width] = images.repeat(scale, axis=1).repeat(scale, axis=2)
    for row, (caption, box) in enumerate(zip(captions, boxes, strict=True)):
        canvas = Image.fromarray(cell[row])
        middle = (cell.shape[2] - (box[2] - box[0])) / 2 - box[0]
        at = (middle, height + pad // 2)
        ImageDraw.Draw(canvas).multiline_text(at, caption, fill="black", font=font, align="center")
        cell[row] = np.array(canvas)
    return grid(cell, columns)


def table(images: Pixels, headings: Sequence[Sequence[str]], names: Sequence[str], rows_each: int = 1) -> Pixels:
    """Lay out uint8 [N,H,W,3] with a name beside the rows, and the headings of each sample.

    headings: of every sample, one for each column. If all samples have the same ones, they stand above the columns;
    else below each picture of a sample's first row. rows_each: how many rows a sample has. names: of the rows, from top
    to bottom; each may belong to several rows.
    """
    columns = len(headings[0])
    if any(own != headings[0] for own in headings):
        below = [text for own in headings for text in [*own, *[""] * (columns * (rows_each - 1))]]
        return label_rows(captioned(images, below, columns), names)
    picture = grid(images, columns)
    named = label_rows(picture, names)
    return name_columns(named, headings[0], left=named.shape[1] - picture.shape[1])
