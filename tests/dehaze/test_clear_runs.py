"""`minidiff dehaze` from file to file: what a result keeps, its run folder, how it goes on, and what is refused."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dehaze_fixtures import prepare
from kills import differences, fork, until_done
from PIL import Image

import minidiff
from minidiff import cli
from minidiff.errors import UserError

QUICK = ("--steps", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def here(dehazers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has three pictures, and two runs: `first` of stage 1, `second` of stage 2."""
    prepare(tmp_path, monkeypatch)
    for name in ("first", "second"):
        shutil.copytree(dehazers / name, name)


def dehaze(*words: str | Path) -> int:
    """Type the command. Returns its exit status."""
    return cli.run(["dehaze", *map(str, words)])


def names(folder: str | Path) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.name[0] != ".")


# --- one picture ----------------------------------------------------------------------------------------------------


def test_one_picture_makes_one_file_and_a_run_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing else appears beside the result, and nothing is replaced; what explains it lies under runs/."""
    before = names(".")
    assert dehaze("second", "photographs/0.png", "--out", "clear.png", *QUICK) == 0
    said = capsys.readouterr().out
    assert "of the light comes through, airlight" in said
    assert "written   " in said and "clear.png; look at runs/clear-0-1/sheets/0.png" in said
    assert names(".") == sorted([*before, "clear.png", "runs"])
    assert names("runs/clear-0-1") == ["config.json", "results", "sheets"]
    stored = json.loads(Path("runs/clear-0-1/results/0.png.json").read_text())
    assert 0 < stored["transmission"] < 1 and len(stored["airlight"]) == 3 and stored["quality"] is None
    assert dehaze("second", "photographs/0.png", "--out", "clear.png", *QUICK) == 1
    assert "clear.png exists. Give another --out, or --force" in capsys.readouterr().err
    done = minidiff.clear_haze("photographs/0.png", "second", steps=1, out="script.png", run="script")
    assert Path("script.png").read_bytes() == Path("clear.png").read_bytes()
    assert done.answers == {"0.png": Path("script.png").absolute()} and done.folder == Path("script")
    assert cli.run(["info", "script"]) == 0 and "1 picture finished" in capsys.readouterr().out


def test_the_default_is_a_name_that_is_free() -> None:
    for _ in range(2):
        assert dehaze("first", "photographs/0.png", "--steps", "0", "--device", "cpu") == 0
    assert Path("dehazed.png").read_bytes() == Path("dehazed-2.png").read_bytes()
    assert names("runs") == ["clear-0-1", "clear-0-2"]


def test_a_picture_keeps_what_it_has() -> None:
    """Size, 16 bits of grey, transparency, EXIF data, and how it is turned; the stages lie in the run folder."""
    pixels = np.linspace(0, 255, 30 * 41 * 4).astype(np.uint8).reshape(30, 41, 4)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6
    Image.fromarray(pixels).save("hazy.png", exif=exif)
    assert dehaze("second", "hazy.png", "--dump-stages", "--run", "run", "--out", "out.png", *QUICK) == 0
    with Image.open("out.png") as result:
        assert result.size == (30, 41) and result.mode == "RGBA" and result.getexif()[0x010F] == "a camera"
        assert result.getexif().get(0x0112, 1) == 1
        assert np.array_equal(np.asarray(result)[..., 3], np.rot90(pixels[..., 3], -1))
    assert names("run/stages") == ["hazy-A.png", "hazy-J.png", "hazy-T.png"]
    with Image.open("run/stages/hazy-T.png") as transmission:
        assert transmission.size == (30, 41)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save("grey.png")
    assert dehaze("second", "grey.png", "--out", "grey-out.png", *QUICK) == 0
    with Image.open("grey-out.png") as result:
        assert result.mode.startswith("I")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 2)])
def test_a_picture_of_a_few_pixels(size: tuple[int, int]) -> None:
    Image.new("RGB", size, (150, 160, 170)).save("small.png")
    assert dehaze("second", "small.png", "--out", "out.png", "--reference", "small.png", *QUICK) == 0
    with Image.open("out.png") as result:
        assert result.size == size


def test_the_strength_and_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    """At strength 0 the result is the picture itself, to the byte, so it equals it as a reference."""
    picture = "photographs/0.png"
    done = minidiff.clear_haze(picture, "second", strength=0, steps=0, reference=picture, out="same.png")
    assert np.array_equal(np.asarray(Image.open("same.png")), np.asarray(Image.open(picture)))
    quality = done.results["0.png"].quality
    assert quality is not None and quality["result"].psnr is None and quality["result"].ssim == pytest.approx(1)
    assert quality["J"].psnr is not None
    assert dehaze("second", picture, "--reference", picture, "--out", "other.png", *QUICK) == 0
    assert "hazy equals the reference, SSIM 1.000; J " in capsys.readouterr().out


# --- many, and going on ---------------------------------------------------------------------------------------------


def test_pictures_of_one_name_and_a_bad_one(capsys: pytest.CaptureFixture[str]) -> None:
    """a.jpg beside a.png; the first picture of the folder is none; one that is named twice is dehazed once."""
    Path("photographs/.hidden.png").write_bytes(b"")
    Path("photographs/00.png").write_bytes(b"no picture")
    Image.new("RGB", (20, 30)).save("photographs/0.jpg")
    Image.new("RGB", (20, 30)).save("more.png")
    assert dehaze("first", "photographs", "more.png", "photographs/1.png", "--out", "clear", *QUICK) == 0
    said = capsys.readouterr()
    assert "00.png is not a readable image" in said.err and said.out.count("1.png: ") == 1
    assert names("clear") == names("runs/clear-photographs-1/sheets")
    assert names("clear") == ["0.jpg.png", "0.png.png", "1.png", "2.png", "more.png"]
    for name, said_of in (("0.png", "would both become clear/0.png.png"), ("other.jpg", "")):
        Path("b").mkdir(exist_ok=True)
        Image.new("RGB", (20, 30)).save(f"b/{name}")
        code = dehaze("first", "photographs/0.png", f"b/{name}", "--out", "both" if not said_of else "clear", "--force",
                      *QUICK)  # fmt: skip
        assert code == bool(said_of) and said_of in capsys.readouterr().err


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when this result, counted from 1, is there but not yet written."""
    write, count = minidiff.dehaze.pictures.write_picture, iter(range(1, 99))

    def stopping(*given: Any) -> None:
        if next(count) == number:
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr("minidiff.dehaze.pictures.write_picture", stopping)


