"""The pages about runs and studies: whole HTML that fetches nothing, says what was found, and shows what is broken."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidiff
from minidiff import cli
from minidiff.errors import UserError
from minidiff.images.files import read_image, write_image
from minidiff.images.grid import cut, grid
from minidiff.networks.configs import GeneratorConfig
from minidiff.records import to_json
from minidiff.reports import charts, page, run_report, study_report
from minidiff.runs.log import write_metrics
from minidiff.studies import results
from minidiff.training.config import TrainConfig

VOID = {"img", "meta", "br"}  # elements without an end
NASTY = "<script>alert('&\"')</script>"


class Reader(HTMLParser):
    """Holds a page to what every page must be: closed elements, unique ids, links that arrive, nothing from outside."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"
        assert len(set(self.ids)) == len(self.ids)
        assert {link[1:] for link in self.links} <= set(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute twice: {tag} {attrs}"
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        if (link := given.get("href")) is not None:
            assert link.startswith("#"), link
            self.links.append(link)
        if (source := given.get("src")) is not None:
            assert source.startswith("data:image/"), source[:40]
        assert not [name for name in given if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def picture(path: Path, seed: int = 0, size: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


# --- a study --------------------------------------------------------------------------------------------------------

DATA, MODELS = ("mnist.identity", "mnist.motion_blur"), ("dcgan", "wgan", "ddpm")


def put(study: Path, data: str, model: str, value: float, low: float | None = None, high: float | None = None,
        warnings: tuple[str, ...] = ()) -> None:  # fmt: skip
    """A finished cell."""
    cell = study / "cells" / f"{data}.{model}"
    picture(cell / "grid.png")
    (cell / "run").mkdir()
    records = [{"step": 10 * k, "loss": 1 / k, "critic_loss": -1 / k, "lr": 1e-3} for k in range(1, 6)]
    write_metrics(cell / "run", [*records, {"step": 50, "diversity": 0.875}])
    fid = {"title": "FD(classifier)", "value": value} | ({} if low is None else {"low": low, "high": high})
    found = {
        "metrics": {"fid": fid, "kid": {"title": "KD(classifier)", "value": value / 1000}},
        "num": 100, "steps": 50, "parameters": 12345, "seconds": {"train": 200.0, "sample": 8, "measure": 4.5},
        "warnings": list(warnings),
    }  # fmt: skip
    (cell / "result.json").write_text(json.dumps(found))


def plan(folder: Path, **more: Any) -> Path:
    cells = [f"{data}.{model}" for data in DATA for model in MODELS]
    found = {
        "minidiff": "0", "datasets": ["mnist"], "corruptions": ["identity", "motion_blur"], "models": list(MODELS),
        "severity": 4, "image_size": 32, "num": 100, "seed": 0, "features": "clf run", "device": "cpu",
        "steps": dict.fromkeys(MODELS, 50), "seconds_per_step": dict.fromkeys(MODELS, 0.5), "cells": cells,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(found | more))
    return folder


@pytest.fixture()
def study(tmp_path: Path) -> Path:
    """Four cells done, one failed, one not begun; the clean data with a test split."""
    folder = plan(tmp_path / f"study {NASTY.replace('/', '')}")
    real = folder / "data" / DATA[0]
    picture(real / "real.png", 7)
    (real / "result.json").write_text(json.dumps({"metrics": {"fid": {"title": "FD(classifier)", "value": 0.75}}}))
    put(folder, DATA[0], "dcgan", 30.0, 28.0, 32.0, warnings=(f"samples are alike {NASTY}",))
    put(folder, DATA[0], "wgan", 20.0, 18.5, 21.0)
    put(folder, DATA[0], "ddpm", 5.0, 4.5, 5.5)
    put(folder, DATA[1], "wgan", 9.0, 8.0, 10.0)
    failed = folder / "cells" / f"{DATA[1]}.dcgan"
    failed.mkdir(parents=True)
    (failed / "result.json").write_text(json.dumps({"error": f"the loss became nan {NASTY}"}))
    return folder


def test_a_study_says_all_there_is(study: Path) -> None:
    """Values, intervals, the nearest, what failed and what is not done; text that is markup stays text."""
    html = study_report.write(study).read_text()
    text = Reader(html).text
    assert html.count('class="floor"') == 1  # the clean data's test split
    assert "Nearest to the data by FD(classifier): ddpm." in text
    assert "1 of the 6 cells failed. 1 of 6 cells is still to be done." in text
    assert "4 of 6" in text and "mnist, motion blur, severity 4" in text
    for said in ("30.0", "[28.0, 32.0]", "[4.5, 5.5]", "0.0300", "0.8", "12,345", "3 min 20 s", "8 s"):
        assert said in text, said
    assert text.count("not yet") == 4  # two heat maps, the table, the samples
    assert f"the loss became nan {NASTY}" in text and f"samples are alike {NASTY}" in text
    assert "generator loss" in text and "critic loss" in text and "0.875" in text
    assert "--steps dcgan=50,wgan=50,ddpm=50" in text and "--features 'clf run'" in text


def test_a_study_shows_every_grid_beside_the_real_images(study: Path) -> None:
    """The pictures stand in the order real, models; as they are in their files, to the bit."""
    import base64

    html = study_report.write(study).read_text()
    held = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    places = [study / "data" / DATA[0] / "real.png"]
    places += [study / "cells" / f"{DATA[0]}.{model}" / "grid.png" for model in MODELS]
    places += [study / "cells" / f"{DATA[1]}.wgan" / "grid.png"]
    assert held == [place.read_bytes() for place in places]


def test_the_nearest_is_marked_once_in_each_row_of_a_map(study: Path) -> None:
    """With one model measured there is nobody to be nearer than: no mark."""
    put(study, DATA[1], "ddpm", 9.5, 8.5, 10.5)
    html = study_report.write(study).read_text()
    rows = re.findall(r"<tr><th scope=\"row\">mnist <small>.*?</tr>", html)
    assert [re.findall(r"<b>(.*?)</b>", row) for row in rows] == [["5.00"], ["9.00"], ["0.00500"], ["0.00900"]]
    assert html.count("not told apart<") == 1  # ddpm on the blurred data, whose interval overlaps wgan's
    (study / "cells" / f"{DATA[1]}.ddpm" / "result.json").unlink()
    rows = re.findall(r"<tr><th scope=\"row\">mnist <small>.*?</tr>", study_report.write(study).read_text())
    assert [re.findall(r"<b>(.*?)</b>", row) for row in rows] == [["5.0"], [], ["0.0050"], []]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "Nothing to compare yet"),
        ({(0, "wgan"): (1, None, None), (1, "ddpm"): (1, None, None)}, "Nothing to compare yet"),
        ({(0, "wgan"): (1, 0.9, 1.1), (0, "ddpm"): (2, 1.9, 2.1)}, "Nearest to the data by FD(classifier): wgan."),
        ({(0, "wgan"): (1, 0.9, 1.1), (0, "ddpm"): (2, 1.05, 2.1)}, "wgan. The intervals of the nearest"),
        (
            {(0, "wgan"): (1, 0.9, 1.1), (0, "ddpm"): (2, 1.9, 2.1), (1, "wgan"): (3, None, None),
             (1, "ddpm"): (2, 1, 3)},
            "wgan in 1 of 2 and ddpm in 1. In 1 of these the intervals",
        ),
    ],
)  # fmt: skip
def test_the_headline_claims_no_more_than_the_intervals_allow(tmp_path: Path, values: Any, said: str) -> None:
    plan(tmp_path)
    for (row, model), (value, low, high) in values.items():
        put(tmp_path, DATA[row], model, value, low, high)
    assert said in results.headline(results.read_findings(tmp_path))


