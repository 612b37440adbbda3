"""`minutes`: as many steps as fit, corrected on the way. Time is a fake clock that only the steps and pictures move."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import minidiff
from minidiff.errors import UserError
from minidiff.runs.folder import read_tensors
from minidiff.training import clock, journal, minutes
from minidiff.training.config import TrainConfig
from minidiff.training.loop import Trainer
from minidiff.training.step import TrainStep

SMALL: dict[str, Any] = {"image_size": 16, "batch_size": 4, "device": "cpu"}


class Time:
    """Seconds that pass by steps alone: `pace` of them a step."""

    def __init__(self) -> None:
        self.seconds, self.pace = 0.0, 1.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Time:
    """A step takes a second of the fake clock, and so does a picture, whatever the machine."""
    fake, real = Time(), Trainer.steps

    def steps(self: Trainer) -> Iterator[TrainStep]:
        for record in real(self):
            fake.seconds += fake.pace
            yield record

    def preview(self: object, step: int) -> list[str]:
        fake.seconds += 1
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clock, "now", fake)
    monkeypatch.setattr(minutes, "now", fake)
    monkeypatch.setattr(Trainer, "steps", steps)
    monkeypatch.setattr("minidiff.ddpm.job.DdpmJob.preview", preview)
    monkeypatch.setattr("minidiff.ddpm.job.DdpmJob.preview_passes", 0)  # so a picture is guessed at a second
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
    return fake


def test_the_steps_fit_the_time_and_are_those_of_that_number(photos: Path, tiny_preset: str, fake: Time) -> None:
    """The trial leaves no trace: the same weights to the bit as with `steps`, and the time that was asked for.

    Fails when the trained network of the trial is kept, and when the trial, or the pictures, do not count as time.
    """
    tiny: dict[str, Any] = {"dataset": "folder", "data_dir": photos, "preset": "tiny", **SMALL}
    job = minidiff.plan_training("ddpm", minutes=1, **tiny, out="timed")
    steps = job.training.steps
    assert f"about {steps} steps in 1 minute, of 4 images" in job.describe()
    assert job.training.warmup <= steps // 6 and job.trainer.step == 0
    job.run()
    assert fake.seconds == pytest.approx(60, abs=3)
    assert job.training.steps == steps  # it was right, so it was not corrected
    minidiff.train("ddpm", steps=steps, **tiny, out="counted")
    one, other = (read_tensors(Path(run) / "model.safetensors") for run in ("timed", "counted"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_machine_that_changes_its_pace_still_ends_in_time(
    photos: Path, tiny_preset: str, fake: Time, factor: float
) -> None:
    """The end is in time, config.json says the steps that were made, and every step is reported once.

    Fails without corrections: the end is then at 99 or at 38 s.
    """
    job = minidiff.plan_training(
        "ddpm", dataset="folder", data_dir=photos, preset="tiny", minutes=1, out="run", **SMALL
    )
    planned, seen = job.training.steps, []
    for step in job.steps():
        seen.append(step.step)
        if step.step == 12:
            fake.pace = factor
    assert fake.seconds == pytest.approx(60, abs=6)
    assert seen == list(range(1, job.training.steps + 1))
    assert (job.training.steps < planned) == (factor > 1)
    stored = json.loads(Path("run/config.json").read_text())["training"]
    assert stored["steps"] == job.training.steps and stored["minutes"] == 1
    training = minidiff.resume("run", steps=seen[-1] + 1, device="cpu").config.training
    assert training is not None and training.steps == seen[-1] + 1


def test_the_steps_do_not_become_more_when_the_rate_comes_down(fake: Time) -> None:
    """In the last third only fewer steps are taken: with more, the rate of the next step would rise."""
    time = clock.Clock(1)
    time.pace = 0.5
    for step, fitting, expected in ((30, 90, True), (50, 70, False), (50, 55, True), (30, 60, False)):
        fake.seconds = 60 - (0.5 * (60 - step)) - (20 if fitting != 60 else 0)
        assert time.is_off(step, 60, fitting, 0) is expected
    rates = [TrainConfig(steps=steps, warmup=0, decay="cosine").learning_rate(51) for steps in (55, 60, 70)]
    assert rates == sorted(rates)


@pytest.mark.quick
def test_time_for_not_even_one_step_is_refused(photos: Path, tiny_preset: str) -> None:
    """Nothing is made, and the message says what would do."""
    with pytest.raises(UserError, match="not even one step fits"):
        minidiff.train("ddpm", dataset="folder", data_dir=photos, preset="tiny", minutes=0.05, **SMALL)
    assert not Path("runs").exists()


@pytest.mark.parametrize("level", ["quiet", "normal"])
def test_a_remark_is_not_made_when_it_is_to_be_quiet(
    level: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But a warning is. Fails when the remark on another number of steps does not ask."""
    monkeypatch.setenv("MINIDIFF_VERBOSITY", level)
    journal.remark("the pace has changed")
    journal.warn("look")
    assert capsys.readouterr().err.splitlines() == ["the pace has changed"] * (level == "normal") + ["Warning: look"]
