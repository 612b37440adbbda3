"""`minidiff restore --task`: holes, small pictures and blurred ones, against posteriors that have a closed form."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from restorations import is_refused, noisy, restore

import minidiff
from minidiff import UserError
from minidiff.ddpm import guess_errors
from minidiff.ddpm.guess_errors import GuessErrors, measure_guess_errors, read_guess_errors, write_guess_errors
from minidiff.ddpm.moments import Film
from minidiff.diffusion.measurements import first_guess, mask
from minidiff.diffusion.posterior import white_doubt
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import read_image, write_image
from minidiff.images.pictures import Picture, read_picture, write_picture
from minidiff.images.quality import psnr
from minidiff.records import from_json
from minidiff.restoration import finish, tasks
from minidiff.restoration.config import FinishConfig, FinishRequest
from minidiff.rng import sample_generators


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_image(f"holiday/{number}.png", noisy(37, 50, number))
    write_image("photo.png", noisy(37, 50, 7))
    holes = np.full((37, 50, 3), 255, np.uint8)
    holes[10:20, 15:30] = 0
    write_image("mask.png", holes)


# --- the mathematics ------------------------------------------------------------------------------------------------


def rows_of(task: str, height: int, width: int) -> np.ndarray:
    """The matrix A, of one channel, by loops: a row for each number of y, a column for each pixel of x0."""
    if task == "upscale":
        rows = np.zeros((height // 2 * (width // 2), height * width))
        for row, column in np.ndindex(height, width):
            rows[row // 2 * (width // 2) + column // 2, row * width + column] = 1 / 4
        return rows
    kernel = KERNEL
    down, across = kernel.shape[0] // 2, kernel.shape[1] // 2
    rows = np.zeros(((height - 2 * down) * (width - 2 * across), height * width))
    for row, column in np.ndindex(height - 2 * down, width - 2 * across):
        for i, j in np.ndindex(*kernel.shape):  # a point at (a, b) is seen at (a + i - down, b + j - across)
            a, b = row + 2 * down - i, column + 2 * across - j
            rows[row * (width - 2 * across) + column, a * width + b] += kernel[i, j]
    return rows


KERNEL = np.array([[0, 0, 0, 0, 0], [40, 255, 90, 20, 10], [0, 0, 60, 0, 0]]) / 475.0


@pytest.mark.parametrize("task", ["upscale", "deblur"])
def test_one_call_is_the_mean_of_the_posterior(task: str, exact: Any) -> None:
    """Normal pixels, and two witnesses: x_t and y. Their mean by inverting a matrix that was filled by loops.

    x_t is the smooth start with the noise of start_t. Fails when the kernel is turned (by 0.3), the rim cut wrongly,
    r or sigma_y taken for another, or the start not at its level.
    """
    write_image("kernel.png", np.repeat(np.round(475 * KERNEL).astype(np.uint8)[..., None], 3, axis=2))
    named = {"scale": 2} if task == "upscale" else {"kernel": "kernel.png"}
    request = FinishRequest(task=task, noise=20.0, calls=1, seed=3, **named)  # type: ignore[arg-type]
    y = 0.2 + 0.3 * torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    y[0, 0] += 0.01  # of a colour
    x, (t,) = finish.restored(exact, y, request)
    (level,), sigma_y = exact.schedule.levels([t]), 20 / 127.5
    given = tasks.damaged(y, request)
    start = first_guess(given.measurement, given.y, sigma_y)
    (generator,) = sample_generators(3, [0])
    x_t = level.signal * start + level.noise * torch.randn(start.shape[1:], generator=generator)

    height, width = start.shape[2:]
    A = rows_of(task, height, width)
    precision = (1 / 0.16 + level.alpha_bar / level.var) * np.eye(height * width) + A.T @ A / sigma_y**2
    down, across = (height - x.shape[2]) // 2, (width - x.shape[3]) // 2
    for channel in range(3):
        weighed = 0.2 / 0.16 + level.signal / level.var * x_t[0, channel].double().numpy().ravel()
        weighed = weighed + A.T @ y[0, channel].double().numpy().ravel() / sigma_y**2
        mean = np.linalg.solve(precision, weighed).reshape(height, width)
        mean = mean[down : height - down, across : width - across].clip(-1, 1)
        np.testing.assert_allclose(x[0, channel], mean, atol=2e-4)


def test_the_film_of_a_blurred_picture_is_without_its_rim(exact: Any) -> None:
    """As large as the picture, and at its end the answer. With the rim it would be larger."""
    y, film = to_float(noisy(20, 30, 5)[None]), Film(8)
    request = FinishRequest(task="deblur", kernel="gaussian:1.2", noise=5.0, calls=2)
    x, _ = finish.restored(exact, y, request, film=film)
    assert film.x[0].shape == film.x0[0].shape == (1, 20, 30, 3)
    np.testing.assert_array_equal(film.x0[-1], to_uint8(x))


def test_holes_are_filled_with_what_the_model_knows(exact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown pixels end as the data are, with mean 0.2 and deviation 0.4, whatever the picture shows there.

    1000 pixels in three channels: 4.5 standard errors are 0.03. Known pixels are kept, or with noise told, pulled to
    the mean. The chain starts high, so that nothing is left of its start.
    """
    monkeypatch.setattr(tasks, "HOLES", 1e9)
    y = torch.full((1, 3, 40, 50), -0.3)
    y[:, 0] = 0.7
    holes = np.full((40, 50, 3), 255, np.uint8)
    holes[::2] = 0
    write_image("stripes.png", holes)
    known = torch.arange(40) % 2 == 1
    request = FinishRequest(task="inpaint", mask="stripes.png", calls=40)
    x, timesteps = finish.restored(exact, y, request)
    assert timesteps[0] == 39 and len(timesteps) == 40
    assert torch.equal(x[:, :, known], y[:, :, known])
    unknown = x[:, :, ~known]
    x_other, _ = finish.restored(exact, torch.where(known[:, None], y, torch.tensor(0.5)), request)
    assert torch.equal(x_other, x)
    assert unknown.mean().item() == pytest.approx(0.2, abs=0.05) and unknown.std().item() == pytest.approx(
        0.4, abs=0.05
    )
    x, _ = finish.restored(exact, y, replace(request, noise=51.0))
    assert x[:, 0, known].mean().item() == pytest.approx((0.16 * 0.7 + 0.16 * 0.2) / 0.32, abs=0.05)


