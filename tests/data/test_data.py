"""Data sets by name: what arrives, what is stored, and what is said when files are missing, damaged or too many."""

import gzip
import hashlib
import json
import os
import pickle
import socket
import struct
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import click
import numpy as np
import pytest
import torchvision
from click.testing import CliRunner
from PIL import Image

from minidiff.cli.data import data as command
from minidiff.data import cache as decoded
from minidiff.data import picture_sets, shapes
from minidiff.data.cache import Pictures, image_paths
from minidiff.data.datasets import DATASETS, DEBIAN, load_data
from minidiff.data.export import export
from minidiff.data.hazy_sets import HAZY_SETS
from minidiff.errors import UserError
from minidiff.images.files import crop_resize, read_image, write_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder for each test, and small `shapes`."""
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "COUNTS", {"train": 40, "test": 20, "new_test": 20})
    return tmp_path / "cache"


def picture(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options) -> Path:
    """A small image with a gradient, so that cuts and rotations show."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    colours = np.stack([255 * x / size[0], 255 * y / size[1], 128 + 0 * x], axis=2).astype(np.uint8)
    Image.fromarray(colours).convert(mode).save(path, **options)
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def message_of(call, *arguments, **options) -> str:
    """The message of the UserError a call must raise: one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names and sizes ----------------------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_the_nearest():
    assert "Did you mean 'fashion-mnist'?" in message_of(load_data, "fashionmnist")
    assert "Did you mean 'train'?" in message_of(load_data, "shapes", split="trian")
    assert "stop" in message_of(load_data, "shapes", on_bad="ignore")
    assert "8 to 1024" in message_of(load_data, "shapes", image_size=4)


def test_shapes_are_what_the_renderer_draws():
    """Images, labels and names belong together; fails when the set is loaded with another seed, order or split."""
    for split in shapes.SPLITS:
        loaded = load_data("shapes", split=split)
        images, labels = shapes.make(shapes.COUNTS[split], 32, split=split)
        np.testing.assert_array_equal(loaded.images, images)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert loaded.names_of(3) == [shapes.NAMES[i] for i in shapes.scene(3, split=split)]
    assert not loaded.flip and len(loaded) == 20
    assert load_data("shapes", image_size=16).images.shape == (40, 16, 16, 3)


# --- the store of decoded images ----------------------------------------------------------------------------------


@pytest.fixture()
def drawn(monkeypatch) -> list[int]:
    """Which scenes were drawn."""
    indices: list[int] = []
    real = shapes.draw

    def noted(index: int, *rest, **more) -> np.ndarray:
        indices.append(index)
        return real(index, *rest, **more)

    monkeypatch.setattr(shapes, "draw", noted)
    return indices


def test_what_was_stored_is_not_drawn_again(drawn, cache):
    """The second time three scenes are drawn, to compare; no temporary file stays."""
    first = load_data("shapes").images
    assert len(drawn) == 40
    second = load_data("shapes").images
    assert sorted(drawn[40:]) == [0, 20, 39]
    np.testing.assert_array_equal(first, second)
    assert files_in(cache / "images") == ["shapes-train-32.json", "shapes-train-32.npy"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def blank(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:128] + bytes(path.stat().st_size - 128))


def no_header(path: Path) -> None:
    path.write_bytes(bytes(128) + path.read_bytes()[128:])


def scramble_json(path: Path) -> None:
    path.with_suffix(".json").write_text('{"key": ')


def other_json(path: Path) -> None:
    path.with_suffix(".json").write_text("[1, 2]")


def other_key(path: Path) -> None:
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**about, "key": "of another version"}))


@pytest.mark.parametrize("damage", [cut, lengthen, blank, no_header, scramble_json, other_json, other_key, Path.unlink])
def test_a_damaged_store_is_made_anew(damage, drawn, cache):
    """Truncated, zeroed, foreign or half missing: all is drawn again and the store is right afterwards."""
    good = load_data("shapes").images.copy()
    damage(cache / "images" / "shapes-train-32.npy")
    drawn.clear()
    np.testing.assert_array_equal(load_data("shapes").images, good)
    assert len(drawn) >= 40
    drawn.clear()
    np.testing.assert_array_equal(load_data("shapes").images, good)
    assert len(drawn) <= 3


ODD_STORES = {  # what stands beside stored images in place of its description
    "no number": {"kept": ["a"]},
    "beyond the end": {"kept": [0, 99]},
    "falling": {"kept": [1, 0]},
    "a text": {"kept": "abc"},
    "too many": {"kept": [0, 1, 2, 3]},
    "no notes": {"notes": 3},
}


@pytest.mark.parametrize("odd", ODD_STORES)
def test_an_odd_description_of_a_store_is_not_believed(odd, cache):
    """Everything is decoded anew. Fails when a value of a wrong type comes through."""
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for _ in range(2):
        found = Pictures("odd", 1, 3, (8, 8, 3), lambda i: images[i]).load()
        np.testing.assert_array_equal(found.images, images)
        assert found.kept == [0, 1, 2] and found.notes == []
        place = cache / "images" / "odd.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | ODD_STORES[odd]))


def test_a_deep_description_of_a_store_is_not_believed(cache):
    images = np.zeros((3, 8, 8, 3), np.uint8)
    Pictures("deep", 1, 3, (8, 8, 3), lambda i: images[i]).load()
    (cache / "images" / "deep.json").write_text("[" * 100_000 + "]" * 100_000)
    assert len(Pictures("deep", 1, 3, (8, 8, 3), lambda i: images[i]).load().images) == 3


def test_large_sets_are_mapped_and_small_ones_held(monkeypatch):
    """Above IN_MEMORY the images are a read-only map of the file, with the same content."""
    small = load_data("shapes").images
    assert small.flags.writeable and not isinstance(small.base, np.memmap)
    monkeypatch.setattr(decoded, "IN_MEMORY", 1000)
    large = load_data("shapes").images
    assert isinstance(large.base, np.memmap) and not large.flags.writeable
    np.testing.assert_array_equal(small, large)


def test_memory_does_not_grow_with_the_set(monkeypatch):
    """61 MB decoded and mapped with a peak below 12 MB: fails when blocks are collected, or the map is read."""
    monkeypatch.setattr(decoded, "IN_MEMORY", 1 << 20)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    tracemalloc.start()
    found = Pictures("flat", 1, 5000, (64, 64, 3), lambda i: np.roll(noise, i)).load(workers=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.images.nbytes > 60e6 and peak < 12e6
    np.testing.assert_array_equal(found.images[4321], np.roll(noise, 4321))


def test_a_full_disk_is_one_line_and_leaves_nothing(monkeypatch, cache):
    """Space is looked at first; where it ends on the way, the fragment goes. A small set does without the store."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(decoded.os, "fsync", full)
        np.testing.assert_array_equal(load_data("shapes").images, shapes.make(40)[0])
        assert files_in(cache / "images") == []
        patch.setattr(decoded, "IN_MEMORY", 1000)
        assert "No space left on device. Set MINIDIFF_CACHE" in message_of(load_data, "shapes")
        assert files_in(cache / "images") == []
    monkeypatch.setattr(decoded, "IN_MEMORY", 1000)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert "are needed and not free" in message_of(load_data, "shapes")


