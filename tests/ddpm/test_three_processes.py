"""`minidiff train ddpm --process flow|edm`: trained, resumed to the bit, drawn from; and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_training
from safetensors.torch import load_file

import minidiff
from minidiff import cli, load
from minidiff.ddpm.config import DdpmRequest, DiffusionConfig
from minidiff.ddpm.job import diffusion_config
from minidiff.ddpm.recipe import build_process, ddpm_loss, draw_timesteps
from minidiff.errors import UserError
from minidiff.images.convert import to_uint8
from minidiff.records import to_json
from minidiff.rng import Draws

FLOW = DiffusionConfig(schedule="flow", prediction="velocity", timestep_sampling="logit-normal")
EDM = DiffusionConfig(schedule="edm", prediction="F", timestep_sampling="log-normal")


@pytest.fixture(scope="module", params=["flow", "edm"])
def run(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of each process, of 6 steps."""
    from conftest import tiny

    from minidiff.ddpm.presets import DDPM_PRESETS

    out = tmp_path_factory.mktemp(request.param) / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DDPM_PRESETS, "tiny", tiny())
        command = [*tiny_training(photos), "--process", request.param, "--steps", "6", "--out", str(out)]
        assert cli.run([*command, "--device", "cpu"]) == 0
    return out


def test_a_run_knows_its_process_and_draws(run: Path, tmp_path: Path) -> None:
    """From noise, from an image in the middle, and by every kind of sampler; also another timestep than T-1."""
    opened = load(run)
    diffusion = opened.config.diffusion
    assert diffusion.process in ("flow", "edm") and diffusion.timesteps == opened.schedule.T
    assert opened.model.prediction == {"flow": "velocity", "edm": "F"}[diffusion.process]
    for sampler in ("ddim", "dpm++sde", "ddpm"):
        (images,) = opened.sample(2, sampler=sampler, steps=5)
        assert images.isfinite().all() and images.abs().max() <= 1
    x, _ = opened.start([0, 1], steps=5)
    (first,) = opened.schedule.levels([opened.schedule.T - 1])
    assert x.std().item() == pytest.approx(first.power**0.5, rel=0.1)  # edm's chain begins with a sigma of 80
    init = torch.zeros(1, *opened.shape)
    x, _ = opened.start([0], init=init, start_t=10, steps=5)
    (level,) = opened.schedule.levels([10])
    assert x.std().item() == pytest.approx(level.noise, rel=0.2)
    assert cli.run(["sample", str(run), "--num", "2", "--steps", "3", "--out", str(tmp_path / "a.png")]) == 0
    assert cli.run(["info", str(run)]) == 0


def test_noise_of_a_seed_is_that_of_its_samples(run: Path, tmp_path: Path) -> None:
    """The ends of a way between two seeds are what these draw. Fails when edm's noise does not have its deviation."""
    minidiff.sample(run, interpolate=["3", "4"], num=3, steps=5, out=tmp_path / "frames.npz")
    frames = np.load(tmp_path / "frames.npz")["images"]
    opened = load(run)
    for frame, seed in ((frames[0], 3), (frames[-1], 4)):
        (image,) = opened.sample(1, sampler="ddim", steps=5, seed=seed)
        assert np.abs(frame.astype(int) - to_uint8(image)[0]).max() <= 1