def test_a_folder_goes_on_by_the_settings_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From any folder; other settings and other weights are refused in a line; what is done is not done again."""
    settings = ("--strength", "0.5", "--start-t", "200", "--seed", "3", *QUICK)
    assert dehaze("second", "photographs", *settings, "--out", "whole", "--run", "first-run") == 0
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert dehaze("second", "photographs", *settings, "--out", "clear", "--run", "my run") == 130
    assert "minidiff dehaze --resume 'my run'" in capsys.readouterr().out
    assert names("clear") == ["0.png"]
    before = Path("clear/0.png").stat().st_mtime_ns
    for option in (("--strength", "1"), ("--steps", "5"), ("--start-t", "300"), ("--seed", "0"), ("--out", "clear")):
        assert dehaze("--resume", "my run", *option) == 2
        assert f"{option[0]} is part of the run and cannot change on --resume" in capsys.readouterr().err
    shutil.move("second/model.safetensors", "right")
    shutil.copy("first/model.safetensors", "second/model.safetensors")
    assert dehaze("--resume", "my run") == 1  # it does not fit at all
    assert capsys.readouterr().err.count("\n") == 1
    make_other("right", "second/model.safetensors")
    assert dehaze("--resume", "my run") == 1
    said = capsys.readouterr().err
    assert "second has other weights (" in said and "without --resume" in said and said.count("\n") == 1
    shutil.move("right", "second/model.safetensors")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert dehaze("--resume", tmp_path / "my run", "--device", "cpu") == 0
    monkeypatch.chdir(tmp_path)
    assert Path("clear/0.png").stat().st_mtime_ns == before
    for name in ("0.png", "1.png", "2.png"):
        assert Path("clear", name).read_bytes() == Path("whole", name).read_bytes()
    assert dehaze("--resume", "my run") == 1 and "my run is finished: see " in capsys.readouterr().err


def make_other(source: str, target: str) -> None:
    """Write weights with one value of stage 2 changed."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(source)
    name = next(name for name in sorted(tensors) if name.startswith("second."))
    save_file(tensors | {name: tensors[name] + 0.5}, target)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_after_kill_9_the_files_are_those_of_a_work_that_was_left_alone() -> None:
    """A process is killed at its first write, another at its second, and so on to the last. Each is resumed.

    Fails when a result is taken for done by its picture alone, whose sheet and figures were not yet written.
    """
    (Path("photographs") / "2.png").unlink()

    def type_in(*words: str) -> Callable[[], int]:
        return lambda: dehaze(*words)

    Path("there").mkdir()
    start = type_in("second", "photographs", "--out", "there/clear", "--run", "there/run", *QUICK)
    assert start() == 0
    shutil.move("there", "whole")
    killed = 0
    for write in range(1, 99):
        Path("there").mkdir()
        hit = killed_at(write, start)
        if not hit:
            break
        killed += 1
        begun = Path("there/run/config.json").exists()
        assert until_done(type_in("--resume", "there/run") if begun else start, start, 0, 0, 0) == 0
        assert differences(Path("whole"), Path("there")) == [], write
        assert not list(Path("there").rglob(".*tmp*"))
        shutil.rmtree("there")
    assert killed == 7  # config.json, and of each picture its result, its sheet, and what was found


