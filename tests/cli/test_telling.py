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
from minidiff.cli.restore import tell
from minidiff.cli.train_run import next_command
from minidiff.cli.types import Device
from minidiff.ddpm.config import DiffusionConfig
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.dehaze.presets import GUESS_PRESETS
from minidiff.dip.config import FitRequest
from minidiff.errors import UserError
from minidiff.gan.presets import GAN_PRESETS
from minidiff.priors.presets import DIP_PRIOR_PRESETS
from minidiff.restoration.config import Quality, RestoreResult
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

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_description(self, what: str, refresh: bool = True) -> None:
        self.what = what

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
        ([], "next      minidiff sample photos --start-t 100 --init 'my dip.png'\n"),
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


@pytest.mark.parametrize(
    "request_of_fit, said",
    [
        (FitRequest(), "; `minidiff restore 'my dip.png'` asks one that knows photographs, in seconds"),
        (FitRequest(task="inpaint", mask="m.png"), "'my dip.png' --task inpaint --mask m.png` asks"),
        (FitRequest(task="super-resolve"), "'my dip.png' --task upscale --scale 4` asks"),
        (FitRequest(task="super-resolve", factor=3), "in play\n"),
    ],
)
def test_before_a_fit_it_is_said_that_no_trained_network_takes_part(
    request_of_fit: FitRequest, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that has one, where it can do the same; nothing is said of an encoder trained on ImageNet."""
    dip_cli.say_what_knows("my dip.png", request_of_fit)
    heard = capsys.readouterr().out
    assert heard.startswith("prior     no network trained on data is in play") and said in heard
    dip_cli.say_what_knows("my dip.png", FitRequest(net="resnet18", weights="imagenet"))
    assert not capsys.readouterr().out


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


def test_a_second_signal_does_not_undo_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cleared away takes its time, and torchrun sends SIGTERM twice; ten seconds later it acts again."""
    now = 100.0
    monkeypatch.setattr(cli, "time", SimpleNamespace(monotonic=lambda: now))
    handle = cli.end_once()
    with pytest.raises(cli.Terminated) as ended:
        handle(15, None)
    assert ended.value.number == 15
    now = 109.0
    handle(15, None)
    now = 110.5
    with pytest.raises(cli.Terminated):
        handle(15, None)


def test_an_error_that_another_process_told_is_not_told_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is the same; of one that nobody told, a line on standard error and nothing on the other."""
    error = UserError("no room.")

    def fails(_: Any) -> None:
        raise error

    monkeypatch.setattr("minidiff.reports.describe.describe_run", fails)
    assert cli.run(["info", "run"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Error: no room.\n")
    error.told = True
    assert cli.run(["info", "run"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


# --- evaluate, compare, restore -------------------------------------------------------------------------------------


def test_an_evaluation_is_told_in_flags(
    bars: list[Bar], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is looked at, what is doubted before and after, and a bar that ends at the last call."""

    def run(on_progress: Any) -> Any:
        for done in (3, 7):
            on_progress(done, 7, "test")
        return SimpleNamespace(lists={}, written=["to"], problems=["`steps` are few"])

    evaluation = SimpleNamespace(lines=["`seed` 0"], warnings=["`seeds` 1 is few"], run=run)
    monkeypatch.setattr("minidiff.evaluation.evaluate.plan", lambda request: evaluation)
    monkeypatch.setattr("minidiff.evaluation.figures.table", lambda lists: ["the table"])
    assert cli.run(["evaluate", "run", "--classifier", "clf"]) == 0
    said = capsys.readouterr()
    assert said.out == "--seed 0\nthe table\nwritten   to\n"
    assert said.err == "Warning: --seeds 1 is few\nWarning: --steps are few\n"
    assert [(bar.n, bar.total, bar.what, bar.open) for bar in bars] == [(7, 7, "test", False)]


@pytest.fixture()
def study(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """Take away all that `compare` calls. What each of it was given is noted."""
    given: dict[str, tuple[Any, ...]] = {}

    def take_away(place: str, answer: Any = None) -> None:
        name = place.rpartition(".")[2]
        monkeypatch.setattr(f"minidiff.studies.{place}", lambda *what, **_: (given.update({name: what}), answer)[1])

    event = SimpleNamespace(name="a.b.c", state="failed", text="`num` is odd")
    take_away("compare.plan_study", SimpleNamespace(device="mps", doubts=["`num` is small"], cells=["a.b.c"]))
    take_away("compare.devices_for", ["a device"])
    take_away("compare.check_idle")
    take_away("study.keep_study")
    take_away("processes.carry_out", [event])
    take_away("progress.unfinished", [])
    take_away("progress.describe", ["the plan"])
    take_away("progress.timetable", ["the hours"])
    take_away("progress.table", ["the figures: `num`"])
    take_away("progress.Clock", SimpleNamespace(note=lambda name, state: "an hour"))
    monkeypatch.setattr("minidiff.cli.study_run.write_page", lambda folder: None)
    return given


def test_a_study_is_carried_out_as_it_was_asked_for(
    study: dict[str, tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """On the devices that were asked for, or else the study's; as many cells at once, failed ones again, if asked."""
    assert cli.run(["compare", "--out", "s", "--device", "cpu", "--parallel", "3", "--retry"]) == 0
    said = capsys.readouterr()
    assert study["devices_for"] == ("cpu", 3) and study["Clock"][2] == 3
    assert study["carry_out"][2:] == (["a device"], True) and "keep_study" in study and "check_idle" not in study
    for line in ("failed    a.b.c: --num is odd", "left      an hour", "the figures: --num"):
        assert f"{line}\n" in said.out
    assert said.err == "Warning: --num is small\n"
    assert cli.run(["compare", "--out", "s"]) == 0
    assert study["devices_for"] == ("mps", 1) and study["carry_out"][2:] == (["a device"], False)


def test_a_dry_run_of_a_study_asks_whether_another_is_at_work(
    study: dict[str, tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The real run would be refused; nothing is kept or begun."""
    assert cli.run(["compare", "--out", "s", "--dry-run", "--quiet"]) == 0
    assert study["check_idle"] == (Path("s"),) and not {"keep_study", "carry_out"} & study.keys()
    assert capsys.readouterr().out == "the plan\nthe hours\n"


@pytest.mark.parametrize("fit, restored, doubted", [(30.0, 29.0, True), (29.0, 30.0, False), (30.0, None, False)])
def test_a_fit_that_is_better_alone_is_told(
    fit: float, restored: float | None, doubted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that does not know such pictures makes them worse. Without a psnr a picture equals the reference."""
    quality = {"deep image prior": Quality(fit, 0.9), "restored": Quality(restored)}
    tell(RestoreResult(5.0, 2, (2, 1, 0), quality))
    said = capsys.readouterr()
    assert ("the fit alone is nearer" in said.err) == doubted
    assert "noise 5.0 of 255 in the picture, chain from t = 2, 3 calls" in said.out
    assert f"deep image prior: PSNR {fit:.2f} dB, SSIM 0.900" in said.out
    assert ("restored: equals the reference" in said.out) == (restored is None)


def test_a_checkpoint_is_told_in_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its notes advise options of `minidiff sample`; a run that draws nothing without labels is asked for one."""
    network = SimpleNamespace(image_size=8, in_channels=3, label_dim=4)
    diffusion = DiffusionConfig(timesteps=9, prediction="v")
    config = SimpleNamespace(network=network, diffusion=diffusion, source=SimpleNamespace(one_hot=True))
    found = SimpleNamespace(config=config, parameters=7, notes=["`clip` False, `steps` 4"], folder=Path("my run"))
    monkeypatch.setattr("minidiff.pretrained.exchange.import_run", lambda source, run: found)
    assert cli.run(["import", "there"]) == 0
    said = capsys.readouterr().out
    assert "note      --no-clip, --steps 4\n" in said and "4, one an image" in said
    assert said.endswith("next      minidiff sample 'my run' --labels 0 --num 4\n")


@pytest.mark.parametrize("device, count, said", [
    ("cuda:1", 2, None), ("cuda", 2, None), ("cpu", 0, None), ("cuda:2", 2, "has 2 GPUs"), ("cuda", 0, "torch"),
    ("cuda:0", 0, "torch"), ("xpu", 0, "is not supported"), ("gpu", 0, "unknown device 'gpu'"),
])  # fmt: skip
def test_a_device_must_be_there(device: str, count: int, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    if said is None:
        assert Device().convert(device, None, None) == device
    else:
        with pytest.raises(click.BadParameter, match=said):
            Device().convert(device, None, None)


# --- help -----------------------------------------------------------------------------------------------------------

PRESETS = {
    "ddpm": DDPM_PRESETS,
    "classifier": CLASSIFIER_PRESETS,
    **GAN_PRESETS,
    "dehaze": GUESS_PRESETS,
    "dip-prior": DIP_PRIOR_PRESETS,
}


@pytest.mark.parametrize("kind", PRESETS)
def test_help_names_the_defaults_of_the_presets(kind: str) -> None:
    """Those of its own kind, of the field of its own name."""
    command = cli.cli.get_command(None, "train").get_command(None, kind)  # type: ignore[union-attr, arg-type, attr-defined]
    helps = {each.name: each.help for each in command.params if isinstance(each, click.Option)}
    for name in ("steps", "batch_size", "lr", "warmup", "ema_decay"):
        cpu, gpu = (getattr(PRESETS[kind][preset].training, name) for preset in ("cpu", "gpu"))
        values = f"({cpu})" if cpu == gpu else f"(cpu: {cpu}, gpu: {gpu})"
        assert helps[name].endswith(f"Default: the preset's {values}."), name