def test_the_start_drowns_what_a_random_walk_may_do_in_a_hole() -> None:
    """Steps of 0.1, and a line between the known ends of a hole: off by 0.1 sqrt(d / 2) in the middle, d pixels from
    both, within 10% for 2000 walks. The chain starts at three times that, within 10%; a deeper hole elsewhere counts.
    """
    for depth in (1, 4, 16):
        known = torch.ones(1, 70)
        known[:, 20 : 20 + 2 * depth - 1] = 0
        steps = 0.1 * torch.randn(2000, 2 * depth, generator=torch.Generator().manual_seed(depth)).double()
        walks = steps.cumsum(1)
        off = (walks[:, depth - 1] - walks[:, -1] / 2).square().mean().sqrt().item()
        assert off == pytest.approx(0.1 * (depth / 2) ** 0.5, rel=0.1)
        given = tasks.Damaged("inpaint", mask(known), torch.zeros(1, 3, 1, 70), known=known)
        assert tasks.start_of(given) == pytest.approx(3 * off, rel=0.15)
        known[:, 60] = 0
        assert tasks.start_of(given) == pytest.approx(0.2 * depth**0.5)


def test_guess_errors_are_measured_and_kept(exact: Any, tmp_path: Path) -> None:
    """Of normal pixels the guess is off by s sigma / sqrt(s^2 + sigma^2), at the levels measured.

    Between them it is read off a line. The deviation is small, so that no pixel is clipped to [-1,1].
    """
    exact.model.deviation = 0.15
    images = [0.2 + 0.15 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    exact.folder = tmp_path
    assert read_guess_errors(exact) is None
    found = measure_guess_errors(exact, images)
    low, high = exact.schedule.levels([0, 39])
    assert found.sigmas[0] == low.sigma and found.sigmas[-1] == high.sigma
    write_guess_errors(tmp_path, found)
    assert read_guess_errors(exact) == found
    doubt, truth = guess_errors.doubt_of(exact), white_doubt(0.15)
    for level in exact.schedule.levels([0, 39]):
        assert doubt(level) == pytest.approx(truth(level), rel=0.03)
    for level in exact.schedule.levels([2, 5, 20]):
        assert doubt(level) == pytest.approx(truth(level), rel=0.1)


@pytest.mark.parametrize(
    "sigmas, errors, wrong",
    [
        ((0.1, 0.1), (1.0, 1.0), "sigmas"),
        ((0.0, 0.1), (1.0, 1.0), "sigmas"),
        ((), (), "sigmas"),
        ((0.1,), (1.0, 1.0), "errors"),
        ((0.1, 0.2), (1.0, 0.0), "errors"),
    ],
)
def test_guess_errors_that_cannot_be(sigmas: tuple[float, ...], errors: tuple[float, ...], wrong: str) -> None:
    with pytest.raises(UserError, match=f"`{wrong}` is"):
        GuessErrors(sigmas, errors)


# --- the command ----------------------------------------------------------------------------------------------------


def test_each_task_writes_its_answer(finisher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is what the function gives, at the picture's size or larger; known pixels are as they were."""
    write_image("clean.png", noisy(74, 100, 8))
    shutil.copytree(finisher, "old")
    Path("old/guess_errors.json").unlink()  # as a run was left before trainings measured it
    given = ("--model", "old", "--calls", "2")
    request = FinishRequest(task="upscale", scale=2, calls=2)
    assert restore("photo.png", *given, "--task", "upscale", "--scale", "2", "--reference", "clean.png") == 0
    said = capsys.readouterr()
    assert "has no guess_errors.json" in said.err and "2 calls" in said.out
    x, timesteps = finish.restored(minidiff.load("old"), to_float(read_image("photo.png")[None]), request)
    answer = read_image("restored.png")
    assert answer.shape == (74, 100, 3)
    np.testing.assert_array_equal(answer, to_uint8(x)[0])
    (result,) = Path("runs/restore-photo-1/results").iterdir()
    stored = json.loads(result.read_text())
    assert stored["timesteps"] == timesteps and stored["noise"] == pytest.approx(127.5 * tasks.ROUNDING)
    assert stored["quality"]["restored"]["psnr"] == pytest.approx(psnr(answer, read_image("clean.png")))
    repeated = read_image("photo.png").repeat(2, axis=0).repeat(2, axis=1)
    assert stored["quality"]["picture"]["psnr"] == pytest.approx(psnr(repeated, read_image("clean.png")))

    assert restore("photo.png", *given, "--task", "inpaint", "--mask", "mask.png", "--out", "filled.png") == 0
    changed = (read_image("filled.png") != read_image("photo.png")).any(-1)
    assert changed[10:20, 15:30].mean() > 0.9
    changed[10:20, 15:30] = False
    assert not changed.any()
    assert restore("photo.png", *given, "--task", "deblur", "--kernel", "gaussian:1.5", "--out", "sharp.png") == 0
    assert read_image("sharp.png").shape == (37, 50, 3)


def test_a_deep_grey_picture_is_enlarged_with_its_alpha(finisher: Path) -> None:
    deep = (257 * noisy(9, 12, 3).astype(np.uint16))[..., :1] ^ 5
    write_picture("deep.png", Picture(deep, np.full((9, 12), 40_000, np.uint16)))
    assert restore("deep.png", "--model", finisher, "--calls", "1", "--task", "upscale") == 0
    after = read_picture("restored.png")
    assert after.bits == 16 and after.pixels.shape == (36, 48, 1)
    np.testing.assert_array_equal(after.alpha, np.full((36, 48), 40_000))


def test_a_run_from_before_there_were_tasks_opens() -> None:
    """Its request has none of the new fields, and its number of calls."""
    old = {"minidiff": "0.1.0", "kind": "finish", "source": "a.png", "model": "photos", "out": "b.png",
           "request": {"noise": "auto", "calls": 3, "seed": 0, "reference": None, "max_pixels": 99}}  # fmt: skip
    request = from_json(FinishConfig, old, "config.json").request
    assert request.task == "denoise" and request.calls_of_network == 3 and request.enlargement == 1
    assert FinishRequest().calls_of_network == 1


BAD = {
    "--task inpaint": "--task inpaint needs --mask",
    "--task deblur": "--task deblur needs --kernel",
    "--mask mask.png": "--mask belongs to --task inpaint",
    "--task upscale --mask mask.png": "--mask belongs to --task inpaint",
    "--scale 2": "--scale belongs to --task upscale",
    "--task upscale --scale 3": "--scale is 3. Use 2, 4",
    "--task upscale --max-pixels 29000": "photo.png would become 200x148, more than 29,000 pixels",
    "--task inpaint --kernel gaussian:1 --mask mask.png": "--kernel belongs to --task deblur",
    "--task deblur --kernel gaussian:wide": "--kernel is 'gaussian:wide'. Use gaussian:0.3 to gaussian:50",
    "--task deblur --kernel gaussian:nan": "--kernel is 'gaussian:nan'",
    "--task deblur --kernel none.png": "none.png: no such image file",
    "--task deblur --kernel mask.png": "mask.png is 50x37, and has no middle pixel",
    "--task deblur --kernel gaussian:9": "is 55x55, larger than the picture of 50x37",
    "--task inpaint --mask white.png": "white.png is white everywhere",
    "--task inpaint --mask black.png": "black.png is black everywhere",
    "--task deblur --kernel odd-black.png": "odd-black.png is black everywhere",
    "--task inpaint --mask small.png": "small.png is 49x37, and the picture 50x37",
    "--task jpeg": "photo.png is a PNG file, which does not say how it was compressed. Give the JPEG file, or denoise "
    "it with a --noise of 10 to 20",
    "--task jpeg --mask mask.png": "--mask belongs to --task inpaint",
    "--task sharpen": "'sharpen' is not one of",
    "--with-dip --task inpaint": "--task does not go with --with-dip",
}


LARGE = {
    "inpaint --mask large.png": "large.png is 1025x1025, and the picture 50x37",
    "deblur --kernel large.png": "large.png is 1025x1025, and a kernel has 1023 pixels a side at most",
    "upscale --reference large.png": "--reference large.png is 1025x1025, and the answer will be 200x148",
}


@pytest.mark.parametrize("words", LARGE)
def test_what_has_a_wrong_size_is_not_decoded(
    words: str, finisher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """13,300 pixels a side in half a megabyte took 4 GB and minutes, to be refused. Its first bytes say enough."""

    def reading(path: Path, *others: Any) -> Picture:
        assert Path(path).name != "large.png"
        return read_picture(path, *others)

    write_image("large.png", np.zeros((1025, 1025, 3), np.uint8))
    for module in (tasks, finish):
        monkeypatch.setattr(module, "read_picture", reading)
    is_refused(f"photo.png --model {finisher} --task {words}", LARGE[words], capsys)


def test_a_picture_that_does_not_fit_into_the_memory_is_refused(
    finisher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finish, "free_memory", lambda device: 67 * 37 * 50 - 1)
    is_refused(f"photo.png --model {finisher}", "photo.png, as 50x37, needs 0.0 GB of memory", capsys)
    monkeypatch.setattr(finish, "free_memory", lambda device: 67 * 37 * 50)
    assert restore("photo.png", "--model", finisher) == 0


@pytest.mark.parametrize("words", BAD)
def test_what_is_wrong_is_one_line_before_anything_is_written(
    words: str, finisher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image("white.png", np.full((37, 50, 3), 255, np.uint8))
    write_image("black.png", np.zeros((37, 50, 3), np.uint8))
    write_image("small.png", np.zeros((37, 49, 3), np.uint8))
    write_image("odd-black.png", np.zeros((3, 3, 3), np.uint8))
    is_refused(f"photo.png --model {finisher} {words}", BAD[words], capsys)


def test_a_model_of_one_size_can_only_denoise(trained: Path) -> None:
    with pytest.raises(UserError, match="draws one size alone"):
        finish.begin("photo.png", trained, FinishRequest(task="upscale"))