def test_an_interrupted_decode_leaves_nothing(cache):
    """Ctrl-C in the middle: no fragment that the next run could take for images."""

    def stop(index: int) -> np.ndarray:
        if index == 300:
            raise KeyboardInterrupt
        return np.zeros((8, 8, 3), np.uint8)

    with pytest.raises(KeyboardInterrupt):
        Pictures("stopped", 1, 600, (8, 8, 3), stop).load()
    assert files_in(cache / "images") == []


# --- IDX files ----------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, count: int = 12, split: str = "train", gz: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels 0..9 in MNIST's two files."""
    generator = np.random.default_rng(5)
    images, labels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(idx(array)) if gz else idx(array))
    return images, labels


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize(("place", "gz"), [("", True), ("", False), ("raw", False), ("raw", True)])
def test_idx_files_are_found_wherever_they_usually_lie(tmp_path, name, place, gz):
    """Right in --data-dir or in torchvision's folder, gzipped or not; 28 is padded to 32 by zeros on all four sides."""
    inner = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}[name]
    images, labels = write_idx(tmp_path / (inner if place else ""), gz=gz)
    loaded = load_data(name, data_dir=tmp_path)
    assert loaded.images.shape == (12, 32, 32, 1) and loaded.images.dtype == np.uint8
    np.testing.assert_array_equal(loaded.images[:, 2:30, 2:30, 0], images)
    assert loaded.images.sum() == images.sum()
    np.testing.assert_array_equal(loaded.labels.argmax(axis=1), labels)
    assert (loaded.labels.sum(axis=1) == 1).all() and len(loaded.label_names) == 10 and not loaded.flip


