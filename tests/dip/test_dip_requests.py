"""A fit from a script is the command's; its config.json is a record, and runs made before it was one still open."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fits import draw_nothing, smooth

import minidiff
from minidiff import FitConfig, UserError, cli
from minidiff.dip import recipe
from minidiff.dip.config import DipConfig, DipFolderConfig, FitRequest, FitResult
from minidiff.dip.fit_picture import Fitted, FittedFolder
from minidiff.dip.job import FitProgress
from minidiff.images.convert import to_float
from minidiff.images.files import write_image
from minidiff.records import from_json, to_json
from minidiff.runs.log import read_metrics

SMALL = FitRequest(channels=8, steps=9, window=3, patience=8, save_every=4)
fit_picture = partial(minidiff.fit_picture, **to_json(SMALL))
fit_folder = partial(minidiff.fit_folder, **to_json(SMALL))
WORDS = ["--channels", "8", "--steps", "9", "--window", "3", "--patience", "8", "--save-every", "4"]


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw_nothing(monkeypatch)
    write_image("photo.png", smooth())
    return Path("photo.png")


def old_config(**changed: Any) -> dict[str, Any]:
    """What version 0.1.0 wrote: settings of the network that were not given are not there."""
    job = recipe.begin("photo.png", FitRequest())
    return {
        "minidiff": "0.1.0",
        "kind": "dip",
        "image": str(Path("photo.png").absolute()),
        "size": None,
        "mask": None,
        "reference": None,
        "noise_sigma": 0.0,
        "net": {"name": "hourglass", "channels": 8, "scales": 2, "in_channels": 32, "out_channels": 3},
        "fit": {
            "steps": 9,
            "lr": 0.01,
            "task": "denoise",
            "factor": 4,
            "input_kind": "noise",
            "jitter": 0.03333333333333333,
            "average": 0.99,
            "seed": 0,
            "compile": False,
        },
        "early_stop": {"name": "window", "patience": 8, "window": 3, "downscale": 1},
        "save_every": 4,
        "digest": job.config.digest,
        "deliver": False,
    } | changed


# --- from a script ------------------------------------------------------------------------------------------------


def test_a_script_fits_as_the_command_does(photo: Path) -> None:
    """The same bytes in every file, and word after every step. The result is the record that result.json holds."""
    assert cli.run(["dip", "fit", "photo.png", *WORDS, "--noise-sigma", "25", "--out", "command"]) == 0
    heard: list[FitProgress] = []
    fitted = fit_picture(photo, noise_sigma=25.0, out="script", on_step=heard.append)
    assert isinstance(fitted, Fitted) and fitted.folder == Path("script") and fitted.answer == Path("script/dip.png")
    for name in ("dip.png", "metrics.jsonl", "result.json", "config.json", "steps/000008.png"):
        assert Path("script", name).read_bytes() == Path("command", name).read_bytes(), name
    assert [progress.step for progress in heard] == list(range(1, 10)) and {p.total for p in heard} == {9}
    saved = [progress for progress in heard if progress.record]
    assert [progress.step for progress in saved] == [4, 8, 9]
    assert [progress.record for progress in saved] == read_metrics(Path("script"))
    stored = json.loads(Path("script/result.json").read_text())
    assert from_json(FitResult, stored, "") == fitted.result and fitted.result.psnr == stored["psnr"]


def test_a_script_fits_a_folder_and_resumes_it(photo: Path) -> None:
    Path("photos").mkdir()
    write_image("photos/a.png", smooth())
    Path("photos/b.png").write_text("not a picture")
    done = fit_folder("photos", out="run")
    assert isinstance(done, FittedFolder) and list(done.results) == ["a.png"] and len(done.failures) == 1
    write_image("photos/b.png", smooth())
    resumed = minidiff.resume_fit("run")
    assert isinstance(resumed, FittedFolder) and list(resumed.results) == ["a.png", "b.png"] and not resumed.failures
    assert resumed.results["a.png"] == done.results["a.png"]
    alone = fit_picture(photo, out="alone")
    assert (resumed.answers / "b.png.png").read_bytes() == alone.answer.read_bytes()
    with pytest.raises(UserError, match=r"alone is finished"):
        minidiff.resume_fit("alone")


def test_errors_speak_of_arguments_and_the_command_of_flags(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="`kernel_size` belongs to cnn, not hourglass"):
        minidiff.fit_picture(photo, kernel_size=3)
    assert cli.run(["dip", "fit", "photo.png", "--kernel-size", "3"]) == 1
    assert "--kernel-size belongs to cnn, not hourglass" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask": "m.png"}, "`mask` belongs to `task` inpaint"),
        ({"task": "inpaint"}, "`task` inpaint needs `mask`"),
        ({"factor": 2}, "`factor` belongs"),
        ({"task": "super-resolve", "factor": 1}, "`factor`"),
        ({"early_stop": "off", "window": 5}, "early stopping, which is off"),
        ({"size": 7}, "`size`"),
        ({"noise_sigma": -1.0}, "`noise_sigma`"),
        ({"noise_sigma": float("nan")}, "`noise_sigma`"),
        ({"save_every": 0}, "`save_every`"),
        ({"steps": 0}, "`steps`"),
        ({"lr": float("nan")}, "`lr`"),
        ({"jitter": -0.1}, "`jitter`"),
        ({"average": 1.0}, "`average`"),
    ],
)
def test_a_request_is_checked_where_it_is_made(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        FitRequest(**wrong)


# --- stored and read back -----------------------------------------------------------------------------------------


def test_records_go_to_json_and_back(photo: Path) -> None:
    config = recipe.begin(photo, SMALL).config
    assert from_json(DipConfig, to_json(config), "") == config
    folder = DipFolderConfig("0.1.0", "dip", "/photos", SMALL)
    assert from_json(DipFolderConfig, to_json(folder), "") == folder


def test_a_run_of_an_older_version_goes_on_and_ends_as_a_new_one(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails when a key of config.json is renamed, or a key that older versions did not write is needed."""
    Path("old").mkdir()
    Path("old/config.json").write_text(json.dumps(without(old_config(), "deliver")))  # as for a picture of a folder
    assert cli.run(["info", "old"]) == 0
    said = capsys.readouterr().out
    assert "hourglass: channels 8, scales 2" in said and "early stop window, patience 8" in said
    assert cli.run(["dip", "fit", "--resume", "old"]) == 0
    fitted = fit_picture(photo, out="new")
    assert Path("old/dip.png").read_bytes() == fitted.answer.read_bytes()


