"""The plan of a study: what is decided stands in study.json, a study grows by what is named beside all it has."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from studied import INCEPTION, TIMES, asked, drafted, planned

from minidiff.data import shapes
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.records import to_json
from minidiff.studies import config, models, progress, timing
from minidiff.studies.config import Study, StudyRequest, Times
from minidiff.studies.planning import complete, decide, foresee
from minidiff.studies.study import STATISTICS, STUDY, folder_of, keep_study, read_study

pytestmark = pytest.mark.usefixtures("own_folder")


def refusal(folder: Path, **more: Any) -> str:
    """Return the line with which a request is refused."""
    with pytest.raises(UserError) as refused:
        decide(folder, StudyRequest(**more), "cpu")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_study_is_its_study_json(tmp_path: Path) -> None:
    """What is not asked again is as it was; what is asked and differs is refused, with both values."""
    folder = tmp_path / "s"
    study = planned(folder, corruptions=("identity", "fog", "fog"), features="clf")
    assert study.cells == ("shapes.identity.wgan", "shapes.identity.ddpm", "shapes.fog.wgan", "shapes.fog.ddpm")
    assert study.steps == {"wgan": 2, "ddpm": 2} and study.features == str(tmp_path / "clf")
    assert decide(folder, StudyRequest(), "cpu") == study
    assert decide(folder, StudyRequest(steps=2), "cpu") == study
    usual = [drafted(tmp_path / "new", asked(num=None), device).settings.num for device in ("cpu", "cuda")]
    assert usual == [2000, 10_000]
    again = asked(corruptions=("fog", "identity"), features="clf", steps={"ddpm": 2})
    assert decide(folder, again, "cpu") == study
    others = {"num": 30, "models": ("ddpm",), "severity": 5, "data_dir": "x", "minutes": 2.0, "seed": 7}
    for name, value in others.items():
        assert f"`{name}`" in refusal(folder, **{name: value})
    assert "is a study without `minutes`, not with 2.0. Leave out" in refusal(folder, minutes=2.0)
    assert "with `steps` wgan=2, not wgan=3. Leave out `steps`" in refusal(folder, steps={"wgan": 3})
    assert "`device` cpu, not cuda" in refusal(folder, device="cuda")
    assert decide(folder, StudyRequest(), "cuda") == study  # the usual device is for a new study


def test_a_study_grows_by_what_is_named_beside_all_it_has(tmp_path: Path) -> None:
    """What it had stays as it was; a step of a new model is timed, and nothing of a new corruption."""
    folder = tmp_path / "s"
    study = planned(folder)
    draft = drafted(folder, StudyRequest(corruptions=("fog", "identity")))
    assert draft.untimed == ()
    grown = complete(draft, None)
    assert grown == replace(study, corruptions=("identity", "fog"), cells=config.cells_of_grid(draft.settings))
    assert grown.cells[:2] == study.cells and len(grown.cells) == 4
    draft = drafted(folder, StudyRequest(models=("ddpm", "dcgan", "wgan"), steps={"dcgan": 7}))
    assert draft.untimed == ("dcgan",)
    grown = complete(draft, Times({"dcgan": 7}, {"dcgan": 9.0}, {"dcgan": 8.0}, 99.0, 1, replace(INCEPTION, dims=3)))
    assert grown.models == ("wgan", "ddpm", "dcgan") and grown.steps == {"wgan": 2, "ddpm": 2, "dcgan": 7}
    assert grown.seconds_per_step == {**TIMES.seconds_per_step, "dcgan": 9.0}
    assert (grown.images, grown.seconds_per_image) == (study.images, study.seconds_per_image)
    keep_study(folder, grown)
    assert read_study(folder) == grown  # and is a study as any other
    assert "not wgan-gp. Leave out `models` to go on with it, name what it has, too," in refusal(
        folder, models=("wgan-gp",)
    )
    assert "`models` wgan,ddpm,dcgan, not wgan. Leave out `models` to go on with it, or" in refusal(
        folder, models=("wgan",)
    )
    assert "with `steps` wgan=2,ddpm=2,dcgan=7, not wgan=3,ddpm=3,dcgan=3" in refusal(folder, steps=3)


def test_the_network_of_a_study_stays_when_it_grows(tmp_path: Path) -> None:
    """Else the distances of the new model could be of another network. Fails when the new timing's is taken."""
    keep_study(tmp_path / "s", complete(drafted(tmp_path / "s", asked()), TIMES))
    draft = drafted(tmp_path / "s", StudyRequest(models=("wgan", "ddpm", "dcgan")))
    other = Times({"dcgan": 7}, {"dcgan": 9.0}, {"dcgan": 8.0}, 9.0, 1, replace(INCEPTION, weights="1" * 64))
    assert complete(draft, other).network == INCEPTION


