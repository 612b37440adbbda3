"""minidiff.train, minidiff.resume and minidiff.plan_training do from a script what the command does."""

import inspect
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import torch

import minidiff
from minidiff import cli
from minidiff.classifier.config import ClassifierRequest
from minidiff.cli.train import train as command
from minidiff.ddpm.config import DdpmRequest
from minidiff.errors import UserError
from minidiff.files import locked
from minidiff.gan.config import GanRequest
from minidiff.pretrained.train import REQUESTS, plan, take_up
from minidiff.runs.folder import read_state, read_tensors
from minidiff.training.config import ResumeRequest

SMALL: dict[str, Any] = {"image_size": 16, "steps": 4, "batch_size": 4, "device": "cpu"}
LINE = "--image-size 16 --steps 4 --batch-size 4 --device cpu --out typed"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minidiff.ddpm.previews.IMAGES", 1)  # pictures take most of the time
    monkeypatch.setattr("minidiff.ddpm.previews.COLUMNS", 1)
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
    return tmp_path


def weights(run: str) -> dict[str, torch.Tensor]:
    return read_tensors(Path(run) / "model.safetensors")


def test_train_is_the_command(photos: Path, tiny_preset: str) -> None:
    """The same weights to the bit, opened, with every step reported; and the run folder of the command."""
    seen: list[int] = []
    run = minidiff.train("ddpm", dataset="folder", data_dir=photos, preset="tiny", sample_every=60, out="called",
                         on_step=lambda step: seen.append(step.step), **SMALL)  # fmt: skip
    line = f"train ddpm --dataset folder --data-dir {photos} --preset tiny --sample-every 60 {LINE}"
    assert cli.run(line.split()) == 0
    assert all(torch.equal(tensor, weights("typed")[name]) for name, tensor in run.model.state_dict().items())
    assert seen == [1, 2, 3, 4] and run.folder == Path("called") and run.config.training.steps == 4
    assert (Path("called") / "config.json").read_text() == (Path("typed") / "config.json").read_text()
    assert next(run.sample(2, steps=2)).shape == (2, 3, 16, 16)


def test_resume_is_the_uninterrupted_run(photos: Path) -> None:
    """To the bit; what is no field of ResumeRequest cannot change, nor what this kind of run does not have."""
    whole = minidiff.train("dcgan", dataset="folder", data_dir=photos, width=4, out="whole", **SMALL)
    minidiff.train("dcgan", dataset="folder", data_dir=photos, width=4, out="half", **SMALL | {"steps": 2})
    run = minidiff.resume("half", steps=4, device="cpu")
    assert all(torch.equal(tensor, whole.model.state_dict()[name]) for name, tensor in run.model.state_dict().items())
    state = read_state(Path("half"))
    assert state is not None and state["step"] == 4
    with pytest.raises(UserError, match="a dcgan run has no `fid_every`. On resuming it may change `data_dir`"):
        minidiff.resume("half", fid_every=3)
    with pytest.raises(TypeError, match="width"):
        minidiff.resume("half", width=3)  # type: ignore[call-arg]


def test_a_plan_is_gone_through_step_by_step(clf: Path) -> None:
    """The steps of a job are those of its run, and its end is the run's end."""
    job = minidiff.plan_training("classifier", dataset="folder", data_dir=clf.parent / "data", width=4, **SMALL)
    assert "ResNet-18" in job.describe() and not Path("runs").exists()
    assert [step.step for step in job.steps()] == [1, 2, 3, 4]
    assert job.folder is not None and (job.folder / "result.json").exists()
    assert minidiff.open_evaluator(job.folder).names == ["dark", "light"]


@pytest.mark.quick
def test_what_cannot_be_is_said_by_the_name_of_the_argument(tmp_path: Path) -> None:
    for kind, fields_, said in (
        ("ddpm", {"label_dropout": 0.2}, "`label_dropout` needs `conditional`"),
        ("ddpm", {"fid_steps": 3}, "`fid_steps` needs `fid_every`"),
        ("ddpm", {"steps": 0}, "`steps` is 0"),
        ("ddpm", {"steps": 5, "epochs": 2}, "`steps` and `epochs` both say how long"),
        ("ddpm", {"minutes": 5, "epochs": 2}, "`epochs` and `minutes` both say how long"),
        ("ddpm", {"minutes": 0}, "`minutes` is 0"),
        ("dcgan", {"minutes": float("inf")}, "`minutes` is inf"),
        ("wgan", {"epochs": 0}, "`epochs` is 0"),
        ("classifier", {"steps": 5, "warmup": 6}, "`warmup` is 6, and there are only 5 steps"),
        ("dcgan", {"out": __file__}, "test_calls.py is a file"),
        ("ddpm", {"lr": float("nan")}, "`lr` is nan"),
        ("ddpm", {"image_size": 30}, "`image_size` 30 does not divide by 4"),
        ("ddpm", {"schedule": "cosine", "beta_end": 0.1}, "`beta_end` belongs to the linear schedule"),
        ("ddpm", {"preset": "cifar"}, "Did you mean 'cifar10'"),
        ("dcgan", {"clip": 0.1}, "`clip` belongs to wgan, not dcgan"),
        ("classifier", {"shift": 20}, "`shift` 20 would move most"),
        ("wgangp", {}, "unknown kind of training 'wgangp'. Did you mean 'wgan-gp'"),
    ):
        with pytest.raises(UserError, match=said):
            minidiff.train(kind, **{"device": "cpu", "preset": None} | fields_)  # type: ignore[call-overload]
    assert not Path("runs").exists()


