"""What the tests of restorations share: noisy pictures, an exact denoiser, and the command, refused or stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minidiff import cli
from minidiff.images.convert import Pixels
from minidiff.restoration import finish


def noisy(height: int, width: int, seed: int) -> Pixels:
    """A smooth picture with noise of 20."""
    down, across = np.mgrid[:height, :width]
    smooth = np.stack([40 + 2 * down, 60 + 2 * across, 100 + down + across], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 20, smooth.shape)
    return np.clip(np.round(smooth + noise), 0, 255).astype(np.uint8)


class Gaussian(torch.nn.Module):
    """The exact denoiser of pixels that are normal with mean m and deviation s: E[eps | x_t]."""

    prediction = "eps"
    mean, deviation = 0.2, 0.4

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule, self.weight = schedule, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        (level,) = self.schedule.levels(t[:1].tolist())
        power = level.alpha_bar * self.deviation**2 + level.var
        return level.noise * (x - level.signal * self.mean) / power


def restore(*words: str | Path) -> int:
    """Type the command. Returns its exit status."""
    return cli.run(["restore", *map(str, words)])


def is_refused(line: str, because: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Assert that the command with these words ends with one line, and that no file has come or gone."""
    before = sorted(map(str, Path().rglob("*")))
    capsys.readouterr()
    assert restore(*line.split()) in (1, 2)
    said = capsys.readouterr().err
    assert because in said and said.startswith("Error: ") and said.count("\n") == 1, said
    assert sorted(map(str, Path().rglob("*"))) == before


def make_other(run: str | Path) -> None:
    """Change one weight of a run by a little: it opens as before."""
    place = Path(run) / "model.safetensors"
    tensors = load_file(place)
    name = min(tensors)
    save_file(tensors | {name: tensors[name] + 1e-3}, place)


def stop_before_answer(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when this answer, counted from 1, is there but not yet written."""
    write, count = finish.write_picture, 0

    def stopping(*given: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr(finish, "write_picture", stopping)
