"""The wheel: all that the package needs is in it, and its models open from where pip has put it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import minidiff
from minidiff.runs.shipped import shipped

ROOT = Path(minidiff.__file__).parents[1]
LARGEST = 60_000_000  # bytes of the wheel; PyPI takes 100 MB


def call(*words: str, where: Path, **environment: str) -> str:
    done = subprocess.run(words, cwd=where, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it from a copy of the source, so that nothing is left in the folder of the source itself."""
    home = tmp_path_factory.mktemp("wheel")
    if not (ROOT / "setup.cfg").exists():
        pytest.skip("this package is not in the folder of its source")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / "minidiff", home / "source" / "minidiff", ignore=ignored)
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "./source", where=home)
    return next((home / "out").glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_file(wheel: Path) -> None:
    """Fails when package_data forgets a folder: models, templates of pages, py.typed, the licence."""
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "minidiff").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert not {path.relative_to(ROOT).as_posix() for path in files} - names
    assert any(name.endswith("/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs"))]
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes")
    assert wheel.stat().st_size < LARGEST


@pytest.mark.slow
def test_the_models_open_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """In a clean folder, without its dependencies, by its own command line."""
    there = tmp_path / "there"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "install", "-q", "--no-deps", "--target", str(there), str(wheel), where=tmp_path)
    python = [sys.executable, "-m"]
    said = call(*python, "minidiff", "models", where=tmp_path, PYTHONPATH=str(there))
    assert all(name in said for name in shipped())
    code = "import minidiff; from minidiff.health.trials import try_models; print(minidiff.__file__); " + (
        "print(*[finding for finding in try_models()], sep='\\n')"
    )
    place, *lines = call(sys.executable, "-c", code, where=tmp_path, PYTHONPATH=str(there)).splitlines()
    assert Path(place).is_relative_to(there)
    assert len(lines) == len(shipped()) and all(line.startswith("ok ") for line in lines)
