"""docs/notation.md leads from the papers to the code: every link ends at a symbol, and equations are set."""

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
CHAPTERS = ["notation", "schedules", "diffusion", "ddpm-paper", "samplers", "restoration"]
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


def rows() -> list[list[str]]:
    """The cells of every table of notation.md, without its heading."""
    lines = [line for line in (DOCS / "notation.md").read_text("utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[-1] != "where" and not row[-1].startswith("---")]


def symbols(path: Path) -> set[str]:
    """What a file defines: functions, classes, constants, and `Class.member`."""

    def names(body: list[ast.stmt], prefix: str = "") -> set[str]:
        found = set()
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    found |= names(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            found |= {prefix + name.id for target in targets if target for name in ast.walk(target)
                      if isinstance(name, ast.Name)}  # fmt: skip
        return found

    return names(ast.parse(path.read_text("utf-8")).body)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_row_leads_to_a_place_that_exists(row: list[str]) -> None:
    """The text of a link is the symbol, its target the file that defines it; of a page, one of its headings."""
    links = LINK.findall(row[-1])
    assert links, "a row without a link"
    for text, target in links:
        path, _, heading = target.partition("#")
        file = (DOCS / path).resolve()
        assert file.is_file(), target
        if file.suffix == ".py":
            assert text.strip("`") in symbols(file), f"{target} defines no {text}"
        elif heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("name", ["DDPM algorithm 1", "DDPM algorithm 2", "DDPM eq. 12", "DDPM eq. 14", "DDIM eq. 12"])
def test_what_a_reader_looks_for_is_found_under_its_own_name(name: str) -> None:
    assert name in [row[0] for row in rows()]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_equations_can_be_set(chapter: str) -> None:
    """GitHub reads a line as Markdown first: an underscore after a brace, or a backslash before a comma, is lost."""
    mathtext = pytest.importorskip("matplotlib.mathtext")
    prose = re.sub(r"```.*?```", "", (DOCS / f"{chapter}.md").read_text("utf-8"), flags=re.DOTALL)
    blocks = re.findall(r"^\$\$\n(.*?)\n\$\$$", prose, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"(?<!\$)\$([^$]+)\$(?!\$)", re.sub(r"^\$\$\n.*?\n\$\$$", "", prose, flags=re.DOTALL | re.M))
    assert inline
    parser = mathtext.MathTextParser("path")
    for formula in blocks + inline:
        assert not re.search(r"[})\]]_|\\[,;:!{}|*\\]", formula), formula
        assert not re.search(r"^[-+*=] ", formula, re.MULTILINE), f"a line that begins a list: {formula}"
        known = (
            re.sub(r"\\[lr]Vert", r"\\Vert", formula)
            .replace(r"\qquad", r"\quad")
            .replace(r"\gt", ">")
            .replace(r"\mathbb E", r"\mathbb{E}")
        )
        parser.parse(f"${' '.join(known.split())}$")
