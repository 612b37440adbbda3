"""Studies: the plan, the cells, the processes they run in: what is done stays done, and what fails fails alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import tiny
from peers import pictures

from minidiff import cli, load
from minidiff.data import shapes
from minidiff.ddpm import job as ddpm_job
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.errors import UserError
from minidiff.files import locked, write_json
from minidiff.gan.presets import GAN_PRESETS, GanPreset
from minidiff.images.convert import to_uint8
from minidiff.metrics import extraction, frechet, inception_weights
from minidiff.metrics.estimates import Estimate
from minidiff.metrics.extraction import MeasuredSet
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics, write_metrics
from minidiff.studies import cell as cells
from minidiff.studies import distance, models, processes, progress, study, timing
from minidiff.studies import reference as references
from minidiff.training.config import TrainConfig
from minidiff.training.journal import Interrupted

TIMES = {"steps": {"ddpm": 9, "wgan": 8}, "seconds_per_step": {"ddpm": 0.5, "wgan": 0.25},
         "seconds_per_sample": {"ddpm": 0.1, "wgan": 0.01}, "seconds_per_image": 0.01, "images": 48,
         "network": {"dims": 2048}}  # fmt: skip


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that train in a moment, on a few scenes."""
    monkeypatch.setitem(DDPM_PRESETS, "cpu", tiny())
    gan = TrainConfig(steps=2, batch_size=4, lr=1e-4, warmup=0, grad_clip=None)
    monkeypatch.setitem(GAN_PRESETS["wgan"], "cpu", GanPreset("tests", 16, latent_dim=8, width=4, training=gan))
    monkeypatch.setattr(shapes, "COUNTS", {"train": 48, "test": 30})
    monkeypatch.setattr(ddpm_job, "PREVIEW_IMAGES", 1)
    monkeypatch.setattr(cells, "COMPARED", 16)


def asked(**more: Any) -> dict[str, Any]:
    return {"datasets": ["shapes"], "models": ["wgan", "ddpm"], "num": 20, "image_size": 16, "steps": 2, **more}


def planned(folder: Path, **more: Any) -> dict[str, Any]:
    """A study whose times are made up."""
    plan = study.complete(study.settings_of(folder, asked(**more), "cpu"), TIMES)
    study.create(folder, plan)
    return plan


class Inside:
    """In the place of a process: the cell is run here, when it is started."""

    stdin = stdout = None

    def __init__(self, arguments: list[str], device: str, share: int = 1, **streams: Any) -> None:
        self.returncode = cells.main([*arguments, device])

    def poll(self) -> int:
        return self.returncode

    wait = kill = terminate = poll


# --- the plan -------------------------------------------------------------------------------------------------------


def test_a_study_is_its_study_json(tmp_path: Path) -> None:
    """What is not asked again is as it was; what is asked and is another thing is refused, with both."""
    plan = planned(tmp_path / "s", corruptions=["identity", "fog", "fog"], features="clf")
    assert plan["cells"] == ["shapes.identity.wgan", "shapes.identity.ddpm", "shapes.fog.wgan", "shapes.fog.ddpm"]
    assert plan["steps"] == {"wgan": 2, "ddpm": 2} and plan["features"] == str(tmp_path / "clf")
    assert study.settings_of(tmp_path / "s", {"num": None}, "cpu") == plan
    assert study.settings_of(tmp_path / "s", {"steps": 2}, "cpu") == plan
    assert [study.settings_of(tmp_path / "new", asked(num=None), device)["num"] for device in ("cpu", "cuda")] == [
        2000, 10_000
    ]  # fmt: skip
    again = asked(corruptions=["fog", "identity"], features="clf", steps={"ddpm": 2})
    assert study.settings_of(tmp_path / "s", again, "cpu") == plan
    others = {"num": 30, "models": ["ddpm"], "steps": {"wgan": 3}, "severity": 5, "data_dir": "x", "minutes": 2.0}
    for name, value in others.items():
        with pytest.raises(UserError, match=f"is a study with(out)? --{name.replace('_', '-')}.*, not .*[0-9x]|ddpm"):
            study.settings_of(tmp_path / "s", {name: value}, "cpu")
    with pytest.raises(UserError, match="is a study without --minutes, not with 2.0. Leave out"):
        study.settings_of(tmp_path / "s", {"minutes": 2.0}, "cpu")
    with pytest.raises(UserError, match="with --steps wgan=2, not wgan=3. Leave out --steps"):
        study.settings_of(tmp_path / "s", {"steps": {"wgan": 3}}, "cpu")
    with pytest.raises(UserError, match="--device cpu, not cuda"):
        study.settings_of(tmp_path / "s", {"device": "cuda"}, "cpu")
    assert study.settings_of(tmp_path / "s", {}, "cuda") == plan  # the usual device is a new study's


