"""What was trained by hand becomes a run: it draws what it drew in memory, and is measured and exported."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import minidiff
from minidiff import cli
from minidiff.errors import UserError
from minidiff.networks.own import NETWORKS
from minidiff.pretrained.save import describe_schedule
from minidiff.rng import sample_generators


class Mine(nn.Module):
    """A network that no one has seen."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, width, 3, padding=1)
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.layer(x) + t.view(-1, 1, 1, 1) / 100))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    NETWORKS.clear()


def unet(**more: Any) -> minidiff.UNet:
    torch.manual_seed(3)
    network = minidiff.UNet(16, channels=(8, 16), layers_per_block=1, attention=(False, True), norm_groups=4, **more)
    for parameter in network.parameters():  # the last layer of a new one is 0, and draws noise alone
        nn.init.normal_(parameter, std=0.1)
    return network.eval()


def drawn(model: Any, schedule: minidiff.Schedule, prediction: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Two samples of seed 0, drawn in memory."""
    x = torch.cat([torch.randn(1, *shape, generator=each) for each in sample_generators(0, range(2))])
    for step in minidiff.SAMPLERS["ddim"](model, schedule, x, steps=5, prediction=prediction):
        x = step.x
    return x


SCHEDULES = {
    "linear": minidiff.Schedule.linear(50),
    "a range": minidiff.Schedule.linear(50, 1e-4, 0.05),
    "scaled": minidiff.Schedule.scaled_linear(1000, 0.00085, 0.012),
    "cosine, zero": minidiff.Schedule.cosine(60).zero_terminal_snr(),
    "none with a name": minidiff.Schedule.from_betas(torch.linspace(0.1, 0.2, 40) ** 3),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_draws_what_it_drew_in_memory(name: str) -> None:
    """With any schedule: fails when betas are rounded, a range is lost, or the prediction is."""
    schedule, model = SCHEDULES[name], unet()
    run = minidiff.save_run("run", model, schedule, prediction="v")
    again = minidiff.load("run")
    for opened in (run, again):
        found = next(opened.sample(2, steps=5, sampler="ddim"))
        assert torch.allclose(found, drawn(model, schedule, "v", (3, 16, 16)), atol=1e-5)
    assert (describe_schedule(schedule, "v", "fixed_small").schedule == "betas") == (name == "none with a name")


def test_the_folder_is_a_run_like_any_other(photos: Path) -> None:
    """The command line describes it, draws from it and exports it; a training may begin with it."""
    minidiff.save_run("run", unet(), SCHEDULES["linear"], prediction="x0")
    assert cli.run(["info", "run"]) == 0
    assert cli.run(["sample", "run", "--num", "1", "--steps", "2", "--device", "cpu", "--out", "one.png"]) == 0
    assert cli.run(["export", "run", "theirs"]) == 0
    assert minidiff.load("theirs").config.diffusion.prediction == "x0"
    assert minidiff.plan_training("ddpm", photos, init="run", device="cpu").config.diffusion.prediction == "x0"
    with pytest.raises(UserError, match="not trained by minidiff's own loop"):
        minidiff.resume("run")
    before = Path("run/model.safetensors").read_bytes()
    with pytest.raises(UserError, match="run exists and is not an empty folder"):
        minidiff.save_run("run", unet(), SCHEDULES["linear"])
    assert Path("run/model.safetensors").read_bytes() == before


def test_a_network_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its importable name, which a new process has to name again; the arguments must make the same network."""
    model, name = Mine(width=6), f"{Mine.__module__}:Mine"
    with pytest.raises(UserError, match="does not fit this network.*give the `network_arguments`"):
        minidiff.save_run("run", model, SCHEDULES["linear"], shape=(1, 16, 16))
    run = minidiff.save_run("run", model, SCHEDULES["linear"], shape=(1, 16, 16), network_arguments={"width": 6})
    expected = drawn(model, SCHEDULES["linear"], "eps", (1, 16, 16))
    assert torch.allclose(next(run.sample(2, steps=5, sampler="ddim")), expected, atol=1e-5)
    NETWORKS.clear()
    with pytest.raises(UserError, match=name):
        minidiff.load("run")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.run(f"sample run --num 1 --steps 2 --device cpu --out one.png --network {name}".split()) == 0
    assert next(minidiff.load("run").sample(1, steps=2)).shape == (1, 1, 16, 16)


def test_a_network_with_labels() -> None:
    """Its labels have names from then on."""
    run = minidiff.save_run(
        "run", unet(label_dim=2), SCHEDULES["linear"], label_names=["cat", "dog"], label_dropout=0.1
    )
    assert run.conditions("dog") == [[1]] and run.guidance() == 2
    assert next(run.sample(1, steps=2, labels=[[0]])).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    "model, more, said",
    [
        (unet(), {"prediction": "noise"}, "unknown prediction 'noise'"),
        (unet(), {"label_names": ["cat"]}, "takes 0 labels, and `label_names` has 1"),
        (unet(), {"shape": (1, 16, 16)}, "no image of this network, of 3 channels"),
        (unet(), {"network": "my:Net"}, "leave out `network`"),
        (unet(out_channels=6), {}, "takes 3 channels and gives 6"),
        (Mine(), {}, "Give `shape`, such as"),
        (Mine(), {"shape": (1, 16, 8)}, "Give .C,H,W. of a square image"),
        (nn.Identity(), {"shape": (4, 16, 16)}, "Give .C,H,W."),
    ],
)
def test_what_does_not_fit_together(model: nn.Module, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        minidiff.save_run("run", model, SCHEDULES["linear"], **more)
    assert not Path("run").exists()
