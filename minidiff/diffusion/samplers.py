"""Chapter 3: the reverse chain, from noise to an image, or from anywhere in between.

Rests on chain. A sampler is an update rule over a denoiser and levels, and a generator: it yields after every call of
the network. SAMPLERS has the solvers of chapter 4, too. Ho et al. 2020 (DDPM); Song et al. 2021 (DDIM).
"""

import math
from collections.abc import Callable, Iterator

from torch import Tensor

from minidiff.diffusion.chain import Sampler, Step
from minidiff.diffusion.denoiser import Denoise
from minidiff.diffusion.levels import PLANS, Jump, Levels, NoiseSchedule, jump_between
from minidiff.diffusion.process import posterior_mean
from minidiff.diffusion.solvers import dpm_solver, heun, sde_dpm_solver, unipc
from minidiff.errors import UserError, lookup
from minidiff.rng import Noise, randn

# The noise of a step of ddpm. fixed_small is the posterior's variance, right for data that is one point (eq. 7), and
# has the floor of the published code. fixed_large is the forward step's, right for standard normal data (section 3.2).
VARIANCES: dict[str, Callable[[Jump[float]], float]] = {
    "fixed_small": lambda jump: max(jump.variance, 1e-20),
    "fixed_large": lambda jump: jump.beta,
}


def ddpm(
    denoise: Denoise, x: Tensor, levels: Levels, noise: Noise = None, variance: str = "fixed_small"
) -> Iterator[Step]:
    """Draw from the posterior at each level, with the guess in place of x_0 (Ho et al. 2020, algorithm 2)."""
    spread = lookup("variance", variance, VARIANCES)
    for level, below in levels:
        x0, _ = denoise(x, level)  # eq. 15
        jump = jump_between(level, below)
        x = posterior_mean(x0, x, jump)  # eq. 7
        if below.var > 0:  # algorithm 2, line 3: z = 0 in the last step
            x = x + math.sqrt(spread(jump)) * randn(x.shape, noise, like=x)  # algorithm 2, line 4
        yield Step(level.t, x, x0)


def ddim(denoise: Denoise, x: Tensor, levels: Levels, noise: Noise = None, eta: float = 0.0) -> Iterator[Step]:
    """Mix x0 and eps anew for the level below, with as much fresh noise as eta says (Song et al. 2021, eq. 12).

    eta = 0 is deterministic: x alone decides the image. eta = 1 has the noise of ddpm with fixed_small.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta {eta} is outside [0, 1]. Take 0 for no noise, 1 for the noise of ddpm.")
    for level, below in levels:
        x0, eps = denoise(x, level)
        sigma = eta * math.sqrt(jump_between(level, below).variance)  # eq. 16
        towards_x = math.sqrt(max(below.var - sigma**2, 0.0))  # max: rounding, at zero SNR and eta 1
        x = below.signal * x0 + towards_x * eps  # eq. 12
        if sigma > 0:
            x = x + sigma * randn(x.shape, noise, like=x)  # eq. 12, last term
        yield Step(level.t, x, x0)


SAMPLERS = {
    "ddpm": Sampler(ddpm, PLANS["ddpm"]),
    "ddim": Sampler(ddim, PLANS["ddim"]),
    "dpm++": Sampler(dpm_solver, PLANS["dpm++"]),
    "dpm++sde": Sampler(sde_dpm_solver, PLANS["dpm++sde"]),
    "heun": Sampler(heun, PLANS["heun"]),
    "unipc": Sampler(unipc, PLANS["unipc"]),
}


def calls(
    sampler: str,
    schedule: NoiseSchedule,
    steps: int | None = None,
    start_t: int | None = None,
    spacing: str | None = None,
) -> list[int]:
    """List the timestep of every call that this sampler will make of the network, in order. Raises UserError.

    The timesteps fall; heun calls all but the first twice. Arguments: see `Sampler`; None: see PLANS.
    """
    return lookup("sampler", sampler, SAMPLERS).plan.calls(schedule, steps, start_t, spacing)