def test_a_cell_with_warnings_is_not_crowned_without_a_word(study: Path) -> None:
    """Noise may be the nearest: the headline says so by name, with the warning; so do the map and the distances."""
    noise = "40 of 40 images are noise. Likely causes: trained too briefly."
    put(study, DATA[1], "ddpm", 2.0, 1.5, 2.5, warnings=(noise,))
    html = study_report.write(study).read_text()
    text = Reader(html).text
    assert results.headline(results.read_findings(study)) in text
    assert "ddpm in 2 of 2. But there are warnings about ddpm on mnist (motion blur, severity 4): 40 of 40" in text
    assert "are noise. A low distance" in text  # the whole of it stands among the warnings
    rows = re.findall(r"<tr><th scope=\"row\">mnist <small>.*?</tr>", html)
    assert [row.count("<small>warning</small>") for row in rows] == [1, 1, 1, 1]  # dcgan's above, ddpm's below
    assert re.search(r"<b>2\.00?</b> <small>warning</small>", rows[1])
    assert html.count('class="chip bad">see Warnings') == 2 and html.count('class="chip best">nearest') == 1
    assert html.count('<tr class="best">') == 1  # ddpm on the clean data, about which there is no warning
    clean = json.loads((study / "cells" / f"{DATA[1]}.ddpm" / "result.json").read_text()) | {"warnings": 3}
    (study / "cells" / f"{DATA[1]}.ddpm" / "result.json").write_text(json.dumps(clean))
    assert "But there are" not in Reader(study_report.write(study).read_text()).text


def test_the_headline_names_three_cells_with_warnings_and_counts_the_others(tmp_path: Path) -> None:
    names = [f"d{number}.identity" for number in range(5)]
    plan(tmp_path, cells=[f"{name}.{model}" for name in names for model in ("wgan", "ddpm")])
    for name in names:
        put(tmp_path, name, "wgan", 1.0, warnings=("all are flat.",))
        put(tmp_path, name, "ddpm", 2.0)
    said = results.headline(results.read_findings(tmp_path))
    assert "about wgan on d0 (clean), wgan on d1 (clean), wgan on d2 (clean) and 2 more: all are flat. A low" in said


