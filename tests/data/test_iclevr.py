"""The data set `iclevr`: the lab's files and our own exports are read, and what is wrong with them is one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from minidiff import cli
from minidiff.data import shapes
from minidiff.data.datasets import DATASETS, load_data, splits_of
from minidiff.data.export import export
from minidiff.errors import UserError
from minidiff.images.files import crop_resize, read_image, squeeze, write_image

NAMES = ["red cube", "gray cube", "blue sphere"]  # not in alphabetical order
TABLE = {"b.png": ["gray cube", "red cube"], "a.png": ["blue sphere"], "c.png": [], "d.png": ["red cube", "red cube"]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder for each test, and small `shapes`."""
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shapes, "COUNTS", {"train": 12, "test": 5, "new_test": 4})
    return tmp_path / "cache"


def scene(number: int) -> np.ndarray:
    """240x320 pixels, grey but for red at the left edge and blue at the right; its number in the grey."""
    image = np.full((240, 320, 3), 60 + 20 * number, np.uint8)
    image[:, :30], image[:, -30:] = (250, 0, 0), (0, 0, 250)
    return image


@pytest.fixture()
def lab(tmp_path) -> Path:
    """A folder as in the lab: four listed scenes, and one that is not."""
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "objects.json").write_text(json.dumps({NAMES[i]: i for i in (2, 0, 1)}))
    (folder / "train.json").write_text(json.dumps(TABLE))
    (folder / "test.json").write_text(json.dumps([["red cube"]]))
    for number, name in enumerate("abcde"):
        write_image(folder / "iclevr" / f"{name}.png", scene(number))
    return folder


def message_of(*arguments, **options) -> str:
    """The message of the UserError that loading must raise: one line."""
    with pytest.raises(UserError) as caught:
        load_data("iclevr", *arguments, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


def exported(folder: Path, *splits: str, size: int = 32) -> Path:
    for split in splits:
        list(export(load_data("shapes", split=split, image_size=size), folder, split))
    return folder


# --- what arrives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["images", "iclevr", "train", "."])
def test_the_labs_files(lab, place):
    """Scenes in the order of the table, labels by the numbers of objects.json, images found wherever they may lie.

    Fails when the labels go by the order in objects.json, when the rows are sorted by name, or when what is not listed
    comes in.
    """
    for path in (lab / "iclevr").iterdir():
        path.rename(lab / path.name)
    (lab / "iclevr").rmdir()
    if place != ".":
        (lab / place).mkdir()
        for path in lab.glob("*.png"):
            path.rename(lab / place / path.name)
    loaded = load_data("iclevr", data_dir=lab)
    assert loaded.label_names == NAMES and loaded.notes == [] and not loaded.flip
    assert loaded.labels.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]] and loaded.labels.dtype == np.uint8
    assert loaded.images.shape == (4, 64, 64, 3)
    np.testing.assert_array_equal(loaded.images, [squeeze(scene(number), 64) for number in (1, 0, 2, 3)])


def test_what_stands_at_the_edge_stays_in_the_picture(lab):
    """A scene is squeezed: red at the left and blue at the right are there, which the centre square would cut off."""
    image = load_data("iclevr", data_dir=lab, image_size=32).images[0]
    assert image[16, 1, 0] > 200 and image[16, -2, 2] > 200
    assert crop_resize(scene(0), 32)[16, [0, -1]].std() == 0


def test_the_folder_with_most_of_the_images_is_theirs(lab):
    """A stray copy in a folder that is looked into first does not hide the others."""
    write_image(lab / "images" / "a.png", scene(9))
    loaded = load_data("iclevr", data_dir=lab, image_size=16)
    assert len(loaded) == 4
    np.testing.assert_array_equal(loaded.images[1], squeeze(scene(0), 16))


def test_a_table_that_changed_is_read_anew(lab):
    """Stored images do not keep old labels, nor an old order."""
    first = load_data("iclevr", data_dir=lab, image_size=16)
    (lab / "train.json").write_text(json.dumps({"c.png": ["blue sphere"], "a.png": [], "b.png": [], "d.png": []}))
    second = load_data("iclevr", data_dir=lab, image_size=16)
    assert second.labels[0].tolist() == [0, 0, 1] and second.labels[1:].sum() == 0
    np.testing.assert_array_equal(second.images[[2, 1, 0, 3]], first.images)


