"""A cell of a study: trained, drawn, measured; taken up where it was left, and refused where its data are others."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny
from peers import pictures
from studied import INCEPTION, planned

from minidiff import load
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.images.convert import to_uint8
from minidiff.metrics.estimates import Estimate
from minidiff.metrics.extraction import MeasuredSet
from minidiff.metrics.frechet import FeatureStatistics
from minidiff.metrics.row_file import RowFile
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import write_metrics
from minidiff.studies import cell as cells
from minidiff.studies import measuring, processes, progress
from minidiff.studies import reference as references
from minidiff.studies.config import Settings
from minidiff.studies.results import CellFailure, CellResult, Figure, read_result, read_state
from minidiff.studies.study import RESULT, SAMPLES, folder_of

pytestmark = pytest.mark.usefixtures("own_folder")


def done(folder: Path, cell: str) -> CellResult:
    """Return the result of a cell that is done."""
    result = read_result(folder, cell)
    assert isinstance(result, CellResult)
    return result


def failure(folder: Path, cell: str) -> str:
    """Return why a cell failed."""
    result = read_result(folder, cell)
    assert isinstance(result, CellFailure)
    return result.error


# --- samples and distances ------------------------------------------------------------------------------------------


def test_samples_are_of_one_form_or_refused_by_name(tmp_path: Path) -> None:
    """The first report's arrays: floats beside bytes, 28x28 beside 64x64, 3,000 where there should be 5,000."""
    path = folder_of(tmp_path, "mnist.fog.wgan") / SAMPLES
    for images, what in [
        (np.full((5, 8, 8, 3), -0.5, np.float32), r"float32 \[5, 8, 8, 3\] with values from -0.5 to -0.5"),
        (np.zeros((5, 4, 4, 3), np.uint8), r"uint8 \[5, 4, 4, 3\]"),
        (np.zeros((3, 8, 8, 3), np.uint8), r"uint8 \[3, 8, 8, 3\]"),
        (np.zeros((5, 8, 8, 1), np.uint8), r"uint8 \[5, 8, 8, 1\]"),
    ]:
        with pytest.raises(UserError, match=f"samples of mnist.fog.wgan are {what}, .* uint8 .5, 8, 8, 3."):
            cells.store_samples(path, images, 5, 8)
        assert not path.exists()
    cells.store_samples(path, np.full((5, 8, 8, 3), 7, np.uint8), 5, 8)
    with np.load(path) as stored:
        assert stored.files == ["images"] and (stored["images"] == 7).all() and stored["images"].shape == (5, 8, 8, 3)


def test_samples_that_are_no_pictures_are_told() -> None:
    """Noise, one picture again and again; but what the real images are like is no fault: edges are black and white."""
    real, noise = smooth(1), np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    edges = np.where(smooth(2) > 128, 255, 0).astype(np.uint8)
    assert cells.suspicions(smooth(0), real) == []
    assert "40 of 40 images are noise" in cells.suspicions(noise, real)[0]
    assert "saturated" in " ".join(cells.suspicions(edges, real))
    assert "saturated" not in " ".join(cells.suspicions(edges, edges[::-1]))
    alike = cells.suspicions(real[:1].repeat(40, axis=0), real)
    assert len(alike) == 1 and "0.00 as varied as the data" in alike[0]


def smooth(seed: int) -> np.ndarray:
    """uint8 [40,16,16,3]."""
    return pictures(40, 4, 4, seed).repeat(4, axis=1).repeat(4, axis=2)


