"""The six samplers once more: plain arithmetic beside the papers, with a slot wherever a mistake is likely.

As they stand they are equal to the samplers of the package to the bit: test_digest.py. With a slot filled by another
function they are the mutants that the tests must catch. Nothing of minidiff.diffusion is used but the timesteps.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from minidiff.diffusion.samplers import Step, calls
from minidiff.diffusion.schedules import Schedule
from minidiff.rng import Noise, randn

Guess = Callable[[Tensor, int, float], tuple[Tensor, Tensor]]  # (x, t, alpha_bar) -> x0, eps
Pairs = list[tuple[int, float, float]]  # t, alpha_bar there, alpha_bar one level lower
Mistake = Callable[[float], float]


def lost(value: float) -> float:
    """Return the value itself instead of its root: a mistake."""
    return value


def to_the_next(alpha_bars: Sequence[float]) -> Sequence[float]:
    """Give alpha_bar one level lower, for every level."""
    return [*alpha_bars[1:], 1.0]


def plain(
    name: str,
    shift: int = 0,
    lower: Callable[[Sequence[float]], Sequence[float]] = to_the_next,
    **slots: Callable[..., object] | float,
) -> Callable[..., Iterator[Step]]:
    """Build the sampler of this name, to be called like SAMPLERS[name]. shift: of start_t; slots: of its rule."""
    rule = partial(RULES[name], **slots)

    @torch.no_grad()
    def sampler(
        model: Callable[[Tensor, Tensor], Tensor], schedule: Schedule, x: Tensor, *, steps: int | None = None,
        start_t: int | None = None, spacing: str | None = None, prediction: str | None = None,
        clip: bool | float = True, keep_eps: bool = False, generator: Noise = None, **own: float | str,
    ) -> Iterator[Step]:  # fmt: skip
        kind = prediction or getattr(model, "prediction", "eps")
        timesteps = list(dict.fromkeys(calls(name, schedule, steps, start_t and start_t + shift, spacing)))
        alpha_bars = schedule.alphas_cumprod[timesteps].tolist()

        def guess(x: Tensor, t: int, alpha_bar: float) -> tuple[Tensor, Tensor]:
            signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
            output = model(x, torch.full((len(x),), t)).to(x.dtype).clone()
            x0 = {
                "eps": lambda: (x - noise * output) / signal,
                "x0": lambda: output,
                "v": lambda: signal * x - noise * output,
            }[kind]()
            own_eps = {
                "eps": lambda: output,
                "x0": lambda: (x - signal * output) / noise,
                "v": lambda: noise * x + signal * output,
            }[kind]
            if clip is False:
                return x0, own_eps()
            if clip is True:
                x0 = x0.clamp(-1, 1)
            else:
                s = [image.abs().double().quantile(clip).clamp(min=1).to(x0) for image in x0]
                x0 = torch.stack([image.clamp(-limit, limit) / limit for image, limit in zip(x0, s, strict=True)])
            return x0, own_eps() if keep_eps else (x - signal * x0) / noise

        pairs = list(zip(timesteps, alpha_bars, lower(alpha_bars), strict=True))
        for step in rule(guess, x, pairs, generator, **own):
            yield Step(step.t, step.x.clone(), step.x0.clone())

    return sampler


def ddpm(
    guess: Guess, x: Tensor, pairs: Pairs, generator: Noise, variance: str = "fixed_small",
    first_root: Mistake = math.sqrt, second_root: Mistake = math.sqrt, spread: Mistake = math.sqrt,
    noise_at_the_end: bool = False,
) -> Iterator[Step]:  # fmt: skip
    """Ho et al. 2020, algorithm 2."""
    for t, alpha_bar, alpha_bar_next in pairs:
        alpha = alpha_bar / alpha_bar_next
        beta, var, var_next = 1 - alpha, 1 - alpha_bar, 1 - alpha_bar_next
        x0, _ = guess(x, t, alpha_bar)
        x = first_root(alpha_bar_next) * beta / var * x0 + second_root(alpha) * var_next / var * x  # eq. 7
        if var_next > 0 or noise_at_the_end:
            added = max(var_next / var * beta, 1e-20) if variance == "fixed_small" else beta
            x = x + spread(added) * randn(x.shape, generator, like=x)
        yield Step(t, x, x0)


def ddim(
    guess: Guess, x: Tensor, pairs: Pairs, generator: Noise, eta: float = 0.0,
    first_root: Mistake = math.sqrt, second_root: Mistake = math.sqrt, root_of_sigma: Mistake = math.sqrt,
    squared: Mistake = lambda sigma: sigma**2, share: float = 1.0,
) -> Iterator[Step]:  # fmt: skip
    """Song et al. 2021, eq. 12."""
    for t, alpha_bar, alpha_bar_next in pairs:
        x0, eps = guess(x, t, alpha_bar)
        sigma = eta * root_of_sigma((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next))  # eq. 16
        left = max(1 - alpha_bar_next - squared(sigma), 0.0)
        x = first_root(alpha_bar_next) * x0 + second_root(left) * eps  # eq. 12
        if sigma > 0:
            x = x + share * sigma * randn(x.shape, generator, like=x)
        yield Step(t, x, x0)


def log_rates(alpha_bar: float) -> float:
    """lambda = log(signal / noise)."""
    if alpha_bar in (0, 1):
        return math.copysign(math.inf, alpha_bar - 0.5)
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def line(x0: Tensor, x0_before: Tensor | None, h: float, h_before: float) -> Tensor:
    """Carry the last two guesses on to the middle of the step."""
    if x0_before is None or math.isinf(h):
        return x0
    return x0 + h / (2 * h_before) * (x0 - x0_before)


def no_line(x0: Tensor, x0_before: Tensor | None, h: float, h_before: float) -> Tensor:
    """Keep the guess as it is: the mistake of a first-order solver."""
    return x0


def half_the_slope(x0: Tensor, x0_before: Tensor | None, h: float, h_before: float) -> Tensor:
    """Halve the slope: a mistake."""
    return line(x0, x0_before, h, 2 * h_before)


def dpm_solver(
    guess: Guess, x: Tensor, pairs: Pairs, generator: Noise,
    straight: Callable[..., Tensor] = line, decay: Mistake = lambda h: math.expm1(-h),
) -> Iterator[Step]:  # fmt: skip
    """Lu et al. 2022b, algorithm 2."""
    x0_before, h_before = None, math.nan
    for t, alpha_bar, alpha_bar_next in pairs:
        x0, _ = guess(x, t, alpha_bar)
        h = log_rates(alpha_bar_next) - log_rates(alpha_bar)
        middle = straight(x0, x0_before, h, h_before)
        ratio = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
        x = ratio * x - math.sqrt(alpha_bar_next) * decay(h) * middle
        x0_before, h_before = x0, h
        yield Step(t, x, x0)


def sde_dpm_solver(
    guess: Guess, x: Tensor, pairs: Pairs, generator: Noise, straight: Callable[..., Tensor] = line,
    drift: Mistake = lambda h: math.exp(-h), decay: Mistake = lambda h: math.expm1(-2 * h),
    added: Callable[[float], float] = lambda var: var,
) -> Iterator[Step]:  # fmt: skip
    """Lu et al. 2022b: SDE-DPM-Solver++(2M)."""
    x0_before, h_before = None, math.nan
    for t, alpha_bar, alpha_bar_next in pairs:
        x0, _ = guess(x, t, alpha_bar)
        h = log_rates(alpha_bar_next) - log_rates(alpha_bar)
        middle = straight(x0, x0_before, h, h_before)
        ratio = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
        x = ratio * drift(h) * x - math.sqrt(alpha_bar_next) * decay(h) * middle
        if alpha_bar_next < 1:
            sigma = math.sqrt(added(1 - alpha_bar_next) * -math.expm1(-2 * h))
            x = x + sigma * randn(x.shape, generator, like=x)
        x0_before, h_before = x0, h
        yield Step(t, x, x0)


def unipc(
    guess: Guess, x: Tensor, pairs: Pairs, generator: Noise, straight: Callable[..., Tensor] = line,
    level_root: Mistake = math.sqrt, from_here: bool = False, corrects: bool = True,
    second_moment: Callable[[float, float], float] = lambda h, moment: h**2 - 2 * moment, bend_share: float = 1.0,
) -> Iterator[Step]:  # fmt: skip
    """Zhao et al. 2023, algorithm 1."""
    guesses: list[Tensor] = []
    lengths: list[float] = []
    x_before, alpha_bar_before = x, math.nan
    for t, alpha_bar, alpha_bar_next in pairs:
        x0, _ = guess(x, t, alpha_bar)
        guesses = [x0, *guesses[:2]]
        if lengths and corrects:
            h = lengths[0]
            first = -math.expm1(-h)
            if len(guesses) == 2:
                area = first * (guesses[0] + guesses[1]) / 2
            else:
                moment = h - first
                slope, slope_before = (guesses[0] - guesses[1]) / h, (guesses[1] - guesses[2]) / lengths[1]
                bend = (slope - slope_before) / (h + lengths[1])
                area = first * guesses[1] + moment * (slope - bend_share * (bend * h)) + second_moment(h, moment) * bend
            ratio = math.sqrt((1 - alpha_bar) / (1 - alpha_bar_before))
            x = ratio * (x if from_here else x_before) + level_root(alpha_bar) * area
        h = log_rates(alpha_bar_next) - log_rates(alpha_bar)
        middle = straight(x0, guesses[1], h, lengths[0]) if lengths else x0
        x_before, alpha_bar_before, lengths = x, alpha_bar, [h, *lengths[:1]]
        ratio = math.sqrt((1 - alpha_bar_next) / (1 - alpha_bar))
        x = ratio * x - math.sqrt(alpha_bar_next) * math.expm1(-h) * middle
        yield Step(t, x, x0)


def heun(
    guess: Guess, x: Tensor, pairs: Pairs, generator: Noise,
    correction: Mistake = lambda difference: difference / 2,
    level: Callable[[float, float], float] = lambda alpha_bar, alpha_bar_next: alpha_bar_next,
) -> Iterator[Step]:  # fmt: skip
    """Karras et al. 2022, algorithm 1."""
    eps_above, sigma_above = None, math.nan
    for t, alpha_bar, alpha_bar_next in pairs:
        sigma = math.sqrt((1 - alpha_bar) / alpha_bar)
        if eps_above is not None:
            x0, eps = guess(x, t, alpha_bar)
            x = x + correction(math.sqrt(alpha_bar) * (sigma - sigma_above) * (eps - eps_above))
            yield Step(t, x, x0)
        x0, eps = guess(x, t, alpha_bar)
        x = math.sqrt(alpha_bar_next) * x0 + math.sqrt(1 - level(alpha_bar, alpha_bar_next)) * eps
        eps_above, sigma_above = eps, sigma
        yield Step(t, x, x0)


RULES: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "dpm++": dpm_solver,
    "dpm++sde": sde_dpm_solver,
    "heun": heun,
    "unipc": unipc,
}
