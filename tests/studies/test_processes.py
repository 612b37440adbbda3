"""The processes of a study: several at once, killed, stopped, failed; what is done stays done."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from studied import TIMES, Pretended, asked, drafted, planned

from minidiff.errors import UserError
from minidiff.files import locked, write_json
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics
from minidiff.studies import cell as cells
from minidiff.studies import processes, progress
from minidiff.studies import reference as references
from minidiff.studies.config import data_of
from minidiff.studies.results import CellFailure, read_result, read_state
from minidiff.studies.study import RESULT, STATISTICS, folder_of
from minidiff.training.journal import Interrupted

pytestmark = pytest.mark.usefixtures("own_folder")


def test_several_at_once_have_a_device_each(pretended: type[Pretended], tmp_path: Path) -> None:
    """Never more than there are devices; a cell begins when its data are there, and not before."""
    folder = tmp_path / "s"
    study = planned(folder, corruptions=("identity", "fog", "scale"))
    events = [(event.name, event.state) for event in processes.carry_out(folder, study, ["cuda:0", "cuda:1"])]
    assert sorted(events) == sorted(
        (name, state) for name in [*study.cells, *study.data] for state in ("begun", "done")
    )
    for cell in study.cells:
        assert events.index((data_of(cell), "done")) < events.index((cell, "begun"))
    assert max(pretended.most, key=len) == ["cuda:0", "cuda:1"]
    assert events[:2] == [("shapes.identity", "begun"), ("shapes.fog", "begun")]


def test_a_process_that_was_killed_is_written_down(
    pretended: type[Pretended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not say anything itself. Cells that are done stay so, whatever becomes of their data."""
    folder = tmp_path / "s"
    study = planned(folder)
    write_json(folder_of(folder, "shapes.identity.wgan") / RESULT, {"metrics": {}})
    monkeypatch.setattr(Pretended, "code", -signal.SIGKILL)
    last = list(processes.carry_out(folder, study, ["cpu"]))[-1]
    assert (last.name, last.state) == ("shapes.identity", "failed") and last.text.endswith("1 cell needs it.")
    assert read_state(folder, "shapes.identity.wgan") == "done"
    result = read_result(folder, "shapes.identity.ddpm")
    assert isinstance(result, CellFailure)
    error = result.error
    assert error.startswith("its data: its process was ended by SIGKILL, as the system does when memory runs out. Try")
    folder_of(folder, "shapes.identity").joinpath(STATISTICS).touch()
    last = list(processes.carry_out(folder, study, ["cpu"], retry=True))[-1]
    assert last.name == "shapes.identity.ddpm" and last.text.startswith("its process was ended by SIGKILL")


