"""The start-timestep study at its smallest: every file it promises, and figures that could not be otherwise."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result

import minidiff
from minidiff.images.convert import to_uint8

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture()
def study(monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """The command, with two images, short fits and chains of two calls."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import start_timestep

    monkeypatch.setattr(start_timestep, "NET", {"scales": 2, "channels": 8})
    monkeypatch.setattr(start_timestep, "STOP", {"window": 10, "patience": 20})
    out = str(tmp_path / "out")

    def run(*more: str) -> Result:
        options = ["--images", "2", "--noise-sigma", "50", "--dip-steps", "3,60", "--start-t", "0,5,last",
                   "--calls", "2", "--modes", "noise,scale", "--ddpm-t", "5", "--out", out]  # fmt: skip
        return CliRunner().invoke(start_timestep.main, [str(trained), *options, *more])

    return run


def test_start_timestep(study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A DIP of 60 steps is nearer to the clean image than one of 3; a chain of one call from t = 0 changes little."""
    done = study()
    assert done.exit_code == 0, done.output
    assert "| DIP at its early stop |" in done.output and "| noisy image, scale, auto (no DIP) |" in done.output
    for name in ("start-timestep.png", "start-timestep-grid.png"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000
    (noise,) = json.loads((tmp_path / "out" / "results.json").read_text())["noise"]
    assert noise["alone"]["60"]["psnr"] > noise["alone"]["3"]["psnr"] + 2
    assert max(noise["alone"]["stop"]["steps"]) > 10
    chains = {(c["init"], c["mode"], c["start_t"]): c for c in noise["chains"] if c["sampler"] == "ddim"}
    assert set(chains) == {
        (init, mode, t) for init in ("3", "60", "stop", "noisy") for mode in ("noise", "scale") for t in (0, 5, 49)
    }
    assert chains["60", "scale", 0]["psnr"] == pytest.approx(noise["alone"]["60"]["psnr"], abs=0.5)
    assert chains["60", "noise", 49]["psnr"] < noise["alone"]["60"]["psnr"] - 2  # nothing of the init is left

    kept = sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz"))
    assert study().exit_code == 0
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")) == kept  # nothing twice
    other = study("--images", "1")
    assert other.exit_code == 1 and "study with other images" in other.output


def test_every_image_has_its_own_timestep(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of equal timestep share a batch, and come back in their places."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from start_timestep import reverse

    run = minidiff.load(trained)
    init = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    together = reverse(run, init, [30, 5, 30], "scale", calls=2)
    for row, t in enumerate([30, 5, 30]):
        alone = reverse(run, init[[row]], [t], "scale", calls=2)
        for name in ("image", "once"):
            difference = together[name][row].astype(int) - alone[name][0]
            assert np.abs(difference).max() <= 1, (row, name)


def test_sampler_steps(trained: Path, clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distance for every sampler and number of calls, the curves, the sheets; what is there is not drawn again."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sampler_steps

    out = tmp_path / "out"
    words = [str(trained), "--features", str(clf), "--num", "100", "--batch-size", "50", "--out", str(out)]
    done = CliRunner().invoke(sampler_steps.main, [*words, "--samplers", "ddim,dpm++", "--steps", "2,5"])
    assert done.exit_code == 0, done.output
    found = json.loads((out / "results.json").read_text())
    assert [(one["sampler"], one["calls"]) for one in found] == [("ddim", 2), ("dpm++", 2), ("ddim", 5), ("dpm++", 5)]
    assert all(0 < one["fd"] < 1e4 and one["low"] < one["infinity"] < one["high"] for one in found)
    assert "| sampler | 2 | 5 |" in (out / "table.md").read_text()
    for name in ("sampler-steps.png", "sheet-2.png", "sheet-5.png"):
        assert (out / name).stat().st_size > 2_000
    images = np.load(out / "samples" / "ddim-5" / "000050.npz")["images"]
    (expected,) = minidiff.load(trained).sample(100, sampler="ddim", steps=5, batch_size=100)
    assert np.abs(images.astype(int) - to_uint8(expected[50:])).max() <= 1
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    more = CliRunner().invoke(sampler_steps.main, [*words, "--samplers", "ddim,heun", "--steps", "2,5"])
    assert more.exit_code == 0, more.output
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert (out / "samples" / "heun-5").is_dir()


def test_guidance_ways(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    """Guidance within some timesteps is guided there and only told elsewhere; a full rescale has the told deviation."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import guidance
    import torch

    run = minidiff.load(trained)
    torch.manual_seed(0)
    run.model = minidiff.UNet(**run.model.config | {"label_dim": 24}).eval()
    for parameter in run.model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    run.model.prediction = "eps"  # type: ignore[assignment]
    labels, x = torch.eye(24)[:3], torch.randn(3, 3, 16, 16)

    def at(t: int, *way: object, **more: object) -> torch.Tensor:
        with torch.no_grad():
            return guidance.denoiser(run, labels, guidance.Way(*way, **more))(x, torch.full((3,), t))

    told, guided = at(20, 1.0), at(20, 3.0)
    assert (told - guided).abs().max() > 1e-3
    assert torch.equal(at(20, 3.0, within=(20, 30)), guided) and torch.equal(at(20, 3.0, within=(21, 30)), told)
    deviation = at(20, 3.0, rescale=1.0).std(dim=(1, 2, 3))
    assert torch.allclose(deviation, told.std(dim=(1, 2, 3)), rtol=1e-4)
    half = 4.3027 * 0.1 / 3**0.5  # Student's, of three
    assert guidance.interval([0.5, 0.7, 0.6]) == pytest.approx((0.6, 0.6 - half, 0.6 + half), rel=1e-3)
    assert guidance.interval([0.6]) == (0.6, 0.6, 0.6)


def test_dehaze(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Inverting with the truth is nearest to it, and the sheet has a column for each method and the clear picture."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import dehaze

    monkeypatch.setattr(dehaze, "SIZE", 64)
    options = ["--sets", "landscapes", "--hazes", "1", "--airlight", "0.8", "0.9", "--sheet", str(tmp_path / "s.png")]
    done = CliRunner().invoke(dehaze.main, options, catch_exceptions=False)
    rows = [line.split(" | ") for line in done.output.splitlines()[2:]]
    near = {row[1]: float(row[2]) for row in rows}
    assert list(near) == ["as it is", "dark channel", "the true T and A"]
    assert near["the true T and A"] > 30 > near["dark channel"] and (tmp_path / "s.png").exists()


def test_report_faults(
    monkeypatch: pytest.MonkeyPatch, small: None, clf: Path, tmp_path: Path, own_folder: Path
) -> None:
    """Every measurement is there, is not made again, and a kill costs the one that it cut; the wrong range is wrong.

    Fails when both trainings see the same values, or raw weights are the averaged ones.
    """
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
    import report_faults

    monkeypatch.setattr(report_faults, "SIZE", 16)
    monkeypatch.setattr(report_faults, "CALLS", 2)
    words = ["--dataset", "shapes", "--steps", "4", "--every", "2", "--num", "20", "--few", "5", "--times", "7",
             "--features", str(clf), "--out", "out"]  # fmt: skip
    done = CliRunner().invoke(report_faults.main, words, catch_exceptions=False)
    lines = [line for line in done.output.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 2 * 2 * 2 + 1 and "| [-3, 1], raw | 4 |" in done.output
    rows = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert len({row["fd"] for row in rows}) == 9

    losses = [[json.loads(line)["loss"] for line in path.read_text().splitlines() if "loss" in line]
              for path in sorted(Path("out/runs").glob("*/run/metrics.jsonl"))]  # fmt: skip
    assert len(losses) == 2 and losses[0][1:] != losses[1][1:]
    with monkeypatch.context() as patch:
        stand_in = SimpleNamespace(loss=lambda model, x0, labels, draws: x0)
        patch.setattr(report_faults.DdpmJob, "build", lambda *_: stand_in)
        wrong = report_faults.WrongRange.build(object.__new__(report_faults.WrongRange), None, None)
    assert [wrong.loss(None, x, None, None) for x in (-1, 0, 1)] == [-3, -1, 1]
    kept = Path("out/results.jsonl").read_text().splitlines()
    Path("out/results.jsonl").write_text("\n".join([*kept[:-1], kept[-1][:30]]))
    monkeypatch.setattr(report_faults, "train", lambda *_: None)
    again = CliRunner().invoke(report_faults.main, words, catch_exceptions=False)
    assert [line for line in again.output.splitlines() if line.startswith("|")] == lines
    assert Path("out/results.jsonl").read_text().splitlines()[:-2] == kept[:-1]


def test_few_against_few_is_the_frechet_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all rows at once there is one subset, whose distance the package knows. Curves: the first is lowest in two."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import report_faults

    random = np.random.default_rng(0)
    made, real = (random.standard_normal((6, 9)).astype(np.float32) + shift for shift in (0, 1))
    a, b = (minidiff.FeatureStatistics.of(rows) for rows in (made, real))
    expected = minidiff.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert report_faults.few_against_few(made, real, 6, 2, seed=0) == pytest.approx([expected] * 2)
    curves = np.array([[1.0, 5, 2], [2, 4, 3], [3, 3, 4]])
    assert report_faults.first_is_lowest(curves) == pytest.approx(2 / 3)
