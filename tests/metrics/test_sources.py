"""What can be compared: every form of images becomes the same bytes, and bad ones are named in one line."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidiff.errors import UserError
from minidiff.images.files import write_image
from minidiff.metrics.sources import ImageSource
from minidiff.metrics.statistics import StoredStatistics, save_statistics
from minidiff.pretrained.sources import open_place


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 [10,12,20,3]."""
    return np.random.default_rng(0).integers(0, 256, (10, 12, 20, 3), np.uint8)


def opened(place: Path | str, **options: object) -> ImageSource:
    source = open_place(str(place), **options)  # type: ignore[arg-type]
    assert isinstance(source, ImageSource)
    return source


def all_of(source: ImageSource, batch_size: int = 4) -> np.ndarray:
    images = [np.asarray(image) for batch in source.batches(batch_size) for image in batch]
    assert len(images) == source.count
    return np.stack(images)


def message(place: Path | str, **options: object) -> str:
    """What opening it and reading it all says."""
    with pytest.raises(UserError) as caught:
        all_of(opened(place, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- every form of the same images --------------------------------------------------------------------------------

FORMS = {
    "bytes": lambda x: x,
    "integers": lambda x: x.astype(np.int64),
    "unit": lambda x: (x / 255).astype(np.float32),
    "unit64": lambda x: x / 255,
    "half": lambda x: (x / 255).astype(np.float16),
    "signed": lambda x: (x / 127.5 - 1).astype(np.float32),
    "floats of bytes": lambda x: x.astype(np.float32),
    "channels first": lambda x: x.transpose(0, 3, 1, 2),
    "signed channels first": lambda x: (x / 127.5 - 1).transpose(0, 3, 1, 2),
}


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_array_is_the_same_bytes(tmp_path: Path, pixels: np.ndarray, form: str, kind: str) -> None:
    array = np.ascontiguousarray(FORMS[form](pixels))
    if kind == "npy":
        np.save(tmp_path / "a.npy", array)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(tmp_path / "a.npz", array)
    source = opened(tmp_path / ("a.npy" if kind == "npy" else "a.npz"))
    off = np.abs(all_of(source).astype(int) - pixels).max()
    assert off <= (0 if form != "half" else 1)
    assert source.size == "12x20"
    assert bool(source.changes) == (form != "bytes")


@pytest.mark.parametrize("shape", ["NHW", "NHW1", "N1HW"])
def test_grey_is_repeated_and_said(tmp_path: Path, pixels: np.ndarray, shape: str) -> None:
    grey = pixels[..., 0]
    array = {"NHW": grey, "NHW1": grey[..., None], "N1HW": grey[:, None]}[shape]
    np.save(tmp_path / "a.npy", array)
    source = opened(tmp_path / "a.npy")
    assert (all_of(source) == grey[..., None]).all()
    assert "grey repeated to RGB" in source.changes


def test_a_folder_is_read_whole_with_its_sub_folders(tmp_path: Path, pixels: np.ndarray) -> None:
    for number, image in enumerate(pixels):
        write_image(tmp_path / ("a" if number < 5 else "b") / f"{number}.png", image)
    source = opened(tmp_path)
    assert (all_of(source) == pixels).all()
    assert source.changes == ["in 2 folders"]


def test_images_of_different_sizes_come_as_they_are(tmp_path: Path, pixels: np.ndarray) -> None:
    write_image(tmp_path / "0.png", pixels[0])
    write_image(tmp_path / "1.png", pixels[1, :8, :9])
    source = opened(tmp_path)
    (batch,) = source.batches(4)
    assert [image.shape for image in batch] == [(12, 20, 3), (8, 9, 3)]
    assert source.changes == ["2 different sizes"]
    assert source.size == "8x9 to 12x20"


def test_a_data_set(tmp_path: Path) -> None:
    source = opened("dataset:shapes:test", image_size=16)
    batch = next(iter(source.batches(8)))
    assert np.asarray(batch).shape == (8, 16, 16, 3)
    assert source.count > 100 and source.fingerprint


def test_a_run_is_sampled_as_sample_does(trained: Path) -> None:
    """The images of `minidiff sample`, whatever the batch size."""
    import minidiff
    from minidiff.images.convert import to_uint8

    source = opened(trained, num=5, seed=3, steps=4)
    assert source.sampled and source.count == 5
    (expected,) = minidiff.load(trained).sample(5, seed=3, steps=4)
    assert np.abs(all_of(source, 2).astype(int) - to_uint8(expected)).max() <= 1


# --- several arrays in one file -----------------------------------------------------------------------------------


def test_a_reference_batch_of_adm_is_images_with_statistics(tmp_path: Path, pixels: np.ndarray) -> None:
    """Each can be had alone by its name, and what is left aside is known."""
    np.savez(tmp_path / "a.npz", mu=np.zeros(4), sigma=np.eye(4), mu_s=np.zeros(2), sigma_s=np.eye(2), arr_0=pixels)
    both = opened(tmp_path / "a.npz")
    assert (all_of(both) == pixels).all()
    assert both.arrays == "arr_0" and both.unused == ["mu_s", "sigma_s"]
    assert both.statistics is not None and (both.statistics.covariance == np.eye(4)).all()
    alone = opened(f"{tmp_path / 'a.npz'}:arr_0")
    assert alone.statistics is None and alone.unused == ["mu", "sigma", "mu_s", "sigma_s"]
    stored = open_place(f"{tmp_path / 'a.npz'}:mu")
    assert isinstance(stored, StoredStatistics) and len(stored.mean) == 4
    assert stored.unused == ["mu_s", "sigma_s", "arr_0"]


def test_one_of_several_arrays_must_be_named(tmp_path: Path, pixels: np.ndarray) -> None:
    """Nothing is taken because of its name or its place. Labels and the like are no images, so they do not count."""
    np.savez(tmp_path / "mnist.npz", x_train=pixels, x_test=pixels[:4, ..., 0], y_train=np.zeros(10))
    text = message(tmp_path / "mnist.npz")
    assert "mnist.npz:x_train" in text and "mnist.npz:x_test" in text and "y_train" not in text
    assert (all_of(opened(f"{tmp_path / 'mnist.npz'}:x_train")) == pixels).all()
    assert opened(f"{tmp_path / 'mnist.npz'}:x_test").count == 4
    assert "Did you mean 'x_train'" in message(f"{tmp_path / 'mnist.npz'}:x_trian")
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.zeros((10, 3), np.uint8))
    source = opened(tmp_path / "images.npz")
    assert (source.arrays, source.unused) == ("images", ["labels"])


def test_a_file_with_a_colon_in_its_name(tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "a.npz:b.npy", pixels)
    assert opened(tmp_path / "a.npz:b.npy").count == 10


# --- statistics ---------------------------------------------------------------------------------------------------


def test_statistics_come_back_as_they_were(tmp_path: Path) -> None:
    stored = StoredStatistics("x", np.arange(3.0), np.diag([1.0, 2.0, 3.0]), 17, {"network": "inception", "dims": 3})
    save_statistics(tmp_path / "s.npz", stored)
    again = open_place(str(tmp_path / "s.npz"))
    assert isinstance(again, StoredStatistics)
    assert (again.mean == stored.mean).all() and (again.covariance == stored.covariance).all()
    assert again.count == 17 and again.about["network"] == "inception"


def test_statistics_of_others_say_nothing_of_themselves(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3, dtype=np.float32))
    again = open_place(str(tmp_path / "s.npz"))
    assert isinstance(again, StoredStatistics) and again.count is None and again.about == {}
    assert again.mean.dtype == np.float64