def test_what_shapes_exports_comes_back(tmp_path, cache):
    """Each split, pixel by pixel and label by label, out of one folder; and once more, exported from there.

    The splits are stored side by side: none takes the place of another.
    """
    folder = exported(tmp_path / "set", *shapes.SPLITS)
    assert splits_of("iclevr", folder) == ["train", "new_test", "test"]
    for split in shapes.SPLITS:
        images, labels = shapes.make(shapes.COUNTS[split], 32, split=split)
        loaded = load_data("iclevr", data_dir=folder, image_size=32, split=split)
        np.testing.assert_array_equal(loaded.images, images)
        np.testing.assert_array_equal(loaded.labels, labels)
        assert loaded.label_names == shapes.NAMES
        list(export(loaded, tmp_path / "again", split))
        again = load_data("iclevr", data_dir=tmp_path / "again", image_size=32, split=split)
        np.testing.assert_array_equal(again.images, images)
        np.testing.assert_array_equal(again.labels, labels)
    assert len(list((cache / "images").glob("iclevr-*.npy"))) == 6


# --- what is wrong with it ----------------------------------------------------------------------------------------


def test_folders_that_are_none(lab, tmp_path):
    """None named, not there, a file, without its tables: each its own line."""
    assert "needs `data_dir`" in message_of()
    assert "nowhere is not there" in message_of(data_dir=tmp_path / "nowhere")
    assert "is not a folder" in message_of(data_dir=lab / "train.json")
    assert "has no objects.json" in message_of(data_dir=lab / "iclevr")
    message = message_of(data_dir=lab, split="test")
    assert "test-images.json is not there" in message and message.endswith("Splits: train.")
    (lab / "train.json").rename(lab / "valid-images.json")
    (lab / "train-images.json").write_text("{}")  # no name that minidiff gives
    assert "train.json is not there" in message_of(data_dir=lab)
    assert len(load_data("iclevr", data_dir=lab, split="valid")) == 4
    assert splits_of("iclevr", lab) == ["valid"] and splits_of("iclevr") == ["train"]
    assert splits_of("celeba", lab) == ["train", "valid", "test"]


BAD_OBJECTS = {
    "empty": ("", "is no JSON"),
    "cut": ('{"red cube": ', "is no JSON"),
    "no text": (b"\xff\xfe\xfa", "is no JSON"),
    "deep": ("[" * 100_000, "is no JSON"),
    "a list": ('["red cube"]', "is not a table"),
    "nothing": ("{}", "is an empty table"),
    "words": ('{"red cube": "0"}', "'red cube' the number '0'"),
    "true": ('{"red cube": 0, "gray cube": true}', "'gray cube' the number True"),
    "from one": ('{"red cube": 1, "gray cube": 2}', "'gray cube' the number 2. Its 2 labels need plain names, without"),
    "twice": ('{"red cube": 0, "gray cube": 0}', "'gray cube' the number 0"),
    "negative": ('{"red cube": -1}', "the number -1"),
    "two lines": ('{"red\\ncube": 0}', r"'red\ncube' the number 0"),
    "no character": ('{"\\ud800": 0}', r"'\ud800' the number 0"),
    "no name": ('{" ": 0}', "' ' the number 0"),
    "a comma": ('{"red cube": 0, "cube, gray": 1}', "'cube, gray' the number 1. Its 2 labels"),
    "two spaces": ('{"red  cube": 0}', "'red  cube' the number 0"),
    "padded": ('{"red cube ": 0}', "'red cube ' the number 0"),
}


