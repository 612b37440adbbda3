"""Chapter 3, drawing: a run's network walks down its chains, from noise or from an init to images.

Rests on chains (where each chain goes), on diffusion: samplers (how it goes) and guidance (towards what), and on
networks.tiles, by which a network of any size takes a whole photograph.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from minidiff.ddpm.chains import Chain, Trained, chains_of, resolve, shape_of, starts_from_prior
from minidiff.ddpm.config import DdpmConfig
from minidiff.ddpm.inits import INIT_MODES, noise_deviation
from minidiff.ddpm.prior import seeing
from minidiff.ddpm.recipe import conditional
from minidiff.ddpm.request import SampleRequest, Sampling
from minidiff.diffusion.chain import Step
from minidiff.diffusion.continuous import facing
from minidiff.diffusion.guidance import Conditional, guided
from minidiff.diffusion.predictions import Model
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.errors import UserError
from minidiff.networks.configs import UNetConfig
from minidiff.networks.tiles import at_any_size
from minidiff.rng import randn, sample_generators
from minidiff.runtime import distributed
from minidiff.runtime.precision import mixed_precision


class Drawing(Trained, Protocol):
    """The part of a run that is needed to draw; `run.Run` has it."""

    @property
    def config(self) -> DdpmConfig: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def precision(self) -> str: ...
    def prior_outputs(self, indices: Sequence[int], seed: int = 0) -> Tensor: ...


def device_of(run: Drawing) -> torch.device:
    """Find the device of the run's network."""
    return next(run.model.parameters()).device


def denoiser(
    run: Drawing, labels: Tensor | None = None, guidance_scale: float | None = None, prior: Tensor | None = None
) -> Model:
    """Wrap the network as samplers call it: in the run's precision, float32 out.

    labels: multi-hot [N,L], for batches of N; None draws without labels. guidance_scale: see `guided`; None takes the
    scale that suits the run. prior: float [N,C,H,W], what the network sees beside x_t, if it was trained to. Raises
    UserError for labels, guidance or a prior that do not fit the run.
    """
    run.labels.check(labels, guidance_scale)
    autocast = mixed_precision(run.precision, device_of(run))
    config = run.config.network
    called: Conditional = facing(conditional(config, run.model), run.schedule)
    if isinstance(config, UNetConfig) and config.any_size:
        called = at_any_size(called, config)
    if (run.prior_use == "residual") != (prior is not None):
        needs = "needs the output of a prior for each image" if prior is None else "sees no prior"
        raise UserError(f"the network of this run {needs}. `minidiff sample` knows what to show it.")
    network: Model = called
    if prior is not None and run.config.prior is not None:  # it is told no labels
        network = seeing(called, prior, run.schedule, run.config.prior.shift)
    elif labels is not None:
        network = guided(called, labels.to(device_of(run)), run.labels.guidance(guidance_scale))

    def call(x: Tensor, t: Tensor) -> Tensor:
        with autocast():
            return network(x, t).float()

    call.prediction = run.model.prediction  # type: ignore[attr-defined]
    return call


def begin(run: Drawing, chain: Chain) -> tuple[Tensor, list[torch.Generator]]:
    """Make the x [n,C,H,W] that a chain begins with, and the generators of its further noise."""
    generators = sample_generators(chain.request.seed, chain.indices)
    x = randn(
        (len(chain.indices), *shape_of(run, chain.request)), generators, like=torch.empty(0, device=device_of(run))
    )
    init, mode = chain.init, chain.request.init_mode or "noise"
    if starts_from_prior(run, chain.request):
        init, mode = prior_of(run, chain), "noise"
    if init is not None:
        bring = INIT_MODES[mode]
        t = torch.full((len(x),), chain.timesteps[0], device=x.device)
        x = bring(run.schedule, init.to(x.device), t, x)
    else:
        x = noise_deviation(run.schedule, chain.timesteps[0]) * x
    return x.contiguous(memory_format=torch.channels_last), generators


def prior_of(run: Drawing, chain: Chain) -> Tensor:
    """Return what the prior makes for each sample of a chain: [n,C,H,W], those of the request, or the run's own."""
    if chain.prior is not None:
        return chain.prior.to(device_of(run))
    return run.prior_outputs(chain.indices, chain.request.seed)


def walk(run: Drawing, chain: Chain) -> Iterator[Step]:
    """Go down a chain; yields after every call of the network.

    Sample k of a seed has its own random numbers: the same in any batch, process and device, up to rounding.
    """
    request = chain.request
    prior = prior_of(run, chain) if run.prior_use == "residual" else None
    network = denoiser(run, chain.labels, request.guidance_scale, prior)
    x, generators = begin(run, chain)
    yield from SAMPLERS[request.sampler](
        network, run.schedule, x, steps=chain.steps, start_t=chain.start_t, spacing=request.spacing,
        clip=request.clip, keep_eps=bool(request.keep_eps), eta=request.eta, variance=request.variance,
        generator=generators,
    )  # fmt: skip


def draw(run: Drawing, indices: Sequence[int], request: Sampling) -> Tensor:
    """Draw the samples with these indices: float [n,C,H,W] in [-1,1] on the run's device."""
    x = torch.empty((len(indices), *shape_of(run, request)), device=device_of(run))
    for chain in chains_of(run, indices, request):
        for step in walk(run, chain):
            if request.on_step is not None:
                request.on_step(step)
        x[chain.rows] = step.x
    return x


def sample(run: Drawing, request: SampleRequest) -> Iterator[Tensor]:
    """Draw images 0 .. num-1, in order, as batches of float [n,C,H,W] in [-1,1] on the CPU.

    Under torchrun the processes share each batch, and all of them get all of it.
    """
    request = resolve(run, request)
    for mine in distributed.shares(request.num, request.batch_size):
        yield distributed.gather_rows(draw(run, mine, request), request.batch_size).cpu()


def count_calls(run: Drawing, indices: Sequence[int], request: Sampling) -> int:
    """Count how often the chains of these samples will call the network."""
    return sum(len(chain.timesteps) for chain in chains_of(run, indices, request))
