"""`minidiff restore --with-dip`: the parts it is made of, replayed; interrupted, refused."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fits import draw_nothing, interrupt_at, smooth
from PIL import ImageCms
from restorations import is_refused, make_other

import minidiff
from minidiff import UserError, cli
from minidiff.ddpm.moments import Film
from minidiff.ddpm.run import load_ddpm as load
from minidiff.diffusion.noise_level import noise_sigma, timestep_for
from minidiff.images.convert import to_float, to_uint8, to_uint16
from minidiff.images.files import read_image, read_images, write_image
from minidiff.images.pictures import Picture, read_picture, write_picture
from minidiff.images.quality import psnr, ssim
from minidiff.records import from_json
from minidiff.restoration import with_dip as restoration
from minidiff.restoration.config import RestoreResult
from minidiff.restoration.sheets import MOMENTS, strip_of
from minidiff.restoration.tasks import enter

FIT = ["--channels", "8", "--steps", "12", "--save-every", "5", "--window", "4"]


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw_nothing(monkeypatch)  # within the fit; comparison.png is still drawn
    write_image("photo.png", smooth())
    return Path("photo.png")


def restore(*words: str | Path) -> int:
    """Type the command. An option of --resume needs no --with-dip, as the run knows."""
    line = list(map(str, words))
    return cli.run(["restore", *line, *(["--with-dip"] if line and "--resume" not in line else [])])


def test_it_is_some_of_the_fit_most_of_the_picture_and_the_chain_from_its_noise(
    photo: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore(photo, "--model", trained, "--noise-sigma", "40", *FIT) == 0
    said, run, model = capsys.readouterr().out, Path("runs/restore-photo-1"), load(trained)
    fitted = read_image(run / "dip/dip.png")
    picture = read_image(run / "dip/target.png")
    sigma = noise_sigma(to_float(picture[None]))
    t = timestep_for(model.schedule, sigma)
    assert t > 0, "nothing would be tested"
    init = 0.75 * to_float(picture[None]) + 0.25 * to_float(fitted[None])
    (images,) = model.sample(1, init=init, start_t=t, init_mode="scale")
    restored = to_uint8(images)[0]
    np.testing.assert_array_equal(read_image(run / "restored.png"), restored)
    assert Path("restored.png").read_bytes() == (run / "restored.png").read_bytes()

    clean = read_images(photo, 16)[0]
    result = json.loads((run / "result.json").read_text())
    assert result["start_t"] == t == result["timesteps"][0] and abs(result["noise"] - 127.5 * sigma) < 1e-9
    expected = {"picture": picture, "deep image prior": fitted, "restored": restored}
    assert result["quality"] == {
        name: {"psnr": psnr(pixels, clean), "ssim": ssim(pixels, clean)} for name, pixels in expected.items()
    }
    assert f"chain from t = {t}" in said and f"PSNR {psnr(restored, clean):.2f} dB" in said
    assert (run / "comparison.png").exists()
    assert cli.run(["info", str(run)]) == 0 and "done" in capsys.readouterr().out


def test_a_timestep_and_a_mode_can_be_given(photo: Path, trained: Path) -> None:
    words = ["--start-t", "9", "--init-mode", "noise", "--mix", "0", "--sampler", "ddpm", "--seed", "3"]
    assert restore(photo, "--model", trained, "--run", "here", *words, *FIT) == 0
    model = load(trained)
    init = to_float(read_images("here/dip/dip.png", 16))
    (images,) = model.sample(1, init=init, start_t=9, init_mode="noise", sampler="ddpm", seed=3)
    np.testing.assert_array_equal(read_image("here/restored.png"), to_uint8(images)[0])
    assert Path("restored.png").read_bytes() == Path("here/restored.png").read_bytes()
    assert not Path("runs").exists()
    assert "quality" not in json.loads(Path("here/result.json").read_text())


def test_a_restoration_goes_on_where_it_stopped(
    photo: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped in the fit, then killed between the fit and the chain."""
    words: list[str | Path] = [photo, "--model", trained, "--reference", photo, *FIT]
    assert restore(*words, "--run", "whole") == 0
    with monkeypatch.context() as patch:
        interrupt_at(10, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert restore(*words) == 143
    assert "Resume with: minidiff restore --resume runs/restore-photo-1" in capsys.readouterr().out
    assert restore("--resume", "runs/restore-photo-1") == 0
    for name in ("restored.png", "result.json", "dip/dip.png", "dip/metrics.jsonl"):
        assert Path("runs/restore-photo-1", name).read_bytes() == Path("whole", name).read_bytes(), name
    Path("runs/restore-photo-1/restored.png").unlink()
    fitted = Path("runs/restore-photo-1/dip/dip.png").stat().st_mtime_ns
    capsys.readouterr()
    assert restore("--resume", "whole") == 1 and "whole is finished: its answer is" in capsys.readouterr().err
    assert restore("--resume", "runs/restore-photo-1") == 0
    assert Path("runs/restore-photo-1/restored.png").read_bytes() == Path("whole/restored.png").read_bytes()
    assert Path("runs/restore-photo-1/dip/dip.png").stat().st_mtime_ns == fitted


def test_a_restoration_whose_fit_is_given_more_steps(
    photo: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every file is as if they had been asked for at first; killed between fit and chain, it goes on there."""
    words: list[str | Path] = [photo, "--model", trained, "--noise-sigma", "40", "--channels", "8", "--window", "4"]
    assert restore(*words, "--steps", "12", "--run", "whole") == 0
    assert restore(*words, "--steps", "7", "--run", "cut") == 0
    assert "still improving" in capsys.readouterr().err
    assert restore("--resume", "cut") == 1 and restore("--resume", "cut", "--steps", "6") == 1
    assert "cut is finished" in capsys.readouterr().err
    job = restoration.reopen("cut", steps=12)
    job.start()
    job.run_fit()
    assert restore("--resume", "cut") == 0
    for name in ("restored.png", "result.json", "config.json", "dip/dip.png", "dip/config.json", "dip/metrics.jsonl"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes(), name


def test_what_is_lost_and_what_changes_little_is_said_beforehand(
    photo: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A larger picture is shrunk; a clean one has no noise to remove. With noise, or a start of one's own, neither."""
    write_image("large.png", smooth(64, 80))
    assert restore("large.png", "--model", trained, *FIT) == 0
    said = capsys.readouterr()
    assert "large.png has 80x64 pixels, and the model draws 16x16" in said.err and "hardly any noise" in said.err
    assert "16x16, colour, cut and shrunk from 80x64" in said.out
    write_image("exact.png", read_images(photo, 16)[0])
    for more in (["--noise-sigma", "40"], ["--start-t", "9"]):
        assert restore("exact.png", "--model", trained, *more, *FIT) == 0
        said = capsys.readouterr()
        assert "hardly any noise" not in said.err and "shrunk" not in said.err + said.out
    assert "restored.png was there before and is kept" in said.err


def test_a_script_restores_as_the_command_does(photo: Path, trained: Path) -> None:
    """The same files, a result that is the record in result.json, and word after every step of the fit."""
    assert restore(photo, "--model", trained, "--noise-sigma", "40", "--mix", "0.5", "--run", "command", *FIT) == 0
    heard: list[int] = []
    done = minidiff.restore_with_dip(
        photo, trained, mix=0.5, noise_sigma=40.0, channels=8, steps=12, save_every=5, window=4,
        out="script", on_step=lambda now: heard.append(now.step),
    )  # fmt: skip
    for name in ("restored.png", "result.json", "dip/config.json", "dip/dip.png"):
        assert Path("script", name).read_bytes() == Path("command", name).read_bytes(), name
    theirs, ours = (json.loads(Path(run, "config.json").read_text()) for run in ("command", "script"))
    delivered = {"deliver": True, "out": str(Path("restored.png").absolute())}
    assert theirs == ours | delivered and not ours["deliver"]  # a script takes the answer from the run folder
    assert done.answer == Path("script/restored.png") and heard == list(range(1, 13))
    assert from_json(RestoreResult, json.loads(Path("script/result.json").read_text()), "") == done.result
    with pytest.raises(UserError, match="script is finished"):
        minidiff.resume_restore("script")
    with pytest.raises(UserError, match="`mix` is 2"):
        minidiff.restore_with_dip(photo, trained, mix=2)
    with pytest.raises(UserError, match="`task` is denoise"):
        minidiff.restore_with_dip(photo, trained, task="super-resolve")
    with pytest.raises(TypeError, match="unexpected keyword argument 'mixed'"):
        minidiff.restore_with_dip(photo, trained, mixed=2)  # type: ignore[call-arg]


def test_a_run_of_an_older_version_goes_on_and_a_damaged_one_is_one_line(
    photo: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What version 0.1.0 wrote, of a restoration that was killed before its first step."""
    fit: dict[str, Any] = {
        "channels": 8,
        "steps": 12,
        "save_every": 5,
        "window": 4,
        "net": "hourglass",
        "lr": 0.01,
        "jitter": 1 / 30,
    }
    fit |= {"average": 0.99, "early_stop": "window", "seed": 0, "compile": False, "noise_sigma": 40.0, "size": 16}
    chain: dict[str, Any] = {
        "start_t": "auto",
        "init_mode": "scale",
        "sampler": "ddpm",
        "seed": 0,
        "variance": "fixed_small",
    }
    old: dict[str, Any] = {
        "minidiff": "0.1.0",
        "kind": "restore",
        "image": str(photo.absolute()),
        "model": str(trained),
    }
    old |= {"reference": None, "noise_sigma": 40.0, "fit": fit, "mix": 0.75, "chain": chain, "deliver": False}
    Path("old").mkdir()
    Path("old/config.json").write_text(json.dumps(old))
    assert restore("--resume", "old") == 0
    assert restore(photo, "--model", trained, "--noise-sigma", "40", "--sampler", "ddpm", "--run", "new", *FIT) == 0
    assert Path("old/restored.png").read_bytes() == Path("new/restored.png").read_bytes()
    capsys.readouterr()
    for wrong, said in (({"mix": "half"}, '"mix" is'), ({"chain": chain | {"start_t": "soon"}}, '"chain.start_t')):
        Path("old/config.json").write_text(json.dumps(old | wrong))
        for words in (["restore", "--resume", "old"], ["info", "old"]):
            assert cli.run(words) == 1
            heard = capsys.readouterr().err
            assert said in heard and "old/config.json" in heard and heard.count("\n") == 1


def test_a_model_of_any_size_takes_the_whole_picture(
    photo: Path, finisher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At its own size, whose sides no halving divides, replayed. Fails if the picture is cut, or enters elsewhere."""
    assert restore(photo, "--model", finisher, "--noise-sigma", "40", *FIT) == 0
    said, run, model = capsys.readouterr(), Path("runs/restore-photo-1"), load(finisher)
    clean, picture, fitted = (read_image(name) for name in (photo, run / "dip/target.png", run / "dip/dip.png"))
    assert picture.shape == clean.shape == (24, 20, 3) and "any size" in said.out and "shrunk" not in said.out
    x = to_float(picture[None])
    t = enter(model, noise_sigma(x))
    (images,) = model.sample(1, init=0.75 * x + 0.25 * to_float(fitted[None]), start_t=t, init_mode="scale")
    answer = read_image("restored.png")
    np.testing.assert_array_equal(answer, to_uint8(images)[0])
    result = json.loads((run / "result.json").read_text())
    assert result["start_t"] == t and result["quality"]["restored"]["psnr"] == psnr(answer, clean)


def test_the_answer_has_what_the_picture_had(finisher: Path) -> None:
    """16 bits, profile and transparency, under which no white comes into the chain; grey stays grey, with noise added.

    Fails if the chain starts from the 8 bits that were fitted, or mixes the fit in where the picture is transparent.
    """
    deep = 257 * smooth().astype(np.uint16) ^ 5
    alpha = np.full(deep.shape[:2], 65535, np.uint16)
    alpha[:, :8] = 30_000
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_picture("deep.png", Picture(deep, alpha, icc=profile))
    words = ["--model", finisher, "--start-t", "9", *FIT]
    assert restore("deep.png", *words) == 0
    after, x = read_picture("restored.png"), to_float(deep[None])
    assert after.bits == 16 and after.icc == profile
    np.testing.assert_array_equal(after.alpha, alpha)
    init = 0.75 * x + 0.25 * to_float(read_image("runs/restore-deep-1/dip/dip.png")[None])
    init[..., :8] = x[..., :8]
    (images,) = load(finisher).sample(1, init=init, start_t=9, init_mode="scale")
    np.testing.assert_array_equal(after.pixels, to_uint16(images)[0])
    write_picture("grey.png", Picture(smooth()[..., :1]))
    assert restore("grey.png", *words, "--noise-sigma", "20", "--out", "grey-restored.png") == 0
    assert read_picture("grey-restored.png").pixels.shape == (24, 20, 1)


def test_a_strip_shows_the_way_where_there_is_one(photo: Path, finisher: Path) -> None:
    """x_t of every call above the x0 predicted from it, replayed; a chain of one call leaves no strip."""
    assert restore(photo, "--model", finisher, "--start-t", "9", "--run", "ten", *FIT) == 0
    assert restore(photo, "--model", finisher, "--start-t", "0", "--run", "one", *FIT) == 0
    assert not Path("one/strip.png").exists()
    x, model = to_float(read_image("ten/dip/target.png")[None]), load(finisher)
    init = 0.75 * x + 0.25 * to_float(read_image("ten/dip/dip.png")[None])
    moments = model.moments([0], MOMENTS, init=init, start_t=9, init_mode="scale")
    film = Film(MOMENTS)
    film.t, film.x, film.x0 = moments.t[0], list(moments.x[0][:, None]), list(moments.x0[0][:, None])
    assert film.t[0] == 9 and len(film.x) == MOMENTS
    np.testing.assert_array_equal(read_image("ten/strip.png"), strip_of(film))


def test_a_picture_cut_to_a_size_goes_on_at_that_size(photo: Path, finisher: Path) -> None:
    """So do runs of the versions that cut every picture: `size` stands in their config, too. Then a chain once more."""
    assert restore(photo, "--model", finisher, "--size", "16", "--start-t", "9", "--run", "cut", *FIT) == 0
    answer = Path("cut/restored.png").read_bytes()
    assert read_image("cut/restored.png").shape == (16, 16, 3) and Path("restored.png").read_bytes() == answer
    Path("cut/restored.png").unlink()
    assert restore("--resume", "cut") == 0 and Path("cut/restored.png").read_bytes() == answer


def test_what_the_fit_did_not_see_is_noticed(photo: Path, finisher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Between fit and chain the picture's file becomes another: its size is refused, its pixels do not count."""
    assert restore(photo, "--model", finisher, "--start-t", "9", "--run", "run", *FIT) == 0
    Path("run/restored.png").rename("before.png")
    write_image(photo, smooth(20, 24))
    assert restore("--resume", "run") == 1
    assert "photo.png is not what run began with" in capsys.readouterr().err
    write_image(photo, 255 - smooth())
    assert restore("--resume", "run") == 0
    assert Path("run/restored.png").read_bytes() == Path("before.png").read_bytes()


def test_a_chain_is_run_by_the_model_that_it_was_planned_with(
    photo: Path, finisher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between fit and chain the model gets other weights. Fails when they are not compared."""
    shutil.copytree(finisher, "model")
    assert restore(photo, "--model", "model", "--start-t", "9", "--run", "run", *FIT) == 0
    Path("run/restored.png").unlink()
    make_other("model")
    capsys.readouterr()
    assert restore("--resume", "run") == 1
    said = capsys.readouterr().err
    assert "model has other weights (" in said and "without --resume" in said and said.count("\n") == 1
    assert not Path("run/restored.png").exists()


BAD = {
    "nothing.png --model MODEL": "nothing.png: no such image file",
    "photo.png --model nowhere": "nowhere does not exist",
    "photo.png --model MODEL --out photo.png/a.png": "photo.png is a file, so",
    "photo.png --model MODEL --start-t 50": "50",
    "photo.png --model MODEL --start-t often": "'often' is neither a whole number from 0 on nor auto",
    "photo.png --model MODEL --net resnet18": "a side of 16 pixels is less than the 32",
    "photo.png --model MODEL --mix 2": "--mix",
    "photo.png --model MODEL --size 8": "draws 16x16 alone. Leave out --size",
    "photo.png --model FINISHER --start-t 45": "timesteps below 40",
    "photo.png --model FINISHER --out a.bmp": "a picture is written as",
    "photo.png --model FINISHER --net resnet18": "a side of 20 pixels is less than the 32",
    ". --model MODEL": ". is a folder. Give one picture",
    "photo.png --resume MODEL": "give a PICTURE to restore, or --resume RUN",
    "--resume MODEL": "is a ddpm run; this command needs a finish or restore run",
    "--resume MODEL --lr 1": "this command needs a finish or restore run",
    "photo.png --model MODEL --calls 3": "--calls does not go with --with-dip",
    "": "give a PICTURE to restore",
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_wrong_is_one_line_before_anything_is_written(
    words: str, trained: Path, finisher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words_of_dip = f"{words} --with-dip" if words and "--resume" not in words else words
    is_refused(words_of_dip.replace("MODEL", str(trained)).replace("FINISHER", str(finisher)), BAD[words], capsys)
