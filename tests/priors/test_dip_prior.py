"""The prior of a data set: the units of its noise, what it learns, its run folder, and what it shows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import minidiff
from minidiff import cli
from minidiff.data.image_data import ImageData
from minidiff.errors import UserError
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import read_image
from minidiff.metrics.sources import ImageSource
from minidiff.pretrained.sources import open_place
from minidiff.priors.loss import build_prior
from minidiff.priors.run import PriorRun, load_prior
from minidiff.runs.folder import CONFIG, MODEL, STATE, read_state
from minidiff.runs.log import read_metrics

SMALL: dict[str, Any] = {
    "dataset": "folder", "image_size": 16, "batch_size": 8, "steps": 6, "warmup": 0, "precision": "fp32",
    "device": "cpu", "measure_every": 3, "save_every": 3, "sample_every": 6,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture()
def train(photos: Path) -> Callable[..., PriorRun]:
    def run(**more: Any) -> PriorRun:
        return minidiff.train("dip-prior", **SMALL | {"data_dir": photos} | more)

    return run


def test_it_takes_noise_off_in_the_units_of_the_images(train: Callable[..., PriorRun]) -> None:
    """Noise of 0.2 for values from -1 to 1 is 20 dB below their range, 20 log10(2 / 0.2), and 0.4 is 14 dB.

    After 80 steps the outputs are 1 dB nearer to the clean images at least (here 5), and cannot leave [-1,1]. Fails
    when the noise is meant for values from 0 to 1, when it is added twice, and when the network learns the noisy image.
    """
    for noise, expected in ((0.2, 20.0), (0.4, 13.98)):
        run = train(noise=noise, steps=80, lr=0.02, ema_decay=0.8, measure_every=80, sample_every=80)
        (measured,) = (record for record in read_metrics(run.folder) if "loss" not in record)
        noisy, made = (
            next(value for name, value in measured.items() if name.endswith(end)) for end in ("noisy", "psnr")
        )
        assert noisy == pytest.approx(expected, abs=0.25) and made > noisy + 1
        assert run.clean(5 * torch.randn(2, 3, 16, 16)).abs().max() <= 1
    sheet = read_image(run.folder / "samples" / "0000080.png")
    assert sheet.shape[0] > sheet.shape[1]  # eight rows of three columns


@pytest.mark.parametrize("net, size", [("conv2", 16), ("resnet18", 32)])
def test_it_is_resumed_to_the_bit(net: str, size: int, photos: Path) -> None:
    """Stopped after the checkpoint of step 3 of 6; with batch norm, too. Fails when its statistics are lost."""
    options = SMALL | {"data_dir": photos, "net": net, "image_size": size, "batch_size": 2}
    whole = minidiff.train("dip-prior", **options, out="whole")
    job = minidiff.plan_training("dip-prior", **options, out="stopped")
    for step in job.steps():
        if step.step == 4:
            break
    job.close()
    minidiff.resume("stopped")
    states = [read_state(Path(name)) for name in ("whole", "stopped")]
    assert states[0] is not None and states[1] is not None
    for part in ("model", "ema"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())
    assert (whole.folder / MODEL).read_bytes() == Path("stopped", MODEL).read_bytes()


def test_an_image_does_not_depend_on_its_batch(photos: Path) -> None:
    """Fails when the averaged network normalises by the batch that it sees, and not by what it has learnt."""
    run = minidiff.train("dip-prior", **SMALL | {"data_dir": photos, "net": "resnet18", "image_size": 32, "steps": 2})
    opened = minidiff.load(run.folder)
    assert isinstance(opened, PriorRun)
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(opened.clean(x)[:1], opened.clean(x[:1]), rtol=0, atol=1e-5)


def test_outputs_are_of_random_images_with_fresh_noise(train: Callable[..., PriorRun]) -> None:
    """With a network that changes nothing, they are training images with the noise of the run.

    They depend on seed and index alone. Fails when all have one noise, when the noise of 256 values is off by a third,
    when images come in order, and when none or all are mirrored.
    """
    run = replace(train(steps=1, noise=0.1), model=Same())
    flat = np.repeat(np.arange(0, 256, 16, dtype=np.uint8), 256).reshape(16, 16, 16, 1)
    flat[:, :, 0] = 255 - flat[:, :, 0]  # the left column shows which way round an image is
    data = ImageData("flat", flat, np.zeros((16, 0), np.uint8), [], flip=True)
    made = run.outputs(data, range(40), seed=3)
    clean, found, mirrored = to_float(flat), [], 0
    for output in made:
        both = torch.cat([clean, clean.flip(-1)])
        nearest = int((both - output).square().mean((1, 2, 3)).argmin())
        found.append(nearest % 16)
        mirrored += nearest >= 16
        assert (output - both[nearest]).std() == pytest.approx(0.1, rel=0.33)
    assert len(set(found)) > 8 and found[:16] != sorted(found[:16]) and 5 < mirrored < 35
    assert torch.equal(made[[7, 2]], run.outputs(data, [7, 2], seed=3))
    assert not torch.equal(made[:2], run.outputs(data, [0, 1], seed=4))


class Same(nn.Module):
    """Change nothing. It has one weight, to have a device."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_its_outputs_are_drawn_and_measured(train: Callable[..., PriorRun], capsys: pytest.CaptureFixture[str]) -> None:
    """`sample` writes what `PriorRun.sample` gives, a source of metrics gives the same, and `info` says what it is."""
    run = train(out="prior")
    assert cli.run(["sample", "prior", "-n", "3", "--seed", "5", "--out", "some.npz", "--device", "cpu"]) == 0
    (images,) = run.sample(3, seed=5)
    drawn = np.load("some.npz")
    assert np.array_equal(drawn[drawn.files[0]], to_uint8(images))
    source = open_place("prior", num=3, seed=5)
    assert isinstance(source, ImageSource)
    assert np.array_equal(next(iter(source.batches(3))), to_uint8(images))
    assert cli.run(["info", "prior"]) == 0
    assert "conv2, from an image with noise of deviation 0.2" in capsys.readouterr().out
    assert cli.run(["sample", "prior", "--steps", "3", "--device", "cpu"]) == 1
    assert "prior is a dip-prior run" in capsys.readouterr().err


