"""Between the steps, with a clock of our own: what a line of metrics.jsonl says, when pictures are drawn, how runs end.

The trainings here do nothing but yield losses that are given, a second each, so that every time is known.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics
from minidiff.training import journal
from minidiff.training.checkpoints import Checkpoints
from minidiff.training.config import TrainConfig
from minidiff.training.step import TrainStep


class Clock:
    """What time it is. It moves on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture()
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the journal. Curves are not drawn, and nothing goes to TensorBoard."""
    clock = Clock()
    monkeypatch.setattr(journal, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(journal, "draw_curves", lambda folder: None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    return clock


class Given:
    """A training of two images a step whose losses are given: each step takes a second."""

    def __init__(self, losses: list[float], clock: Clock | None = None, step: int = 0) -> None:
        self.config = TrainConfig(steps=len(losses), batch_size=2)
        self.losses, self.clock, self.step, self.slice_size = losses, clock or Clock(), step, 2
        self.device, self.model, self.ema = torch.device("cpu"), nn.Linear(1, 1), nn.Linear(1, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "model": self.model.state_dict(), "ema": self.ema.state_dict(), "optimizer": {}}

    def load_state_dict(self, state: dict[str, Any], source: str = "state") -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])

    def steps(self) -> Iterator[TrainStep]:
        while self.step < self.config.steps:
            self.step += 1
            self.clock.now += 1
            yield TrainStep(self.step, torch.tensor(self.losses[self.step - 1]), torch.tensor(0.5), 1e-3)


def saved_step(folder: Path) -> int:
    state = checkpoint.read_state(folder)
    return state["step"] if state is not None else 0


# --- what is written, and when --------------------------------------------------------------------------------------


def test_a_line_is_the_mean_of_its_steps_at_the_rate_of_its_steps(tmp_path: Path, clock: Clock) -> None:
    """Two images a second, whatever pictures and measurements take; the first step has a line of its own.

    Fails when sums are carried over, are divided by another number than that of the steps, or when the time for
    pictures is taken for that of the steps.
    """

    def busy(seconds: float, answer: Any) -> Any:
        clock.now += seconds
        return answer

    run = Given([1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 2.0], clock)
    for _ in journal.keep(
        run, tmp_path, log_every=2, sample_every=2, preview=lambda step: busy(5, []),
        measure=lambda step: busy(3, {"score": 1.0}), measure_every=3,
    ):  # fmt: skip
        pass
    lines = [record for record in read_metrics(tmp_path) if "loss" in record]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1), (2, 3), (4, 6), (6, 10), (7, 2)]
    assert all(line["images_per_second"] == 2 and line["grad_norm"] == 0.5 for line in lines)


def test_pictures_are_drawn_while_there_is_time(tmp_path: Path, clock: Clock) -> None:
    """4.5 s each, and 250 steps of a second. The first is guessed at 1 + 57 / 3 / 2 = 10.5 s, from the time of all
    steps so far: it is drawn when these are 110 s. The others wait until all of them take a tenth of the time."""
    drawn: list[int] = []

    def preview(step: int) -> list[str]:
        clock.now += 4.5
        drawn.append(step)
        return []

    run = Given([1.0] * 250, clock)
    for _ in journal.keep(run, tmp_path, save_every=250, sample_every=10, preview=preview, limit=57):
        pass
    assert drawn == [110, 120, 140, 180, 230, 250]


def test_the_curves_follow_what_is_measured(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at steps of which there are no pictures."""
    curves: list[int] = []
    run = Given([1.0] * 6, clock)
    monkeypatch.setattr(journal, "draw_curves", lambda folder: curves.append(run.step))
    for _ in journal.keep(run, tmp_path, sample_every=5, preview=lambda step: [], measure=lambda step: {"score": 1.0},
                          measure_every=2):  # fmt: skip
        pass
    assert curves == [2, 4, 5, 6]


