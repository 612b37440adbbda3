"""What a user adds: a sampler, a kind of prediction and another process, each one entry, and they work everywhere."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_training
from torch import Tensor

from minidiff import cli, load
from minidiff.diffusion.denoiser import Denoise
from minidiff.diffusion.levels import Level, Levels, Plan
from minidiff.diffusion.predictions import PREDICTIONS, Prediction
from minidiff.diffusion.process import diffusion_loss
from minidiff.diffusion.samplers import SAMPLERS, Sampler, Step
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.spacings import spaced
from minidiff.images.convert import to_uint8
from minidiff.rng import Noise

# The velocity of a straight line from the image to the noise (flow matching): x_t = signal * x0 + noise * eps
VELOCITY = Prediction(
    x0=lambda x_t, u, signal, noise: (x_t - noise * u) / (signal + noise),
    eps=lambda x_t, u, signal, noise: (x_t + signal * u) / (signal + noise),
    target=lambda x0, eps, signal, noise: eps - x0,
    weight=lambda snr, gamma: snr.clamp(max=gamma) / (1 + snr.sqrt()) ** 2,
)


def restless(
    denoise: Denoise, x: Tensor, levels: Levels, noise: Noise = None, eta: float = 0.0
) -> Iterator[Step]:  # it keeps less of eps than ddim does
    for level, below in levels:
        x0, eps = denoise(x, level)
        x = below.signal * x0 + (1 - eta) * below.noise * eps
        yield Step(level.t, x, x0)


class StraightLine:
    """A process that does not preserve variance: signal 1 - s and noise s, for s up to 1."""

    T = 50

    def levels(self, timesteps: list[int]) -> list[Level]:
        return [Level(t, (1 - (t + 1) / self.T) ** 2, ((t + 1) / self.T) ** 2) for t in timesteps]

    def timesteps(self, steps: int | None = None, start_t: int | None = None, spacing: str = "trailing") -> list[int]:
        sigmas = torch.tensor([level.sigma for level in self.levels(list(range(self.T)))], dtype=torch.float64)
        return spaced(sigmas, steps, start_t, spacing)


def test_a_sampler_of_ones_own_draws_from_the_command_line_and_from_a_script(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered with one line. Its plan is kept, its option reaches it, and both ways draw the same images."""
    monkeypatch.setitem(SAMPLERS, "restless", Sampler(restless, Plan(7, "linspace", options=("eta",))))
    out = tmp_path / "images.npz"
    command = ["sample", str(trained), "--sampler", "restless", "--eta", "0.25", "-n", "2", "--out", str(out)]
    assert cli.run([*command, "--device", "cpu"]) == 0
    run, seen = load(trained), list[int]()
    given = {"sampler": "restless", "eta": 0.25, "on_step": lambda step: seen.append(step.t)}
    images = torch.cat(list(run.sample(2, **given)))
    assert seen == run.schedule.timesteps(7, None, "linspace")
    assert np.array_equal(np.load(out)["images"], to_uint8(images))
    without = torch.cat(list(run.sample(2, sampler="restless")))
    assert not torch.equal(images, without)
    assert torch.allclose(without, torch.cat(list(run.sample(2, sampler="ddim", steps=7, spacing="linspace"))))


def test_an_option_that_a_sampler_does_not_have_is_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SAMPLERS, "restless", Sampler(restless, Plan(7, "linspace")))
    assert cli.run(["sample", str(trained), "--sampler", "restless", "--eta", "0.25"]) == 1
    assert "--eta" in capsys.readouterr().err


def test_a_prediction_of_ones_own_is_trained_and_sampled(
    photos: Path, tiny_preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PREDICTIONS, "mine", VELOCITY)
    run = tmp_path / "run"
    assert cli.run([*tiny_training(photos), "--prediction", "mine", "--steps", "2", "--out", str(run)]) == 0
    (image,) = load(run).sample(1, steps=2)
    assert image.isfinite().all()


def test_the_velocity_gives_back_image_and_noise() -> None:
    """Also weighted: with min-SNR a guess of x0 costs as much as it does when v is predicted."""
    schedule, generator = Schedule.cosine(), torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 3, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([1, 400, 998])
    for level, image, eps in zip(schedule.levels(t.tolist()), x0, noise, strict=True):
        x_t = level.signal * image + level.noise * eps
        u = VELOCITY.target(image, eps, level.signal, level.noise)
        assert torch.allclose(VELOCITY.x0(x_t, u, level.signal, level.noise), image)
        assert torch.allclose(VELOCITY.eps(x_t, u, level.signal, level.noise), eps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PREDICTIONS, "mine", VELOCITY)
        losses = []
        for kind in ("mine", "v"):

            def model(x_t: Tensor, t: Tensor, kind: str = kind) -> Tensor:
                jump = schedule.at(t, like=x_t)
                rates = jump.alpha_bar**0.5, jump.var**0.5
                guess = torch.tanh(x_t)
                return PREDICTIONS[kind].target(guess, PREDICTIONS["x0"].eps(x_t, guess, *rates), *rates)

            losses.append(diffusion_loss(model, schedule, x0, t, noise, kind, 5.0))
    assert torch.allclose(*losses)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_process_that_does_not_preserve_variance_needs_no_new_sampler(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With x0 known, x_s must be signal * x0 + noise * eps at every level: mean, slope and variance within 4.5 sigma.

    Fails when beta is 1 - alpha instead of power - alpha * power below, for ddpm and ddim.
    """
    monkeypatch.setitem(PREDICTIONS, "mine", VELOCITY)
    process, pixels = StraightLine(), 2**14
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(1, 1, 1, pixels, generator=generator, dtype=torch.float64) * 2 - 1

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        (level,) = process.levels(t[:1].tolist())
        return (x_t - level.signal * x0) / level.noise - x0

    for start_t, steps in ((49, 9), (20, 21)):
        (level,) = process.levels([start_t])
        x = level.signal * x0 + level.noise * torch.randn(x0.shape, generator=generator).double()
        options = {"start_t": start_t, "steps": steps, "spacing": "linspace", "prediction": "mine"}
        if name == "ddim":
            options["eta"] = 1.0
        if name == "heun" and start_t == 49:
            continue  # there sigma is infinite
        chain = list(SAMPLERS[name](model, process, x, generator=generator, **options))
        for step, after in pairwise(chain):
            (level,) = process.levels([after.t])
            residual = ((step.x - level.signal * x0) / level.noise).flatten()
            assert abs(residual.mean().item()) * pixels**0.5 < 4.5
            assert abs((residual @ x0.flatten() / x0.norm()).item()) < 4.5
            assert abs(residual.square().mean().item() - 1) * (pixels / 2) ** 0.5 < 4.5
        assert torch.allclose(chain[-1].x, x0, atol=1e-6)
