"""The pictures of a DDPM's training: what its averaged weights draw at this moment, as one sheet.

Rests on run and images. They are always drawn from the same noise, so that two sheets of a training can be compared.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidiff.data.conditions import labels_in_words, multi_hot
from minidiff.data.image_data import ImageData
from minidiff.ddpm.request import FROM_INIT, FROM_NOISE
from minidiff.ddpm.run import Run
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.grid import grid, label_rows, name_columns

IMAGES = 36
ROWS, COLUMNS = 6, 6  # of a conditional run: conditions, and images of each
SHARES = (1 / 8, 1 / 3, 1)  # of the timesteps of a run that can only finish images: where the sheet starts


def count_passes(run: Run, rows: Sequence[Sequence[int]]) -> int:
    """Count how many images go through the network for a sheet. rows: the conditions, of a conditional run."""
    if run.trained_below is None:
        return (len(rows) * COLUMNS or IMAGES) * run.calls([0], sampler=FROM_NOISE)
    return ROWS * sum(len(run.timesteps(FROM_INIT, start_t=t)) for t in starts(run.trained_below))


def starts(trained_below: int) -> list[int]:
    """Choose the timesteps that a sheet of finished images starts from."""
    return [max(1, round(share * trained_below)) - 1 for share in SHARES]


def draw_samples(run: Run, rows: Sequence[Sequence[int]], seed: int, batch_size: int) -> tuple[Pixels, Pixels]:
    """Draw from noise, as `minidiff sample` does. A conditional run has a named row for each of a few conditions.

    Returns the sheet, uint8 [H,W,3], and its samples, uint8 [N,h,w,3].
    """
    options: dict[str, Any] = {"seed": seed, "sampler": FROM_NOISE}
    count = len(rows) * COLUMNS or IMAGES
    if rows:
        options["labels"] = multi_hot(rows, len(run.label_names)).repeat_interleave(COLUMNS, dim=0)
    images = to_uint8(run.draw(range(count), batch_size=batch_size, **options))
    picture = grid(images, COLUMNS if rows else None)
    if rows:
        picture = label_rows(picture, [labels_in_words(row, run.label_names, "\n") for row in rows])
    return picture, images


def draw_finished(run: Run, data: ImageData, seed: int, batch_size: int) -> tuple[Pixels, Pixels]:
    """Add the noise of three timesteps to a few training images, and let the run finish them: a row for each image.

    It is for a run that is trained for small noise only. Returns what `draw_samples` does.
    """
    assert run.trained_below is not None
    clean = to_float(np.array(data.images[: min(ROWS, len(data))]))
    columns, names, finished = [to_uint8(clean)], ["image"], []
    for t in starts(run.trained_below):
        rows = range(len(clean))
        options: dict[str, Any] = {"seed": seed, "sampler": FROM_INIT, "init": clean, "start_t": t}
        x, _ = run.start(rows, **options)
        (level,) = run.schedule.levels([t])
        finished.append(to_uint8(run.draw(rows, batch_size=batch_size, **options)))
        columns += [to_uint8(x / level.signal), finished[-1]]
        names += [f"noise of t = {t}", "finished"]
    sheet = grid(np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:]), len(columns))
    return name_columns(sheet, names), np.concatenate(finished)
