"""A trained run, ready to sample from: everything a run folder needs to say is said by its config.json.

run = minidiff.load("runs/ddpm-shapes-1")
run.model, run.schedule             # a callable (x_t, t) -> prediction, and the noise it was trained on
for images in run.sample(64): ...   # float [n,C,H,W] in [-1,1]
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff import checkpoint, distributed
from minidiff.diffusion import check_prediction, diffusion_loss, q_sample
from minidiff.errors import UserError, lookup
from minidiff.images import Pixels, to_uint8
from minidiff.rng import Draws, randn, sample_generators
from minidiff.samplers import SAMPLERS, Denoiser, Step
from minidiff.schedules import SCHEDULES, Schedule
from minidiff.train import Loss, mixed_precision
from minidiff.unet import UNet

INIT_MODES = {name: name for name in ("noise", "as-is")}


@dataclass
class Run:
    """A trained DDPM: its folder, config, network (eval mode; `model.prediction` says what it predicts), schedule."""

    folder: Path
    config: dict[str, Any]
    model: UNet
    schedule: Schedule
    precision: str = "auto"  # to sample in: fp32, bf16, auto

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        size = self.config["data"]["image_size"]
        return self.config["data"]["channels"], size, size

    def start(
        self,
        indices: list[int],
        *,
        sampler: str = "ddim",
        start_t: int | None = None,
        init: Tensor | None = None,
        init_mode: str = "noise",
        seed: int = 0,
        **options: Any,
    ) -> tuple[Tensor, list[torch.Generator]]:
        """What the chains of these samples begin with: x [n,C,H,W], and the generators of their further noise.

        init: float [n,C,H,W] in [-1,1], to start from at start_t; None is pure noise. init_mode: `noise` brings the
        clean init to the noise level of start_t by q_sample; `as-is` takes it for x_t. UserError for an init without a
        start_t: from T-1 nothing of it would be left.
        """
        device = next(self.model.parameters()).device
        generators = sample_generators(seed, indices)
        noise = randn((len(indices), *self.shape), generators, like=torch.empty(0, device=device))
        if init is None:
            x = noise
        elif start_t is None:
            raise UserError("an init image needs --start-t, the timestep to start from. Try 100.")
        elif lookup("init mode", init_mode, INIT_MODES) == "as-is":
            x = init.to(device)
        else:
            t = torch.full((len(indices),), self.timesteps(sampler, start_t=start_t, **options)[0], device=device)
            x = q_sample(self.schedule, init.to(device), t, noise)
        return x.contiguous(memory_format=torch.channels_last), generators

    def chain(
        self,
        indices: list[int],
        *,
        sampler: str = "ddim",
        init: Tensor | None = None,
        init_mode: str = "noise",
        seed: int = 0,
        **options: Any,
    ) -> Iterator[Step]:
        """The reverse chain of the samples with these indices, as one batch; yields after every network call.

        init, init_mode: see `start`. options: start_t, steps and what else the sampler takes.
        Sample k of a seed has its own random numbers: the same in any batch, process and device, up to rounding.
        """
        draw = lookup("sampler", sampler, SAMPLERS)
        x, generators = self.start(indices, sampler=sampler, init=init, init_mode=init_mode, seed=seed, **options)
        yield from draw(self.denoiser(), self.schedule, x, generator=generators, **options)

    def options(self, **given: Any) -> dict[str, Any]:
        """Options for `chain`: those not given (None) left out, and the variance this run was trained for put in.

        Raises UserError for an option that the sampler does not have.
        """
        options = {name: value for name, value in given.items() if value is not None}
        sampler = options.setdefault("sampler", "ddim")
        for name, owner in (("eta", "ddim"), ("variance", "ddpm")):
            if name in options and sampler != owner:
                raise UserError(
                    f"--{name} belongs to the sampler {owner}, not {sampler}. Leave it out, or --sampler {owner}."
                )
        if sampler == "ddpm":
            options.setdefault("variance", self.config["diffusion"]["variance"])
        return options

    def timesteps(self, sampler: str = "ddim", **options: Any) -> list[int]:
        """The timesteps a chain with these options will call the network at, descending."""
        steps, start_t = options.get("steps"), options.get("start_t")
        if steps is None and sampler == "ddim":
            steps = min(50, self.schedule.T if start_t is None else start_t + 1)
        return self.schedule.timesteps(steps, start_t, options.get("spacing", "trailing"))

    def sample(
        self,
        num: int,
        *,
        batch_size: int = 64,
        init: Tensor | None = None,
        on_step: Callable[[Step], None] | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """Images 0 .. num-1, in order, as batches of float [n,C,H,W] in [-1,1] on the CPU.

        init [M,C,H,W]: image k starts from init k mod M. on_step: called after every network call, for a progress bar.
        Under torchrun the processes share each batch, and all of them get all of it. options: see `chain`.
        """
        rank, world = distributed.rank(), distributed.world_size()
        for first in range(0, num, batch_size * world):
            mine = range(min(num, first + rank * batch_size), min(num, first + (rank + 1) * batch_size))
            x = torch.empty((0, *self.shape), device=next(self.model.parameters()).device)
            if len(mine):
                start = None if init is None else init[[index % len(init) for index in mine]]
                for step in self.chain(list(mine), init=start, **options):
                    x = step.x
                    if on_step is not None:
                        on_step(step)
            yield distributed.gather_rows(x.contiguous(), batch_size).cpu()

    def progressive(self, indices: list[int], columns: int, **options: Any) -> Pixels:
        """The chains of a few samples, side by side: uint8 [n * 2 * columns,H,W,3], for a grid `columns` wide.

        Two rows a sample, at `columns` of the calls, spread evenly from the first to the last: x_t as the network was
        given it, and the x0 it predicted from that; with fewer calls than columns, that many. Only these are kept.
        """
        timesteps = self.timesteps(**options)
        moments = set(np.linspace(0, len(timesteps) - 1, columns).round().astype(int).tolist())
        noisy, predicted = [], []
        x, _ = self.start(indices, **options)
        for call, step in enumerate(self.chain(indices, **options)):
            if call in moments:
                noisy.append(to_uint8(x.clamp(-1, 1)))
                predicted.append(to_uint8(step.x0.clamp(-1, 1)))
            x = step.x
        rows = np.stack([np.stack(noisy), np.stack(predicted)])  # [2, columns, n, H, W, 3]
        return rows.transpose(2, 0, 1, 3, 4, 5).reshape(-1, *rows.shape[3:])

    def denoiser(self) -> Denoiser:
        """The network as samplers call it: in the run's precision, float32 out."""
        device = next(self.model.parameters()).device
        autocast = mixed_precision(self.precision, device)

        def call(x: Tensor, t: Tensor) -> Tensor:
            with autocast():
                return self.model(x, t).float()

        call.prediction = self.model.prediction  # type: ignore[attr-defined]
        return call