def test_a_study_grows_by_what_is_named_beside_all_it_has(tmp_path: Path) -> None:
    """What it had stays as it was; of a new model a step is timed, of a new corruption nothing."""
    plan = planned(tmp_path / "s")
    more = study.settings_of(tmp_path / "s", {"corruptions": ["fog", "identity"]}, "cpu")
    assert "cells" not in more and study.untimed(more) == []
    grown = study.complete(more, {})
    assert grown == plan | {"corruptions": ["identity", "fog"], "cells": study.cells_in(grown)}
    assert grown["cells"][:2] == plan["cells"] and len(grown["cells"]) == 4
    asked_for = {"models": ["ddpm", "dcgan", "wgan"], "steps": {"dcgan": 7}}
    more = study.settings_of(tmp_path / "s", asked_for, "cpu")
    assert study.untimed(more) == ["dcgan"]
    times = {"steps": {"dcgan": 7}, "seconds_per_step": {"dcgan": 9.0}, "seconds_per_sample": {"dcgan": 8.0}}
    grown = study.complete(more, {**times, "images": 1, "seconds_per_image": 99.0, "network": {"dims": 3, "name": "x"}})
    assert grown["models"] == ["wgan", "ddpm", "dcgan"] and grown["steps"] == {"wgan": 2, "ddpm": 2, "dcgan": 7}
    assert grown["seconds_per_step"] == {**TIMES["seconds_per_step"], "dcgan": 9.0}
    assert [grown[name] for name in ("images", "seconds_per_image", "network")] == [
        plan[name] for name in ("images", "seconds_per_image", "network")
    ]
    study.create(tmp_path / "s", grown)
    assert study.read(tmp_path / "s") == grown  # and is a study as any other
    with pytest.raises(UserError, match="not wgan-gp. Leave out .*, name those, too, to add to it, or"):
        study.settings_of(tmp_path / "s", {"models": ["wgan-gp"]}, "cpu")
    with pytest.raises(UserError, match="--models wgan,ddpm,dcgan, not wgan. Leave out --models to go on with it, or"):
        study.settings_of(tmp_path / "s", {"models": ["wgan"]}, "cpu")
    with pytest.raises(UserError, match="with --steps wgan=2,ddpm=2,dcgan=7, not wgan=3,ddpm=3,dcgan=3"):
        study.settings_of(tmp_path / "s", {"steps": 3}, "cpu")


def test_a_study_of_minutes_grows_by_minutes(tmp_path: Path) -> None:
    plan = planned(tmp_path / "s", steps=None, minutes=3.0)
    more = study.settings_of(tmp_path / "s", {"models": ["wgan", "ddpm", "dcgan"]}, "cpu")
    times = {"steps": {"dcgan": 7}, "seconds_per_step": {"dcgan": 9.0}, "seconds_per_sample": {"dcgan": 8.0}}
    assert study.complete(more, times)["steps"] == {**plan["steps"], "dcgan": 20}


def test_data_that_a_study_grows_by_may_lie_elsewhere(tmp_path: Path) -> None:
    planned(tmp_path / "s", data_dir="/here")
    with pytest.raises(UserError, match="--data-dir is for shapes and folder alike. Write --data-dir folder="):
        study.settings_of(tmp_path / "s", {"datasets": ["shapes", "folder"]}, "cpu")
    more = study.settings_of(tmp_path / "s", {"datasets": ["shapes", "folder"], "data_dir": {"folder": "/mine"}}, "cpu")
    assert more["data_dir"] == {"shapes": "/here", "folder": "/mine"}
    with pytest.raises(UserError, match="--data-dir names mnist, and the data sets are shapes. Leave it out"):
        study.settings_of(tmp_path / "s", {"data_dir": {"mnist": "/there"}}, "cpu")
    with pytest.raises(UserError, match="is a study with --data-dir /here, not shapes=/there"):
        study.settings_of(tmp_path / "s", {"data_dir": {"shapes": "/there"}}, "cpu")


