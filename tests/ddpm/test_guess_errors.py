"""The end of a training: how far the guesses of a model are off, measured once for each state of its weights."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minidiff
from minidiff.ddpm import guess_errors
from minidiff.ddpm.guess_errors import GUESS_ERRORS, GuessErrors, held_out, measure_guess_errors, read_guess_errors
from minidiff.ddpm.job import DdpmJob
from minidiff.images.convert import to_float
from minidiff.training.config import ResumeRequest
from minidiff.training.resume import resume


@pytest.fixture
def own(finisher: Path, tmp_path: Path) -> Path:
    """A copy of the run that takes pictures of any size, to change."""
    shutil.copytree(finisher, tmp_path / "own")
    return tmp_path / "own"


def test_a_training_ends_with_what_restorations_need(finisher: Path, trained: Path) -> None:
    """They are those of the averaged weights, on images spread over the set; a run of one size has no use for any."""
    run = minidiff.load(finisher)
    data = guess_errors.load_data(run.config.data.data_dir, image_size=16)
    images = [to_float(np.array(data.images[[k]])) for k in range(len(data))][:: len(data) // 4]
    found = read_guess_errors(run)
    assert found is not None
    again = measure_guess_errors(run, images)
    assert found.sigmas == again.sigmas and found.errors == pytest.approx(again.errors, rel=0.2)
    assert not (trained / GUESS_ERRORS).exists()


def test_a_kill_before_it_is_made_good(own: Path) -> None:
    """Resumed at its last step, a run does nothing else; and what is there is not measured again."""
    before, weights = (own / GUESS_ERRORS).read_bytes(), (own / "model.safetensors").read_bytes()
    (own / GUESS_ERRORS).unlink()
    minidiff.resume(own)
    assert (own / GUESS_ERRORS).read_bytes() == before and (own / "model.safetensors").read_bytes() == weights
    (own / GUESS_ERRORS).write_text("mine")
    minidiff.resume(own)
    assert (own / GUESS_ERRORS).read_text() == "mine"


def test_other_weights_are_measured_anew(own: Path) -> None:
    before = read_guess_errors(minidiff.load(own))
    steps = resume(DdpmJob, own, ResumeRequest(steps=8)).steps()
    next(steps)
    assert not (own / GUESS_ERRORS).exists()  # of weights that are gone
    assert list(steps)
    after = read_guess_errors(minidiff.load(own))
    assert isinstance(after, GuessErrors) and after != before


def test_images_of_the_test_split_are_taken_where_there_are_few(
    finisher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of shapes, not of celeba, whose test split is large; a folder of one's own has none."""
    run = minidiff.load(finisher)
    own = guess_errors.load_data(run.config.data.data_dir, image_size=16)
    assert held_out(run, own) is own
    asked = []
    monkeypatch.setattr(guess_errors, "load_data", lambda **named: asked.append((named["name"], named["split"])) or own)
    for name in ("shapes", "celeba", "iclevr"):
        run.config = replace(run.config, data=replace(run.config.data, name=name, data_dir=None))
        assert held_out(run, own) is own
    assert asked == [("shapes", "test")]
