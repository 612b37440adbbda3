"""A run that is trained for small noise only, and on noise as it is in files: `trained_below` and `file_noise`."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_training
from scipy.stats import norm
from torch import Tensor

import minidiff
from minidiff import cli
from minidiff.ddpm.config import DiffusionConfig
from minidiff.ddpm.recipe import ddpm_loss
from minidiff.diffusion.process import noise_in_file, q_sample
from minidiff.diffusion.schedules import Schedule
from minidiff.images.files import read_image
from minidiff.rng import Draws

SCHEDULE = Schedule.linear(1000)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_noise_in_a_file() -> None:
    """The noisy image is that of a file: 256 values, none beyond white. Its mean is that of a normal number cut at 1.

    Fails when the cut or the rounding is left out, or when the noise is scaled by another rate than sigma.
    """
    t = torch.full((4,), 100)
    level = SCHEDULE.levels([100])[0]
    x0 = torch.tensor([-1.0, -0.2, 0.6, 1.0], dtype=torch.float64).view(4, 1, 1, 1).expand(4, 1, 400, 500)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left = noise_in_file(SCHEDULE, x0, t, noise)
    pixels = (q_sample(SCHEDULE, x0, t, left) / level.signal + 1) * 127.5
    assert (pixels - pixels.round()).abs().max() < 1e-6
    assert pixels.min() > -1e-6 and pixels.max() < 255 + 1e-6
    plain = x0 + level.sigma * noise
    assert ((pixels / 127.5 - 1) - plain.clamp(-1, 1)).abs().max() <= 1 / 255 + 1e-6
    # E[min(z, 0)] = -phi(0) for the image that is white already, and the mirror image of it for black
    expected = norm.pdf(0)
    assert left[3].mean().item() == pytest.approx(-expected, abs=0.01)
    assert left[0].mean().item() == pytest.approx(expected, abs=0.01)


def test_the_loss_draws_small_timesteps(monkeypatch: pytest.MonkeyPatch) -> None:
    """All timesteps below the limit occur and no other, and the share of images with a file's noise is as asked."""
    seen: list[int] = []
    in_files = 0

    def network(x: Tensor, t: Tensor) -> Tensor:
        nonlocal in_files
        seen.extend(t.tolist())
        signal = torch.tensor([level.signal for level in SCHEDULE.levels(t.tolist())]).view(-1, 1, 1, 1)
        in_files += int(((x / signal).abs().flatten(1).amax(1) < 1.0001).sum())
        return torch.zeros_like(x)

    diffusion = DiffusionConfig(trained_below=20, file_noise=0.25)
    loss = ddpm_loss(SCHEDULE, diffusion, torch.device("cpu"))
    x0 = torch.full((400, 1, 8, 8), 0.999)
    loss(network, x0, torch.zeros(400, 0), Draws(1, 400, slice(0, 400)))  # type: ignore[arg-type]
    assert set(seen) == set(range(20))
    assert in_files / 400 == pytest.approx(0.25, abs=4.5 * np.sqrt(0.25 * 0.75 / 400))


def test_grey_images_have_the_noise_of_grey_pictures() -> None:
    """A share of the images has three equal channels, noise included, and the mean of their own as x0."""
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    loss = ddpm_loss(SCHEDULE, DiffusionConfig(trained_below=1, grey=0.25), torch.device("cpu"))
    x0 = torch.tensor([-0.6, 0.0, 0.9]).view(1, 3, 1, 1).expand(400, 3, 8, 8)
    loss(network, x0, torch.zeros(400, 0), Draws(1, 400, slice(0, 400)))  # type: ignore[arg-type]
    (x,) = seen
    grey = (x == x[:, :1]).flatten(1).all(1)
    assert grey.float().mean().item() == pytest.approx(0.25, abs=4.5 * np.sqrt(0.25 * 0.75 / 400))
    assert x[grey].mean().item() == pytest.approx(0.1, abs=1e-3)
    torch.testing.assert_close(x[~grey].mean(dim=(0, 2, 3)), x0[0, :, 0, 0], atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def finisher(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that knows the timesteps below 20 of 50."""
    from conftest import DDPM_PRESETS, tiny

    out = tmp_path_factory.mktemp("finisher") / "run"
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setitem(DDPM_PRESETS, "tiny", tiny())
        assert cli.run(tiny_training(photos, "--trained-below", "20", "--file-noise", "0.5", "--out", str(out))) == 0
    assert f"minidiff restore photo.png --model {out}" in said.getvalue()  # the next step to try
    return out


def test_a_run_that_finishes_images(finisher: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes on from an image below the limit; from noise, or above the limit, one line says what to do."""
    run = minidiff.load(finisher)
    assert run.trained_below == 20
    photo = str(next(photos.rglob("*.png")))
    for words, told in (
        ([], "below 20, so it cannot start at 49"),
        (["--init", photo, "--start-t", "20"], "Give it an --init, and a --start-t up to 19"),
    ):
        assert cli.run(["sample", str(finisher), *words, "--out", "none.png"]) == 1
        assert told in capsys.readouterr().err
        assert not Path("none.png").exists()
    assert cli.run(["sample", str(finisher), "--init", photo, "--start-t", "19", "--out", "some.png"]) == 0
    with pytest.raises(minidiff.UserError, match="cannot start at 30"):
        run.draw([0, 1], init=torch.zeros(2, *run.shape), start_t=[3, 30])


def test_its_sheet_shows_images_finished(finisher: Path) -> None:
    """Six images, each clean, and then noisy and finished from three timesteps, with names above."""
    side = minidiff.load(finisher).shape[1]
    sheet = read_image(finisher / "samples" / "0000006.png")
    cell = side * max(1, 64 // side) + 2
    assert sheet.shape[1] == 7 * cell + 2
    assert sheet.shape[0] > 6 * cell + 2


def test_fid_of_a_run_that_draws_none_from_noise(
    photos: Path, tiny_preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, before anything is written."""
    assert cli.run(tiny_training(photos, "--trained-below", "20", "--fid-every", "3", "--out", "not")) == 1
    assert (
        "--fid-every measures samples from noise, and a run with --trained-below draws none" in capsys.readouterr().err
    )
    assert not Path("not").exists()
