"""`minidiff fid` as it is typed: what it says, agreement with pytorch-fid and torch-fidelity end to end, bad input."""

import json
import os
import shutil
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
from safetensors.torch import load_file, save_file

from minidiff import cli
from minidiff.images.files import write_image


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peers.weights_file(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of 24 pictures, 40x30, of different contrast."""
    places = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    for seed, folder in enumerate(places):
        for number, image in enumerate(peers.pictures(24, 40, 30, seed)):
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
    said = capsys.readouterr().err
    lines = [line for line in said.split("\n") if line.startswith("Error: ")]  # at the left, behind no progress bar
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
    assert found["metrics"]["fid"]["title"] == "FID (64 features, unpublished weights)"
    assert found["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-3)
    assert pytorch_fid_of(tmp_path / "ours.npz", b, weights, 64) == pytest.approx(expected, rel=1e-3)
    given = torch.load(weights, weights_only=True)
    with mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: given):
        paths = [str(b), str(tmp_path / "theirs.npz")]
        pytorch_fid.fid_score.save_fid_stats(paths, 16, "cpu", 64, num_workers=0)
    again = result(capsys, a, tmp_path / "theirs.npz", *options)
    assert again["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-3)
    assert again["b"]["images"] is None and "do not say their network" in again["b"]["changes"][0]


@pytest.mark.slow  # test_features compares the features themselves, and test_metrics each metric of given features
def test_all_metrics_are_those_of_torch_fidelity(
    folders: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FID, KID and IS within 0.1%, at the full depth, from end to end."""
    import torch_fidelity

    a, b = folders
    theirs = torch_fidelity.calculate_metrics(
        input1=str(a), input2=str(b), cuda=False, batch_size=16, verbose=False, save_cpu_ram=True, cache=False,
        feature_extractor_weights_path=str(weights), fid=True, kid=True, isc=True, kid_subset_size=24,
    )  # fmt: skip
    found = result(capsys, a, b, "--weights", weights, "--mode", "torch-fidelity", "--metrics", "fid,kid,is")
    ours = found["metrics"]
    assert ours["fid"]["value"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert ours["kid"]["value"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert ours["is"]["value"] == pytest.approx(theirs["inception_score_mean"], rel=1e-3)


# --- statistics ---------------------------------------------------------------------------------------------------


def test_statistics_of_one_side_are_kept(
    folders: tuple[Path, Path], clf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--save-stats` without B; they then stand for their images. Statistics are not stored as others' once more."""
    a, b = folders
    options = ("--features", clf)
    assert run(b, "--save-stats", tmp_path / "b.npz", *options) == 0
    assert "mu and sigma of A" in capsys.readouterr().out
    whole = result(capsys, a, b, *options)["metrics"]["fid"]["value"]
    assert result(capsys, a, tmp_path / "b.npz", *options)["metrics"]["fid"]["value"] == pytest.approx(whole, rel=1e-9)
    assert "is statistics already" in error(capsys, tmp_path / "b.npz", a, "--save-stats", tmp_path / "c.npz", *options)
    assert "there is no folder" in error(capsys, a, "--save-stats", tmp_path / "no" / "c.npz", *options)
    assert not (tmp_path / "c.npz").exists()


# --- what it says -------------------------------------------------------------------------------------------------


def test_json_says_what_was_computed(
    folders: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    found = result(capsys, a, b, "--weights", weights, "--dims", 64, "--mode", "clean")
    assert found["a"] == {"name": str(a), "images": 24, "size": "40x30", "changes": []}
    assert found["features"]["mode"] == "clean"
    assert found["features"]["dims"] == 64
    assert len(found["features"]["weights"]) == 64 and found["features"]["published"] is False
    assert found["minidiff"]
    assert any("covariance is singular" in warning for warning in found["warnings"])


def test_the_same_in_words(folders: tuple[Path, Path], weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*folders, "--weights", weights, "--dims", 64) == 0
    out, err = capsys.readouterr()
    assert "not the published network" in out and "mode pytorch-fid" in out
    assert f"{folders[0]}: 24 images 40x30" in out
    assert "FID (64 features, unpublished weights)" in out
    assert "Warning: A has 24 images" in err


# --- bad input ----------------------------------------------------------------------------------------------------


def test_no_weights_and_no_net_is_one_line(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with mock.patch("urllib.request.urlopen", side_effect=OSError("no route to host")):
        text = error(capsys, *folders)
    assert "pt_inception-2015-12-05-6726825d.pth" in text and "name the file with --weights" in text


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


def by_two_processes(*args: object) -> dict:
    """What --json prints under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "minidiff"]
    words = ["fid", *map(str, args), "--json", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow  # the next test does the same with a small network
def test_two_processes_find_what_one_does(
    folders: tuple[Path, Path], weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = folders
    arguments = [a, b, "--weights", weights, "--dims", 64, "--metrics", "fid,kid", "--batch-size", 12]
    alone, together = result(capsys, *arguments), by_two_processes(*arguments)
    for name, value in alone["metrics"].items():
        assert together["metrics"][name]["value"] == pytest.approx(value["value"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_share_an_odd_number_of_batches(
    folders: tuple[Path, Path], clf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them has nothing left in the last batch; what it saw of the others is warned of all the same."""
    b = folders[1]
    noise = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    noise[:8] = peers.pictures(8, 16, 16)
    np.save(tmp_path / "a.npy", noise)
    arguments = [tmp_path / "a.npy", b, "--features", clf, "--batch-size", 8, "--metrics", "fid,kid,is"]
    alone, together = result(capsys, *arguments), by_two_processes(*arguments)
    assert together["warnings"] == alone["warnings"] and any("are noise" in line for line in alone["warnings"])
    for name, value in alone["metrics"].items():
        assert together["metrics"][name]["value"] == pytest.approx(value["value"], rel=1e-4)


# --- in a classifier's features -----------------------------------------------------------------------------------


def test_the_features_are_those_the_classifier_has_of_its_data(clf: Path) -> None:
    """In the same form as in its training: the values, the size, the channels."""
    import minidiff
    from minidiff.classifier.run import load_classifier
    from minidiff.images.convert import to_float
    from minidiff.metrics.features import choose

    network = choose(str(clf))
    data = minidiff.load_data("folder", data_dir=clf.parent / "data", image_size=16)
    features, logits = network.compute(data.rgb(slice(None)))
    model, sha256 = load_classifier(clf).model, load_classifier(clf).sha256
    torch.testing.assert_close(features, model.features(to_float(data.images)))
    torch.testing.assert_close(logits, model(to_float(data.images)))
    assert (network.dims, network.sha256, network.published) == (32, sha256, False)
    singly, _ = network.compute(list(data.rgb(slice(None))))
    torch.testing.assert_close(singly, features)


def test_grey_and_other_sizes_become_what_a_classifier_knows() -> None:
    from minidiff.metrics.features import as_trained

    grey = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    x = as_trained(np.broadcast_to(grey, (3, 28, 28, 3)), channels=1, size=32)
    assert x.shape == (3, 1, 32, 32)
    np.testing.assert_allclose(x[:, 0, 2:-2, 2:-2].numpy(), grey[..., 0] / 127.5 - 1, atol=1e-5)
    assert (x[:, :, :2] == -1).all()
    mixed = as_trained([np.full((5, 9, 3), 255, np.uint8), np.zeros((40, 50, 3), np.uint8)], channels=3, size=16)
    assert mixed.shape == (2, 3, 16, 16)
    assert (mixed[0] > 0.9999).all() and (mixed[1] < -0.9999).all()


def test_it_is_called_fd_and_never_fid(
    clf: Path, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(capsys, *folders, "--features", clf, "--metrics", "fid,kid,is,prec-recall,fid-inf")
    names = ["FD(classifier)", "FD∞(classifier)", "KD(classifier)", "IS(classifier)"]
    titles = [metric["title"] for metric in found["metrics"].values()]
    assert titles == [*names, "precision(classifier)", "recall(classifier)"]
    assert found["features"]["network"] == "classifier" and found["features"]["source"] == str(clf)
    assert run(*folders, "--features", clf) == 0
    assert "FID" not in capsys.readouterr().out


def test_a_run_is_sampled_and_measured(
    clf: Path, trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same number from the run, and from the array that `minidiff sample` writes."""
    options = ("--features", clf, "--batch-size", 5)
    direct = result(capsys, trained, photos, *options, "--num", 40, "--steps", 4, "--seed", 2)
    out = str(trained / "samples.npz")
    words = ["-n", "40", "--sampler", "ddim", "--steps", "4", "--seed", "2", "--out", out]
    assert cli.run(["sample", str(trained), *words]) == 0
    by_file = result(capsys, out, photos, *options)
    assert direct["metrics"]["fid"]["value"] == pytest.approx(by_file["metrics"]["fid"]["value"], rel=1e-3)
    assert direct["a"]["images"] == 40
    assert direct["a"]["changes"] == ["sampled with ddim, 4 steps, seed 2"]


def test_bad_feature_networks(
    clf: Path, folders: tuple[Path, Path], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is a ddpm run" in error(capsys, *folders, "--features", trained)
    assert "--mode is for Inception" in error(capsys, *folders, "--features", clf, "--mode", "clean")


MEMORY = """
import sys
from minidiff import cli
code = cli.run(sys.argv[1:])
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
sys.exit(code)
"""


@pytest.mark.slow  # that of the measuring itself, with wider features, is in test_measure
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_number_of_images(clf: Path, tmp_path: Path) -> None:
    """The whole command, at 2,000 and at 50,000 images: 150 MB of pixels would be seen."""
    peaks = []
    for count in (2_000, 50_000):
        images = np.random.default_rng(0).integers(0, 256, (count, 1, 1, 3), np.uint8)
        np.save(tmp_path / f"{count}.npy", np.broadcast_to(images, (count, 32, 32, 3)))
        place = str(tmp_path / f"{count}.npy")
        words = ["fid", place, place, "--features", str(clf), "--batch-size", "100", "--device", "cpu"]
        done = subprocess.run([sys.executable, "-c", MEMORY, *words], capture_output=True, text=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] < 1.1 * peaks[0], peaks


# --- while a DDPM trains ------------------------------------------------------------------------------------------


def ddpm(*more: object) -> list[str]:
    from conftest import tiny_training

    return tiny_training(Path("photos"), *map(str, more))


@pytest.fixture()
def here(tmp_path: Path, photos: Path, tiny_preset: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    from minidiff.ddpm import previews

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(previews, "IMAGES", 1)  # its pictures are not looked at here
    Path("photos").symlink_to(photos)
    return tmp_path


FD = "FD(classifier)"


def measured_in(folder: str) -> dict[int, float]:
    records = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record[FD] for record in records if FD in record}


def test_a_training_measures_itself(here: Path, clf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At its steps and the last one; the number is that of `minidiff fid`; the training itself is not touched."""
    fid = ("--fid-every", 4, "--fid-samples", 30, "--fid-steps", 5, "--fid-features", clf)
    assert cli.run(ddpm("--out", "a", *fid)) == 0
    said = capsys.readouterr()
    assert "FD(classifier) every 4 steps: 30 samples (ddim, 5 steps) and all training images" in said.out
    assert "covariance is singular" in said.err
    found = measured_in("a")
    assert list(found) == [4, 6]
    by_hand = result(capsys, "a", "dataset:folder", "--data-dir", "photos", "--image-size", 16, "--features", clf,
                     "--num", 30, "--steps", 5)["metrics"]["fid"]["value"]  # fmt: skip
    assert found[6] == pytest.approx(by_hand, rel=1e-3)
    assert cli.run(ddpm("--out", "b")) == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert measured_in("b") == {}


def test_a_resumed_training_goes_on_measuring(here: Path, clf: Path) -> None:
    fid = ("--fid-every", 2, "--fid-samples", 10, "--fid-steps", 3, "--fid-features", clf)
    assert cli.run(ddpm("--out", "whole", *fid, "--warmup", 1)) == 0
    assert cli.run(ddpm("--out", "parts", *fid, "--warmup", 1, "--steps", 4)) == 0
    assert cli.run(["train", "ddpm", "--resume", "parts", "--steps", "6"]) == 0
    assert measured_in("parts") == measured_in("whole")
    assert list(measured_in("whole")) == [2, 4, 6]


def test_another_classifier_under_the_same_name_is_refused(
    here: Path, clf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A series of numbers is of one network; it may move, and measuring may end."""
    shutil.copytree(clf, "clf")
    fid = ("--fid-every", 2, "--fid-samples", 10, "--fid-steps", 3, "--fid-features", "clf")
    assert cli.run(ddpm("--out", "a", *fid, "--warmup", 1, "--steps", 2)) == 0
    weights = Path("clf/model.safetensors")
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights)
    resume = ["train", "ddpm", "--resume", "a", "--steps"]
    assert cli.run([*resume, "4"]) == 1
    assert "another feature network than this run was measured in" in capsys.readouterr().err
    weights.unlink()
    shutil.rmtree("clf")
    assert cli.run([*resume, "4"]) == 1
    assert "Where it lies now goes to --fid-features" in capsys.readouterr().err
    assert cli.run([*resume, "4", "--fid-features", str(clf)]) == 0
    assert list(measured_in("a")) == [2, 4]
    assert cli.run([*resume, "6", "--fid-every", "0"]) == 0
    assert list(measured_in("a")) == [2, 4]
    assert cli.run([*resume, "8", "--fid-every", "2"]) == 1
    assert "first steps of this run were not measured" in capsys.readouterr().err


def test_what_is_missing_is_said_before_the_training(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIDIFF_CACHE", str(here / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    with mock.patch("urllib.request.urlopen", side_effect=OSError("no route to host")):
        assert cli.run(ddpm("--out", "a", "--fid-every", 3)) == 1
    assert "FID weights are not on this machine" in capsys.readouterr().err
    assert cli.run(ddpm("--out", "a", "--fid-samples", 3)) == 1
    assert "--fid-samples needs --fid-every" in capsys.readouterr().err
    assert cli.run(ddpm("--out", "a", "--fid-every", 3, "--fid-features", "nowhere")) == 1
    assert "nowhere are neither inception nor a run" in capsys.readouterr().err
    assert not Path("a").exists()
