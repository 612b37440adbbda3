"""A trained run, ready to sample from: everything a run folder needs to say is said by its config.json.

run = minidiff.load("runs/ddpm-shapes-1")
run.model, run.schedule             # a callable (x_t, t) -> prediction, and the noise it was trained on
for images in run.sample(64): ...   # float [n,C,H,W] in [-1,1]
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minidiff.data.conditions import in_words, multi_hot, parse_condition, read_conditions
from minidiff.ddpm.recipe import build
from minidiff.diffusion.chain import PLANS
from minidiff.diffusion.guidance import GUIDANCE_SCALE, guided
from minidiff.diffusion.noise_level import start_from
from minidiff.diffusion.process import q_sample, rates
from minidiff.diffusion.samplers import SAMPLERS, Denoiser, Step, calls
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError, lookup
from minidiff.images.convert import Pixels, to_uint8
from minidiff.interop import checkpoints as foreign
from minidiff.networks.unet import UNet
from minidiff.networks.weights import load_exactly
from minidiff.rng import randn, sample_generators
from minidiff.runs import folder as checkpoint
from minidiff.runtime import distributed
from minidiff.runtime.precision import mixed_precision

# --- from an init image to x_t -------------------------------------------------------------------------------------


def scaled(schedule: Schedule, init: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """sqrt(alpha_bar_t) * init [N,C,H,W]: x_t, of an image that has the noise of t in it already. Takes no more."""
    signal_rate, _ = rates(schedule, t, like=init)
    return signal_rate * init  # DDPM eq. 4, with init = x0 + sqrt((1 - alpha_bar) / alpha_bar) * eps


INIT_MODES: dict[str, Callable[[Schedule, Tensor, Tensor, Tensor], Tensor]] = {
    "noise": q_sample,  # the init is clean: it gets the noise of t
    "scale": scaled,  # the init has that noise: only its scale is not yet that of x_t
    "as-is": lambda schedule, init, t, noise: init,  # the init is x_t
}

OWNERS = {"eta": "ddim", "variance": "ddpm"}  # options of one sampler alone

# Of dpm++sde with labels. `karras` makes half of its calls where x is next to all noise, this spacing one in ten: the
# others come where it is settled what is drawn, and more of it is right. docs/results.md: measured.
LABELS_SPACING = "trailing"

StartT = int | Sequence[int] | Literal["auto"] | None
Labels = Tensor | Sequence[Sequence[int]]  # multi-hot [M,L], or M conditions as `Run.conditions` gives them


class Moments(NamedTuple):
    """Pictures from the chains of n samples, see `Run.moments`."""

    t: list[list[int]]  # of every sample, the timestep of each column
    x: Pixels  # uint8 [n,columns,H,W,3]: x_t, as the network was given it there
    x0: Pixels  # uint8 [n,columns,H,W,3]: the image it predicted from that
    image: Pixels  # uint8 [n,H,W,3]: what came out in the end

    def strip(self) -> Pixels:
        """For a grid `columns` wide, two rows a sample: x_t, and the x0 predicted from it."""
        return np.stack([self.x, self.x0], axis=1).reshape(-1, *self.image.shape[1:])

    def table(self, init: Pixels) -> Pixels:
        """For a grid `columns` + 2 wide, one row a sample: its init (uint8 [n,H,W,3]), every x_t, the image."""
        rows = np.concatenate([init[:, None], self.x, self.image[:, None]], axis=1)
        return rows.reshape(-1, *self.image.shape[1:])


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

    @property
    def label_names(self) -> list[str]:
        """What it can be asked for; empty for a run that takes no labels. Of one that was imported the names are not
        known, and numbers stand in their place."""
        known, network = self.config.get("labels") or {}, self.config.get("network") or {}
        return known.get("names", [str(number) for number in range(network.get("label_dim", 0))])

    def conditions(self, texts: str | Sequence[str] = (), file: str | Path | None = None) -> list[list[int]]:
        """What is asked for, as numbers in `label_names`: each of the texts, such as "blue cube, yellow cylinder", and
        all of a labels file, see `read_conditions`. Raises UserError."""
        names, texts = self.label_names, [texts] if isinstance(texts, str) else texts
        if not names and (texts or file is not None):
            raise UserError(f"{self.folder} was trained without labels. Leave them out, or train with --conditional.")
        found = [parse_condition(text, names) for text in texts]
        found += read_conditions(file, names) if file is not None else []
        one_hot = (self.config.get("labels") or {}).get("one_hot", False)
        if several := next((one for one in found if one_hot and len(one) > 1), None):
            raise UserError(
                f"an image of this run has one label, and '{in_words(several, names)}' are {len(several)}. "
                "For images of each, give --labels once for each."
            )
        return found

    @property
    def label_dropout(self) -> float:
        """The share of training images whose labels were not told; 0 where it can only be sampled with labels."""
        return (self.config.get("labels") or {}).get("dropout", 0.0)

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

        init: float [n,C,H,W] in [-1,1], to start from at start_t; None is pure noise. init_mode: `noise` brings a clean
        init to the noise level of start_t by q_sample; `scale` takes it to have that much noise already, and only
        scales it; `as-is` takes it for x_t. UserError for an init without a start_t: from T-1 nothing of it would be
        left.
        """
        device = next(self.model.parameters()).device
        generators = sample_generators(seed, indices)
        x = randn((len(indices), *self.shape), generators, like=torch.empty(0, device=device))
        if init is not None:
            bring = lookup("init mode", init_mode, INIT_MODES)
            if start_t is None:
                raise UserError("an init image needs --start-t, the timestep to start from. Try 100, or auto.")
            t = torch.full((len(indices),), self.timesteps(sampler, start_t=start_t, **options)[0], device=device)
            x = bring(self.schedule, init.to(device), t, x)
        return x.contiguous(memory_format=torch.channels_last), generators

    def chain(
        self,
        indices: list[int],
        *,
        sampler: str = "ddim",
        init: Tensor | None = None,
        init_mode: str = "noise",
        seed: int = 0,
        labels: Tensor | None = None,
        guidance_scale: float | None = None,
        **options: Any,
    ) -> Iterator[Step]:
        """The reverse chain of the samples with these indices, as one batch; yields after every network call.

        init, init_mode: see `start`. labels, guidance_scale: see `denoiser`; a row for each sample. options: start_t,
        steps and what else the sampler takes.
        Sample k of a seed has its own random numbers: the same in any batch, process and device, up to rounding.
        """
        draw = lookup("sampler", sampler, SAMPLERS)
        denoiser = self.denoiser(labels, guidance_scale)
        x, generators = self.start(indices, sampler=sampler, init=init, init_mode=init_mode, seed=seed, **options)
        yield from draw(denoiser, self.schedule, x, generator=generators, **options)

    def options(self, **given: Any) -> dict[str, Any]:
        """Options for `chain`: those not given (None) left out, and put in what suits this run: the variance that it
        was trained for, and for `dpm++sde` with labels LABELS_SPACING.

        Raises UserError for an option that the sampler does not have.
        """
        options = {name: value for name, value in given.items() if value is not None}
        sampler = options.setdefault("sampler", "ddim")
        for name, owner in OWNERS.items():
            if name in options and sampler != owner:
                raise UserError(
                    f"--{name} belongs to the sampler {owner}, not {sampler}. Leave it out, or --sampler {owner}."
                )
        if sampler == "ddpm":
            options.setdefault("variance", self.config["diffusion"]["variance"])
        self.check_labels(options.get("labels"), options.get("guidance_scale"))
        if sampler == "dpm++sde" and "labels" in options:
            options.setdefault("spacing", LABELS_SPACING)
        return options

    def check_labels(self, labels: Labels | None, guidance_scale: float | None) -> None:
        """A UserError for labels that this run does not take, or lacks, and for guidance it was not trained for."""
        if labels is None:
            if guidance_scale is not None:
                raise UserError("--guidance leads towards --labels, and there are none. Give them, or leave it out.")
            if self.label_names and not self.label_dropout:
                name = self.label_names[0]
                raise UserError(f"{self.folder} draws nothing without labels. Give --labels, such as '{name}'.")
            return
        if not self.label_names:
            raise UserError(f"{self.folder} was trained without labels. Leave them out, or train with --conditional.")
        if not len(labels):
            raise UserError("the labels are of no image at all. Leave them out, or give at least one row.")
        if isinstance(labels, Tensor) and labels.shape[1:] != (self.model.label_dim,):
            raise UserError(f"the labels are {list(labels.shape)}, and this run takes [M,{self.model.label_dim}].")
        if guidance_scale not in (None, 1) and not self.label_dropout:
            raise UserError(
                f"{self.folder} was always told the labels, so nothing to guide away from. Leave out --guidance."
            )

    def timesteps(self, sampler: str = "ddim", **options: Any) -> list[int]:
        """The timesteps a chain with these options will call the network at, descending."""
        return calls(sampler, self.schedule, *(options.get(name) for name in ("steps", "start_t", "spacing")))

    def sample(
        self,
        num: int,
        *,
        batch_size: int = 64,
        on_step: Callable[[Step], None] | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """Images 0 .. num-1, in order, as batches of float [n,C,H,W] in [-1,1] on the CPU.

        on_step: called after every network call, for a progress bar. options: see `chains`.
        Under torchrun the processes share each batch, and all of them get all of it.
        """
        for mine in distributed.shares(num, batch_size):
            x = self.draw(mine, batch_size=batch_size, on_step=on_step, **options)
            yield distributed.gather_rows(x, batch_size).cpu()

    def draw(self, indices: Sequence[int], *, on_step: Callable[[Step], None] | None = None, **options: Any) -> Tensor:
        """The samples with these indices, float [n,C,H,W] in [-1,1] on the run's device. on_step, options: `sample`."""
        x = torch.empty((len(indices), *self.shape), device=next(self.model.parameters()).device)
        for rows, chain in self.chains(indices, **options):
            for step in self.chain(**chain):
                if on_step is not None:
                    on_step(step)
            x[rows] = step.x
        return x

    def chains(
        self,
        indices: Sequence[int],
        *,
        batch_size: int = 64,
        init: Tensor | None = None,
        start_t: StartT = None,
        labels: Labels | None = None,
        **options: Any,
    ) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """The chains that draw these samples: those that start from the same timestep share one, up to batch_size.

        labels: multi-hot [M,L], or M conditions such as [[2, 23], [9]]; sample k is drawn for the one k mod M.
        init [M,C,H,W]: sample k starts from init k mod M.
        start_t: one for all; or one for each init; or `auto`, the timestep of the noise in each init
        (`noise_level.start_from`), with the init_mode `scale` unless one is given.
        Where each init has its own, `steps` is cut to the timesteps below it. options: see `chain`.
        Yields the rows of `indices` that a chain draws, and what to call `chain` with. Raises UserError.
        """
        if init is not None and init.shape[1:] != self.shape:
            raise UserError(f"an init is {list(init.shape[1:])}, this run's images {list(self.shape)}. Resize it.")
        if labels is not None:
            self.check_labels(labels, options.get("guidance_scale"))
            labels = labels if isinstance(labels, Tensor) else multi_hot(labels, self.model.label_dim)
        first = self.first_timesteps(indices, init, start_t)
        if start_t == "auto":
            options.setdefault("init_mode", "scale")
        for t in dict.fromkeys(first):
            same = [row for row, other in enumerate(first) if other == t]
            for begin in range(0, len(same), batch_size):
                rows = same[begin : begin + batch_size]
                chain = options | {"indices": [indices[row] for row in rows], "start_t": t}
                if init is not None:
                    chain["init"] = init[[index % len(init) for index in chain["indices"]]]
                if labels is not None:
                    chain["labels"] = labels[[index % len(labels) for index in chain["indices"]]]
                if t is not None and t != start_t and chain.get("steps"):
                    twice = PLANS[chain.get("sampler", "ddim")].twice
                    chain["steps"] = min(chain["steps"], 2 * t + 1 if twice else t + 1)
                yield rows, chain

    def first_timesteps(self, indices: Sequence[int], init: Tensor | None, start_t: StartT) -> list[int | None]:
        """The timestep that the chain of each sample starts from, see `chains`."""
        if start_t is None or isinstance(start_t, int):
            return [start_t] * len(indices)
        if isinstance(start_t, str) and start_t != "auto":
            raise UserError(f"unknown start_t '{start_t}'. Take a timestep, or auto.")
        if init is None:
            raise UserError("--start-t auto needs --init, an image to measure. Give one, or a number as --start-t.")
        sources = [index % len(init) for index in indices]
        if isinstance(start_t, str):
            found = {k: start_from(self.schedule, init[k : k + 1]).t for k in dict.fromkeys(sources)}
            return [found[k] for k in sources]
        if len(start_t) != len(init):
            raise ValueError(f"{len(start_t)} timesteps for {len(init)} inits: give one for each")
        return [start_t[k] for k in sources]

    def calls(self, indices: Sequence[int], **options: Any) -> int:
        """How often the chains of these samples will call the network. options: see `chains`."""
        return sum(len(self.timesteps(**chain)) for _, chain in self.chains(indices, **options))

    def moments(
        self,
        indices: Sequence[int],
        columns: int,
        *,
        on_step: Callable[[Step], None] | None = None,
        **options: Any,
    ) -> Moments:
        """Look at the chains of a few samples at `columns` of their calls, spread evenly from the first to the last.

        If none has so many calls there are fewer columns; a chain that has fewer than others shows some calls twice.
        Only these pictures are kept. on_step, options: see `sample`.
        """
        chains = list(self.chains(indices, **options))
        columns = min(columns, max(len(self.timesteps(**chain)) for _, chain in chains))
        count, (_, height, width) = len(indices), self.shape
        t: list[list[int]] = [[]] * count
        x_t, x0 = np.empty((2, count, columns, height, width, 3), np.uint8)
        image = np.empty((count, height, width, 3), np.uint8)
        for rows, chain in chains:
            timesteps = self.timesteps(**chain)
            shown = np.linspace(0, len(timesteps) - 1, columns).round().astype(int)
            for row in rows:
                t[row] = [timesteps[call] for call in shown]
            x, _ = self.start(**chain)
            for call, step in enumerate(self.chain(**chain)):
                for column in np.flatnonzero(shown == call):
                    x_t[rows, column], x0[rows, column] = to_uint8(x), to_uint8(step.x0)
                x = step.x
                if on_step is not None:
                    on_step(step)
            image[rows] = to_uint8(x)
        return Moments(t, x_t, x0, image)

    def guidance(self, scale: float | None = None) -> float:
        """The guidance scale that is used where `scale` is asked for; None is GUIDANCE_SCALE, or 1 for a run that was
        always told the labels."""
        if scale is not None:
            return scale
        return GUIDANCE_SCALE if self.label_dropout else 1.0

    def denoiser(self, labels: Tensor | None = None, guidance_scale: float | None = None) -> Denoiser:
        """The network as samplers call it: in the run's precision, float32 out.

        labels: multi-hot [N,L], for batches of N; None draws without. guidance_scale: see `conditional.guided` and
        `guidance`. Raises UserError, see `check_labels`.
        """
        self.check_labels(labels, guidance_scale)
        device = next(self.model.parameters()).device
        autocast = mixed_precision(self.precision, device)
        network: Denoiser = self.model
        if labels is not None:
            network = guided(self.model, labels.to(device), self.guidance(guidance_scale))

        def call(x: Tensor, t: Tensor) -> Tensor:
            with autocast():
                return network(x, t).float()

        call.prediction = self.model.prediction  # type: ignore[attr-defined]
        return call


# --- to open one --------------------------------------------------------------------------------------------------


def load_ddpm(
    folder: str | Path, weights: str = "ema", device: str | torch.device = "cpu", precision: str | None = None
) -> Run:
    """A ddpm run folder, or a checkpoint of diffusers: what has a reverse chain.

    folder: a run; a folder that diffusers saved; or owner/name on the Hugging Face Hub. Nothing is written but the
    Hub's own cache. weights: `ema`, the averaged ones to sample from, or `raw`, the ones being trained; diffusers has
    one set, which counts as averaged. precision: fp32, bf16 or auto; None is the one it was trained in.
    Raises UserError when the folder is none of these, has no weights yet, or has weights that do not fit exactly.
    """
    if foreign.is_foreign(folder):
        if weights != "ema":
            raise UserError(f"{folder} is not of minidiff and has one set of weights. Use --weights ema.")
        source, config, tensors = foreign.open_source(folder)
        folder = source
        model, schedule = build(config)
    else:
        folder = Path(folder).expanduser()
        config = checkpoint.read_config(folder, kind="ddpm")
        model, schedule = build(config)
        tensors, source = checkpoint.read_weights(folder, weights)
    precision = precision or config.get("training", {}).get("precision", "auto")
    load_exactly(model, tensors, source)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Run(folder, config, model, schedule, precision)
