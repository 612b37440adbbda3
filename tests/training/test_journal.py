"""Between the steps: what is measured, when, and what a kill leaves to measure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minidiff.data.datasets import ImageData
from minidiff.images.files import image_shape
from minidiff.reports import describe as report
from minidiff.rng import Draws
from minidiff.runs import curves
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics, write_metrics
from minidiff.training import journal
from minidiff.training.config import TrainConfig
from minidiff.training.loop import Trainer


def run_to_the_end(*arguments: Any, **options: Any) -> None:
    for _ in journal.keep(*arguments, **options):
        pass


def trainer(steps: int) -> Trainer:
    """One number that learns the mean of grey images."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(3.0))

    def loss(model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        return (model.w - images).square().mean()  # type: ignore[operator]

    data = ImageData("test", np.full((4, 8, 8, 3), 255, np.uint8), np.zeros((4, 0), np.uint8), [], flip=False)
    return Trainer(Constant(), loss, data, TrainConfig(steps=steps, batch_size=2, warmup=0))


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
def test_what_a_kill_left_unmeasured_is_measured_on_resuming(tmp_path: Path, deadly: int) -> None:
    """Killed in the middle of a measurement, after the save of that step: it is made up for, and none twice. A run
    that has all of its own asks for nothing."""
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
