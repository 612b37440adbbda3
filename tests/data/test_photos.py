"""Crops of photographs: each a square of a file that was written here, the same whenever and wherever it is read."""

import os
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_training
from PIL import Image

import minidiff
from minidiff import cli, load_data
from minidiff.data import crops, photo_store, photos
from minidiff.data.corrupted import seed_of
from minidiff.data.corruptions import corrupt
from minidiff.data.crops import Crops
from minidiff.data.image_data import ImageData
from minidiff.data.photo_store import SCALES, Photographs
from minidiff.errors import UserError
from minidiff.images.convert import Pixels
from minidiff.images.files import image_shape, read_image, write_image
from minidiff.metrics.sources import open_dataset
from minidiff.runs.folder import read_config, read_weights
from minidiff.training.batches import load_batches, read_by_workers, slices_of
from minidiff.training.config import TrainConfig

DATA_PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SIDES = ((40, 32), (24, 50), (33, 33))  # height and width of the photographs in `folder`


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache for each test, and few crops."""
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(photos, "COUNTS", {"train": 300, "test": 20})
    monkeypatch.chdir(tmp_path)


def noise(height: int, width: int, seed: int) -> Pixels:
    """A picture of which no two squares are alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Three small photographs, in sub-folders."""
    for number, (height, width) in enumerate(SIDES):
        write_image(tmp_path / "mine" / str(number) / "a.png", noise(height, width, number))
    return tmp_path / "mine"


def copies_of(image: Pixels) -> list[Pixels]:
    """A photograph at each scale, by Pillow alone."""
    height, width = image.shape[:2]
    sizes = [(round(width * scale), round(height * scale)) for scale in SCALES]
    return [np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) for size in sizes]


def crops_of(folder: Path, size: int = 8, **options: Any) -> Crops:
    images = load_data("photos", data_dir=folder, image_size=size, **options).images
    assert isinstance(images, Crops)
    return images


def refusal(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The message of the UserError that a call must raise: one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the crops --------------------------------------------------------------------------------------------------------


def test_every_crop_is_a_square_of_a_photograph_in_one_of_eight_turns(folder: Path) -> None:
    """Each is found among all squares in all turns, and all turns, all corners and all copies that are large enough
    occur. Fails when the last row or column is never reached, when a turn is left out, or a scale."""
    places: dict[bytes, tuple[int, int, int, str]] = {}
    copies = [copy for height, width in SIDES for copy in copies_of(noise(height, width, SIDES.index((height, width))))]
    for number, copy in enumerate(copies):
        for top in range(copy.shape[0] - 7):
            for left in range(copy.shape[1] - 7):
                square = copy[top : top + 8, left : left + 8]
                for name, mirrored in (("", square), ("mirrored ", square[:, ::-1])):
                    for turn in range(4):
                        places[np.rot90(mirrored, turn).tobytes()] = (number, top, left, f"{name}{turn}")
    found = [places[crop.tobytes()] for crop in Crops(crops_of(folder).photographs, 8, 3000, 1)[:]]
    turns = Counter(turn for *_, turn in found)
    assert len(turns) == 8 and min(turns.values()) > 300  # 375 are expected of each, and 18 of these are a deviation
    large = {number for number, copy in enumerate(copies) if min(copy.shape[:2]) >= 8}
    assert {number for number, *_ in found} == large and 0 < len(large) < len(copies)
    height, width = SIDES[0]
    of_first = [(top, left) for number, top, left, _ in found if number == 0]
    assert {top for top, _ in of_first} == {*range(height - 7)}
    assert {left for _, left in of_first} == {*range(width - 7)}


def test_a_crop_by_hand(folder: Path) -> None:
    """From the random numbers of its row: which, where and how turned, twice, of which the one with more detail."""
    images = crops_of(folder, 12)
    copies = [copy for number, sides in enumerate(SIDES) for copy in copies_of(noise(*sides, number))]
    copies = [copy for copy in copies if min(copy.shape[:2]) >= 12]
    areas = np.array([copy.shape[0] * copy.shape[1] for copy in copies])
    bounds = np.cumsum(0.5 * areas / areas.sum() + 0.5 / len(copies))
    for number, row in enumerate(np.random.default_rng(seed_of("train")).random((30, 7))):
        squares, details = [], []
        for which, (down, right) in zip(row[:2], row[2:6].reshape(2, 2), strict=True):
            copy = copies[np.flatnonzero(which < bounds)[0]]
            top, left = int(down * (copy.shape[0] - 11)), int(right * (copy.shape[1] - 11))
            squares.append(copy[top : top + 12, left : left + 12])
            green = squares[-1][..., 1].astype(int)
            details.append(sum(abs(green[y, x] - green[y, x + 1]) for y in (0, 4, 8) for x in range(11)))
            details[-1] += sum(abs(green[y, x] - green[y + 1, x]) for x in (0, 4, 8) for y in range(11))
        expected = squares[0] if details[0] >= details[1] else squares[1]
        for _ in range(int(8 * row[6]) % 4):
            expected = expected.transpose(1, 0, 2)[::-1]  # a quarter turn to the left
        expected = expected[:, ::-1] if row[6] >= 0.5 else expected
        np.testing.assert_array_equal(images[number], expected)


def test_they_are_read_like_an_array(folder: Path) -> None:
    """A crop depends on its number alone: not on what is read with it, or before, nor on how many there are."""
    images = crops_of(folder)
    every = np.asarray(images)
    assert (images.shape, images.dtype, images.ndim, len(images)) == ((300, 8, 8, 3), np.uint8, 4, 300)
    assert images.nbytes == every.nbytes and every.shape == images.shape
    mask = np.arange(300) % 7 == 0
    for index in (5, -1, np.int64(2), slice(3, 9), slice(None, None, -50), slice(0, 0), [4], [7, 7, 1], mask,
                  np.array([[1, 2], [3, 4]]), np.array([], dtype=int)):  # fmt: skip
        np.testing.assert_array_equal(images[index], every[index])
    with pytest.raises(IndexError):
        images[300]
    np.testing.assert_array_equal(Crops(images.photographs, 8, 40, images.seed)[:], every[:40])
    assert (Crops(images.photographs, 8, 300, images.seed + 1)[:] != every).any(axis=(1, 2, 3)).mean() > 0.9


def test_large_photographs_are_seen_more_often_but_small_ones_too(folder: Path) -> None:
    """Of two photographs, one nine times as large: by area 0.9 and 0.1, each the same 0.5, so 0.7 and 0.3."""
    np.testing.assert_allclose(crops.chances(np.array([[30, 30], [10, 10]])), [0.7, 0.3])
    places = [photo_store.Place(0, 30, 30, ""), photo_store.Place(2700, 10, 10, "")]
    drawn = Crops(Photographs(np.zeros(3000, np.uint8), places), 8, 20_000, 0).which
    assert abs((drawn == 0).mean() - 0.7) < 5 * np.sqrt(0.21 / 40_000)


def test_the_one_with_more_detail(tmp_path: Path) -> None:
    """Half of the photograph is sky: of two squares, both are sky a quarter of the time."""
    half = np.full((400, 400, 3), 128, np.uint8)
    half[:200] = noise(200, 400, 0)
    smooth = Crops(Photographs(half.reshape(-1), [photo_store.Place(0, 400, 400, "")]), 8, 2000, 0)[:]
    share = (smooth == 128).all(axis=(1, 2, 3)).mean()
    assert abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 2000)


def test_other_processes_map_the_same_file(folder: Path) -> None:
    """What is sent to them is small and reads the same; a store that was made anew meanwhile is noticed."""
    data = load_data("photos", data_dir=folder, image_size=8)
    sent = pickle.dumps(data.images)
    assert isinstance(data.images, Crops) and len(sent) < len(pickle.dumps(np.asarray(data.images.photographs.flat)))
    np.testing.assert_array_equal(pickle.loads(sent)[:9], data.images[:9])
    config = TrainConfig(steps=3, batch_size=4)
    direct = list(load_batches(data, config, 4, 0, torch.device("cpu")))
    ahead = list(read_by_workers(data, slices_of(300, config, 4, 0), workers=2))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(direct, ahead, strict=True))
    os.utime(next((Path("cache") / "images").glob("*.npy")), (1, 1))
    assert "changed" in refusal(pickle.loads, sent)


# --- the photographs --------------------------------------------------------------------------------------------------


def test_whole_photographs(tmp_path: Path) -> None:
    """Large ones are brought to 900 pixels, upright, grey in colour; small ones keep their size and every pixel."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    large, grey = noise(1000, 1210, 0), noise(30, 40, 1)[..., 0]
    Path("mine").mkdir()
    Image.fromarray(large).save("mine/a.png", exif=exif)
    Image.fromarray(grey).save("mine/b.png")
    first, second = photos.load_photographs("mine")
    upright = Image.fromarray(np.rot90(large, -1)).resize((900, 1089), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(first, np.array(upright))
    np.testing.assert_array_equal(second, np.repeat(grey[..., None], 3, axis=2))
    assert not first.flags.writeable


def test_a_changed_file_is_noticed(folder: Path) -> None:
    """Changed in place, of the same size; added; removed. The fingerprint tells each from the others."""
    (folder / "2").rename(folder / "c")  # the last, which is compared anyway
    write_image(folder / "b.bmp", noise(60, 60, 8))  # larger than the smallest, which is compared, too
    prints = [load_data("photos", data_dir=folder, image_size=8).fingerprint() for _ in range(2)]
    before = (folder / "b.bmp").stat()
    write_image(folder / "b.bmp", noise(60, 60, 9))
    os.utime(folder / "b.bmp", ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    changed = load_data("photos", data_dir=folder, image_size=8)
    np.testing.assert_array_equal(photos.load_photographs(folder)[2], noise(60, 60, 9))
    (folder / "b.bmp").unlink()
    fewer = load_data("photos", data_dir=folder, image_size=8)
    assert prints[0] == prints[1] and len({prints[0], changed.fingerprint(), fewer.fingerprint()}) == 3
    assert len(list((Path("cache") / "images").iterdir())) == 2  # the store does not grow with every change


@pytest.mark.parametrize("damage", ["a pixel", "cut short", "another key", "no JSON", "fewer photographs", "no start"])
def test_a_damaged_store_is_made_again(folder: Path, damage: str) -> None:
    """Fails when the digest, the length, or the .json are not looked at."""
    every = crops_of(folder)[:]
    store = next((Path("cache") / "images").glob("*.npy"))
    text, stored = store.with_suffix(".json").read_text(), store.read_bytes()
    if damage == "a pixel":
        store.write_bytes(stored[:200] + bytes([stored[200] ^ 1]) + stored[201:])
    elif damage == "cut short":
        store.write_bytes(stored[:-1])
    else:
        edits = {"another key": text.replace('"key": "', '"key": "0'), "no JSON": text[:-1],
                 "fewer photographs": text.replace('"kept": [0, 1, 2]', '"kept": [0, 1]'),
                 "no start": text.replace("[[0, ", '[["0", ')}  # fmt: skip
        assert edits[damage] != text
        store.with_suffix(".json").write_text(edits[damage])
    np.testing.assert_array_equal(crops_of(folder)[:], every)
    assert store.read_bytes() == stored and store.with_suffix(".json").read_text() == text


def test_the_second_time_hardly_anything_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One photograph, to compare: from the store, and for any size of crops."""
    crops_of(folder)
    calls: list[Path] = []
    read = photo_store.read_shrunk
    monkeypatch.setattr(photo_store, "read_shrunk", lambda path, *more: calls.append(path) or read(path, *more))
    crops_of(folder, 16)
    assert len(calls) == 1


@pytest.mark.parametrize("now", [lambda pixels: 255 - pixels, lambda pixels: pixels[1:], None])
def test_a_store_that_another_decoder_made_is_made_again(
    folder: Path, now: Callable[[Pixels], Pixels] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other pixels, another size, or a file that can no longer be read, though its size and time are the same."""
    crops_of(folder)
    read = photo_store.read_shrunk
    monkeypatch.setattr(photo_store, "read_shrunk", lambda path, *more: now(read(path, *more)) if now else 1 / 0)
    if now is None:
        assert "none of the 3 image files" in refusal(load_data, "photos", data_dir=folder)
    else:
        np.testing.assert_array_equal(photos.load_photographs(folder)[0], now(noise(*SIDES[0], 0)))


def test_bad_files_are_left_out_or_stop(folder: Path) -> None:
    """As in the data set `folder`; also from the store that was made by leaving them out."""
    clean = crops_of(folder)
    (folder / "cut.png").write_bytes((folder / "0" / "a.png").read_bytes()[:900])
    for _ in range(2):
        data = load_data("photos", data_dir=folder, image_size=8)
        assert data.notes == ["1 of 4 files cannot be read and are left out: cut.png"]
        np.testing.assert_array_equal(data.images[:20], clean[:20])
        assert "cut.png" in refusal(load_data, "photos", data_dir=folder, image_size=8, on_bad="stop")
    few = load_data("photos", data_dir=folder, image_size=8, max_pixels=1199)  # of the four, one has 1,089
    assert few.notes[0].startswith("3 of 4 files cannot be read")
    for name in ("0", "1", "2"):
        (folder / name / "a.png").unlink()
    assert "none of the 1 image files" in refusal(load_data, "photos", data_dir=folder)


def test_small_photographs_are_left_out(folder: Path) -> None:
    """With a note; where none is large enough, the error says what would be."""
    data = load_data("photos", data_dir=folder, image_size=32)
    assert data.notes == ["1 of 3 photographs are smaller than 32x32 and are left out"] and len(data) == 300
    message = refusal(load_data, "photos", data_dir=folder, image_size=64)
    assert "no crop of 64x64 fits" in message and "`image_size` of at most 33" in message
    assert "outside 8 to 1024" in refusal(load_data, "photos", data_dir=folder, image_size=4)


def test_without_room_on_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photographs are held in memory, and travel to other processes; too many for that are refused."""
    stored = crops_of(folder)[:]
    monkeypatch.setenv("MINIDIFF_CACHE", "elsewhere")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    held = crops_of(folder)
    np.testing.assert_array_equal(held[:], stored)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(held))[:], stored)
    assert not list(Path("elsewhere/images").iterdir())
    monkeypatch.setattr(photo_store, "IN_MEMORY", 100)
    assert "MINIDIFF_CACHE" in refusal(load_data, "photos", data_dir=folder, image_size=8)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    assert "does not exist" in refusal(load_data, "photos", data_dir=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no image files" in refusal(load_data, "photos", data_dir=tmp_path / "empty")


# --- Debian's packages ------------------------------------------------------------------------------------------------


@pytest.fixture()
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All the photographs of the packages, in small."""
    monkeypatch.setattr(photos, "SHARE", tmp_path / "share")
    for number, name in enumerate(name for names in photos.PACKAGES.values() for name in names):
        write_image(tmp_path / "share" / name, noise(24, 20, number))
    return tmp_path / "share"


def test_the_splits_share_no_photograph(share: Path) -> None:
    """Together they are all; five are held out, from three packages."""
    train, test = (photos.load_photographs(split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (32, 5)
    assert len({photograph.tobytes() for photograph in train + test}) == 37
    held_out = load_data("photos", image_size=16, split="test")
    assert len(held_out) == 20 and held_out.flip and held_out.notes == [] and held_out.label_names == []
    assert held_out.fingerprint() != load_data("photos", image_size=16).fingerprint()
    assert "split of photos" in refusal(load_data, "photos", split="valid")


def test_what_is_not_installed_is_named(share: Path, folder: Path) -> None:
    """Some packages are enough; the fingerprint says that they are not all. None is an error with the command."""
    whole = load_data("photos", image_size=16)
    for name in photos.PACKAGES["mate-backgrounds"]:
        (share / name).unlink()
    some = load_data("photos", image_size=16)
    assert some.notes == ["12 of 37 photographs are not on this machine: apt install mate-backgrounds"]
    assert some.fingerprint() != whole.fingerprint()
    for name in photos.HELD_OUT:
        (share / name).unlink(missing_ok=True)
    message = refusal(load_data, "photos", split="test")
    assert "no photograph of the split 'test'" in message and "apt install mate-backgrounds lomiri-" in message
    for path in share.rglob("*.jpg"):
        path.unlink()
    message = refusal(load_data, "photos")
    assert f"apt install {' '.join(photos.PACKAGES)}" in message and "`data_dir`" in message
    assert "one split 'train'" in refusal(load_data, "photos", data_dir=folder, split="test")
    assert not photos.present(None) and photos.present(folder)


def test_the_page_names_every_photograph() -> None:
    """With the package that it is in."""
    page = DATA_PAGE.read_text()
    for package, names in photos.PACKAGES.items():
        assert f"`{package}`" in page
        for name in names:
            own = name.split("/")[1] if name.startswith("wallpapers") else Path(name).stem
            assert re.search(rf"\b{re.escape(own)}\b", page), own
    assert {name for names in photos.PACKAGES.values() for name in names} > photos.HELD_OUT


@pytest.mark.skipif(not photos.present(None), reason="needs Debian's packages of photographs")
def test_the_photographs_of_the_packages_are_large() -> None:
    """Each that is here has at least 1024 pixels on its shorter side, so that it is scaled down."""
    names, _ = photos.in_packages()
    assert all(min(image_shape(photos.SHARE / name)) >= 1024 for name in names)


# --- at work ----------------------------------------------------------------------------------------------------------


def test_the_fingerprint_reads_no_crop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells sizes, rules and photographs apart, and so it does under a corruption."""
    found = [load_data("photos", data_dir=folder, image_size=size, **more)
             for size, more in ((8, {}), (16, {}), (8, {"corruption": "fog"}))]  # fmt: skip
    monkeypatch.setattr(Crops, "candidates", lambda self, row: pytest.fail("a crop was read"))
    prints = {data.fingerprint() for data in found}
    monkeypatch.setattr(crops, "VERSION", 0)
    prints |= {data.fingerprint() for data in found}
    assert len(prints) == 6


def test_under_a_corruption(folder: Path) -> None:
    """The crops, corrupted; mirrored where a mirrored corruption is as good."""
    clean = crops_of(folder, 16)
    harmed = load_data("photos", data_dir=folder, image_size=16, corruption="motion_blur", severity=2)
    rows = np.array([7, 3])
    np.testing.assert_array_equal(harmed.images[rows], corrupt(clean[rows], "motion_blur", 2, rows, seed_of("train")))
    assert isinstance(harmed.clean, Crops) and load_data("photos", data_dir=folder, image_size=8).flip


def test_a_resumed_training_is_the_uninterrupted_one(
    folder: Path, tiny_preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit; and with other photographs it is refused."""
    monkeypatch.setattr("minidiff.ddpm.job.DdpmJob.preview", lambda self, step: [])
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
    line = [word if word != "folder" else "photos" for word in tiny_training(folder, "--warmup", "1")]
    assert cli.run([*line, "--steps", "4", "--out", "whole"]) == 0
    assert "300 images, 16x16, 3 channels" in capsys.readouterr().out
    assert cli.run([*line, "--steps", "2", "--out", "half"]) == 0
    assert cli.run(["train", "ddpm", "--resume", "half", "--steps", "4"]) == 0
    whole, half = (read_weights(Path(run))[0] for run in ("whole", "half"))
    assert all(torch.equal(whole[name], half[name]) for name in whole)
    assert read_config(Path("half"))["data"]["fingerprint"] == read_config(Path("whole"))["data"]["fingerprint"]
    write_image(folder / "new.png", noise(40, 40, 7))
    assert cli.run(["train", "ddpm", "--resume", "half", "--steps", "5"]) == 1
    assert "that are not the same" in capsys.readouterr().err


def test_measured_and_looked_at(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`dataset:photos` gives all crops in order; the preview shows some, and says what was left out."""
    source = open_dataset("dataset:photos", folder, 16)
    np.testing.assert_array_equal(np.concatenate(list(source.batches(128))), crops_of(folder, 16)[:])
    assert source.count == 300 and source.changes == ["crops of photographs, as for a training"]
    preview = ["data", "preview", "photos", "--data-dir", str(folder), "--out", "grid.png", "--num", "9"]
    assert cli.run([*preview, "--image-size", "32"]) == 0
    printed = capsys.readouterr()
    assert "9 of the 300 images of photos (train), 32x32" in printed.out and "1 of 3 photographs" in printed.err
    assert read_image("grid.png").shape == (3 * 66 + 2, 3 * 66 + 2, 3)


def test_a_script_gives_them_as_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They become an array like all others; more than fit into memory are refused."""
    data = load_data("photos", data_dir=folder, image_size=8)
    brought = load_data(data)
    assert isinstance(brought, ImageData) and isinstance(brought.images, np.ndarray) and brought.flip
    np.testing.assert_array_equal(brought.images, data.images[:])
    monkeypatch.setattr("minidiff.data.own_images.MOST_CROPS", 1000)
    assert "Give the data set by name: 'photos'" in refusal(minidiff.load_data, data)
