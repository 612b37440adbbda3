"""A study of priors: its cells and what they need, its samples, its measurements, and a tiny one from end to end."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import minidiff
from minidiff import cli, load
from minidiff.data.image_data import ImageData
from minidiff.errors import UserError
from minidiff.files import read_json, write_json
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import read_image
from minidiff.metrics import features
from minidiff.priors import presets
from minidiff.priors.run import PriorRun
from minidiff.studies import prior_cell, prior_draw, prior_timing, processes, progress
from minidiff.studies.config import StudyRequest
from minidiff.studies.planning import decide
from minidiff.studies.prior_config import PriorRequest, PriorStudy, models_of
from minidiff.studies.prior_figures import MEASURED, read_measured, spread
from minidiff.studies.prior_planning import plan_priors
from minidiff.studies.prior_timing import Pace, expected, expected_seconds
from minidiff.studies.study import keep_study, read_study

pytestmark = pytest.mark.usefixtures("own_folder")
CPU = torch.device("cpu")
DATA = "shapes.identity"


def asked(clf: Path, **more: Any) -> PriorRequest:
    """Ask for a study that takes seconds: six steps, measured at 4 and 6; one prior; one seed."""
    usual = {"dataset": "shapes", "nets": ("conv2",), "steps": 6, "prior_steps": 2, "measure_every": 4, "num": 20,
             "image_size": 16, "seeds": 1, "features": str(clf), "device": "cpu"}  # fmt: skip
    return PriorRequest(**{**usual, **more})


def planned(folder: Path, clf: Path, **more: Any) -> PriorStudy:
    study = plan_priors(folder, asked(clf, **more), "cpu")
    keep_study(folder, study)
    return study


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_cells_wait_for_what_they_draw_with(clf: Path, tmp_path: Path) -> None:
    """Those of the same seed. Fails when a start of the second seed draws with the first one's DDPM or prior."""
    study = planned(tmp_path / "s", clf, seeds=2, nets=("cnn", "conv2"))
    assert study.models == (
        "plain", "prior-cnn", "prior-conv2", "target-cnn", "target-conv2", "start-cnn", "start-conv2", "start-mean",
        "start-blurred", "start-wrong", "residual-cnn", "residual-conv2", "residual-wrong",
    )  # fmt: skip
    needed = {cell.rpartition(".")[2]: study.needs(cell) for cell in study.cells}
    assert needed["plain"] == needed["prior-cnn+1"] == () and needed["start-mean"] == (f"{DATA}.plain",)
    assert needed["start-conv2+1"] == (f"{DATA}.plain+1", f"{DATA}.prior-conv2+1")
    assert needed["start-wrong"] == (f"{DATA}.plain", f"{DATA}.prior-cnn")
    assert needed["residual-conv2"] == needed["target-conv2"] == (f"{DATA}.prior-conv2",)
    assert needed["residual-wrong+1"] == (f"{DATA}.residual-cnn+1", f"{DATA}.prior-cnn+1")
    assert [cell.partition(".")[2] for cell in study.cells if study.lends(cell)] == [
        f"identity.{model}{seed}" for seed in ("", "+1") for model in ("plain", "residual-cnn")
    ]
    for cell in study.cells:
        assert all(study.cells.index(before) < study.cells.index(cell) for before in study.needs(cell))
    assert study.moments == [4, 6]
    assert study.points_of(study.cells[0]) == [(4, 1.0), (6, 1.0), (6, 0.25), (6, 0.5), (6, 0.75)]
    assert study.points_of(f"{DATA}.start-mean") == [(4, 0.5), (6, 0.5), (6, 0.25), (6, 0.75)]
    assert models_of(("conv2",), ("target",)) == ("plain", "prior-conv2", "target-conv2")