def killed_at(write: int, work: Callable[[], int]) -> bool:
    """Start the work in a process of its own that kills itself at this write. Returns whether it came so far."""
    _, status = os.waitpid(fork(work, write), 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


# --- the model, and the pictures ------------------------------------------------------------------------------------


@pytest.fixture()
def with_a_model(dehazers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a model called dehaze came with the package."""
    monkeypatch.setattr("minidiff.runs.shipped.MODELS", Path("models").absolute())
    monkeypatch.setattr("minidiff.dehaze.pictures.MODELS", Path("models").absolute())
    shutil.copytree(dehazers / "second", "models/dehaze")


def test_the_model_of_the_package_needs_no_name(with_a_model: None, tmp_path: Path) -> None:
    """Or its name, which is not taken for a picture, even if a folder is called that; alone it is this folder."""
    shutil.move("photographs", "dehaze")
    for number, words in enumerate((("dehaze/0.png",), ("dehaze", "dehaze/0.png"), ("second", "dehaze/0.png"))):
        assert dehaze(*words, "--out", f"{number}.png", "--run", f"run{number}", *QUICK) == 0
        assert Path(f"{number}.png").read_bytes() == Path("0.png").read_bytes()
    models = [json.loads(Path(f"run{number}/config.json").read_text())["model"] for number in range(3)]
    assert models == ["dehaze", "dehaze", str(tmp_path / "second")]
    assert dehaze("dehaze", "--out", "all", *QUICK) == 0 and names("all") == ["0.png", "1.png", "2.png"]
    assert dehaze("./dehaze", "0.png", "--out", "both", *QUICK) == 1  # two are called 0.png
    assert dehaze("./dehaze", "dehaze/0.png", "--out", "both", *QUICK) == 0 and names("both") == names("all")


NO_MODEL = "no model comes with this version. Name a dehaze run first: `minidiff train dehaze` makes one."
BAD = {  # what is typed, and what is said
    "photographs/0.png": NO_MODEL,
    "photographs": NO_MODEL,
    "dehaze photographs/0.png": NO_MODEL,
    "second": "second is a run, and no picture is named after it.",
    "empty photographs/0.png": "empty holds no images (",
    "empty": "and it is no run, as it has no config.json.",
    "nowhere photographs/0.png": "nowhere does not exist, so it is neither a run nor a picture.",
    "first second photographs/0.png": "second is a dehaze run. Name one, and the pictures after it.",
    "photographs/0.png second": "second is a dehaze run. Name one, and the pictures after it.",
    "other photographs/0.png": "other is a ddpm run; this command needs a dehaze run.",
    "bare photographs/0.png": "model.safetensors is missing.",
    "exchanged photographs/0.png": "holds another stage 1 (",
    "second nothing.png": "nothing.png: no such image file.",
    "second photographs/0.png nothing.png": "nothing.png: no such image file.",
    "second text.jpg": "text.jpg is not a readable image",
    "second empty": "empty holds no images (",
    "second cut.png": "cut.png is not a readable image",
    "second photographs/0.png --out photographs/0.png": "--out photographs/0.png is the picture itself.",
    "second photographs/0.png --out photographs": "--out photographs is a folder, and there is one picture. Try ",
    "second photographs/0.png --out clear": "--out clear has no image suffix. Try clear.png; the run folder is --run.",
    "second photographs/0.png --out text.jpg/clear.png": "text.jpg is a file",
    "second photographs/0.png --out x.gif": "Try x.png",
    "second photographs/0.png --out /proc/x.png": "cannot write /proc",
    "photos photographs/0.png": "is a ddpm run; this command needs a dehaze run.",
    "second photographs/0.png --run photographs": "photographs is not empty.",
    "second photographs/0.png --reference nothing.png": "nothing.png: no such image file.",
    "second photographs/0.png --reference small.png": "--reference small.png is 3x2, and the picture 72x64.",
    "second photographs --reference small.png": "--reference belongs to one picture.",
    "second photographs --out clear.png": "--out clear.png is one picture, and there are several.",
    "second photographs --out photographs --force": "--out photographs is the folder of the pictures themselves.",
    "second photographs/0.png --strength 1.5": "--strength",
    "--resume second": "second is a dehaze run; this command needs a clear run.",
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_wrong_is_one_line_before_anything_is_written(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "/proc" in words and not Path("/proc").is_dir():
        pytest.skip("there is no folder that root cannot write into")
    monkeypatch.setattr("minidiff.runs.shipped.MODELS", Path("models").absolute())
    for folder in ("empty", "other", "bare", "models/photos"):
        Path(folder).mkdir(parents=True)
    Path("models/photos/config.json").write_text(json.dumps({"kind": "ddpm"}))
    Path("other/config.json").write_text(json.dumps({"kind": "ddpm"}))
    shutil.copy("second/config.json", "bare/config.json")
    if "exchanged" in words:
        exchange()
    Path("text.jpg").write_text("no picture")
    Path("cut.png").write_bytes(Path("photographs/0.png").read_bytes()[:500])
    Image.new("RGB", (3, 2)).save("small.png")
    before = sorted(map(str, Path().rglob("*")))
    assert dehaze(*words.split()) in (1, 2)
    said = capsys.readouterr().err
    assert BAD[words] in said and said.startswith("Error: ") and said.count("\n") == 1, said
    assert sorted(map(str, Path().rglob("*"))) == before


def exchange() -> None:
    """Make a run of stage 2 that holds another stage 1 than it was trained behind."""
    from safetensors.torch import load_file, save_file

    shutil.copytree("second", "exchanged")
    tensors = load_file("second/model.safetensors")
    name = next(name for name in sorted(tensors) if name.startswith("first."))
    save_file(tensors | {name: tensors[name] + 0.5}, "exchanged/model.safetensors")


def test_a_folder_of_pictures_with_the_config_of_another_program(with_a_model: None) -> None:
    """It is no run; a folder that is both a run and has pictures is the model, and after a model it is its pictures."""
    Path("photographs/config.json").write_text('{"theme": "dark"}')
    assert dehaze("photographs", "--out", "a", *QUICK) == 0 and len(names("a")) == 3
    shutil.copy("photographs/0.png", "second/0.png")
    assert dehaze("second", "photographs/0.png", "--out", "b.png", *QUICK) == 0
    (Path("photographs") / "config.json").write_text('{"kind": "clear"}')
    assert dehaze("second", "photographs", "--out", "c", *QUICK) == 0 and len(names("c")) == 3


def test_a_script_is_refused_as_the_command_is() -> None:
    for source, fields, said in (([], {}, "there is no picture"), ("photographs/0.png", {"strength": 1.5}, "1.5")):
        with pytest.raises(UserError, match=said):
            minidiff.clear_haze(source, **{"model": "second"} | fields)
