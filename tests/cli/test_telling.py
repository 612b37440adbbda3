"""What the commands tell on the way and in the end: bars that add up, next steps, exit codes, defaults in the help."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from minidiff import cli
from minidiff.classifier.job import ClassifierJob
from minidiff.classifier.presets import CLASSIFIER_PRESETS
from minidiff.cli import dip as dip_cli
from minidiff.cli import fid as fid_cli
from minidiff.cli.train import next_command
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.gan.presets import GAN_PRESETS
from minidiff.training.journal import Interrupted


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- bars -----------------------------------------------------------------------------------------------------------


class Bar:
    """A progress bar that counts."""

    def __init__(self, total: int | None = None, what: str = "", *, initial: int = 0, **_: Any) -> None:
        self.total, self.what, self.n, self.notes, self.open = total, what, initial, list[str](), True

    def update(self, by: int = 1) -> None:
        self.n += by

    def set_postfix_str(self, note: str, refresh: bool = True) -> None:
        self.notes.append(note)

    def close(self) -> None:
        self.open = False


@pytest.fixture()
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    made: list[Bar] = []
    monkeypatch.setattr(
        "minidiff.runtime.progress.progress_bar",
        lambda *given, **named: (made.append(Bar(*given, **named)), made[-1])[1],
    )
    return made


def test_the_bars_of_a_distance_follow_its_stages(bars: list[Bar]) -> None:
    """Each stage has its own, which ends where its work ends, and is closed when the next begins."""
    told = [("samples of A", done, 9) for done in (4, 8, 9)] + [("KID", done, 2) for done in (1, 2)]
    with fid_cli.Bars() as shown:
        for stage, done, total in told:
            shown.show(SimpleNamespace(stage=stage, done=done, total=total, unit="image", note="slow"))  # type: ignore[arg-type]
            assert [bar.open for bar in bars] == [False] * (len(bars) - 1) + [True]
    assert [(bar.what, bar.total, bar.n, bar.open) for bar in bars] == [
        ("samples of A", 9, 9, False), ("KID", 2, 2, False)
    ]  # fmt: skip


def test_the_bar_of_a_resumed_fit_goes_on_where_it_was(bars: list[Bar]) -> None:
    """The first step that is shown is step 31: it begins at 30. The next fit of a folder has a bar of its own."""
    with dip_cli.FitBar() as shown:
        for step in (31, 32):
            record = {"loss": 0.25} if step == 32 else None
            shown.step(SimpleNamespace(step=step, total=40, record=record, best_step=7))  # type: ignore[arg-type]
        shown.close()
        shown.step(SimpleNamespace(step=1, total=40, record=None, best_step=0))  # type: ignore[arg-type]
    assert [(bar.n, bar.total, bar.open) for bar in bars] == [(32, 40, False), (1, 40, False)]
    assert bars[0].notes == ["loss 0.25000, best so far 7"]


# --- next steps and exit codes --------------------------------------------------------------------------------------


def classifier_of(**data: Any) -> Any:
    job = object.__new__(ClassifierJob)
    job.config = SimpleNamespace(data=SimpleNamespace(**{"brought": False, "data_dir": None} | data))  # type: ignore[assignment]
    return job


def test_a_classifier_is_tried_on_the_data_it_was_trained_on() -> None:
    """Where they lie, too; images that a script brought have no name to give."""
    line = next_command(classifier_of(name="folder", data_dir="my photos"), "run")
    assert line == "evaluate dataset:folder --data-dir 'my photos' --classifier run"
    assert next_command(classifier_of(name="mnist"), "run") == "evaluate dataset:mnist --classifier run"
    assert next_command(classifier_of(name="mine", brought=True), "run") == "report run"


def test_a_stopped_training_ends_with_the_code_of_its_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And with the command that goes on."""

    def stopped() -> None:
        raise Interrupted("Stopped by SIGHUP at step 3 of 9; saved.", 129)

    job = SimpleNamespace(
        data=SimpleNamespace(notes=[]), config=SimpleNamespace(), folder=Path("my run"), describe=str, start=str,
        close=str, run=stopped,
    )  # fmt: skip
    monkeypatch.setattr("minidiff.pretrained.train.plan", lambda kind, request: job)
    assert cli.run(["train", "wgan"]) == 129
    said = "Stopped by SIGHUP at step 3 of 9; saved. Resume with: minidiff train wgan --resume 'my run'\n"
    assert capsys.readouterr().out.endswith(said)


