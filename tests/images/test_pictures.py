"""A user's own picture goes through a file and back without a loss: pixels, alpha, profile, EXIF data, resolution."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, PngImagePlugin
from torchvision.io import ImageReadMode, decode_image

from minidiff.errors import UserError
from minidiff.images import sixteen_bits
from minidiff.images.convert import grey_like, to_float, to_uint16
from minidiff.images.pictures import Picture, read_picture, write_picture

ORIENTATION = ExifTags.Base.Orientation


def noise(*shape: int, bits: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**bits, shape, dtype=np.uint8 if bits == 8 else np.uint16)


@pytest.fixture(scope="module")
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def camera(orientation: int = 1) -> Image.Exif:
    """EXIF data as a camera writes them: its name, an orientation, the date, an exposure and a place."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ORIENTATION] = "Maker", orientation
    exif[ExifTags.Base.Copyright] = "© Müller".encode()  # outside of the standard, and in most cameras
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    details[ExifTags.Base.ExposureTime] = 0.01
    details[ExifTags.Base.MakerNote], details[ExifTags.IFD.Interop] = b"\0\1\2" * 40, {1: "R98", 2: b"0100"}
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = 7, 5
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (51.0, 30.0, 12.5)})
    return exif


def opened_exif(data: bytes | None) -> Image.Exif:
    assert data is not None
    exif = Image.Exif()
    exif.load(data)
    return exif


def assert_equal(a: Picture, b: Picture) -> None:
    assert a.pixels.dtype == b.pixels.dtype and np.array_equal(a.pixels, b.pixels)
    assert (a.alpha is None) == (b.alpha is None)
    if a.alpha is not None and b.alpha is not None:
        assert a.alpha.dtype == b.alpha.dtype and np.array_equal(a.alpha, b.alpha)
    assert a.icc == b.icc and a.exif == b.exif and a.dpi == b.dpi


def test_all_values_of_16_bits_survive_the_round_trip() -> None:
    """65,536 values, there and back, -1 and 1 at the ends. Fails on a scale of 32768, or on truncation."""
    images = np.arange(65536, dtype=np.uint16).reshape(1, 64, 1024, 1)
    x = to_float(images)
    assert x.shape == (1, 1, 64, 1024) and x.min() == -1 and x.max() == 1
    assert np.array_equal(to_uint16(x), images)
    assert to_uint16(torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 1, 1, 3)).ravel().tolist() == [0, 32768, 65535]


# --- written by others, read here ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "name", "channels", "alpha"),
    [("L", "a.png", 1, False), ("RGB", "a.png", 3, False), ("LA", "a.png", 1, True), ("RGBA", "a.png", 3, True),
     ("L", "a.tif", 1, False), ("RGB", "a.tif", 3, False), ("LA", "a.tif", 1, True), ("RGBA", "a.tif", 3, True),
     ("RGB", "a.bmp", 3, False), ("RGBA", "a.webp", 3, True)],
)  # fmt: skip
def test_pictures_of_eight_bits(mode: str, name: str, channels: int, alpha: bool, tmp_path: Path) -> None:
    values = noise(9, 7, channels + alpha)
    if name == "a.webp":
        values[..., 3] = 255 - values[..., 3] // 2  # WebP changes colours that nobody sees
    Image.fromarray(values[..., 0] if mode == "L" else values).save(
        tmp_path / name, **({"lossless": True} if name == "a.webp" else {})
    )
    found = read_picture(tmp_path / name)
    assert found.pixels.dtype == np.uint8 and np.array_equal(found.pixels, values[..., :channels])
    assert (found.alpha is not None) == alpha
    if alpha:
        assert np.array_equal(found.alpha, values[..., -1])
    assert found.icc is None and found.exif is None and not found.notes


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png_of(values: np.ndarray, path: Path, key: tuple[int, ...] = (), interlaced: bool = False) -> None:
    """Write uint16 [H,W,1 to 4] as a PNG without filters, from the specification. key: the transparent colour."""
    height, width, channels = values.shape
    passes = [values[y::dy, x::dx] for x, y, dx, dy in (ADAM7 if interlaced else [(0, 0, 1, 1)])]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for each in passes if each.size for row in each)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        PngImagePlugin.putchunk(file, b"IHDR", header)
        if key:
            PngImagePlugin.putchunk(file, b"tRNS", struct.pack(f">{len(key)}H", *key))
        PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(rows))
        PngImagePlugin.putchunk(file, b"IEND")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_key_of_sixteen_bits_and_interlaced_rows(channels: int, tmp_path: Path) -> None:
    """One pixel is transparent, where all 16 bits of all channels are those of the key."""
    values = noise(19, 23, channels, bits=16)
    values[3, 4] = values[2, 3] ^ 1
    png_of(values, tmp_path / "a.png", tuple(values[2, 3].tolist()), interlaced=True)
    found = read_picture(tmp_path / "a.png")
    assert np.array_equal(found.pixels, values) and found.alpha is not None
    assert found.alpha[2, 3] == 0 and (found.alpha == 65535).sum() == 19 * 23 - 1


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_of_sixteen_bits(channels: int, tmp_path: Path) -> None:
    """All 16 bits, as libpng reads them, too (by torchvision). Fails when the lower byte is lost, as Pillow does."""
    values = noise(9, 7, channels, bits=16)
    png_of(values, tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    colours = channels - 1 + channels % 2
    assert found.pixels.dtype == np.uint16 and np.array_equal(found.pixels, values[..., :colours])
    if channels == colours:
        assert found.alpha is None
    else:
        assert np.array_equal(found.alpha, values[..., -1])
    write_picture(tmp_path / "b.png", found)
    theirs = decode_image(
        torch.tensor(list((tmp_path / "b.png").read_bytes()), dtype=torch.uint8), ImageReadMode.UNCHANGED
    )
    assert np.array_equal(theirs.permute(1, 2, 0).numpy(), values)
    assert_equal(read_picture(tmp_path / "b.png"), found)


TIFFS: list[dict[str, Any]] = [
    {}, {"byteorder": ">"}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True, "byteorder": ">"},
    {"tile": (16, 16)}, {"compression": "zlib", "tile": (16, 16)}, {"rowsperstrip": 5},
]  # fmt: skip