def test_other_sizes_come_from_the_original(tmp_path):
    """28 is native; 64 is the 28x28 image resized (not the padded one); 14 is antialiased, so means agree."""
    images, _ = write_idx(tmp_path)
    np.testing.assert_array_equal(load_data("mnist", data_dir=tmp_path, image_size=28).images[..., 0], images)
    big = load_data("mnist", data_dir=tmp_path, image_size=64).images
    np.testing.assert_array_equal(big[3], crop_resize(images[3][..., None], 64))
    small = load_data("mnist", data_dir=tmp_path, image_size=14).images[..., 0].astype(float)
    assert abs(small.mean(axis=(1, 2)) - images.mean(axis=(1, 2))).max() < 3
    assert small.std() < 0.6 * images.std()


BAD_IDX = {
    "empty": b"",
    "no gzip": b"hello",
    "truncated gzip": gzip.compress(idx(np.zeros((12, 28, 28))))[:-9],
    "broken gzip": gzip.compress(idx(np.arange(9408) % 251))[:20] + b"\xff" * 40,
    "other magic": gzip.compress(b"\x89PNG" + bytes(100)),
    "of floats": gzip.compress(b"\x00\x00\x0d\x03" + bytes(100)),
    "header cut": gzip.compress(b"\x00\x00\x08\x03\x00\x00"),
    "data cut": gzip.compress(idx(np.zeros((12, 28, 28)))[:-1]),
    "too much data": gzip.compress(idx(np.zeros((12, 28, 28))) + b"0"),
    "billions declared": gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 4_000_000_000, 28, 28)),
    "dimensions declared": gzip.compress(struct.pack(">BBBB", 0, 0, 8, 255) + bytes(2000)),
    "other size": gzip.compress(idx(np.zeros((12, 32, 32)))),
    "other count": gzip.compress(idx(np.zeros((11, 28, 28)))),
    "labels": gzip.compress(idx(np.zeros(12))),
}


@pytest.mark.parametrize("content", BAD_IDX.values(), ids=BAD_IDX)
def test_bad_idx_files_are_named(tmp_path, content):
    """One line with the file's name, whatever is wrong with it."""
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    message = message_of(load_data, "mnist", data_dir=tmp_path)
    assert "train-images-idx3-ubyte.gz" in message and "again" in message


def test_labels_out_of_range_are_refused(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(12, 11))))
    assert "label 11" in message_of(load_data, "mnist", data_dir=tmp_path)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_the_real_fashion_mnist():
    """60,000 and 10,000 images, 6,000 and 1,000 of a kind, mean pixel 72.94 (the set's published 0.2860 x 255)."""
    for split, count in (("train", 60_000), ("test", 10_000)):
        loaded = load_data("fashion-mnist", split=split, image_size=28)
        assert loaded.images.shape == (count, 28, 28, 1)
        assert (loaded.labels.sum(axis=0) == count // 10).all()
        if split == "train":
            assert loaded.images.mean() == pytest.approx(72.94, abs=0.005)
            assert loaded.names_of(0) == ["ankle boot"]
    assert load_data("fashion-mnist", split="test").images.shape == (10_000, 32, 32, 1)
    assert DATASETS["fashion-mnist"].present(None)


# --- downloads ----------------------------------------------------------------------------------------------------

TO_PUT = {
    "mnist": ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "MNIST/raw"],
    "fashion-mnist": ["train-images-idx3-ubyte.gz", "FashionMNIST/raw", "apt install dataset-fashion-mnist"],
    "cifar10": ["cifar-10-python.tar.gz", "cifar-10-batches-py"],
    "cifar100": ["cifar-100-python.tar.gz", "cifar-100-python"],
    "celeba": ["img_align_celeba", "list_attr_celeba.txt"],
}


