"""`minidiff restore`: pictures that a model of photographs finishes, alone and in folders, stopped and gone on with."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms
from restorations import Gaussian, is_refused, make_other, noisy, restore, stop_before_answer

import minidiff
from minidiff import UserError, cli
from minidiff.ddpm.moments import Film
from minidiff.diffusion.chain import Step
from minidiff.diffusion.noise_level import noise_sigma, timestep_for
from minidiff.images.convert import to_float, to_uint8, to_uint16
from minidiff.images.files import read_image, write_image
from minidiff.images.pictures import Picture, read_picture, write_picture
from minidiff.images.quality import psnr
from minidiff.networks.weights import fingerprint
from minidiff.restoration import finish
from minidiff.restoration.config import FinishRequest
from minidiff.restoration.sheets import strip_of


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_image(f"holiday/{number}.png", noisy(37, 50, number))
    write_image("photo.png", noisy(37, 50, 7))


# --- the mathematics ------------------------------------------------------------------------------------------------


def test_one_call_is_the_mean_of_the_posterior(finisher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal pixels of mean m and variance s^2 under noise of variance v: (s^2 y + v m) / (s^2 + v), for any size.

    The chain enters at the nearest level, so v is that level's. Fails when the picture is not scaled to it, when noise
    is added, or when the chain enters one timestep too early or too late (0.6% here).
    """
    run = minidiff.load(finisher)
    run.model = Gaussian(run.schedule)
    monkeypatch.setattr("minidiff.ddpm.drawing.at_any_size", lambda model, config: model)
    y = 0.2 + 0.4 * torch.randn(1, 3, 19, 30, generator=torch.Generator().manual_seed(0))
    sigma = 0.3
    x, (t,) = finish.finish(run, y, sigma)
    assert t == timestep_for(run.schedule, sigma)
    v = run.schedule.levels([t])[0].sigma ** 2
    expected = (0.16 * y + v * 0.2) / (0.16 + v)
    torch.testing.assert_close(x, expected.clamp(-1, 1), atol=1e-5, rtol=0)