@pytest.mark.parametrize("options", TIFFS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_tiff_of_sixteen_bits(channels: int, options: dict[str, Any], tmp_path: Path) -> None:
    """Written by tifffile in several forms. Fails when one byte order is taken for the other."""
    values = noise(40, 35, channels, bits=16)
    kind: dict[str, Any] = {"photometric": "rgb" if channels > 1 else "minisblack"}
    if channels == 4:
        kind["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(tmp_path / "a.tif", values if channels > 1 else values[..., 0], **kind, **options)
    found = read_picture(tmp_path / "a.tif")
    assert found.pixels.dtype == np.uint16 and np.array_equal(found.pixels, values[..., :3])
    if channels == 4:
        assert np.array_equal(found.alpha, values[..., 3])
    write_picture(tmp_path / "b.tif", found)
    assert_equal(read_picture(tmp_path / "b.tif"), found)
    if channels == 1:
        with Image.open(tmp_path / "b.tif") as file:
            assert np.array_equal(np.asarray(file), values[..., 0])


def test_what_is_white_at_zero(tmp_path: Path) -> None:
    values = noise(9, 7, bits=16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    assert np.array_equal(read_picture(tmp_path / "a.tif").pixels[..., 0], 65535 - values)


@pytest.mark.parametrize("values", [noise(5, 7, 3), noise(5, 7, 1, bits=16)[..., 0]], ids=["colour", "deep grey"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations(orientation: int, values: np.ndarray, tmp_path: Path) -> None:
    """Upright by hand, as EXIF 2.3 says where row 0 and column 0 of the file are; then the tag is 1."""
    turns = {
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1), 6: lambda x: x[::-1].swapaxes(0, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1), 8: lambda x: x[:, ::-1].swapaxes(0, 1),
    }  # fmt: skip
    Image.fromarray(values).save(tmp_path / "a.png", exif=camera(orientation))
    found = read_picture(tmp_path / "a.png")
    upright = turns[orientation](values)
    assert np.array_equal(found.pixels, upright.reshape(*upright.shape[:2], -1))
    exif = opened_exif(found.exif)
    assert exif[ORIENTATION] == 1
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert (details[ExifTags.Base.ExifImageHeight], details[ExifTags.Base.ExifImageWidth]) == upright.shape[:2]


def test_deep_colour_is_turned_as_a_whole(tmp_path: Path) -> None:
    """Both decodes of a 16-bit picture are turned, and the TIFF that is written says upright."""
    values = noise(6, 4, 3, bits=16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    found = read_picture(tmp_path / "a.tif")
    assert np.array_equal(found.pixels, values[::-1].swapaxes(0, 1)) and opened_exif(found.exif)[ORIENTATION] == 1


def test_palettes_bits_and_keys(tmp_path: Path) -> None:
    """Palettes are looked up, grey if they are grey; one bit is 0 or 255; the key colour of a PNG is alpha 0."""
    indices = noise(8, 8) % 4
    coloured = Image.frombytes("P", (8, 8), indices.tobytes())
    coloured.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 100, 0])
    coloured.save(tmp_path / "a.png")
    table = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [200, 100, 0]])
    assert np.array_equal(read_picture(tmp_path / "a.png").pixels, table[indices])
    coloured.save(tmp_path / "b.png", transparency=bytes([0, 128, 255, 7]))
    assert np.array_equal(read_picture(tmp_path / "b.png").alpha, np.array([0, 128, 255, 7])[indices])
    greys = Image.frombytes("P", (8, 8), indices.tobytes())
    greys.putpalette([value for value in (3, 90, 91, 250) for _ in range(3)])
    greys.save(tmp_path / "c.png")
    found = read_picture(tmp_path / "c.png")
    assert np.array_equal(found.pixels[..., 0], np.array([3, 90, 91, 250])[indices]) and found.pixels.shape[2] == 1

    Image.fromarray(indices > 1).save(tmp_path / "d.png")
    assert np.array_equal(read_picture(tmp_path / "d.png").pixels[..., 0], np.where(indices > 1, 255, 0))
    values = noise(8, 8, 3)
    Image.fromarray(values).save(tmp_path / "e.png", transparency=tuple(values[2, 3].tolist()))
    alpha = read_picture(tmp_path / "e.png").alpha
    assert alpha is not None and alpha[2, 3] == 0 and alpha.sum() == 63 * 255


def test_cmyk_and_lab_become_rgb_with_a_note(tmp_path: Path, profile: bytes) -> None:
    ink = noise(8, 8, 4)
    ink[..., 3] = 0
    Image.frombytes("CMYK", (8, 8), ink.tobytes()).save(tmp_path / "a.tif", icc_profile=profile)
    found = read_picture(tmp_path / "a.tif")
    assert np.array_equal(found.pixels, 255 - ink[..., :3]) and found.icc is None  # that profile is none for CMYK
    assert len(found.notes) == 1 and "CMYK" in found.notes[0]
    rgb = Image.new("RGB", (4, 4), (200, 120, 40))
    lab = ImageCms.profileToProfile(
        rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    lab.save(tmp_path / "b.tif")
    found = read_picture(tmp_path / "b.tif")
    assert np.abs(found.pixels.astype(int) - (200, 120, 40)).max() <= 3 and "Lab" in found.notes[0]


def test_the_first_of_several_pictures(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (50, 150, 250)]
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        found = read_picture(tmp_path / name)
        assert np.abs(found.pixels.astype(int) - 50).max() <= 2 and "the first is taken" in found.notes[0], name


def test_grey_that_is_stored_in_colour() -> None:
    """What is made of it is grey, too, with any depth; of a picture with a colour it keeps its colours."""
    made = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for grey in (noise(8, 8, 1), noise(8, 8, 1).repeat(3, 2), 257 * noise(8, 8, 1).repeat(3, 2).astype(np.uint16)):
        answer = grey_like(Picture(grey).as_float()[None], made)
        assert answer.shape == made.shape and torch.equal(answer, made.mean(1, keepdim=True).expand_as(made))
    grey[0, 0, 1] ^= 1
    assert torch.equal(grey_like(Picture(grey).as_float()[None], made), made)


def test_a_picture_as_it_is_seen() -> None:
    """Grey in three channels, and 16 bits rounded to 8."""
    grey = noise(8, 8, 1) // 2
    for picture in (Picture(grey), Picture(257 * grey.astype(np.uint16) + 100)):
        np.testing.assert_array_equal(picture.as_seen(), grey.repeat(3, 2))


# --- there and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(("channels", "alpha"), [(1, False), (3, False), (1, True), (3, True)])
def test_a_round_trip_keeps_every_field(
    channels: int, alpha: bool, name: str, bits: int, tmp_path: Path, profile: bytes
) -> None:
    """What a camera's JPEG has beside its pixels, in a PNG and a TIFF of every depth and number of channels."""
    Image.fromarray(noise(5, 7, 3)).save(tmp_path / "camera.jpg", exif=camera(6), dpi=(300, 301), icc_profile=profile)
    taken = read_picture(tmp_path / "camera.jpg")
    assert taken.icc == profile and taken.dpi == (300, 301) and not taken.notes
    picture = Picture(
        noise(7, 5, channels, bits=bits),
        noise(7, 5, bits=bits) if alpha else None,
        profile,
        taken.exif,
        (299.9994, 72.0),
    )
    if bits == 16 and alpha and channels == 1 and name == "a.tif":
        with pytest.raises(UserError, match=r"few programs.*Try a\.png"):
            write_picture(tmp_path / name, picture)
        return
    write_picture(tmp_path / name, picture)
    first = read_picture(tmp_path / name)
    assert np.array_equal(first.pixels, picture.pixels) and first.icc == profile
    assert first.dpi == pytest.approx(picture.dpi, abs=0.02)
    details = opened_exif(first.exif).get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09" and details[33434] == 0.01
    assert opened_exif(first.exif).get_ifd(ExifTags.IFD.GPSInfo)[2] == (51.0, 30.0, 12.5)
    assert opened_exif(first.exif)[ExifTags.Base.Make] == "Maker"
    assert opened_exif(first.exif)[ExifTags.Base.Copyright].encode("latin-1").decode() == "© Müller"
    assert opened_exif(first.exif).get_ifd(ExifTags.IFD.Interop)[1] == "R98" and details[37500] == b"\0\1\2" * 40
    assert first.exif == taken.exif
    write_picture(tmp_path / f"again-{name}", first)
    assert_equal(read_picture(tmp_path / f"again-{name}"), first)
    with Image.open(tmp_path / name) as file:
        assert file.info["icc_profile"] == profile


def test_a_large_picture_is_written_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose last one is lower; and tifffile reads our TIFF. Fails when a strip begins without the row above it."""
    monkeypatch.setattr(sixteen_bits, "STRIP", 300)
    for bits in (8, 16):
        values = noise(50, 40, 3, bits=bits)
        for name in ("a.png", "a.tif"):
            write_picture(tmp_path / name, Picture(values))
            assert np.array_equal(read_picture(tmp_path / name).pixels, values)
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            assert len(file.pages[0].dataoffsets) == 8 and np.array_equal(file.asarray(), values)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_and_webp(channels: int, bits: int, tmp_path: Path, profile: bytes) -> None:
    """Eight bits, near the picture, with what is beside it; JPEG in grey stays grey and has colours at every pixel."""
    ramp = np.linspace(0, 2**bits - 1, 64).round().astype(np.uint16 if bits == 16 else np.uint8)
    picture = Picture(
        np.broadcast_to(ramp[:, None, None], (64, 48, channels)).copy(), None, profile, camera().tobytes(), (300, 300)
    )
    for name in ("a.jpg", "a.webp"):
        write_picture(tmp_path / name, picture)
        found = read_picture(tmp_path / name)
        near = picture.pixels / (257 if bits == 16 else 1)
        assert found.pixels.dtype == np.uint8 and np.abs(found.pixels - near).max() <= 4
        assert found.icc == profile and opened_exif(found.exif)[ExifTags.Base.Make] == "Maker"
    jpeg = read_picture(tmp_path / "a.jpg")
    assert jpeg.pixels.shape[2] == channels and jpeg.dpi == (300, 300)
    with Image.open(tmp_path / "a.jpg") as file:
        assert [layer[1:3] for layer in file.layer] == [(1, 1)] * channels  # type: ignore[attr-defined]


def test_transparent_webp_keeps_the_colours_below(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64)[:, None, None], (64, 48, 3)).astype(np.uint8)
    write_picture(tmp_path / "a.webp", Picture(ramp, np.zeros((64, 48), np.uint8)))
    found = read_picture(tmp_path / "a.webp")
    assert found.alpha is not None and not found.alpha.any() and np.abs(found.pixels.astype(int) - ramp).max() <= 4


def test_new_pixels_take_the_depth_of_the_picture() -> None:
    """Rounded at 8 and at 16 bits; alpha and the rest stay. Another size scales alpha; three channels become grey."""
    rest: dict[str, Any] = {"icc": b"p", "exif": camera().tobytes(), "dpi": (72.0, 72.0), "notes": ("n",)}
    for bits in (8, 16):
        for channels in (1, 3):
            picture = Picture(noise(6, 4, channels, bits=bits), noise(6, 4, bits=bits), **rest)
            same = picture.with_pixels(picture.as_float())
            assert np.array_equal(same.pixels, picture.pixels) and same.pixels.dtype == picture.pixels.dtype
            assert np.array_equal(same.alpha, picture.alpha)
            assert (same.icc, same.dpi, same.notes) == (b"p", (72.0, 72.0), ("n",))
            assert opened_exif(same.exif)[ExifTags.Base.Make] == "Maker"
            if channels == 1:
                spread = picture.as_float() + torch.tensor([-0.1, 0.0, 0.1])[:, None, None]
                assert np.array_equal(picture.with_pixels(spread).pixels, picture.pixels)
            else:
                with pytest.raises(ValueError, match="with_pixels"):
                    picture.with_pixels(picture.as_float()[:1])
    half = Picture(noise(6, 4, 3), np.full((6, 4), 200, np.uint8), exif=camera().tobytes())
    larger = half.with_pixels(torch.full((3, 12, 8), 2.0))
    assert larger.pixels.shape == (12, 8, 3) and (larger.pixels == 255).all() and (larger.alpha == 200).all()
    assert opened_exif(larger.exif).get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == 8


# --- what cannot be ------------------------------------------------------------------------------------------------


def test_what_cannot_be_written(tmp_path: Path) -> None:
    """One line that names what can; and what lay there is as it was."""
    clear = Picture(noise(8, 8, 3), noise(8, 8))
    (tmp_path / "a.jpg").write_text("before")
    with pytest.raises(UserError, match=r"a JPEG has no transparency. Try a\.png"):
        write_picture(tmp_path / "a.jpg", clear)
    with pytest.raises(UserError, match=r"\.png, \.tif.*Try a\.png"):
        write_picture(tmp_path / "a.gif", clear)
    with pytest.raises(UserError, match=r"cannot hold the picture.*Try a\.png"):
        write_picture(tmp_path / "a.jpg", Picture(np.zeros((1, 70_000, 3), np.uint8)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"] and (tmp_path / "a.jpg").read_text() == "before"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """16 bits of which 8 would be lost, floats, and the usual damages: each is one line with the name of the file."""
    values = noise(9, 7, 4, bits=16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["assocalpha"])
    (tmp_path / "a.ppm").write_bytes(b"P6 2 1 65535\n" + bytes(12))
    for name in ("a.tif", "a.ppm"):
        with pytest.raises(UserError, match=f"{name} has 16 bits a channel.*as a PNG"):
            read_picture(tmp_path / name)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UserError, match=r"floating-point.*8 or 16 bits"):
        read_picture(tmp_path / "f.tif")
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(UserError, match="outside of 0 to 65535"):
        read_picture(tmp_path / "i.tif")
    with pytest.raises(UserError, match="declares 7 x 9 pixels; the limit is 60"):
        png_of(values, tmp_path / "p.png")
        read_picture(tmp_path / "p.png", max_pixels=60)
    with pytest.raises(UserError, match="no such image file"):
        read_picture(tmp_path / "none.png")


def test_damaged_exif_is_left_out_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture is worth more than the date."""
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "a.png", exif=camera())

    def broken(*arguments: object) -> bytes:
        raise TypeError("not a number")

    monkeypatch.setattr(Image.Exif, "tobytes", broken)
    found = read_picture(tmp_path / "a.png")
    assert found.exif is None and "EXIF data" in found.notes[0] and np.array_equal(found.pixels, noise(8, 8, 3))


def whole_files() -> list[bytes]:
    """Pictures of several kinds, with all that a file can have."""
    files = []
    for form, values in (("PNG", noise(12, 10, 4)), ("TIFF", noise(12, 10, 3)), ("JPEG", noise(12, 10, 3))):
        made = io.BytesIO()
        Image.fromarray(values).save(made, form, exif=camera(6), dpi=(300, 300))
        files.append(made.getvalue())
    made = io.BytesIO()
    tifffile.imwrite(made, noise(12, 10, 3, bits=16), photometric="rgb", compression="zlib", predictor=True)
    return [*files, made.getvalue()]


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_a_damaged_file_is_a_picture_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Breaks when a reader believes a file. What can be read can be written, and is the same again."""
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data.draw(st.sampled_from(WHOLE).flatmap(fuzzing.picture_of)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about tags
        try:
            found = read_picture(path, max_pixels=10_000)
        except UserError as error:
            assert "\n" not in str(error)
            return
        write_picture(path.with_suffix(".tif"), found)
        again = read_picture(path.with_suffix(".tif"))
    assert np.array_equal(again.pixels, found.pixels)


WHOLE = whole_files()
