"""The layering of the package: arrows point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minidiff

PACKAGE = Path(minidiff.__file__).parent

# A module may import modules of its own layer, as long as there is no circle, and of the layers below.
LAYERS = [
    {
        "errors",
        "rng",
        "images",
        "schedules",
        "unet",
        "shapes",
        "checkpoint",
        "distributed",
        "presets",
        "report",
        "dip_nets",
        "quality",
        "frechet",
        "cpu",
        "inception",
        "classifier",
        "gan",
        "corruptions",
    },
    {
        "diffusion",
        "conditional",
        "chain",
        "samplers",
        "solvers",
        "data",
        "corrupted",
        "decoded",
        "downloads",
        "iclevr",
        "export",
        "train",
        "gan_train",
        "journal",
        "curves",
        "dip",
        "noise_level",
        "dip_pictures",
        "features",
        "metrics",
        "evaluator",
        "diversity",
        "faults",
        "sink",
    },
    {
        "recipe",
        "pipeline",
        "job",
        "gan_job",
        "gan_run",
        "ddpm_job",
        "dip_job",
        "dip_plan",
        "dip_folder",
        "restore",
        "classifier_job",
        "sources",
        "extraction",
        "measure",
        "interop",
        "scheduler_config",
        "foreign",
        "evaluate",
        "evaluate_pictures",
    },
    {"experiments"},
    {"cli", "__main__"},
]
ALLOWED_IN_LAYER_0 = {"errors", "rng", "checkpoint"}  # the ground the others of layer 0 stand on


def imports(path: Path) -> set[str]:
    """The minidiff modules that a file imports, anywhere in it, by their first name; `if TYPE_CHECKING` left out."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "minidiff":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("minidiff.")}
    return found - {"__version__"}


def graph() -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name != "__init__":
            edges.setdefault(name, set()).update(imports(path) - {name})
    return edges


def layer_of(name: str) -> int:
    homes = [number for number, layer in enumerate(LAYERS) if name in layer]
    assert len(homes) == 1, f"give minidiff.{name} its place in LAYERS"
    return homes[0]


@pytest.mark.parametrize("name", sorted(graph()))
def test_imports_point_down(name: str) -> None:
    for other in graph()[name]:
        assert layer_of(other) <= layer_of(name), f"{name} imports {other}, which stands above it"
        if layer_of(name) == 0:
            assert other in ALLOWED_IN_LAYER_0, f"{name} imports {other}: layer 0 stands alone"


def test_there_is_no_circle() -> None:
    edges, done = graph(), set[str]()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in edges.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_the_mathematics_knows_no_network() -> None:
    """A model is any callable: diffusion and samplers must not import unet."""
    for name in ("diffusion", "chain", "samplers", "solvers", "schedules"):
        assert not graph()[name] & {"unet", "train", "pipeline"}


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
