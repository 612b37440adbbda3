"""The examples run, and the one with a known answer finds it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_train_ddpm(tmp_path: Path) -> None:
    samples = example("train_ddpm").main(steps=1, images=2, out=tmp_path / "ddpm.png")
    assert samples.shape == (2, 3, 32, 32) and (tmp_path / "ddpm.png").exists()


def test_gaussian() -> None:
    """Finite steps cost 3.4% (ddpm, fixed_small) and 1.8% (ddim) of the deviation; a wrong coefficient costs more."""
    for mean, deviation in example("gaussian").main().values():
        assert mean == pytest.approx(0.3, abs=2e-3) and deviation == pytest.approx(0.1, rel=0.04)


def test_dip(tmp_path: Path) -> None:
    assert set(example("dip").main(steps=1, out=tmp_path / "dip.png")) == {"noisy", "answer", "last"}
    assert (tmp_path / "dip.png").exists()


def test_conditional(tmp_path: Path) -> None:
    assert example("conditional").main(steps=1, each=1, out=tmp_path / "orders.png").shape == (3, 3, 32, 32)
    assert (tmp_path / "orders.png").exists()


def test_every_example_is_run_here() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"train_ddpm", "gaussian", "dip", "conditional"}
