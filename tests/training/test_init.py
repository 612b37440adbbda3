"""A training that begins with the weights of another run: they fit exactly, or are refused by what differs."""

from pathlib import Path
from typing import Any

import pytest
import torch

import minidiff
from minidiff import cli
from minidiff.errors import UserError
from minidiff.runs.folder import read_config, read_state, read_tensors

SMALL: dict[str, Any] = {"steps": 2, "batch_size": 4, "device": "cpu", "sample_every": 60}
STILL: dict[str, Any] = SMALL | {"lr": 1e-30}  # no weight moves


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minidiff.ddpm.previews.IMAGES", 1)  # pictures take most of the time
    monkeypatch.setattr("minidiff.ddpm.previews.COLUMNS", 1)
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
    monkeypatch.setattr("minidiff.classifier.job.draw_mistakes", lambda *given: None)
    monkeypatch.setattr("minidiff.classifier.job.draw_confusion", lambda *given: None)


def same(run: Any, folder: str | Path) -> bool:
    found = read_tensors(Path(folder) / "model.safetensors")
    return all(torch.equal(tensor, found[name]) for name, tensor in run.model.state_dict().items())


def test_without_a_rate_the_weights_stay(trained: Path, photos: Path) -> None:
    """Both sets of them. Network, schedule and prediction come from that run, and no preset has to be named.

    Fails when the average begins with random weights, or only the average is taken over.
    """
    run = minidiff.train("ddpm", photos, init=trained, out="tuned", **STILL)
    assert same(run, trained)
    state = read_state(Path("tuned"))
    assert state is not None
    raw = state["model"]
    assert all(torch.equal(tensor, raw[name]) for name, tensor in run.model.state_dict().items())
    before, after = read_config(trained), read_config("tuned")
    assert {name: before[name] for name in ("network", "diffusion")} == {
        name: after[name] for name in ("network", "diffusion")
    }
    assert after["init"]["place"] == str(trained)
    assert f"init      the weights of {trained}" in minidiff.plan_training("ddpm", photos, init=trained).describe()


def test_a_killed_fine_tuning_goes_on_to_the_bit(trained: Path, photos: Path) -> None:
    """Also before its first checkpoint, from the command line; but not from other weights than it began with."""
    whole = minidiff.train("ddpm", photos, init=trained, lr=1e-2, out="whole", **SMALL)
    assert not same(whole, trained)
    for steps, out in ((2, "killed"), (2, "orphan")):
        minidiff.plan_training("ddpm", photos, init=trained, lr=1e-2, out=out, **SMALL | {"steps": steps}).start()
    assert cli.run(["train", "ddpm", "--resume", "killed", "--device", "cpu"]) == 0
    assert same(whole, "killed")
    config = Path("orphan/config.json")
    config.write_text(config.read_text().replace(str(trained), str(Path("whole").resolve())))
    with pytest.raises(UserError, match="whole has other weights now than when this run began with them"):
        minidiff.resume("orphan")


@pytest.mark.parametrize("kind", ["dcgan", "classifier"])
def test_every_kind_begins_with_its_own(kind: Any, clf: Path) -> None:
    """A GAN with its critic, too: fails when that begins with random weights."""
    options = {name: value for name, value in STILL.items() if kind == "dcgan" or name != "sample_every"}
    data: dict[str, Any] = {"dataset": clf.parent / "data", "image_size": 16}
    minidiff.train(kind, **data, width=4, out="first", **options)
    job = minidiff.plan_training(kind, **data, init="first", **options)
    assert same(job.trainer, "first")
    if kind == "dcgan":
        state = read_state(Path("first"))
        assert state is not None
        assert all(torch.equal(x, state["critic"][name]) for name, x in job.trainer.critic.state_dict().items())
        with pytest.raises(UserError, match="a dcgan run, and a wgan begins with one of its own kind"):
            minidiff.plan_training("wgan", **data, init="first")
    with pytest.raises(UserError, match=r"first does not fit this network: .* is \[.*Nothing was loaded"):
        minidiff.plan_training(kind, **data, width=8, init="first", **options)


def test_what_would_lose_the_weights_is_refused(trained: Path, clf: Path, photos: Path, tiny_preset: str) -> None:
    """In one line that says what differs; a schedule may be exchanged."""
    images = minidiff.load_data(photos, image_size=16).images
    for fields, said in (
        ({"prediction": "x0"}, "with the `prediction` eps, so its weights are lost on x0"),
        ({"timesteps": 100}, "with the `timesteps` 50, so"),
        ({"conditional": True, "labels": [0, 1] * 12}, "trained with no labels, and here are 2"),
        ({"dataset": images[..., :1]}, "draws images in colour, and these are grey"),
        ({"preset": "cpu"}, r"does not fit this network: .*; leave out `preset`"),
        ({"init": clf}, "is a classifier run; this command needs a ddpm run"),
        ({"init": "nowhere"}, "nowhere does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            minidiff.plan_training("ddpm", **{"dataset": images, "init": trained} | fields)  # type: ignore[call-overload]
    job = minidiff.plan_training("ddpm", images, init=trained, schedule="cosine")
    assert same(job.trainer, trained) and job.config.diffusion.schedule == "cosine"


def test_a_conditional_run_passes_its_labels_on(photos: Path, tiny_preset: str) -> None:
    """The same ones, by name; without `conditional` being said again."""
    images = minidiff.load_data(photos, image_size=16).images
    labels: dict[str, Any] = {"labels": [0, 1] * 12, "label_names": ["a", "b"]}
    told: dict[str, Any] = {"conditional": True, "label_dropout": 0.25, "preset": "tiny"}
    minidiff.train("ddpm", images, out="first", **labels, **told, **SMALL)
    job = minidiff.plan_training("ddpm", images, init="first", **labels)
    assert job.labels is not None and job.labels.names == ("a", "b") and job.labels.dropout == 0.25
    with pytest.raises(UserError, match="knows the label 'b' where these images have 'c'"):
        minidiff.plan_training("ddpm", images, init="first", **labels | {"label_names": ["a", "c"]})
    with pytest.raises(UserError, match="no labels; `conditional` needs two"):
        minidiff.plan_training("ddpm", images, init="first")
