"""What the tests of deep image priors share: a picture, a fit that is interrupted, and fits that draw nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minidiff.dip import job as dip_job
from minidiff.dip.config import DipConfig, DipFolderConfig, FitConfig, FitRequest, NetConfig
from minidiff.images.convert import Pixels
from minidiff.records import to_json


def fit_config(image: str = "photo.png", **changed: Any) -> dict[str, Any]:
    """The config.json of a fit, for a run folder that no fit has made."""
    config = DipConfig("0", "dip", image, None, None, None, 0.0, NetConfig(), FitConfig(), None, 10, "")
    return to_json(replace(config, **changed))


def folder_config(images: str = "photos") -> dict[str, Any]:
    """The config.json of the fits of a folder's pictures."""
    return to_json(DipFolderConfig("0", "dip", images, FitRequest()))


def smooth(height: int = 24, width: int = 20) -> Pixels:
    """A clean colour picture, uint8 [H,W,3]."""
    y, x = np.mgrid[0:height, 0:width] / 8
    return (127.5 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2)).astype(np.uint8)


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out curves.png and sheet.png: matplotlib takes longer than a small fit."""
    monkeypatch.setattr(dip_job, "draw_fit", lambda folder, records, best_step: None)
    monkeypatch.setattr(dip_job, "draw_sheet", lambda path, panels, reference: None)


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Call `act` in the middle of this step, once."""
    record = DipJob_measure
    done: list[int] = []

    def measure(self: Any, now: Any, statistic: Any) -> Any:
        if now.step == step and not done:
            done.append(step)
            act()
        return record(self, now, statistic)

    monkeypatch.setattr(dip_job.DipJob, "measure", measure)


DipJob_measure = dip_job.DipJob.measure