@pytest.mark.parametrize(
    ("mu", "sigma", "said"),
    [
        (np.zeros(3), np.eye(4), "do not fit"),
        (np.zeros((3, 1)), np.eye(3), "do not fit"),
        (np.array([0, np.nan, 0]), np.eye(3), "not finite"),
        (np.zeros(3), np.triu(np.ones((3, 3))), "not symmetric"),
    ],
)
def test_bad_statistics(tmp_path: Path, mu: np.ndarray, sigma: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "s.npz", mu=mu, sigma=sigma)
    assert said in message(tmp_path / "s.npz")


# --- bad input ----------------------------------------------------------------------------------------------------


def test_places_that_are_not_there(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "nothing")
    assert "holds no images" in message(tmp_path)
    assert "Did you mean 'fashion-mnist'" in message("dataset:fashion-mnits")
    assert "split" in message("dataset:shapes:tset")
    assert "too many colons" in message("dataset:shapes:test:fog-3:1")
    (tmp_path / "a.txt").write_text("a")
    assert "not a folder, a .npy or a .npz" in message(tmp_path / "a.txt")


@pytest.mark.parametrize("kind", ["cut", "text"])
def test_one_bad_image_among_many_is_named(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    for number, image in enumerate(pixels):
        write_image(tmp_path / f"{number}.png", image)
    bad = tmp_path / "7.png"
    bad.write_bytes(bad.read_bytes()[:300] if kind == "cut" else b"not a picture")
    text = message(tmp_path, on_bad="stop")
    assert "7.png" in text and "Mend or remove it, or let `on_bad` skip" in text


def test_bad_files_are_left_out_counted_and_named(tmp_path: Path, pixels: np.ndarray, clf: Path) -> None:
    """As in a training: those whose header is bad, and those that turn out to be cut while they are read."""
    import minidiff

    for number, image in enumerate(pixels):
        write_image(tmp_path / f"{number}.png", image)
    for number in (2, 5):
        bad = tmp_path / f"{number}.png"
        bad.write_bytes(bad.read_bytes()[:300])
    (tmp_path / "7.png").write_bytes(b"not a picture")
    source = opened(tmp_path)
    assert source.count == 9
    images = [image for batch in source.batches(4) for image in batch]
    assert (np.stack(images) == pixels[[0, 1, 3, 4, 6, 8, 9]]).all()
    found = minidiff.distance(str(tmp_path), str(tmp_path), features=str(clf), device="cpu")
    assert found.a.count == 7
    assert found.a.changes == ["3 of 10 files cannot be read and are left out: 2.png, 5.png, 7.png"]
    write_image(tmp_path / "7.png", pixels[7])  # now ten headers are sound, and eight images
    with pytest.raises(UserError, match="A has 8 images, and is needs at least 10"):
        minidiff.distance(str(tmp_path), str(tmp_path), features=str(clf), metrics=("is",), device="cpu")
    with pytest.raises(UserError, match=r"let `on_bad` skip"):
        minidiff.distance(str(tmp_path), str(tmp_path), features=str(clf), on_bad="stop", device="cpu")
    for path in tmp_path.iterdir():
        path.write_bytes(b"no picture")
    assert "none of the 10 image files" in message(tmp_path)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 8, 8, 4), np.uint8), "Images are [N,H,W,3]"),
        (np.zeros((4, 8), np.uint8), "Images are [N,H,W,3]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "Images are [N,H,W,3]"),
        (np.zeros((8, 8, 3), np.uint8), "a single image"),
        (np.full((4, 8, 8, 3), 300), "integers from 300 to 300"),
        (np.zeros((4, 8, 8, 3), np.int64), "integers from 0 to 0"),
        (np.linspace(-3, 3, 4 * 8 * 8 * 3).reshape(4, 8, 8, 3), "values from -3 to 3 are in none of"),
        (np.zeros((4, 8, 8, 3), np.complex64), "type complex64"),
        (np.array([["a"]]), "Images are"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "a.npy", array)
    assert said in message(tmp_path / "a.npy")


def test_a_number_that_is_none_is_found_and_its_image_named(tmp_path: Path, pixels: np.ndarray) -> None:
    array = np.repeat((pixels / 255).astype(np.float32), 60, axis=0)
    array[431, 3, 3, 1] = np.nan
    np.save(tmp_path / "a.npy", array)
    assert "image 431 has values that are not finite" in message(tmp_path / "a.npy")


def test_files_that_are_damaged(tmp_path: Path, pixels: np.ndarray) -> None:
    np.save(tmp_path / "cut.npy", pixels)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-100])
    assert "cut short" in message(tmp_path / "cut.npy")
    np.save(tmp_path / "two.npy", pixels)
    with open(tmp_path / "two.npy", "ab") as file:
        np.save(file, pixels)
    assert "more than one array" in message(tmp_path / "two.npy")
    np.savez_compressed(tmp_path / "cut.npz", pixels)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-100])
    assert "cannot be read" in message(tmp_path / "cut.npz")
    (tmp_path / "no.npz").write_bytes(b"nothing of the kind")
    assert "cannot be read" in message(tmp_path / "no.npz")
    np.savez_compressed(tmp_path / "flip.npz", pixels)
    content = bytearray((tmp_path / "flip.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "flip.npz").write_bytes(bytes(content))
    assert "flip.npz" in message(tmp_path / "flip.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "Python objects" in message(tmp_path / "o.npy")
    with zipfile.ZipFile(tmp_path / "labels.npz", "w") as archive:
        archive.writestr("labels.npy", (tmp_path / "o.npy").read_bytes())
    assert "labels (object [1])" in message(tmp_path / "labels.npz")
    assert "Python objects" in message(f"{tmp_path / 'labels.npz'}:labels")


def test_a_run_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"kind": "dip"}')
    assert "is a dip run" in message(tmp_path)


def test_an_animation_or_palette_is_an_image_too(tmp_path: Path) -> None:
    Image.new("P", (9, 9)).save(tmp_path / "a.gif")
    assert all_of(opened(tmp_path)).shape == (1, 9, 9, 3)
