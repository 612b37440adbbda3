"""The parts of a cell by themselves, with stand-ins for networks, clocks and processes: nothing here trains."""

import json
import logging
import os
import queue
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peers import pictures
from studied import planned

from minidiff.data.datasets import ImageData
from minidiff.errors import UserError
from minidiff.files import hold, write_json
from minidiff.images.files import read_image
from minidiff.runtime.details import set_verbosity
from minidiff.runtime.verbosity import VARIABLE
from minidiff.studies import cell as cells
from minidiff.studies.config import Study
from minidiff.studies.results import CellFailure, CellResult, Figure, read_result
from minidiff.studies.study import GRID, RESULT, RUN, SAMPLES, folder_of
from minidiff.training.journal import Interrupted

CPU = torch.device("cpu")
CELL = "shapes.fog.wgan"


@pytest.fixture()
def study(tmp_path: Path) -> Study:
    """Two models on foggy scenes, in the folder `s`."""
    return planned(tmp_path / "s", corruptions=("fog",), severity=4, seed=7)


@pytest.fixture()
def place(study: Study, tmp_path: Path) -> Path:
    """The folder of a cell, with an empty run."""
    place = folder_of(tmp_path / "s", CELL)
    (place / RUN).mkdir(parents=True)
    return place


def clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    """Let the cell read these times, one after the other."""
    readings = iter(times)
    monkeypatch.setattr(cells, "time", SimpleNamespace(perf_counter=lambda: next(readings)))