def test_each_row_of_a_map_is_shaded_by_itself(study: Path) -> None:
    """The nearest of a row is the lightest, though another row's are all farther, or nearer; the page says it."""
    put(study, DATA[1], "ddpm", 900.0, 880.0, 920.0)
    html = study_report.write(study).read_text()
    rows = re.findall(r"<tr><th scope=\"row\">mnist <small>.*?</tr>", html)
    last = f"h{page.SHADES - 1}"
    for row, near, far in ((rows[0], "5.0", "30.0"), (rows[1], "9.0", "900.0")):
        assert re.search(rf'class="h0"><b>{re.escape(near)}', row) and re.search(rf'class="{last}">{far}', row)
    assert "Do not compare rows" in Reader(html).text


def test_a_row_of_which_nothing_is_done_yet_is_in_the_map(tmp_path: Path) -> None:
    folder = plan(tmp_path / "study")
    put(folder, DATA[0], "ddpm", 5.0, 4.5, 5.5)
    rows = re.findall(r"<tr><th scope=\"row\">mnist <small>.*?</tr>", study_report.write(folder).read_text())
    assert "5.0" in rows[0] and rows[1].count("not yet") == 3


def test_the_command_to_repeat_a_study_names_each_folder_as_it_is_typed(tmp_path: Path) -> None:
    folder = plan(tmp_path / "study", data_dir={"folder": "/photos", "mnist": "/digits"})
    said = Reader(study_report.write(folder).read_text()).text
    assert "--data-dir folder=/photos,mnist=/digits" in said and "--steps dcgan=50,wgan=50,ddpm=50" in said


def test_doubts_about_a_whole_study_stand_at_the_head(study: Path) -> None:
    doubt = f"40 samples for 128 features {NASTY}"
    plan(study, doubts=[doubt, 3])
    html = study_report.write(study).read_text()
    assert Reader(html).text.count(doubt) == 1 and html.index("40 samples for") < html.index("<nav")
    for wrong in (None, "abc", 3):
        plan(study, doubts=wrong)
        assert "FD(classifier)" in study_report.write(study).read_text()


def test_damaged_cells_fail_and_the_page_is_written(study: Path) -> None:
    """Whatever is in a result.json, the others are shown."""
    cell = study / "cells" / f"{DATA[0]}.dcgan"
    for content in ("{", "[]", "{}", '{"metrics": {"fid": {}}}', '{"metrics": {"fid": {"title": "x", "value": "a"}}}',
                    '{"metrics": {"fid": 3}}', '{"metrics": {"fid": {"value": 1, "low": "x"}}}'):  # fmt: skip
        (cell / "result.json").write_text(content)
        assert results.read_findings(study).cells[DATA[0], "dcgan"].state == "failed", content
        text = Reader(study_report.write(study).read_text()).text
        assert "2 of the 6 cells failed" in text and "ddpm" in text
    (study / "cells" / f"{DATA[0]}.wgan" / "grid.png").write_bytes(b"\x89PNG no picture")
    assert "is not a readable image" in Reader(study_report.write(study).read_text()).text


def test_a_cell_in_training_is_said_to_be(study: Path) -> None:
    run = study / "cells" / f"{DATA[1]}.ddpm" / "run"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    text = Reader(study_report.write(study).read_text()).text
    assert "in training" in text and "not yet" not in text


@pytest.mark.parametrize(
    "content", [None, "{", "[]", "{}", '{"cells": 3, "models": []}', '{"cells": ["a"], "models": []}']
)
def test_what_is_no_study_is_refused_in_a_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError) as error:
        study_report.write(tmp_path)
    assert "study.json" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


# --- a run of any kind ----------------------------------------------------------------------------------------------


def dip_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    config = {"kind": "dip", "minidiff": "0", "image": f"{NASTY}.png", "noise_sigma": 25.0, "save_every": 10,
              "size": None, "mask": None, "reference": None, "digest": "ab",
              "net": {"name": "cnn", "layers": 5}, "early_stop": {"name": "window", "patience": 100},
              "fit": {"steps": 300, "task": "denoise", "lr": 0.01, "jitter": 0.03, "average": 0.99, "seed": 0,
                      "input_kind": "noise"}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    records = [
        {"step": s, "loss": 1 / s, "statistic": None if s < 100 else 2 / s, "psnr": 20.0} for s in range(10, 301, 10)
    ]
    write_metrics(folder, records)
    (folder / "result.json").write_text(json.dumps({"steps": 300, "best_step": 120, "stopped": True, "psnr": 27.25}))
    for step in range(10, 301, 10):
        picture(folder / "steps" / f"{step:06d}.png", step)
    picture(folder / "sheet.png")
    return folder


def restore_run(folder: Path) -> Path:
    dip_run(folder / "dip")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "kind": "restore",
                "minidiff": "0",
                "image": "a.png",
                "model": "runs/m",
                "mix": 0.75,
                "reference": None,
                "noise_sigma": 0.0,
                "fit": {},
                "chain": {},
            }
        )
    )
    quality = {"picture": {"psnr": 14.5, "ssim": 0.5}, "restored": {"psnr": 27.75}}
    (folder / "result.json").write_text(
        json.dumps({"noise": 46.08, "start_t": 214, "timesteps": [214, 0], "quality": quality})
    )
    picture(folder / "comparison.png")
    picture(folder / "restored.png")
    picture(folder / "strip.png")
    return folder