def load(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> Run:
    """A ddpm run folder, rebuilt from its config.json alone.

    weights: `ema`, the averaged ones to sample from, or `raw`, the ones being trained. precision: fp32, bf16 or auto;
    None is the one it was trained in. Raises UserError when the folder
    is no ddpm run, has no weights yet, or has weights that do not fit its network exactly.
    """
    folder = Path(folder).expanduser()
    config = checkpoint.read_config(folder, kind="ddpm")
    model, schedule = build(config)
    precision = precision or config.get("training", {}).get("precision", "auto")
    if weights == "ema":
        tensors, source = checkpoint.read_tensors(folder / checkpoint.MODEL), folder / checkpoint.MODEL
    elif weights == "raw":
        state, source = checkpoint.read_state(folder), folder / checkpoint.STATE
        if state is None:
            raise UserError(f"{source} is missing, and only it holds the raw weights. Use --weights ema.")
        tensors = state["model"]
    else:
        raise UserError(f"unknown weights '{weights}'. Known: ema, raw.")
    checkpoint.load_exactly(model, tensors, source)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Run(folder, config, model, schedule, precision)


def build(config: dict[str, Any]) -> tuple[UNet, Schedule]:
    """The network, with its first weights, and the schedule that a ddpm run's config.json describes."""
    try:
        model = UNet(**config["network"])
        schedule = build_schedule(config["diffusion"])
        model.prediction = config["diffusion"]["prediction"]  # type: ignore[assignment]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the config.json of this run does not describe a network this version can build ({error})."
        ) from None
    return model, schedule


def build_schedule(diffusion: dict[str, Any]) -> Schedule:
    """The schedule named in a run's config, with its zero-terminal-SNR rescaling."""
    name, T = diffusion["schedule"], diffusion["timesteps"]
    given = {end: diffusion[end] for end in ("beta_start", "beta_end") if diffusion.get(end) is not None}
    if given and name != "linear":
        option = next(iter(given)).replace("_", "-")
        raise UserError(f"--{option} belongs to the linear schedule, not {name}. Leave it out.")
    schedule = lookup("schedule", name, SCHEDULES)(T, **given)
    return schedule.zero_terminal_snr() if diffusion["zero_terminal_snr"] else schedule


def ddpm_loss(schedule: Schedule, prediction: str, min_snr_gamma: float | None, device: torch.device) -> Loss:
    """What a DDPM minimises (Ho et al. 2020, algorithm 1), as the closure that `Trainer` calls.

    Raises UserError for eps under zero terminal SNR, from which no image can be predicted at T-1.
    """
    check_prediction(schedule, prediction)
    schedule = schedule.to(device)

    def loss(model: torch.nn.Module, x0: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        t = draws.randint(schedule.T)  # 0 .. T-1, both included
        noise = draws.randn(*x0.shape[1:])
        return diffusion_loss(model, schedule, x0, t, noise, prediction, min_snr_gamma).mean()

    return loss
