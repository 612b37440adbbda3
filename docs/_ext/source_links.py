"""Find the line of code that a link of a page means, and say so if it is not there.

A link to a Python file names what it means in its text, and is plain Markdown:

    [`q_sample`](../minidiff/diffusion/process.py)          a function, class, method or name of the module
    [`Jump.variance`](../minidiff/diffusion/levels.py)      something in a class
    [`PREDICTIONS["eps"]`](../minidiff/diffusion/predictions.py)      an entry of a table
    [`q_sample`, eq. 4](../minidiff/diffusion/process.py)   the line in the function whose comment says `eq. 4`

A text without backticks, or with the name of the file, means the whole file. Needs no Sphinx: tests/test_site.py uses
it, too.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])+)\]\((?P<target>[^()\s]+)\)")
MEANT = re.compile(r'`(?P<name>[\w.]+)(?:\["(?P<key>[^"]+)"\])?`(?:, (?P<comment>(?:eq|algorithm|line)\b[^`]*))?')


class Span(NamedTuple):
    """The lines of a definition, counted from 1, both included."""

    first: int
    last: int


class LinkError(Exception):
    """What a link names is not in the file."""


@cache
def definitions(path: Path) -> dict[str, Span]:
    """Find every name that a file defines, such as "Jump.variance", with its lines."""
    found: dict[str, Span] = {}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            first, last = node.lineno, node.end_lineno or node.lineno
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = min([first, *(one.lineno for one in node.decorator_list)])
                found[prefix + node.name] = Span(first, last)
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            found.setdefault(prefix + name.id, Span(first, last))
            elif isinstance(node, ast.If | ast.Try | ast.With):
                walk(node.body, prefix)

    walk(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def lines_meant(path: Path, text: str) -> Span | None:
    """Find the lines of `path` that a link with this text means; None is the whole file. Raise LinkError."""
    meant = MEANT.fullmatch(text)
    if meant is None or meant["name"] in (path.name, path.stem):
        if "`" in text and "/" not in text and meant is None:
            raise LinkError(f"a link to {path.name} says {text!r}: write `name`, or `name`, eq. N")
        return None
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    span = definitions(path).get(meant["name"])
    if span is None:
        raise LinkError(f"{where} defines no `{meant['name']}`")
    wanted = f'"{meant["key"]}"' if meant["key"] else meant["comment"]
    if wanted is None:
        return span
    sought = re.compile(rf"#.*\b{re.escape(wanted)}(?!\d)" if meant["comment"] else re.escape(wanted))
    lines = path.read_text(encoding="utf-8").splitlines()
    for number in range(span.first, span.last + 1):
        if sought.search(lines[number - 1]):
            return Span(number, number)
    raise LinkError(f"no line of `{meant['name']}` in {where} has {wanted}")


def links(markdown: str) -> list[tuple[str, str]]:
    """List the links of a page outside its code blocks, as (text, target)."""
    return [(one["text"], one["target"]) for one in LINK.finditer(FENCE.sub("", markdown))]


def broken(page: Path) -> list[str]:
    """Say for each link of a page to a Python file of the project what is wrong with it."""
    wrong = []
    for text, target in links(page.read_text(encoding="utf-8")):
        if target.endswith(".py") and "://" not in target:
            try:
                lines_meant((page.parent / target).resolve(), " ".join(text.split()))
            except (LinkError, FileNotFoundError) as error:
                wrong.append(str(error))
    return wrong
