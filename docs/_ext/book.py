"""Make the site out of plain Markdown: its order, its links to the code, its list of public names and its formulas.

The pages hold nothing that only Sphinx understands, so they read the same where Markdown is shown.

- The sections of index.md, and the lists of links below them, become the table of contents.
- A page that only points to a file beside docs/ (README.md, for one) shows that file. A notebook is shown with the
  outputs that it holds (cells.py); nothing is run.
- A link to a Python file leads to a page with its source, at the lines that the link means (source_links.py).
- A list of links to public names in api.md becomes their signatures and docstrings.
- Formulas become MathML, which browsers draw themselves.
"""

import html
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cells
from docutils import nodes
from latex2mathml.converter import convert
from source_links import FENCE, LINK, ROOT, LinkError, Span, definitions, lines_meant
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

import minidiff

LOG = logging.getLogger(__name__)
DOCS = ROOT / "docs"
# A page that is a title and one link.
POINTER = re.compile(r"# [^\n]+\n+\[[^\]]+\]\((\.\./[^)]+\.(?:md|ipynb))\)\.?\s*")


# --------------------------------------------------------------------------------------------------- pages


def pointers() -> dict[Path, str]:
    """Find the files beside docs/ that have a page: README.md -> "first-steps"."""
    found = {}
    for page in DOCS.rglob("*.md"):
        points = POINTER.fullmatch(page.read_text(encoding="utf-8"))
        if points:
            found[(page.parent / points[1]).resolve()] = page.relative_to(DOCS).with_suffix("").as_posix()
    return found


def relinked(text: str, folder: Path, page: Path) -> str:
    """Rewrite the relative links of a text that was written for `folder`, so that they hold on `page`."""
    shown = {path: DOCS / f"{name}.md" for path, name in pointers().items()}

    def mend(link: re.Match[str]) -> str:
        target, mark, anchor = link["target"].partition("#")
        if not target or "://" in target or target.startswith(("mailto:", "data:")):
            return link[0]
        path = (folder / target).resolve()
        relative = Path(os.path.relpath(shown.get(path, path), page.parent)).as_posix()
        start, end = (link.start("target") - link.start(), link.end("target") - link.start())
        return f"{link[0][:start]}{relative}{mark}{anchor}{link[0][end:]}"

    image = re.compile(r"!\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
    parts = re.split(f"({FENCE.pattern})", text, flags=FENCE.flags)
    return "".join(
        part if part.startswith("```") else image.sub(mend, LINK.sub(mend, part)) for part in parts if part is not None
    )


def contents(text: str) -> str:
    """Add a hidden table of contents to index.md: a part for each section, a page for each link of its list."""
    trees = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        found = [one for line in re.findall(r"^- .*", section, re.MULTILINE) if (one := LINK.search(line))]
        pages = [f"{one['text']} <{one['target'].removesuffix('.md')}>" for one in found]
        if pages:
            caption = section.splitlines()[0]
            trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]))
    return text + "\n\n" + "\n\n".join(trees) + "\n"


def described(text: str) -> str:
    """Replace each item of api.md, a link to a public name, by its signature and docstring."""

    def describe(item: re.Match[str]) -> str:
        name = item[1]
        thing = getattr(minidiff, name)
        if isinstance(thing, dict):
            entries = ", ".join(f"``{key}``" for key in thing)
            body = f".. py:data:: minidiff.{name}\n\n   A table: {entries}."
        elif isinstance(thing, type):
            body = f".. autoclass:: minidiff.{name}\n   :members:"
        else:
            body = f".. autofunction:: minidiff.{name}"
        return f"```{{eval-rst}}\n{body}\n```\n"

    return re.sub(r"^- \[`(\w+)`\]\([^)]+\)\n", describe, text, flags=re.MULTILINE)


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Prepare the text of a page: see the top of this file."""
    page = DOCS / f"{docname}.md"
    points = POINTER.fullmatch(source[0])
    folder = page.parent
    if points:
        shown = (page.parent / points[1]).resolve()
        app.env.note_dependency(str(shown))
        text = cells.as_markdown(cells.read(shown)) if shown.suffix == ".ipynb" else shown.read_text(encoding="utf-8")
        source[0], folder = text, shown.parent
    source[0] = relinked(source[0], folder, page)
    if docname == "index":
        source[0] = contents(source[0])
    elif docname == "api":
        source[0] = described(source[0])


def plain(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Keep reStructuredText from reading marks into docstrings, which are plain text with `names` in them."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"([*|\\])", r"\\\1", re.sub(r"(\w)_(?!\w)", r"\1\\_", line))


def without_words(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples, of which Python itself says only their number."""
    return True if str(getattr(thing, "__doc__", "")).startswith("Alias for field number") else None


# --------------------------------------------------------------------------------------------------- source


def source_page(path: Path) -> str:
    """Name the page of a file or a folder, without its .html."""
    name = path.relative_to(ROOT).as_posix()
    return f"source/{name.removesuffix('.py')}" if path.suffix == ".py" else f"source/{name}/index"


