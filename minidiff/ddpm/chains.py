"""Chapter 3, from a request to reverse chains: everything that the request left open is decided here, once.

Rests on request, labels and inits, and on diffusion.chain, which knows the timesteps a sampler calls.
`resolve` fills in the values that suit the run; `chains_of` then says which samples share a chain, and its timesteps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor

from minidiff.ddpm.inits import AUTO_MODE, measured_starts
from minidiff.ddpm.labels import LabelSet
from minidiff.ddpm.request import Sampling
from minidiff.diffusion.noise_level import Start
from minidiff.diffusion.samplers import SAMPLERS, calls
from minidiff.diffusion.schedules import Process
from minidiff.errors import UserError

Request = TypeVar("Request", bound=Sampling)
# Of the pictures in a batch, where they have another size than the run's. A chain takes some 100 bytes for each pixel.
MOST_PIXELS = 1 << 22


class Trained(Protocol):
    """The part of a run that is needed to plan its chains; `run.Run` has it."""

    @property
    def schedule(self) -> Process: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def labels(self) -> LabelSet: ...
    @property
    def variance(self) -> str: ...
    @property
    def any_size(self) -> bool: ...
    @property
    def trained_below(self) -> int | None: ...
    @property
    def prior_use(self) -> str | None: ...


@dataclass(frozen=True)
class Chain:
    """One reverse chain: a batch of samples that start from the same timestep. Nothing is left to decide."""

    rows: list[int]  # where its samples stand among those that were asked for
    indices: list[int]  # which samples of the seed they are
    request: Sampling  # resolved, for all chains; the next four fields are for this one
    start_t: int | None
    steps: int | None
    init: Tensor | None  # [n,C,H,W], one for each sample
    labels: Tensor | None  # multi-hot [n,L], one row for each sample
    prior: Tensor | None  # [n,C,H,W], one for each sample; None: the run's own
    timesteps: list[int]  # of every call of the network


def resolve(run: Trained, request: Request) -> Request:
    """Decide what the request leaves open, to suit this run. A resolved request stays as it is.

    Labels become multi-hot rows; `start_t` auto becomes numbers, see `enter`. Raises UserError if the request does not
    fit the run.
    """
    check_shape(run, request)
    check_prior(run, request)
    run.labels.check(request.labels, request.guidance_scale)
    decided: dict[str, Any] = {}
    if request.labels is not None:
        decided["labels"] = run.labels.multi_hot(request.labels)
        decided["guidance_scale"] = run.labels.guidance(request.guidance_scale)
    if request.sampler == "ddpm" and request.variance is None:
        decided["variance"] = run.variance
    if starts_from_prior(run, request) and request.start_t is None:
        decided["start_t"] = run.schedule.T // 2
    if (shape := shape_of(run, request)) != run.shape:
        decided["batch_size"] = min(request.batch_size, max(1, MOST_PIXELS // (shape[1] * shape[2])))
    request, _ = enter(run, request)
    check_trained(run, request)
    return replace(request, init_mode=request.init_mode or "noise", **decided)


def starts_from_prior(run: Trained, request: Sampling) -> bool:
    """Tell whether chains start from outputs of a prior: in a run of that use, if no image to start from is given."""
    return run.prior_use == "start" and request.use_prior and request.init is None


def check_prior(run: Trained, request: Sampling) -> None:
    """Raise UserError for a prior that the run has no use for, or cannot do without."""
    sees = run.prior_use == "residual"
    if request.prior is not None and not (sees or starts_from_prior(run, request)):
        raise UserError("this run's chains start from no prior, and its network sees none. Leave out `prior`.")
    if request.prior is not None and tuple(request.prior.shape[1:]) != run.shape:
        raise UserError(f"`prior` has images of {list(request.prior.shape[1:])}, and this run draws {list(run.shape)}.")
    if sees and not request.use_prior:
        raise UserError("the network of this run sees a prior, and draws nothing without it. Draw with the prior.")
    if sees and request.init is not None and request.prior is None:
        raise UserError(
            "the network of this run sees the output of a prior, and none belongs to this `init`. Leave it out; "
            "or give `prior`, in a script."
        )
    if (sees or starts_from_prior(run, request)) and shape_of(run, request) != run.shape:
        raise UserError(f"the prior of this run makes images of {list(run.shape)}. Leave out `size`.")


def check_trained(run: Trained, request: Sampling) -> None:
    """Raise UserError for a start above the timesteps that the run was trained on. The request's starts are decided."""
    below = run.trained_below
    if below is None:
        return
    several = 1 if request.init is None else len(request.init)
    highest = max(run.schedule.T - 1 if t is None else t for t in first_timesteps(range(several), request))
    if highest >= below:
        raise UserError(
            f"this run was trained on the timesteps below {below}, so it cannot start at {highest}: it finishes images "
            f"and draws none from pure noise. Give it an `init`, and a `start_t` up to {below - 1}."
        )