@pytest.mark.parametrize(
    "runs, said",
    [
        ([], "next      minidiff train ddpm\nthen      minidiff sample --start-t 100 --init 'my dip.png'\n"),
        ([(0, None, 1000)], "next      minidiff sample runs/0 --start-t 100 --init 'my dip.png'\n"),
        ([(0, None, 50)], "next      minidiff sample runs/0 --start-t 5 --init 'my dip.png'\n"),
        ([(3, 0.0, 50), (3, 0.1, 50)], "next      minidiff sample runs/1 --start-t 5 --init 'my dip.png'\n"),
    ],
)
def test_after_a_fit_comes_the_newest_model_that_draws_without_labels(
    runs: list[tuple[int, float | None, int]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From a tenth of its timesteps, 100 at most. runs: labels that the network knows, their dropout, timesteps."""
    configs = {
        Path(f"runs/{number}"): SimpleNamespace(
            network=SimpleNamespace(label_dim=labels),
            labels=None if dropout is None else SimpleNamespace(dropout=dropout),
            diffusion=SimpleNamespace(timesteps=timesteps),
        )
        for number, (labels, dropout, timesteps) in enumerate(runs)
    }
    monkeypatch.setattr("minidiff.runs.folder.list_runs", lambda kind: list(configs))
    monkeypatch.setattr("minidiff.runs.folder.read_config", lambda run: run)
    monkeypatch.setattr("minidiff.ddpm.config.read_ddpm", lambda stored, where: configs[stored])
    dip_cli.say_next(Path("my dip.png"))
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("steps, more", [(500, 3000), (2999, 3000), (3000, 6000), (4000, 8000)])
def test_a_fit_that_ended_too_soon_is_given_more_steps(
    steps: int, more: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The usual number, or twice as many as it had."""
    dip_cli.advise_more(["It still improves."], "dip fit", Path("a run"), steps)
    said = f"Warning: It still improves. Go on with: minidiff dip fit --resume 'a run' --steps {more}\n"
    assert capsys.readouterr().err == said


def test_statistics_are_not_kept_a_second_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that holds them beside its images, as ADM's do, has them already."""
    images = SimpleNamespace(statistics=object())
    monkeypatch.setattr("minidiff.pretrained.distance.Comparison", lambda *_: SimpleNamespace(sources=[images, None]))
    assert cli.run(["fid", "a.npz", "--save-stats", "s.npz"]) == 1
    assert "a.npz is statistics already" in capsys.readouterr().err and not Path("s.npz").exists()


# --- help -----------------------------------------------------------------------------------------------------------

PRESETS = {"ddpm": DDPM_PRESETS, "classifier": CLASSIFIER_PRESETS, **GAN_PRESETS}


@pytest.mark.parametrize("kind", PRESETS)
def test_help_names_the_defaults_of_the_presets(kind: str) -> None:
    """Those of its own kind, of the field of its own name."""
    command = cli.cli.get_command(None, "train").get_command(None, kind)  # type: ignore[union-attr, arg-type, attr-defined]
    helps = {each.name: each.help for each in command.params if isinstance(each, click.Option)}
    for name in ("steps", "batch_size", "lr", "warmup", "ema_decay"):
        cpu, gpu = (getattr(PRESETS[kind][preset].training, name) for preset in ("cpu", "gpu"))
        values = f"({cpu})" if cpu == gpu else f"(cpu: {cpu}, gpu: {gpu})"
        assert helps[name].endswith(f"Default: the preset's {values}."), name
