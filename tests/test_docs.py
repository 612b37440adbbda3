"""Hold the pages to their word: their Python runs as it stands, and what they link to is there."""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

from minidiff import cli
from minidiff.data.corruptions import CORRUPTIONS
from minidiff.data.datasets import DATASETS
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import SCHEDULES
from minidiff.networks.dip import DIP_NETS

ROOT = Path(__file__).parents[1]
RUN = ("script", "checkpoint", "training", "unet", "dit", "samplers", "dip", "fid", "metrics", "classifier",
       "conditional", "evaluate", "report", "gan", "own-data", "restoration", "models", "priors",
       "images", "demo")  # have Python to be run  # fmt: skip
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = sorted([*TOP, *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", [f"docs/{page}.md" for page in RUN])
def test_python_runs_as_it_stands(
    name: str, trained: Path, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page, one after the other, beside runs like those they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minidiff.ddpm.previews.IMAGES", 1)  # pictures take most of the time of a short training
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
    (tmp_path / "runs").mkdir()
    os.symlink(trained, tmp_path / "runs" / "ddpm-shapes-1")
    os.symlink(clf, tmp_path / "runs" / "classifier-shapes-1")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert blocks
    with mock.patch.dict(SAMPLERS):  # docs/samplers.md adds one
        exec(compile("\n".join(blocks), name, "exec"), {"__name__": "page"})


def test_the_recipes_of_contributing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_preset: str) -> None:
    """An entry of each kind, as the page adds it, works on the command line at once, from training to sampling."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        for table in (CORRUPTIONS, DATASETS, DIP_NETS, SAMPLERS, SCHEDULES):
            stack.enter_context(mock.patch.dict(table))  # afterwards each is as it was
        exec(compile("\n".join(blocks), "CONTRIBUTING.md", "exec"), {"__name__": "page"})
        new = f"--dataset stripes --corruption darkness --schedule sigmoid --preset {tiny_preset}"
        for command in (
            f"train ddpm {new} --steps 1 --device cpu --out run",
            "sample run --sampler calm --num 1 --device cpu --out one.png",
            "dip fit one.png --net thin --steps 2 --early-stop off --device cpu",
        ):
            assert cli.run(command.split()) == 0
    assert "calm" not in SAMPLERS and "stripes" not in DATASETS
