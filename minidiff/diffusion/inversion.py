"""Chapter 4, upwards: from a picture to the noise that a chain without new noise makes it of, and between two noises.

Rests on chain. Without new noise the chain is a differential equation, and can be walked in both directions.
Song et al. 2021 (DDIM: section 4.3 and appendix D.5); Karras et al. 2022 (EDM: Heun); Pan et al. 2023 (AIDI:
fixed-point iterations); Shoemake 1985 (slerp).
"""

from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from minidiff.diffusion.chain import Step
from minidiff.diffusion.denoiser import Denoise
from minidiff.diffusion.levels import Level, Levels

ROUNDS = 4  # of `retrace`: docs/inversion.md has what they buy


def with_eps(x: Tensor, eps: Tensor, level: Level, below: Level) -> Tensor:
    """Return the x at `level` that ddim's step takes to this x at `below`, if its guess there is this eps."""
    x0 = (x - below.noise * eps) / below.signal  # DDPM eq. 4, solved for x0
    return level.signal * x0 + level.noise * eps


def with_x0(x: Tensor, x0: Tensor, level: Level, below: Level) -> Tensor:
    """Return the x at `level` that ddim's step takes to this x at `below`, if its guess there is this x0."""
    eps = (x - below.signal * x0) / below.noise  # DDPM eq. 4, solved for eps
    return level.signal * x0 + level.noise * eps


def ddim_upwards(denoise: Denoise, x: Tensor, levels: Levels) -> Iterator[Step]:
    """Take ddim's step the other way, with the guess from where it begins (Song et al. 2021, eq. 13 and section 4.3).

    x: pictures [N,C,H,W]. levels: falling, as a sampler has them. Yields after every call, x one level higher; the
    last x is the noise. The step down would have taken the guess from its upper end, so a round trip errs with the
    length of the steps. denoise should not clip: cut pixels do not say what they were.
    """
    for level, below in reversed(levels):
        # The network knows no level of the picture itself, and is asked at the lowest that it knows.
        x0, eps = denoise(x, below) if below.var > 0 else denoise(level.signal * x, level)
        x = with_eps(x, eps, level, below)
        yield Step(level.t, x, x0)


def heun_upwards(denoise: Denoise, x: Tensor, levels: Levels) -> Iterator[Step]:
    """Take the step with the mean of the guesses from both its ends (EDM, algorithm 1, upwards). See `ddim_upwards`.

    A round trip with `solvers.heun` errs with the square of the steps. Two calls a level. The way from the picture to
    the lowest level is a step of ddim, as in `heun`.
    """
    for level, below in reversed(levels):
        if below.var > 0:
            _, eps = denoise(x, below)
            _, eps_above = denoise(with_eps(x, eps, level, below), level)
            x = with_eps(x, (eps + eps_above) / 2, level, below)
            yield Step(level.t, x, (x - level.noise * eps_above) / level.signal)
        else:
            x = yield from lowest(denoise, x, level, below)


def lowest(denoise: Denoise, x: Tensor, level: Level, below: Level) -> Generator[Step, None, Tensor]:
    """Retrace the step from the lowest level to the picture; returns the x there."""
    picture, x = x, level.signal * x
    for _ in range(ROUNDS):
        x0, eps = denoise(x, level)
        x = with_eps(picture, eps, level, below)
    yield Step(level.t, x, x0)
    return x


def retrace(denoise: Denoise, x: Tensor, levels: Levels, rounds: int = ROUNDS) -> Iterator[Step]:
    """Find the noise from which ddim, at these very levels, comes back to x: its steps, solved for where they began.

    Each step down is x_below = f(x_above); upwards it is solved by `rounds` fixed-point iterations, a call each, which
    begin with the guess of the step before (Pan et al. 2023). A round either keeps the guess at eps or the guess at
    x0. Near the picture x0 depends more on x, near the noise eps does; so the one is kept that depends less, and an
    error shrinks in each round to about (r - 1) / (r + 1) of it, r being the ratio of the two sigmas. Where the errors
    of the network are large it can shrink less. Arguments and result: see `ddim_upwards`.
    """
    eps = torch.zeros_like(x)
    for level, below in reversed(levels):
        keep_x0 = level.sigma * below.sigma > 1  # images have a variance of up to 1
        start, x = x, with_eps(x, eps, level, below)
        for _ in range(rounds):
            x0, eps = denoise(x, level)
            x = with_x0(start, x0, level, below) if keep_x0 else with_eps(start, eps, level, below)
        yield Step(level.t, x, x0)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Go the share of the way from a to b, both [N,...], along a great circle: Song et al. 2021, eq. 67.

    Noise in many dimensions lies near a sphere, and half-way along the straight line the norm is 0.7 of what a network
    knows. The circle keeps it. Where two directions are the same, or opposite, there is no one circle: then it is the
    straight line. Share 0 is a, and share 1 is b.
    """
    flat = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(*flat, dim=1)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    straight = sine < 1e-4
    sine = torch.where(straight, 1.0, sine)
    of_a = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / sine)  # eq. 67
    of_b = torch.where(straight, share, (share * angle).sin() / sine)  # eq. 67
    return (of_a[:, None] * flat[0] + of_b[:, None] * flat[1]).view_as(a).to(a.dtype)


def shares(num: int) -> list[float]:
    """List `num` even shares of a way with both its ends: 0, ..., 1."""
    return [k / max(num - 1, 1) for k in range(num)]