def finish_run(folder: Path) -> Path:
    """Two pictures, one of them with a reference, the other with more than one call."""
    config = {"minidiff": "0", "kind": "finish", "source": NASTY, "model": "photos", "out": "clean", "request": {}}
    near = {"picture": {"psnr": 14.5}, "restored": {"psnr": 27.75, "ssim": 0.5}}
    stored = {"noise": 46.0833, "start_t": 214, "seconds": 1.5}
    for name, more in (("a.jpg", {"timesteps": [214], "quality": near}), ("b.png", {"timesteps": [214, 100, 0]})):
        picture(folder / "sheets" / f"{name[0]}.png")
        (folder / "results").mkdir(exist_ok=True)
        (folder / "results" / f"{name}.json").write_text(json.dumps(stored | more))
    picture(folder / "strips" / "b.png")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def clear_run(folder: Path) -> Path:
    """Two pictures, one of them with a reference."""
    config = {"minidiff": "0", "kind": "clear", "sources": [NASTY, "b.png"], "model": "dehaze", "weights": "0123",
              "out": "clean", "request": {}}  # fmt: skip
    stored = {"transmission": 0.625, "airlight": [200, 210, 220], "seconds": 1.5}
    for name, more in (("a.jpg", {"quality": {"hazy": {"psnr": 9.5}, "result": {"psnr": 21.25}}}), ("b.png", {})):
        picture(folder / "sheets" / f"{name[0]}.png")
        (folder / "results").mkdir(exist_ok=True)
        (folder / "results" / f"{name}.json").write_text(json.dumps(stored | more))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def evaluation(folder: Path) -> Path:
    share = {"value": 0.875, "low": 0.8125, "high": 0.9375, "each": [0.8, 0.9]}
    found = {"conditions": 32, "seeds": [0, 1], "score": share, "per_image": {"value": 0.5}, "by_count": {},
             "by_label": {"red cube": {"asked": 3, "score": 1.0}, NASTY: {"asked": 2, "score": 0.25}},
             "confusions": [{"asked": "red cube", "seen": None, "times": 2.5}]}  # fmt: skip
    picture(folder / "pictures" / "test.png")
    picture(folder / "failures" / "test.png")
    config = {"minidiff": "0", "kind": "evaluate", "run": "runs/x", "weights": "ab", "image_size": 32,
              "sampling": {"sampler": "ddim", "calls": 20, "guidance_scale": 2.0, "precision": "fp32"},
              "classifier": {"place": "runs/c", "sha256": "ab", "image_size": 32}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps({"lists": {"test": found}}))
    return folder


def test_a_trained_run_shows_its_last_picture_its_curves_and_settings(trained: Path, clf: Path, tmp_path: Path) -> None:
    """Without a trace in the run folder when the page goes elsewhere."""
    before = sorted(trained.rglob("*"))
    text = Reader(run_report.write(trained, tmp_path / "a.html").read_text()).text
    assert sorted(trained.rglob("*")) == before
    assert "ddpm run" in text and "6 of 6" in text and "step 6" in text and "gradient norm" in text
    assert "norm groups 4" in text and "folder: 24 images" in text
    text = Reader(run_report.write(clf, tmp_path / "b.html").read_text()).text
    assert "train accuracy" in text and "step 20, confusion" in text and "dark, light" in text


def test_a_training_shows_the_last_samples_and_some_of_the_earlier(tmp_path: Path) -> None:
    """The last first; of the others six, from the first to the one before the last."""
    (tmp_path / "config.json").write_text(json.dumps({"kind": "other", "training": {"steps": 2000, "batch_size": 64}}))
    records = [{"step": s, "loss": 1.0, "images_per_second": 32.0 * s / 100} for s in (100, 200)]
    write_metrics(tmp_path, [*records, {"step": 200, "FID": 31.5}])
    for step in range(100, 2001, 100):
        picture(tmp_path / "samples" / f"{step:07d}.png", step)
    html = run_report.write(tmp_path).read_text()
    assert re.findall(r"<figcaption>step ([\d,]+)", html) == ["2,000", "100", "500", "800", "1,200", "1,500", "1,900"]
    text = Reader(html).text
    assert "200 of 2,000" in text and "FID 31.5" in text
    assert "5 min" in text  # 100 steps of 64 images at 32 a second, and as many at 64