@pytest.mark.parametrize("name", TO_PUT)
def test_offline_is_one_line_that_says_what_to_put_where(name, cache, monkeypatch):
    """torchvision's own download, with no network: the files to fetch are named, and nothing is left on the disk."""

    def no_network(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    source = DATASETS[name]
    if "also" in getattr(source.load, "keywords", {}):
        monkeypatch.setitem(source.load.keywords, "also", [])
    message = message_of(load_data, name)
    assert "cannot be downloaded" in message and str(cache) in message
    assert "https://" in message or "http://" in message
    assert "`data_dir`" in message
    for words in TO_PUT[name]:
        assert words in message
    assert not cache.exists() and socket.getdefaulttimeout() is None


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    """Half a file written, then an error: gone; the files that were there before stay."""

    def breaks_off(root: str, download: bool) -> None:
        (Path(root) / "MNIST" / "raw").mkdir(parents=True)
        (Path(root) / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"half")
        raise URLError("connection reset")

    monkeypatch.setattr(torchvision.datasets, "MNIST", breaks_off)
    (tmp_path / "mine.txt").write_text("mine")
    assert "connection reset" in message_of(load_data, "mnist", data_dir=tmp_path)
    assert files_in(tmp_path) == ["mine.txt"]


@pytest.mark.parametrize("partly", [False, True])
def test_a_download_is_put_in_place_whole(tmp_path, monkeypatch, partly):
    """Also where some of the files are there already; no temporary folder stays."""
    monkeypatch.setattr(
        torchvision.datasets, "MNIST",
        lambda root, download: [write_idx(Path(root) / "MNIST" / "raw", split=split) for split in ("train", "t10k")],
    )  # fmt: skip
    if partly:
        write_idx(tmp_path / "MNIST" / "raw", split="t10k")
    assert not DATASETS["mnist"].present(tmp_path)
    assert len(load_data("mnist", data_dir=tmp_path)) == len(load_data("mnist", data_dir=tmp_path, split="test")) == 12
    assert DATASETS["mnist"].present(tmp_path) and [p.name for p in tmp_path.iterdir()] == ["MNIST"]


def fake_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """CIFAR-10's files with 4 images each, and the checksums torchvision will hold them against."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    content = np.random.default_rng(1).integers(0, 256, (4, 3072), dtype=np.uint8)

    def put(name: str, what: object) -> str:
        (folder / name).write_bytes(pickle.dumps(what))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    batch = put("data_batch_1", {"data": content, "labels": [3, 1, 0, 2]})
    tested = put("test_batch", {"data": content[:2], "labels": [1, 1]})
    meta = put("batches.meta", {"label_names": ["a_b", "c", "d", "e"]})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [["data_batch_1", batch]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [["test_batch", tested]])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta",
                        {"filename": "batches.meta", "key": "label_names", "md5": meta})  # fmt: skip
    return content.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)


def test_cifar_through_torchvision(tmp_path, monkeypatch):
    """Channels last, labels with names; a batch that fails its checksum is refused, in one line."""
    images = fake_cifar(tmp_path, monkeypatch)
    loaded = load_data("cifar10", data_dir=tmp_path)
    np.testing.assert_array_equal(loaded.images, images)
    assert [loaded.names_of(i) for i in range(4)] == [["e"], ["c"], ["a b"], ["d"]] and loaded.flip
    assert load_data("cifar10", data_dir=tmp_path, split="test", image_size=16).images.shape == (2, 16, 16, 3)
    with open(tmp_path / "cifar-10-batches-py" / "data_batch_1", "ab") as file:
        file.write(b"!")
    assert "Delete it" in message_of(load_data, "cifar10", data_dir=tmp_path)


# --- image files --------------------------------------------------------------------------------------------------


def test_celeba(tmp_path):
    """Cut 178x178 out of the middle, split by number, attributes as labels, what is missing counted."""
    names = ["Bald", "Smiling", "Young"]
    rows = {"000001": [1, -1, 1], "000002": [-1, -1, -1], "162771": [1, 1, 1], "182638": [-1, 1, -1]}
    for number in rows:
        picture(tmp_path / "celeba" / "img_align_celeba" / f"{number}.jpg", (178, 218))
    text = ["4", " ".join(names), *(f"{n}.jpg  " + "  ".join(map(str, row)) for n, row in rows.items())]
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text("\n".join(text) + "\n")
    loaded = load_data("celeba", data_dir=tmp_path)
    assert loaded.images.shape == (2, 64, 64, 3) and loaded.flip
    assert loaded.names_of(0) == ["Bald", "Young"] and loaded.names_of(1) == []
    assert "162768 of the 162770 images" in loaded.notes[0]
    whole = read_image(tmp_path / "celeba" / "img_align_celeba" / "000001.jpg")
    np.testing.assert_array_equal(loaded.images[0], crop_resize(whole[20:198], 64))
    assert len(load_data("celeba", data_dir=tmp_path, split="valid")) == 1
    assert load_data("celeba", data_dir=tmp_path / "celeba", split="test").names_of(0) == ["Smiling"]
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text("4\nBald\n000001.jpg")
    assert "list_attr_celeba.txt is incomplete" in message_of(load_data, "celeba", data_dir=tmp_path)
    (tmp_path / "celeba" / "list_attr_celeba.txt").unlink()
    assert load_data("celeba", data_dir=tmp_path).labels.shape == (2, 0)


def test_a_folder_of_every_kind_of_image(tmp_path):
    """All suffixes and modes, nested, upright by EXIF; hidden and other files, __MACOSX and link loops left alone."""
    for number, suffix in enumerate(("png", "jpg", "jpeg", "bmp", "webp", "gif", "tif", "PNG")):
        picture(tmp_path / "cats" / "deep" / f"{number}.{suffix}")
    for mode in ("L", "P", "RGBA", "1", "LA"):
        picture(tmp_path / "dogs" / f"{mode}.png", mode=mode)
    Image.fromarray(np.full((30, 40), 30_000, np.uint16)).save(tmp_path / "dogs" / "16bit.png")
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture(tmp_path / "dogs" / "turned.jpg", exif=exif, quality=95)
    picture(tmp_path / "dogs" / ".hidden.png")
    picture(tmp_path / ".hidden" / "a.png")
    picture(tmp_path / "__MACOSX" / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cats" / "loop").symlink_to(tmp_path)
    loaded = load_data("folder", data_dir=tmp_path, image_size=24)
    assert loaded.images.shape == (16, 24, 24, 3) and loaded.notes == [] and loaded.flip
    assert loaded.label_names == ["cats", "dogs"] and loaded.labels.sum(axis=0).tolist() == [8, 7]
    paths = image_paths(tmp_path)
    assert (loaded.images[paths.index("clear.png")] == 255).all() and loaded.names_of(paths.index("clear.png")) == []
    assert abs(loaded.images[paths.index("dogs/16bit.png")].astype(int) - 30_000 // 257).max() <= 1
    turned = loaded.images[paths.index("dogs/turned.jpg")].astype(int)
    assert turned[:12, :, 1].mean() < 150 and turned[:, :12, 1].mean() > turned[:, 12:, 1].mean() + 50


@pytest.fixture()
def spoiled(tmp_path) -> Path:
    """Three good images, one of them small, among seven that cannot be read."""
    folder = tmp_path / "photos"
    picture(folder / "good1.png")
    picture(folder / "good2.jpg")
    picture(folder / "small.png", (12, 9))
    (folder / "a-empty.png").write_bytes(b"")
    (folder / "b-text.jpg").write_text("this is no image")
    for suffix in ("png", "jpg", "gif"):
        whole = picture(folder / f"cut.{suffix}", (90, 90)).read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    (folder / "folder.png").mkdir()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "zeros.tif").write_bytes(bytes(500))
    return folder


def test_bad_files_are_left_out_and_counted(spoiled):
    """The good ones arrive in order; one line counts the bad and names the first, the same from the store."""
    for _ in range(2):
        loaded = load_data("folder", data_dir=spoiled, image_size=16)
        assert len(loaded) == 3 and loaded.labels.shape == (3, 0)
        assert loaded.notes[0].startswith("7 of 10 files cannot be read and are left out: a-empty.png, b-text.jpg, ")
        assert loaded.notes[1] == "1 of 3 images are smaller than 16x16 and were enlarged"
        np.testing.assert_array_equal(loaded.images[0], crop_resize(read_image(spoiled / "good1.png"), 16))


def test_bad_files_stop_when_asked_to(spoiled):
    """Also when the store already holds what was left after skipping."""
    for _ in range(2):
        message = message_of(load_data, "folder", data_dir=spoiled, image_size=16, on_bad="stop")
        assert "a-empty.png" in message
        load_data("folder", data_dir=spoiled, image_size=16)


def test_a_changed_folder_is_decoded_again(tmp_path):
    """A file added, removed or changed in place is noticed; the store does not grow with every change."""
    folder = tmp_path / "photos"
    for name in "abcd":
        picture(folder / f"{name}.png")
    assert len(load_data("folder", data_dir=folder)) == 4
    picture(folder / "e.png")
    assert len(load_data("folder", data_dir=folder)) == 5
    before = load_data("folder", data_dir=folder).images[1].copy()
    Image.new("RGB", (40, 30), "red").save(folder / "b.png")  # none of the three that are decoded again to compare
    assert (load_data("folder", data_dir=folder).images[1] != before).any()
    (folder / "b.png").unlink()
    assert len(load_data("folder", data_dir=folder)) == 4
    assert len(files_in(decoded.cache_dir() / "images")) == 2


def test_a_picture_of_the_same_size_in_bytes_is_another_one(tmp_path):
    """Edited in place, uncompressed: only the time of change tells. Fails when that is left out of the key."""
    folder = tmp_path / "photos"
    for name in "abcde":
        picture(folder / f"{name}.bmp")
    first, changed = load_data("folder", data_dir=folder), folder / "b.bmp"  # none of the three that are compared
    before = changed.stat()
    Image.new("RGB", (40, 30), "red").save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert changed.stat().st_size == before.st_size
    second = load_data("folder", data_dir=folder)
    assert (second.images[1] == (255, 0, 0)).all() and (second.images[2:] == first.images[2:]).all()


def test_folders_that_hold_nothing(tmp_path):
    """No folder, a file, no images, none readable: each its own line."""
    assert "`data_dir`" in message_of(load_data, "folder")
    assert "does not exist" in message_of(load_data, "folder", data_dir=tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "not a folder" in message_of(load_data, "folder", data_dir=tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "holds no image files (.png" in message_of(load_data, "folder", data_dir=tmp_path / "empty")
    (tmp_path / "empty" / "a.png").write_bytes(b"")
    assert "none of the 1 image files" in message_of(load_data, "folder", data_dir=tmp_path / "empty")


def test_sub_folders_are_labels_only_when_they_tell_apart(tmp_path, monkeypatch):
    """One sub-folder alone is no label; too many are none."""
    picture(tmp_path / "photos" / "all" / "a.png")
    assert load_data("folder", data_dir=tmp_path / "photos").label_names == []
    picture(tmp_path / "photos" / "other" / "a.png")
    assert load_data("folder", data_dir=tmp_path / "photos").label_names == ["all", "other"]
    monkeypatch.setattr(picture_sets, "MAX_FOLDER_LABELS", 1)
    loaded = load_data("folder", data_dir=tmp_path / "photos")
    assert loaded.labels.shape == (2, 0) and "2 sub-folders" in loaded.notes[-1]


# --- files for others, and the command line -----------------------------------------------------------------------


def run(*arguments: object) -> tuple[str, str]:
    """Output and warnings of `minidiff data ...`."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False,
                                standalone_mode=False)  # fmt: skip
    if result.exception:
        raise result.exception
    return result.stdout, result.stderr