def test_a_folder_run_of_an_older_version_goes_on(photo: Path) -> None:
    Path("photos").mkdir()
    write_image("photos/a.png", smooth())
    options = {"channels": 8, "steps": 9, "window": 3, "patience": 8, "save_every": 4, "task": "denoise"}
    options |= {"noise_sigma": 0.0, "net": "hourglass", "lr": 0.01, "jitter": 1 / 30, "average": 0.99}
    options |= {"early_stop": "window", "seed": 0, "compile": False}
    Path("old/dip").mkdir(parents=True)
    stored = {"minidiff": "0.1.0", "kind": "dip", "images": str(Path("photos").absolute()), "options": options}
    Path("old/config.json").write_text(json.dumps(stored))
    assert cli.run(["dip", "fit", "--resume", "old"]) == 0
    alone = fit_picture(photo, out="alone")
    assert Path("old/dip/a.png.png").read_bytes() == alone.answer.read_bytes()


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


BAD = {
    "a wrong type": (lambda c: c | {"fit": c["fit"] | {"lr": "fast"}}, "\"fit.lr\" is 'fast'"),
    "a missing key": (lambda c: without(c, "early_stop"), '"early_stop" is missing'),
    "an unknown key": (lambda c: c | {"net": c["net"] | {"depth": 3}}, '"net.depth" is not a key'),
    "a value out of range": (lambda c: c | {"fit": c["fit"] | {"steps": 0}}, "is 0. Take at least 1"),
    "channels of another picture": (lambda c: c | {"net": c["net"] | {"out_channels": 2}}, "makes 2 channels"),
    "no such network": (lambda c: c | {"net": c["net"] | {"name": "hourgless"}}, "Did you mean 'hourglass'?"),
    "a setting of another network": (
        lambda c: c | {"net": c["net"] | {"kernel_size": 3}},
        "--kernel-size belongs to cnn",
    ),
    "a window of another early stop": (
        lambda c: c | {"early_stop": {"name": "moving", "patience": 8, "window": 3, "downscale": 1}},
        "--window belongs to window",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_damaged_config_is_one_line(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, said = BAD[what]
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(change(old_config())))
    assert cli.run(["dip", "fit", "--resume", "run"]) == 1
    heard = capsys.readouterr().err
    assert said in heard and heard.count("\n") == 1
    if not {"network", "another"} & set(what.split()):  # info builds none
        assert cli.run(["info", "run"]) == 1
        heard = capsys.readouterr().err
        assert "run/config.json: " in heard and said in heard and heard.count("\n") == 1
    assert cli.run(["info"]) == 0  # the list of runs is none the worse for it


def test_the_low_level_fit_is_still_there() -> None:
    """`minidiff.fit` is the generator of steps; its config is a record with the same fields as before."""
    fields = ["steps", "lr", "task", "factor", "input_kind", "jitter", "average", "seed", "compile"]
    assert list(FitConfig.__dataclass_fields__) == fields  # type: ignore[attr-defined]
    steps = minidiff.fit(minidiff.DIP_NETS["conv2"](3), to_float(smooth()[None]), FitConfig(input_kind="image"))
    assert next(steps).step == 1