def test_the_page_of_a_run_says_what_went_wrong(tmp_path: Path) -> None:
    """What the last grid and the metrics tell, and nothing of a run that is well or only young."""
    config = {"minidiff": "0", "kind": "dcgan", "preset": "cpu", "network": to_json(GeneratorConfig(image_size=16)),
              "data": {"name": "shapes", "image_size": 16, "channels": 3},
              "gan": {"norm": "batch", "critic_steps": 1, "optimizer": "adam", "betas": [0.5, 0.999]},
              "training": to_json(TrainConfig(steps=300, batch_size=64))}  # fmt: skip
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    smooth = np.linspace(0, 200, 16)[None, :, None, None] + rng.integers(0, 50, (9, 1, 1, 3)) + np.zeros((9, 16, 16, 3))

    def said(images: Any, diversity: float, step: int = 300) -> str:
        for path in (tmp_path / "samples").glob("*.png"):
            path.unlink()
        write_image(tmp_path / "samples" / f"{step:07d}.png", grid(images.astype(np.uint8)))
        records = [{"step": step, "loss": 1.0}, {"step": step, "diversity": diversity}]
        write_metrics(tmp_path, records)
        figures, sections = run_report.training(tmp_path, config)
        return Reader(page.Page("a", "gan", [page.Facts(figures, tiles=True)], sections).html()).text

    html = said(noise, 0.05)
    assert "Warnings" in html and "9 of 9 images are noise" in html and "their diversity is 0.05" in html
    assert "diversity; 1: as varied as the data 0.05" in html
    assert "Warnings" not in said(smooth, 0.9) and "Warnings" not in said(noise, 0.05, step=100)
    config["kind"] = "ddpm"
    html = said(noise, 0.05)
    assert "9 of 9 images are noise" in html and "their diversity" not in html and "Warnings" not in said(smooth, 0.9)


def test_a_grid_is_cut_into_its_images() -> None:
    for size in (16, 28, 64, 96):
        images = np.random.default_rng(size).integers(0, 256, (6, size, size, 3), dtype=np.uint8)
        cells = cut(grid(images, columns=4), size)
        assert (cells[:6] == images).all() and cells.shape == (8, size, size, 3) and (cells[6:] == 255).all()


def test_other_kinds_of_runs_have_a_page(tmp_path: Path) -> None:
    text = Reader(run_report.write(dip_run(tmp_path / "d")).read_text()).text
    for said in ("300 of 300", "27.25", "PSNR in dB", "chosen: step 120", "step 10", "step 300", f"{NASTY}.png"):
        assert said in text, said
    text = Reader(run_report.write(restore_run(tmp_path / "r")).read_text()).text
    for said in ("214", "46.1", "14.5", "0.5", "27.75", "Along the chain", "Curves of the fit", "chosen: step 120"):
        assert said in text, said
    html = run_report.write(finish_run(tmp_path / "f")).read_text()
    text = Reader(html).text
    for said in (
        "pictures finished 2",
        "a.jpg 46.1 214 1 1.5 27.75 0.5",
        "b.png 46.1 214 3 1.5 - -",
        "Along the chain",
    ):
        assert said in text, (said, text)
    assert html.count("<img") == 3 and NASTY in text
    html = run_report.write(clear_run(tmp_path / "c")).read_text()
    text = Reader(html).text
    for said in ("pictures dehazed 2", "a.jpg 0.625 200, 210, 220 1.5 21.25 -", "b.png 0.625 200, 210, 220 1.5 - -"):
        assert said in text, (said, text)
    assert html.count("<img") == 2 and NASTY in text
    text = Reader(run_report.write(evaluation(tmp_path / "e")).read_text()).text
    for said in ("0.875", "0.812 to 0.938", "64", "per image", NASTY, "nothing", "2.5", "failures: test"):
        assert said in text, said
    assert text.index(NASTY) < text.index("red cube")  # the lowest first


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    """Of whatever kind; and one of a kind that is not known yet."""
    for make in (dip_run, restore_run, finish_run, clear_run, evaluation):
        folder = make(tmp_path / make.__name__)
        shutil.rmtree(folder / "results", ignore_errors=True)
        for name in (
            "result.json",
            "sheet.png",
            "comparison.png",
            "restored.png",
            "strip.png",
            "metrics.jsonl",
            "dip/metrics.jsonl",
        ):
            (folder / name).unlink(missing_ok=True)
        text = Reader(run_report.write(folder).read_text()).text
        assert "Results" not in text and "Curves" not in text  # no heading, and no link, without anything below it
    (tmp_path / "config.json").write_text(json.dumps({"kind": "of tomorrow", "training": {"steps": 50}, "who": NASTY}))
    write_metrics(tmp_path, [{"step": 5, "loss": 0.5, "oddity": 3.0}, {"step": 10, "loss": 0.25}])
    text = Reader(run_report.write(tmp_path).read_text()).text
    assert "10 of 50" in text and NASTY in text and "oddity" in text


