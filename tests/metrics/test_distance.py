"""`minidiff.distance`: what the command does, from a script; and what a measurement can be asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import pictures

import minidiff
from minidiff import cli
from minidiff.errors import UserError
from minidiff.metrics.config import INCEPTION_DIMS, MeasureRequest
from minidiff.metrics.estimates import Estimate
from minidiff.networks import inception
from minidiff.pretrained.distance import Progress
from minidiff.pretrained.sources import open_place


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two files of 40 and 50 pictures."""
    folder = tmp_path_factory.mktemp("arrays")
    for name, count, seed in (("a", 40, 0), ("b", 50, 1)):
        np.save(folder / f"{name}.npy", pictures(count, 16, 16, seed))
    return str(folder / "a.npy"), str(folder / "b.npy")


def test_a_script_finds_what_the_command_prints(
    arrays: tuple[str, str], clf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every number, description and warning of --json, by one call."""
    wanted = "fid,kid,is,prec-recall,fid-inf"
    words = ["fid", *arrays, "--features", str(clf), "--metrics", wanted, "--json", "--device", "cpu"]
    assert cli.run(words) == 0
    printed = json.loads(capsys.readouterr().out)
    found = minidiff.distance(*arrays, features=str(clf), metrics=tuple(wanted.split(",")), device="cpu")
    assert found.to_json() == printed and len(found.warnings) > 1
    assert isinstance(found.values["fid"], float) and isinstance(found.values["kid"], Estimate)
    assert found.titles["fid"] == "FD(classifier)" and found.b is not None
    assert (found.a.count, found.b.count) == (40, 50)


def test_progress_is_told_to_the_end(arrays: tuple[str, str], clf: Path) -> None:
    """Each stage comes in order, counts up, and ends at its total."""
    told: list[Progress] = []
    minidiff.distance(
        *arrays, features=str(clf), metrics=("fid", "fid-inf"), batch_size=16, device="cpu", on_progress=told.append
    )
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == ["A", "B", "FD∞(classifier)"]
    for stage in stages:
        of_stage = [(progress.done, progress.total) for progress in told if progress.stage == stage]
        assert of_stage == sorted(of_stage) and of_stage[-1][0] == of_stage[-1][1] > 1
    assert [progress.done for progress in told if progress.stage == "A"] == [16, 32, 40]


def test_the_steps_of_a_chain_are_told(trained: Path, arrays: tuple[str, str], clf: Path) -> None:
    """A batch of samples can take minutes: where its reverse chain is stands beside the count."""
    told: list[Progress] = []
    found = minidiff.distance(
        trained, arrays[1], features=str(clf), num=4, steps=3, device="cpu", on_progress=told.append
    )
    notes = [progress.note for progress in told if progress.stage == "A"]
    assert len(notes) == 4 and all(note.startswith("t = ") for note in notes[:3]) and notes[3] == ""
    assert found.a.changes[0].startswith("sampled with ddim, 3 steps")


def test_what_is_open_already_can_be_measured(arrays: tuple[str, str], clf: Path) -> None:
    a, b = (open_place(place) for place in arrays)
    opened, named = (minidiff.distance(*pair, features=str(clf), device="cpu") for pair in ((a, b), arrays))
    assert opened.values == named.values


def test_a_reference_batch_of_adm_gives_fid_its_statistics_and_the_rest_its_images(
    arrays: tuple[str, str], clf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And every array that was taken is named.

    FID of the statistics is the distance of the two Gaussians in closed form: 32 for means that lie 1 apart in each of
    32 features. Fails when FID is computed from `arr_0` (0), or KID refused because there are statistics.
    """
    mine = tmp_path / "a.npz"
    assert cli.run(["fid", arrays[0], "--features", str(clf), "--save-stats", str(mine), "--device", "cpu"]) == 0
    with np.load(mine) as stored:
        mu, sigma = stored["mu"] + 1, stored["sigma"]
    adm = str(tmp_path / "adm.npz")
    np.savez(adm, mu=mu, sigma=sigma, mu_s=mu[:5], sigma_s=sigma[:5, :5], arr_0=np.load(arrays[0]))
    options: dict[str, Any] = {"features": str(clf), "device": "cpu"}
    alone = minidiff.distance(str(mine), adm, **options)
    assert alone.values["fid"] == pytest.approx(32, rel=1e-6)
    assert alone.to_json()["b"]["arrays"] == "mu and sigma"
    assert alone.to_json()["b"]["unused"] == ["mu_s", "sigma_s", "arr_0"]
    both = minidiff.distance(arrays[1], adm, metrics=("fid", "kid", "prec-recall"), **options)
    images = minidiff.distance(*arrays[::-1], metrics=("fid", "kid", "prec-recall"), **options)
    assert both.values["fid"] == minidiff.distance(arrays[1], f"{adm}:mu", **options).values["fid"]
    assert both.values["kid"] == images.values["kid"] and both.values["recall"] == images.values["recall"]
    assert minidiff.distance(arrays[1], f"{adm}:arr_0", **options).values["fid"] == images.values["fid"]
    capsys.readouterr()
    assert cli.run(["fid", arrays[1], adm, "--metrics", "fid,kid", "--features", str(clf), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "mu and sigma for the Fréchet distance, otherwise arr_0; not used: mu_s, sigma_s" in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"metrics": ("fid", "kidd")}, "unknown metric 'kidd'. Did you mean 'kid'"),
        ({"metrics": "fid"}, "`metrics` is .fid.. Use a list"),
        ({"metrics": ()}, "`metrics` is empty"),
        ({"num": 1}, "`num` is 1. Give 2 or more"),
        ({"steps": 0}, "`steps` is 0"),
        ({"seed": -1}, "`seed` is -1"),
        ({"batch_size": 0}, "`batch_size` is 0"),
    ],
)
def test_a_wrong_request_is_refused_where_it_is_made(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        MeasureRequest(**fields)


@pytest.mark.parametrize("fields", [{"num": 9}, {"sampler": "ddim"}, {"data_dir": "x"}, {"image_size": 32}])
def test_options_of_places_that_are_not_there(fields: dict[str, Any], arrays: tuple[str, str], clf: Path) -> None:
    """An option that changes nothing is a mistake, and its argument is named."""
    with pytest.raises(UserError, match=f"`{next(iter(fields))}` is for .* neither A nor B is one"):
        minidiff.distance(*arrays, features=str(clf), device="cpu", **fields)


def test_dims_for_the_help_are_those_of_the_network() -> None:
    assert INCEPTION_DIMS == inception.DIMS


def test_a_distance_says_what_the_classifier_was_trained_on_and_how_well_it_knows_it(
    arrays: tuple[str, str], clf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And warns where images are known to be of another data set; of an array nobody knows."""
    data = str(clf.parent / "data")
    found = minidiff.distance(arrays[0], arrays[1], features=str(clf), device="cpu")
    features = found.to_json()["features"]
    assert features["trained_on"] == f"folder {data}" and features["accuracy_on"] == "train"
    assert 0.5 <= features["accuracy"] <= 1 and not any("was trained on" in line for line in found.warnings)
    words = ["fid", "dataset:folder", "dataset:shapes:test", "--features", str(clf), "--device", "cpu"]
    assert cli.run([*words, "--data-dir", data, "--image-size", "16"]) == 0
    said = capsys.readouterr()
    assert f"trained on folder {data}, {100 * features['accuracy']:.2f}% accuracy on images of its training" in said.out
    assert "B is of shapes, and" in said.err and "A is of" not in said.err


def test_statistics_remember_their_data_set(clf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats = str(tmp_path / "s.npz")
    options = ["--features", str(clf), "--device", "cpu"]
    assert cli.run(["fid", "dataset:shapes:test", "--image-size", "16", "--save-stats", stats, *options]) == 0
    assert cli.run(["fid", stats, stats, *options]) == 0
    assert "A is of shapes, and" in capsys.readouterr().err
