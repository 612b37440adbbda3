"""`minidiff fid` as it is typed: what it says, agreement with pytorch-fid and torch-fidelity end to end, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import peers
import pytest
import pytorch_fid.fid_score
import pytorch_fid.inception
import torch

from minidiff import cli
from minidiff.images import write_image


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peers.weights_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of 40 pictures, 40x30, of different contrast."""
    places = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    for seed, folder in enumerate(places):
        for number, image in enumerate(peers.pictures(40, 40, 30, seed)):
            write_image(folder / f"{number:03d}.png", image if seed == 0 else 60 + image // 2)
    return places


def run(*args: object) -> int:
    return cli.run(["fid", *map(str, args), "--device", "cpu"])


def result(capsys: pytest.CaptureFixture[str], *args: object) -> dict:
    """What --json prints."""
    capsys.readouterr()
    assert run(*args, "--json") == 0
    return json.loads(capsys.readouterr().out)


def error(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The one line of a command that fails."""
    assert run(*args) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    return lines[0]


# --- agreement with the peers -------------------------------------------------------------------------------------


def pytorch_fid_of(a: Path, b: Path, weights: Path, dims: int) -> float:
    """What `python -m pytorch_fid` computes of two folders or statistics files."""
    given = torch.load(weights, weights_only=True)
    with mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: given):
        paths = [str(a), str(b)]
        return float(pytorch_fid.fid_score.calculate_fid_given_paths(paths, 16, "cpu", dims, num_workers=0))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fid_is_that_of_pytorch_fid(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the folders, and from statistics written by either and read by the other."""
    a, b = folders
    expected = pytorch_fid_of(a, b, weights, 64)
    options = ("--weights", weights, "--dims", 64)
    found = result(capsys, a, b, *options, "--save-stats", tmp_path / "ours.npz")
    name = "FID (64 features, unpublished weights)"
    assert found["metrics"][name] == pytest.approx(expected, rel=1e-3)
    assert pytorch_fid_of(tmp_path / "ours.npz", b, weights, 64) == pytest.approx(expected, rel=1e-3)
    given = torch.load(weights, weights_only=True)
    with mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: given):
        paths = [str(b), str(tmp_path / "theirs.npz")]
        pytorch_fid.fid_score.save_fid_stats(paths, 16, "cpu", 64, num_workers=0)
    again = result(capsys, a, tmp_path / "theirs.npz", *options)
    assert again["metrics"][name] == pytest.approx(expected, rel=1e-3)
    assert again["b"]["images"] is None and "do not say their network" in again["b"]["changes"][0]


def test_all_metrics_are_those_of_torch_fidelity(
    folders: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FID, KID and IS within 0.1%, precision and recall the same, at the full depth."""
    import torch_fidelity

    a, b = folders
    theirs = torch_fidelity.calculate_metrics(
        input1=str(a), input2=str(b), cuda=False, batch_size=16, verbose=False, save_cpu_ram=True, cache=False,
        feature_extractor_weights_path=str(weights), fid=True, kid=True, isc=True, kid_subset_size=40,
        prc=True, feature_layer_prc="2048", prc_neighborhood=3,
    )  # fmt: skip
    found = result(capsys, a, b, "--weights", weights, "--mode", "torch-fidelity", "--metrics", "fid,kid,is,prec-recall")
    ours = {name.partition(" (")[0]: value for name, value in found["metrics"].items()}
    assert ours["FID"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert ours["KID"]["value"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert ours["IS"]["value"] == pytest.approx(theirs["inception_score_mean"], rel=1e-3)
    assert ours["precision"] == pytest.approx(theirs["precision"], abs=0.03)
    assert ours["recall"] == pytest.approx(theirs["recall"], abs=0.03)


# --- what it says -------------------------------------------------------------------------------------------------


def test_json_says_what_was_computed(
    folders: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    found = result(capsys, a, b, "--weights", weights, "--dims", 64, "--mode", "clean")
    assert found["a"] == {"name": str(a), "images": 40, "size": "40x30", "changes": []}
    assert found["features"]["mode"] == "clean"
    assert found["features"]["dims"] == 64
    assert len(found["features"]["weights"]) == 64 and found["features"]["published"] is False
    assert found["minidiff"]
    assert any("biased" in warning for warning in found["warnings"])


def test_the_same_in_words(folders: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*folders, "--weights", weights, "--dims", 64) == 0
    out, err = capsys.readouterr()
    assert "not the published network" in out and "mode pytorch-fid" in out
    assert f"{folders[0]}: 40 images 40x30" in out
    assert "FID (64 features, unpublished weights)" in out
    assert "Warning: A has 40 images" in err


# --- bad input ----------------------------------------------------------------------------------------------------


def test_no_weights_and_no_net_is_one_line(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with mock.patch("urllib.request.urlopen", side_effect=OSError("no route to host")):
        text = error(capsys, *folders)
    assert "pt_inception-2015-12-05-6726825d.pth" in text and "--weights PATH" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["A"], "B is missing"),
        (["A", "B", "--metrics", "fid,kidd"], "Did you mean 'kid'"),
        (["A", "B", "--mode", "pytorch"], "Did you mean 'pytorch-fid'"),
        (["A", "B", "--num", "100"], "neither A nor B is one"),
        (["A", "B", "--dims", "64", "--metrics", "is"], "Leave out --dims"),
        (["A", "B", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["A", "nowhere"], "no such file or folder"),
        (["A", "empty"], "holds no images"),
        (["A", "--save-stats", "a.txt"], "must end in .npz"),
        (["A", "--save-stats", "there.npz"], "--force"),
        (["A", "B", "--features", "nowhere"], "nowhere"),
        (["A", "B", "--features", "inceptoin"], "inceptoin"),
        (["A", "cut.npz"], "cannot be read"),
        (["A", "wide.npz", "--dims", "64"], "another feature network"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], said: str, folders: tuple[Path, Path], weights: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    np.savez("there.npz", mu=np.zeros(64), sigma=np.eye(64))
    np.savez("wide.npz", mu=np.zeros(65), sigma=np.eye(65))
    Path("cut.npz").write_bytes(Path("there.npz").read_bytes()[:-500])
    places = {"A": str(folders[0]), "B": str(folders[1])}
    given = [places.get(word, word) for word in arguments]
    defaults = [] if {"--weights", "--features"} & set(given) else ["--weights", weights]
    assert said in error(capsys, *given, *defaults)
    assert np.load("there.npz")["mu"].shape == (64,)


def test_a_cut_weight_file(folders: tuple[Path, Path], weights: Path, tmp_path: Path,
                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights.read_bytes()[:1_000_000])
    assert "cut.pth" in error(capsys, *folders, "--weights", cut)


# --- many processes -----------------------------------------------------------------------------------------------


def test_two_processes_find_what_one_does(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    arguments = ["fid", a, b, "--weights", weights, "--dims", 64, "--metrics", "fid,kid", "--batch-size", 12, "--json"]
    words = list(map(str, [*arguments, "--device", "cpu"]))
    alone = result(capsys, *arguments[1:-1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    done = subprocess.run([*launcher, "minidiff", *words], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    for name, value in alone["metrics"].items():
        if isinstance(value, dict):
            assert together["metrics"][name]["value"] == pytest.approx(value["value"], rel=1e-4)
        else:
            assert together["metrics"][name] == pytest.approx(value, rel=1e-5)