def test_list_names_every_set(tmp_path):
    """One row for each, with sizes, and whether it is here: in the cache, or in the folder that is named."""
    output, _ = run("list")
    rows = {line.split()[0]: line for line in output.splitlines()[1:]}
    assert list(rows) == [*DATASETS, *HAZY_SETS]
    assert "32x32x3" in rows["shapes"] and rows["shapes"].endswith("yes")
    assert "60,000" in rows["mnist"] and rows["mnist"].endswith("no")
    assert "test 1,000" in rows["hazy-landscapes"] and rows["hazy-landscapes"].endswith("yes")
    assert rows["hazy-pairs"].endswith("no")
    write_idx(tmp_path, split="train")
    write_idx(tmp_path, split="t10k")
    output, _ = run("list", "--data-dir", tmp_path)
    assert next(line for line in output.splitlines() if line.startswith("mnist ")).endswith("yes")


def test_preview_writes_a_grid_and_says_the_labels(tmp_path):
    """Sixteen of the images, the seed choosing which; nothing is replaced without --force."""
    out = tmp_path / "grid.png"
    output, _ = run("preview", "shapes", "--out", out, "--num", 16, "--seed", 1)
    chosen = np.random.default_rng(1).permutation(40)[:16]
    first = " + ".join(shapes.NAMES[i] for i in shapes.scene(int(chosen[0])))
    assert output.startswith(f"row 1: {first} | ") and "16 of the 40 images of shapes (train), 32x32" in output
    assert read_image(out).shape == (4 * 66 + 2, 4 * 66 + 2, 3)
    with pytest.raises(UserError, match="--force"):
        run("preview", "shapes", "--out", out)
    run("preview", "shapes", "--out", out, "--force", "--num", 1, "--split", "new_test")
    assert read_image(out).shape == (32, 32, 3)  # one image is written plain


