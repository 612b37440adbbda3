"""What a JPEG file says, against Pillow: the numbers that are read must make the pixels that its decoder makes."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from minidiff.diffusion.jpeg import cosines
from minidiff.errors import UserError
from minidiff.images.jpeg import JpegFile, Plane, read_jpeg

Bytes = NDArray[np.uint8]


def picture(height: int, width: int) -> Bytes:
    """A picture with slopes, edges, noise, and corners of pure black and white."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    x = np.stack([2 * rows + columns, 255 - 3 * columns, 40 * ((rows // 5 + columns // 7) % 4)], axis=-1)
    x = x + random.normal(0, 20, x.shape)
    x[: height // 3, : width // 3], x[-height // 4 :, -width // 4 :] = 255, 0
    return x.clip(0, 255).astype(np.uint8)


def saved(path: Path, pixels: Bytes, mode: str = "RGB", **options: object) -> Path:
    Image.fromarray(pixels).convert(mode).save(path, "JPEG", **options)
    return path


def decoded(plane: Plane) -> Bytes:
    """The pixels of a channel, up to whole blocks."""
    C = cosines().numpy()
    blocks = C.T @ (plane.numbers * plane.steps) @ C + 128
    rows, columns = blocks.shape[:2]
    return blocks.transpose(0, 2, 1, 3).reshape(8 * rows, 8 * columns).round().clip(0, 255).astype(np.uint8)


def by_pillow(path: Path, scale: int = 1) -> Bytes:
    """The channels of a file as they are, [H,W,C]; at scale 2 colours that are stored at half size are not enlarged."""
    with Image.open(path) as file:
        if file.mode == "RGB":
            file.draft("YCbCr", (file.width // scale, file.height // scale))
        return np.array(file).reshape(file.height, file.width, -1)


def differences(file: JpegFile, channel: int, theirs: Bytes) -> int:
    ours = decoded(file.planes[channel])[: theirs.shape[0], : theirs.shape[1]]
    return int(np.abs(ours.astype(int) - theirs).max())


@pytest.mark.parametrize(
    "quality, options, size",
    [
        (5, {}, (32, 48)),
        (98, {}, (37, 50)),
        (60, {"progressive": True}, (33, 17)),
        (98, {"progressive": True}, (37, 50)),
        (60, {"restart_marker_blocks": 3}, (37, 50)),
        (60, {"restart_marker_rows": 1, "progressive": True}, (40, 24)),
        (60, {}, (1, 1)),
    ],
)
def test_the_numbers_make_the_pixels_that_pillow_decodes(
    quality: int, options: dict[str, object], size: tuple[int, int], tmp_path: Path
) -> None:
    """Within the 1 by which decoders may differ, for every way of storing colours, at any size; grey, too.

    Fails when one refining scan is left out, a restart is overlooked, or the zigzag is turned (by 20 and more).
    """
    pixels = picture(*size)
    for subsampling in (0, 1, 2):
        path = saved(tmp_path / "a.jpg", pixels, quality=quality, subsampling=subsampling, **options)
        file = read_jpeg(path)
        assert (file.height, file.width, file.colours, file.orientation) == (*size, "YCbCr", 1)
        assert [(plane.down, plane.across) for plane in file.planes[1:]] == [(1, 1)] * 2
        assert (file.planes[0].down, file.planes[0].across) == ((1, 1), (1, 2), (2, 2))[subsampling]
        for channel in range(3 if subsampling == 0 else 1):
            assert differences(file, channel, by_pillow(path)[..., channel]) <= 1
        if subsampling == 2 and min(size) > 1:
            for channel in (1, 2):
                assert differences(file, channel, by_pillow(path, 2)[..., channel]) <= 1
    grey = saved(tmp_path / "g.jpg", pixels, "L", quality=quality, **options)
    file = read_jpeg(grey)
    assert file.colours == "grey" and len(file.planes) == 1
    assert differences(file, 0, by_pillow(grey)[..., 0]) <= 1


def test_the_steps_are_those_of_the_tables(tmp_path: Path) -> None:
    """Told in a row that rises: Pillow takes and gives tables in rows, and the file has them in zigzag."""
    tables = [list(range(1, 65)), list(range(65, 129))]
    path = saved(tmp_path / "a.jpg", picture(16, 16), qtables=tables)
    first, second, third = read_jpeg(path).planes
    np.testing.assert_array_equal(first.steps, np.arange(1, 65).reshape(8, 8))
    np.testing.assert_array_equal(second.steps, np.arange(65, 129).reshape(8, 8))
    np.testing.assert_array_equal(third.steps, second.steps)


def test_colours_and_orientation_are_as_the_file_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_jpeg(saved(tmp_path / "a.jpg", picture(16, 24), exif=exif)).orientation == 6
    path = saved(tmp_path / "b.jpg", picture(16, 24), keep_rgb=True, quality=90)
    file = read_jpeg(path)
    assert file.colours == "RGB"
    with Image.open(path) as image:
        for channel in range(3):
            assert differences(file, channel, np.array(image)[..., channel]) <= 1


def test_what_is_no_plain_jpeg_is_refused(tmp_path: Path) -> None:
    Image.fromarray(picture(8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="is a PNG file, which does not say how it was compressed"):
        read_jpeg(tmp_path / "a.png")
    with pytest.raises(UserError, match="in CMYK"):
        read_jpeg(saved(tmp_path / "c.jpg", picture(8, 8), "CMYK"))
    with pytest.raises(UserError, match="no such image file"):
        read_jpeg(tmp_path / "none.jpg")
    whole = saved(tmp_path / "w.jpg", picture(64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_jpeg(tmp_path / "cut.jpg")


def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """Bytes are replaced at random: no other error than UserError, and no endless loop."""
    random = np.random.default_rng(1)
    refused = 0
    for progressive in (False, True):
        data = io.BytesIO()
        Image.fromarray(picture(24, 24)).save(data, "JPEG", progressive=progressive)
        for _ in range(20):
            broken = bytearray(data.getvalue())
            for _ in range(4):
                broken[random.integers(2, len(broken))] = random.integers(256)
            (tmp_path / "d.jpg").write_bytes(broken)
            try:
                read_jpeg(tmp_path / "d.jpg")
            except UserError:
                refused += 1
    assert refused > 3


def test_the_dct_is_orthonormal() -> None:
    C = cosines()
    assert torch.allclose(C @ C.T, torch.eye(8).double(), atol=1e-12)