def test_it_is_not_written_for_others(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", str(run), str(tmp_path / "out")]) == 1
    assert "ddpm alone" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_training_goes_on_to_the_bit(run: Path, photos: Path, tmp_path: Path, tiny_preset: str) -> None:
    """Three steps and three more are six: weights, averages, and the loss of every step."""
    process = load(run).config.diffusion.process
    command = [*tiny_training(photos), "--process", process, "--steps", "6", "--device", "cpu"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.run([*command, "--out", str(whole)]) == 0
    assert cli.run([*command, "--out", str(parts), "--steps", "3"]) == 0
    assert cli.run(["train", "ddpm", "--resume", str(parts), "--steps", "6", "--device", "cpu"]) == 0
    assert load(parts).config.diffusion == load(whole).config.diffusion
    a, b = (load_file(folder / "model.safetensors") for folder in (parts, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("diffusion", [FLOW, EDM, replace(FLOW, timestep_sampling="stratified"),
                                       replace(EDM, timestep_sampling="uniform")])  # fmt: skip
def test_timesteps_are_real_numbers_all_over_the_process(diffusion: DiffusionConfig) -> None:
    """Fails when a training of these draws whole timesteps, or leaves a part of the way out."""
    t = draw_timesteps(build_process(diffusion), diffusion, Draws(0, 20_000, slice(None)))
    assert t.min() >= -1 and t.max() <= 999 and (t != t.round()).double().mean() > 0.99
    quantiles = t.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=t.dtype)).tolist()
    if diffusion.timestep_sampling == "logit-normal":
        assert quantiles == pytest.approx([1000 / (1 + 2.718281828**0.6745) - 1, 499, 661.5], abs=12)
    elif diffusion.timestep_sampling == "log-normal":
        (level,) = build_process(diffusion).levels([round(quantiles[1])])
        assert level.sigma == pytest.approx(2.718281828**-1.2, rel=0.05)
    else:
        assert quantiles == pytest.approx([249, 499, 749], abs=15)


def test_timesteps_of_a_ddpm_stay_whole() -> None:
    diffusion = DiffusionConfig()
    t = draw_timesteps(build_process(diffusion), diffusion, Draws(0, 100, slice(None)))
    assert t.dtype == torch.int64 and torch.equal(t, Draws(0, 100, slice(None)).randint(1000))


@pytest.mark.parametrize("diffusion", [FLOW, EDM])
def test_a_network_that_knows_the_answer_has_no_loss(diffusion: DiffusionConfig) -> None:
    """All images are black, so x_t tells the noise. The right answer has no loss, and for white images it has one."""
    process, black = build_process(diffusion), -torch.ones(64, 1, 4, 4)

    class Knows(torch.nn.Module):
        def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
            told = told.double().view(-1, 1, 1, 1)
            if diffusion.process == "flow":
                tau = told / 1000
                return (((x + (1 - tau)) / tau) + 1).float()  # eps - x0
            sigma = (4 * told / 1000).exp()
            x = x * (sigma**2 + 0.25).sqrt()
            c_skip, c_out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25).sqrt()
            return ((-1 - c_skip * x) / c_out).float()

    loss = ddpm_loss(process, diffusion, torch.device("cpu"))
    labels = torch.zeros(64, 0)
    assert loss(Knows(), black, labels, Draws(1, 64, slice(None))).item() < 1e-3
    assert loss(Knows(), -black, labels, Draws(1, 64, slice(None))).item() > 0.5


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "said"), [
    ({"timestep_sampling": "log-normal"}, "belongs to the process edm"),
    ({"beta_end": 0.5}, "belongs to the process ddpm"),
    ({"zero_terminal_snr": True}, "belongs to the process ddpm"),
    ({"shift": 0.0}, "a number above 0"),
])  # fmt: skip
def test_options_of_another_process_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(FLOW, **changes)
    with pytest.raises(UserError, match="belongs to the process flow"):
        DiffusionConfig(shift=3.0)


def test_what_a_process_takes_unless_it_is_told(
    photos: Path, tiny_preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = DiffusionConfig(schedule="cosine", prediction="v", timesteps=50, timestep_sampling="stratified")
    flow = diffusion_config(preset, DdpmRequest(process="flow", shift=3.0))
    assert to_json(flow) == to_json(replace(FLOW, timesteps=50, shift=3.0))
    assert diffusion_config(preset, DdpmRequest(process="ddpm")) == preset
    assert diffusion_config(flow, DdpmRequest(process="flow")) == flow  # of a run to begin with
    with pytest.raises(UserError, match="has one of its own"):
        diffusion_config(preset, DdpmRequest(process="edm", schedule="linear"))
    for wrong in (["--prediction", "v"], ["--prediction", "eps"]):
        assert cli.run([*tiny_training(photos), "--process", "flow", *wrong]) == 1
    assert "Predict x0, velocity or F" in capsys.readouterr().err


def test_a_run_of_one_process_is_no_beginning_of_another(
    run: Path, photos: Path, tiny_preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "edm" if load(run).config.diffusion.process == "flow" else "flow"
    command = [*tiny_training(photos), "--init", str(run), "--steps", "2", "--out", str(tmp_path / "run")]
    assert cli.run([*command, "--process", other]) == 1
    assert "was trained with the --process" in capsys.readouterr().err
    assert cli.run(command) == 0
    assert load(tmp_path / "run").config.diffusion == load(run).config.diffusion
