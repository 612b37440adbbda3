"""What the doctor tries on this very machine: it finds what is right, and what has been made wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import minidiff
from minidiff.health import caches, look, trials
from minidiff.health.findings import Wrong
from minidiff.health.look import memory_limit, usable_cores
from minidiff.runs.shipped import MODELS, PHOTOS


def test_a_convolution_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU it is right. One that is off by a thousandth, as with TF32, or not a number, is wrong."""
    assert "right" in trials.try_device("cpu")
    convolve = F.conv2d
    for off in (1.001, float("nan")):

        def wrong(x: torch.Tensor, *given: object, off: float = off, **named: object) -> torch.Tensor:
            return convolve(x, *given, **named) * (off if x.dtype == torch.float32 else 1)  # type: ignore[call-overload]

        monkeypatch.setattr(F, "conv2d", wrong)
        with pytest.raises(Wrong, match="off by"):
            trials.try_device("cpu")


def test_a_step_that_learns_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)
    with pytest.raises(Wrong, match="training step"):
        trials.try_device("cpu")


def test_a_damaged_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short, or of another size; the others are opened nevertheless."""
    for name in ("dehaze", PHOTOS):
        shutil.copytree(MODELS / name, tmp_path / name)
    monkeypatch.setattr("minidiff.runs.shipped.MODELS", tmp_path)
    monkeypatch.setattr(trials, "MODELS", tmp_path)
    assert [finding.state for finding in trials.try_models()] == ["ok", "ok"]
    weights = tmp_path / "dehaze" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    config = json.loads((tmp_path / PHOTOS / "config.json").read_text())
    config["network"]["channels"][0] += 8
    (tmp_path / PHOTOS / "config.json").write_text(json.dumps(config))
    found = list(trials.try_models())
    assert [finding.state for finding in found] == ["fault", "fault"] and all(finding.mend for finding in found)


def test_the_cache_for_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, not there yet, in the way of a file, and on a disk that is full."""
    assert caches.data_cache(tmp_path / "new").state == "ok" and not (tmp_path / "new").exists()
    (tmp_path / "cache" / "images").mkdir(parents=True)
    (tmp_path / "cache" / "images" / "a.npy").write_bytes(bytes(2_000_000))
    there = caches.data_cache(tmp_path / "cache")
    assert there.state == "ok" and "images 2.0 MB" in there.seen
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        blocked = caches.data_cache(place)
        assert blocked.state == "fault" and "MINIDIFF_CACHE" in blocked.mend

    def refuse(**named: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", refuse)
        assert "Read-only" in caches.data_cache(tmp_path / "cache").seen
    monkeypatch.setattr(caches, "ROOM", 1 << 60)
    assert caches.data_cache(tmp_path / "cache").state == "warning"


def test_weights_that_are_not_the_published_ones(tmp_path: Path) -> None:
    assert caches.fid_weights(tmp_path).state == "ok"  # none: they are fetched
    (tmp_path / caches.FIDELITY_FILE).write_bytes(b"not these")
    assert caches.fid_weights(tmp_path / "other", tmp_path).state == "fault"


def test_what_a_container_is_allowed(tmp_path: Path) -> None:
    """Half a core, and 1 GB of which some is taken; without a limit all of the machine."""
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("700000000\n")
    (tmp_path / "memory.stat").write_text("file 5\ninactive_file 200000000\nactive_file 7\n")
    assert usable_cores(tmp_path) == 0.5 and memory_limit(tmp_path) == (1_000_000_000, 500_000_000)
    for name in ("cpu.max", "memory.max"):
        (tmp_path / name).write_text("max\n" if name[0] == "m" else "max 100000\n")
    assert usable_cores(tmp_path) >= 1 and memory_limit(tmp_path) is None
    assert memory_limit(tmp_path / "nothing") is None


def test_torchvision_works_here() -> None:
    assert look.error_of_torchvision() == ""


@pytest.mark.slow
def test_the_doctor_on_this_machine() -> None:
    """All of it, as it is: a machine that runs these tests has no fault. The compiler takes up to a minute."""
    found = list(minidiff.doctor())
    assert {"torch", "torchvision", "CUDA driver", "CPU", "memory", "torch.compile", "data cache", "model photos"} <= {
        finding.name for finding in found
    }
    assert not [str(finding) for finding in found if finding.state == "fault"]
    assert not any(str(Path(minidiff.__file__).parent) in str(finding) for finding in found)