def test_a_new_study_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --datasets"):
        study.settings_of(tmp_path / "s", {"models": ["ddpm"]}, "cpu")
    with pytest.raises(UserError, match="--minutes and --steps"):
        study.settings_of(tmp_path / "s", asked(minutes=3.0), "cpu")
    with pytest.raises(UserError, match="--steps names dcgan, and the models of this study are wgan, ddpm"):
        study.settings_of(tmp_path / "s", asked(steps={"dcgan": 3}), "cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        study.settings_of(tmp_path / "full", asked(), "cpu")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / study.STUDY).write_text('{"datasets": []}')
    with pytest.raises(UserError, match="study.json is damaged .datasets cannot be"):
        study.settings_of(tmp_path / "s", {}, "cpu")


def test_a_study_that_was_changed_by_hand_is_an_error_of_one_line(tmp_path: Path) -> None:
    """Wrong types, names that do not exist, cells of no model: nothing of it is a traceback, or a plan."""
    whole = planned(tmp_path / "s")
    wrong: dict[str, list[Any]] = {
        "models": [None, ["foo"], "wgan", [["wgan"]]], "steps": [None, {}, {"wgan": 2}, {"wgan": 2, "ddpm": "many"}],
        "cells": [["x"], [], ["shapes.identity.foo"]], "datasets": [["nosuch"], []], "corruptions": [["zz"], 3],
        "seconds_per_step": [{}], "seconds_per_sample": [{"wgan": 0, "ddpm": 1}], "seconds_per_image": ["x", 0],
        "num": ["many", 0, True], "image_size": [None, 4], "severity": [9], "seed": [-1], "data_dir": [7],
        "features": [None], "minutes": ["long"], "images": [0],
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            write_json(tmp_path / "s" / study.STUDY, {**whole, name: value})
            with pytest.raises(UserError, match=r"study.json (lacks|is damaged \(.*\)). ?.*Mend it, or begin"):
                study.read(tmp_path / "s")
    write_json(tmp_path / "s" / study.STUDY, whole)
    assert study.read(tmp_path / "s") == whole


def test_what_cannot_go_well_is_said_before_anything_is_timed(clf: Path, photos: Path, tmp_path: Path) -> None:
    def foresee(**more: Any) -> list[str]:
        return study.foresee(study.settings_of(tmp_path / "s", asked(features=str(clf), **more), "cpu"))

    both = ["shapes", "folder"]
    assert foresee() == [] and foresee(datasets=both, data_dir={"folder": str(photos)}) == []
    with pytest.raises(UserError, match="'folder' needs --data-dir folder=PATH"):
        foresee(datasets=both)
    with pytest.raises(UserError, match="'folder' is not in .*gone"):
        foresee(datasets=both, data_dir={"folder": "gone"})
    with pytest.raises(UserError, match="--image-size 30"):
        foresee(image_size=30)
    with pytest.raises(UserError, match="FID weights are not on this machine.* or give a classifier: --features RUN"):
        study.foresee(study.settings_of(tmp_path / "s", asked(), "cpu"))
    with pytest.raises(UserError, match="gone are neither inception nor a run"):
        study.foresee(study.settings_of(tmp_path / "s", asked(features="gone"), "cpu"))
    assert foresee(datasets=["mnist"], data_dir=str(tmp_path)) == ["mnist is not on this machine: download, 12 MB."]


def test_every_data_set_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Nothing is downloaded into the user's photos."""
    plan = planned(tmp_path / "s", datasets=["folder", "mnist"], data_dir={"folder": "photos"})
    assert models.data_options(plan, "folder.identity")["data_dir"] == str(tmp_path / "photos")
    assert "data_dir" not in models.data_options(plan, "mnist.identity.ddpm")
    with pytest.raises(UserError, match="is for folder and mnist alike. Write --data-dir folder=/photos for"):
        study.settings_of(tmp_path / "new", asked(datasets=["folder", "mnist"], data_dir="/photos"), "cpu")
    with pytest.raises(UserError, match="--data-dir names mnist, and the data sets are shapes"):
        study.settings_of(tmp_path / "new", asked(data_dir={"mnist": "x"}), "cpu")


def test_fewer_samples_than_features_are_doubted_in_any_network(tmp_path: Path) -> None:
    """In study.json, for whoever reads it: `num` images leave the covariance of as many features singular."""
    for num, doubted in ((32, True), (33, False)):
        settings = study.settings_of(tmp_path / "s", asked(num=num, features="clf"), "cpu")
        found = study.complete(settings, {**TIMES, "network": {"dims": 32}})["doubts"]
        assert bool(found) == doubted
        assert "32 samples for the 32 features" in found[0] if doubted else not found
        assert not doubted or "KD(classifier) is sound" in found[0]


def test_minutes_become_steps_by_the_time_a_step_takes(tmp_path: Path) -> None:
    """3 minutes are 360 steps of half a second; the presets' steps are those of what was not given."""
    plan = study.complete(study.settings_of(tmp_path / "a", asked(steps=None, minutes=3.0), "cpu"), TIMES)
    assert plan["steps"] == {"wgan": 720, "ddpm": 360} and plan["minutes"] == 3
    plan = study.complete(study.settings_of(tmp_path / "b", asked(steps={"wgan": 4}), "cpu"), TIMES)
    assert plan["steps"] == {"wgan": 4, "ddpm": 9}
    plan = study.complete(study.settings_of(tmp_path / "b", asked(steps=None), "cpu"), TIMES)
    assert plan["steps"] == {"wgan": 8, "ddpm": 9}


def test_the_estimate_is_the_sum_of_what_is_left(tmp_path: Path) -> None:
    """By hand: 2 steps, 20 samples and 144 to look at, 20 images measured; and 3,000 images of shapes beside."""
    plan = planned(tmp_path / "s")
    ddpm, wgan = 2 * 0.5 + 164 * 0.1 + 0.2, 2 * 0.25 + 164 * 0.01 + 0.2
    count = shapes.COUNTS["train"]
    shared = (count + min(count, 10_000) + 20) * 0.01
    assert progress.seconds(plan, "shapes.identity.ddpm") == pytest.approx(ddpm)
    assert progress.remaining(plan, tmp_path / "s", plan["cells"]) == pytest.approx(ddpm + wgan + shared)
    study.home(tmp_path / "s", "shapes.identity").joinpath(study.STATISTICS).touch()
    assert progress.remaining(plan, tmp_path / "s", plan["cells"]) == pytest.approx(ddpm + wgan)
    assert [progress.in_words(s) for s in (0.2, 80, 100, 5400, 40_000)] == [
        "1 s",
        "80 s",
        "2 min",
        "1 h 30 min",
        "11 h 07 min",
    ]


def test_timing_takes_steps_and_samples_of_every_model(
    small: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training of one step is timed, too. The presets' steps are told."""
    monkeypatch.setattr(timing, "ENOUGH", 0)
    settings = study.settings_of(tmp_path / "s", asked(steps={"ddpm": 1}, features=str(clf)), "cpu")
    found = timing.take_times(settings, torch.device("cpu"))
    assert found["steps"] == {"wgan": 2, "ddpm": 1} and found["images"] == 48
    assert all(
        0 < found[name][model] < 10 for name in ("seconds_per_step", "seconds_per_sample") for model in TIMES["steps"]
    )  # type: ignore[attr-defined]
    assert 0 < found["seconds_per_image"] < 1
    assert not (tmp_path / "s").exists()


def test_the_typical_time_is_without_the_warm_up() -> None:
    def work() -> Iterator[None]:
        for seconds in [0.3, 0.3, *[0.01] * 30]:
            time.sleep(seconds)
            yield

    assert 0.01 <= timing.typical(work()) < 0.1
    assert timing.typical(iter([None])) < 0.1


# --- samples and distances ------------------------------------------------------------------------------------------


def test_samples_are_of_one_form_or_refused_by_name(tmp_path: Path) -> None:
    """The first report's arrays: floats beside bytes, 28x28 beside 64x64, 3,000 where there should be 5,000."""
    path = study.home(tmp_path, "mnist.fog.wgan") / study.SAMPLES
    for images, what in [
        (np.full((5, 8, 8, 3), -0.5, np.float32), r"float32 \[5, 8, 8, 3\] with values from -0.5 to -0.5"),
        (np.zeros((5, 4, 4, 3), np.uint8), r"uint8 \[5, 4, 4, 3\]"),
        (np.zeros((3, 8, 8, 3), np.uint8), r"uint8 \[3, 8, 8, 3\]"),
        (np.zeros((5, 8, 8, 1), np.uint8), r"uint8 \[5, 8, 8, 1\]"),
    ]:
        with pytest.raises(UserError, match=f"samples of mnist.fog.wgan are {what}; .* uint8 .5, 8, 8, 3."):
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
    monkeypatch.setattr(distance, "mean_kid", lambda *_, **__: Estimate(2.0, 0.5, 1.0, 3.0))  # it takes its time
    values, intervals = [], []
    for _ in range(40):
        features = extraction.RowFile()
        features.append(torch.from_numpy((random.standard_normal((count, dims)) + 0.2) * scale))
        gathered = frechet.FeatureStatistics.of(features)
        side = MeasuredSet("made", count, gathered.mean, gathered.covariance, features)
        found = distance.distances(side, truth, np.zeros((1, dims), np.float32), network)  # type: ignore[arg-type]
        values.append(found["fid"]["value"])
        intervals.append((found["fid"]["low"], found["fid"]["high"]))
    assert found["fid"]["title"] == "FD(classifier)"
    assert found["kid"] == {"title": "KD(classifier)", "value": 2, "low": 1, "high": 3}
    held = sum(low <= np.mean(values) <= high for low, high in intervals)
    assert held >= 34 and np.mean([high - low for low, high in intervals]) < 6 * np.std(values)


class Network:
    name, mode, dims, published = "classifier", "classifier", 24, False


# --- a cell ---------------------------------------------------------------------------------------------------------


def test_a_study_from_beginning_to_end(small: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell is trained, drawn, measured. A second time nothing is left to do. A cell without its result is only
    measured again, to the same figures; one whose samples were not all drawn goes on with those it has."""
    monkeypatch.setattr(processes, "start", Inside)
    folder = tmp_path / "s"
    plan = planned(folder, corruptions=["identity", "motion_blur"], features=str(clf), seed=3)
    events = [(event.name, event.state) for event in processes.carry_out(folder, plan, ["cpu"])]
    names = [
        name for data in ("shapes.identity", "shapes.motion_blur") for name in (data, f"{data}.wgan", f"{data}.ddpm")
    ]
    assert events == [(name, state) for name in names for state in ("begun", "done")]
    assert list(processes.carry_out(folder, plan, ["cpu"])) == []

    for name in plan["cells"]:
        place = folder / "cells" / name
        assert {"run", "samples.npz", "grid.png", "result.json"} <= set(os.listdir(place))
        found = progress.result(folder, name)
        assert found is not None and found["cell"] == name and found["num"] == 20 and found["steps"] == 2
        assert found["parameters"] == sum(p.numel() for p in load(place / "run").model.parameters())
        assert found["metrics"]["fid"]["title"] == "FD(classifier)" and all(s > 0 for s in found["seconds"].values())
    floor = json.loads((folder / "data/shapes.identity/result.json").read_text())
    blurred = json.loads((folder / "cells/shapes.motion_blur.wgan/run/config.json").read_text())
    assert floor["num"] == 20 and floor["metrics"]["fid"]["value"] < found["metrics"]["fid"]["value"]
    assert blurred["data"]["corruption"] == "motion_blur" and blurred["data"]["severity"] == 3
    assert blurred["training"]["seed"] == 3
    features = [np.load(folder / "data" / data / "features.npy") for data in study.data_names(plan)]
    assert features[0].shape == (48, 32) and not np.allclose(*features)

    place = folder / "cells/shapes.identity.ddpm"
    with np.load(place / "samples.npz") as stored:
        images = stored["images"]
    drawn = load(place / "run").draw(range(20), seed=3, sampler="dpm++sde")
    assert np.abs(images.astype(int) - to_uint8(drawn)).max() <= 1
    before = progress.result(folder, "shapes.identity.ddpm")
    (place / "result.json").unlink()
    assert [event.state for event in processes.carry_out(folder, plan, ["cpu"])] == ["begun", "done"]
    after = progress.result(folder, "shapes.identity.ddpm")
    assert before is not None and after is not None and after["metrics"] == before["metrics"]

    (place / "samples.npz").unlink()
    (place / "result.json").unlink()
    marked = images[:7].copy()
    marked[:, 0, 0] = 99
    (place / cells.RAW).write_bytes(marked.tobytes() + b"half an image")
    list(processes.carry_out(folder, plan, ["cpu"]))
    with np.load(place / "samples.npz") as stored:
        assert (stored["images"][:7] == marked).all()
        assert np.abs(stored["images"][7:].astype(int) - images[7:]).max() <= 1
    assert not (place / cells.RAW).exists()


def test_damaged_samples_are_drawn_again_and_the_training_kept(
    small: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "start", Inside)
    folder = tmp_path / "s"
    plan = planned(folder, models=["wgan"], features=str(clf))
    list(processes.carry_out(folder, plan, ["cpu"]))
    place = folder / "cells/shapes.identity.wgan"
    metrics, began = progress.result(folder, place.name), (place / "run" / checkpoint.MODEL).stat().st_mtime_ns
    whole = (place / study.SAMPLES).read_bytes()
    for damage in (b"PK", whole[: len(whole) // 2], whole[:500] + b"x" * 50 + whole[550:], None):
        if damage is None:
            (place / cells.SAID).unlink()
            (place / cells.RAW).write_bytes(b"")
        else:
            (place / study.SAMPLES).write_bytes(damage)
        write_json(place / study.RESULT, {"error": "samples.npz is damaged"})
        assert [event.state for event in processes.carry_out(folder, plan, ["cpu"], retry=True)] == ["begun", "done"]
        found = progress.result(folder, place.name)
        assert found is not None and metrics is not None and found["metrics"] == metrics["metrics"]
    (place / cells.RAW).write_bytes(b"of a process that was killed before it could unlink it")
    assert cells.drawn_before(place, plan) is not None and not (place / cells.RAW).exists()
    assert (place / "run" / checkpoint.MODEL).stat().st_mtime_ns == began


def test_a_table_is_of_one_data_set_and_one_network(
    small: None, clf: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images taken away, or weights replaced, in the middle of a study: the cell fails, and says by what."""
    monkeypatch.setattr(processes, "start", Inside)
    mine, folder = tmp_path / "mine", tmp_path / "s"
    shutil.copytree(photos, mine)
    plan = planned(folder, datasets=["folder"], data_dir=str(mine), models=["wgan"], features=str(clf))
    list(processes.carry_out(folder, plan, ["cpu"]))
    cell = "folder.identity.wgan"
    assert progress.state(folder, cell) == "done"
    next(path for path in sorted(mine.rglob("*")) if path.is_file()).unlink()
    shutil.move(folder / "cells", tmp_path / "before")
    list(processes.carry_out(folder, plan, ["cpu"]))
    said = (progress.result(folder, cell) or {})["error"]
    assert said.startswith("the images of folder.identity.wgan are not those that its study began with. Bring")
    assert not (folder / "cells" / cell / "run").exists()
    shutil.rmtree(folder / "data")
    shutil.copytree(tmp_path / "before" / cell, folder / "cells" / cell, dirs_exist_ok=True)
    with pytest.raises(UserError, match=f"the images of {cell} are not those"):  # the cell is older than the change
        references.prepare(plan, folder, "folder.identity", torch.device("cpu"))
    network = references.network_of(plan, torch.device("cpu"))
    same = plan | {"network": asdict(network.identity)}
    assert references.network_of(same, torch.device("cpu")).sha256 == network.sha256
    with pytest.raises(UserError, match="is another network than this study began with"):
        references.network_of(plan | {"network": {"weights": "0" * 64}}, torch.device("cpu"))


def test_a_training_that_diverges_says_how_to_go_on(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """compare has no --lr: the run is trained by hand, as any run, and compare goes on with it."""
    monkeypatch.setitem(DDPM_PRESETS, "cpu", replace(tiny(), training=replace(tiny().training, lr=3e38, warmup=0)))
    plan = planned(tmp_path / "s", steps=3)
    run = tmp_path / "s" / "my cells" / "run"
    with pytest.raises(UserError, match=r"In a study: `minidiff train ddpm --resume '.*cells/run' --lr 1e\+38`, then"):
        cells.train(plan, "shapes.identity.ddpm", run, torch.device("cpu"))


def test_the_seconds_of_a_training_are_those_of_its_steps(tmp_path: Path) -> None:
    """By the rate of each record: what a kill lost is in none, and neither is a measurement in between."""
    write_json(tmp_path / checkpoint.CONFIG, {"kind": "ddpm", "training": {"batch_size": 4}})
    first, second = ({"step": 2, "loss": 1, "images_per_second": 8}, {"step": 5, "loss": 1, "images_per_second": 4})
    write_metrics(tmp_path, [first, {"step": 2, "diversity": 0.5}, second])
    assert cells.training_seconds(tmp_path) == 2 * 4 / 8 + 3 * 4 / 4


def test_a_cell_that_fails_fails_alone(small: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line is written down, the others go on; it is tried again when that is asked for, and not before. Where the
    data fail, all their cells do, and those of other data do not."""
    monkeypatch.setattr(processes, "start", Inside)
    folder = tmp_path / "s"
    gone = {"folder": "gone"}
    plan = planned(folder, datasets=["folder", "shapes"], models=["ddpm", "wgan"], features=str(clf), data_dir=gone)
    training, broken = cells.training, True

    def failing(settings: dict[str, Any], cell: str, *more: Any) -> Any:
        if broken and cell.endswith("ddpm"):
            raise RuntimeError("a planted fault\nin two lines")
        return training(settings, cell, *more)

    monkeypatch.setattr(cells, "training", failing)
    events = [event for event in processes.carry_out(folder, plan, ["cpu"]) if event.state != "begun"]
    assert [(event.name, event.state) for event in events] == [
        ("folder.identity", "failed"), ("shapes.identity", "done"), ("shapes.identity.ddpm", "failed"),
        ("shapes.identity.wgan", "done"),
    ]  # fmt: skip
    assert [progress.state(folder, cell) for cell in plan["cells"]] == ["failed", "failed", "failed", "done"]
    errors = [(progress.result(folder, cell) or {}).get("error", "") for cell in plan["cells"]]
    assert all("its data: --data-dir" in error and "is not there" in error for error in errors[:2])
    assert errors[2] == "RuntimeError: a planted fault"
    assert list(processes.carry_out(folder, plan, ["cpu"])) == []
    broken = False
    again = [(event.name, event.state) for event in processes.carry_out(folder, plan, ["cpu"], retry=True)]
    assert ("shapes.identity.ddpm", "done") in again and ("folder.identity", "failed") in again
    assert [progress.state(folder, cell) for cell in plan["cells"]] == ["failed", "failed", "done", "done"]
    assert "failed: its data" in next(progress.table(plan, folder))


# --- the processes --------------------------------------------------------------------------------------------------


class Pretended(Inside):
    """A process that ends after it was asked three times, and has then left what it should."""

    at_once: ClassVar[list[str]]
    most: ClassVar[list[list[str]]]
    code = 0

    def __init__(self, arguments: list[str], device: str, share: int = 1, **streams: Any) -> None:
        self.folder, self.name, self.device, self.left = Path(arguments[0]), arguments[1], device, 3
        self.at_once.append(device)
        self.most.append(sorted(self.at_once))

    def poll(self) -> int | None:  # type: ignore[override]
        self.left -= 1
        if self.left > 0:
            return None
        if self.left == 0:
            self.at_once.remove(self.device)
            place = study.home(self.folder, self.name)
            if self.code:
                return self.code
            if self.name.count(".") == 1:
                (place / study.STATISTICS).touch()
            else:
                write_json(place / study.RESULT, {"metrics": {}})
        return self.code

    def kill(self) -> None:  # type: ignore[override]
        pass

    def wait(self, patience: float = 0) -> None:  # type: ignore[override]
        pass

    terminate = kill  # type: ignore[assignment]

    @property
    def returncode(self) -> int:
        return self.code


@pytest.fixture()
def pretended(monkeypatch: pytest.MonkeyPatch) -> type[Pretended]:
    monkeypatch.setattr(processes, "start", Pretended)
    monkeypatch.setattr(processes, "POLL", 0)
    monkeypatch.setattr(Pretended, "at_once", [], raising=False)
    monkeypatch.setattr(Pretended, "most", [], raising=False)
    return Pretended


def test_several_at_once_have_a_device_each(pretended: type[Pretended], tmp_path: Path) -> None:
    """Never more than there are devices; a cell begins when its data are there, and not before."""
    folder = tmp_path / "s"
    plan = planned(folder, corruptions=["identity", "fog", "scale"])
    events = [(event.name, event.state) for event in processes.carry_out(folder, plan, ["cuda:0", "cuda:1"])]
    assert sorted(events) == sorted(
        (name, state) for name in [*plan["cells"], *study.data_names(plan)] for state in ("begun", "done")
    )
    for cell in plan["cells"]:
        assert events.index((study.data_of(cell), "done")) < events.index((cell, "begun"))
    assert max(pretended.most, key=len) == ["cuda:0", "cuda:1"]
    assert events[:2] == [("shapes.identity", "begun"), ("shapes.fog", "begun")]


def test_a_process_that_was_killed_is_written_down(
    pretended: type[Pretended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not say anything itself. Cells that are done stay so, whatever becomes of their data."""
    folder = tmp_path / "s"
    plan = planned(folder)
    write_json(study.home(folder, "shapes.identity.wgan") / study.RESULT, {"metrics": {}})
    monkeypatch.setattr(Pretended, "code", -signal.SIGKILL)
    last = list(processes.carry_out(folder, plan, ["cpu"]))[-1]
    assert (last.name, last.state) == ("shapes.identity", "failed") and last.text.endswith("1 cell needs it.")
    assert progress.state(folder, "shapes.identity.wgan") == "done"
    error = (progress.result(folder, "shapes.identity.ddpm") or {})["error"]
    assert error.startswith("its data: its process was ended by SIGKILL, as the system does when memory runs out. Try")
    study.home(folder, "shapes.identity").joinpath(study.STATISTICS).touch()
    last = list(processes.carry_out(folder, plan, ["cpu"], retry=True))[-1]
    assert last.name == "shapes.identity.ddpm" and last.text.startswith("its process was ended by SIGKILL")


def test_a_full_disk_costs_the_cells_that_met_it(
    pretended: type[Pretended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be written down is said, and the rest goes on; the next time these cells are as they were."""
    folder = tmp_path / "s"
    plan = planned(folder, corruptions=["identity", "fog"])

    def full(path: Path, value: object) -> None:
        raise UserError(f"cannot write {path}: No space left on device.")

    monkeypatch.setattr(progress, "write_json", full)
    monkeypatch.setattr(Pretended, "code", 1)
    for prepared in (False, True):
        if prepared:
            for data in study.data_names(plan):
                study.home(folder, data).joinpath(study.STATISTICS).touch()
        events = [event for event in processes.carry_out(folder, plan, ["cpu"]) if event.state != "begun"]
        assert [event.name for event in events] == (plan["cells"] if prepared else study.data_names(plan))
        assert all(event.state == "failed" and "exit code 1. Try it again" in event.text for event in events)
    assert {progress.state(folder, cell) for cell in plan["cells"]} == {"new"}


def test_a_study_that_breaks_lets_its_cells_save(
    pretended: type[Pretended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_to: list[str] = []
    monkeypatch.setattr(Pretended, "terminate", lambda self: asked_to.append("save"))
    monkeypatch.setattr(Pretended, "kill", lambda self: asked_to.append("end"))

    def broken(*of_a_cell: Any) -> None:
        raise RuntimeError("a planted fault")

    monkeypatch.setattr(processes, "conclude", broken)
    plan = planned(tmp_path / "s", corruptions=["identity", "fog"])
    with pytest.raises(RuntimeError, match="planted"):
        list(processes.carry_out(tmp_path / "s", plan, ["cpu", "cpu"]))
    assert asked_to == ["end", "save", "end"]  # that which had ended; then the other, gently


def test_a_result_of_another_form_is_a_failed_cell(tmp_path: Path) -> None:
    """The table and the page go by the same reading of it."""
    plan = planned(tmp_path / "s")
    path = study.home(tmp_path / "s", "shapes.identity.wgan") / study.RESULT
    for text in ('{"foo": 1}', "{", "[]", '{"metrics": {"fid": {"value": "near"}}}'):
        path.write_text(text)
        assert progress.state(tmp_path / "s", "shapes.identity.wgan") == "failed"
        assert "failed: " in next(progress.table(plan, tmp_path / "s"))
        assert "shapes.identity.wgan" not in processes.unfinished(tmp_path / "s", plan, False)
    fid = {"title": "FID", "value": 3.0, "low": None, "high": None}
    write_json(path, {"metrics": {"fid": fid}, "warnings": ["40 of 40 images are noise. Likely causes: x."]})
    assert next(progress.table(plan, tmp_path / "s")).endswith("  FID 3   BUT 40 of 40 images are noise")


def test_two_studies_in_one_folder(pretended: type[Pretended], tmp_path: Path) -> None:
    plan = planned(tmp_path / "s")
    with locked(tmp_path / "s"), pytest.raises(UserError, match="another process is at work"):
        list(processes.carry_out(tmp_path / "s", plan, ["cpu"]))


def test_sigterm_lets_the_cells_save(
    pretended: type[Pretended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes are asked once, and nothing of them is written down as failed."""
    folder, told = tmp_path / "s", []
    plan = planned(folder)
    monkeypatch.setattr(Pretended, "terminate", lambda self: told.append(self.name))
    with pytest.raises(Interrupted, match="Stopped by SIGTERM") as stopped:
        for event in processes.carry_out(folder, plan, ["cpu"]):
            if (event.name, event.state) == ("shapes.identity.wgan", "begun"):
                os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143 and told == ["shapes.identity.wgan"]
    assert progress.result(folder, "shapes.identity.wgan") is None

    def ended_too(self: Pretended) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return -signal.SIGTERM

    monkeypatch.setattr(Pretended, "poll", ended_too)  # where the signal went to the cell as well
    with pytest.raises(Interrupted):
        list(processes.carry_out(folder, plan, ["cpu"]))
    assert progress.result(folder, "shapes.identity.wgan") is None


def test_a_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that several cells use; a GPU's cells keep all."""
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    seen = []

    def noted(command: list[str], env: dict[str, str], **more: Any) -> None:
        seen.append((command[-1], env["OMP_NUM_THREADS"]))

    monkeypatch.setattr(subprocess, "Popen", noted)
    for device, share in [("cpu", 1), ("cpu", 3), ("cpu", 20), ("cuda:0", 2)]:
        processes.start(["s", "cell"], device, share)
    assert seen == [("cpu", "8"), ("cpu", "2"), ("cpu", "1"), ("cuda:0", "8")]


def test_what_cannot_be_timed_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The line of the model, of another process; and of one that dies without a word."""
    settings = study.settings_of(tmp_path / "s", asked(features=str(tmp_path / "gone")), "cpu")
    with pytest.raises(UserError, match="gone are neither inception nor a run"):
        processes.timed(settings, "cpu")
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(UserError, match="could not be timed: its process ended with exit code 1"):
        processes.timed(settings, "cpu")


WATCHED = """
import sys
from pathlib import Path
from minidiff.studies import processes, study
folder = Path(sys.argv[1])
for event in processes.carry_out(folder, study.read(folder), ["cpu"]):
    print(event, flush=True)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_a_cell_and_taken_up_again(
    small: None, clf: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the study: the cell notices, saves and goes, and the study that follows ends with the weights of a
    training that was never stopped, to the bit; no step is in the metrics twice, and none is missing."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "s"
    options = {"datasets": ["folder"], "data_dir": str(photos), "models": ["dcgan"], "steps": 24, "features": str(clf)}
    for name in ("seconds_per_step", "seconds_per_sample"):
        monkeypatch.setitem(TIMES, name, {"dcgan": 1})
    plan = planned(folder, **options)
    references.prepare(plan, folder, "folder.identity", torch.device("cpu"))
    run = folder / "cells" / "folder.identity.dcgan" / "run"
    with subprocess.Popen([sys.executable, "-c", WATCHED, str(folder)]) as killed:
        until = time.monotonic() + 120
        while len(read_metrics(run)) < 3:
            assert time.monotonic() < until and killed.poll() is None
            time.sleep(0.05)
        killed.kill()
    with cells.alone(run.parent):  # when the cell is gone
        assert read_metrics(run)[-1]["step"] < 24 and (run / checkpoint.STATE).exists()
    events = [(event.name, event.state) for event in processes.carry_out(folder, plan, ["cpu"])]
    assert events == [("folder.identity.dcgan", "begun"), ("folder.identity.dcgan", "done")]
    steps = [record["step"] for record in read_metrics(run) if "loss" in record]
    assert steps == list(range(1, 25))
    whole = cells.training(plan, "folder.identity.dcgan", tmp_path / "whole", torch.device("cpu"))
    for _ in whole.trainer.steps():
        pass
    trained = checkpoint.read_tensors(run / checkpoint.MODEL)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in whole.trainer.ema.state_dict().items())


# --- the command ----------------------------------------------------------------------------------------------------


def compare(*more: str) -> int:
    return cli.run(["compare", "--device", "cpu", "--out", "s", *more])


NEW = ("--datasets", "shapes", "--models", "wgan,ddpm", "--num", "20", "--image-size", "16")


@pytest.fixture()
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "timed", lambda settings, device, share: TIMES)
    monkeypatch.setattr(inception_weights, "find_weights", lambda **_: None)
    monkeypatch.setattr(processes, "start", Inside)


def test_dry_run_tells_the_hours_and_leaves_nothing(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*NEW, "--minutes", "90", "--corruptions", "all", "--dry-run") == 0
    said, warned = capsys.readouterr()
    assert not Path("s").exists() and "20 samples for the 2,048 features" in warned
    assert "1 data set x 16 corruptions x 2 models: 32 cells, 16x16" in said
    assert "10,800 steps of 0.5 s: 1 h 30 min for each cell" in said
    assert "shapes.zigzag.ddpm" in said and "1 h 30 min  new" in said


def test_a_study_that_was_done_grows_by_a_cell(
    quick: None, small: None, clf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the new cell is done; a dry run of it leaves the study as it was."""
    asked_of = []

    def timed(settings: dict[str, Any], *more: Any) -> dict[str, Any]:
        asked_of.append(settings["models"])
        of_each = {name: {model: TIMES[name][model] for model in settings["models"]}
                   for name in ("steps", "seconds_per_step", "seconds_per_sample")}  # fmt: skip
        return {**TIMES, **of_each}

    monkeypatch.setattr(processes, "timed", timed)
    order = ("--datasets", "shapes", "--num", "20", "--image-size", "16", "--features", str(clf), "--steps", "2")
    assert compare(*order, "--models", "wgan") == 0
    before, first = Path("s/study.json").read_bytes(), Path("s/cells/shapes.identity.wgan/result.json").read_bytes()
    capsys.readouterr()
    assert compare("--models", "ddpm,wgan", "--steps", "ddpm=3", "--dry-run") == 0
    assert Path("s/study.json").read_bytes() == before and "shapes.identity.ddpm" in capsys.readouterr().out
    assert compare("--models", "ddpm,wgan", "--steps", "ddpm=3") == 0
    said = capsys.readouterr().out
    assert "done      shapes.identity.ddpm" in said and "begun     shapes.identity.wgan" not in said
    assert Path("s/cells/shapes.identity.wgan/result.json").read_bytes() == first
    assert json.loads(Path("s/cells/shapes.identity.ddpm/result.json").read_text())["steps"] == 3
    assert asked_of == [["wgan"], ["ddpm"], ["ddpm"]]


def test_a_study_of_another_machine_can_be_looked_at(
    small: None, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun on a GPU, and there is none here: the plan is told, and going on is refused in a line."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    plan = study.complete(study.settings_of(Path("s"), asked(device="cuda"), "cpu"), TIMES)
    study.create(Path("s"), plan)
    assert plan["device"] == "cuda"
    assert cli.run(["compare", "--out", "s", "--dry-run"]) == 0
    assert "on cuda" in capsys.readouterr().out
    assert cli.run(["compare", "--out", "s"]) == 1
    assert "Error: this study was begun on cuda, which is not here. Go on where it is.\n" in capsys.readouterr().err


def test_the_command_ends_with_what_was_found_and_what_was_not(
    quick: None, small: None, clf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed cell makes the exit code 1, and stands in the page; a page that cannot be written costs nothing."""
    training = cells.training

    def failing(settings: dict[str, Any], cell: str, *more: Any) -> Any:
        if cell.endswith("ddpm"):
            raise UserError("a planted fault. Mend it.")
        return training(settings, cell, *more)

    monkeypatch.setattr(cells, "training", failing)
    assert compare(*NEW, "--features", str(clf), "--steps", "ddpm=3,wgan=2") == 1
    said = capsys.readouterr()
    assert "done      shapes.identity.wgan: FD(classifier)" in said.out
    assert "failed    shapes.identity.ddpm: a planted fault. Mend it.\n" in said.out
    assert "Error: 1 of 2 cells failed. Mend what they say, then --retry.\n" in said.err
    assert "a planted fault" in Path("s/report.html").read_text()
    assert json.loads(Path("s/study.json").read_text())["steps"] == {"wgan": 2, "ddpm": 3}
    Path("s/report.html").unlink()
    Path("s/report.html").mkdir()
    monkeypatch.setattr(cells, "training", training)
    assert compare("--retry") == 0
    said = capsys.readouterr()
    assert "Warning: report.html could not be written" in said.err and said.out.count("FD(classifier)") == 3


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--models", "ddpm"), 1, "needs --datasets"),
        (("--datasets", "shapes", "--models", "gan"), 2, "unknown model 'gan'"),
        ((*NEW, "--corruptions", "motion_blurr"), 2, "Did you mean 'motion_blur'"),
        ((*NEW, "--steps", "ddpm=x"), 2, "whole number from 1"),
        ((*NEW, "--steps", "dpm=5"), 2, "unknown model 'dpm'"),
        ((*NEW, "--steps", "5", "--minutes", "5"), 1, "Leave one of them out"),
    ],
)
def test_wrong_orders(more: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(*more) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not Path("s").exists()