def test_the_interval_of_fid_holds_what_fresh_samples_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 samples of a shifted Gaussian, again and again: the mean FID of all lies in nearly every interval, and would
    not in one about the unbiased value, which is lower by some four standard errors."""
    random, dims, count = np.random.default_rng(0), 24, 200
    scale = np.linspace(1, 0.1, dims)
    truth = MeasuredSet("real", None, torch.zeros(dims).double(), torch.diag(torch.from_numpy(scale**2)))
    network = Network()
    monkeypatch.setattr(measuring, "kid", lambda *_, **__: Estimate(2.0, 0.5, 1.0, 3.0))  # it takes its time
    values, intervals = [], []
    for _ in range(40):
        features = RowFile()
        features.append(torch.from_numpy((random.standard_normal((count, dims)) + 0.2) * scale))
        gathered = FeatureStatistics.of(features)
        side = MeasuredSet("made", count, gathered.mean, gathered.covariance, features)
        found = measuring.distances(side, truth, np.zeros((1, dims), np.float32), network)  # type: ignore[arg-type]
        values.append(found["fid"].value)
        intervals.append((found["fid"].low, found["fid"].high))
    assert found["fid"].title == "FD(classifier)"
    assert found["kid"] == Figure(2.0, "KD(classifier)", 1.0, 3.0)
    held = sum(low <= np.mean(values) <= high for low, high in intervals)
    assert held >= 34 and np.mean([high - low for low, high in intervals]) < 6 * np.std(values)


class Network:
    name, mode, dims, published = "classifier", "classifier", 24, False


# --- a cell ---------------------------------------------------------------------------------------------------------


def test_a_study_from_beginning_to_end(
    small: None, inside: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell is trained, drawn, measured. A second time nothing is left to do. A cell without its result is only
    measured again, to the same figures; one whose samples were not all drawn goes on with those it has."""
    folder = tmp_path / "s"
    study = planned(folder, corruptions=("identity", "motion_blur"), features=str(clf), seed=3)
    events = [(event.name, event.state) for event in processes.carry_out(folder, study, ["cpu"])]
    names = [
        name for data in ("shapes.identity", "shapes.motion_blur") for name in (data, f"{data}.wgan", f"{data}.ddpm")
    ]
    assert events == [(name, state) for name in names for state in ("begun", "done")]
    assert list(processes.carry_out(folder, study, ["cpu"])) == []

    for name in study.cells:
        place = folder / "cells" / name
        assert {"run", "samples.npz", "grid.png", "result.json"} <= set(os.listdir(place))
        found = done(folder, name)
        assert found.cell == name and found.num == 20 and found.steps == 2
        assert found.parameters == sum(p.numel() for p in load(place / "run").model.parameters())
        assert found.metrics["fid"].title == "FD(classifier)" and all(s > 0 for s in found.seconds.values())
    floor = json.loads((folder / "data/shapes.identity/result.json").read_text())
    blurred = json.loads((folder / "cells/shapes.motion_blur.wgan/run/config.json").read_text())
    assert floor["num"] == 20 and floor["metrics"]["fid"]["value"] < found.metrics["fid"].value
    assert blurred["data"]["corruption"] == "motion_blur" and blurred["data"]["severity"] == 3
    assert blurred["training"]["seed"] == 3
    features = [np.load(folder / "data" / data / "features.npy") for data in study.data]
    assert features[0].shape == (48, 32) and not np.allclose(*features)

    place = folder / "cells/shapes.identity.ddpm"
    with np.load(place / "samples.npz") as stored:
        images = stored["images"]
    drawn = load(place / "run").draw(range(20), seed=3, sampler="dpm++sde")
    assert np.abs(images.astype(int) - to_uint8(drawn)).max() <= 1
    before = done(folder, "shapes.identity.ddpm")
    (place / "result.json").unlink()
    assert [event.state for event in processes.carry_out(folder, study, ["cpu"])] == ["begun", "done"]
    assert done(folder, "shapes.identity.ddpm").metrics == before.metrics

    (place / "samples.npz").unlink()
    (place / "result.json").unlink()
    marked = images[:7].copy()
    marked[:, 0, 0] = 99
    (place / cells.RAW).write_bytes(marked.tobytes() + b"half an image")
    list(processes.carry_out(folder, study, ["cpu"]))
    with np.load(place / "samples.npz") as stored:
        assert (stored["images"][:7] == marked).all()
        assert np.abs(stored["images"][7:].astype(int) - images[7:]).max() <= 1
    assert not (place / cells.RAW).exists()


