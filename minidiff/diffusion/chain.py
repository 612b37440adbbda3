"""What every reverse chain is made of: the timesteps it calls the network at, a call, and what it yields.

Rests on schedules and diffusion; the samplers (chapter 3) and the solvers (chapter 4) rest on it.
Saharia et al. 2022 (Imagen: dynamic thresholding).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.diffusion.process import Denoiser, check_prediction, eps_from, x0_from
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError, lookup


class Step(NamedTuple):
    """What one call of the network led to. Every tensor is its own: keep it, or change it, and the chain goes on.

    The network was called at t with the x of the step before. This x is what it will be called with next, at the noise
    level of that call: x_{t-1}, or that of the next timestep when some are skipped, or the image after the last. x0 is
    the image predicted at t, clipped if asked.
    """

    t: int
    x: Tensor  # [N,C,H,W]
    x0: Tensor  # [N,C,H,W]


class Plan(NamedTuple):
    """How a sampler goes down if it is not told otherwise."""

    steps: int | None  # calls of the network, or as many as there are; None: every timestep
    spacing: str  # one of SPACINGS
    twice: bool = False  # calls every timestep but the first twice
    highest: float = math.inf  # sigma that it can start from


PLANS = {
    "ddpm": Plan(None, "trailing"),
    "ddim": Plan(50, "trailing"),
    "dpm++": Plan(20, "logsnr"),
    "dpm++sde": Plan(20, "karras"),  # better on a trained network, docs/results.md
    # The spacing it was published with: EDM, table 1. There sigma begins at 80; at cosine's last, 20,000, an error of
    # 1e-4 in eps is one of 1 in x0.
    "heun": Plan(19, "karras", twice=True, highest=1000),
    "unipc": Plan(20, "logsnr"),
}


def calls(
    sampler: str, schedule: Schedule, steps: int | None = None, start_t: int | None = None, spacing: str | None = None
) -> list[int]:
    """The timestep of every call that this sampler will make of the network, in order. Falling, but for heun's pairs.

    steps, spacing: None is the sampler's own, see PLANS. The other arguments: see `Schedule.timesteps`. UserError.
    """
    plan = lookup("sampler", sampler, PLANS)
    timesteps = grid(sampler, schedule, steps, start_t, spacing)
    return [timesteps[0], *(t for t in timesteps[1:] for _ in range(2))] if plan.twice else timesteps


def grid(sampler: str, schedule: Schedule, steps: int | None, start_t: int | None, spacing: str | None) -> list[int]:
    """The different timesteps of `calls`, falling. UserError."""
    plan = PLANS[sampler]
    top = schedule.T - 1 if start_t is None else start_t
    if plan.twice and steps is not None:
        if 0 <= top < schedule.T and not 1 <= steps <= 2 * top + 1:
            most = 2 * top + 1
            raise UserError(f"{steps} steps do not fit in {sampler}'s {most} calls ({top} to 0). Take 1 to {most}.")
        steps = (steps + 1) // 2  # n timesteps are 2n - 1 calls
    elif steps is None and plan.steps is not None:
        steps = min((plan.steps + 1) // 2 if plan.twice else plan.steps, top + 1)
    timesteps = schedule.timesteps(steps, start_t, spacing or plan.spacing)
    sigma = float(schedule.sigmas[timesteps[0]])
    if sigma > plan.highest:
        raise UserError(
            f"{sampler} cannot start at t = {timesteps[0]}, pure noise with a sigma of {sigma:.0f}: its error grows "
            "with sigma. Take dpm++, or --spacing karras without a start_t, or a smaller start_t."
        )
    return timesteps


def descend(
    sampler: str, schedule: Schedule, steps: int | None, start_t: int | None, spacing: str | None
) -> Iterator[tuple[int, float, float]]:
    """Every level of a chain: its t, alpha_bar there, and alpha_bar one level lower, which is 1 after the last."""
    timesteps = grid(sampler, schedule, steps, start_t, spacing)
    alpha_bars = schedule.alphas_cumprod[timesteps].tolist()
    yield from zip(timesteps, alpha_bars, [*alpha_bars[1:], 1.0], strict=True)


def prediction_kind(model: Denoiser, schedule: Schedule, prediction: str | None) -> str:
    """What the model predicts: as the caller says, or as the model says of itself, or eps. Checked."""
    kind: str = prediction or getattr(model, "prediction", None) or "eps"
    check_prediction(schedule, kind)
    return kind


def denoise(
    model: Denoiser, x: Tensor, t: int, alpha_bar: float, kind: str, clip: bool | float, keep_eps: bool = False
) -> tuple[Tensor, Tensor]:
    """Call the network once. Returns x0 [N,C,H,W], see `clipped`, and the eps that goes with it."""
    signal_rate, noise_rate = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    output = model(x, torch.full((len(x),), t, device=x.device)).to(x.dtype)
    x0 = x0_from(x, output, kind, signal_rate, noise_rate)
    if clip is not False and not keep_eps:
        x0 = clipped(x0, clip)
        return x0, eps_from(x, x0, "x0", signal_rate, noise_rate)
    x0 = x0.clone() if clip is False else clipped(x0, clip)  # of its own, even where the network's output is x0 itself
    return x0, eps_from(x, output, kind, signal_rate, noise_rate)


def clipped(x0: Tensor, clip: bool | float) -> Tensor:
    """x0 [N,C,H,W] held in [-1,1]. UserError for a clip that is neither a bool nor in (0, 1).

    clip: True cuts off what is beyond. A number is a quantile, such as 0.995: where an image has more than the rest
    of its values beyond, it is cut at that quantile s and divided by it (dynamic thresholding: Saharia et al. 2022,
    section 2.3), so that fewer pixels end up at the very edge.
    """
    if clip is True:
        return x0.clamp(-1, 1)
    if clip is False or not 0 < clip < 1:
        raise UserError(f"clip {clip} is no quantile. Take one between 0 and 1, such as 0.995, or True, or False.")
    sizes = x0.abs().flatten(1).double()  # torch knows no quantile in bfloat16
    s = torch.stack([size.quantile(clip) for size in sizes]).clamp(min=1)  # one by one: quantile takes 16M numbers
    s = s.view(-1, *[1] * (x0.ndim - 1)).to(x0)
    return x0.clamp(-s, s) / s
