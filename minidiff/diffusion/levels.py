"""Chapter 3, the levels: which noise levels a reverse chain visits, and what lies between two of them.

Rests on errors alone and needs no torch, so that the command line's help can read the plans.
Ho et al. 2020 (DDPM); Kingma et al. 2021 (VDM: steps between any two levels); Karras et al. 2022 (EDM: sigma).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from minidiff.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Number = TypeVar("Number", float, "Tensor")  # one for the whole batch, or one for each sample: [N,1,1,1]
Rate: TypeAlias = "float | Tensor"


class Level(NamedTuple):
    """One noise level: x_t = signal * x0 + noise * eps.

    It stores the squares of the two rates, since 1 - alpha_bar is exact only before a root is taken. On a `Schedule`
    the squares add up to 1. Elsewhere they need not, as on flow matching's straight line: no sampler relies on it.
    """

    t: int  # what the network is told
    alpha_bar: float  # the square of the signal rate
    var: float  # the square of the noise rate

    @property
    def signal(self) -> float:
        """How much of the image is left in x_t: sqrt(alpha_bar)."""
        return math.sqrt(self.alpha_bar)

    @property
    def noise(self) -> float:
        """The deviation of the noise in x_t: sqrt(var)."""
        return math.sqrt(self.var)

    @property
    def power(self) -> float:
        """The variance of x_t for data of variance 1: exactly 1 where alpha_bar and var add up to 1."""
        return self.alpha_bar + self.var

    @property
    def sigma(self) -> float:
        """The deviation of the noise in x_t / signal: EDM's sigma. Infinite where no signal is left."""
        return math.sqrt(self.var / self.alpha_bar) if self.alpha_bar > 0 else math.inf

    @property
    def half_log_snr(self) -> float:
        """lambda = log(signal / noise), DPM-Solver's time. It rises down the chain and is infinite at the image."""
        if self.alpha_bar == 0 or self.var == 0:
            return math.inf if self.var == 0 else -math.inf
        return 0.5 * math.log(self.alpha_bar / self.var)


IMAGE = Level(-1, 1.0, 0.0)  # what lies below the last timestep: the image itself

Levels = Sequence[tuple[Level, Level]]  # for each timestep its level, and the level below, where the step from it ends


@dataclass(frozen=True)
class Jump(Generic[Number]):
    """Everything that DDPM's formulas need to know about a step from a level to one below it, in the paper's symbols.

    The step may skip timesteps. alpha is then the product of all skipped ones, and beta = 1 - alpha.
    `var` has a name because 1 - alpha_bar must be taken in float64: in float32 the 1e-6 that some schedules leave at
    t = 0 comes out 1.3% wrong.
    """

    beta: Number  # beta_t: the variance of the noise that the forward step adds
    alpha: Number  # alpha_t = 1 - beta_t
    alpha_bar: Number  # alpha_1 ... alpha_t
    alpha_bar_prev: Number  # the same, one level lower; 1 where that is the image itself
    var: Number  # 1 - alpha_bar_t
    var_prev: Number  # 1 - alpha_bar_{t-1}

    @property
    def variance(self) -> Number:
        """The variance of q(x_{t-1} | x_t, x_0). 0 where the level below is the image."""
        return self.var_prev / self.var * self.beta  # DDPM eq. 7, right


def jump_between(level: Level, below: Level) -> Jump[float]:
    """Work out the step from `level` to `below`."""
    alpha = level.alpha_bar / below.alpha_bar
    beta = level.power - alpha * below.power  # 1 - alpha, if both powers are 1; VDM, appendix A.1, if they are not
    return Jump(beta, alpha, level.alpha_bar, below.alpha_bar, level.var, below.var)


class NoiseSchedule(Protocol):
    """What a sampler needs to know about a schedule: `Schedule` has it, and so can another kind of process."""

    @property
    def T(self) -> int:
        """How many timesteps there are."""

    def levels(self, timesteps: Sequence[int]) -> list[Level]:
        """The levels of these timesteps."""

    def timesteps(self, steps: int | None = None, start_t: int | None = None, spacing: str = "trailing") -> list[int]:
        """The timesteps of a chain, falling: see `spacings.spaced`."""


class Plan(NamedTuple):
    """Which timesteps a sampler calls unless it is told otherwise, and which options it has of its own."""

    steps: int | None  # calls of the network, or as many as there are timesteps; None: every timestep
    spacing: str  # one of SPACINGS
    twice: bool = False  # whether every timestep but the first is called twice
    highest: float = math.inf  # the largest sigma that the sampler can start from
    options: tuple[str, ...] = ()  # what it can be told beside what all can be told: eta, keep_eps, variance

    def calls(
        self, schedule: NoiseSchedule, steps: int | None = None, start_t: int | None = None, spacing: str | None = None
    ) -> list[int]:
        """List the timestep of every call of the network, in order. Arguments and errors: see `levels`."""
        first, *others = self._timesteps(schedule, steps, start_t, spacing)
        return [first, *(t for t in others for _ in range(1 + self.twice))]

    def levels(
        self, schedule: NoiseSchedule, steps: int | None = None, start_t: int | None = None, spacing: str | None = None
    ) -> Levels:
        """Pair each level of a chain with the level below it. The level below the last is the image.

        steps: calls of the network. start_t: the first timestep. spacing: one of SPACINGS. None takes what the plan
        says, for start_t T-1. Raises UserError for values out of range, and where the first sigma is too high.
        """
        return list(pairwise([*schedule.levels(self._timesteps(schedule, steps, start_t, spacing)), IMAGE]))

    def _timesteps(
        self, schedule: NoiseSchedule, steps: int | None, start_t: int | None, spacing: str | None
    ) -> list[int]:
        """List the different timesteps of a chain, falling."""
        top = schedule.T - 1 if start_t is None else start_t
        if self.twice and steps is not None:
            most = 2 * top + 1
            if 0 <= top < schedule.T and not 1 <= steps <= most:
                raise UserError(
                    f"{steps} steps do not fit: this sampler makes at most {most} calls from t = {top} to 0. "
                    f"Take 1 to {most}."
                )
            steps = (steps + 1) // 2  # n timesteps are 2n - 1 calls
        elif steps is None and self.steps is not None:
            steps = min((self.steps + 1) // 2 if self.twice else self.steps, top + 1)
        timesteps = schedule.timesteps(steps, start_t, spacing or self.spacing)
        (first,) = schedule.levels(timesteps[:1])
        if first.sigma > self.highest:
            raise UserError(
                f"this sampler cannot start at t = {first.t}, pure noise with a sigma of {first.sigma:.0f}: its error "
                "grows with sigma. Take dpm++, or the `spacing` karras without a `start_t`, or a smaller `start_t`."
            )
        return timesteps


PLANS = {
    "ddpm": Plan(None, "trailing", options=("variance",)),
    "ddim": Plan(50, "trailing", options=("eta", "keep_eps")),
    "dpm++": Plan(20, "logsnr"),
    "dpm++sde": Plan(20, "trailing"),  # better on trained networks, docs/results.md
    # The spacing it was published with: EDM, table 1. There sigma begins at 80. At cosine's last sigma, 20,000, an
    # error of 1e-4 in eps would be an error of 1 in x0.
    "heun": Plan(19, "karras", twice=True, highest=1000),
    "unipc": Plan(20, "logsnr"),
}

# Which sampler an option belongs to if none is named.
OWNERS = {option: name for name, plan in PLANS.items() for option in plan.options}
