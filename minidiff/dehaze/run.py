"""A trained dehazing, opened from its run folder, or by the name of the model that comes with the package.

Rests on stage1, stage2, networks.tiles and runs.

run = load_dehaze("runs/dehaze-haze-1")
guess = run.guess(hazy)     # J, T and A of float [N,3,H,W] in [-1,1]
clear = run.refine(guess)   # of a run of stage 2: from a noisy J down the chain
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from minidiff.ddpm.recipe import build_schedule
from minidiff.dehaze.config import START_T, STEPS, DehazeConfig, read_dehaze
from minidiff.dehaze.stage1 import guess_large, working_size
from minidiff.dehaze.stage2 import TwoStages, condition_of, start_for, walk, with_condition
from minidiff.diffusion.chain import Step
from minidiff.diffusion.process import predict_x0, q_sample
from minidiff.errors import UserError
from minidiff.images.show import newest_png
from minidiff.networks.configs import UNetConfig
from minidiff.networks.gunet import Clearing, GUNet
from minidiff.networks.tiles import at_any_size, mirrored
from minidiff.networks.weights import build_with, fingerprint
from minidiff.rng import randn, sample_generators
from minidiff.runs.folder import CONFIG, read_config, read_weights
from minidiff.runs.shipped import find_run
from minidiff.runtime.precision import mixed_precision

PROBED = 128  # pixels a side, at most, on which stage 2 is tried


@dataclass
class DehazeRun:
    """A trained dehazing: its folder, config and network, in eval mode."""

    folder: Path
    config: DehazeConfig
    model: nn.Module  # a `GUNet`, or of a run of stage 2 `TwoStages`
    precision: str = "auto"  # to work in: fp32, bf16, auto

    def __repr__(self) -> str:
        return f"DehazeRun({self.folder}: stage {self.config.stage}, trained on {self.config.data.name})"

    def _repr_png_(self) -> bytes | None:
        """Show the last picture of the training in a notebook."""
        return newest_png(self.folder / "samples")

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.model.parameters()).device

    @property
    def first(self) -> nn.Module:
        """The network of stage 1."""
        return self.model.first if isinstance(self.model, TwoStages) else self.model

    @torch.no_grad()
    def guess(self, hazy: Tensor) -> Clearing:
        """Guess J, T and A of pictures of any size by stage 1: float32, on the run's device. See `guess_large`.

        A large picture is looked at in a copy of 80 pixels, if stage 1 has learnt from squares of 64 as it does by
        default, and at 5/4 of any other size that it was trained at.
        """
        autocast = mixed_precision(self.precision, self.device)

        def network(small: Tensor) -> Clearing:
            with autocast():
                guess: Clearing = self.first(small.contiguous(memory_format=torch.channels_last))
            return Clearing(*(each.float() for each in guess))

        return guess_large(network, hazy.to(self.device), working_size(self.config.guess_size))

    def refine(
        self,
        guess: Clearing,
        steps: int = STEPS,
        start_t: int | None = START_T,
        seed: int = 0,
        on_step: Callable[[Step], object] | None = None,
    ) -> Tensor:
        """Let stage 2 go from a noisy J to a clear picture, float [N,3,H,W] in [-1,1], on the run's device.

        steps: calls of the network. start_t: where the chain begins, at most T-1; None: in pure noise. seed: of the
        noise, which every picture has its own of. A large picture goes through the network in tiles, with one noise, so
        there are no seams. on_step: called after every call. Raises UserError for a run of stage 1.
        """
        settings = self.config.refinement
        if settings is None or not isinstance(self.model, TwoStages):
            raise UserError(f"{self.folder} is a run of stage 1, which has no chain. Give a run of stage 2.")
        guess = Clearing(*(each.to(self.device) for each in guess))
        second, autocast = self.model.second, mixed_precision(self.precision, self.device)
        schedule = build_schedule(settings.diffusion)
        called = (at_any_size if settings.network.any_size else padded)(second, settings.network)

        def network(x: Tensor, t: Tensor) -> Tensor:
            with autocast():
                prediction: Tensor = called(x, t)
            return prediction.float()

        clear = guess.clear
        start_t = None if start_t is None else min(start_t, schedule.T - 1)
        for step in walk(network, schedule, guess, steps=steps, start_t=start_t,
                         prediction=settings.diffusion.prediction, shift=settings.shift,
                         noise=sample_generators(seed, range(len(clear)))):  # fmt: skip
            clear = step.x
            if on_step is not None:
                on_step(step)
        return clear.clamp(-1, 1)

    def start_for(self, hazy: Tensor, clear: Tensor, steps: int = STEPS) -> int:
        """Find the timestep that is as noisy as J, float [1,3,H,W] as the hazy picture: see `stage2.start_for`.

        It has at least so many timesteps below it as there are steps to go.
        """
        assert self.config.refinement is not None
        schedule = build_schedule(self.config.refinement.diffusion)
        return min(max(start_for(schedule, hazy, clear), steps - 1), schedule.T - 1)

    def check_chain(self, steps: int, start_t: int | Literal["auto"] | None) -> None:
        """Raise UserError if the chain of stage 2 has no such start, or not so many steps below it."""
        if self.config.refinement is None or steps == 0:
            return
        count = self.config.refinement.diffusion.timesteps
        if isinstance(start_t, int) and start_t >= count:
            raise UserError(f"`start_t` is {start_t:,}, and the chain begins at {count - 1:,} at most. Give less.")
        most = start_t + 1 if isinstance(start_t, int) else count
        if steps > most:
            raise UserError(f"`steps` is {steps:,}, and below that start there are {most:,} timesteps. Give fewer.")

    @torch.no_grad()
    def noise_left(self, guess: Clearing) -> float:
        """Measure what stage 2 leaves of noise that was put on J half way up its chain: a share, 0 if nothing.

        Of large pictures the middle is tried. A trained network sees J beside the noise, and hardly any is left; one
        whose weights do not belong together leaves most of it, whatever the picture is: a checksum of its own kind.
        Only what runs along the noise that was put there counts: J may have noise of its own, which is rightly taken.
        """
        settings = self.config.refinement
        assert settings is not None and isinstance(self.model, TwoStages)
        schedule = build_schedule(settings.diffusion)
        top, left = (max(0, (side - PROBED) // 2) for side in guess.clear.shape[2:])
        middle = (slice(None), slice(None), slice(top, top + PROBED), slice(left, left + PROBED))
        shown = Clearing(guess.clear[middle], guess.transmission[middle], guess.airlight)
        condition = condition_of(Clearing(*(each.to(self.device) for each in shown)))
        x0 = condition[:, :-1]
        t = torch.full((len(x0),), schedule.T // 2, device=x0.device)
        noise = randn(x0.shape, torch.Generator().manual_seed(0), like=x0)
        x_t = q_sample(schedule, x0, t, noise)
        network = with_condition(padded(self.model.second, settings.network), condition, schedule, settings.shift)
        found = predict_x0(schedule, x_t, t, network(x_t, t).float(), settings.diffusion.prediction)
        return float(((found - x0) * noise).sum().abs() / ((x_t - x0) * noise).sum())


def padded(network: Callable[..., Tensor], config: UNetConfig) -> Callable[..., Tensor]:
    """Let a `UNet` with norms or attention over the whole picture take any size: as `at_any_size`, but in one piece."""

    def call(x: Tensor, t: Tensor) -> Tensor:
        return network(mirrored(x, config.stride), t)[..., : x.shape[2], : x.shape[3]]

    return call


def load_dehaze(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> DehazeRun:
    """Open a dehaze run. Options: see `load_ddpm`.

    Raises UserError when the folder is none, has no weights yet, or has weights that do not fit exactly.
    """
    folder = Path(find_run(folder)).expanduser()
    config = read_dehaze(read_config(folder, kind="dehaze"), folder / CONFIG)
    tensors, source = read_weights(folder, weights)
    model = build_with(lambda: build_networks(config), tensors, source)
    check_first(config, model, source)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return DehazeRun(folder, config, model, precision or (config.training.precision if config.training else "auto"))


def build_networks(config: DehazeConfig) -> nn.Module:
    """Build the network of stage 1, or those of both stages, with their first weights."""
    if config.refinement is None:
        return GUNet(**vars(config.guess))
    return TwoStages(config.guess, config.refinement.network)


def check_first(config: DehazeConfig, model: nn.Module, source: object) -> None:
    """Raise UserError if the stage 1 of a run of stage 2 is not the one that its stage 2 was trained behind."""
    if config.refinement is None or config.refinement.first is None or not isinstance(model, TwoStages):
        return
    wanted, found = config.refinement.first.weights, fingerprint(model.first.state_dict())
    if wanted != found:
        raise UserError(
            f"{source} holds another stage 1 ({found}) than its stage 2 was trained behind ({wanted}), and would mend "
            "faults that are not there. Bring back the file as it was written."
        )
