"""`minidiff dip fit`: the answer is that of the definition, a kill loses nothing, bad pictures are one line."""

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fits import draw_nothing, interrupt_at, smooth
from PIL import Image

from minidiff import cli
from minidiff.dip import job as dip_job
from minidiff.dip import memory, recipe
from minidiff.dip import run as dip_run
from minidiff.dip.config import FitConfig, FitRequest, FitResult, NetConfig, StopConfig
from minidiff.dip.early_stop import WindowVariance
from minidiff.dip.fit import NET_STREAM, TASKS, Fitter, fit
from minidiff.errors import UserError
from minidiff.images.convert import Pixels, to_float, to_uint8
from minidiff.images.files import read_image, write_image
from minidiff.images.quality import psnr, ssim
from minidiff.networks.dip import DIP_NETS
from minidiff.rng import seed_from
from minidiff.runs import folder as checkpoint

SMALL = ["--channels", "8", "--steps", "30", "--window", "5", "--patience", "8", "--save-every", "5"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    monkeypatch.chdir(tmp_path)
    if "drawn" not in request.fixturenames:
        draw_nothing(monkeypatch)
    return tmp_path


@pytest.fixture()
def drawn() -> None:
    """For a test that looks at the pictures of a fit."""


@pytest.fixture()
def photo(own_folder: Path) -> Path:
    write_image(own_folder / "photo.png", smooth())
    return Path("photo.png")


def dip_fit(*words: str | int | Path) -> int:
    return cli.run(["dip", "fit", *map(str, words)])


def records(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


# --- what it writes -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_the_answer_is_the_averaged_output_at_the_minimum(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Replayed by hand: network, noise, fit and statistic from their definitions give every file, to the bit."""
    assert dip_fit(photo, "--noise-sigma", "25", *SMALL) == 0
    said = capsys.readouterr().out
    run = Path("runs/dip-photo-1")
    target = read_image(run / "target.png")
    torch.manual_seed(seed_from(0, NET_STREAM))
    net = DIP_NETS["hourglass"](channels=8, scales=2)  # 20 pixels leave room for two scales
    stopper, steps = WindowVariance(window=5, patience=8), []
    for step in fit(net, to_float(target[None]), FitConfig(steps=30)):
        steps.append(step)
        if stopper.update(step.output, step.averaged)[1]:
            break
    assert stopper.best is not None
    answer = to_uint8(stopper.best)[0]
    np.testing.assert_array_equal(read_image(run / "dip.png"), answer)
    assert Path("dip.png").read_bytes() == (run / "dip.png").read_bytes()
    expected = sorted({*range(5, len(steps) + 1, 5), len(steps)})
    assert [int(path.stem) for path in sorted((run / "steps").iterdir())] == expected
    for number in expected:
        np.testing.assert_array_equal(dip_read(run, number), to_uint8(steps[number - 1].output)[0])
    result = json.loads((run / "result.json").read_text())
    assert (result["steps"], result["best_step"]) == (len(steps), stopper.best_step)
    assert result["psnr"] == psnr(answer, smooth()) and result["ssim"] == ssim(answer, smooth())
    assert result["psnr_target"] == psnr(target, smooth()) and result["ssim_target"] == ssim(target, smooth())
    for record in records("runs/dip-photo-1"):
        step = steps[record["step"] - 1]
        assert record["loss"] == step.loss.item() and record["psnr"] == psnr(to_uint8(step.output)[0], smooth())
        assert record["psnr_average"] == psnr(to_uint8(step.averaged)[0], smooth())
        assert record["ssim"] == ssim(to_uint8(step.output)[0], smooth())
        assert record["ssim_average"] == ssim(to_uint8(step.averaged)[0], smooth())
    assert not (run / "state.pt").exists()
    assert (
        "hourglass, " in said
        and "scales 2" in said
        and "next      minidiff sample photos --start-t 100 --init dip.png" in said
    )
    for name in ("curves.png", "sheet.png"):
        with Image.open(run / name) as picture:
            assert picture.size[0] > 600


def dip_read(run: Path, step: int) -> Pixels:
    return read_image(dip_run.saved_step(run, step))


def test_early_stop_off_runs_all_steps_and_takes_the_last(photo: Path) -> None:
    assert dip_fit(photo, "--early-stop", "off", "--steps", "12", "--channels", "8", "--average", "0") == 0
    result = json.loads(Path("runs/dip-photo-1/result.json").read_text())
    assert result == {"steps": 12, "best_step": 12, "stopped": False}
    np.testing.assert_array_equal(read_image("dip.png"), dip_read(Path("runs/dip-photo-1"), 12))
    assert all(record["statistic"] is None for record in records("runs/dip-photo-1"))


def test_an_answer_that_is_there_is_kept_unless_forced(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image("dip.png", smooth()[::-1])
    before = Path("dip.png").read_bytes()
    assert dip_fit(photo, *SMALL) == 0
    said = capsys.readouterr()
    assert Path("dip.png").read_bytes() == before and "--init dip-2.png" in said.out
    assert "Warning: dip.png was there before and is kept" in said.err and "The new answer is dip-2.png" in said.err
    assert Path("dip-2.png").read_bytes() == Path("runs/dip-photo-1/dip.png").read_bytes()
    assert dip_fit(photo, "--force", *SMALL) == 0
    assert Path("dip.png").read_bytes() == Path("runs/dip-photo-2/dip.png").read_bytes()
    assert not Path("dip-3.png").exists() and "was there before" not in capsys.readouterr().err


def test_out_names_the_run_folder_and_nothing_else_is_written(photo: Path) -> None:
    assert dip_fit(photo, "--out", "here", *SMALL) == 0
    assert sorted(os.listdir()) == ["here", "photo.png"] and Path("here/dip.png").exists()


def test_inpainting_fills_the_holes_and_leaves_the_rest(photo: Path) -> None:
    """The holes hold black; what is put there must be nearer to the truth than black, and than one mean colour."""
    mask = np.full((24, 20, 3), 255, np.uint8)
    mask[8:12, 6:10] = 0
    write_image("mask.png", mask)
    spoilt = smooth() * (mask > 0)
    write_image("spoilt.png", spoilt)
    words = ["--task", "inpaint", "--mask", "mask.png", "--early-stop", "off", "--steps", "150", "--channels", "16"]
    assert dip_fit("spoilt.png", *words, "--reference", photo) == 0
    answer, holes = read_image("dip.png"), mask == 0
    np.testing.assert_array_equal(answer[~holes], spoilt[~holes])
    plain = np.broadcast_to(smooth().mean(axis=(0, 1)), smooth().shape)
    error = np.abs(answer.astype(float) - smooth())[holes].mean()
    assert error < 0.5 * np.abs(plain - smooth())[holes].mean()


def test_super_resolution_is_larger_and_measured_there(photo: Path) -> None:
    write_image("large.png", smooth().repeat(2, axis=0).repeat(2, axis=1))
    words = ["--task", "super-resolve", "--factor", "2", "--reference", "large.png"]
    assert dip_fit(photo, *words, *SMALL) == 0
    assert read_image("dip.png").shape == (48, 40, 3)
    assert "psnr" in json.loads(Path("runs/dip-photo-1/result.json").read_text())


def test_the_early_stop_of_a_super_resolution_is_that_of_its_result(photo: Path) -> None:
    """Outputs of 480x400: 100 of them would be 230 MB, at half the size they are 58."""
    stop = recipe.begin(photo, FitRequest(task="super-resolve", factor=20, channels=4)).config.early_stop
    assert stop is not None and (stop.downscale, stop.patience) == (2, 1000)


@pytest.mark.parametrize("factor", [3, 7, 49])
def test_any_factor_comes_back_to_the_size_of_the_target(factor: int) -> None:
    """1/49 in floating point times 49 * 24 is less than 24."""
    x = torch.zeros(1, 3, 24 * factor, 20 * factor)
    assert TASKS["super-resolve"](None, factor)(x).shape == (1, 3, 24, 20)


def test_a_reference_equal_to_the_picture_has_no_psnr(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be infinite, which JSON has no word for."""
    assert dip_fit(photo, "--reference", photo, *SMALL) == 0
    result = json.loads(Path("runs/dip-photo-1/result.json").read_text(), parse_constant=pytest.fail)
    assert "psnr_target" not in result and result["ssim_target"] == 1 and "inf" not in capsys.readouterr().out


def test_noise_added_to_an_inpainting_does_not_stay(photo: Path) -> None:
    mask = np.full((24, 20, 3), 255, np.uint8)
    mask[8:12, 6:10] = 0
    write_image("mask.png", mask)
    assert dip_fit(photo, "--task", "inpaint", "--mask", "mask.png", "--noise-sigma", "25", *SMALL) == 0
    assert (read_image("dip.png") != read_image("runs/dip-photo-1/target.png")).mean() > 0.5


def test_size_cuts_the_centre_of_picture_and_reference(photo: Path) -> None:
    assert dip_fit(photo, "--size", "16", "--reference", photo, *SMALL) == 0
    assert read_image("runs/dip-photo-1/target.png").shape == (16, 16, 3)
    assert records("runs/dip-photo-1")[-1]["psnr"] > 0


def test_added_noise_has_its_deviation_and_is_one_for_grey() -> None:
    """Against the deviation asked for, on mid grey, where nothing is cut off; 3 sigma of its estimate is 0.3."""
    grey = np.full((64, 64, 3), 128, np.uint8)
    colour = grey.copy()
    colour[0, 0] = (1, 2, 3)
    noise = recipe.add_noise(colour, 25, seed=0)[1:].astype(float) - 128
    assert abs(noise.std() - 25) < 0.5 and abs(noise.mean()) < 0.7
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.06
    one = recipe.add_noise(grey, 25, seed=0)
    assert (one == one[..., :1]).all() and one.std() > 20
    np.testing.assert_array_equal(one, recipe.add_noise(grey, 25, seed=0))
    assert (recipe.add_noise(grey, 25, seed=1) != one).mean() > 0.9


def test_the_seed_decides_the_weights_and_the_input(photo: Path) -> None:
    for number, seed in enumerate((0, 0, 7), start=1):
        assert dip_fit(photo, "--steps", "2", "--channels", "8", "--seed", seed, "--out", f"r{number}") == 0
    first, again, other = (Path(f"r{number}/dip.png").read_bytes() for number in (1, 2, 3))
    assert first == again != other


@pytest.mark.parametrize("net", DIP_NETS)
def test_every_network_fits_with_the_input_it_can_learn_from(net: str, own_folder: Path) -> None:
    """cnn and conv2 see a few pixels across: from noise they would learn nothing, so they are given the picture."""
    write_image("photo.png", smooth(40, 33))
    assert dip_fit("photo.png", "--net", net, "--steps", "3") == 0
    config = json.loads(Path("runs/dip-photo-1/config.json").read_text())
    assert config["fit"]["input_kind"] == ("image" if net in ("conv2", "cnn") else "noise")
    assert records("runs/dip-photo-1")[-1]["step"] == 3


@pytest.mark.parametrize(("side", "scales"), [(8, 1), (16, 2), (32, 3), (64, 4), (127, 4), (128, 5), (1024, 5)])
def test_the_hourglass_has_as_many_scales_as_there_is_room_for(side: int, scales: int) -> None:
    assert recipe.net_config(FitRequest(), side, 32, 3) == NetConfig("hourglass", scales=scales)
    assert recipe.net_config(FitRequest(scales=2), side, 32, 3).scales == 2


@pytest.mark.parametrize(
    ("shape", "patience", "downscale"),
    [
        ((16, 20, 3), 100, 1),
        ((64, 32, 3), 128, 1),
        ((256, 256, 3), 1000, 1),  # as published
        ((512, 512, 3), 1000, 2),  # 100 outputs of 3.1 MB would be 315 MB; at half the size they are 79
        ((512, 512, 1), 1000, 1),
        ((3000, 4000, 3), 1000, 11),
        ((1, 40, 3), 100, 1),
    ],
)
def test_the_early_stop_suits_the_size(shape: tuple[int, int, int], patience: int, downscale: int) -> None:
    assert recipe.stop_config(FitRequest(), shape) == StopConfig("window", patience, 100, downscale)
    assert 4 * 100 * np.prod(shape) / downscale**2 <= recipe.WINDOW_BYTES
    assert recipe.stop_config(FitRequest(early_stop="moving", patience=7), shape) == StopConfig("moving", 7)


# --- what it reads ------------------------------------------------------------------------------------------------


def forms(clean: Pixels) -> dict[str, tuple[Image.Image, dict[str, Any], Pixels]]:
    """One picture in several kinds of file: what is saved, how, and what should be fitted."""
    grey = clean[..., :1].repeat(3, axis=2)
    alpha = np.full((*clean.shape[:2], 1), 255, np.uint8)
    alpha[:4] = 0
    white = np.where(alpha > 0, clean, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise to show
    palette = Image.fromarray(clean).quantize(256)
    wide = Image.fromarray(clean[..., 0].astype(np.uint16) * 257)
    return {
        "grey": (Image.fromarray(clean[..., 0]), {}, grey),
        "16-bit": (wide, {}, grey),
        "palette": (palette, {}, np.array(palette.convert("RGB"))),
        "alpha": (Image.fromarray(np.concatenate([clean, alpha], axis=2)), {}, white),
        "rotated": (Image.fromarray(np.rot90(clean)), {"exif": exif}, clean),
    }


@pytest.mark.parametrize("form", forms(smooth()))
def test_every_kind_of_file_is_fitted_as_it_looks(form: str) -> None:
    file, options, expected = forms(smooth())[form]
    file.save("photo.png", **options)
    job = recipe.begin("photo.png", FitRequest(channels=8))
    np.testing.assert_array_equal(job.target, expected)
    assert job.fitter.known.shape[1] == (1 if form in ("grey", "16-bit") else 3)


def test_a_grey_picture_has_a_grey_answer(own_folder: Path) -> None:
    Image.fromarray(smooth()[..., 0]).save("photo.png")
    assert dip_fit("photo.png", *SMALL) == 0
    answer = read_image("dip.png")
    assert (answer == answer[..., :1]).all()


BAD = {
    "nothing.png": "nothing.png: no such image file",
    "text.png": "text.png is not a readable image",
    "cut.png": "cut.png is not a readable image",
    "photo.png --max-pixels 100": "20 x 24 pixels",
    "photo.png --net resnet18": "a side of 20 pixels is less than the 32",
    "photo.png --net hourglass --scales 5": "a side of 20 pixels is less than the 32",
    "photo.png --net hourgless": "Did you mean 'hourglass'?",
    "photo.png --net cnn --scales 3": "--scales belongs to hourglass, not cnn",
    "photo.png --layers 6": "--layers belongs to cnn, not hourglass",
    "photo.png --net cnn --kernel-size 4": "a kernel of 4 pixels has no middle",
    "photo.png --task inpaint --mask white.png": "white.png is white everywhere",
    "photo.png --task inpaint": "--task inpaint needs --mask",
    "photo.png --mask photo.png": "--mask belongs to --task inpaint",
    "photo.png --task inpaint --mask small.png": "small.png is 6x5, ",
    "photo.png --task inpaint --mask black.png": "the mask is 0 everywhere",
    "photo.png --factor 2": "--factor belongs to --task super-resolve",
    "photo.png --reference small.png": "small.png is 6x5, the result 20x24",
    "photo.png --early-stop off --patience 5": "belong to early stopping, which is off",
    "photo.png --early-stop moving --window 5": "--window belongs to --early-stop window",
    "photo.png --out full": "full is not empty",
    "photo.png --resume full": "give an IMAGE to fit, or --resume RUN",
    "--resume full": "full is not a run folder",
    "photo.png --noise-sigma nan": "nan is not",
    "photo.png --size 4": "--size",
    "full": "full holds no images",
    "": "give an IMAGE to fit",
}  # fmt: skip


@pytest.mark.parametrize("words", BAD)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    words: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.png").write_text("not a picture")
    Path("cut.png").write_bytes(photo.read_bytes()[:-400])
    write_image("small.png", smooth(5, 6))
    write_image("black.png", 0 * smooth())
    write_image("white.png", 0 * smooth() + 255)
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    before = sorted(os.listdir())
    assert dip_fit(*words.split()) in (1, 2)
    said = capsys.readouterr().err
    assert BAD[words] in said and said.count("\n") == 1 and said.startswith("Error: ")
    assert sorted(os.listdir()) == before and os.listdir("full") == ["notes.txt"]


def test_a_picture_too_large_for_the_memory_is_refused_with_a_size_that_fits(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What autograd saves for the hourglass is counted here by hand for its finest scale, and is most of it."""
    a_pixel = memory.bytes_a_pixel(DIP_NETS["hourglass"]())
    # At full size: two of 128 channels from the convolutions of `join`, two after batch norm, two after LeakyReLU, the
    # upsampled one, the joined 132 before and after batch norm and padding; 4 bytes each.
    assert 2 * 4 * 8 * 128 < a_pixel < 2 * 4 * 20 * 128
    monkeypatch.setattr(memory, "free_memory", lambda device: 50_000)
    assert dip_fit(photo) == 1
    assert "at 20x24 needs some" in capsys.readouterr().err
    monkeypatch.setattr(memory, "free_memory", lambda device: int(0.9 * a_pixel * 400 * 400))
    large = FitRequest(task="super-resolve", factor=20)  # 400x480: a target for that memory has a side of some 16
    with pytest.raises(UserError, match=r"at 400x480 needs some .* Try `size` (1[4-9]),"):
        recipe.begin(photo, large)
    monkeypatch.setattr(memory, "free_memory", lambda device: None)
    recipe.begin(photo, FitRequest())


# --- interrupted --------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: nothing is tidied up."""


@pytest.mark.parametrize("stop", ["window", "moving", "off"])
def test_a_killed_fit_ends_as_one_never_interrupted(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop: str
) -> None:
    """Killed at step 12, some steps after the last state, with files of lost steps lying there."""
    words = ["--channels", "8", "--steps", "16", "--save-every", "3", "--reference", str(photo), "--early-stop", stop]
    words = [str(photo), *words, *(["--patience", "20"] if stop != "off" else [])]
    assert dip_fit(*words, "--out", "whole") == 0
    saves: list[int] = []
    save = dip_job.DipJob.save

    def save_once(self: Any, step: Any) -> None:
        if not saves:
            save(self, step)
            saves.append(step.step)

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(dip_job, "SAVE_SECONDS", 0.0)
        patch.setattr(dip_job.DipJob, "save", save_once)
        interrupt_at(12, patch, kill)
        with pytest.raises(Killed):
            dip_fit(*words, "--out", "cut")
    assert saves and saves[0] < 12 and Path("cut/steps/000009.png").exists()
    assert dip_fit("--resume", "cut") == 0
    assert f"at step {saves[0]}" in capsys.readouterr().out
    for name in ("dip.png", "metrics.jsonl", "result.json", "steps/000012.png", "steps/000016.png"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes(), name
    assert not list(Path("cut").glob(".*tmp*"))
    ended = json.loads(Path("cut/result.json").read_text())
    assert Path("cut/state.pt").exists() != ended["stopped"]  # after a last step it may go on


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_tells_how_to_go_on(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(10, patch, lambda: os.kill(os.getpid(), number))
        assert dip_fit(photo, "--channels", "8", "--steps", "12") == code
    said = capsys.readouterr().out
    assert f"Stopped by {signal.Signals(number).name} at step 10; saved." in said
    assert "Resume with: minidiff dip fit --resume runs/dip-photo-1" in said
    assert (Path("runs/dip-photo-1") / checkpoint.STATE).exists()
    assert dip_fit("--resume", "runs/dip-photo-1") == 0
    assert Path("dip.png").exists()
    assert dip_fit("--resume", "runs/dip-photo-1") == 1
    assert "is finished: its answer is runs/dip-photo-1/dip.png" in capsys.readouterr().err


def test_resume_refuses_another_picture_a_damaged_state_and_options(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(10, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        dip_fit(photo, "--channels", "8", "--steps", "12")
    run, state = Path("runs/dip-photo-1"), Path("runs/dip-photo-1/state.pt").read_bytes()
    assert dip_fit("--resume", run, "--lr", "0.1") == 2
    assert "--lr is part of the run" in capsys.readouterr().err
    write_image(photo, smooth()[::-1])
    assert dip_fit("--resume", run) == 1
    assert "is not what runs/dip-photo-1 began with" in capsys.readouterr().err
    write_image(photo, smooth())
    (run / "state.pt").write_bytes(state[:1000])
    assert dip_fit("--resume", run) == 1
    assert "state.pt is damaged" in capsys.readouterr().err
    (run / "state.pt").write_bytes(state)
    assert dip_fit("--resume", run) == 0


def test_a_loss_that_is_not_a_number_ends_the_fit(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = Fitter.steps

    def broken(self: Fitter) -> Any:
        for step in steps(self):
            yield step._replace(loss=step.loss * float("nan"))

    monkeypatch.setattr(Fitter, "steps", broken)
    assert dip_fit(photo, *SMALL) == 1
    assert "the loss became nan by step 5" in capsys.readouterr().err
    assert not Path("dip.png").exists()


# --- more steps ---------------------------------------------------------------------------------------------------


def written(folder: str) -> dict[str, bytes]:
    """All files of a run folder but the state, which also holds when it was written."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.name not in (checkpoint.STATE, ".lock")
    }


@pytest.mark.parametrize("stop", ["window", "moving", "off"])
def test_a_fit_given_more_steps_is_as_if_it_had_had_them_from_the_start(
    photo: Path, stop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """11 steps and then 22, against 22: every file is equal. The early stop `window` comes between them, at step 13.

    Fails if the state is not kept, if the early stop forgets what it saw, or if the output of step 11, which is saved
    as the last one and no third step, stays.
    """
    words = [photo, "--channels", "8", "--save-every", "3", "--reference", photo, "--early-stop", stop]
    words += {"window": ["--window", "4", "--patience", "4"], "moving": ["--patience", "40"], "off": []}[stop]
    assert dip_fit(*words, "--steps", "22", "--out", "whole") == 0
    assert dip_fit(*words, "--steps", "11", "--out", "cut") == 0
    assert Path("cut/steps/000011.png").exists()
    capsys.readouterr()
    assert dip_fit("--resume", "cut", "--steps", "22") == 0
    assert "resuming  cut at step 11" in capsys.readouterr().out
    assert written("cut") == written("whole")
    assert dip_fit("--resume", "cut", "--steps", "22") == 1


def test_more_steps_without_a_state_begin_again(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a run of an earlier version, which removed the state; and where a kill left the old result behind."""
    words = [photo, "--channels", "8", "--save-every", "3", "--early-stop", "off"]
    assert dip_fit(*words, "--steps", "9", "--out", "whole") == 0
    assert dip_fit(*words, "--steps", "5", "--out", "cut") == 0
    Path("cut/state.pt").unlink()
    config = json.loads(Path("cut/config.json").read_text())
    config["fit"]["steps"] = 9
    Path("cut/config.json").write_text(json.dumps(config, indent=2) + "\n")
    capsys.readouterr()
    assert dip_fit("--resume", "cut") == 0
    assert "at step 0, because it has no saved state" in capsys.readouterr().out
    assert written("cut") == written("whole")


def test_what_cannot_have_more_steps(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Steps that are taken already, and an early stop, after which more would change nothing."""
    few = ["--channels", "8", "--early-stop", "off", "--steps", "6"]
    assert dip_fit(photo, *few, "--out", "done") == 0
    assert dip_fit(photo, "--channels", "8", "--early-stop", "moving", "--patience", "1", "--out", "early") == 0
    assert json.loads(Path("early/result.json").read_text())["stopped"] and not Path("early/state.pt").exists()
    before = written("done"), written("early")
    for words, said in (
        (["done"], "done is finished: its answer is done/dip.png. For more than its 6 steps, add --steps"),
        (["done", "--steps", "5"], "done has taken 6 steps already. Give more --steps"),
        (["early", "--steps", "9000"], "so more --steps would change nothing"),
        (["done", "--steps", "9", "--lr", "1"], "--lr is part of the run"),
    ):
        capsys.readouterr()
        assert dip_fit("--resume", *words) in (1, 2)
        heard = capsys.readouterr().err
        assert said in heard and heard.count("\n") == 1
    assert (written("done"), written("early")) == before


def test_fewer_steps_than_an_interrupted_fit_has_taken(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below the step that was reached they are an error; above it the fit ends earlier than it was meant to."""
    words = [photo, "--channels", "8", "--save-every", "5", "--early-stop", "off"]
    assert dip_fit(*words, "--steps", "12", "--out", "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(10, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert dip_fit(*words, "--steps", "20", "--out", "cut") == 143
    assert dip_fit("--resume", "cut", "--steps", "9") == 1
    assert "cut has taken 10 steps already" in capsys.readouterr().err
    assert dip_fit("--resume", "cut", "--steps", "12") == 0 and written("cut") == written("whole")
    with monkeypatch.context() as patch:  # a fit that goes on is not finished, and its old result does not stay
        interrupt_at(15, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert dip_fit("--resume", "cut", "--steps", "20") == 143
    assert not Path("cut/result.json").exists() and dip_fit("--resume", "cut") == 0


def test_a_fit_that_ends_too_soon_says_so_and_what_it_says_works(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the variance falls, before a window is full, and where the early stop still waits; not without one."""
    base = [photo, "--channels", "8"]
    for more, said in (
        (["--steps", "15", "--window", "4"], "still improving when its 15 steps were over"),
        (["--steps", "3", "--window", "4"], "3 steps are too few for an early stop that looks at 4"),
        (["--steps", "12", "--early-stop", "off"], ""),
    ):
        assert dip_fit(*base, *more) == 0
        warnings = capsys.readouterr().err.split("Warning: ")[1:]
        assert any(said in line for line in warnings) if said else not any("Go on" in line for line in warnings)
    monkeypatch.setattr(FitRequest, "steps", 17)  # what is suggested after fewer steps
    assert dip_fit(*base, "--steps", "15", "--window", "4", "--out", "a b") == 0
    command = re.search(r"Go on with: minidiff (.*)", capsys.readouterr().err)
    assert command and command[1] == "dip fit --resume 'a b' --steps 17"
    assert cli.run(shlex.split(command[1])) == 0
    assert json.loads(Path("a b/result.json").read_text())["steps"] == 17


def test_an_early_stop_that_has_not_decided(photo: Path) -> None:
    config = recipe.settle(str(photo), FitRequest(patience=100))
    assert "lowest at step 200" in str(dip_job.undecided(config, FitResult(250, 200, stopped=False)))
    assert "still improving" in str(dip_job.undecided(config, FitResult(250, 245, stopped=False)))
    assert dip_job.undecided(config, FitResult(300, 200, stopped=True)) is None


# --- a folder of pictures -----------------------------------------------------------------------------------------


def test_a_folder_is_fitted_one_after_another_and_goes_on_where_it_stopped(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped within the second of three: the first is not fitted again, the others come out as if alone."""
    Path("photos").mkdir()
    for number, name in enumerate(("a.png", "a.jpg", "b.png")):
        write_image(Path("photos", name), np.roll(smooth(), number, axis=0))
    names = iter((1, 2, 3))
    run_one = dip_job.DipJob.run

    def run(self: Any, on_step: Any = None) -> Any:
        if next(names) == 2:
            interrupt_at(5, monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        return run_one(self, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(dip_job.DipJob, "run", run)
        assert dip_fit("photos", *SMALL) == 143
    assert "Resume with: minidiff dip fit --resume runs/dip-photos-1" in capsys.readouterr().out
    run_folder = Path("runs/dip-photos-1")
    assert [path.name for path in sorted((run_folder / "dip").iterdir())] == ["a.jpg.png"]
    first = (run_folder / "images/a.jpg/metrics.jsonl").stat().st_mtime_ns
    assert dip_fit("--resume", run_folder) == 0
    assert (run_folder / "images/a.jpg/metrics.jsonl").stat().st_mtime_ns == first
    assert [path.name for path in dip_run.chosen_images(run_folder)] == ["a.jpg.png", "a.png.png", "b.png.png"]
    assert dip_fit("photos/a.png", *SMALL) == 0
    assert Path("dip.png").read_bytes() == (run_folder / "dip/a.png.png").read_bytes()
    capsys.readouterr()
    assert cli.run(["info", str(run_folder)]) == 0
    assert "3 fitted" in capsys.readouterr().out


def test_one_bad_picture_does_not_stop_the_others(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    Path("photos/a.png").write_text("not a picture")
    write_image("photos/b.png", smooth())
    write_image("photos/c.png", smooth(1, 20))
    assert dip_fit("photos", *SMALL) == 1
    said = capsys.readouterr().err
    assert "a.png is not a readable image" in said and "2 of the pictures could not be fitted" in said
    assert "photos/c.png: a side of 1 pixels" in said
    assert Path("runs/dip-photos-1/dip/b.png.png").exists()
    assert dip_fit("photos", "--reference", "photos/b.png") == 1
    assert "--reference belongs to one picture" in capsys.readouterr().err


def test_a_folder_is_given_more_steps(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The picture that was stopped early stays as it is; the other one is fitted as if alone. States are not kept."""
    write_image("photos/a.png", smooth())
    write_image("photos/b.png", np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    words = ["--channels", "8", "--save-every", "5", "--window", "4", "--patience", "2"]
    assert dip_fit("photos", *words, "--steps", "24", "--out", "whole") == 0
    capsys.readouterr()
    assert dip_fit("photos", *words, "--steps", "12", "--out", "cut") == 0
    assert not list(Path("cut").rglob("state.pt"))
    assert "1 of 2 fits used up the steps before the early stop could decide: b.png." in capsys.readouterr().err
    assert dip_fit("--resume", "cut", "--steps", "8") == 1 and "12 steps already" in capsys.readouterr().err
    assert dip_fit("--resume", "cut", "--steps", "24") == 0
    of_both = [written(folder) for folder in ("cut", "whole")]
    stopped = [json.loads(files.pop("images/a.png/config.json"))["fit"]["steps"] for files in of_both]
    assert stopped == [12, 24] and of_both[0] == of_both[1]


# --- for others ---------------------------------------------------------------------------------------------------


def test_the_saved_steps_are_found_and_missing_ones_named(photo: Path) -> None:
    assert dip_fit(photo, "--channels", "8", "--steps", "20", "--save-every", "5", "--early-stop", "off") == 0
    run = Path("runs/dip-photo-1")
    Path("other").mkdir()
    Path("other/config.json").write_text('{"kind": "ddpm"}')
    assert dip_run.is_dip_run(run) and not dip_run.is_dip_run("other") and not dip_run.is_dip_run(photo)
    assert dip_run.chosen_images(run) == [run / "dip.png"]
    assert dip_run.saved_step(run, 15) == run / "steps/000015.png"
    with pytest.raises(UserError, match=r"has not saved step 12. The nearest are 10 and 15."):
        dip_run.saved_step(run, 12)
    (run / "dip.png").unlink()
    with pytest.raises(UserError, match=r"is not finished"):
        dip_run.chosen_images(run)


def test_a_newer_answer_of_the_same_picture_is_found(photo: Path) -> None:
    """By the runs, which know their pictures; an answer that no run knows counts by its size. Older ones do not."""
    few = ["--channels", "8", "--early-stop", "off", "--steps", "2"]
    write_image("other.png", smooth()[::-1])
    for number, picture in enumerate((photo, "other.png", photo)):
        assert dip_fit(picture, *few, "--seed", number) == 0
    for number, name in enumerate(("dip.png", "dip-2.png", "dip-3.png")):
        os.utime(name, (1000 + number, 1000 + number))
    first, second, third = Path("dip.png"), Path("dip-2.png"), Path("dip-3.png")
    assert dip_run.newer_answer(first) == third and dip_run.newer_answer(second) is None
    assert dip_run.newer_answer(third) is None and dip_run.newer_answer(photo) is None
    write_image(third, smooth(9, 9))  # of no run, and of another size
    assert dip_run.newer_answer(first) is None
    write_image(third, smooth()[:, ::-1])
    assert dip_run.newer_answer(first) == third


def test_size_says_that_it_shrinks(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And where the picture goes in whole, nothing is said."""
    said = [recipe.begin(photo, FitRequest(channels=8, size=size)).describe() for size in (16, 20, 32, None)]
    assert "16x16, colour, cut and shrunk from 20x24" in said[0] and "20x20, colour, cut from 20x24" in said[1]
    assert "32x32, colour, cut and enlarged from 20x24" in said[2] and "20x24, colour\n" in said[3]


def test_info_tells_what_a_fit_was(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dip_fit(photo, "--noise-sigma", "25", *SMALL) == 0
    capsys.readouterr()
    assert cli.run(["info", "runs/dip-photo-1"]) == 0
    said = capsys.readouterr().out
    assert "noise 25/255" in said and "hourglass: channels 8, scales 2" in said and "PSNR" in said
    assert cli.run(["info"]) == 0
    assert "runs/dip-photo-1  dip of " in capsys.readouterr().out
