"""Between the steps: what is measured, when, and what a kill leaves to measure."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minidiff.data.datasets import ImageData
from minidiff.errors import UserError
from minidiff.images.files import image_shape
from minidiff.reports import describe as report
from minidiff.rng import Draws
from minidiff.runs import curves
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics, write_metrics
from minidiff.training import journal
from minidiff.training.config import TrainConfig
from minidiff.training.loop import Trainer
from minidiff.training.previews import Previews
from minidiff.training.step import TrainStep


def run_to_the_end(*arguments: Any, **options: Any) -> None:
    for _ in journal.keep(*arguments, **options):
        pass


def trainer(steps: int, lr: float = 2e-4) -> Trainer:
    """One number that learns the mean of grey images."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(3.0))

    def loss(model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        return (model.w - images).square().mean()  # type: ignore[operator]

    data = ImageData("test", np.full((4, 8, 8, 3), 255, np.uint8), np.zeros((4, 0), np.uint8), [], flip=False)
    return Trainer(Constant(), loss, data, TrainConfig(steps=steps, batch_size=2, lr=lr, warmup=0))


def resumed(folder: Path, steps: int) -> Trainer:
    run = trainer(steps)
    state = checkpoint.read_state(folder)
    assert state is not None
    run.load_state_dict(state)
    return run


class Killed(BaseException):
    pass


class Gauge:
    """Measures ten times the step, notes when it was asked, and dies at some steps."""

    def __init__(self, *deadly: int) -> None:
        self.asked: list[int] = []
        self.deadly = deadly

    def __call__(self, step: int) -> dict[str, float]:
        self.asked.append(step)
        if step in self.deadly:
            raise Killed
        return {"score": 10.0 * step}


def scores(folder: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["score"]) for r in read_metrics(folder) if "score" in r]


def test_what_is_measured_stands_beside_the_losses(tmp_path: Path) -> None:
    """Every third step and at the last, once, each after the loss of its step; the curves get a second panel."""
    gauge = Gauge()
    run_to_the_end(trainer(8), tmp_path, log_every=1, measure=gauge, measure_every=3)
    assert gauge.asked == [3, 6, 8] and scores(tmp_path) == [(3, 30.0), (6, 60.0), (8, 80.0)]
    order = [(record["step"], "loss" in record) for record in read_metrics(tmp_path)]
    assert order == [(1, True), (2, True), (3, True), (3, False), (4, True), (5, True), (6, True), (6, False),
                     (7, True), (8, True), (8, False)]  # fmt: skip
    assert report.progress(tmp_path, 8).startswith("step 8 of 8 (done), last loss ")

    with_panel = image_shape(tmp_path / "curves.png")
    records = [record for record in read_metrics(tmp_path) if "loss" in record]
    write_metrics(tmp_path, records)
    curves.draw_curves(tmp_path)
    alone = image_shape(tmp_path / "curves.png")
    assert with_panel[1] == alone[1] and with_panel[0] > 1.5 * alone[0]


def test_nothing_is_measured_unless_it_is_asked_for(tmp_path: Path) -> None:
    gauge = Gauge()
    run_to_the_end(trainer(4), tmp_path, log_every=1, measure=gauge)
    assert gauge.asked == [] and len(read_metrics(tmp_path)) == 4


