"""A study with several seeds: which cells it has, what is paired, what of it older studies know, and its bands."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from studied import TIMES, drafted, planned

from minidiff.errors import UserError
from minidiff.files import read_json, write_json
from minidiff.reports import charts, study_report
from minidiff.runs.log import write_metrics
from minidiff.studies import config, progress
from minidiff.studies.config import StudyRequest
from minidiff.studies.models import training
from minidiff.studies.planning import complete, decide
from minidiff.studies.results import CellResult, Figure, over_seeds, read_findings, read_result
from minidiff.studies.study import RESULT, RUN, STUDY, folder_of, keep_study, read_study
from minidiff.training.batches import global_batch

pytestmark = pytest.mark.usefixtures("own_folder")
CPU = torch.device("cpu")


def test_a_study_grows_by_seeds_and_an_older_one_has_one(tmp_path: Path) -> None:
    """The cells of the first seed keep their names, so what a study has stays. Fewer seeds are refused."""
    folder = tmp_path / "s"
    study = planned(folder, seed=5)
    stored = read_json(folder / STUDY)
    assert stored.pop("seeds") == 1
    write_json(folder / STUDY, stored)  # as studies were written before
    assert read_study(folder) == study
    grown = complete(drafted(folder, StudyRequest(seeds=3)), None)
    assert grown.cells[:2] == study.cells == ("shapes.identity.wgan", "shapes.identity.ddpm")
    assert grown.cells[2:] == tuple(f"{cell}+{repeat}" for repeat in (1, 2) for cell in study.cells)
    assert [config.seed_of(grown, cell) for cell in grown.cells] == [5, 5, 6, 6, 7, 7]
    assert {config.model_of(cell) for cell in grown.cells} == {"wgan", "ddpm"}
    keep_study(folder, grown)
    assert decide(folder, StudyRequest(), "cpu") == grown
    with pytest.raises(UserError, match="with `seeds` 3, not 2. Leave out `seeds` to go on with it, or give"):
        decide(folder, StudyRequest(seeds=2), "cpu")
    with pytest.raises(UserError, match="`seeds` is 1000. Give a number from 1 to"):
        decide(folder, StudyRequest(seeds=1000), "cpu")
    said = progress.describe(grown, folder, grown.cells)[0]
    assert "1 data set x 1 corruption x 2 models x 3 seeds: 6 cells" in said and "seeds 5 to 7" in said


def test_cells_of_a_seed_are_paired(small: None, tmp_path: Path) -> None:
    """The same first weights and the same order of images under each corruption; others with the next seed.

    Fails when a training takes the study's seed and not its cell's, and when it takes one that the cell's data change.
    """
    study = planned(tmp_path / "s", corruptions=("identity", "fog"), models=("ddpm",), seeds=2)
    jobs = {cell: training(study, cell, tmp_path / cell, CPU) for cell in study.cells}
    first = {cell: next(iter(job.model.parameters())).detach() for cell, job in jobs.items()}
    order = {cell: global_batch(job.training.seed, len(job.data), 8, 1).tolist() for cell, job in jobs.items()}
    clean, foggy = "shapes.identity.ddpm", "shapes.fog.ddpm"
    assert torch.equal(first[clean], first[foggy]) and order[clean] == order[foggy]
    assert torch.equal(first[f"{clean}+1"], first[f"{foggy}+1"]) and order[f"{clean}+1"] == order[f"{foggy}+1"]
    assert not torch.equal(first[clean], first[f"{clean}+1"]) and order[clean] != order[f"{clean}+1"]


def test_every_seed_is_trained_drawn_and_kept(small: None, inside: None, clf: Path, tmp_path: Path) -> None:
    """Fails when the samples of all seeds are drawn from the same noise, or by the same weights."""
    from minidiff.studies import processes

    folder = tmp_path / "s"
    study = planned(folder, models=("ddpm",), seeds=2, seed=4, features=str(clf))
    assert [event.state for event in processes.carry_out(folder, study, ["cpu"])] == ["begun", "done"] * 3
    found = [read_result(folder, cell) for cell in study.cells]
    assert [one.seed for one in found if isinstance(one, CellResult)] == [4, 5]
    grids = [(folder_of(folder, cell) / "grid.png").read_bytes() for cell in study.cells]
    assert grids[0] != grids[1]
    seeds = [read_json(folder_of(folder, cell) / RUN / "config.json")["training"]["seed"] for cell in study.cells]
    assert seeds == [4, 5]


def finished(folder: Path, cell: str, value: float, losses: list[float]) -> None:
    place = folder_of(folder, cell)
    (place / RUN).mkdir()
    write_metrics(place / RUN, [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)])
    write_json(place / RESULT, {"metrics": {"fid": {"value": value, "title": "FD(classifier)"}}, "num": 20})


def test_the_page_has_a_mean_and_a_range(tmp_path: Path) -> None:
    """Of the seeds that are done. The nearest is told by the mean; overlapping ranges are not told apart."""
    folder = tmp_path / "s"
    study = complete(drafted(folder, StudyRequest(datasets=("shapes",), models=("wgan", "ddpm"), seeds=3)), TIMES)
    keep_study(folder, study)
    for repeat, (wgan, ddpm) in {"": (10.0, 4.0), "+1": (20.0, 5.0), "+2": (30.0, 12.0)}.items():
        finished(folder, f"shapes.identity.wgan{repeat}", wgan, [3.0, 2.0])
        finished(folder, f"shapes.identity.ddpm{repeat}", ddpm, [ddpm, 2 * ddpm])
    found = read_findings(folder)
    assert found.seeds == 3 and len(found.each) == 6 and len(found.cells) == 2
    assert found.cells["shapes.identity", "wgan"].figures["fid"] == Figure(20.0, "FD(classifier)", 10.0, 30.0)
    html = study_report.write(folder).read_text()
    assert "mean over those of 3 seeds that are done" in html and "7.0<" in html and "[4.0, 12.0]" in html
    assert "ranges over the seeds of the nearest and of another overlap" in html
    assert "ddpm, seed 2" in html and "--seeds 3" in html and "fill-opacity: 0.18" in html
    (folder / "cells" / "shapes.identity.ddpm+2" / RESULT).write_text(json.dumps({"error": "a planted fault"}))
    found = read_findings(folder)
    cell = found.cells["shapes.identity", "ddpm"]
    assert cell.state == "failed" and cell.figures["fid"] == Figure(4.5, "FD(classifier)", 4.0, 5.0)
    assert "shapes, clean, ddpm, seed 2 failed" in study_report.write(folder).read_text()


def test_a_band_holds_every_seed_at_each_step_that_all_have() -> None:
    """By hand. A step that one seed lacks would make the mean jump."""
    records: list[list[dict[str, Any]]] = [
        [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}],
        [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 8.0}, {"step": 3, "loss": 9.0}],
    ]
    line = charts.panels(*records)[0].lines[0]
    assert line.points == [(1, 2.0), (2, 5.0)] and line.band == [(1, 1.0, 3.0), (2, 2.0, 8.0)]
    assert charts.panels(records[1])[0].lines[0].band == ()
    one = {"fid": Figure(1.0, "FID", 0.5, 1.5)}
    assert over_seeds([one]) is one and over_seeds([]) == {}