def test_at_once_a_cell_starts_when_what_it_needs_is_over(clf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    study = planned(folder, clf)
    (folder / "data" / DATA).mkdir(parents=True)
    (folder / "data" / DATA / "statistics.npz").touch()
    waiting = [f"{DATA}.start-conv2", f"{DATA}.prior-conv2"]
    assert processes.next_of(folder, study, waiting, []) == f"{DATA}.prior-conv2"
    assert processes.next_of(folder, study, waiting, [f"{DATA}.prior-conv2"]) is None
    assert processes.next_of(folder, study, waiting[:1], []) == f"{DATA}.start-conv2"


def test_the_same_command_goes_on_and_others_are_refused(clf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    study = planned(folder, clf, uses=("start",))
    assert read_study(folder) == study and plan_priors(folder, PriorRequest(), "cuda") == study
    grown = plan_priors(folder, PriorRequest(seeds=2, uses=("residual", "start"), nets=("cnn", "conv2")), "cpu")
    assert (
        grown.uses == ("start", "residual") and grown.nets == ("conv2", "cnn") and set(study.cells) < set(grown.cells)
    )
    keep_study(folder, grown)
    for wrong, said in (
        ({"num": 30}, "`num` 20, not 30"), ({"seeds": 1}, "`seeds` 2, not 1"), ({"uses": ("start",)}, "`uses` start"),
        ({"dataset": "mnist"}, "`dataset` shapes, not mnist"), ({"nets": ("conv3",)}, "Did you mean 'conv2'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            plan_priors(folder, PriorRequest(**wrong), "cpu")
    with pytest.raises(UserError, match="is a study of priors. Go on with it by `minidiff compare-priors`"):
        decide(folder, StudyRequest(), "cpu")
    for more, said in (
        ({"dataset": None}, "needs `dataset`"), ({"measure_every": 7}, "`measure_every` is 7, and there are 6 `steps`"),
        ({"nets": ("resnet18",)}, "halves its images until 32"), ({"noise": -1.0}, "`noise`"),
        ({"uses": ("begin",)}, "unknown use of a prior 'begin'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            plan_priors(tmp_path / "new", asked(clf, **more), "cpu")


# --- what is measured -------------------------------------------------------------------------------------------------


def test_diversity_and_nearest_are_those_of_the_definition() -> None:
    """By numpy. Fails when the distance of a sample to itself counts."""
    random = np.random.default_rng(0)
    made, real = (random.standard_normal((n, 5)).astype(np.float32) for n in (600, 40))
    pairs = np.linalg.norm(made[:, None].astype(float) - made, axis=2)
    found = spread(made, real)
    assert found["diversity"].value == pytest.approx(pairs.sum() / (600 * 599))
    apart = np.linalg.norm(made[:, None].astype(float) - real, axis=2)
    assert found["nearest"].value == pytest.approx(apart.min(axis=1).mean())
    assert spread(real, real)["nearest"].value == 0


def test_a_blur_keeps_what_is_flat_and_takes_the_detail() -> None:
    """A Gaussian of 1/16 of the height: white noise keeps 1 / (4 pi sigma^2) of its variance."""
    flat = torch.full((2, 3, 32, 32), -0.25)
    assert torch.allclose(prior_draw.blurred(flat), flat, atol=1e-6)
    noise = torch.randn(64, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    ratio = prior_draw.blurred(noise)[:, :, 16:48, 16:48].var() / noise.var()
    assert ratio == pytest.approx(1 / (4 * np.pi * 4**2), rel=0.1)


def test_every_control_has_the_same_image_behind_a_sample(clf: Path, tmp_path: Path) -> None:
    """The prior of sample k sees what is blurred for sample k. The wrong one sees it with its quarters exchanged."""
    seen: list[torch.Tensor] = []

    class Looking:
        config, noise = SimpleNamespace(noise=0.0), 0.0
        outputs = PriorRun.outputs

        def clean(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images

    images = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 1), dtype=np.uint8)
    data = ImageData("made", images, np.zeros((9, 0), np.uint8), [], flip=True)
    prior: Any = Looking()
    shown = torch.stack([prior_draw.shown(data, 0.0, 7, index) for index in range(5)])
    assert torch.equal(prior.outputs(data, range(5), 7), shown) and not torch.equal(shown[0], shown[1])
    prior_draw.wrong_outputs(prior, data, range(5), 7)
    halves = torch.cat([shown[..., 8:], shown[..., :8]], dim=3)
    assert torch.equal(seen[-1], torch.cat([halves[..., 8:, :], halves[..., :8, :]], dim=2))
    mean = prior_draw.mean_image(data, at_once=4)
    assert torch.allclose(mean, to_float(images).mean(dim=0, keepdim=True), atol=1e-6)


def test_inception_is_measured_beside_a_classifier(
    quick: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for its weights. Its figures have a name of their own, and real images of their own."""
    choose = features.choose

    def stand_in(name: str, **more: Any) -> Any:
        return replace(choose(str(clf), **more), name="inception") if name == "inception" else choose(name, **more)

    monkeypatch.setattr(features, "choose", stand_in)
    folder = tmp_path / "s"
    planned(folder, clf, fid=True, uses=("target",))
    cell = f"{DATA}.plain"
    assert prior_cell.main([str(folder), DATA, "cpu"]) == 0 and prior_cell.main([str(folder), cell, "cpu"]) == 0
    found = read_measured(folder / "cells" / cell)[0].metrics
    assert {"fid", "inception_fid", "inception_kid"} < set(found)
    assert found["inception_fid"].title.startswith("FID") and found["fid"].title == "FD(classifier)"
    assert found["inception_fid"].value == pytest.approx(found["fid"].value)
    assert (folder / "fid" / "data" / DATA / "statistics.npz").exists()
    with pytest.raises(UserError, match="`fid` adds Inception"):
        plan_priors(tmp_path / "other", asked(clf, fid=True, features="inception"), "cpu")


# --- from end to end --------------------------------------------------------------------------------------------------


@pytest.fixture()
def quick(monkeypatch: pytest.MonkeyPatch, small: None, inside: None) -> None:
    """Every part of a study in a moment."""
    from minidiff.priors import job

    monkeypatch.setattr(job, "MEASURED", 8)
    assert presets.DIP_PRIOR_PRESETS["cpu"].training.batch_size == 32
    monkeypatch.setattr(prior_cell, "SHOWN", 4)
    monkeypatch.setattr(prior_draw, "CALLS", 4)


def test_a_tiny_study_from_end_to_end(
    quick: None, clf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cells are trained and measured, and the page shows them; a second time nothing is done.

    A start draws with the plain weights of each step, from the outputs of its prior: to the bit as a run of that use.
    """
    line = (
        f"compare-priors --dataset shapes --nets conv2 --steps 6 --prior-steps 2 --measure-every 4 --samples 20 "
        f"--image-size 16 --seeds 1 --features {clf} --device cpu --out s"
    )
    pages: list[Path] = []
    monkeypatch.setattr("minidiff.cli.study_run.write_page", pages.append)  # to draw it takes a second each time
    assert cli.run(line.split()) == 0, capsys.readouterr().err
    assert len(pages) == 10 and cli.run(["report", "s"]) == 0
    folder = Path("s")
    study = read_study(folder)
    assert isinstance(study, PriorStudy) and progress.unfinished(folder, study, retry=True) == []
    measured = {cell.rpartition(".")[2]: read_measured(folder / "cells" / cell) for cell in study.cells}
    for model, records in measured.items():
        assert [(one.step, one.share) for one in records] == sorted(study.points_of(f"{DATA}.{model}"))
        for one in records:
            assert set(one.metrics) == {"fid", "kid", "diversity", "nearest"} and one.sample_seconds > 0
            assert one.train_seconds > 0
    assert [one.evaluations for one in measured["plain"]] == [4, 1, 2, 3, 4]
    assert [one.evaluations for one in measured["start-conv2"]] == [3, 2, 3, 4]
    assert [one.evaluations for one in measured["start-mean"]] == [2, 1, 2, 3]
    assert measured["prior-conv2"][0].evaluations == 1 and measured["residual-conv2"][0].evaluations == 5
    assert measured["residual-wrong"][0].evaluations == 5
    prior_too = measured["start-conv2"][-1].train_seconds - measured["plain"][-1].train_seconds
    assert prior_too == pytest.approx(measured["prior-conv2"][0].train_seconds)

    plain, start = (folder / "cells" / f"{DATA}.{model}" for model in ("plain", "start-conv2"))
    prior = load(folder / "cells" / f"{DATA}.prior-conv2" / "run")
    run = load(plain / "run")
    outputs = prior.draw(range(20))
    drawn = run.draw(range(20), sampler="dpm++sde", steps=2, start_t=25, init=outputs)
    with np.load(start / "samples.npz") as stored:
        assert np.abs(stored["images"].astype(int) - to_uint8(drawn)).max() <= 1
        images = {model: np.load(folder / "cells" / f"{DATA}.{model}" / "samples.npz")["images"] for model in measured}
    assert len({image.tobytes() for image in images.values()}) == len(images)

    assert measured["plain"][0].metrics != measured["plain"][-1].metrics  # of the weights of that step
    rows = [read_image(path) for path in sorted((plain / "strips").glob("*.png"))]
    lent = [path.parent.name for path in sorted(folder.glob("cells/*/at"))]
    assert lent == [f"{DATA}.plain", f"{DATA}.residual-conv2"]
    sizes = read_json(start / "result.json")["parameters"], sum(p.numel() for p in run.model.parameters())
    assert sizes[0] == sizes[1]
    assert len(rows) == 2 and (rows[0] != rows[1]).any()
    assert read_image(plain / "strips.png").shape[0] == sum(len(row) for row in rows)

    page = (folder / "report.html").read_text()
    for said in ("minidiff compare-priors", "start-wrong", "network evaluations", "Samples along the training"):
        assert said in page, said
    said = capsys.readouterr()
    assert said.out.count("FD(classifier)") >= len(study.cells) and "left      1 cell\n" in said.out
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    assert list(minidiff.compare_priors("s")) == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")} == before


def test_a_residual_is_shown_the_wrong_pictures(clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample k sees what the prior makes of exchanged quarters, with the weights of the step, and starts from noise.

    Fails when the run draws with the outputs of its own prior.
    """
    folder = tmp_path / "s"
    study = planned(folder, clf, nets=("cnn", "conv2"))
    asked_for: list[Any] = []

    class Drawing:
        schedule, images = SimpleNamespace(T=50), None

        def draw(self, rows: range, **options: Any) -> torch.Tensor:
            asked_for.append(options)
            return torch.zeros(len(rows), 3, 16, 16)

    opened: list[Path] = []
    monkeypatch.setattr(prior_draw, "run_at", lambda place, step, device: opened.append(place / str(step)) or Drawing())
    monkeypatch.setattr(prior_draw, "load_prior", lambda place, device: place.parent.name)
    monkeypatch.setattr(prior_draw, "wrong_outputs", lambda prior, data, rows, seed: torch.full((len(rows), 1), 7.0))
    data: Any = None
    drawn = prior_draw.drawn_by(study, folder, f"{DATA}.residual-wrong", data, (4, 1.0), CPU)
    assert opened == [folder / "cells" / f"{DATA}.residual-cnn" / "4"] and drawn.prior_calls == 1
    assert asked_for[0]["prior"].tolist() == [[7.0]] * 20
    assert asked_for[0]["init"] is None and asked_for[0]["start_t"] is None
    prior_draw.drawn_by(study, folder, f"{DATA}.residual-cnn", data, (4, 1.0), CPU)
    assert asked_for[1]["prior"] is None


def test_a_study_from_before_a_control_opens_and_grows_by_it(clf: Path, tmp_path: Path) -> None:
    """It is read as it is, for its page. Taken up it has the control, at the last step if no weights were kept."""
    folder = tmp_path / "s"
    study = planned(folder, clf, uses=("residual",))
    stored = read_json(folder / "study.json")
    models = [model for model in stored["models"] if model != "residual-wrong"]
    steps = {model: count for model, count in stored["steps"].items() if model in models}
    cells = [cell for cell in stored["cells"] if "wrong" not in cell]
    write_json(folder / "study.json", stored | {"models": models, "steps": steps, "cells": cells})
    old = read_study(folder)
    assert isinstance(old, PriorStudy) and len(old.cells) == 3
    assert plan_priors(folder, PriorRequest(), "cpu") == study
    wrong, place = f"{DATA}.residual-wrong", folder / "cells" / f"{DATA}.residual-conv2" / "at"
    assert {step for step, _ in prior_cell.points_kept(study, folder, wrong)} == {6}
    assert study.main_of(wrong) in prior_cell.points_kept(study, folder, wrong)
    place.mkdir(parents=True)
    assert prior_cell.points_kept(study, folder, wrong) == study.points_of(wrong)


# --- how long it takes ------------------------------------------------------------------------------------------------


def test_the_time_is_that_of_the_steps_the_calls_and_the_images(
    clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted by hand. Fails when a start counts as a training, or its calls as those of a whole chain."""
    folder = tmp_path / "s"
    study = planned(folder, clf, uses=("start",))
    steps = Pace({"plain": 1.0, "prior-conv2": 0.1}, 0.0, 0.0, 48)
    assert expected_seconds(study, folder, study.cells, steps) == pytest.approx(6 + 0.2)
    calls = {"plain": 20 + 20 + 5 + 10 + 15, "prior-conv2": 0, "start-conv2": 10 + 10 + 5 + 15}
    for model, count in calls.items():
        previews = 20 * prior_timing.PREVIEWS * (model == "plain")
        drawing = Pace({"plain": 0.0, "prior-conv2": 0.0}, 1.0, 0.0, 48)
        assert expected_seconds(study, folder, [f"{DATA}.{model}"], drawing) == 20 * count + previews
    images = Pace({"plain": 0.0, "prior-conv2": 0.0}, 0.0, 1.0, 48)
    assert expected_seconds(study, folder, study.cells, images) == 20 * (5 + 1 + 4 * 4) + 48 + 48 + 40

    monkeypatch.setattr(
        prior_timing, "take_pace", lambda study, device: replace(steps, step={"plain": 1200.0, "prior-conv2": 0})
    )
    assert cli.run(["compare-priors", "--out", str(folder), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "time      about 2 h 00 min on this machine, one cell at a time and beside nothing else\n" in said
    monkeypatch.setattr(prior_timing, "foresee", lambda study: ["shapes is not on this machine: download."])
    assert expected(study, folder, study.cells, None).startswith("not known before the images are here: shapes")
    assert expected(study, folder, [], None) == "nothing is left to do"


def test_every_pace_is_taken(quick: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the folder of the study."""
    monkeypatch.setattr(prior_timing, "ENOUGH", 0.0)
    study = planned(tmp_path / "s", clf)
    pace = prior_timing.take_pace(study, CPU)
    assert set(pace.step) == {"plain", "prior-conv2"} and pace.images == 48
    assert min(*pace.step.values(), pace.call, pace.image) > 0
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["study.json"]


# --- after a kill -----------------------------------------------------------------------------------------------------


def test_what_a_kill_left_is_gone_on_with(
    quick: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between a checkpoint and the weights to keep, and in a measurement: the end is the same to the bit."""
    whole, folder = tmp_path / "whole", tmp_path / "s"
    cell = f"{DATA}.plain"
    for place in (whole, folder):
        planned(place, clf)
        assert prior_cell.main([str(place), DATA, "cpu"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(prior_cell, "save_model", kill)
        with pytest.raises(Killed):
            prior_cell.main([str(folder), cell, "cpu"])
    state = torch.load(folder / "cells" / cell / "run" / "state.pt", weights_only=True)
    assert state["step"] == 4
    for place in (whole, folder):
        assert prior_cell.main([str(place), cell, "cpu"]) == 0
    at = [place / "cells" / cell / "at" / "4" / "model.safetensors" for place in (whole, folder)]
    assert at[0].read_bytes() == at[1].read_bytes()

    path = folder / "cells" / cell / MEASURED
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40]]))
    os.remove(path.parent / "result.json")
    assert prior_cell.main([str(folder), cell, "cpu"]) == 0
    figures = [[one.metrics for one in read_measured(place / "cells" / cell)] for place in (whole, folder)]
    assert figures[0] == figures[1] and len(figures[0]) == len(lines)
    assert json.loads(path.read_text().splitlines()[0]) == json.loads(lines[0])
    assert read_json(path.parent / "result.json")["metrics"]["fid"]["value"] == figures[0][-1]["fid"].value


class Killed(BaseException):
    """Ends the process at once, as far as its code can tell."""


def kill(*_: object) -> None:
    raise Killed
