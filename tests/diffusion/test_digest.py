"""What the samplers yield is held to the bit against plain arithmetic, and to nine digits against stored numbers."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from plain_samplers import plain
from test_samplers import some_model
from torch import Tensor

from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.rng import sample_generators

SCHEDULES = {
    "linear": Schedule.linear(30),
    "cosine": Schedule.cosine(),
    "zero SNR": Schedule.linear().zero_terminal_snr(),
}
CHAINS = [  # steps, start_t, spacing
    (5, None, None),
    (5, 20, "quadratic"),
    (1, 0, "leading"),
    (3, None, "linspace"),
]
OWN = {
    "ddpm": [{"variance": name} for name in ("fixed_small", "fixed_large")],
    "ddim": [{"eta": eta, "keep_eps": keep} for eta, keep in itertools.product((0.0, 0.5, 1.0), (False, True))],
}


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])  # the others: test_continuous.py
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_plain_arithmetic_to_the_bit(name: str, kind: str) -> None:
    """Every t, x and x0, for all schedules, chains, ways of clipping, own options and two dtypes.

    Fails when a formula is written so that it rounds otherwise: runs made before would then draw other images.
    """
    compared = 0
    for schedule, chain, clip, dtype, own in itertools.product(
        SCHEDULES.values(), CHAINS, (False, True, 0.9), (torch.float32, torch.float64), OWN.get(name, [{}])
    ):
        if (kind == "eps" and schedule.alphas_cumprod[-1] == 0) or (dtype == torch.float64 and clip is True):
            continue  # what has no x0; and what would only take time
        x = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(5)).to(dtype)
        options = dict(zip(("steps", "start_t", "spacing"), chain, strict=True)) | own
        options |= {"clip": clip, "prediction": kind}
        ours, theirs = (
            sampler(some_model(kind, schedule), schedule, x, generator=sample_generators(1, range(2)), **options)
            for sampler in (SAMPLERS[name], plain(name))
        )
        try:
            steps = list(ours)
        except UserError:  # heun refuses to start where sigma is beyond all measure
            assert name == "heun" and schedule.levels([schedule.T - 1])[0].sigma > 1000
            continue
        for step, wanted in zip(steps, theirs, strict=True):
            assert step.t == wanted.t and torch.equal(step.x, wanted.x) and torch.equal(step.x0, wanted.x0), options
        compared += 1
    assert compared >= 20


def summary(name: str, kind: str, clip: bool | float) -> float:
    """One number that depends on every pixel of the image that a short chain ends in."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        return 1.3 * torch.tanh(0.7 * x + 0.4 * torch.sin(0.013 * t.to(x)).view(-1, 1, 1, 1) * x.roll(1, -1))

    x = torch.linspace(-2, 2, 12, dtype=torch.float64).view(1, 1, 3, 4)
    noise = torch.Generator().manual_seed(1)
    spacing = "karras" if name == "dpm++sde" else None  # its own, when the numbers were stored
    options = {"steps": 7, "spacing": spacing, "clip": clip, "prediction": kind}
    *_, last = SAMPLERS[name](model, Schedule.linear(), x, generator=noise, **options)
    return float((last.x.flatten() * torch.arange(1, 13)).sum())


STORED = json.loads((Path(__file__).parent / "digest.json").read_text())


@pytest.mark.parametrize("name", SAMPLERS)
def test_images_are_those_of_the_version_that_stored_them(name: str) -> None:
    """In float64. Where noise is drawn, in float32, another processor may round its logarithm otherwise."""
    digits = 1e-5 if name in ("ddpm", "dpm++sde") else 1e-9
    for kind, clip in itertools.product(("eps", "x0", "v"), (True, False, 0.9)):
        assert summary(name, kind, clip) == pytest.approx(STORED[name][f"{kind} {clip}"], rel=digits, abs=digits)