def test_many_calls_end_where_the_flow_ends(finisher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain of DDIM brings a normal number to the same number of deviations from the mean of the data.

    y has deviation sqrt(s^2 + v), and ends at m + (y - m) s / sqrt(s^2 + v) if the steps are small. Here
    they are not, and it is within 0.02; noise that is added would be 0.1 and more.
    """
    run = minidiff.load(finisher)
    run.model = Gaussian(run.schedule)
    monkeypatch.setattr("minidiff.ddpm.drawing.at_any_size", lambda model, config: model)
    y = torch.linspace(-0.3, 0.7, 48).view(1, 3, 4, 4)
    x, timesteps = finish.finish(run, y, 0.3, calls=1000)
    t = timestep_for(run.schedule, 0.3)
    assert timesteps == list(range(t, -1, -1))
    v = run.schedule.levels([t])[0].sigma ** 2
    torch.testing.assert_close(x, 0.2 + (y - 0.2) * 0.4 / math.sqrt(0.16 + v), atol=0.02, rtol=0)


def test_noise_beyond_what_the_model_knows(finisher: Path) -> None:
    """The chain enters at the highest timestep that was trained."""
    assert finish.enter(minidiff.load(finisher), 100.0) == 39


def test_grey_stays_grey(finisher: Path) -> None:
    picture = torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    x, _ = finish.finish(minidiff.load(finisher), picture, 0.2)
    assert torch.equal(x[:, 0], x[:, 1]) and torch.equal(x[:, 0], x[:, 2])


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_picture_is_finished_at_its_own_size(finisher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is what the function gives for the measured noise; the run folder explains it; nothing is replaced."""
    write_image("clean.png", noisy(37, 50, 8))
    assert restore("photo.png", "--model", finisher, "--calls", "3", "--reference", "clean.png") == 0
    picture = to_float(read_image("photo.png")[None])
    sigma = noise_sigma(picture)
    assert 127.5 * sigma == pytest.approx(20, rel=0.15)
    x, timesteps = finish.finish(minidiff.load(finisher), picture, sigma, calls=3)
    answer = read_image("restored.png")
    assert answer.shape == (37, 50, 3)
    np.testing.assert_array_equal(answer, to_uint8(x)[0])
    (result,) = Path("runs/restore-photo-1/results").iterdir()
    stored = json.loads(result.read_text())
    assert stored["timesteps"] == timesteps and stored["start_t"] == timesteps[0]
    assert stored["quality"]["restored"]["psnr"] == pytest.approx(psnr(answer, read_image("clean.png")))
    assert read_image("runs/restore-photo-1/sheets/photo.png").shape[1] > 3 * 50
    said = capsys.readouterr().out
    assert f"noise {127.5 * sigma:.1f} of 255" in said and "3 calls" in said
    assert restore("photo.png", "--model", finisher, "--noise", "10") == 0
    assert Path("restored-2.png").exists()
    np.testing.assert_array_equal(read_image("restored.png"), answer)
    x, _ = finish.finish(minidiff.load(finisher), picture, 10 / 127.5)
    np.testing.assert_array_equal(read_image("restored-2.png"), to_uint8(x)[0])
    assert cli.run(["info", "runs/restore-photo-1"]) == 0 and "1 picture finished" in capsys.readouterr().out


def test_the_answer_has_what_the_picture_had(finisher: Path) -> None:
    """16 bits, alpha and profile; what the model makes of it keeps more than 256 values."""
    deep = (257 * noisy(37, 50, 3).astype(np.uint16)) ^ 5
    alpha = np.full((37, 50), 40_000, np.uint16)
    write_picture(
        "deep.png", Picture(deep, alpha, icc=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    )
    assert restore("deep.png", "--model", finisher) == 0
    before, after = read_picture("deep.png"), read_picture("restored.png")
    np.testing.assert_array_equal(after.alpha, alpha)
    assert after.bits == 16 and after.icc == before.icc and len(np.unique(after.pixels)) > 300
    x, _ = finish.finish(minidiff.load(finisher), before.as_float()[None], noise_sigma(before.as_float()[None]))
    np.testing.assert_array_equal(after.pixels, to_uint16(x)[0])
    grey = read_image("photo.png")[..., :1]
    write_picture("grey.png", Picture(grey))
    assert restore("grey.png", "--model", finisher, "--out", "grey-restored.png") == 0
    assert read_picture("grey-restored.png").pixels.shape == (37, 50, 1)


def test_a_strip_shows_the_way_where_there_is_one(finisher: Path) -> None:
    """x_t of every call, above the x0 predicted from it; a single call needs no strip."""
    assert restore("photo.png", "--model", finisher, "--calls", "3", "--run", "three") == 0
    assert restore("photo.png", "--model", finisher, "--run", "one") == 0
    assert not Path("one/strips").exists()
    picture, film = to_float(read_image("photo.png")[None]), Film(8)
    steps: list[Step] = []
    _, timesteps = finish.finish(minidiff.load(finisher), picture, noise_sigma(picture), 3, 0, steps.append, film)
    assert film.t == timesteps and len(film.x) == 3
    (level,) = minidiff.load(finisher).schedule.levels(timesteps[:1])
    np.testing.assert_array_equal(film.x[0], to_uint8(level.signal * picture))
    np.testing.assert_array_equal(film.x[2], to_uint8(steps[1].x))
    np.testing.assert_array_equal(film.x0[2], to_uint8(steps[2].x0))
    np.testing.assert_array_equal(read_image("three/strips/photo.png"), strip_of(film))
    task = ("--task", "inpaint", "--mask", "half.png", "--calls", "2")
    half = np.full((37, 50, 3), 255, np.uint8)
    half[:18] = 0
    write_image("half.png", half)
    assert restore("photo.png", "--model", finisher, *task, "--run", "task") == 0
    film = Film(8)
    request = FinishRequest(task="inpaint", mask="half.png", calls=2)
    finish.restored(minidiff.load(finisher), picture, request, film=film)
    np.testing.assert_array_equal(read_image("task/strips/photo.png"), strip_of(film))


@pytest.mark.parametrize("kind", ["grey", "deep"])
def test_a_reference_of_another_kind_is_measured_as_it_looks(kind: str, finisher: Path) -> None:
    """Grey stands for three equal channels, and 16 bits are rounded to 8, as the answer is."""
    clean = noisy(37, 50, 8)
    reference = Picture(clean[..., :1] if kind == "grey" else 257 * clean.astype(np.uint16))
    write_picture("clean.png", reference)
    assert restore("photo.png", "--model", finisher, "--reference", "clean.png", "--run", "run") == 0
    stored = json.loads(Path("run/results/photo.png.json").read_text())
    shown = clean[..., :1].repeat(3, axis=2) if kind == "grey" else clean
    assert stored["quality"]["restored"]["psnr"] == pytest.approx(psnr(read_image("restored.png"), shown))


def test_a_turned_picture_takes_a_mask_and_a_reference_as_one_sees_it(finisher: Path) -> None:
    """The file has 50x37 pixels and is shown upright, 37x50. Fails when sizes are compared as the file has them."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(read_image("photo.png")).save("turned.jpg", exif=exif)
    holes = np.full((50, 37, 3), 255, np.uint8)
    holes[10:20, 15:30] = 0
    write_image("tall.png", holes)
    asked = ("--task", "inpaint", "--mask", "tall.png", "--reference", "tall.png", "--calls", "1")
    assert restore("turned.jpg", "--model", finisher, *asked) == 0
    assert read_image("restored.png").shape == (50, 37, 3)


def test_pictures_of_one_name_do_not_replace_each_other(finisher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0.png and 0.jpg of a folder; the first file is no picture; what could not be kept of one is said and stored."""
    Path("holiday/.hidden.png").write_bytes(b"")
    Path("holiday/00-first.png").write_bytes(b"no picture")
    Image.fromarray(noisy(20, 30, 3)).save("holiday/0.jpg")
    Image.fromarray(noisy(20, 30, 4)).convert("CMYK").save("holiday/ink.jpg")
    assert restore("holiday", "--model", finisher, "--calls", "2", "--out", "clean", "--run", "run") == 0
    said = capsys.readouterr().err
    assert "00-first.png is not a readable image" in said and "ink.jpg is in CMYK" in said
    names = ["0.jpg.png", "0.png.png", "1.png", "2.png", "ink.png"]
    for folder in ("clean", "run/sheets"):
        assert sorted(path.name for path in Path(folder).iterdir()) == names
    assert Path("run/strips/0.png.png").exists() and not Path("run/strips/0.png").exists()
    assert read_image("clean/0.jpg.png").shape == (20, 30, 3) and read_image("clean/0.png.png").shape == (37, 50, 3)
    assert "ink.jpg is in CMYK" in json.loads(Path("run/results/ink.jpg.json").read_text())["notes"][0]


def test_a_picture_without_noise_is_said_to_have_none(finisher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless the noise was told. It is how a noisy JPEG seems to be, and nothing would say why it stays noisy."""
    clean = np.full((37, 50, 3), 100, np.uint8)
    clean[:, 20:] = 140
    write_image("smooth.png", clean)
    assert restore("smooth.png", "--model", finisher, "--out", "a.png") == 0
    said = capsys.readouterr().err
    assert "smooth.png: hardly any noise was found" in said and "give --noise" in said and said.count("\n") == 1
    assert restore("smooth.png", "--model", finisher, "--noise", "2", "--out", "b.png") == 0
    assert restore("photo.png", "--model", finisher, "--out", "c.png") == 0
    assert "hardly any" not in capsys.readouterr().err


WAYS = {"denoise": (), "inpaint": ("--calls", "2", "--task", "inpaint", "--mask", "mask.png")}
DAMAGED = {"denoise": "1.png is not a readable image", "inpaint": "mask.png is 50x37, and the picture 50x36"}


@pytest.mark.parametrize("task", WAYS)
def test_a_folder_goes_on_where_it_stopped(
    task: str, finisher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad picture does not stop the others. After an interruption the finished ones are not drawn again.

    The run goes on from any folder, with the mask that was named from another.
    """
    holes = np.full((37, 50, 3), 255, np.uint8)
    holes[10:20, 15:30] = 0
    write_image("mask.png", holes)
    if task == "denoise":
        Path("holiday/1.png").write_bytes(b"no picture")
    else:
        write_image("holiday/1.png", noisy(36, 50, 1))
    way = ("holiday", "--model", finisher, *WAYS[task])
    assert restore(*way, "--out", "whole", "--run", "first") == 0
    assert DAMAGED[task] in capsys.readouterr().err
    assert sorted(path.name for path in Path("whole").iterdir()) == ["0.png", "2.png"]

    with monkeypatch.context() as patch:
        stop_before_answer(2, patch)
        assert restore(*way, "--out", "clean", "--run", "run") == 130
    assert "minidiff restore --resume run" in capsys.readouterr().out
    done, there = Path("clean/0.png").stat().st_mtime_ns, Path.cwd()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert restore("--resume", there / "run") == 0
    monkeypatch.chdir(there)
    assert Path("clean/0.png").stat().st_mtime_ns == done
    for name in ("0.png", "2.png"):
        assert Path("clean", name).read_bytes() == Path("whole", name).read_bytes()
    Path("holiday/1.png").unlink()
    assert restore("--resume", "run") == 1 and "run is finished" in capsys.readouterr().err


def test_a_run_goes_on_with_the_weights_it_began_with(
    finisher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others in the same folder are refused before a picture is drawn. A run that did not note them goes on with any.

    Fails when the weights are not compared, and when a config.json of an earlier version is no longer read.
    """
    shutil.copytree(finisher, "model")
    with monkeypatch.context() as patch:
        stop_before_answer(2, patch)
        assert restore("holiday", "--model", "model", "--out", "clean", "--run", "run") == 130
    shutil.copytree("run", "older")
    config = json.loads(Path("older/config.json").read_text())
    assert config.pop("weights") == fingerprint(minidiff.load("model").model.state_dict())
    Path("older/config.json").write_text(json.dumps(config))
    shutil.copy("model/model.safetensors", "right")
    make_other("model")
    is_refused("--resume run", "model has other weights (", capsys)
    assert restore("--resume", "older") == 0 and len(list(Path("clean").iterdir())) == 3
    shutil.copy("right", "model/model.safetensors")
    Path("clean/1.png").unlink()
    assert restore("--resume", "run") == 0


def test_a_script_restores_as_the_command_does(finisher: Path) -> None:
    done = minidiff.restore("photo.png", finisher, calls=2, out="script.png", run="script")
    assert restore("photo.png", "--model", finisher, "--calls", "2", "--out", "command.png", "--run", "command") == 0
    assert Path("script.png").read_bytes() == Path("command.png").read_bytes()
    assert (
        done.answers == {"photo.png": Path("script.png").absolute()} and len(done.results["photo.png"].timesteps) == 2
    )
    with pytest.raises(UserError, match="`calls` is 0"):
        FinishRequest(calls=0)


BAD = {
    "nothing.png": "nothing.png: no such image file",
    "photo.png --out there": "--out there has no image suffix. Try there.png; the run folder is --run.",
    "photo.png --out photo.png": "--out photo.png is the picture itself. Give another name.",
    "photo.png --out holiday": "--out holiday is a folder, and there is one picture. Try holiday/restored.png.",
    "photo.png --noise often": "'often' is neither a number from 0 to 255 nor auto",
    "photo.png --mix 0.5": "--mix needs --with-dip",
    "photo.png --run holiday": "holiday is not empty. Use another --run.",
    "photo.png --run photo.png/run": "photo.png is a file, so photo.png/run cannot be a folder. Use another --run.",
    "photo.png --with-dip --run holiday": "holiday is not empty. Use another --run.",
    "holiday --out clean.png": "--out clean.png is one picture, and there are several",
    "holiday --reference photo.png": "--reference belongs to one picture",
    "photo.png --resume MODEL": "give a PICTURE to restore, or --resume RUN",
    "--resume MODEL": "is a ddpm run; this command needs a finish or restore run",
    "photo.png --model nowhere": "nowhere does not exist",
    "nothing.png --model nowhere": "nothing.png: no such image file",
    "photo.png --reference nothing.png --model nowhere": "nothing.png: no such image file",
    "photo.png --reference small.png": "--reference small.png is 49x37, and the answer will be 50x37",
    "photo.png --task upscale --reference photo.png": "is 50x37, and the answer will be 200x148",
    "photo.png --reference cut.png": "cut.png is not a readable image",
    "cut.png": "cut.png is not a readable image",
    "line.png": "line.png is 50x1, too small to measure its noise. Give --noise.",
    "clear.png --out clear.jpg": "a JPEG has no transparency. Try clear.png",
    "photo.png --out photo.gif": "Try photo.png",
    "holiday --out holiday --force": "--out holiday is the folder of the pictures themselves",
    "holiday --task deblur --kernel photo.png": "photo.png is 50x37, and has no middle pixel",
    "holiday --task inpaint --mask nothing.png": "nothing.png: no such image file",
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_wrong_is_one_line_before_anything_is_written(
    words: str, finisher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image("small.png", noisy(37, 49, 8))
    write_image("line.png", noisy(1, 50, 8))
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:2000])
    write_picture("clear.png", Picture(noisy(37, 50, 8), np.full((37, 50), 99, np.uint8)))
    line = words if "--model" in words or "--resume" in words else f"{words} --model {finisher}"
    is_refused(line.replace("MODEL", str(finisher)), BAD[words], capsys)