@pytest.mark.parametrize("deadly", [6, 8])
def test_what_a_kill_left_unmeasured_is_measured_on_resuming(
    tmp_path: Path, deadly: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a measurement, after the save of that step: it is made up for, and none twice. A run
    that has all of its own asks for nothing."""
    monkeypatch.setattr(journal, "draw_curves", lambda folder: None)
    with pytest.raises(Killed):
        run_to_the_end(trainer(8), tmp_path, save_every=3, measure=Gauge(deadly), measure_every=3)
    again = Gauge()
    run_to_the_end(resumed(tmp_path, 8), tmp_path, save_every=3, measure=again, measure_every=3)
    assert again.asked == [step for step in (3, 6, 8) if step >= deadly]
    assert scores(tmp_path) == [(3, 30.0), (6, 60.0), (8, 80.0)]
    run_to_the_end(resumed(tmp_path, 8), tmp_path, measure=again, measure_every=3)
    assert scores(tmp_path) == [(3, 30.0), (6, 60.0), (8, 80.0)] and len(again.asked) <= 2


def test_steps_that_come_again_are_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at step 6, saved at step 4: the measurement of step 5 belongs to steps that are lost."""
    monkeypatch.setattr(journal, "draw_curves", lambda folder: None)  # eight times would take its time
    with pytest.raises(Killed):
        run_to_the_end(trainer(8), tmp_path, save_every=4, measure=Gauge(6), measure_every=1)
    assert scores(tmp_path)[-1][0] == 5
    run_to_the_end(resumed(tmp_path, 8), tmp_path, save_every=4, measure=Gauge(), measure_every=1)
    assert scores(tmp_path) == [(step, 10.0 * step) for step in range(1, 9)]


def test_the_running_median_neither_lags_nor_follows_a_stray() -> None:
    """A straight fall is itself, to both ends; one step a hundred times too high leaves no trace."""
    falling = [float(value) for value in range(300, 0, -1)]
    assert curves.running_median(falling) == falling
    astray = [*falling[:150], 30_000.0, *falling[151:]]
    assert max(abs(a - b) for a, b in zip(curves.running_median(astray), falling, strict=True)) <= 1
    assert curves.running_median([5.0]) == [5.0]


# --- which checkpoints are kept --------------------------------------------------------------------------------------


class Scripted(Trainer):
    """A trainer whose losses are given: that of each step, as the weights before it would give it."""

    def __init__(self, losses: list[float], name: str = "loss") -> None:
        vars(self).update(vars(trainer(len(losses))))
        self.losses, self.name = losses, name

    def steps(self) -> Iterator[TrainStep]:
        for record in super().steps():
            value = torch.tensor(self.losses[record.step - 1])
            yield record._replace(loss=value) if self.name == "loss" else record._replace(also={self.name: value})


GOOD = {
    "one that falls, with strays": ("loss", [2.3, 2.0, 9.0, 1.0, 0.5, 4.0, 0.1, 0.05]),
    "a diffusion's, which rises in its warm-up": ("loss", [0.7, 1.6, 2.9, 0.9, 0.3, 0.2, 0.1, 0.1]),
    "a discriminator's": ("discriminator_loss", [1.4, 0.1, 0.01, 7.0, 2.0, 1e-4, 30.0, 1.0]),
    "the critic's of a wgan": ("critic_loss", [-1e-4, -0.1, -0.8, 0.2, -3.0, -8.0, -20.0, -15.0]),
    "the critic's of a wgan-gp": ("critic_loss", [9.8, -3.0, -60.0, -220.0, -400.0, -90.0, -20.0, -5.0]),
}


@pytest.mark.parametrize("what", GOOD)
def test_an_ordinary_training_saves_every_step(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, losses = GOOD[what]
    run = Scripted(losses, name)
    for record in journal.keep(run, tmp_path, log_every=1, save_every=1):
        state = checkpoint.read_state(tmp_path)
        assert state is not None and state["step"] == record.step
    assert "Warning" not in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]  # nor is anything left beside it


@pytest.mark.parametrize(
    "losses, kept",
    [
        ([1.0, 0.9, 0.8, 300.0, 1e9, float("nan")], 2),  # the weights of step 3 gave the 300
        ([1.0, 0.9, 0.8, float("nan"), 1.0, 1.0], 2),
        ([1.0, 400.0, 1e9, 1e20, float("nan"), 1.0], 0),  # the first step ruined all
        ([1.0, 0.9, 300.0, 0.9, 0.8, float("nan")], 4),  # it recovers, and saves again
        ([1.0, 0.9, 0.8, 0.9, 500.0, 900.0], 3),  # finite to the end
    ],
)
def test_a_checkpoint_is_good_if_the_loss_that_follows_is_sane(
    losses: list[float], kept: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """State and weights are those of the step that the message names; what could not be saved is said once.

    Fails when a finite loss is enough, and when the step after a checkpoint does not count.
    """
    weights: dict[int, torch.Tensor] = {}
    run = Scripted(losses)
    with pytest.raises(journal.Diverged) as error:
        for record in journal.keep(run, tmp_path, log_every=1, save_every=1):
            weights[record.step] = run.ema.w.clone()  # type: ignore[operator]
    state = checkpoint.read_state(tmp_path)
    if kept:
        assert f"is kept in {tmp_path}: that of step {kept}." in str(error.value)
        assert state is not None and state["step"] == kept
        assert checkpoint.read_tensors(tmp_path / "model.safetensors")["w"] == weights[kept] == state["ema"]["w"]
    else:
        assert "No good checkpoint" in str(error.value) and state is None
        assert not (tmp_path / "model.safetensors").exists()
    assert capsys.readouterr().err.count("is not saved") <= 1


def test_the_weights_are_those_of_the_state_after_a_kill_between_them(tmp_path: Path) -> None:
    """At the last step, too, after which nothing more would be saved."""
    run_to_the_end(trainer(4), tmp_path)
    right = (tmp_path / "model.safetensors").read_bytes()
    for wrong in (None, b"", right[:-4] + b"\0\0\0\0"):
        (tmp_path / "model.safetensors").unlink(missing_ok=True)
        if wrong is not None:
            (tmp_path / "model.safetensors").write_bytes(wrong)
        run_to_the_end(resumed(tmp_path, 4), tmp_path)
        assert (tmp_path / "model.safetensors").read_bytes() == right


# --- pictures -------------------------------------------------------------------------------------------------------


def test_what_a_kill_left_undrawn_is_drawn_on_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of the pictures of steps 4 and 8: each is drawn once more, by the next process alone."""
    monkeypatch.setattr(journal, "draw_curves", lambda folder: None)
    drawn: list[int] = []

    def draw(step: int, deadly: bool) -> list[str]:
        if deadly:
            raise Killed
        drawn.append(step)
        return []

    def go_on(run: Trainer, deadly: int = 0) -> None:
        run_to_the_end(run, tmp_path, save_every=2, sample_every=4, preview=lambda step: draw(step, step == deadly),
                       is_drawn=drawn.__contains__)  # fmt: skip

    with pytest.raises(Killed):
        go_on(trainer(8), deadly=4)
    with pytest.raises(Killed):
        go_on(resumed(tmp_path, 8), deadly=8)
    go_on(resumed(tmp_path, 8))
    go_on(resumed(tmp_path, 8))
    assert drawn == [4, 8]


def test_pictures_take_a_tenth_of_the_time_at_most() -> None:
    """The first is weighed by its passes through the network, the others by what the latest took; the last is always
    drawn. Nobody who says how often to draw gets fewer."""
    previews = Previews(every=10, last=1000, limited=True, passes=300)
    assert not previews.is_worth(10, images=1000, trained=100)  # 300 / 1000 * 100 s / 3 + 1 s = 11 s, and 10 s are free
    assert previews.is_worth(20, images=1200, trained=120)
    previews.spend(15.0)
    assert not previews.is_worth(290, 1, trained=290) and previews.is_worth(300, 1, trained=300)
    assert previews.is_worth(1000, 1, trained=300)
    assert Previews(10, 1000, limited=False, passes=300).is_worth(10, 100, 10)


def test_the_end_is_not_drawn_twice() -> None:
    """250 steps, a picture every 62: step 248 would be the last picture again."""
    previews = Previews(every=62, last=250, limited=False, passes=0)
    assert [step for step in range(1, 251) if previews.is_due(step)] == [62, 124, 186, 250]
    assert [step for step in range(1, 8) if Previews(3, 7, False, 0).is_due(step)] == [3, 6, 7]


def test_a_warning_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the numbers in it are."""
    monkeypatch.setattr(journal, "draw_curves", lambda folder: None)
    run_to_the_end(trainer(4), tmp_path, sample_every=1, preview=lambda step: [f"step {step}: 0.{step} of 9 are grey"])
    assert capsys.readouterr().err.count("are grey") == 1


# --- how a run ends -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_a_closed_terminal_ends_a_training_as_sigterm_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is saved, with the exit code of the shell. Under nohup, where the signal is ignored, it stays ignored."""
    monkeypatch.setattr(journal, "draw_curves", lambda folder: None)
    for name, before in (("run", signal.SIG_DFL), ("nohup", signal.SIG_IGN)):
        (tmp_path / name).mkdir()
        kept = signal.signal(signal.SIGHUP, before)
        try:
            for record in journal.keep(trainer(8), tmp_path / name):
                if record.step == 3:
                    os.kill(os.getpid(), signal.SIGHUP)
        except journal.Interrupted as stop:
            assert stop.exit_code == 129 and "Stopped by SIGHUP at step 4 of 8; saved" in str(stop)
        finally:
            assert signal.signal(signal.SIGHUP, kept) == before
        state = checkpoint.read_state(tmp_path / name)
        assert state is not None and state["step"] == (4 if name == "run" else 8)


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_deleted_ends_its_training(tmp_path: Path, again: bool) -> None:
    """It is not made again for the next picture, nor does the training write into one that took its place."""
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(UserError, match="run was (deleted|emptied).* Begin again, in another folder"):
        for record in journal.keep(trainer(8), run, log_every=1, sample_every=4, preview=lambda step: []):
            if record.step == 3:
                shutil.rmtree(run)
                if again:
                    run.mkdir()
                    write_metrics(run, [])
    assert not run.exists() or read_metrics(run) == []
