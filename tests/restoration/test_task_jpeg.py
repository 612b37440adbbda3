"""`minidiff restore --task jpeg`: the answer never contradicts the file, however it lies and whatever its size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from restorations import noisy, restore

import minidiff
from minidiff.ddpm.moments import Film
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import read_image, write_image
from minidiff.images.jpeg import read_jpeg
from minidiff.images.pictures import read_picture
from minidiff.restoration import jpeg


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(path: str, pixels: np.ndarray, mode: str = "RGB", turned: int = 1, **options: Any) -> Path:
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(pixels).convert(mode).save(path, "JPEG", exif=exif, **options)
    return Path(path)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_call_is_the_mean_of_the_posterior(mode: str, exact: Any) -> None:
    """Normal pixels, and two witnesses: the picture as an x_t, and the numbers in the file. By inverting a matrix.

    Two units, of which one shows 5 columns. Fails when grey does not say that there is no colour, the level is another,
    or the picture is not where its blocks are.
    """
    path = saved("a.jpg", noisy(16, 21, 3), mode, quality=20)
    file, picture = read_jpeg(path), to_float(read_image(path)[None])
    told = jpeg.measured(file)
    told = replace(told, reach=1e9 * told.reach)  # no bins
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "measured", lambda file: told)
        x, (t,), sigma = jpeg.clean_file(exact, file, picture, noise=0.3)
    assert sigma == 0.3 and x.shape == picture.shape
    (level,) = exact.schedule.levels([t])
    A = told.measurement
    M = A.forward(torch.eye(3 * told.height * told.width).view(-1, 3, told.height, told.width)).flatten(1).T.double()
    whole = jpeg.on_units(picture, told).flatten().double()
    precision = torch.eye(len(whole)).double() * (1 / 0.16 + level.alpha_bar / level.var) + M.T @ M
    weighed = 0.2 / 0.16 + level.alpha_bar / level.var * whole + M.T @ told.y.flatten().double()
    mean = torch.linalg.solve(precision, weighed).view(1, 3, told.height, told.width)[..., :16, :21].clamp(-1, 1)
    torch.testing.assert_close(x.double(), mean, atol=2e-3, rtol=0)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}])
def test_the_answer_rounds_to_the_file(options: dict[str, Any], finisher: Path) -> None:
    """Compressed with the same tables it would give the same numbers, up to rounding of pixels and the cut at white."""
    path = saved("a.jpg", noisy(37, 50, 1), quality=10, **options)
    assert restore(path, "--model", finisher, "--task", "jpeg", "--noise", "80", "--run", "run") == 0
    answer = read_image("restored.png")
    assert answer.shape == (37, 50, 3) and (answer != read_image(path)).mean() > 0.1
    told = jpeg.measured(read_jpeg(path))
    z = told.measurement.forward(jpeg.on_units(to_float(answer[None]), told))
    inside = ((z - told.y).abs() <= told.reach * 1.05).reshape(1, told.height // 8, -1)[:, : 32 // 8]
    assert inside.float().mean() > 0.97
    (result,) = Path("run/results").iterdir()
    stored = json.loads(result.read_text())
    assert stored["noise"] == 80 and len(stored["timesteps"]) == 1


@pytest.mark.parametrize("turned", range(2, 9))
def test_a_turned_file_gives_the_answer_turned(turned: int, finisher: Path) -> None:
    run, pixels = minidiff.load(finisher), noisy(21, 30, 5)
    file = read_jpeg(saved("a.jpg", pixels, quality=15, turned=turned))
    upright = torch.from_numpy(read_picture("a.jpg").pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    plain = to_float(np.array(Image.open("a.jpg"))[None])
    assert torch.equal(jpeg.lying(upright, turned), plain) and torch.equal(jpeg.upright(plain, turned), upright)
    film = Film(8)
    answer, _, _ = jpeg.clean_file(run, file, upright, film=film)
    assert film.x[0].shape == film.x0[0].shape == (1, *upright.shape[2:], 3)  # upright, and without what was padded
    assert np.abs(film.x0[0].astype(int) - to_uint8(answer)).mean() < 12  # it is turned as the answer is
    straight, _, _ = jpeg.clean_file(run, read_jpeg(saved("b.jpg", pixels, quality=15)), plain)
    assert torch.equal(answer, jpeg.upright(straight, turned))


def test_grey_stays_grey_and_a_folder_goes_on_past_what_is_no_jpeg(
    finisher: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("album").mkdir()
    saved("album/a.jpg", noisy(20, 20, 1), "L", quality=10)
    saved("album/b.jpg", noisy(20, 20, 2), "CMYK", quality=10)
    write_image("album/c.png", noisy(20, 20, 3))
    assert restore("album", "--model", finisher, "--task", "jpeg", "--calls", "3", "--out", "clean") == 0
    said = capsys.readouterr().err
    assert "in CMYK" in said and "c.png is a PNG file" in said
    assert [path.name for path in Path("clean").iterdir()] == ["a.png"]
    assert read_picture("clean/a.png").pixels.shape == (20, 20, 1)


def test_a_model_in_grey_is_refused(finisher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minidiff.restoration import finish
    from minidiff.restoration.config import FinishRequest

    saved("a.jpg", noisy(20, 20, 1))
    monkeypatch.setattr("minidiff.ddpm.run.Run.shape", (1, 32, 32))
    with pytest.raises(minidiff.UserError, match="draws in grey"):
        finish.begin("a.jpg", finisher, FinishRequest(task="jpeg"))
