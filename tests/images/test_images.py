"""Images at the edge: conversions are exact, files are read upright, a broken one is one line."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff.errors import UserError
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import crop_resize, free_name, read_image, squeeze, write_image
from minidiff.images.grid import columns_for, cut, grid, name_columns


def ramp(height: int = 16, width: int = 16) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y * 255 // height, x * 255 // width, (x + y) * 127 // height], axis=2).astype(np.uint8)


def test_every_byte_survives_the_round_trip() -> None:
    """All 256 values, there and back: fails on truncation instead of rounding, or a scale of 256."""
    images = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    x = to_float(images)
    assert x.shape == (1, 3, 16, 16) and x.dtype == torch.float32
    assert x.min() == -1 and x.max() == 1
    assert (to_uint8(x) == images).all()


def test_to_uint8_clips_and_repeats_grey() -> None:
    x = torch.tensor([-3.0, 0.0, 3.0]).reshape(1, 1, 1, 3)
    assert to_uint8(x).tolist() == [[[[0] * 3, [128] * 3, [255] * 3]]]


@pytest.mark.parametrize("wrong", [torch.zeros(1, 3, 4, 4), np.zeros((4, 4, 3), np.uint8)])
def test_to_float_refuses_other_forms(wrong: object) -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_float(wrong)  # type: ignore[arg-type]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    """Orientation 6: the camera was turned, the first row of the file is the right column of the picture."""
    image = Image.fromarray(ramp(8, 12))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert (read_image(tmp_path / "turned.png") == np.rot90(ramp(8, 12), 3)).all()


def test_modes_are_all_read_as_colour(tmp_path: Path) -> None:
    """Grey, palette, 16 bit at full scale, and transparency over white."""
    grey = Image.fromarray(ramp()[..., 0])
    grey.save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == ramp()[..., :1].repeat(3, 2)).all()
    assert read_image(tmp_path / "grey.png", channels=1).shape == (16, 16, 1)

    Image.fromarray(ramp()).quantize(256).save(tmp_path / "palette.png")
    assert np.abs(read_image(tmp_path / "palette.png").astype(int) - ramp()).mean() < 12

    deep = np.array([[0, 257, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 255]

    clear = np.zeros((1, 2, 4), np.uint8)
    clear[0, 1] = 0, 0, 0, 255
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png")[0].tolist() == [[255] * 3, [0] * 3]


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:2000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut", "empty", "text"):
        with pytest.raises(UserError, match=rf"{name}.png is not a readable image") as caught:
            read_image(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such image file"):
        read_image(tmp_path / "absent.png")


def test_crop_resize_takes_the_centre() -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    assert (crop_resize(wide, 8) == 200).all()
    assert crop_resize(wide[..., :1], 4).shape == (4, 4, 1)
    chess = np.indices((64, 64)).sum(0) % 2 * 255
    small = crop_resize(chess.astype(np.uint8)[..., None].repeat(3, 2), 16)
    assert np.abs(small.astype(int) - 127).max() <= 20  # antialiased: grey, not black and white


def test_squeeze_keeps_all_of_the_image() -> None:
    """Both edges of a wide image are there, each at its place, where the centre square has neither."""
    wide = np.zeros((24, 32, 3), np.uint8)
    wide[:, :4], wide[:, -4:] = 200, 100
    small = squeeze(wide, 8)
    assert small.shape == (8, 8, 3) and small[4, 0, 0] > 150 and 75 < small[4, 7, 0] < 125 and small[4, 4, 0] == 0
    assert (crop_resize(wide, 24)[:, [0, -1]] == 0).all()
    assert squeeze(wide[..., :1], 4).shape == (4, 4, 1)
    assert (squeeze(wide[:, 4:28], 24) == wide[:, 4:28]).all()


def test_grid_places_every_image() -> None:
    images = np.stack([np.full((64, 64, 3), 10 * k, np.uint8) for k in range(5)])
    sheet = grid(images, columns=3)
    assert sheet.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    assert [sheet[2 + 66 * (k // 3) + 30, 2 + 66 * (k % 3) + 30, 0] for k in range(5)] == [0, 10, 20, 30, 40]
    assert grid(images[:, :32, :32]).shape[0] == 2 * 66 + 2  # 32x32 is shown twice as large


@pytest.mark.parametrize(
    ("count", "columns"),
    [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 3), (7, 4), (8, 4), (9, 3), (10, 5), (12, 4), (14, 5), (16, 4),
     (18, 6), (24, 6), (32, 8), (36, 6), (50, 10), (64, 8), (100, 10), (256, 16)],
)  # fmt: skip
def test_a_grid_is_full_where_it_can_be_and_never_a_ribbon(count: int, columns: int) -> None:
    """Eight are two rows of four, not 3, 3 and 2; seven are 4 and 3, not 3, 3 and 1."""
    assert columns_for(count) == columns


def test_a_single_image_is_itself() -> None:
    """In its own size, without a frame; and it can be cut again. With columns asked for it is a grid."""
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(grid(image), image[0]) and np.array_equal(cut(grid(image), 8), image)
    assert grid(image, columns=1).shape == (68, 68, 3)


def test_columns_are_named_above() -> None:
    """Right above each column, after a margin; the picture is not touched, and long names fit."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 130, 3), dtype=np.uint8)
    named = name_columns(picture, ["t = 999", "", "t = 0"], left=10)
    assert np.array_equal(named[-40:], picture)
    above = named[:-40, 10:]
    assert [(part < 128).any() for part in np.array_split(above, 3, axis=1)] == [True, False, True]
    assert (named[:-40, :10] == 255).all()
    crowded = name_columns(picture, ["a very long name", ""])
    assert (crowded[:-40, 65:] == 255).all(), "a name runs into the next column"


def test_write_image_names_the_suffix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Try picture.png"):
        write_image(tmp_path / "picture", ramp())


def test_free_name(tmp_path: Path) -> None:
    for expected in ("a.png", "a-2.png", "a-3.png"):
        assert free_name(tmp_path / "a.png").name == expected
        (tmp_path / expected).touch()