@pytest.mark.parametrize(("content", "words"), BAD_OBJECTS.values(), ids=BAD_OBJECTS)
def test_bad_objects(lab, content, words):
    (lab / "objects.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    message = message_of(data_dir=lab)
    assert words in message and str(lab / "objects.json") in message


BAD_TABLES = {
    "cut": ('{"a.png": ["red', "is no JSON"),
    "of conditions": ('[["red cube"]]', "is not a table"),
    "nothing": ("{}", "is an empty table"),
    "one label": ('{"a.png": "red cube"}', "'a.png' has 'red cube', which is not a list"),
    "numbers": ('{"a.png": [0]}', "'a.png' has [0], which is not a list of labels"),
    "long": ('{"a.png": [' + "0, " * 1000 + "0]}", ", 0..., which is not a list"),
    "unknown": ('{"b.png": [], "a.png": ["red cubes"]}', "'a.png' has the label 'red cubes', which objects"),
    "nearly": ('{"a.png": ["red  Cube"]}', "Did you mean 'red cube'? Known: red cube, gray cube, blue sphere."),
    "two lines": ('{"a\\nb.png": ["\\ud800"]}', r"'a\nb.png' has the label '\ud800'"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(lab, content, words):
    (lab / "train.json").write_text(content)
    message = message_of(data_dir=lab)
    assert words in message and str(lab / "train.json") in message


@pytest.mark.parametrize(("kind", "more"), [("ddpm", ["--conditional"]), ("classifier", [])])
def test_nothing_is_learned_where_nothing_is_labelled(lab, tmp_path, capsys, tiny_preset, kind, more):
    """Refused before the training, not after it."""
    (lab / "train.json").write_text(json.dumps({name: [] for name in TABLE}))
    words = [*more, "--image-size", 16, "--steps", 1, "--device", "cpu", "--out", tmp_path / "run"]
    words = ["--preset", tiny_preset, *words] if kind == "ddpm" else words
    code, _, error = run(capsys, "train", kind, "--dataset", "iclevr", "--data-dir", lab, *words)
    assert code == 1 and "none of the 4 images of iclevr has a label" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_some_images_are_missing(lab):
    """Left out and counted, their labels with them; or the end, naming the first."""
    (lab / "iclevr" / "a.png").unlink()
    (lab / "iclevr" / "c.png").write_text("no image")
    loaded = load_data("iclevr", data_dir=lab)
    assert loaded.labels.tolist() == [[1, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(loaded.images[1], squeeze(scene(3), 64))
    assert loaded.notes[0] == (
        f"1 of the 4 images that train.json lists are not in {lab / 'iclevr'} and are left out: 'a.png'"
    )
    assert "1 of 3 files cannot be read and are left out: c.png" in loaded.notes[1]
    message = message_of(data_dir=lab, on_bad="stop")
    assert (
        message.startswith("1 of the 4 images that train.json lists are not in ") and "'a.png' is the first" in message
    )
    write_image(lab / "iclevr" / "a.png", scene(0))
    assert "c.png is not a readable image" in message_of(data_dir=lab, on_bad="stop")


@pytest.mark.parametrize("on_bad", ["skip", "stop"])
def test_all_images_are_missing(lab, on_bad):
    """Never an empty set: how many, the first, and where they were looked for."""
    for path in (lab / "iclevr").iterdir():
        path.unlink()
    message = message_of(data_dir=lab, on_bad=on_bad)
    assert "none of the 4 images" in message and "'b.png' is the first" in message
    for place in ("images", "iclevr", "train", ""):
        assert str(lab / place) in message


def test_names_that_cannot_be_files_are_missing(lab):
    """No traceback for a file name that the system refuses."""
    names = ["a\0.png", "x" * 5000, "\ud800.png", "", ".."]
    (lab / "train.json").write_text(json.dumps({name: [] for name in names}))
    assert "none of the 5 images" in message_of(data_dir=lab)
    (lab / "train.json").write_text(json.dumps({name: [] for name in [*names, "a.png"]}))
    assert load_data("iclevr", data_dir=lab).notes[0].startswith("5 of the 6 images")


# --- the export ---------------------------------------------------------------------------------------------------


def test_nothing_in_an_export_is_replaced(lab, tmp_path):
    """A split that is there, one that was broken off, other labels, a folder of other things: refused, all left."""
    folder = exported(tmp_path / "set", "test")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"test-images\.json exists: the split 'test' is there already"):
        exported(folder, "test")
    exported(folder, "train")
    (folder / "train.json").unlink()
    with pytest.raises(UserError, match=r"000000\.png exists: the split 'train'"):
        exported(folder, "train")
    other = load_data("iclevr", data_dir=lab)
    with pytest.raises(UserError, match="holds a set with other labels than iclevr"):
        list(export(other, folder, "valid"))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "train.json").write_text("{}")
    with pytest.raises(UserError, match="is not an empty folder"):
        exported(tmp_path / "else", "train")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (folder / "valid-images.json").exists()


def test_conditions_are_seen_in_training_or_held_out(tmp_path):
    """Of test.json each is a scene of the 12,000 that are drawn by default; of new_test.json no pair of labels that
    makes it held out shares one. 32 different ones each."""
    folder = exported(tmp_path / "set", "train")
    lists = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("test", "new_test")}
    number = json.loads((folder / "objects.json").read_text())
    seen = {tuple(shapes.scene(index)) for index in range(12_000)}
    for name, out in (("test", False), ("new_test", True)):
        asked = {tuple(sorted(number[label] for label in labels)) for labels in lists[name]}
        assert len(asked) == len(lists[name]) == 32
        assert all((labels in seen) != out for labels in asked)
        assert all(shapes.held_out(labels) == out for labels in asked)


# --- the command line ---------------------------------------------------------------------------------------------


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and messages of `minidiff ...`."""
    code = cli.run([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_export_preview_list(tmp_path, capsys):
    """Two splits into one folder, then everything by the name `iclevr`."""
    folder = tmp_path / "set"
    assert run(capsys, "data", "export", "shapes", folder)[0] == 0
    assert run(capsys, "data", "export", "shapes", folder, "--split", "test", "--num", 3)[0] == 0
    code, _, error = run(capsys, "data", "export", "shapes", folder, "--split", "test")
    assert code == 1 and "there already" in error
    _, output, _ = run(capsys, "data", "list", "--data-dir", folder)
    row = next(line for line in output.splitlines() if line.startswith("iclevr"))
    assert "train: your files, test: your files" in row and row.endswith("yes")
    assert not DATASETS["iclevr"].present(None) and not DATASETS["iclevr"].present(tmp_path)
    given = ["--data-dir", folder, "--image-size", 32, "--split", "test", "--out", tmp_path / "grid.png"]
    code, output, error = run(capsys, "data", "preview", "iclevr", *given)
    assert code == 0 and "3 of the 3 images of iclevr (test), 32x32" in output and error == ""
    assert read_image(tmp_path / "grid.png").shape == (68, 200, 3)
    assert " + ".join(shapes.NAMES[label] for label in shapes.scene(0, split="test")) in output


def test_a_classifier_learns_it(tmp_path, capsys):
    """`minidiff train classifier --dataset iclevr`: 24 labels, each by itself, measured on the split `test`."""
    folder, out = exported(tmp_path / "set", "train", "test", size=16), tmp_path / "run"
    small = ["--image-size", 16, "--width", 4, "--steps", 2, "--batch-size", 4, "--device", "cpu", "--out", out]
    code, _, error = run(capsys, "train", "classifier", "--dataset", "iclevr", "--data-dir", folder, *small)
    assert code == 0, error
    config = json.loads((out / "config.json").read_text())
    assert config["labels"]["names"] == shapes.NAMES and config["data"]["name"] == "iclevr"
    result = json.loads((out / "result.json").read_text())
    assert (result["split"], result["images"]) == ("test", 5)


def test_a_conditional_network_learns_it(tmp_path, capsys, tiny_preset):
    """`minidiff train ddpm --dataset iclevr --conditional`: the 24 labels, in the order of objects.json."""
    folder, out = exported(tmp_path / "set", "train", size=16), tmp_path / "run"
    tiny = ["--preset", tiny_preset, "--steps", 1, "--conditional", "--device", "cpu", "--out", out]
    code, _, error = run(capsys, "train", "ddpm", "--dataset", "iclevr", "--data-dir", folder, *tiny)
    assert code == 0, error
    assert json.loads((out / "config.json").read_text())["labels"]["names"] == shapes.NAMES
