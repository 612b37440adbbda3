"""The training of stage 1 or 2, planned and run in its folder: what `minidiff train dehaze` does.

Rests on training.job, stage1 and pairs. Each picture of the training shows, for the same pairs every time, the
haze, what the networks make of it, and the truth. The PSNR is measured on pairs that the training does not see.

job = plan(DehazeRequest(steps=500))
job.start(); job.run(); print(job.conclusion())
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minidiff.data.config import TAUGHT, Images
from minidiff.data.haze import HazyPair
from minidiff.data.image_data import ImageData
from minidiff.ddpm.recipe import build_schedule
from minidiff.dehaze.config import STEPS, DehazeConfig, DehazeRequest, GuessLoss, Refinement, read_dehaze
from minidiff.dehaze.pairs import held_out, open_again, open_pairs
from minidiff.dehaze.presets import PRESETS, GuessPreset, RefinePreset
from minidiff.dehaze.run import DehazeRun, build_networks, load_dehaze
from minidiff.dehaze.stage1 import guess_loss
from minidiff.dehaze.stage2 import TwoStages, refine_loss
from minidiff.errors import UserError, lookup
from minidiff.images.convert import to_uint8
from minidiff.images.faults import problems
from minidiff.images.files import write_image
from minidiff.images.grid import grid, name_columns
from minidiff.images.quality import psnr
from minidiff.networks.gunet import Clearing
from minidiff.networks.weights import fingerprint, load_exactly
from minidiff.runs.folder import STATE
from minidiff.runs.log import read_metrics
from minidiff.runtime import distributed
from minidiff.runtime.memory import build_to_train
from minidiff.training.config import Start, TrainConfig, given
from minidiff.training.job import Job, check_out, start_of
from minidiff.training.loop import Trainer
from minidiff.training.minutes import fit_minutes
from minidiff.training.presets import default_preset, training_config, with_epochs

MEASURED, MEASURED_IN_STEPS, SHOWN = 48, 12, 6  # pairs: measured of stage 1, of stage 2; that a picture shows
AT_ONCE = 16  # pairs


class DehazeJob(Job[DehazeConfig]):
    """The training of the network that guesses J, T and A, or of the one that goes on from there."""

    kind = "dehaze"
    may_change = ("sample_every", "measure_every")

    @staticmethod
    def read(stored: dict[str, Any], where: object) -> DehazeConfig:
        return read_dehaze(stored, where)

    @classmethod
    def images_of(cls, config: DehazeConfig, folder: Path, images: "Images | None") -> ImageData:
        return open_again(config.data, config.haze, folder)

    def build(self, training: TrainConfig, device: torch.device) -> Trainer:
        config = self.config
        network = build_to_train(lambda: build_networks(config), device)
        if config.refinement is None:
            return Trainer(network, guess_loss(config.guess_loss), self.data, training, device)
        assert isinstance(network, TwoStages) and config.refinement.first is not None
        begun = self.folder is not None and (self.folder / STATE).exists()
        if not begun and config.init is None:  # otherwise its weights are in the state, or in the run to begin with
            load_exactly(network.first, first_of(config.refinement.first), config.refinement.first.place)
        schedule = build_schedule(config.refinement.diffusion)
        loss = refine_loss(network.first.to(device), schedule, config.refinement, device)
        return Trainer(network, loss, self.data, training, device)

    def first_weights(self, place: str) -> Mapping[str, Tensor]:
        start, settings = load_dehaze(place), self.config.refinement
        if settings is None:  # a run of stage 2 has a stage 1, too, which is what is asked for here
            return start.first.state_dict()
        if settings.first is None or fingerprint(start.first.state_dict()) == settings.first.weights:
            return start.model.state_dict()
        return with_first(start, first_of(settings.first))

    def describe_network(self) -> str:
        network, loss, settings = self.config.guess, self.config.guess_loss, self.config.refinement
        if settings is not None and settings.first is not None:
            weighed = f" + {settings.fourier:g} L1 of Fourier magnitudes" * bool(settings.fourier)
            weighed += f", shifted by J ({settings.shift})" * (settings.shift != "none")
            diffusion = settings.diffusion
            return (
                f"stage 2: UNet {self.parameters}, channels {list(settings.network.channels)}; {diffusion.schedule} "
                f"schedule, T = {diffusion.timesteps}, predicts {diffusion.prediction}: "
                f"{settings.error.upper()}{weighed}\n"
                f"          sees J and T of {settings.first.place}; {settings.crops} crops of {settings.crop}x"
                f"{settings.crop} of each picture"
            )
        return (
            f"stage 1: GUNet {self.parameters}, channels {list(network.channels)}; learns J, T and A: "
            f"L1(J) + {loss.transmission:g} L1(T, A) + {loss.haze:g} L1(recomposed haze)"
        )

    @cached_property
    def others(self) -> tuple[str, HazyPair]:
        """The hazy pairs that are measured, and the split that their pictures are of."""
        return held_out(self.config.data, replace(self.config.haze, clear=0.0), MEASURED)

    def averaged(self) -> DehazeRun:
        """Return the EMA weights of this moment."""
        return DehazeRun(self.folder or Path(), self.config, self.trainer.ema, self.training.precision)

    def guesses(self, hazy: Tensor) -> Clearing:
        """Guess J, T and A of pairs, a few at a time. On the CPU."""
        run = self.averaged()
        parts = [run.guess(some) for some in hazy.split(AT_ONCE)]
        return Clearing(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))

    def measure_interval(self, steps: int) -> int:
        return self.config.measure_every or max(200, steps // (10 if self.config.stage == 1 else 4))

    @property
    def measure_passes(self) -> int:
        return MEASURED if self.config.stage == 1 else MEASURED_IN_STEPS * STEPS

    @property
    def preview_passes(self) -> int:
        return SHOWN if self.config.stage == 1 else SHOWN * STEPS

    def results(self, hazy: Tensor) -> dict[str, Tensor]:
        """Return what the stages make of pictures, by name; the last is the answer."""
        guess = self.guesses(hazy)
        made = {"T": 2 * guess.transmission - 1, "J": guess.clear}
        if self.config.stage == 2:
            run, refined = self.averaged(), []
            for seen, *one in zip(hazy.split(1), *(each.split(1) for each in guess), strict=True):
                alone = Clearing(*one)
                start_t = run.start_for(seen, alone.clear)
                refined.append(run.refine(alone, start_t=start_t, seed=self.training.seed).cpu())
            made["stage 2"] = torch.cat(refined)
        return made

    def measure(self, step: int) -> dict[str, float]:
        """Measure the PSNR of the answer, and what stage 1 does, on pairs that the training does not see."""
        split, pair = self.others
        values: dict[str, float] = {}
        if distributed.is_main():
            count = MEASURED if self.config.stage == 1 else MEASURED_IN_STEPS
            made = self.results(pair.hazy[:count])
            *_, answer = made
            values[f"{split}_psnr"] = mean_psnr(made[answer], pair.clear[:count])
            if self.config.stage == 2:
                values[f"{split}_psnr_of_J"] = mean_psnr(made["J"], pair.clear[:count])
            elif pair.transmission is not None:
                wrong = (made["T"] + 1) / 2 - pair.transmission[:count]
                values[f"{split}_error_of_T"] = wrong.abs().mean().item()
        return distributed.from_main(values)

    def preview(self, step: int) -> list[str]:
        """Draw a row for each of a few pairs: the haze, T, J, the answer of stage 2, and the truth."""
        _, pair = self.others
        made = self.results(pair.hazy[:SHOWN])
        *_, answer = made
        columns = {"haze": pair.hazy[:SHOWN], **made, "truth": pair.clear[:SHOWN]}
        shown = np.stack([to_uint8(each) for each in columns.values()], axis=1)
        sheet = grid(shown.reshape(-1, *shown.shape[2:]), len(columns))
        write_image(self.picture(step), name_columns(sheet, list(columns)))
        return [f"{answer} at step {step}: {problem}" for problem in problems(to_uint8(made[answer]))]

    def conclusion(self) -> str:
        assert self.folder is not None
        name = f"{self.others[0]}_psnr"
        last = [record for record in read_metrics(self.folder) if name in record][-1]
        found = f"{last[name]:.2f} dB on pairs that it was not trained on"
        if self.config.stage == 2:
            found += f", and stage 1 has {last[f'{name}_of_J']:.2f} dB"
        return f"done      its answers have {found}; look at {self.picture(self.training.steps)}"


def mean_psnr(made: Tensor, truth: Tensor) -> float:
    """Return the mean PSNR of pictures, float [N,3,H,W] in [-1,1]."""
    return float(np.mean([psnr(a, b) for a, b in zip(to_uint8(made), to_uint8(truth), strict=True)]))


# --- to plan one ------------------------------------------------------------------------------------------------------

OF_ONE_STAGE = {
    1: ("transmission_weight", "haze_weight"),
    2: ("stage_1", "crop", "fourier_weight", "prediction", "shift"),
}


def plan(request: DehazeRequest) -> DehazeJob:
    """Plan a new training: a preset, with what the request says put over it. Raises UserError."""
    # All that can be wrong with the request is found before the photographs are read.
    for name in OF_ONE_STAGE[3 - request.stage]:
        if getattr(request, name) is not None:
            raise UserError(f"`{name}` belongs to `stage` {3 - request.stage}. Leave it out, or ask for that stage.")
    device = distributed.local_device(request.device)
    name = request.preset or default_preset(device.type)
    presets: Mapping[str, GuessPreset | RefinePreset] = PRESETS[request.stage]
    preset = lookup("preset", name, presets)
    start = load_dehaze(request.init) if request.init is not None else None
    if start is not None and start.config.stage < request.stage:
        raise UserError(f"{request.init} is of stage {start.config.stage}. Begin with a run of stage {request.stage}.")
    training, haze, size = training_config(preset.training, request), TAUGHT, request.image_size or preset.image_size
    if isinstance(preset, GuessPreset):
        guess = start.config.guess if start and request.preset is None else preset.network
        loss, refinement = guess_weights(preset, request), None
        weights = start.first.state_dict() if start else None
    else:
        first = start if start and request.stage_1 is None else open_first(request)
        guess, loss = first.config.guess, first.config.guess_loss
        refinement = refinement_of(preset, request, first, start)
        if refinement.crop > size:
            raise UserError(f"`crop` is {refinement.crop}, and pairs of `image_size` {size} are smaller. Take {size}.")
        weights = with_first(start, first.first.state_dict()) if start else None
    check_out(request.out)
    data, described = open_pairs(request, size, haze)
    training = with_epochs(training, preset.training, request, len(data))
    config = DehazeConfig(
        preset=name,
        init=start_of(request.init, weights) if weights and request.init else None,
        data=described,
        stage=request.stage,
        haze=haze,
        guess=guess,
        guess_loss=loss,
        refinement=refinement,
        training=training,
        save_every=request.save_every,
        **given(request, ("sample_every", "measure_every")),
    )
    return fit_minutes(DehazeJob(config, data, device, request.out), preset.training, request)


def guess_weights(preset: GuessPreset, request: DehazeRequest) -> GuessLoss:
    """Replace in a preset's weights of the loss what a request sets."""
    asked = {"transmission": request.transmission_weight, "haze": request.haze_weight}
    return replace(preset.loss, **{name: value for name, value in asked.items() if value is not None})