def test_a_study_of_minutes_grows_by_minutes(tmp_path: Path) -> None:
    study = planned(tmp_path / "s", steps=None, minutes=3.0)
    draft = drafted(tmp_path / "s", StudyRequest(models=("wgan", "ddpm", "dcgan")))
    times = Times({"dcgan": 7}, {"dcgan": 9.0}, {"dcgan": 8.0}, 0.01, 48, INCEPTION)
    assert complete(draft, times).steps == {**study.steps, "dcgan": 20}


def test_data_that_a_study_grows_by_may_lie_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    planned(folder, data_dir="/here")
    both = ("shapes", "folder")
    assert "`data_dir` is for shapes and folder alike. Give folder=" in refusal(folder, datasets=both)
    draft = drafted(folder, StudyRequest(datasets=both, data_dir={"folder": "/mine"}))
    assert draft.settings.data_dir == {"shapes": "/here", "folder": "/mine"}
    assert "`data_dir` names mnist, and the data sets are shapes. Leave" in refusal(folder, data_dir={"mnist": "/x"})
    assert "with `data_dir` /here, not shapes=/there" in refusal(folder, data_dir={"shapes": "/there"})


def test_a_new_study_says_what_it_needs(tmp_path: Path) -> None:
    assert "needs `datasets`" in refusal(tmp_path / "s", models=("ddpm",))
    both = {"datasets": ("shapes",), "models": ("wgan", "ddpm")}
    assert "`minutes` and `steps`" in refusal(tmp_path / "s", **both, minutes=3.0, steps=2)
    assert "`steps` names dcgan, and the models of this study are wgan, ddpm" in refusal(
        tmp_path / "s", **both, steps={"dcgan": 3}
    )
    assert "Did you mean 'wgan'" in refusal(tmp_path / "s", datasets=("shapes",), models=("wgam",))
    assert "`severity` is 9. Give a number from 1 to 5" in refusal(tmp_path / "s", **both, severity=9)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "is not empty" in refusal(tmp_path / "full", **both)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / STUDY).write_text('{"datasets": []}')
    assert 'study.json: "' in refusal(tmp_path / "s")