def test_preview_passes_notes_on_as_warnings(tmp_path, spoiled):
    output, warnings = run("preview", "folder", "--data-dir", spoiled, "--image-size", 16, "--out", tmp_path / "g.png")
    assert "3 of the 3 images" in output and "Warning: 7 of 10 files cannot be read" in warnings
    with pytest.raises(UserError, match=r"a-empty\.png"):
        run("preview", "folder", "--data-dir", spoiled, "--on-bad", "stop", "--out", tmp_path / "h.png")


def test_unknown_names_on_the_command_line(tmp_path):
    with pytest.raises(click.UsageError, match="Did you mean 'shapes'"):
        run("preview", "shaped", "--out", tmp_path / "g.png")


def test_export_is_in_iclevrs_format(tmp_path, monkeypatch):
    """Images, labels by file name, numbers by label, and 32 conditions each; a second export is refused."""
    folder = tmp_path / "set"
    output, _ = run("export", "shapes", folder, "--num", 10)
    assert output.startswith("10 images of shapes (train), 32x32")
    tables = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert sorted(tables) == ["new_test", "objects", "test", "train"] and tables["objects"] == shapes.LABELS
    for index in range(10):
        name = f"{index:06d}.png"
        assert tables["train"][name] == [shapes.NAMES[i] for i in shapes.scene(index)]
        np.testing.assert_array_equal(read_image(folder / "images" / name), shapes.draw(index))
    for split, out in (("test", False), ("new_test", True)):
        assert len(tables[split]) == 32
        assert all(shapes.held_out([tables["objects"][name] for name in names]) == out for names in tables[split])
    monkeypatch.setattr("minidiff.data.datasets.load_data", lambda **_: pytest.fail("it read the images first"))
    with pytest.raises(UserError, match="'train' is there already"):
        run("export", "shapes", folder)
    with pytest.raises(UserError, match="not an empty folder"):
        run("export", "shapes", folder / "images")
    assert len(list((folder / "images").iterdir())) == 10


def test_export_of_another_set(tmp_path):
    """Grey images come as three channels; the listing of a split that is not `train` says so in its name."""
    images, labels = write_idx(tmp_path / "in", split="t10k")
    loaded = load_data("mnist", data_dir=tmp_path / "in", split="test", image_size=28)
    paths = list(export(loaded, tmp_path / "out", "test"))
    assert len(paths) == 12 and files_in(tmp_path / "out")[0] == "images"
    np.testing.assert_array_equal(read_image(paths[5])[..., 1], images[5])
    assert json.loads((tmp_path / "out" / "test-images.json").read_text())["test-000005.png"] == [str(labels[5])]
    assert not (tmp_path / "out" / "test.json").exists()


def test_labels_that_could_not_be_read_back_are_not_exported(tmp_path):
    """iCLEVR's format has no place for a comma in a name."""
    for kind in ("birds", "cats, dogs"):
        write_image(tmp_path / "data" / kind / "0.png", np.zeros((16, 16, 3), np.uint8))
    data = load_data("folder", data_dir=tmp_path / "data", image_size=16)
    with pytest.raises(UserError, match="the label 'cats, dogs' cannot go into objects.json"):
        list(export(data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
