"""Fixtures for the tests of dehazing: a few small pictures, and presets that train in a moment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture()
def hazy_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three small pictures; the cache is empty, and the working directory is another."""
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, count in (("MEASURED", 3), ("MEASURED_IN_STEPS", 2), ("SHOWN", 2)):
        monkeypatch.setattr(f"minidiff.dehaze.job.{name}", count)
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
        coarse.resize((72, 64), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture()
def tiny_dehazing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that take no time, under the name cpu."""
    from minidiff.ddpm.config import DiffusionConfig
    from minidiff.dehaze.presets import GUESS_PRESETS, REFINE_PRESETS, seeing
    from minidiff.networks.configs import GUNetConfig

    small = GUNetConfig(channels=(4, 6), blocks=(1, 1), kernel=3)
    monkeypatch.setitem(GUESS_PRESETS, "cpu", replace(GUESS_PRESETS["cpu"], network=small))
    diffusion = DiffusionConfig(schedule="cosine", timesteps=400, prediction="v", timestep_sampling="stratified")
    refine = replace(REFINE_PRESETS["cpu"], network=seeing((4, 6), layers=1), diffusion=diffusion, crop=8, crops=2)
    monkeypatch.setitem(REFINE_PRESETS, "cpu", refine)
