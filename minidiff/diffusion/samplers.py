"""Chapter 3: the reverse chain, from noise to an image, or from anywhere in between.

Rests on chain; SAMPLERS has the solvers of chapter 4 too. A sampler is a generator that yields after every call of the
network; progress bars, pictures on the way and an early end belong to the caller.
Ho et al. 2020 (DDPM); Song et al. 2021 (DDIM).
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from minidiff.diffusion.chain import Step, denoise, descend, prediction_kind
from minidiff.diffusion.chain import calls as calls
from minidiff.diffusion.process import Denoiser
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.solvers import dpm_solver, heun, sde_dpm_solver, unipc
from minidiff.errors import UserError, lookup
from minidiff.rng import Noise, randn


def fixed_small(beta: float, alpha_bar: float, alpha_bar_next: float) -> float:
    """The posterior's variance, right for data that is one point: DDPM eq. 7. Floored as in the published code."""
    return max((1 - alpha_bar_next) / (1 - alpha_bar) * beta, 1e-20)


def fixed_large(beta: float, alpha_bar: float, alpha_bar_next: float) -> float:
    """The forward step's variance, right for data that is standard normal: DDPM, section 3.2."""
    return beta


VARIANCES: dict[str, Callable[[float, float, float], float]] = {"fixed_small": fixed_small, "fixed_large": fixed_large}


@torch.no_grad()
def ddpm(
    model: Denoiser,
    schedule: Schedule,
    x: Tensor,
    *,
    steps: int | None = None,
    start_t: int | None = None,
    spacing: str | None = None,
    variance: str = "fixed_small",
    clip: bool | float = True,
    prediction: str | None = None,
    generator: Noise = None,
) -> Iterator[Step]:
    """DDPM (Ho et al. 2020, algorithm 2): ancestral sampling, one draw from the posterior after another.

    x: [N,C,H,W] at the noise level of the first timestep: standard normal for a whole chain, or
    `q_sample(schedule, image, start_t, noise)`. It is not modified.
    steps: calls of the network, None for all. start_t, spacing: see `Schedule.timesteps`; None is `trailing`.
    variance: one of VARIANCES. clip: hold the predicted x0 in [-1,1], in which way see `chain.clipped`.
    prediction: what the model predicts; None asks `model.prediction`, else eps.
    generator: None, one, or one for each sample. No noise is added in the last step.
    Where timesteps are skipped, alpha and beta are those of the whole jump. UserError on any value out of range.
    """
    add_variance = lookup("variance", variance, VARIANCES)
    kind = prediction_kind(model, schedule, prediction)
    for t, alpha_bar, alpha_bar_next in descend("ddpm", schedule, steps, start_t, spacing):
        alpha = alpha_bar / alpha_bar_next  # of one step alpha_t, of a jump the product of all its alphas
        beta = 1 - alpha
        x0, _ = denoise(model, x, t, alpha_bar, kind, clip)  # eq. 15
        mean = (
            math.sqrt(alpha_bar_next) * beta / (1 - alpha_bar) * x0
            + math.sqrt(alpha) * (1 - alpha_bar_next) / (1 - alpha_bar) * x
        )  # eq. 7
        if alpha_bar_next == 1:
            x = mean  # algorithm 2, line 3: z = 0 in the last step
        else:
            sigma = math.sqrt(add_variance(beta, alpha_bar, alpha_bar_next))
            x = mean + sigma * randn(x.shape, generator, like=x)  # algorithm 2, line 4
        yield Step(t, x.clone(), x0)


@torch.no_grad()
def ddim(
    model: Denoiser,
    schedule: Schedule,
    x: Tensor,
    *,
    steps: int | None = None,
    start_t: int | None = None,
    spacing: str | None = None,
    eta: float = 0.0,
    clip: bool | float = True,
    keep_eps: bool = False,
    prediction: str | None = None,
    generator: Noise = None,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, eq. 12): the same network, any steps, and as much noise as eta says.

    eta = 0 is deterministic: x alone decides the image. eta = 1 has the noise of DDPM with fixed_small.
    steps: None is 50, or all of start_t + 1 if those are fewer. The other options are those of `ddpm`.
    keep_eps: where clipping changes x0, eps is worked out anew so that both still explain x. True keeps the network's
    own eps: diffusers' default (`use_clipped_model_output=False`), and the same thing if nothing is clipped.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta {eta} is outside [0, 1]. Take 0 for no noise, 1 for that of DDPM.")
    kind = prediction_kind(model, schedule, prediction)
    for t, alpha_bar, alpha_bar_next in descend("ddim", schedule, steps, start_t, spacing):
        x0, eps = denoise(model, x, t, alpha_bar, kind, clip, keep_eps)
        sigma = eta * math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next))  # eq. 16
        towards_x = math.sqrt(max(1 - alpha_bar_next - sigma**2, 0.0))  # max: rounding, at zero SNR and eta 1
        x = math.sqrt(alpha_bar_next) * x0 + towards_x * eps  # eq. 12
        if sigma > 0:
            x = x + sigma * randn(x.shape, generator, like=x)  # eq. 12, last term
        yield Step(t, x.clone(), x0)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm++": dpm_solver,
    "dpm++sde": sde_dpm_solver,
    "heun": heun,
    "unipc": unipc,
}