def sound(size: int = 16) -> np.ndarray:
    """uint8 [20,size,size,3], in which no fault is found."""
    return pictures(20, 4, 4, 0).repeat(size // 4, axis=1).repeat(size // 4, axis=2)


class Drawing:
    """A run that draws picture k of `images`, and notes what it was asked for."""

    def __init__(self, images: np.ndarray, fingerprint: str = "right") -> None:
        self.shape, self.images = (3, *images.shape[1:3]), images
        self.model = torch.nn.Linear(3, 4)
        training = SimpleNamespace(steps=2, batch_size=4)
        self.config = SimpleNamespace(kind="wgan", data=SimpleNamespace(fingerprint=fingerprint), training=training)
        self.asked: list[tuple[list[int], int]] = []

    def draw(self, indices: range, seed: int, **_: Any) -> torch.Tensor:
        self.asked.append((list(indices), seed))
        return torch.from_numpy(self.images[list(indices)]).permute(0, 3, 1, 2) / 127.5 - 1


# --- draw -----------------------------------------------------------------------------------------------------------


def test_the_time_of_samples_is_that_of_all_of_them(study: Study, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """15 of 20 were there, the others took 10 s: all would have taken 40. Only the others are drawn, with the seed of
    the study; the grid shows the first ones; what looks wrong with the training is kept with the rest."""
    images = sound()
    run = Drawing(images)
    monkeypatch.setattr(cells, "load", lambda *_, **__: run)
    monkeypatch.setattr(cells, "unequal", lambda records, kind: [f"a {kind} learns nothing"])
    monkeypatch.setattr(cells, "SHOWN", 4)
    clock(monkeypatch, 100.0, 110.0)
    (place / cells.RAW).write_bytes(images[:15].tobytes() + b"half an image")
    data = ImageData("shapes", sound(), np.zeros((20, 0), np.uint8), [], flip=False)
    drawn = cells.draw(study, place, data, CPU)
    assert drawn.seconds == 40 and drawn.warnings == ("a wgan learns nothing",)
    assert run.asked == [([15, 16, 17, 18, 19], 7)]
    with np.load(place / SAMPLES) as stored:
        assert (stored["images"] == images).all()
    shown = read_image(place / GRID)
    assert (images[0] == shown[2:18, 2:18]).all() or (images[0].repeat(4, 0).repeat(4, 1) == shown[2:66, 2:66]).all()
    assert cells.drawn_before(place, study) == drawn


def test_faults_that_a_tenth_of_the_data_have_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of twenty real images are black and white. Samples are looked at from the first to the last."""
    edges = np.where(sound() > 128, 255, 0).astype(np.uint8)
    real = np.concatenate([sound()[:17], edges[:3]])
    assert not any("saturated" in line for line in cells.suspicions(edges, real))
    assert any("saturated" in line for line in cells.suspicions(edges, np.concatenate([sound()[:19], edges[:1]])))
    monkeypatch.setattr(cells, "LOOKED_AT", 10)
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    assert "5 of 10 images are noise" in cells.suspicions(np.concatenate([sound()[:10], noise[:10]]), sound())[0]


# --- run_cell and train ---------------------------------------------------------------------------------------------


def test_a_result_says_what_was_done(study: Study, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the study, facts of the run, and the seconds of each part; nothing is done before the data agree."""
    figures = {"fid": Figure(1.5, "FID")}
    monkeypatch.setattr(cells, "drawn_before", lambda *_: cells.Drawn(2.5, ("too dark",)))
    monkeypatch.setattr(cells, "digest_of", lambda *_: "right")
    monkeypatch.setattr(cells, "training_seconds", lambda run: 3.25)
    monkeypatch.setattr(cells, "load", lambda *_: Drawing(sound(), "another"))
    monkeypatch.setattr(cells, "measure_samples", lambda *_: figures)
    with pytest.raises(UserError, match=f"the images of {CELL} are not the ones"):
        cells.run_cell(study, place.parents[1], CELL, CPU)
    assert not (place / RESULT).exists()
    monkeypatch.setattr(cells, "load", lambda *_: Drawing(sound()))
    clock(monkeypatch, 100.0, 104.0)
    cells.run_cell(study, place.parents[1], CELL, CPU)
    assert read_result(place.parents[1], CELL) == CellResult(
        figures, CELL, "shapes", "fog", "wgan", severity=4, seed=7, num=20, steps=2, parameters=3 * 4 + 4,
        seconds={"train": 3.25, "sample": 2.5, "measure": 4.0}, warnings=("too dark",),
    )  # fmt: skip


class Planned:
    """A training that does nothing, and notes whether it was started and run."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(data=SimpleNamespace(fingerprint="right"))
        self.calls: list[str] = []
        self.warn: Any = None

    def describe(self) -> str:
        return "the data"

    def start(self) -> str:
        self.calls.append("start")
        return "the folder"

    def run(self) -> None:
        self.calls.append("run")


def test_a_training_is_begun_anew_resumed_or_refused(
    study: Study, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without a config is what a kill left: it is removed. Other images are refused before a folder is made.
    A resumed run goes to the device of the cell. Its warnings have no backticks."""
    job, requests = Planned(), []
    monkeypatch.setattr(cells, "training", lambda *_: job)
    monkeypatch.setattr(cells, "resume", lambda kind, run, request: (requests.append(request), job)[1])
    (place / RUN / "half a file").touch()
    with pytest.raises(UserError, match="are not the ones"):
        cells.train(study, CELL, place / RUN, CPU, "another")
    assert not (place / RUN).exists() and job.calls == requests == []
    assert cells.train(study, CELL, place / RUN, CPU, "right") is job  # type: ignore[comparison-overlap]
    assert job.calls == ["start", "run"] and requests == []
    assert capsys.readouterr().out == "the data\nthe data\nthe folder\n"
    (place / RUN).mkdir()
    write_json(place / RUN / "config.json", {})
    monkeypatch.setenv(VARIABLE, "quiet")
    cells.train(study, CELL, place / RUN, torch.device("cuda", 1), "right")
    assert [request.device for request in requests] == ["cuda:1"]
    job.warn("the `lr` is high")
    said = capsys.readouterr()
    assert said.out == "" and said.err == "Warning: the lr is high\n"


# --- the process ----------------------------------------------------------------------------------------------------


def test_a_process_ends_as_its_cell_does(
    study: Study, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Done; stopped, with the code of the signal and without a command for this training alone; failed, in a line."""
    folder = place.parents[1]
    ends: list[BaseException | None] = [
        None,
        Interrupted("Stopped by SIGTERM at step 3 of 9; saved. Resume with: minidiff train wgan", 143),
        UserError("no room. Make some."),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nof many"),
        MemoryError(),
        ValueError("odd"),
    ]

    def run_cell(study: Study, folder: Path, name: str, device: torch.device) -> None:
        assert logging.getLogger("minidiff").level == logging.INFO
        if (end := ends.pop(0)) is not None:
            raise end

    def no_data(*_: object) -> None:
        pytest.fail("a cell is no data set")

    monkeypatch.setenv(VARIABLE, "verbose")
    try:
        assert cells.main([str(folder), CELL, "cpu"], run_cell, no_data) == 0
        assert cells.main([str(folder), CELL, "cpu"], run_cell, no_data) == 143
        assert capsys.readouterr().out.endswith("Stopped by SIGTERM at step 3 of 9; saved.\n")
        assert not (place / RESULT).exists()
        for said, traceback in (
            ("no room. Make some.", False),
            ("out of memory (CUDA out of memory. Tried to allocate 2 GiB). Try a smaller `image_size`", True),
            ("out of memory (MemoryError). Try a smaller `image_size`", True),
            ("ValueError: odd", True),
        ):
            assert cells.main([str(folder), CELL, "cpu"], run_cell, no_data) == 1
            failure = read_result(folder, CELL)
            assert isinstance(failure, CellFailure) and failure.error.startswith(said)
            assert ("Traceback" in capsys.readouterr().err) == traceback
    finally:
        set_verbosity("normal")
    prepared: list[str] = []

    def prepare(study: Study, folder: Path, name: str, device: torch.device) -> None:
        prepared.append(name)

    assert cells.main([str(folder), "shapes.fog", "cpu"], run_cell, prepare) == 0 and prepared == ["shapes.fog"]


def test_what_cannot_be_written_down_is_printed(
    study: Study, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise UserError("the disk is full.")

    monkeypatch.setattr(cells, "write_failure", lambda *_: False)
    assert cells.main([str(place.parents[1]), CELL, "cpu"], full) == 1
    assert capsys.readouterr().err.endswith(f"{CELL}: the disk is full.\n")


def test_a_cell_waits_for_the_process_of_a_killed_study(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one lets go of the folder at the third try; a minute later nobody waits any more."""
    held, slept = hold(place), []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            held.close()

    now = 0.0
    monkeypatch.setattr(cells, "time", SimpleNamespace(monotonic=lambda: now + sum(slept), sleep=sleep))
    with cells.alone(place):
        assert len(slept) == 2
    held = hold(place)
    monkeypatch.setattr(cells.time, "sleep", lambda seconds: slept.append(30))
    with pytest.raises(UserError, match="another process is at work"), ExitStack() as stack:
        stack.enter_context(cells.alone(place))
    held.close()
    assert sum(slept) > 60


def test_a_process_stops_as_after_sigterm_when_its_study_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When standard input ends, and not while something comes."""
    killed: queue.Queue[tuple[int, int]] = queue.Queue()
    comes = [b"x", b"x", b""]
    stand_in = SimpleNamespace(
        read=lambda file, size: comes.pop(0), getpid=os.getpid, kill=lambda *what: killed.put(what)
    )
    monkeypatch.setattr(cells, "os", stand_in)
    cells.stop_with_the_parent()
    assert killed.get(timeout=60) == (os.getpid(), cells.signal.SIGTERM) and comes == []


def test_a_timing_that_fails_has_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cells.main(["time", '{"minidiff": 3}', "cpu"]) == 1
    assert "minidiff" in json.loads(capsys.readouterr().out)["error"]