def test_it_begins_with_another(train: Callable[..., PriorRun]) -> None:
    """With its weights, its network and its noise."""
    first = train(net="cnn", noise=0.3, out="first")
    second = train(init="first", lr=1e-12, steps=1, out="second")
    assert (second.config.net, second.config.noise) == ("cnn", 0.3)
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value)


@pytest.mark.parametrize(
    "more, said",
    [
        ({"net": "resnet18"}, "halves its images until 32 pixels are one"),
        ({"net": "nothing"}, "unknown net 'nothing'"),
        ({"noise": 0.0}, "`noise` is 0.0"),
        ({"noise": 101.0}, "a deviation above 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    more: dict[str, Any], said: str, train: Callable[..., PriorRun], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        train(**more)
    assert not list(tmp_path.iterdir())


def test_a_config_chooses_no_code(train: Callable[..., PriorRun]) -> None:
    """A net is only looked up in DIP_NETS. Other weights than its own do not fit."""
    folder = train(out="prior").folder
    text = (folder / CONFIG).read_text()
    for net, said in (("os:system", "unknown net"), ("cnn", "fit|missing")):
        (folder / CONFIG).write_text(text.replace('"conv2"', f'"{net}"'))
        with pytest.raises(UserError, match=said):
            load_prior(folder)
    assert (folder / STATE).exists()


def test_all_networks_take_images() -> None:
    """Grey and colour, at the smallest size that they have."""
    for net in ("conv2", "cnn", "resnet18", "hourglass"):
        for channels in (1, 3):
            network = build_prior(net, channels)
            x = torch.randn(1, channels, 32, 32)
            assert network(x).shape == x.shape
