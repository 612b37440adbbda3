"""What a notebook draws: the same pixels, from every form of images."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import minidiff
from minidiff.errors import UserError
from minidiff.images.convert import Pixels, to_float
from minidiff.images.files import read_image
from minidiff.images.grid import grid
from minidiff.images.show import newest_png

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)


def decoded(png: bytes | None) -> Pixels:
    assert png is not None
    return np.array(Image.open(io.BytesIO(png)))


def test_show_draws_the_grid(tmp_path: Path) -> None:
    """From a tensor, an array, a list of batches, a generator; the file is the same picture."""
    expected = grid(IMAGES)
    batches = [to_float(IMAGES[:4]), to_float(IMAGES[4:])]
    for images in (IMAGES, torch.from_numpy(IMAGES), to_float(IMAGES), list(IMAGES), batches, iter(batches)):
        np.testing.assert_array_equal(decoded(minidiff.show(images)._repr_png_()), expected)
    picture = minidiff.show(IMAGES, columns=2, most=3)
    assert repr(picture) == "Picture(the first 3 images, 16x16)"
    picture.save(tmp_path / "grid.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grid.png"), grid(IMAGES[:3], 2))
    grey = minidiff.show(IMAGES[..., 0])
    np.testing.assert_array_equal(grey.pixels, grid(IMAGES[..., :1].repeat(3, 3)))


@pytest.mark.parametrize("images", [[], IMAGES.astype(int), torch.zeros(2, 4, 8, 8), ["x"], 5, [IMAGES, IMAGES[:, :8]]])
def test_what_cannot_be_shown(images: object) -> None:
    with pytest.raises(UserError, match="cannot be shown|no images|different sizes"):
        minidiff.show(images)


def test_a_step_shows_the_predicted_image() -> None:
    """x0, and not the noisy x; in words it gives shapes instead of a page of numbers."""
    step = minidiff.Step(7, torch.zeros(6, 3, 16, 16), to_float(IMAGES))
    np.testing.assert_array_equal(decoded(step._repr_png_()), grid(IMAGES))
    assert repr(step) == "Step(t=7, x=[6, 3, 16, 16], x0=[6, 3, 16, 16])"
    assert minidiff.Step(0, torch.zeros(1, 2), torch.zeros(1, 2))._repr_png_() is None


def test_a_run_shows_its_last_samples(trained: Path, tmp_path: Path) -> None:
    """The grid of its last step; nothing if it has none, or if the file is no picture."""
    run = minidiff.load(trained)
    newest = max((trained / "samples").glob("*.png"))
    assert run._repr_png_() == newest.read_bytes() and repr(run) == f"Run({trained}: ddpm of folder, 16x16)"
    assert newest_png(tmp_path / "nothing") is None and newest_png(tmp_path) is None
    (tmp_path / "1.png").write_text("<script>")
    assert newest_png(tmp_path) is None
