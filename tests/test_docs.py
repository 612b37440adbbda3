"""The pages keep their word: their Python runs as it stands, and what they link to is there."""

import os
import re
from pathlib import Path
from unittest import mock

import pytest

from minidiff.diffusion.samplers import SAMPLERS

ROOT = Path(__file__).parents[1]
RUN = ("checkpoint", "training", "unet", "samplers", "dip", "fid", "metrics", "classifier",
       "conditional", "evaluate", "report", "gan")  # have Python to be run  # fmt: skip
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{page}.md" for page in RUN)])
def test_python_runs_as_it_stands(
    name: str, trained: Path, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page, one after the other, beside runs like those they name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    os.symlink(trained, tmp_path / "runs" / "ddpm-shapes-1")
    os.symlink(clf, tmp_path / "runs" / "classifier-shapes-1")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert blocks
    with mock.patch.dict(SAMPLERS):  # docs/samplers.md adds one
        exec(compile("\n".join(blocks), name, "exec"), {"__name__": "page"})