@pytest.mark.quick
@pytest.mark.parametrize(
    "kind, request_", [("ddpm", DdpmRequest), ("wgan", GanRequest), ("classifier", ClassifierRequest)]
)
def test_every_option_is_a_field(kind: str, request_: type[Any]) -> None:
    """What the command can be told, a script can, and the other way round; the defaults are the same."""
    options = {option.name: option for option in command.commands[kind].params if isinstance(option, click.Option)}
    alone = {"on_step", "labels", "label_names"}  # of a script
    names = {field.name for field in fields(request_)} - alone - ({"penalty"} if kind == "wgan" else set())
    assert options.keys() - {"resume", "dry_run", "help", "quiet", "verbose"} == names
    for field in fields(request_):
        if field.name in options and field.name not in ("conditional",):
            default = options[field.name].default
            assert (None if "UNSET" in str(default).upper() else default) == field.default, field.name
    assert {field.name for field in fields(ResumeRequest)} >= {"steps", "lr", "device"}


@pytest.mark.quick
def test_an_editor_sees_the_fields() -> None:
    assert "layers_per_block" in inspect.signature(minidiff.UNet).parameters
    assert "fid_every" in inspect.signature(minidiff.resume).parameters


def test_a_refused_resume_changes_nothing(photos: Path) -> None:
    """Whatever it is refused for: every file is as it was, and the folder is free for the next process.

    Fails when anything is written before the folder is held, or before all of it has been read.
    """
    data = Path(shutil.copytree(photos, "data"))
    minidiff.train("dcgan", dataset="folder", data_dir=data, width=4, out="whole", **SMALL | {"steps": 2})

    def cut(place: Path) -> None:
        place.write_bytes(place.read_bytes()[:-900])

    def spoil(place: Path) -> None:
        place.write_text("{\n" + place.read_text())

    refused: list[tuple[str, Callable[[Path], object], dict[str, Any]]] = [
        ("at step 2", lambda run: None, {"steps": 1}),
        ("`warmup` is 10", lambda run: None, {"warmup": 10}),
        ("state.pt is damaged", lambda run: cut(run / "state.pt"), {}),
        ("line 1 is not what a training writes", lambda run: spoil(run / "metrics.jsonl"), {}),
        ("not the same", lambda run: next(data.glob("*.png")).unlink(), {}),
    ]
    for said, change, asked in [("another process", lambda run: None, {}), *refused]:
        run = Path(shutil.copytree("whole", "run", dirs_exist_ok=True))
        change(run)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with locked(run) if said == "another process" else nullcontext(), pytest.raises(UserError, match=said):
            minidiff.resume("run", device="cpu", **{"steps": 9, "lr": 0.1} | asked)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        with locked(run):
            pass


def test_a_training_holds_its_folder_to_its_last_step(photos: Path) -> None:
    """From the reading of the state until the last file is written; then it lets go, also where a caller stops."""
    minidiff.train("dcgan", dataset="folder", data_dir=photos, width=4, out="run", **SMALL | {"steps": 2})
    job = take_up("run", ResumeRequest(steps=4, device="cpu"))
    steps = job.steps()
    for _ in range(2):
        with pytest.raises(UserError, match="another process"), locked(Path("run")):
            pass
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    with locked(Path("run")):
        pass


@pytest.mark.parametrize("kind, networks", [("ddpm", "model"), ("wgan-gp", "model critic"), ("classifier", "model")])
def test_the_first_weights_are_those_of_the_seed(kind: str, networks: str, clf: Path, tiny_preset: str) -> None:
    """The same for the same seed, whatever was drawn before; others for another, in every layer that is random."""
    small: dict[str, Any] = SMALL | ({"preset": "tiny"} if kind == "ddpm" else {"width": 4})

    def begun(seed: int) -> list[dict[str, torch.Tensor]]:
        job = plan(kind, REQUESTS[kind](dataset="folder", data_dir=clf.parent / "data", seed=seed, **small))
        torch.rand(seed + 1)
        return [getattr(job.trainer, name).state_dict() for name in networks.split()]

    for first, other, again in zip(begun(1), begun(2), begun(1), strict=True):
        assert all(torch.equal(first[name], again[name]) for name in first)
        random = [name for name, tensor in first.items() if tensor.is_floating_point() and len(tensor.unique()) > 1]
        assert random and not any(torch.equal(first[name], other[name]) for name in random)


@pytest.mark.parametrize("kind, a_step", [("ddpm", 4), ("dcgan", 4), ("wgan", 20), ("classifier", 4)])
def test_epochs_are_steps_by_the_images(kind: str, a_step: int, clf: Path) -> None:
    """24 images in batches of 4: 6 steps an epoch. A wgan's step takes five batches, one for each of its critic's."""
    small: dict[str, Any] = {name: value for name, value in SMALL.items() if name != "steps"}
    job = plan(kind, REQUESTS[kind](dataset="folder", data_dir=clf.parent / "data", epochs=2.5, **small))
    assert job.training.steps == round(2.5 * 24 / a_step) and job.training.warmup <= job.training.steps // 6
    assert job.epochs == pytest.approx(2.5) and "2.5 epochs" in job.describe()


def test_epochs_go_on_from_the_start_of_the_run(photos: Path) -> None:
    """A resumed run of one epoch goes on to two, 12 steps, and not two more."""
    minidiff.train("dcgan", dataset="folder", data_dir=photos, width=4, out="run", **SMALL | {"steps": 2})
    job = take_up("run", ResumeRequest(epochs=2, device="cpu"))
    assert job.training.steps == 12 and job.trainer.step == 2
    job.close()
    with pytest.raises(UserError, match="`steps` and `epochs` both say how long"):
        ResumeRequest(epochs=2, steps=3)