def test_the_fits_of_a_folder_are_all_shown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"kind": "dip", "minidiff": "0", "images": "photos", "options": {}})
    )
    for number in range(60):
        picture(tmp_path / "dip" / f"{number:02d}.jpg.png", number, 8)
    html = run_report.write(tmp_path).read_text()
    assert html.count("<img") == run_report.MANY and "60" in html and f"{run_report.MANY} of them shown" in html


def test_the_command_writes_into_the_folder_or_where_it_is_told(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own page in the folder is written anew; a file that is named is kept; a study is known by its study.json."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(["report"]) == 1 and "no runs under runs/" in capsys.readouterr().err
    run = dip_run(tmp_path / "runs" / "dip-a-1")
    assert cli.run(["report"]) == 0 and cli.run(["report", str(run)]) == 0
    assert "dip-a-1" in (run / "report.html").read_text()
    assert cli.run(["report", str(study), "--out", "new/page.html"]) == 0
    page_there = (tmp_path / "new" / "page.html").read_text()
    assert "FD(classifier)" in page_there and not (study / "report.html").exists()
    capsys.readouterr()
    assert cli.run(["report", str(run), "--out", "new/page.html"]) == 1
    assert "--force" in capsys.readouterr().err and (tmp_path / "new" / "page.html").read_text() == page_there
    assert cli.run(["report", str(run), "--out", "new/page.html", "--force"]) == 0
    assert "dip-a-1" in (tmp_path / "new" / "page.html").read_text()
    for wrong in ("nowhere", str(tmp_path / "new")):
        assert cli.run(["report", wrong]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert cli.run(["report", str(run), "--out", str(run / "config.json" / "x.html")]) == 1
    assert "Choose another place" in capsys.readouterr().err
    assert minidiff.report(run, "new/page.html", force=True).exists()  # the same from a script
    with pytest.raises(UserError, match="`force`"):
        minidiff.report(run, "new/page.html")


# --- the pieces -----------------------------------------------------------------------------------------------------


def test_text_is_escaped_wherever_it_enters() -> None:
    """In every field of every block: a new one is covered by being listed here."""
    line = page.Line(NASTY, [(0, 1.0), (1, 2.0)])
    blocks = [
        page.Text(NASTY), page.Items([(NASTY, NASTY)]), page.Facts({NASTY: NASTY}, NASTY),
        page.Table([NASTY], [page.Row([page.Cell(NASTY, small=NASTY, chips=[(NASTY, "")])])], "l", NASTY),
        page.Album([page.Picture(NASTY, why=NASTY), page.Picture(NASTY, "data:image/png;base64,", 9, 9)]),
        page.Charts({NASTY: [page.Chart(NASTY, [line], [NASTY], charts.chart(NASTY, [line]).svg)]}),
    ]  # fmt: skip
    html = page.Page(NASTY, NASTY, blocks, {NASTY: [page.Text(NASTY)]}, NASTY).html()
    assert "<script" not in html and html.count("&lt;script&gt;") > 25
    assert "<table" in html and "<svg" in html and "<b>" in html  # and markup is not


def test_a_section_without_blocks_is_left_out() -> None:
    html = page.Page("a", "b", (), {"Empty": [], "Full": [page.Text("words")]}).html()
    assert "Empty" not in html and Reader(html).links == ["#full"]


def test_the_same_folder_gives_the_same_page(study: Path, tmp_path: Path) -> None:
    run = dip_run(tmp_path / "d")
    for make in (
        lambda: run_report.run_page(run).html(),
        lambda: study_report.study_page(results.read_findings(study)).html(),
    ):
        assert make() == make()


def test_large_pictures_are_made_to_fit(tmp_path: Path) -> None:
    """Noise, which does not compress: within its room, and still the same picture where it fits by compression."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 512)[:, None, None] + rng.normal(0, 4, (512, 512, 3))
    write_image(tmp_path / "a.png", smooth.clip(0, 255).astype(np.uint8))
    write_image(tmp_path / "b.png", rng.integers(0, 256, (512, 512, 3), dtype=np.uint8))
    for name, side in (("a.png", 512), ("b.png", None)):
        assert (tmp_path / name).stat().st_size > 60_000
        _, uri, width, height, *_ = page.picture(tmp_path / name, "", 60_000)
        assert uri.startswith("data:image/webp;base64,") and len(uri) < 60_000 * 4 / 3 + 40
        assert width == height and (width == side or (side is None and 64 <= width < 512))
    import base64

    (tmp_path / "c.webp").write_bytes(base64.b64decode(page.picture(tmp_path / "a.png", "", 60_000).uri.split(",")[1]))
    difference = read_image(tmp_path / "c.webp").astype(int) - read_image(tmp_path / "a.png")
    assert np.abs(difference).mean() < 5
    assert page.room_for(1000) * 1000 <= page.PICTURES and page.room_for(1) == page.PICTURE


def test_half_a_picture_is_the_mean_of_its_quarters() -> None:
    pixels = np.zeros((5, 4, 3), np.uint8)
    pixels[:2, :2] = [[[10, 0, 0], [20, 0, 0]], [[30, 0, 0], [41, 0, 255]]]
    half = page.halved(pixels)
    assert half.shape == (2, 2, 3) and half[0, 0].tolist() == [25, 0, 64] and not half[1].any()


def drawn(svg: str, colour: str) -> list[tuple[float, float]]:
    """The points of the first path of a colour, down from the upper left corner."""
    path = re.search(rf'<path d="([^"]*)"[^>]*stroke: {re.escape(colour)}', svg)
    assert path is not None
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1])]


def words_of(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_curve_goes_through_its_points() -> None:
    """Left is the first step, up is more; on a log scale by ratios."""
    made = charts.chart("x", [page.Line("x", [(0, 1.0), (50, 3.0), (100, 2.0)])])
    (x0, y0), (x1, y1), (x2, y2) = drawn(made.svg, "var(--s0)")
    assert x0 < x1 < x2 and x1 - x0 == pytest.approx(x2 - x1) and y0 - y2 == pytest.approx(y2 - y1) and y0 > y2
    assert made.notes == [] and words_of(made.svg)[:6] == ["0", "20", "40", "60", "80", "100"]
    made = charts.chart("x", [page.Line("x", [(0, 1.0), (50, 100.0), (100, 10.0)])], log=True)
    (_, y0), (_, y1), (_, y2) = drawn(made.svg, "var(--s0)")
    assert y0 - y2 == pytest.approx(y2 - y1) and made.notes == ["log scale"]
    assert charts.chart("x", [page.Line("x", [(0, -1.0), (1, 9.0)])], log=True).notes == []
    marked = charts.chart("x", [page.Line("x", [(0, 1.0), (100, 2.0)])], mark=(25, "here"))
    (left, _), (right, _) = drawn(marked.svg, "var(--s0)")
    assert drawn(marked.svg, "var(--soft)")[0][0] == pytest.approx(left + (right - left) / 4)
    assert "here" in marked.notes[0]
    flat = drawn(charts.chart("flat", [page.Line("flat", [(0, 3.0), (9, 3.0)])]).svg, "var(--s0)")
    assert flat[0][1] == flat[1][1]
    assert "var(--s0)" in charts.chart("one", [page.Line("one", [(7, 3.0)])]).svg


def test_a_drawing_has_no_colour_id_or_style_of_its_own() -> None:
    """It is dark where the page is, and two charts of the same numbers do not share an id."""
    lines = [page.Line(str(n), [(float(k), float(k * n)) for k in range(9)]) for n in range(7)]
    one, other = (charts.chart("x", lines, place=place).svg for place in "ab")
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r'"#\w+"', "", one)) and "<style" not in one
    assert all(f"var(--s{n})" in one for n in range(5)) and "var(--s5)" not in one
    ids = [set(re.findall(r'id="([^"]*)"', svg)) for svg in (one, other)]
    assert ids[0] and not ids[0] & ids[1]


def test_the_first_steps_of_a_critic_do_not_flatten_the_rest() -> None:
    points = [(float(n), math.sin(n)) for n in range(200)]
    low, high, cut = charts.extent([page.Line("x", [(0.0, 1e6), *points])])
    assert cut and -1.5 < low < -0.9 and 0.9 < high < 1.5
    assert charts.extent([page.Line("x", points)])[2] is False


def test_long_records_are_thinned_and_numbers_that_are_none_left_out() -> None:
    points = [(float(n), float(n)) for n in range(10_000)]
    few = charts.thinned(points)
    assert len(few) == charts.POINTS and np.mean([y for _, y in few]) == pytest.approx(4999.5, rel=1e-2)
    assert few[0][1] < 20 and few[-1][1] > 9980 and charts.thinned(points[:100]) == points[:100]
    assert charts.finite([(1, math.nan), (2, None), (3, "4"), (4, 5.0), (5, math.inf)]) == [(4, 5.0)]


def test_a_long_curve_has_its_running_median_over_it() -> None:
    """The median is torn neither by a spike nor at the ends; a short curve has a dot at each point instead."""
    line = [(float(n), 2.0 * n) for n in range(300)]
    spiked = [*line[:150], (150.0, 1e4), *line[151:]]
    svg = charts.chart("x", [page.Line("x", spiked)]).svg
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--s0\)', svg)
    thin, thick = (np.array(re.findall(r"[ML] ([\d.]+) (-?[\d.]+)", path), float)[:, 1] for path in paths)
    assert len(thick) == 300 and np.abs(np.diff(thick)).max() < 2 and np.abs(np.diff(thin)).max() > 50
    assert charts.chart("x", [page.Line("x", line[:9])]).svg.count("<use") == 9


def test_panels_gather_what_belongs_together() -> None:
    records: list[dict[str, Any]] = [
        {"step": s, "loss": 1.0, "critic_loss": 2.0, "accuracy_real": 0.5, "accuracy_fake": 0.6, "lr": 0.1}
        for s in (1, 2)
    ]
    records.append({"step": 2, "FID": 30.0})
    titles = [chart.title for chart in charts.panels(records)]
    assert titles == ["loss", "accuracy", "FID", "learning rate"]
    assert len(charts.panels(records, small=True)) == 3
    assert charts.panels(records)[0].lines[0].name == "generator loss" and charts.panels([]) == []
    alone = charts.panels([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])[0]
    assert alone.lines[0].name == "loss"


def test_a_heat_map_is_darker_the_farther_and_tells_near_values_apart() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 128.0]
    shade = charts.shades(values)
    numbers = [int(shade(value)[1:]) for value in values]
    assert numbers == sorted(numbers) and (numbers[0], numbers[-1]) == (0, page.SHADES - 1)
    assert len(set(numbers)) == 5
    assert charts.shades([-1.0, 1.0])(0.0) == "h3" and charts.shades([2.0])(2.0) == "h0"
    assert charts.shades([20.0, 20.5])(20.5) == "h0"  # hardly farther


def test_an_interval_lies_where_its_numbers_are() -> None:
    assert page.bar(5.0, 4.0, 7.0, (0.0, 10.0)) == (50, (40, 70))
    assert page.bar(5.0, None, None, (0.0, 10.0)).reach is None
    table = page.Table([""], [page.Row([page.Cell(bar=page.bar(5.0, 4.0, 7.0, (0.0, 10.0)))])], "l")
    html = page.Page("a", "b", [table]).html()
    assert "left:40.00%;width:30.00%" in html and "left:50.00%" in html


def contrast(one: str, other: str) -> float:
    """Of two colours #rrggbb: WCAG 2.1, relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


STYLE = page.Page("a", "b").html()
LIGHT_CSS, DARK_CSS = re.split(r"@media screen and \(prefers-color-scheme: dark\)", STYLE[: STYLE.index("box-sizing")])


@pytest.mark.parametrize("css", [LIGHT_CSS, DARK_CSS])
def test_everything_can_be_read_in_light_and_dark(css: str) -> None:
    """4.5 between a text and its ground, 3 between a line and the page (WCAG 2.1, 1.4.3 and 1.4.11)."""
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css))
    pairs = [(text, "page") for text in ("ink", "soft", "accent", "bad")]
    pairs += [("ink", "panel"), ("soft", "panel"), ("bad", "badpanel"), ("page", "accent")]
    pairs += [(f"t{n}", f"h{n}") for n in range(page.SHADES)]
    assert not [pair for pair in pairs if contrast(*(colours[name] for name in pair)) < 4.5]
    assert all(contrast(colours[f"s{n}"], colours["page"]) >= 3 for n in range(len(charts.LINES)))
    steps = [contrast(colours[f"h{n}"], colours["page"]) for n in range(page.SHADES)]
    assert steps == sorted(steps)  # what is farther stands out more, in both


def test_what_is_printed_is_light() -> None:
    """The dark colours are for screens alone."""
    assert "--page: #15171a" in DARK_CSS and "--page: #15171a" not in LIGHT_CSS and "--page: #fdfdfc" in LIGHT_CSS


def test_numbers_and_times_read_well() -> None:
    said = {0.4: "0.4 s", 59.4: "59 s", 60: "1 min", 200: "3 min 20 s", 3600: "1 h 00 min", 36_061: "10 h 01 min"}
    assert {seconds: page.duration(seconds) for seconds in said} == said
    assert [page.number(v) for v in (3.0, 12345.6, 0.00012345, 1.23456, -2.5)] == [
        "3",
        "12,346",
        "0.0001234",
        "1.235",
        "\u22122.5",
    ]
    assert page.number(1234.5678, 1) == "1,234.6" and page.number(math.inf) == "inf"
    assert page.in_words({"a": [1, True, None], "b": 2000}) == "a 1, yes, , b 2,000"
    assert page.in_words(list(range(200))).endswith("49 and 150 more")
    assert [study_report.decimals([v]) for v in (123.0, 12.3, 1.23, 0.0123, 0.0)] == [0, 1, 2, 4, 2]
