"""The house: folders stand on floors, imports point down, and no file imports itself by way of others."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import minidiff

PACKAGE = Path(minidiff.__file__).parent

# A folder, or a file that lies beside them, may import from its own floor and from those before it.
FLOORS = [
    {"errors", "rng", "files", "records", "arrays", "_version"},
    {"diffusion", "networks", "images", "runtime"},
    {"data", "runs"},
    {"training", "interop"},
    {"classifier"},
    {"metrics"},
    {"dip", "gan", "priors", "ddpm", "dehaze"},
    {"restoration", "evaluation", "pretrained"},
    {"studies", "reports", "health"},
    {"demo"},
    {"cli", "__main__"},
]


def imports(path: Path, modules: set[str]) -> set[str]:
    """The modules of minidiff that a file imports, anywhere in it, such as "images.files"; "" is the package itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "minidiff":
            home = node.module.removeprefix("minidiff").removeprefix(".")
            inside = {f"{home}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= (inside & modules) or {home}
        elif isinstance(node, ast.Import):
            found |= {alias.name[9:] for alias in node.names if alias.name.startswith("minidiff.")}
    return found


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Every module but the package's own __init__, and the modules it imports."""
    files = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE or path.name != "__init__.py"
    }
    return {name: imports(path, set(files)) - {name} for name, path in files.items()}


def folder_of(module: str) -> str:
    return module.split(".")[0]


def floor_of(module: str) -> int:
    floors = [number for number, floor in enumerate(FLOORS) if folder_of(module) in floor]
    assert len(floors) == 1, f"give minidiff/{folder_of(module)} its place in FLOORS"
    return floors[0]


def test_imports_point_down(graph: dict[str, set[str]]) -> None:
    """Fails when a lower folder imports from a higher one, or takes a public name from the package's __init__."""
    wrong = [
        f"{name} (floor {floor_of(name)}) imports {other or 'minidiff itself'}"
        for name, others in graph.items()
        for other in others
        if not other or floor_of(other) > floor_of(name)
    ]
    assert not [line for line in wrong if not line.startswith("cli")], wrong


def test_there_is_no_circle(graph: dict[str, set[str]]) -> None:
    """Neither from folder to folder, nor from file to file. Raises CycleError, which names the circle."""
    TopologicalSorter(graph).prepare()
    folders: dict[str, set[str]] = {}
    for name, others in graph.items():
        folders.setdefault(folder_of(name), set()).update(folder_of(other) for other in others)
    TopologicalSorter({name: others - {name} for name, others in folders.items()}).prepare()


def test_the_mathematics_knows_no_network(graph: dict[str, set[str]]) -> None:
    """A model is any callable: diffusion stands on the ground floor alone. A step shows itself by `images.show`."""
    below = {folder_of(other) for name, others in graph.items() if folder_of(name) == "diffusion" for other in others}
    assert below <= {"diffusion", "errors", "rng", "images"}
    assert {other for name, others in graph.items() if folder_of(name) == "diffusion" for other in others
            if folder_of(other) == "images"} == {"images.show"}  # fmt: skip


def test_importing_minidiff_does_not_import_torch() -> None:
    """`import minidiff`, and `minidiff --help`, must stay quick: torch alone takes seconds."""
    code = (
        "import sys, minidiff; from minidiff.cli import run; run(['--help']); run(['info', '--help']);"
        "slow = {'torch', 'torchvision', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules);"
        "sys.exit(str(slow) if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    for name in minidiff.__all__:
        assert getattr(minidiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = minidiff.nothing