def test_damaged_samples_are_drawn_again_and_the_training_kept(
    small: None, inside: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    study = planned(folder, models=("wgan",), features=str(clf))
    list(processes.carry_out(folder, study, ["cpu"]))
    place = folder / "cells/shapes.identity.wgan"
    metrics, began = done(folder, place.name).metrics, (place / "run" / checkpoint.MODEL).stat().st_mtime_ns
    whole = (place / SAMPLES).read_bytes()
    for damage in (b"PK", whole[: len(whole) // 2], whole[:500] + b"x" * 50 + whole[550:], None):
        if damage is None:
            (place / cells.DRAWN).unlink()
            (place / cells.RAW).write_bytes(b"")
        else:
            (place / SAMPLES).write_bytes(damage)
        write_json(place / RESULT, {"error": "samples.npz is damaged"})
        assert [event.state for event in processes.carry_out(folder, study, ["cpu"], retry=True)] == ["begun", "done"]
        assert done(folder, place.name).metrics == metrics
    (place / cells.RAW).write_bytes(b"of a process that was killed before it could unlink it")
    assert cells.drawn_before(place, study) is not None and not (place / cells.RAW).exists()
    assert (place / "run" / checkpoint.MODEL).stat().st_mtime_ns == began


def test_a_table_is_of_one_data_set_and_one_network(
    small: None, inside: None, clf: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images taken away, or weights replaced, in the middle of a study: the cell fails, and says by what."""
    mine, folder = tmp_path / "mine", tmp_path / "s"
    shutil.copytree(photos, mine)
    study = planned(folder, datasets=("folder",), data_dir=str(mine), models=("wgan",), features=str(clf))
    list(processes.carry_out(folder, study, ["cpu"]))
    cell = "folder.identity.wgan"
    assert read_state(folder, cell) == "done"
    next(path for path in sorted(mine.rglob("*")) if path.is_file()).unlink()
    shutil.move(folder / "cells", tmp_path / "before")
    list(processes.carry_out(folder, study, ["cpu"]))
    said = failure(folder, cell)
    assert said.startswith("the images of folder.identity.wgan are not the ones that its study began with. Bring")
    assert not (folder / "cells" / cell / "run").exists()
    shutil.rmtree(folder / "data")
    shutil.copytree(tmp_path / "before" / cell, folder / "cells" / cell, dirs_exist_ok=True)
    with pytest.raises(UserError, match=f"the images of {cell} are not the ones"):  # the cell is older than the change
        references.prepare(study, folder, "folder.identity", torch.device("cpu"))
    network = references.network_of(study, torch.device("cpu"))
    same = replace(study, network=network.identity)
    assert references.network_of(same, torch.device("cpu")).sha256 == network.sha256
    with pytest.raises(UserError, match="is not the network this study began with"):
        references.network_of(replace(study, network=INCEPTION), torch.device("cpu"))


def test_a_training_that_diverges_says_how_to_go_on(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """compare has no --lr: the run is trained by hand, as any run, and compare goes on with it."""
    monkeypatch.setitem(DDPM_PRESETS, "cpu", replace(tiny(), training=replace(tiny().training, lr=9e37, warmup=0)))
    study = planned(tmp_path / "s", steps=3)
    run = tmp_path / "s" / "my cells" / "run"
    with pytest.raises(UserError, match=r"In a study: `minidiff train ddpm --resume '.*cells/run' --lr 3e\+37`, then"):
        cells.train(study, "shapes.identity.ddpm", run, torch.device("cpu"))


def test_the_seconds_of_a_training_are_those_of_its_steps(trained: Path, tmp_path: Path) -> None:
    """By the rate of each record: what a kill lost is in none, and neither is a measurement in between."""
    shutil.copy(trained / checkpoint.CONFIG, tmp_path)  # batches of 4
    first, second = ({"step": 2, "loss": 1, "images_per_second": 8}, {"step": 5, "loss": 1, "images_per_second": 4})
    write_metrics(tmp_path, [first, {"step": 2, "diversity": 0.5}, second])
    assert cells.training_seconds(tmp_path) == 2 * 4 / 8 + 3 * 4 / 4


def test_a_cell_that_fails_fails_alone(
    small: None, inside: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its line is written down, the others go on; it is tried again when that is asked for, and not before. Where the
    data fail, all their cells do, and those of other data do not."""
    folder = tmp_path / "s"
    gone = {"folder": "gone"}
    study = planned(folder, datasets=("folder", "shapes"), models=("ddpm", "wgan"), features=str(clf), data_dir=gone)
    training, broken = cells.training, True

    def failing(settings: Settings, cell: str, *more: Any) -> Any:
        if broken and cell.endswith("ddpm"):
            raise RuntimeError("a planted fault\nin two lines")
        return training(settings, cell, *more)

    monkeypatch.setattr(cells, "training", failing)
    events = [event for event in processes.carry_out(folder, study, ["cpu"]) if event.state != "begun"]
    assert [(event.name, event.state) for event in events] == [
        ("folder.identity", "failed"), ("shapes.identity", "done"), ("shapes.identity.ddpm", "failed"),
        ("shapes.identity.wgan", "done"),
    ]  # fmt: skip
    assert [read_state(folder, cell) for cell in study.cells] == ["failed", "failed", "failed", "done"]
    errors = [failure(folder, cell) for cell in study.cells[:3]]
    assert all("its data: `data_dir`" in error and "does not exist" in error for error in errors[:2])
    assert errors[2] == "RuntimeError: a planted fault"
    assert list(processes.carry_out(folder, study, ["cpu"])) == []
    broken = False
    again = [(event.name, event.state) for event in processes.carry_out(folder, study, ["cpu"], retry=True)]
    assert ("shapes.identity.ddpm", "done") in again and ("folder.identity", "failed") in again
    assert [read_state(folder, cell) for cell in study.cells] == ["failed", "failed", "done", "done"]
    assert "failed: its data" in next(progress.table(study, folder))