def test_a_full_disk_costs_the_cells_that_met_it(
    pretended: type[Pretended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written down is said, and the rest goes on; the next time these cells are as they were."""
    folder = tmp_path / "s"
    study = planned(folder, corruptions=("identity", "fog"))

    def full(path: Path, value: object) -> None:
        raise UserError(f"cannot write {path}: No space left on device.")

    monkeypatch.setattr(progress, "write_json", full)
    monkeypatch.setattr(Pretended, "code", 1)
    for prepared in (False, True):
        if prepared:
            for data in study.data:
                folder_of(folder, data).joinpath(STATISTICS).touch()
        events = [event for event in processes.carry_out(folder, study, ["cpu"]) if event.state != "begun"]
        assert [event.name for event in events] == (list(study.cells) if prepared else study.data)
        assert all(event.state == "failed" and "exit code 1. Try it again" in event.text for event in events)
    assert {read_state(folder, cell) for cell in study.cells} == {"new"}


def test_a_study_that_breaks_lets_its_cells_save(
    pretended: type[Pretended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_to: list[str] = []
    monkeypatch.setattr(Pretended, "terminate", lambda self: asked_to.append("save"))
    monkeypatch.setattr(Pretended, "kill", lambda self: asked_to.append("end"))

    def broken(*of_a_cell: Any) -> None:
        raise RuntimeError("a planted fault")

    monkeypatch.setattr(processes, "conclude", broken)
    study = planned(tmp_path / "s", corruptions=("identity", "fog"))
    with pytest.raises(RuntimeError, match="planted"):
        list(processes.carry_out(tmp_path / "s", study, ["cpu", "cpu"]))
    assert asked_to == ["end", "save", "end"]  # that which had ended; then the other, gently


def test_a_result_of_another_form_is_a_failed_cell(tmp_path: Path) -> None:
    """The table and the page go by the same reading of it."""
    study = planned(tmp_path / "s")
    path = folder_of(tmp_path / "s", "shapes.identity.wgan") / RESULT
    for text in ('{"foo": 1}', "{", "[]", '{"metrics": {"fid": {"value": "near"}}}'):
        path.write_text(text)
        assert read_state(tmp_path / "s", "shapes.identity.wgan") == "failed"
        assert "failed: " in next(progress.table(study, tmp_path / "s"))
        assert "shapes.identity.wgan" not in progress.unfinished(tmp_path / "s", study, False)
    fid = {"title": "FID", "value": 3.0, "low": None, "high": None}
    write_json(path, {"metrics": {"fid": fid}, "warnings": ["40 of 40 images are noise. Likely causes: x."]})
    assert next(progress.table(study, tmp_path / "s")).endswith("  FID 3   BUT 40 of 40 images are noise")


def test_two_studies_in_one_folder(pretended: type[Pretended], tmp_path: Path) -> None:
    study = planned(tmp_path / "s")
    with locked(tmp_path / "s"), pytest.raises(UserError, match="another process is at work"):
        list(processes.carry_out(tmp_path / "s", study, ["cpu"]))


def test_sigterm_lets_the_cells_save(
    pretended: type[Pretended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes are asked once, and nothing of them is written down as failed."""
    folder, told = tmp_path / "s", []
    study = planned(folder)
    monkeypatch.setattr(Pretended, "terminate", lambda self: told.append(self.name))
    with pytest.raises(Interrupted, match="Stopped by SIGTERM") as stopped:
        for event in processes.carry_out(folder, study, ["cpu"]):
            if (event.name, event.state) == ("shapes.identity.wgan", "begun"):
                os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143 and told == ["shapes.identity.wgan"]
    assert read_result(folder, "shapes.identity.wgan") is None

    def ended_too(self: Pretended) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return -signal.SIGTERM

    monkeypatch.setattr(Pretended, "poll", ended_too)  # where the signal went to the cell as well
    with pytest.raises(Interrupted):
        list(processes.carry_out(folder, study, ["cpu"]))
    assert read_result(folder, "shapes.identity.wgan") is None


def test_a_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that several cells use; a GPU's cells keep all."""
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    seen = []

    def noted(command: list[str], env: dict[str, str], **more: Any) -> None:
        seen.append((command[-1], env["OMP_NUM_THREADS"]))

    monkeypatch.setattr(subprocess, "Popen", noted)
    for device, share in [("cpu", 1), ("cpu", 3), ("cpu", 20), ("cuda:0", 2)]:
        processes.start(["s", "cell"], device, share)
    assert seen == [("cpu", "8"), ("cpu", "2"), ("cpu", "1"), ("cuda:0", "8")]


def test_what_cannot_be_timed_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The line of the model, of another process; and of one that dies without a word."""
    settings = drafted(tmp_path / "s", asked(features=str(tmp_path / "gone"))).settings
    with pytest.raises(UserError, match="gone are neither inception nor a run"):
        processes.measure_times(settings, "cpu")
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(UserError, match="could not be timed: its process ended with exit code 1"):
        processes.measure_times(settings, "cpu")


WATCHED = """
import sys
from pathlib import Path
from minidiff.studies import processes
from minidiff.studies.study import read_study
folder = Path(sys.argv[1])
for event in processes.carry_out(folder, read_study(folder), ["cpu"]):
    print(event, flush=True)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_a_cell_and_taken_up_again(
    small: None, clf: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the study: the cell notices, saves and goes, and the study that follows ends with the weights of a
    training that was never stopped, to the bit; no step is in the metrics twice, and none is missing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "s"
    times = replace(TIMES, seconds_per_step={"dcgan": 1}, seconds_per_sample={"dcgan": 1})
    options = {"datasets": ("folder",), "data_dir": str(photos), "models": ("dcgan",), "features": str(clf)}
    study = planned(folder, times, steps=24, **options)
    references.prepare(study, folder, "folder.identity", torch.device("cpu"))
    run = folder / "cells" / "folder.identity.dcgan" / "run"
    with subprocess.Popen([sys.executable, "-c", WATCHED, str(folder)]) as killed:
        until = time.monotonic() + 120
        while len(read_metrics(run)) < 3:
            assert time.monotonic() < until and killed.poll() is None
            time.sleep(0.05)
        killed.kill()
    with cells.alone(run.parent):  # when the cell is gone
        assert read_metrics(run)[-1]["step"] < 24 and (run / checkpoint.STATE).exists()
    events = [(event.name, event.state) for event in processes.carry_out(folder, study, ["cpu"])]
    assert events == [("folder.identity.dcgan", "begun"), ("folder.identity.dcgan", "done")]
    steps = [record["step"] for record in read_metrics(run) if "loss" in record]
    assert steps == list(range(1, 25))
    whole = cells.training(study, "folder.identity.dcgan", tmp_path / "whole", torch.device("cpu"))
    for _ in whole.trainer.steps():
        pass
    trained = checkpoint.read_tensors(run / checkpoint.MODEL)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in whole.trainer.ema.state_dict().items())
