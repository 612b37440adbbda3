"""Chapter 3, the request: which images to draw from a trained DDPM, by which chain, for which labels, from which start.

Rests on records. A request is checked where it is made; chains.py decides what it means for one run.
Nothing here needs torch until a request is made, so that help can show the defaults.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from minidiff.diffusion.levels import OWNERS
from minidiff.errors import UserError, lookup
from minidiff.networks.configs import MOST_PIXELS
from minidiff.records import demand, record

if TYPE_CHECKING:
    from torch import Tensor

    from minidiff.diffusion.chain import Step

StartT: TypeAlias = int | Sequence[int] | Literal["auto"] | None
# Multi-hot [M,L], or M conditions as `Run.conditions` gives them.
Labels: TypeAlias = "Tensor | Sequence[Sequence[int]]"


FROM_NOISE, FROM_INIT = "dpm++sde", "ddim"  # the samplers of `minidiff sample`; docs/results.md: why


@record
class ChainOptions:
    """The options of a reverse chain. None stands for the value that suits sampler and run; chains.py fills it in."""

    _: KW_ONLY
    steps: int | None = None  # calls of the network; None: the sampler's own number
    spacing: str | None = None  # how skipped timesteps are spread: one of SPACINGS; None: the sampler's own
    # The timestep of the first call; None is T-1. One for all, or one for each init, or "auto": the timestep that has
    # the noise which is measured in each init. Where each init has its own, `steps` is cut to what lies below it.
    start_t: StartT = None
    init_mode: str | None = None  # one of INIT_MODES; None: noise, and with start_t "auto" scale
    guidance_scale: float | None = None  # see `guidance.guided`; None: GUIDANCE_SCALE, where the run was trained for it
    clip: bool | float = True  # hold the predicted x0 in [-1,1]; a number is a quantile, see `clipped`
    eta: float | None = None  # of ddim: 0 adds no noise, 1 the noise of ddpm
    keep_eps: bool | None = None  # of ddim, see there
    variance: str | None = None  # of ddpm, one of VARIANCES; None: the one the run was trained for
    size: tuple[int, int] | None = (
        None  # height and width of the images, for a run of any size; None: of init, or its own
    )
    use_prior: bool = True  # start from the outputs of the run's prior, if it is of that use
    seed: int = 0  # sample k of a seed and a size is always the same, up to rounding
    batch_size: int = 64  # samples at a time, in each process

    def __post_init__(self) -> None:
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise UserError(f"`eta` {self.eta} is outside [0, 1]. Take 0 for no noise, 1 for the noise of ddpm.")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale < math.inf:
            raise UserError(
                f"`guidance_scale` {self.guidance_scale} is not a number from 0 on. Take 1 for no guidance."
            )
        if self.seed < 0 or self.batch_size < 1:
            raise UserError(f"`seed` {self.seed} must be 0 or more, and `batch_size` {self.batch_size} 1 or more.")
        sound = self.size is None or all(1 <= length <= MOST_PIXELS for length in self.size)
        demand(sound, "size", self.size, f"height and width, of 1 to {MOST_PIXELS:,} pixels each")
        if self.size is not None and getattr(self, "init", None) is not None:
            raise UserError("`init` says how large the images are. Leave out `size`.")
        if isinstance(self.start_t, str) and self.start_t != "auto":
            raise UserError(f"unknown `start_t` '{self.start_t}'. Take a timestep, or auto.")


@record
class Sampling(ChainOptions):
    """How a run draws samples: by which chain, for which labels, and from which start."""

    _: KW_ONLY
    sampler: str = "ddim"  # one of SAMPLERS
    init: "Tensor | None" = field(default=None, compare=False)  # [M,C,H,W] in [-1,1]; sample k starts from init k mod M
    # Of a run with a prior: outputs [M,C,H,W] in [-1,1] in place of its own, see `Run.prior_outputs`; sample k has
    # output k mod M.
    prior: "Tensor | None" = field(default=None, compare=False)
    labels: "Labels | None" = field(default=None, compare=False)  # of M conditions; sample k is drawn for the k mod M
    on_step: "Callable[[Step], object] | None" = field(default=None, compare=False)  # called after each network call

    def __post_init__(self) -> None:
        super().__post_init__()
        own = self.check_names()
        for option, owner in OWNERS.items():
            if getattr(self, option) is not None and option not in own:
                raise UserError(
                    f"`{option}` belongs to the sampler {owner}, not {self.sampler}. Leave it out, or take {owner}."
                )
        if self.start_t == "auto" and self.init is None:
            raise UserError("`start_t` auto needs `init`, an image to measure. Give one, or a number instead of auto.")
        if self.init is not None and self.start_t is None:
            raise UserError("an init image needs `start_t`, the timestep to start from. Try 100, or auto.")
        several = self.start_t if isinstance(self.start_t, Sequence) and self.start_t != "auto" else None
        inits = 0 if self.init is None else len(self.init)
        if several is not None and len(several) != inits:
            raise UserError(f"{len(several)} timesteps for {inits} inits: give one for each.")

    def check_names(self) -> tuple[str, ...]:
        """Raise UserError for a name that no table has; return the options that only this sampler has."""
        from minidiff.ddpm.inits import INIT_MODES
        from minidiff.diffusion.samplers import SAMPLERS, VARIANCES
        from minidiff.diffusion.spacings import SPACINGS

        sampler = lookup("sampler", self.sampler, SAMPLERS)
        for kind, name, table in (
            ("spacing", self.spacing, SPACINGS),
            ("variance", self.variance, VARIANCES),
            ("init mode", self.init_mode, INIT_MODES),
        ):
            if name is not None:
                lookup(kind, name, table)
        return sampler.plan.options


@record
class SampleRequest(Sampling):
    """Images 0 .. num-1 of a seed, and how they are drawn: see `Sampling`."""

    num: int = 16
