"""Fixtures for the tests of studies: a folder of their own, models that train in a moment, processes that are none."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from studied import Pretended


@pytest.fixture()
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture()
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that train in a moment, on a few scenes."""
    from conftest import tiny

    from minidiff.data import shapes
    from minidiff.ddpm import previews
    from minidiff.ddpm.presets import DDPM_PRESETS
    from minidiff.gan.presets import GAN_PRESETS, GanPreset
    from minidiff.studies import cell as cells
    from minidiff.training.config import TrainConfig

    monkeypatch.setitem(DDPM_PRESETS, "cpu", tiny())
    gan = TrainConfig(steps=2, batch_size=4, lr=1e-4, warmup=0, grad_clip=None)
    monkeypatch.setitem(GAN_PRESETS["wgan"], "cpu", GanPreset("tests", 16, latent_dim=8, width=4, training=gan))
    monkeypatch.setattr(shapes, "COUNTS", {"train": 48, "test": 30})
    monkeypatch.setattr(previews, "IMAGES", 1)
    monkeypatch.setattr(cells, "COMPARED", 16)


@pytest.fixture()
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that run in this process, and a study that does not wait."""
    from studied import Inside

    from minidiff.studies import processes

    monkeypatch.setattr(processes, "start", Inside)
    monkeypatch.setattr(processes, "POLL", 0)


@pytest.fixture()
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command without its timing, and without the weights of Inception."""
    from studied import made_up

    from minidiff.metrics import inception_weights
    from minidiff.studies import compare

    monkeypatch.setattr(compare, "measure_times", lambda settings, device, share: made_up(settings))
    monkeypatch.setattr(inception_weights, "find_weights", lambda **_: None)


@pytest.fixture()
def pretended(monkeypatch: pytest.MonkeyPatch) -> "type[Pretended]":
    """Processes that do nothing but end."""
    from studied import Pretended

    from minidiff.studies import processes

    monkeypatch.setattr(processes, "start", Pretended)
    monkeypatch.setattr(processes, "POLL", 0)
    monkeypatch.setattr(Pretended, "at_once", [], raising=False)
    monkeypatch.setattr(Pretended, "most", [], raising=False)
    return Pretended
