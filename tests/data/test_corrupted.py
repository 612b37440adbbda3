"""A whole data set under a corruption: read like an array, trained on, resumed, measured, looked at."""

import errno
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_training

from minidiff import cli, load, load_data
from minidiff.classifier import job as classifier_job
from minidiff.classifier.config import ClassifierRequest
from minidiff.data import corrupted
from minidiff.data import datasets as data
from minidiff.data.corrupted import Corrupted
from minidiff.data.corruptions import corrupt
from minidiff.ddpm import job as ddpm_job
from minidiff.ddpm.config import DdpmRequest
from minidiff.ddpm.samples import training_data
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.images.convert import Pixels
from minidiff.images.files import read_image, write_image
from minidiff.metrics import sources
from minidiff.pretrained.sources import open_place
from minidiff.runs import folder as checkpoint
from minidiff.training.resume import resume


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """To train without drawing, which takes a hundred times as long."""
    monkeypatch.setattr(ddpm_job.DdpmJob, "preview", lambda self, step: [])


@pytest.fixture()
def clean() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MNIST of 30 and 12 images: rings of a class's size."""
    folder = tmp_path_factory.mktemp("mnist")
    y, x = np.mgrid[:28, :28] - 13.5
    for prefix, count in (("train", 30), ("t10k", 12)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        rings = np.abs(np.hypot(x, y) - 2 - labels[:, None, None]) < 1.5
        for array, kind in ((255 * rings.astype(np.uint8), "images-idx3-ubyte"), (labels, "labels-idx1-ubyte")):
            magic = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (folder / f"{prefix}-{kind}.gz").write_bytes(gzip.compress(magic + array.tobytes()))
    return folder


# --- the array --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [corrupted.KEPT, 0])
def test_it_is_read_like_an_array(clean: Pixels, kept: int, monkeypatch: pytest.MonkeyPatch):
    """By number, slice, list, array of numbers or of bools: the same images; in blocks, and not kept, as well."""
    monkeypatch.setattr(corrupted, "KEPT", kept)
    monkeypatch.setattr(corrupted, "AT_ONCE", 3 * 16 * 16 * 3)
    images = Corrupted(clean, "rotate", 4, seed=9)
    truth = corrupt(clean, "rotate", 4, range(20), seed=9)
    assert (images.shape, images.dtype, images.nbytes, images.ndim, len(images)) == (
        (20, 16, 16, 3), np.uint8, 20 * 16 * 16 * 3, 4, 20
    )  # fmt: skip
    mask = np.arange(20) % 3 == 0
    for index in (5, -1, np.int64(2), slice(3, 9), slice(None, None, -2), slice(0, 0), [4], [7, 7, 1], mask,
                  np.array([[1, 2], [3, 4]]), np.array([], dtype=int)):  # fmt: skip
        np.testing.assert_array_equal(images[index], truth[index])
    np.testing.assert_array_equal(np.array(images), truth)
    np.testing.assert_array_equal(np.asarray(images), truth)
    assert np.asarray(images, dtype=float).dtype == float
    np.testing.assert_array_equal(images.clean, clean)
    with pytest.raises(IndexError):
        images[20]


def test_an_image_is_corrupted_once(clean: Pixels, monkeypatch: pytest.MonkeyPatch):
    """And what is handed out is a copy."""
    numbers: list[int] = []

    def counting(images: Pixels, name: str, severity: int, indices: np.ndarray, seed: int) -> Pixels:
        numbers.extend(indices)
        return corrupt(images, name, severity, indices, seed)

    monkeypatch.setattr(corrupted, "corrupt", counting)
    images = Corrupted(clean, "fog", 2)
    for index in ([3, 3, 5], slice(4, 7), 5, [3]):
        images[index][:] = 0
    assert sorted(numbers) == [3, 4, 5, 6]
    np.testing.assert_array_equal(images[3:7], corrupt(clean[3:7], "fog", 2, range(3, 7)))
    Corrupted(clean, "fog", 2)[:]
    assert len(numbers) == 24


def test_words():
    assert corrupted.written("motion_blur", 3) == "motion_blur-3" and corrupted.written("identity", 3) == ""
    assert corrupted.read("motion_blur-3") == {"corruption": "motion_blur", "severity": 3}
    for word, message in (
        ("motion_blur", "'motion_blur' is not a corruption with a severity of 1 to 5. Write it as in motion_blur-3"),
        ("fog-x", "'fog-x' is not a corruption with a severity"),
        ("fog-6", "severity 6 is not one of 1 to 5"),
        ("frog-3", "unknown corruption 'frog'. Did you mean 'fog'?"),
    ):
        with pytest.raises(UserError, match=message):
            corrupted.read(word)
    with pytest.raises(UserError, match="severity 9"):
        Corrupted(np.zeros((1, 8, 8, 1), np.uint8), "fog", 9)


# --- a data set -------------------------------------------------------------------------------------------------------


def test_load_data(mnist: Path):
    """Labels as they were; the images under the corruption, other ones in each split; and their own fingerprint."""
    plain = load_data("mnist", data_dir=mnist)
    fog = load_data("mnist", data_dir=mnist, corruption="fog", severity=2)
    assert (plain.corruption, plain.place) == ("", "dataset:mnist")
    assert (fog.corruption, fog.place, len(fog)) == ("fog-2", "dataset:mnist:train:fog-2", 30)
    assert fog.name == "mnist" and fog.label_names == plain.label_names
    np.testing.assert_array_equal(fog.labels, plain.labels)
    expected = corrupt(plain.images, "fog", 2, range(30), corrupted.seed_of("train"))
    np.testing.assert_array_equal(fog.images[:], expected)
    np.testing.assert_array_equal(fog.rgb([4, 2]), expected[[4, 2]].repeat(3, axis=3))
    test = load_data("mnist", data_dir=mnist, corruption="fog", severity=2, split="test")
    assert (test.images[0] != fog.images[0]).any()  # the first ring of both splits is the same
    again = load_data("mnist", data_dir=mnist, corruption="fog", severity=2)
    assert again.fingerprint() == fog.fingerprint()
    others = [load_data("mnist", data_dir=mnist, corruption=name, severity=severity).fingerprint()
              for name, severity in (("fog", 3), ("zigzag", 2), ("identity", 2), ("identity", 4))]  # fmt: skip
    assert len({fog.fingerprint(), *others}) == 4 and others[2] == others[3] == plain.fingerprint()
    for wrong, message in (({"corruption": "frog"}, "Did you mean 'fog'"), ({"severity": 7}, "severity 7")):
        with pytest.raises(UserError, match=message):
            load_data("mnist", data_dir=mnist, **wrong)


def test_what_a_mirror_would_give_away_is_not_mirrored(photos: Path):
    flips = {name: load_data("folder", data_dir=photos, corruption=name, image_size=16).flip
             for name in ("identity", "motion_blur", "rotate", "zigzag")}  # fmt: skip
    assert flips == {"identity": True, "motion_blur": False, "rotate": True, "zigzag": False}


def test_a_source_to_measure(mnist: Path):
    source = open_place("dataset:mnist:test:stripe-3", data_dir=mnist)
    assert isinstance(source, sources.ImageSource)
    (batch,) = source.batches(100)
    plain = load_data("mnist", data_dir=mnist, split="test").images
    np.testing.assert_array_equal(batch, corrupt(plain, "stripe", 3, range(12)).repeat(3, axis=3))
    other = open_place("dataset:mnist:test", data_dir=mnist)
    assert isinstance(other, sources.ImageSource) and other.fingerprint != source.fingerprint
    for place, message in (
        ("dataset:mnist:test:stripe", "Write it as in motion_blur-3"),
        ("dataset:mnist:test:stripe-0", "severity 0"),
        ("dataset:mnist:test:stripe-3:4", "too many colons"),
        ("dataset:mnsit", "Did you mean 'mnist'"),
    ):
        with pytest.raises(UserError, match=message):
            data.read_place(place)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
def test_a_training_on_corrupted_images(photos: Path, tiny_preset: str, capsys: pytest.CaptureFixture[str]):
    """Is named after the corruption, resumes to the bit though the batches in which an image is first read are others,
    and knows its training images again. Without a corruption config.json is as it ever was."""
    harm = ["--corruption", "motion_blur", "--severity", "2", "--warmup", "1"]
    assert cli.run(tiny_training(photos, *harm, "--steps", "4")) == 0
    assert "24 images, 16x16, 3 channels, under motion_blur-2" in capsys.readouterr().out
    whole = Path("runs/ddpm-folder-motion_blur-2-1")
    described = checkpoint.read_config(whole)["data"]
    assert (described["corruption"], described["severity"]) == ("motion_blur", 2)
    assert cli.run(tiny_training(photos, *harm, "--steps", "2", "--out", "half")) == 0
    assert cli.run(["train", "ddpm", "--resume", "half", "--steps", "4"]) == 0
    weights = [checkpoint.read_weights(Path(run))[0] for run in (whole, "half")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    again = training_data(load("half"))
    assert again.corruption == "motion_blur-2" and again.fingerprint() == described["fingerprint"]

    planned = ddpm_job.plan(DdpmRequest(dataset="folder", data_dir=photos, preset=tiny_preset))
    assert planned.config.data.corruption == "identity" and not planned.data.corruption
    capsys.readouterr()
    assert cli.run(["train", "ddpm", "--resume", "half", "--corruption", "fog"]) == 2
    assert "--corruption is part of the run" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_resuming_under_another_corruption_is_refused(photos: Path, tiny_preset: str):
    """As with any other change of the data."""
    assert cli.run(tiny_training(photos, "--corruption", "fog", "--out", "run", "--steps", "1")) == 0
    config = json.loads(Path("run/config.json").read_text())
    config["data"]["severity"] = 5
    Path("run/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="that are not the same"):
        resume(ddpm_job.DdpmJob, "run")


def test_a_classifier_is_asked_about_images_as_corrupted_as_it_learns(mnist: Path):
    request = ClassifierRequest(dataset="mnist", data_dir=mnist, image_size=28, corruption="stripe", severity=1,
                                width=4, steps=2, batch_size=10, device="cpu")  # fmt: skip
    planned = classifier_job.plan(request)
    assert planned.asked.corruption == planned.data.corruption == "stripe-1"
    plain = load_data("mnist", data_dir=mnist, split="test", image_size=28)
    np.testing.assert_array_equal(planned.asked.images[:], corrupt(plain.images, "stripe", 1, range(12)))


# --- to look at -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["data preview shapes --out x.png", "data export shapes x", "train dcgan", "train ddpm", "train classifier"],
)
def test_a_severity_without_a_corruption_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Else one would believe the images corrupted."""
    assert cli.run([*command.split(), "--severity", "5"]) == 2
    assert "--severity needs a --corruption" in capsys.readouterr().err
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("write", [lambda path: write_image(path, np.zeros((8, 8, 3), np.uint8)),
                                   lambda path: write_json(path, {})])  # fmt: skip
def test_a_read_only_place_is_named_by_the_file_that_was_asked_for(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removing the temporary file fails there, too."""

    def refuse(self: object, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", f"{tmp_path}/.x.png.tmp")

    for name in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"cannot write .*/x\.png: Read-only file system\."):
        write(tmp_path / "x.png")


def test_preview_and_export(mnist: Path, capsys: pytest.CaptureFixture[str]):
    """A sheet of all, of which each cell is the image under that corruption; a grid under one; and files."""
    preview = ["data", "preview", "mnist", "--data-dir", str(mnist), "--image-size", "28"]
    assert cli.run([*preview, "--corruption", "all", "--out", "all.png"]) == 0
    said = capsys.readouterr().out
    assert "each row: clean, severity 1 to 5: all.png" in said
    index = int(said.split()[1])
    sheet = read_image("all.png")
    assert sheet.shape[0] == 15 * 58 + 2
    cells = sheet[2:, -(6 * 58) :].reshape(15, 58, 6, 58, 3)[:, :56:2, :, :56:2].transpose(0, 2, 1, 3, 4)
    original = load_data("mnist", data_dir=mnist, image_size=28).images[index][None]
    assert (cells[:, 0] == original).all()
    for row, name in ((6, "rotate"), (11, "spatter")):
        for severity in (1, 5):
            seen = corrupt(original, name, severity, [index], corrupted.seed_of("train"))
            np.testing.assert_array_equal(cells[row, severity], seen[0].repeat(3, axis=2))
    assert cli.run([*preview, "--corruption", "all", "--severity", "2", "--out", "b.png"]) == 2
    assert "Leave --severity out" in capsys.readouterr().err

    assert cli.run([*preview, "--corruption", "stripe", "--num", "1", "--out", "one.png"]) == 0
    assert "28x28, under stripe-3: one.png" in capsys.readouterr().out
    stripes = corrupt(original, "stripe", 3, [index])[0].repeat(3, axis=2)
    np.testing.assert_array_equal(read_image("one.png"), stripes)

    export = ["data", "export", "mnist", "out", "--data-dir", str(mnist), "--image-size", "28", "--num", "2"]
    assert cli.run([*export, "--corruption", "stripe", "--severity", "5"]) == 0
    first = load_data("mnist", data_dir=mnist, image_size=28).images[:1]
    written = read_image("out/images/000000.png", channels=1)
    np.testing.assert_array_equal(written, corrupt(first, "stripe", 5, [0])[0])
