"""Pictures from elsewhere: judged by their headers, decoded within a budget, and the same to the byte as ever."""

import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff.data.datasets import load_data
from minidiff.errors import NoMemory, UserError
from minidiff.images import files
from minidiff.images.budget import MAX_PIXELS, Budget
from minidiff.images.convert import Pixels
from minidiff.images.declared import fewest_bytes
from minidiff.images.files import crop_resize, image_shape, read_fitted, read_image, squeeze
from minidiff.metrics.sources import open_folder


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def landscape(height: int, width: int) -> Image.Image:
    """A picture whose contrast falls with the frequency, as that of photographs does: 1/f noise in three channels."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    white = np.random.default_rng(0).standard_normal((4, height, width))
    grey, *colours = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(height, width))
    channels = np.stack([grey + 0.3 * colour for colour in colours], axis=2)
    return Image.fromarray((127 + 45 * channels / channels.std()).clip(0, 255).astype(np.uint8))


def png_declaring(width: int, height: int, size: int = 0) -> bytes:
    """A PNG with any size in its header, and so many bytes that are no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(size)) + chunk(b"IEND", b"")


SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "colour.png": ("RGB", {}), "grey.png": ("L", {}), "clear.png": ("RGBA", {}), "grey-clear.png": ("LA", {}),
    "palette.png": ("P", {}), "palette-clear.png": ("P", {"transparency": bytes(range(256))}), "bits.png": ("1", {}),
    "key.png": ("RGB", {"transparency": (7, 7, 7)}), "photo.jpg": ("RGB", {}), "print.jpg": ("CMYK", {}),
    "moving.gif": ("P", {"save_all": True, "append_images": [Image.new("L", (60, 44))]}), "deep.tif": ("I;16", {}),
    "print.tif": ("CMYK", {}), "sharp.webp": ("RGBA", {"lossless": True}), "plain.ppm": ("RGB", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_pictures_of_ordinary_size_are_the_same_to_the_byte(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In strips or whole, in Pillow or in an array: the pixels are those of Pillow's own conversions, step by step.

    Caches and fingerprints of data sets rest on it. Fails when a strip begins a row late, when transparency or 16 bits
    are treated after the resize, or when grey is made after it.
    """
    mode, options = SAVED[name]
    image = (
        Image.fromarray(noise(44, 60).astype(np.uint16) * 250) if mode == "I;16" else Image.fromarray(noise(44, 60, 4))
    )
    image = image if mode == "I;16" else image.convert("RGB").quantize(256) if mode == "P" else image.convert(mode)
    image.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as file:
        if mode == "I;16":
            whole = Image.fromarray((np.asarray(file).astype(int) // 257).astype(np.uint8))
        elif "A" in file.mode or "transparency" in file.info:
            clear = file.convert("RGBA")
            whole = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        else:
            whole = file.copy()
    monkeypatch.setattr(files, "STRIP", 60 * 5)
    for channels, wanted in ((3, "RGB"), (1, "L")):
        truth = np.array(whole.convert(wanted)).reshape(44, 60, channels)
        assert (read_image(tmp_path / name, channels) == truth).all()
        assert (read_fitted(tmp_path / name, 16, channels)[0] == crop_resize(truth, 16)).all()
        fitted, side = read_fitted(tmp_path / name, 50, channels, squeezed=True)
        assert (fitted == squeeze(truth, 50)).all() and side == 44


@pytest.mark.parametrize(("suffix", "most"), [(".jpg", 0.4), (".png", 0.5)])
def test_a_large_picture_is_reduced_without_visible_loss(
    suffix: str, most: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reduced first, a picture of the statistics of photographs differs from the full decode by less than half a level.

    Fails when the reduction goes down to twice the size (0.9 levels, up to 7), or misses the turned or middle square.
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    landscape(800, 1000).save(tmp_path / f"a{suffix}", exif=exif, **{"quality": 95, "compress_level": 1})
    full = [read_fitted(tmp_path / f"a{suffix}", 32, squeezed=squeezed)[0].astype(int) for squeezed in (False, True)]
    monkeypatch.setattr(files, "LARGE", 1000)
    for squeezed, image in zip((False, True), full, strict=True):
        reduced, side = read_fitted(tmp_path / f"a{suffix}", 32, squeezed=squeezed)
        difference = np.abs(reduced - image)
        assert 0 < difference.mean() < most and difference.max() <= 8 and side == 800


@pytest.mark.parametrize("how", [read_image, image_shape, lambda path: read_fitted(path, 16)])
def test_what_a_header_declares_is_judged_before_it_is_decoded(how: Any, tmp_path: Path) -> None:
    """Fails, at 8 GB, when the size is looked at after decoding."""
    (tmp_path / "a.png").write_bytes(png_declaring(50_000, 40_000, 6_000_000))
    with pytest.raises(UserError, match=r"pixels.*`max_pixels`"):
        how(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png_declaring(15_000, 13_000))
    with pytest.raises(UserError, match=r"pixels.*`max_pixels`"):
        how(tmp_path / "b.png")
    assert image_shape(tmp_path / "a.png", max_pixels=2_000_000_000) == (40_000, 50_000)
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS // 2  # Pillow's own, as before


def test_the_limit_can_be_raised_and_lowered(tmp_path: Path) -> None:
    """In a data set and in a distance, a picture above the limit counts as one that cannot be read."""
    for side in (20, 40):
        Image.fromarray(noise(side, side, 3)).save(tmp_path / f"{side}.png")
    assert len(load_data("folder", data_dir=tmp_path, image_size=8)) == 2
    few = load_data("folder", data_dir=tmp_path, image_size=8, max_pixels=1000)
    assert len(few) == 1 and "40.png" in few.notes[0]
    assert len(load_data("folder", data_dir=tmp_path, image_size=8)) == 2  # not from what the cache kept under a limit
    with pytest.raises(UserError, match="40 x 40"):
        load_data("folder", data_dir=tmp_path, image_size=8, max_pixels=1000, on_bad="stop")
    assert open_folder(str(tmp_path), max_pixels=1000).count == 1


@pytest.mark.skipif(os.name != "posix", reason="Windows has no pipes among its files")
def test_a_pipe_in_a_folder_is_a_bad_file(tmp_path: Path) -> None:
    """Fails, by waiting for ever, when it is opened."""
    Image.fromarray(noise(20, 20, 3)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert len(load_data("folder", data_dir=tmp_path, image_size=8)) == 1
    assert open_folder(str(tmp_path)).count == 1
    with pytest.raises(UserError, match="pipe"):
        open_folder(str(tmp_path), on_bad="stop")


def test_threads_share_the_budget() -> None:
    """Never more than there is, and a block that wants more than all runs alone. Fails without the condition."""
    budget, lock, held, most = Budget(10), threading.Lock(), 0, 0

    def work(amount: int) -> None:
        nonlocal held, most
        with budget.take(amount):
            with lock:
                held += min(amount, 10)
                most = max(most, held)
            with lock:
                held -= min(amount, 10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [3, 4, 100, 1, 7, 10] * 50))
    assert most <= 10 and budget.free == 10
    with pytest.raises(ZeroDivisionError), budget.take(4):
        1 / 0  # noqa: B018
    assert budget.free == 10


def test_a_lack_of_memory_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --on-bad skip, too, it ends the command: else sound pictures would be left out of a training."""
    Image.fromarray(noise(20, 20, 3)).save(tmp_path / "a.png")

    def fail(file: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(files, "upright", fail)
    with pytest.raises(NoMemory, match="a.png"):
        load_data("folder", data_dir=tmp_path, image_size=8)
    source = open_folder(str(tmp_path))
    with pytest.raises(NoMemory, match="a.png"):
        list(source.batches(4))


def test_a_text_with_the_name_of_a_picture_runs_no_program(tmp_path: Path) -> None:
    """PostScript would be given to Ghostscript. Fails when all of Pillow's formats are tried."""
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(UserError, match="no format that is known"):
        read_image(tmp_path / "a.png")


def test_a_large_image_is_resized_in_strips_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three conventions, and a classifier's. Fails when a strip loses its last row, or a step rounds to bytes.

    What is antialiased is equal to the bit, so strips are used for it from a size on that photographs have.
    """
    from minidiff.metrics import resizing
    from minidiff.metrics.features import as_trained

    image = noise(530, 421, 3)
    monkeypatch.setattr(resizing, "STRIP", 530 * 421)
    whole = [resizing.network_input([image], mode) for mode in resizing.MODES] + [as_trained([image], 1, 32)]
    monkeypatch.setattr(resizing, "STRIP", 421 * 64)
    exact = [resizing.network_input([image], "clean"), as_trained([image], 1, 32)]
    assert torch.equal(exact[0], whole[list(resizing.MODES).index("clean")]) and torch.equal(exact[1], whole[-1])
    monkeypatch.setattr(resizing, "LARGE", 1000)
    strips = [resizing.network_input([image], mode) for mode in resizing.MODES] + [as_trained([image], 1, 32)]
    for one, other in zip(whole, strips, strict=True):
        assert (one - other).abs().max() < 1e-5


# How each format declares the size 24 x 20, and its TIFF compression.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "a.png": (">II", {}), "a.bmp": ("<ii", {}), "a.gif": ("<HH", {}), "a.jpg": (">HH", {}), "a.tga": ("<HH", {}),
    "packed.tga": ("<HH", {"compression": "tga_rle"}), "a.ppm": ("", {}), "a.tif": ("tags", {}),
    "deflated.tif": ("tags", {"compression": "tiff_adobe_deflate"}), "lzw.tif": ("tags", {"compression": "tiff_lzw"}),
    "packbits.tif": ("tags", {"compression": "packbits"}),
}  # fmt: skip


def enlarged(whole: bytes, form: str, tall: int, wide: int) -> bytes:
    """Let a picture of 20 rows of 24 pixels declare another size. form: as in FORMS."""
    if form != "tags":
        order = -1 if form == ">HH" else 1  # of a JPEG, where the height comes first
        pairs = [pair[::order] for pair in ((24, 20), (wide, tall))]
        old, new = (struct.pack(form, *pair) if form else b"%d %d" % pair for pair in pairs)
        data = bytearray(whole.replace(old, new))
        if whole[:4] == b"\x89PNG":
            struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        return bytes(data)
    data = bytearray(whole)
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from("<H", data, at)
        if tag in (256, 257, 278):  # width, height, rows of a strip
            struct.pack_into("<HII", data, at + 2, 4, 1, wide if tag == 256 else tall)
    return bytes(data)


@pytest.mark.parametrize("name", FORMS)
def test_more_pixels_than_a_file_can_hold_are_refused_from_its_header(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a format has lost its bound, or one asks too much of a picture of one colour, which packs best."""
    form, options = FORMS[name]
    for side in (1, 1500):
        Image.new("P" if name == "a.gif" else "RGB", (side, side)).save(tmp_path / name, **options)
        assert read_image(tmp_path / name).shape == (side, side, 3)
    Image.new("P" if name == "a.gif" else "RGB", (24, 20)).save(tmp_path / name, **options)
    (tmp_path / name).write_bytes(enlarged((tmp_path / name).read_bytes(), form, 12_000, 13_000))
    monkeypatch.setattr(files, "upright", lambda file: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=r"declares 13000 x 12000 pixels, .* at least"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_the_bound_of_a_png_counts_the_bits_of_its_pixels(mode: str, tmp_path: Path) -> None:
    """A picture of one colour passes in every form, interlaced, too. Fails when eight bits are counted for one."""
    for bits in (1, 2, 4, 8) if mode == "P" else (8,):
        image = Image.new(mode, (3000, 3000))
        image.save(tmp_path / "a.png", **({"bits": bits} if mode == "P" else {}))
        with Image.open(tmp_path / "a.png") as file:
            fewest = fewest_bytes(file)
        assert (tmp_path / "a.png").stat().st_size / 1.3 < fewest < (tmp_path / "a.png").stat().st_size
        assert image_shape(tmp_path / "a.png") == (3000, 3000)


def test_a_file_with_arithmetic_coding_or_shared_strips_has_no_bound(tmp_path: Path) -> None:
    """Fails when a whole picture of such a kind is refused by the bound of the others."""
    Image.new("L", (24, 20)).save(tmp_path / "a.jpg")
    large = enlarged((tmp_path / "a.jpg").read_bytes(), ">HH", 12_000, 13_000)
    (tmp_path / "a.jpg").write_bytes(large.replace(b"\xff\xc0", b"\xff\xc9"))
    assert image_shape(tmp_path / "a.jpg") == (12_000, 13_000)
    Image.new("L", (500, 500)).save(tmp_path / "a.tif", compression="tiff_adobe_deflate", tiffinfo={278: 1})
    with Image.open(tmp_path / "a.tif") as file:
        assert fewest_bytes(file) > 0
        file.tag_v2[273] = (8,) * 500
        assert fewest_bytes(file) == 0