def open_first(request: DehazeRequest) -> DehazeRun:
    """Open the stage 1 that a stage 2 is to be trained behind. Raises UserError if none is named."""
    if request.stage_1 is None:
        raise UserError("`stage` 2 needs `stage_1`, a run that guesses J and T. Train one, and name its folder.")
    return load_dehaze(request.stage_1)


def refinement_of(
    preset: RefinePreset, request: DehazeRequest, first: DehazeRun, start: DehazeRun | None
) -> Refinement:
    """Return what stage 2 is, and behind which stage 1. start: the run that it begins with."""
    known = start.config.refinement if start else None
    weights = first.first.state_dict()
    place = request.stage_1 or (known.first.place if known and known.first else None)
    assert place is not None
    diffusion = replace(known.diffusion if known else preset.diffusion, **given(request, ("prediction",)))
    return Refinement(
        network=known.network if known and request.preset is None else preset.network,
        diffusion=diffusion,
        error=preset.error,
        fourier=preset.fourier if request.fourier_weight is None else request.fourier_weight,
        shift=request.shift or (known.shift if known else preset.shift),
        crop=request.crop or preset.crop,
        crops=preset.crops,
        guess_size=first.config.guess_size,
        first=start_of(place, weights),
    )


def with_first(start: DehazeRun, first: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a run of stage 2 with another stage 1."""
    second = {name: weight for name, weight in start.model.state_dict().items() if not name.startswith("first.")}
    return second | {f"first.{name}": weight for name, weight in first.items()}


def first_of(first: Start) -> Mapping[str, Tensor]:
    """Read the weights of the stage 1 that a stage 2 is trained behind. Raises UserError if they are others now."""
    weights = load_dehaze(first.place).first.state_dict()
    if fingerprint(weights) != first.weights:
        raise UserError(f"{first.place} has other weights now than when this run began behind them. Start a new run.")
    return weights
