"""The examples run, and the one with a known answer finds it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
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


def test_dark_channel(tmp_path: Path) -> None:
    """The landscape comes out nearer to the truth, by 2.7 dB. Fails when the airlight or the transmission is wrong."""
    module = example("dark_channel")
    pairs = module.hazy_pairs(
        "hazy-landscapes", 128, split="test", haze=module.Haze((1.2, 1.2), (0.85, 0.85), damage=0)
    )
    hazy, clear = (module.to_uint8(each)[0] for each in pairs[1][:2])
    for name, picture in (("hazy", hazy), ("clear", clear)):
        module.write_image(tmp_path / f"{name}.png", picture)
    answer = module.main(tmp_path / "hazy.png", tmp_path / "clear.png", out=tmp_path / "out.png")
    assert module.psnr(answer, clear) > module.psnr(hazy, clear) + 2
    assert module.read_image(tmp_path / "out.png").shape == (128, 384, 3)


def test_the_dark_channel_prior_where_it_holds() -> None:
    """Every patch has a black pixel, and a corner is nothing but airlight: both are found, T up to OMEGA.

    Fails when the picture is not divided by the airlight, and when the airlight is the brightest pixel of all.
    """
    module, random = example("dark_channel"), np.random.default_rng(0)
    clear, airlight = random.random((60, 60, 3)) * (random.random((60, 60, 1)) > 0.3), np.array([0.8, 0.7, 0.75])
    through = np.full((60, 60, 1), 0.6)
    through[:20, :20] = 0
    clear[40, 40] = 1.2  # as bright as a lamp
    hazy = clear * through + airlight * (1 - through)
    np.testing.assert_allclose(module.airlight_of(hazy), airlight)
    rough = 1 - module.OMEGA * module.dark_channel(hazy / airlight)
    np.testing.assert_allclose(rough[30:, 30:], 1 - module.OMEGA * 0.4, atol=1e-9)


def test_the_guided_filter_keeps_what_is_linear_in_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    """With eps = 0, exactly; in a flat guide it is a mean over windows. Fails for any wrong sign in the regression."""
    module = example("dark_channel")
    guide = np.random.default_rng(0).random((50, 60, 3))
    linear = guide @ np.array([0.5, -2.0, 1.0]) + 0.3
    monkeypatch.setattr(module, "EPS", 1e-12)
    np.testing.assert_allclose(module.guided(guide, linear), linear, atol=1e-6)
    flat = module.guided(np.ones((90, 90, 3)), np.eye(90))
    window = 2 * module.RADIUS + 1
    assert flat[45, 45] == pytest.approx(sum((window - abs(k)) ** 2 for k in range(1 - window, window)) / window**4)


def test_every_example_is_run_here() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"train_ddpm", "gaussian", "dip", "conditional", "dark_channel"}
