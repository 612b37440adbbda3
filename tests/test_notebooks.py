"""The notebooks run, in short, with the asserts in them; their stored outputs are of the code beside them."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {
    "ddpm-in-fifty-lines": {"T": 20, "IMAGES": 30, "STEPS": 5, "BATCH": 4},
    "from-noise-to-a-photograph": {"SIZE": 32, "SIGMA": 10, "START": 20, "CALLS": 2},
}


@pytest.fixture()
def cells(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    monkeypatch.delitem(sys.modules, "cells", raising=False)
    import cells

    return cells


def cell(code: str, *tags: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": code.splitlines(True), "outputs": []}


def notebook(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"cells": list(parts), "metadata": {}}


def test_every_notebook_is_here() -> None:
    assert {path.stem for path in ROOT.glob("notebooks/*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(name: str, cells: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their asserts hold minidiff's functions to the formulas: fails when one is changed, say eq. 4 or eq. 7."""
    pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    found = cells.read(ROOT / "notebooks" / f"{name}.ipynb")
    stored = json.dumps(found)
    namespace = cells.run(found, name, **NOTEBOOKS[name])
    assert json.dumps(found) != stored  # the outputs are of this short run
    if name == "from-noise-to-a-photograph":
        assert len(namespace["chain"]) == namespace["start"].t + 1 > 10
        assert np.isfinite(namespace["last"].x.numpy()).all() and namespace["kept"] < 1e-6


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_of_the_code_beside_them(name: str, cells: ModuleType) -> None:
    """`python docs/_ext/cells.py` stores them anew. A file stays small enough to be looked at on the web."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    found = cells.read(path)
    assert found["metadata"]["ran"] == cells.digest(found), "run python docs/_ext/cells.py"
    assert path.stat().st_size < 400_000
    pictures = [data for one in found["cells"] for out in one.get("outputs", ()) if (data := out.get("data", {}))]
    assert len(pictures) >= 4 and all("image/jpeg" in data for data in pictures)


def test_fifty_lines_are_fifty(cells: ModuleType) -> None:
    """The lines of the cells that are the DDPM, without empty ones; they use nothing of minidiff."""
    code = "\n".join(cells.code_of(cells.read(ROOT / "notebooks" / "ddpm-in-fifty-lines.ipynb"), "ddpm"))
    assert len([line for line in code.splitlines() if line.strip()]) == 50
    assert "minidiff" not in code


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_links_and_pages_of_notebooks(name: str, cells: ModuleType) -> None:
    """Links lead to files, and to names in code; every picture has words for those who cannot see it."""
    import source_links

    page = ROOT / "notebooks" / f"{name}.ipynb"
    words = [one for one in cells.read(page)["cells"] if one["cell_type"] == "markdown"]
    text = "\n\n".join("".join(one["source"]) for one in words)
    links = list(source_links.LINK.finditer(text))
    assert len(links) >= 4
    for link in links:
        path = (page.parent / link["target"]).resolve()
        assert "://" in link["target"] or path.exists(), link[0]
        if path.suffix == ".py":
            assert source_links.lines_meant(path, link["text"]) is not None
    shown = cells.as_markdown(cells.read(page))
    assert "![" in shown and "![Picture(" not in shown


# --- cells.py --------------------------------------------------------------------------------------------------------


def test_a_cell_shows_what_it_prints_and_its_last_value(cells: ModuleType) -> None:
    found = notebook(cell("a = 2", "settings"), cell("print(a)\na + 1"), cell("a;\nb = 3"))
    assert cells.run(found, a=5)["b"] == 3
    assert [output.get("text") or output["data"]["text/plain"] for output in found["cells"][1]["outputs"]] == [
        ["5\n"],
        ["6"],
    ]
    assert found["cells"][2]["outputs"] == []
    with pytest.raises(KeyError, match="no c"):
        cells.run(found, c=5)


def test_an_error_names_its_cell(cells: ModuleType) -> None:
    with pytest.raises(AssertionError) as caught:
        cells.run(notebook(cell("a = 1"), cell("\nassert a == 2")), "book")
    assert str(caught.traceback[-1].path).endswith("book, cell 2") and caught.traceback[-1].lineno == 1


def test_pictures_are_stored_as_jpeg_and_shown_on_the_page(cells: ModuleType) -> None:
    code = cell("import numpy as np, minidiff\nminidiff.show(np.zeros((8, 8, 3), np.uint8))")
    code["metadata"]["alt"] = "a dark square"
    found = notebook({"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "\n", "text"]}, code)
    cells.run(found)
    page = cells.as_markdown(found)
    assert page.startswith("# Title\n\ntext\n\n```python\nimport numpy")
    assert re.search(r"!\[a dark square\]\(data:image/jpeg;base64,/9j/[\w+/=]+\)\n$", page)


def test_a_change_of_code_changes_the_digest(cells: ModuleType) -> None:
    one, other = notebook(cell("a = 1"), cell("b")), notebook(cell("a = 1"), cell("c"))
    assert cells.digest(one) != cells.digest(other)
    cells.run(notebook(cell("1")))
    assert cells.digest(one) == cells.digest(notebook(cell("a = 1"), cell("b")))
