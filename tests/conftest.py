"""Set up what the tests share: one thread a process, a cache of their own, and small runs that train in a second."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: scipy's threads spin, and cost ten times the time

import numpy as np
import pytest
import torch

from minidiff.ddpm.config import DiffusionConfig
from minidiff.ddpm.presets import DDPM_PRESETS, DdpmPreset
from minidiff.networks.configs import UNetConfig
from minidiff.training.config import TrainConfig

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # Under nohup, or in the background of a script, SIGINT is ignored, and every process that a test starts inherits
    # that: the tests that press Ctrl-C would wait in vain.
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
pytest_plugins = ["study_fixtures", "dehaze_fixtures"]

# The files whose tests are quick: mathematics, records, parsing, messages. `pytest -m quick` reads these alone.
QUICK = {
    "cli/test_choices.py",
    "cli/test_help.py",
    "diffusion/test_diffusion.py",
    "diffusion/test_digest.py",
    "diffusion/test_noise_level.py",
    "diffusion/test_notation.py",
    "diffusion/test_schedules.py",
    "dip/test_dip_requests.py",
    "gan/test_gan.py",
    "images/test_faults.py",
    "images/test_images.py",
    "images/test_quality.py",
    "images/test_sink.py",
    "metrics/test_frechet.py",
    "test_arrays.py",
    "test_files.py",
    "test_gpu_paths.py",
    "test_imports.py",
    "test_records.py",
}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use up to four processes, but none for single files: there, starting them takes longer than the tests."""
    few = all(".py" in argument for argument in config.args)
    return 0 if few else min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the other files out of a quick run: to import them takes longer than the quick tests themselves."""
    quick = config.getoption("markexpr") == "quick" and collection_path.name.startswith("test_")
    return True if quick and collection_path.relative_to(TESTS).as_posix() not in QUICK else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of QUICK as quick."""
    for item in items:
        if item.path.relative_to(TESTS).as_posix() in QUICK and item.get_closest_marker("slow") is None:
            item.add_marker("quick")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests neither read nor fill the user's cache; commands they start as processes inherit this one."""
    cache = tmp_path_factory.mktemp("cache")
    os.environ["MINIDIFF_CACHE"] = str(cache)
    return cache


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 smooth 16x16 colour pictures: enough to train something on."""
    from minidiff.images.files import write_image

    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[0:16, 0:16] / 16
    for number in range(24):
        angle = 2 * np.pi * number / 24
        wave = 0.5 + 0.5 * np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y))
        picture = np.stack([wave, 1 - wave, np.full_like(wave, number / 24)], axis=2)
        write_image(folder / f"{number:02d}.png", (255 * picture).astype(np.uint8))
    return folder


def tiny() -> DdpmPreset:
    """A network of 8 channels and six steps of training."""
    network = UNetConfig(
        channels=(8, 16), layers_per_block=1, attention=(False, True), norm_groups=4, dropout=0.1, image_size=16
    )
    training = TrainConfig(steps=6, batch_size=4, lr=1e-3, warmup=2)
    return DdpmPreset("tests", 16, network, training, DiffusionConfig(timesteps=50))


@pytest.fixture()
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """That preset, by name, for this process and this test."""
    monkeypatch.setitem(DDPM_PRESETS, "tiny", tiny())
    return "tiny"


def tiny_training(data: Path, *more: str) -> list[str]:
    """The command line of a training that takes a second."""
    tiny = ["--preset", "tiny", "--dataset", "folder", "--data-dir", str(data), "--sample-every", "60"]
    return ["train", "ddpm", *tiny, *more]


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps."""
    from minidiff import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        patch.setitem(DDPM_PRESETS, "tiny", tiny())
        assert cli.run(tiny_training(photos, "--out", "run")) == 0
        return Path("run").resolve()


@pytest.fixture(scope="session")
def finisher(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps that takes pictures of any size, and knows the timesteps below 40 of 50."""
    from minidiff import cli

    out, preset = tmp_path_factory.mktemp("finisher") / "run", tiny()
    network = replace(preset.network, attention=(False,) * len(preset.network.channels), mid_attention=False,
                      norm="channel")  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DDPM_PRESETS, "tiny", replace(preset, network=network))
        assert cli.run(tiny_training(photos, "--trained-below", "40", "--out", str(out))) == 0
    return out


@pytest.fixture
def exact(finisher: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run whose guess is exact for normal pixels of mean 0.2 and deviation 0.4, and which knows how sure it is."""
    from restorations import Gaussian

    import minidiff
    from minidiff.diffusion.posterior import white_doubt

    run = minidiff.load(finisher, precision="fp32")
    run.model = Gaussian(run.schedule)
    monkeypatch.setattr("minidiff.ddpm.drawing.at_any_size", lambda model, config: model)
    for task in ("tasks", "jpeg"):
        monkeypatch.setattr(f"minidiff.restoration.{task}.doubt_of", lambda run: white_doubt(0.4))
    return run


@pytest.fixture(scope="session")
def clf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two kinds of 16x16 pictures, of 32 features, trained for 20 steps; beside it, its `data`."""
    from peers import pictures

    from minidiff import cli
    from minidiff.images.files import write_image

    home = tmp_path_factory.mktemp("clf")
    for number, image in enumerate(pictures(24, 16, 16)):
        write_image(home / "data" / ("light" if number % 2 else "dark") / f"{number}.png", image // (2 - number % 2))
    small = ["--image-size", "16", "--width", "4", "--steps", "20", "--batch-size", "8", "--device", "cpu"]
    data = ["--dataset", "folder", "--data-dir", str(home / "data")]
    assert cli.run(["train", "classifier", *data, *small, "--out", str(home / "run")]) == 0
    return home / "run"


@pytest.fixture()
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few hundred rows are several blocks, the last of them not full."""
    monkeypatch.setattr("minidiff.metrics.pieces.BLOCK", 64)