class Board:
    """Stands in for TensorBoard's writer."""

    made: ClassVar[list["Board"]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.scalars, self.calls = folder, purge_step, list[Any](), list[str]()
        self.made.append(self)

    def add_scalar(self, *what: Any) -> None:
        self.scalars.append(what)

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")


def test_tensorboard_gets_every_line_at_once(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run cuts off what it does again, from the step after its checkpoint. The writer is closed in the end,
    after an error, too."""
    monkeypatch.setattr(Board, "made", [])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Board))
    for number, losses in enumerate(([1.0] * 4, [1.0] * 8, [1.0] * 9 + [float("nan")])):
        run = Given(losses, clock, step=saved_step(tmp_path))
        try:
            for _ in journal.keep(run, tmp_path, log_every=2):
                pass
        except journal.Diverged:
            assert number == 2
    assert [board.purge_step for board in Board.made] == [1, 5, 9]
    steps = [sorted({step for _, _, step in board.scalars}) for board in Board.made]
    assert steps == [[1, 2, 4], [6, 8], []]
    assert [board.calls for board in Board.made] == [["flush"] * 3 + ["close"], ["flush"] * 2 + ["close"], ["close"]]
    assert {name for name, _, _ in Board.made[0].scalars} == {"loss", "grad_norm", "lr", "images_per_second"}
    assert all(board.folder == str(tmp_path / "tensorboard") for board in Board.made)


# --- how a run ends -------------------------------------------------------------------------------------------------


def test_a_second_signal_acts_at_once_only_if_it_is_ctrl_c() -> None:
    """A service manager may send SIGTERM twice: the step still ends, and is saved."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with journal.stop_signals() as received:
        for number in (signal.SIGTERM, signal.SIGTERM):
            with suppress(KeyboardInterrupt):  # which would end all tests; then there is one signal in the list
                os.kill(os.getpid(), number)
        assert received == [signal.SIGTERM, signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with journal.stop_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    """The run is done, so there is nothing to resume."""
    run = Given([1.0] * 3, clock)
    steps = run.steps()

    def last() -> Iterator[TrainStep]:
        for record in steps:
            if record.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield record

    run.steps = last  # type: ignore[method-assign]
    assert [record.step for record in journal.keep(run, tmp_path)] == [1, 2, 3]
    assert saved_step(tmp_path) == 3


@pytest.mark.parametrize(
    "losses, save_every, saved, said",
    [([1.0] * 9, 3, 4, "saved."), ([1.0] * 3 + [50.0] * 6, 2, 2, "not saved,")],
)
def test_a_run_that_is_stopped_saves_what_is_sane(
    losses: list[float],
    save_every: int,
    saved: int,
    said: str,
    tmp_path: Path,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Between two checkpoints, at the step that it names. What cannot be saved is said once, in that line; the
    checkpoint that waited for its proof does not stay beside the other."""
    with pytest.raises(journal.Interrupted) as stop:
        for record in journal.keep(Given(losses, clock), tmp_path, save_every=save_every):
            if record.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
    assert f"Stopped by SIGTERM at step 4 of 9; {said}" in str(stop.value) and stop.value.exit_code == 143
    assert saved_step(tmp_path) == saved
    assert "not saved" not in capsys.readouterr().err
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_training_runs_in_any_thread(tmp_path: Path, clock: Clock) -> None:
    """Python lets the main thread alone handle signals."""
    seen: list[int] = []

    def work() -> None:
        seen.extend(record.step for record in journal.keep(Given([1.0] * 3, clock), tmp_path))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1, 2, 3] and saved_step(tmp_path) == 3


# --- what is sane ---------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_judged_by_the_first_loss_of_all(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """It began with 1; 20 in the first step after the resume is not sane, though it is the first this process sees."""
    for _ in journal.keep(Given([1.0] * 2, clock), tmp_path, log_every=1, save_every=1):
        pass
    run = Given([1.0, 1.0, 20.0, 1.0], clock, step=2)
    for _ in journal.keep(run, tmp_path, log_every=1, save_every=3):
        pass
    assert "step 3 is not saved, because the loss is 20" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, first, loss, sane",
    [
        ("loss", 1.0, 10.0, True), ("loss", 1.0, 10.1, False), ("loss", 0.01, 10.0, True), ("loss", 50.0, 499.0, True),
        ("critic_loss", 1.0, -100.0, True), ("critic_loss", 1.0, -1e9, False), ("critic_loss", -50.0, -4999.0, True),
        ("critic_loss", -50.0, -5001.0, False), ("loss", 1.0, float("nan"), False), ("loss", None, 1e9, True),
        ("loss", None, float("inf"), False),
    ],
)  # fmt: skip
def test_how_far_a_loss_may_be_from_the_first(
    name: str, first: float | None, loss: float, sane: bool, tmp_path: Path
) -> None:
    """Ten times as far, a critic's a hundred times, in either direction; a first loss below 1 counts as 1."""
    assert Checkpoints(tmp_path, 0, first).is_sane(name, loss) == sane
