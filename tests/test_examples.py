"""The examples run, and the one with a known answer finds it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import click
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


def test_dip_ddpm(
    small: None, own_folder: Path, clf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped after three steps it goes on to six, and is then the same training to the bit; nothing is measured twice.

    Fails when a run begins anew, when a start has the weights of another step, and when settings are mixed.
    """
    monkeypatch.setattr("minidiff.priors.job.MEASURED", 8)
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)  # six times would take its time
    module = example("dip_ddpm")
    monkeypatch.setattr(module, "CALLS", 2)
    monkeypatch.setattr(module, "SIZE", 16)
    monkeypatch.setattr(module, "NETS", ("conv2",))  # a ResNet18 takes seconds for a step
    words = ["--dataset", "shapes", "--dim", "8", "--every", "3", "--prior-steps", "2", "--num", "20",
             "--features", str(clf), "--device", "cpu"]  # fmt: skip
    for steps in ("3", "6"):
        module.main([*words, "--steps", steps, "--out", "parts"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    place = Path("parts", "measured")
    written = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(module, "measure", None)
        module.main([*words, "--steps", "6", "--out", "parts"], standalone_mode=False)
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == written
    table = capsys.readouterr().out.splitlines()
    assert table == lines[-len(table) :] and table[0] == "| distance after steps | 3 | 6 |"
    cells = [line.strip("| ").split(" | ") for line in table[2:]]
    assert [row[0] for row in cells] == ["plain", "target-conv2", "start-conv2", "prior-conv2", "training-images"]
    assert all(float(value) > 0 for row in cells[:3] for value in row[1:]) and cells[0][1] != cells[0][2]

    monkeypatch.setattr(module, "measure", lambda *_: None)
    module.main([*words, "--steps", "6", "--every", "6", "--out", "whole"], standalone_mode=False)
    for name in ("plain", "target-conv2"):
        weights = [Path(out, name, "model.safetensors").read_bytes() for out in ("parts", "whole")]
        assert weights[0] == weights[1]
    with pytest.raises(click.UsageError, match="parts was begun with"):
        module.main([*words, "--dim", "16", "--out", "parts"], standalone_mode=False)


def test_every_example_is_run_here() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    tested = {"train_ddpm", "gaussian", "dip", "conditional", "dark_channel", "dip_ddpm"}
    assert names == tested | {"dehaze", "dip_into_chain", "gan_and_ddpm"}


def test_dehaze(tmp_path: Path) -> None:
    """Stage 1 takes most of the haze off, and stage 2 some of what noise and JPEG left. Fails with another start."""
    found = example("dehaze").main(which=(0, 1), size=128, out=tmp_path / "dehaze.png")
    hazy, first, second = (np.mean(found[name]) for name in ("hazy", "stage 1", "stage 2"))
    assert first > hazy + 4 and second > first and (tmp_path / "dehaze.png").exists()


def test_dip_into_chain(tmp_path: Path) -> None:
    """The noisy photograph itself comes out better than it went in, and than a young fit that enters too high."""
    found = example("dip_into_chain").main(steps=5, size=64, out=tmp_path / "chain.png")
    high, own = (next(found[name] for name in found if word in name) for word in ("t = 249", "no fit"))
    assert own > found["noisy"] + 3 and own > high + 3 and (tmp_path / "chain.png").exists()


def test_gan_and_ddpm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are drawn and measured, and real images are far nearer than what a step or two has learnt."""
    monkeypatch.chdir(tmp_path)
    found = example("gan_and_ddpm").main(
        steps={"dcgan": 1, "ddpm": 1}, dataset="shapes", features="shapes", num=16, out=tmp_path / "both.png"
    )
    assert found["real"] < min(found["dcgan"], found["ddpm"]) and (tmp_path / "both.png").exists()