def link_to_source(app: Sphinx, doctree: nodes.document) -> None:
    """Turn the links to Python files and to folders into links to pages with their source."""
    docname = app.env.docname
    up = "../" * docname.count("/")
    linked: set[Path] = app.env.__dict__.setdefault("minidiff_sources", set())
    for node in [*doctree.findall(addnodes.download_reference), *doctree.findall(addnodes.pending_xref)]:
        target = str(node.get("reftarget", ""))
        path = ((DOCS / docname).parent / target).resolve()
        if node.get("refdomain") or not path.is_relative_to(ROOT) or not (path.suffix == ".py" or path.is_dir()):
            continue
        anchor = ""
        if path.suffix == ".py":
            text = node.astext()
            raw = f"`{text}`" if node.findall(nodes.literal) and "`" not in text else text
            raw = "".join(
                f"`{part.astext()}`" if isinstance(part, nodes.literal) else part.astext()
                for inline in node.children
                for part in inline.children
            )
            try:
                span = lines_meant(path, " ".join(raw.split()))
            except (LinkError, FileNotFoundError) as error:
                LOG.warning("%s", error, location=node, type="source")
                span = None
            anchor = "" if span is None else anchor_of(path, span)
            linked.add(path)
        else:
            linked |= {one for one in path.rglob("*.py")}
        reference = nodes.reference("", "", *node.children, refuri=f"{up}{source_page(path)}.html{anchor}")
        reference["internal"] = True
        node.replace_self(reference)


def anchor_of(path: Path, span: Span) -> str:
    """Give a definition its name as anchor, and a single line its number."""
    for name, other in definitions(path).items():
        if other == span:
            return f"#{name}"
    return f"#L{span.first}"


def resolve_code(domain: str, info: dict[str, Any]) -> str | None:
    """Lead from a name of the API page, on the top level of the site, to its source."""
    public, _, inside = info["fullname"].partition(".")
    module = minidiff.PUBLIC.get(public)
    if domain != "py" or module is None:
        return None
    path = ROOT / "minidiff" / f"{module.replace('.', '/')}.py"
    wanted = f"{public}.{inside}".strip(".")
    if wanted in definitions(path):
        return f"{source_page(path)}.html#{wanted}"
    thing = getattr(minidiff, public)
    path = ROOT / f"{thing.__module__.replace('.', '/')}.py"  # handed on by another module
    return f"{source_page(path)}.html#{wanted}" if wanted in definitions(path) else None


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Write a page for every file of the package, and for what else the pages link to."""
    linked: set[Path] = app.env.__dict__.get("minidiff_sources", set())
    files = sorted(linked | set((ROOT / "minidiff").rglob("*.py")) | set((ROOT / "examples").glob("*.py")))
    for path in files:
        title = path.relative_to(ROOT).as_posix()
        yield source_page(path), {"title": title, "body": f"<h1>{title}</h1>{coloured(app, path)}"}, "page.html"
    for folder in sorted({parent for path in files for parent in path.parents if parent.is_relative_to(ROOT)} - {ROOT}):
        title = folder.relative_to(ROOT).as_posix()
        yield source_page(folder), {"title": title, "body": f"<h1>{title}/</h1>{listing(folder, files)}"}, "page.html"


def listing(folder: Path, files: list[Path]) -> str:
    """List the files of a folder with the first sentence of each, and its folders."""
    items = []
    for child in sorted({folder / path.relative_to(folder).parts[0] for path in files if path.is_relative_to(folder)}):
        said = ""
        if child.suffix == ".py":
            told = re.match(r'"""(.+?)(?:\n\n|""")', child.read_text(encoding="utf-8"), re.DOTALL)
            said = " ".join(told[1].split()) if told else ""
        address = f"{child.stem}.html" if child.suffix else f"{child.name}/index.html"
        items.append(f'<li><a href="{address}"><code>{child.name}</code></a> {html.escape(said)}</li>')
    return f"<ul>{''.join(items)}</ul>"


def coloured(app: Sphinx, path: Path) -> str:
    """Set a file in colours, each line and each definition with an anchor."""
    code = path.read_text(encoding="utf-8")
    marked = app.builder.highlighter.highlight_block(code, "python", linenos=False)  # type: ignore[attr-defined]
    before, lines, after = re.fullmatch(r"(.*?<pre>(?:<span></span>)?)(.*?)\n?(</pre>.*)", marked, re.DOTALL).groups()  # type: ignore[union-attr]
    numbered = [f'<span class="line" id="L{n}">{line}\n</span>' for n, line in enumerate(lines.split("\n"), 1)]
    for name, span in sorted(definitions(path).items(), key=lambda item: item[1].last - item[1].first):
        numbered[span.first - 1] = f'<span class="definition" id="{name}">{numbered[span.first - 1]}'
        numbered[span.last - 1] += "</span>"
    return f"{before}{''.join(numbered)}{after}"


# --------------------------------------------------------------------------------------------------- formulas


def formula(self: Any, node: nodes.math | nodes.math_block) -> None:
    """Set a formula. One that cannot be set is a warning."""
    block = isinstance(node, nodes.math_block)
    try:
        said = convert(node.astext(), display="block" if block else "inline")
    except Exception as error:
        LOG.warning("formula %r: %s", node.astext(), error, location=node, type="formula")
        said = html.escape(node.astext())
    self.body.append(f'<div class="formula">{said}</div>' if block else said)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect all this to Sphinx."""
    app.connect("source-read", read)
    app.connect("doctree-read", link_to_source, priority=1)  # before downloads are collected
    app.connect("autodoc-process-docstring", plain)
    app.connect("autodoc-skip-member", without_words)
    app.connect("html-collect-pages", source_pages)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    return {"parallel_read_safe": False, "parallel_write_safe": True}
