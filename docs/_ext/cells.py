"""Run a notebook, keep what its cells show, and turn it into a page. Needs no Jupyter.

    python docs/_ext/cells.py               # runs notebooks/*.ipynb and stores their outputs, minutes on a CPU;
                                            # or those that are named

A notebook is JSON: a list of cells with text or code. Its code runs as in Jupyter: the cells one after the other in one
namespace, and the value of a last line is shown. Pictures are stored as JPEG, so that a file stays small. The notebook
keeps a digest of the code that its outputs came from, and tests/test_notebooks.py refuses outputs of other code.
"""

import ast
import base64
import hashlib
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
QUALITY = 85  # of the JPEGs
SETTINGS = "settings"  # the tag of the cell whose names a caller of `run` may set


def read(path: Path) -> dict[str, Any]:
    """Read a notebook."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def code_of(notebook: dict[str, Any], tag: str | None = None) -> list[str]:
    """List the code of its cells, or of those with a tag."""
    return [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and (tag is None or tag in cell["metadata"].get("tags", ()))
    ]


def digest(notebook: dict[str, Any]) -> str:
    """Name the code of a notebook, whatever its text and its outputs."""
    return hashlib.sha256("\0".join(code_of(notebook)).encode()).hexdigest()[:16]


def run(notebook: dict[str, Any], name: str = "notebook", **settings: Any) -> dict[str, Any]:
    """Run all cells and store their outputs in the notebook. Returns the namespace.

    settings: values in place of those of the cell with the tag `settings`. Raises KeyError for one it does not set.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        said, shown, where = io.StringIO(), None, f"{name}, cell {number}"
        with redirect_stdout(said):
            exec(compile(tree, where, "exec"), namespace)
            if last is not None:
                shown = eval(compile(ast.Expression(last.value), where, "eval"), namespace)  # type: ignore[attr-defined]
        cell["execution_count"], cell["outputs"] = number, []
        if said.getvalue():
            text = said.getvalue().splitlines(keepends=True)
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": text})
        if shown is not None:
            result = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
            cell["outputs"].append(result | {"data": data_of(shown)})
        if SETTINGS in cell["metadata"].get("tags", ()):
            for key, value in settings.items():
                if key not in namespace:
                    raise KeyError(f"the settings of {name} have no {key}")
                namespace[key] = value
    notebook["metadata"]["ran"] = digest(notebook)
    return namespace


def data_of(shown: Any) -> dict[str, Any]:
    """Give what Jupyter would show of a value, as nbformat stores it: its words, and its picture if it has one."""
    data: dict[str, Any] = {"text/plain": repr(shown).splitlines(keepends=True)}
    png = shown._repr_png_() if hasattr(shown, "_repr_png_") else None
    if png:
        jpeg = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(jpeg, "JPEG", quality=QUALITY, subsampling=0)
        data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()
    return data


def as_markdown(notebook: dict[str, Any]) -> str:
    """Turn a notebook into a page of Markdown, with its code and what the code shows."""
    return "\n\n".join(part for cell in notebook["cells"] for part in parts_of(cell)) + "\n"


def parts_of(cell: dict[str, Any]) -> list[str]:
    """Turn a cell into its text; or into its code, what it printed, and its picture."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        kind = next((kind for kind in ("image/jpeg", "image/png") if kind in data), None)  # Jupyter itself stores PNG
        if kind:
            name = cell["metadata"].get("alt") or "".join(data["text/plain"])
            parts.append(f"![{name}](data:{kind};base64,{''.join(data[kind]).strip()})")
        else:
            text = "".join(output["text"] if "text" in output else data["text/plain"]).rstrip("\n")
            parts.append(f"```{{code-block}} none\n:class: output\n\n{text}\n```")
    return parts


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(ROOT.glob("notebooks/*.ipynb")):
        notebook = read(path)
        run(notebook, path.name)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
