"""Trainings on images from a script: the weights of any other training, and a run folder like any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

import minidiff
from minidiff import cli
from minidiff.ddpm.config import DiffusionConfig
from minidiff.ddpm.recipe import ddpm_loss
from minidiff.errors import UserError
from minidiff.images.convert import to_float
from minidiff.images.files import read_image
from minidiff.runs.folder import read_tensors
from minidiff.training.job import Job

SMALL: dict[str, Any] = {"steps": 4, "batch_size": 4, "device": "cpu"}
TINY: dict[str, Any] = {"preset": "tiny", "sample_every": 60, "save_every": 2, **SMALL}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minidiff.ddpm.previews.IMAGES", 1)  # pictures take most of the time
    monkeypatch.setattr("minidiff.ddpm.previews.COLUMNS", 1)
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)


@pytest.fixture()
def images(photos: Path) -> np.ndarray:
    return np.stack([read_image(path) for path in sorted(photos.iterdir())])


def weights(job: Job[Any]) -> Tensor:
    """The averaged weights after the steps of a training, outside of any run folder."""
    list(job.trainer.steps())
    return torch.cat([tensor.flatten().float() for tensor in job.trainer.ema.state_dict().values()])


def test_every_form_gives_the_weights_of_the_folder(photos: Path, images: np.ndarray, tiny_preset: str) -> None:
    """To the bit. Fails when pixels are rounded otherwise, mirrored otherwise, or come in another order."""
    expected = weights(minidiff.plan_training("ddpm", dataset="folder", data_dir=photos, **TINY))
    pictures = [(Image.fromarray(image), number % 2) for number, image in enumerate(images)]
    for form in (photos, images, to_float(images), TensorDataset(to_float(images)), pictures):
        found = weights(minidiff.plan_training("ddpm", form, flip=True, **TINY))
        assert torch.equal(found, expected)
    assert not torch.equal(weights(minidiff.plan_training("ddpm", images, **TINY)), expected)  # not mirrored


@pytest.mark.parametrize("kind", ["dcgan", "wgan", "wgan-gp", "classifier"])
def test_every_kind_trains_on_an_array(kind: Any, clf: Path) -> None:
    """With the weights that the same images give from a folder, and the labels that its sub-folders are."""
    paths = sorted((clf.parent / "data").rglob("*.png"))
    images = np.stack([read_image(path) for path in paths])
    labels = {"labels": [int(path.parent.name == "light") for path in paths], "label_names": ["dark", "light"]}
    options: dict[str, Any] = {"width": 4, "flip": True, "image_size": 16} | SMALL | {"steps": 2}
    found = minidiff.plan_training(kind, images, **options, **labels)
    expected = minidiff.plan_training(kind, clf.parent / "data", **options)
    assert torch.equal(weights(found), weights(expected))
    assert getattr(found.config, "labels", None) == getattr(expected.config, "labels", None)


def test_the_run_is_a_run_like_any_other(images: np.ndarray, tiny_preset: str) -> None:
    """It goes on from the command line, to the bit, also after a kill before its first checkpoint; it draws for its
    labels, and is measured against its own images."""
    labels = np.arange(len(images)) % 3
    whole = minidiff.train("ddpm", images, labels=labels, conditional=True, out="whole", **TINY)
    minidiff.train("ddpm", images, labels=labels, conditional=True, out="half", **TINY | {"steps": 2})
    minidiff.plan_training("ddpm", images, labels=labels, conditional=True, out="killed", **TINY).start()
    assert cli.run(["train", "ddpm", "--resume", "half", "--steps", "4", "--device", "cpu"]) == 0
    assert cli.run(["train", "ddpm", "--resume", "killed", "--device", "cpu"]) == 0
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, read_tensors(Path("half/model.safetensors"))[name])
        assert torch.equal(tensor, read_tensors(Path("killed/model.safetensors"))[name])
    np.testing.assert_array_equal(np.load("whole/data/images.npy"), images)
    assert cli.run(["info", "whole"]) == 0
    assert (
        cli.run(
            ["sample", "whole", "--labels", "2", "--num", "2", "--steps", "2", "--device", "cpu", "--out", "grid.png"]
        )
        == 0
    )
    Path("whole").rename("moved")
    from minidiff.pretrained.sources import open_place

    source = open_place("moved", num=4, steps=2)  # draws for the labels of its images
    assert next(source.batches(4)).shape == (4, 16, 16, 3)  # type: ignore[union-attr]
    reference = open_place("moved/data/images.npy")
    np.testing.assert_array_equal(next(reference.batches(24)), images)  # type: ignore[union-attr]


def test_many_images_are_not_kept(images: np.ndarray, tiny_preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on with the same images, given once more; and with no others."""
    monkeypatch.setattr("minidiff.data.array_set.MOST", 1000)
    whole = weights(minidiff.plan_training("ddpm", to_float(images), **TINY))
    minidiff.plan_training("ddpm", images, out="half", **TINY).start()
    assert not Path("half/data/images.npy").exists()
    with pytest.raises(UserError, match=r"half does not keep the images.*minidiff.resume\('half', images\)"):
        minidiff.resume("half")
    with pytest.raises(UserError, match="that are not the same"):
        minidiff.resume("half", images[::-1])
    run = minidiff.resume("half", images, device="cpu")
    assert torch.equal(torch.cat([tensor.flatten() for tensor in run.model.state_dict().values()]), whole)


def test_images_are_given_again_only_where_they_are_needed(trained: Path, images: np.ndarray) -> None:
    with pytest.raises(UserError, match="was trained on folder, which is found without `images`"):
        minidiff.resume(trained, images)


def test_a_trainer_takes_the_same(images: np.ndarray, photos: Path) -> None:
    """A data set by name, a path, an array, a tensor: the loop reads the bytes of them all."""
    schedule = minidiff.Schedule.linear(50)
    losses = []
    for data in (images, to_float(images), photos):
        torch.manual_seed(0)
        network = minidiff.UNet(16, channels=(8,), layers_per_block=1, attention=(False,), norm_groups=4)
        config = minidiff.TrainConfig(steps=1, batch_size=4)
        loss = ddpm_loss(schedule, DiffusionConfig(), torch.device("cpu"))
        trainer = minidiff.Trainer(network, loss, minidiff.load_data(data, image_size=16, flip=False), config)
        losses += [step.loss.item() for step in trainer.steps()]
        assert len(minidiff.Trainer(network, loss, data, config).data) == 24
    assert losses[0] == losses[1] == losses[2]


def test_what_a_training_cannot_be_made_from(images: np.ndarray) -> None:
    """In one line, before a run folder is made."""
    for kind, fields, said in (
        ("classifier", {}, "array has no labels; a classifier needs two"),
        ("ddpm", {"conditional": True}, "no labels; `conditional` needs two"),
        ("ddpm", {"labels": np.zeros(24, int), "conditional": True}, "only one label"),
        ("ddpm", {"dataset": images[:, :15, :15]}, "`image_size` 15 does not divide by 4"),
        ("ddpm", {"dataset": images[:, :14]}, "14x16 and must be square"),
        ("ddpm", {"dataset": images / 255}, r"lie in \[0, 1\]"),
        ("ddpm", {"data_dir": "x"}, "here are the images themselves"),
        ("dcgan", {"dataset": images[:1]}, "has one image"),
        ("dcgan", {"dataset": None}, "no images can be read from a NoneType"),
    ):
        with pytest.raises(UserError, match=said):
            minidiff.train(kind, **{"dataset": images, "device": "cpu"} | fields)  # type: ignore[call-overload]
    assert not Path("runs").exists()
