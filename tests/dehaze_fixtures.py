"""Fixtures for the tests of dehazing: a few small pictures, and presets that train in a moment."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture()
def hazy_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three small pictures; the cache is empty, and the working directory is another."""
    return prepare(tmp_path, monkeypatch)


def prepare(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of three small pictures in `home`, and let trainings measure on no more."""
    monkeypatch.setenv("MINIDIFF_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    for name, count in (("MEASURED", 3), ("MEASURED_IN_STEPS", 2), ("SHOWN", 2)):
        monkeypatch.setattr(f"minidiff.dehaze.job.{name}", count)
    folder = home / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
        coarse.resize((72, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture()
def tiny_dehazing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that take no time, under the name cpu."""
    shrink(monkeypatch)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    from minidiff.ddpm.config import DiffusionConfig
    from minidiff.dehaze.presets import GUESS_PRESETS, REFINE_PRESETS, seeing
    from minidiff.networks.configs import GUNetConfig

    small = GUNetConfig(channels=(4, 6), blocks=(1, 1), kernel=3)
    monkeypatch.setitem(GUESS_PRESETS, "cpu", replace(GUESS_PRESETS["cpu"], network=small))
    diffusion = DiffusionConfig(schedule="cosine", timesteps=400, prediction="v", timestep_sampling="stratified")
    refine = replace(REFINE_PRESETS["cpu"], network=seeing((4, 6), layers=1), diffusion=diffusion, crop=8, crops=2)
    monkeypatch.setitem(REFINE_PRESETS, "cpu", refine)


@pytest.fixture(scope="session")
def dehazers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that have learnt nothing yet: `first` of stage 1, `second` of stage 2."""
    import minidiff

    home = tmp_path_factory.mktemp("dehazers")
    small: dict[str, Any] = {"dataset": "hazy-photos", "image_size": 16, "batch_size": 2, "steps": 2}
    small |= {"precision": "fp32", "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        folder = prepare(home, patch)
        shrink(patch)
        minidiff.train("dehaze", data_dir=folder, out="first", **small)
        minidiff.train("dehaze", data_dir=folder, stage=2, stage_1="first", out="second", **small)
    return home
