"""What each option of a measurement reaches, and how a folder is read: by whom, how far ahead, within which memory."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from minidiff.data.datasets import ImageData
from minidiff.errors import NoMemory, UserError
from minidiff.gan.run import GanRun
from minidiff.images.budget import MAX_PIXELS
from minidiff.images.files import read_image, write_image
from minidiff.metrics import sources
from minidiff.pretrained import sources as places


class Calls:
    """Takes the place of functions, and notes what each was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.seen: list[tuple[Any, ...]] = []

    def instead_of(self, module: Any, *names: str, answer: Any = None) -> None:
        for name in names:

            def note(*given: Any, name: str = name, **named: Any) -> Any:
                self.seen.append((name, given, named))
                return answer

            self.patch.setattr(module, name, note)


@pytest.fixture()
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def test_every_option_reaches_what_it_is_for(calls: Calls, tmp_path: Path) -> None:
    """A data set, a folder, a DDPM and a GAN, with everything and with nothing.

    Fails when an option is not passed on, and when a default is another than the docstring's.
    """

    def on_step(step: object) -> None:
        pass

    options: dict[str, Any] = {
        "num": 5, "sampler": "heun", "steps": 7, "seed": 3, "data_dir": "in", "image_size": 24, "on_bad": "stop",
        "max_pixels": 99, "device": "cuda:1", "on_step": on_step,
    }  # fmt: skip
    folder, run = tmp_path / "images", tmp_path / "run"
    folder.mkdir()
    run.mkdir()
    (run / "config.json").write_text("{}")
    calls.instead_of(places, "open_dataset", "open_folder", "of_run", "of_gan")
    calls.instead_of(places, "load", answer="a model")
    for given in (options, {}):
        for place in ("dataset:mnist", str(folder), str(run)):
            places.open_place(place, **given)
    gan = object.__new__(GanRun)
    calls.instead_of(places, "load", answer=gan)
    places.open_place(str(run), seed=3, num=5)
    places.open_place(str(run))
    with pytest.raises(UserError, match="`steps`"):
        gan.folder, gan.config = run, SimpleNamespace(kind="dcgan")  # type: ignore[assignment]
        places.open_place(str(run), steps=3)
    drawn = {"sampler": "heun", "steps": 7, "seed": 3}
    assert calls.seen[:-1] == [
        ("open_dataset", ("dataset:mnist", "in", 24, "stop", 99), {}),
        ("open_folder", (str(folder), "stop", 99), {}),
        ("load", (run,), {"device": "cuda:1"}),
        ("of_run", (str(run), "a model", 5, on_step), drawn),
        ("open_dataset", ("dataset:mnist", None, None, "skip", MAX_PIXELS), {}),
        ("open_folder", (str(folder), "skip", MAX_PIXELS), {}),
        ("load", (run,), {"device": "cpu"}),
        ("of_run", (str(run), "a model", 10_000, None), {"sampler": "ddim", "steps": None, "seed": 0}),
        ("load", (run,), {"device": "cpu"}),
        ("of_gan", (str(run), gan, 5), {"seed": 3}),
        ("load", (run,), {"device": "cpu"}),
        ("of_gan", (str(run), gan, 10_000), {"seed": 0}),
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_data_set_is_opened_as_it_was_asked_for(channels: int, calls: Calls, tmp_path: Path) -> None:
    """Its training images unless a split is named; grey ones are told to be repeated, and only those."""
    images = np.zeros((4, 8, 8, channels), np.uint8)
    data = ImageData("mnist", images, np.zeros((4, 0), np.uint8), [], flip=False)
    calls.instead_of(sources, "load_together", answer=data)
    source = sources.open_dataset("dataset:mnist:test:fog-5", tmp_path, 8, "stop", 99)
    sources.open_dataset("dataset:mnist", None, None)
    (_, given, named), (_, _, plain) = calls.seen
    asked = {"data_dir": tmp_path, "image_size": 8, "split": "test", "on_bad": "stop", "max_pixels": 99}
    assert given == ("mnist",) and named == {**asked, "corruption": "fog", "severity": 5}
    assert plain["split"] == "train" and plain["on_bad"] == "skip" and plain["max_pixels"] == MAX_PIXELS
    assert (source.changes == ["grey repeated to RGB"]) == (channels == 1) and source.size == "8x8"
    assert source.same == source.fingerprint == data.fingerprint()
    assert next(iter(source.batches(4))).shape == (4, 8, 8, 3)  # type: ignore[union-attr]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Six pictures of 240 pixels, one of 72 and one of 30."""
    for number in range(8):
        size = {6: (8, 9), 7: (5, 6)}.get(number, (12, 20))
        write_image(tmp_path / f"{number}.png", np.full((*size, 3), number, np.uint8))
    return tmp_path


class AtOnce:
    """A pool of threads without threads: what is handed in is done."""

    def __init__(self, _: int) -> None:
        pass

    def __enter__(self) -> "AtOnce":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[..., Any], values: Any) -> Any:
        return map(function, values)

    def submit(self, function: Callable[..., Any], *given: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(function(*given))
        return done


@pytest.mark.parametrize("large, ahead", [(239, 0), (240, 1)])
def test_large_pictures_are_not_decoded_ahead(
    large: int, ahead: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch is in use when the next is decoded; of pictures above LARGE, nothing more."""
    decoded = []

    def read(path: Path, **limit: int) -> Any:
        decoded.append(path.name)
        return read_image(path, **limit)

    monkeypatch.setattr(sources, "LARGE", large)
    monkeypatch.setattr(sources, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(sources, "read_image", read)
    batches = sources.open_folder(str(folder)).batches(2)
    for number in range(4):
        assert [int(np.asarray(image)[0, 0, 0]) for image in next(batches)] == [2 * number, 2 * number + 1]
        assert len(decoded) == min(8, 2 * (number + 1 + ahead))
    assert next(batches, None) is None


def test_a_batch_of_files_fits_into_memory_three_times(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the largest of them: 240 pixels of 3 bytes each. The sizes are told from the smallest to the largest."""
    monkeypatch.setattr(sources, "HELD", 3 * 5 * 240 * 3 + 100)
    source = sources.open_folder(str(folder))
    assert source.most == 5 and source.size == "5x6 to 12x20" and source.changes == ["3 different sizes"]
    monkeypatch.setattr(sources, "HELD", 1)
    assert sources.open_folder(str(folder)).most == 1


def test_a_folder_is_the_same_whatever_it_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "link").symlink_to(folder)
    names = [str(folder), folder.name, f"{folder}/../link"]
    assert len({sources.open_folder(name).same for name in names}) == 1
    assert sources.open_folder(folder.name).name == folder.name


def test_pictures_beyond_the_limit_are_bad_files(folder: Path) -> None:
    """They are left out and named, or stop the reading; a lack of memory is no fault of a file."""
    source = sources.open_folder(str(folder), max_pixels=100)
    assert source.count == 2 and source.files is not None
    assert source.files.remarks()[0].startswith("6 of 8 files cannot be read and are left out: 0.png, 1.png")
    with pytest.raises(UserError, match=r"0\.png.*`on_bad` skip"):
        sources.open_folder(str(folder), "stop", max_pixels=100)


def test_a_lack_of_memory_is_no_fault_of_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: int) -> Any:
        raise NoMemory(f"{path} needs more memory than there is.")

    monkeypatch.setattr(sources, "read_image", full)
    with pytest.raises(NoMemory, match=r"0\.png needs more memory"):
        list(sources.open_folder(str(folder)).batches(2))


def test_files_are_known_by_their_suffix_in_any_case_and_from_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` is the home folder, also where no shell replaces it. Weights without a config are told what they lack."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    np.savez(tmp_path / "images.npz", np.zeros((3, 8, 8, 3), np.uint8))
    (tmp_path / "images.npz").rename(tmp_path / "IMAGES.NPZ")
    write_image(tmp_path / "folder" / "0.png", np.zeros((8, 8, 3), np.uint8))
    for place, count in (("~/IMAGES.NPZ", 3), ("~/folder", 1)):
        source = places.open_place(place)
        assert isinstance(source, sources.ImageSource) and source.count == count
    torch.save({"down_blocks.0.weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="holds weights without their settings"):
        places.open_place(str(tmp_path / "weights.pt"))