def shape_of(run: Trained, request: Sampling) -> tuple[int, ...]:
    """Return channels, height and width of the images that a request draws: of its init, its size, or the run's own."""
    if request.init is not None:
        return tuple(request.init.shape[1:])
    return run.shape if request.size is None else (run.shape[0], *request.size)


def check_shape(run: Trained, request: Sampling) -> None:
    """Raise UserError if the run does not draw images of the shape that is asked for."""
    shape, own = shape_of(run, request), run.shape
    if shape == own or (run.any_size and len(shape) == len(own) and shape[0] == own[0] and all(shape)):
        return
    images = f"{own[0]} channels and any size" if run.any_size else f"{list(own)}"
    asked, mend = f"an init has the shape {list(shape)}", "Convert it." if run.any_size else "Resize it."
    if request.init is None:
        asked, mend = f"`size` asks for images of {list(shape)}", "Leave it out."
    raise UserError(f"{asked}, and this run's images have {images}. {mend}")


def enter(run: Trained, request: Request) -> tuple[Request, list[Start]]:
    """Turn `start_t` auto into the timestep that has an init's noise. The init mode is then `scale`, unless given.

    Returns the measured noise, too; nothing if `start_t` is not auto.
    """
    if request.start_t != "auto" or request.init is None:
        return request, []
    starts = measured_starts(run.schedule, request.init)
    mode = request.init_mode or AUTO_MODE
    return replace(request, start_t=tuple(start.t for start in starts), init_mode=mode), starts


def chains_of(run: Trained, indices: Sequence[int], request: Sampling) -> Iterator[Chain]:
    """Yield the chains that draw these samples. Samples with the same start share a chain, up to batch_size.

    Raises UserError for timesteps that the schedule does not have.
    """
    request = resolve(run, request)
    first = first_timesteps(indices, request)
    for t in dict.fromkeys(first):
        same = [row for row, other in enumerate(first) if other == t]
        for begin in range(0, len(same), request.batch_size):
            rows = same[begin : begin + request.batch_size]
            mine = [indices[row] for row in rows]
            init, labels = in_turn(request.init, mine), in_turn(request.labels, mine)
            yield planned(run, request, rows, mine, t, init, labels, in_turn(request.prior, mine))


def single(run: Trained, indices: Sequence[int], request: Sampling) -> Chain:
    """Plan one chain of exactly these samples, whose init and labels have a row for each of them, in this order."""
    request = resolve(run, request)
    first = set(first_timesteps(range(len(indices)), request))
    if len(first) != 1:
        raise UserError(f"one chain starts from one timestep, and `start_t` names {len(first)}. Give one.")
    rows = list(range(len(indices)))
    return planned(run, request, rows, list(indices), first.pop(), in_turn(request.init, rows),
                   in_turn(request.labels, rows), in_turn(request.prior, rows))  # fmt: skip


def planned(
    run: Trained, request: Sampling, rows: list[int], indices: list[int], t: int | None, init: Tensor | None,
    labels: Tensor | None, prior: Tensor | None,
) -> Chain:  # fmt: skip
    """Plan one chain from t. If each init has its own t, cut `steps` to the calls that are possible from there."""
    steps = request.steps
    if t is not None and t != request.start_t and steps is not None:
        steps = min(steps, 2 * t + 1 if SAMPLERS[request.sampler].plan.twice else t + 1)
    timesteps = calls(request.sampler, run.schedule, steps, t, request.spacing)
    return Chain(rows, indices, request, t, steps, init, labels, prior, timesteps)


def in_turn(values: Any, indices: Sequence[int]) -> Tensor | None:
    """Pick row k mod M of values [M,...] for each sample k; None where there are none."""
    return None if values is None else values[[index % len(values) for index in indices]]


def first_timesteps(indices: Sequence[int], request: Sampling) -> list[int | None]:
    """Find the timestep that each sample of a resolved request starts from."""
    start_t = request.start_t
    if start_t is None or isinstance(start_t, int):
        return [start_t] * len(indices)
    assert not isinstance(start_t, str), "resolve turns auto into numbers"
    return [start_t[index % len(start_t)] for index in indices]
