"""`minidiff compare` as it is typed, and `minidiff.compare` from a script."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from studied import made_up, planned

import minidiff
from minidiff import cli
from minidiff.errors import UserError
from minidiff.studies import cell as cells
from minidiff.studies import compare
from minidiff.studies.config import Settings, Times

pytestmark = pytest.mark.usefixtures("own_folder")


def command(*more: str) -> int:
    return cli.run(["compare", "--device", "cpu", "--out", "s", *more])


NEW = ("--datasets", "shapes", "--models", "wgan,ddpm", "--num", "20", "--image-size", "16")


def test_dry_run_tells_the_hours_and_leaves_nothing(untimed: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*NEW, "--minutes", "90", "--corruptions", "all", "--dry-run") == 0
    said, warned = capsys.readouterr()
    assert not Path("s").exists() and "20 samples for the 2,048 features" in warned
    assert "1 data set x 16 corruptions x 2 models: 32 cells, 16x16" in said
    assert "10,800 steps of 0.5 s: 1 h 30 min for each cell" in said
    assert "shapes.zigzag.ddpm" in said and "1 h 30 min  new" in said


def test_a_study_that_was_done_grows_by_a_cell(
    inside: None,
    untimed: None,
    small: None,
    clf: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Only the new cell is done; a dry run of it leaves the study as it was."""
    asked_of = []

    def timed(settings: Settings, *more: Any) -> Times:
        asked_of.append(settings.models)
        return made_up(settings)

    monkeypatch.setattr(compare, "measure_times", timed)
    order = ("--datasets", "shapes", "--num", "20", "--image-size", "16", "--features", str(clf), "--steps", "2")
    assert command(*order, "--models", "wgan") == 0
    before, first = Path("s/study.json").read_bytes(), Path("s/cells/shapes.identity.wgan/result.json").read_bytes()
    capsys.readouterr()
    assert command("--models", "ddpm,wgan", "--steps", "ddpm=3", "--dry-run") == 0
    assert Path("s/study.json").read_bytes() == before and "shapes.identity.ddpm" in capsys.readouterr().out
    assert command("--models", "ddpm,wgan", "--steps", "ddpm=3") == 0
    said = capsys.readouterr().out
    assert "done      shapes.identity.ddpm" in said and "begun     shapes.identity.wgan" not in said
    assert Path("s/cells/shapes.identity.wgan/result.json").read_bytes() == first
    assert json.loads(Path("s/cells/shapes.identity.ddpm/result.json").read_text())["steps"] == 3
    assert asked_of == [("wgan",), ("ddpm",), ("ddpm",)]


def test_a_script_does_what_the_command_does(
    inside: None, untimed: None, small: None, clf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folder, by one call; what is done is not done again, and a request that contradicts it is refused."""
    request = {"datasets": ("shapes",), "models": ("wgan",), "num": 20, "image_size": 16, "features": str(clf)}
    events = list(minidiff.compare("s", **request, steps=2, device="auto"))
    names = ["shapes.identity", "shapes.identity.wgan"]
    assert [(event.name, event.state) for event in events] == [(n, s) for n in names for s in ("begun", "done")]
    assert events[-1].text.startswith("FD(classifier)")
    assert list(minidiff.compare("s")) == []
    assert command("--dry-run") == 0
    with pytest.raises(UserError, match="`seed` 0, not 3"):
        list(minidiff.compare("s", seed=3))
    with pytest.raises(TypeError, match="sede"):
        minidiff.compare("s", sede=3)  # type: ignore[call-arg]


def test_a_study_of_another_machine_can_be_looked_at(
    small: None, inside: None, untimed: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun on a GPU, and there is none here: the study is told, and going on is refused in a line."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    study = planned(Path("s"), device="cuda")
    assert study.device == "cuda"
    assert cli.run(["compare", "--out", "s", "--dry-run"]) == 0
    assert "on cuda" in capsys.readouterr().out
    assert cli.run(["compare", "--out", "s"]) == 1
    assert "Error: this study was begun on cuda, which this machine does not have." in capsys.readouterr().err


def test_the_command_ends_with_what_was_found_and_what_was_not(
    inside: None,
    untimed: None,
    small: None,
    clf: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A failed cell makes the exit code 1, and stands in the page; a page that cannot be written costs nothing."""
    training = cells.training

    def failing(settings: Settings, cell: str, *more: Any) -> Any:
        if cell.endswith("ddpm"):
            raise UserError("a planted fault. Mend it.")
        return training(settings, cell, *more)

    monkeypatch.setattr(cells, "training", failing)
    assert command(*NEW, "--features", str(clf), "--steps", "ddpm=3,wgan=2") == 1
    said = capsys.readouterr()
    assert "done      shapes.identity.wgan: FD(classifier)" in said.out
    assert "failed    shapes.identity.ddpm: a planted fault. Mend it.\n" in said.out
    assert "Error: 1 of 2 cells failed. Mend what they say, then --retry.\n" in said.err
    assert "a planted fault" in Path("s/report.html").read_text()
    assert json.loads(Path("s/study.json").read_text())["steps"] == {"wgan": 2, "ddpm": 3}
    Path("s/report.html").unlink()
    Path("s/report.html").mkdir()
    monkeypatch.setattr(cells, "training", training)
    assert command("--retry") == 0
    said = capsys.readouterr()
    assert "Warning: report.html could not be written" in said.err and said.out.count("FD(classifier)") == 3


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--models", "ddpm"), 1, "needs --datasets"),
        (("--datasets", "shapes", "--models", "gan"), 2, "unknown model 'gan'"),
        ((*NEW, "--corruptions", "motion_blurr"), 2, "Did you mean 'motion_blur'"),
        ((*NEW, "--steps", "ddpm=x"), 2, "'ddpm=x' is not a number of steps"),
        ((*NEW, "--steps", "dpm=5"), 2, "unknown model 'dpm'"),
        ((*NEW, "--steps", "5", "--minutes", "5"), 1, "Leave one of them out"),
    ],
)
def test_wrong_orders(more: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*more) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not Path("s").exists()