WRONG: dict[str, list[Any]] = {
    "models": [None, ["foo"], "wgan", [["wgan"]]], "steps": [None, {}, {"wgan": 2}, {"wgan": 2, "ddpm": "many"}],
    "cells": [["x"], [], ["shapes.identity.foo"]], "datasets": [["nosuch"], []], "corruptions": [["zz"], 3],
    "seconds_per_step": [{}], "seconds_per_sample": [{"wgan": 0, "ddpm": 1}], "seconds_per_image": ["x", 0],
    "num": ["many", 0, True], "image_size": [None, 4], "severity": [9], "seed": [-1], "data_dir": [7],
    "features": [None], "minutes": ["long"], "images": [0], "colour": ["blue"],
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_study_that_was_changed_by_hand_is_an_error_of_one_line(name: str, tmp_path: Path) -> None:
    """Wrong types, names that do not exist, cells of no model: none of it is a traceback, or a plan."""
    whole = planned(tmp_path / "s")
    for value in WRONG[name]:
        write_json(tmp_path / "s" / STUDY, {**to_json(whole), name: value})
        with pytest.raises(UserError, match="study.json: .*Mend it, or begin the study anew") as error:
            read_study(tmp_path / "s")
        assert "\n" not in str(error.value)
    lacking = to_json(whole)
    if lacking.pop(name, None) is not None:
        write_json(tmp_path / "s" / STUDY, lacking)
        with pytest.raises(UserError, match=f'"{name}" is missing'):
            read_study(tmp_path / "s")
    write_json(tmp_path / "s" / STUDY, to_json(whole))
    assert read_study(tmp_path / "s") == whole


def test_what_cannot_go_well_is_said_before_anything_is_timed(clf: Path, photos: Path, tmp_path: Path) -> None:
    def foreseen(**more: Any) -> list[str]:
        return foresee(drafted(tmp_path / "s", asked(**{"features": str(clf), **more})).settings)

    both = ("shapes", "folder")
    assert foreseen() == [] and foreseen(datasets=both, data_dir={"folder": str(photos)}) == []
    for more, said in (
        ({"datasets": both}, "'folder' needs `data_dir` folder=PATH"),
        ({"datasets": both, "data_dir": {"folder": "gone"}}, "'folder' is not in .*gone"),
        ({"image_size": 30}, "30"),
        ({"features": "inception"}, "FID weights are not on this machine.* or give a classifier run as `features`"),
        ({"features": "gone"}, "gone are neither inception nor a run"),
    ):
        with pytest.raises(UserError, match=said):
            foreseen(**more)
    downloads = foreseen(datasets=("mnist",), data_dir=str(tmp_path))
    assert downloads == ["mnist is not on this machine: download, 12 MB."]


def test_every_data_set_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Nothing is downloaded into the user's photos."""
    study = planned(tmp_path / "s", datasets=("folder", "mnist"), data_dir={"folder": "photos"})
    assert models.data_options(study, "folder.identity")["data_dir"] == str(tmp_path / "photos")
    assert "data_dir" not in models.data_options(study, "mnist.identity.ddpm")
    two = {"datasets": ("folder", "mnist"), "models": ("ddpm",)}
    assert "is for folder and mnist alike. Give folder=/photos" in refusal(tmp_path / "n", **two, data_dir="/photos")


def test_fewer_samples_than_features_are_doubted_in_any_network(tmp_path: Path) -> None:
    """In study.json, for whoever reads it: `num` images leave the covariance of as many features singular."""
    for num, doubted in ((32, True), (33, False)):
        draft = drafted(tmp_path / "s", asked(num=num, features="clf"))
        found = complete(draft, replace(TIMES, network=replace(INCEPTION, dims=32))).doubts
        assert bool(found) == doubted
        assert not doubted or "32 samples for the 32 features" in found[0]
        assert not doubted or "KD(classifier) is sound" in found[0]


def test_a_classifier_of_other_data_is_doubted(clf: Path, tmp_path: Path) -> None:
    """And not one of the same folder."""
    own = {"datasets": ("folder",), "data_dir": str(clf.parent / "data")}
    for more, doubted in (({}, True), (own, False)):
        draft = drafted(tmp_path / "s", asked(num=33, features=str(clf), **more))
        found = complete(draft, replace(TIMES, network=replace(INCEPTION, dims=32))).doubts
        assert bool(found) == doubted, found
        assert not doubted or f"was trained on folder {clf.parent / 'data'}, not on" in found[0]


def test_minutes_become_steps_by_the_time_a_step_takes(tmp_path: Path) -> None:
    """3 minutes are 360 steps of half a second; where neither is given the presets' steps are taken."""
    study = complete(drafted(tmp_path / "a", asked(steps=None, minutes=3.0)), TIMES)
    assert study.steps == {"wgan": 720, "ddpm": 360} and study.minutes == 3
    assert complete(drafted(tmp_path / "b", asked(steps={"wgan": 4})), TIMES).steps == {"wgan": 4, "ddpm": 9}
    assert complete(drafted(tmp_path / "b", asked(steps=None)), TIMES).steps == {"wgan": 8, "ddpm": 9}


def test_the_estimate_is_the_sum_of_what_is_left(tmp_path: Path) -> None:
    """By hand: 2 steps, 20 samples and 144 previews, 20 images measured; and all images of shapes."""
    study = planned(tmp_path / "s")
    ddpm, wgan = 2 * 0.5 + 164 * 0.1 + 0.2, 2 * 0.25 + 164 * 0.01 + 0.2
    count = shapes.COUNTS["train"]
    shared = (count + min(count, 10_000) + 20) * 0.01
    assert progress.expected_seconds(study, "shapes.identity.ddpm") == pytest.approx(ddpm)
    assert progress.remaining_seconds(study, tmp_path / "s", study.cells) == pytest.approx(ddpm + wgan + shared)
    folder_of(tmp_path / "s", "shapes.identity").joinpath(STATISTICS).touch()
    assert progress.remaining_seconds(study, tmp_path / "s", study.cells) == pytest.approx(ddpm + wgan)
    words = [progress.duration(seconds) for seconds in (0.2, 80, 100, 5400, 40_000)]
    assert words == ["1 s", "80 s", "2 min", "1 h 30 min", "11 h 07 min"]


def test_the_time_left_follows_the_pace_of_what_is_done(tmp_path: Path) -> None:
    """The data take twice their forecast, so what is left is forecast twice as long, and shared by the processes.

    Fails without the pace (half of it), and when a failed part counts as work done at that pace.
    """
    folder, now = tmp_path / "s", [0.0]
    study = planned(folder)
    for at_once in (1, 2):
        clock, shared = progress.Clock(study, folder, at_once, lambda: now[0]), progress.expected_seconds
        folder_of(folder, "shapes.identity").joinpath(STATISTICS).unlink(missing_ok=True)
        assert clock.note("shapes.identity", "begun") is None
        now[0] += 2 * shared(study, "shapes.identity")
        folder_of(folder, "shapes.identity").joinpath(STATISTICS).touch()
        seconds = 2 * sum(shared(study, cell) for cell in study.cells) / at_once
        assert clock.note("shapes.identity", "done") == f"about {progress.duration(seconds)} for 2 cells"
        clock.note("shapes.identity.wgan", "begun")
        now[0] += 300.0
        left = 2 * sum(shared(study, cell) for cell in study.cells) / at_once
        assert clock.note("shapes.identity.wgan", "failed") == f"about {progress.duration(left)} for 2 cells"
    assert "2 at a time" in progress.describe(study, folder, study.cells, 7)[-1]


def test_timing_takes_steps_and_samples_of_every_model(
    small: None, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training of one step is timed, too. The presets' steps are told."""
    monkeypatch.setattr(timing, "ENOUGH", 0)
    settings = drafted(tmp_path / "s", asked(steps={"ddpm": 1}, features=str(clf))).settings
    found = timing.take_times(settings, torch.device("cpu"))
    assert found.steps == {"wgan": 2, "ddpm": 1} and found.images == 48 and found.network.dims == 32
    assert set(found.seconds_per_step) == set(found.seconds_per_sample) == {"wgan", "ddpm"}
    assert all(seconds > 0 for seconds in (*found.seconds_per_step.values(), *found.seconds_per_sample.values()))
    assert found.seconds_per_image > 0
    assert not (tmp_path / "s").exists()


def test_the_typical_time_is_without_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own: two slow pieces, then quick ones."""
    now = 0.0
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)

    def work(pieces: list[float]) -> Iterator[None]:
        nonlocal now
        for seconds in pieces:
            now += seconds
            yield

    assert timing.typical(work([0.3, 0.3, *[0.01] * 30])) == pytest.approx(0.01)
    assert timing.typical(work([0.5])) == pytest.approx(0.5)
    taken = len(list(work([1.0] * 3)))
    assert taken == 3 and timing.typical(work([9.0, 8.0, 1.0])) == pytest.approx(8.0)  # a piece as long as all that


def test_a_study_is_stored_flat_as_always() -> None:
    """The keys of study.json are those that every version has written, and seeds, which has a default."""
    keys = {
        "minidiff", "datasets", "corruptions", "models", "severity", "image_size", "num", "seed", "features",
        "data_dir", "minutes", "steps", "device", "seconds_per_step", "seconds_per_sample", "seconds_per_image",
        "images", "network", "cells", "doubts", "seeds",
    }  # fmt: skip
    assert {one.name for one in fields(Study)} == keys
