"""The training of a GAN, planned and run in its folder: what `minidiff train dcgan`, `wgan` and `wgan-gp` do.

Rests on training.job, trainer and suspicions. A GAN has no loss that falls as its pictures get better, so each preview
looks for what goes wrong: samples that grow alike, or a discriminator that recognises everything.

job = plan("dcgan", GanRequest(dataset="fashion-mnist", steps=500))
job.start(); job.run(); print(job.conclusion())
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from minidiff.errors import UserError, lookup
from minidiff.gan.config import GAMES, GameConfig, GanConfig, GanKind, GanRequest, read_gan
from minidiff.gan.diversity import diversity
from minidiff.gan.losses import GANS
from minidiff.gan.presets import GAN_PRESETS
from minidiff.gan.run import GanRun, load_gan
from minidiff.gan.suspicions import is_young, suspicions
from minidiff.gan.trainer import GanTrainer
from minidiff.images.convert import Pixels, to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.networks.configs import GeneratorConfig
from minidiff.networks.gan import Critic, Generator, levels
from minidiff.networks.weights import load_exactly
from minidiff.runs.folder import STATE, read_state
from minidiff.runs.log import read_metrics
from minidiff.runtime import distributed
from minidiff.runtime.memory import build_to_train
from minidiff.training.config import Start, TrainConfig, given
from minidiff.training.data import open_data, size_for
from minidiff.training.job import Job, check_out, start_of
from minidiff.training.minutes import fit_minutes
from minidiff.training.presets import default_preset, training_config, with_epochs

PREVIEW_IMAGES = 64
COMPARED = 256  # samples, and as many real images, for their diversity


class GanJob(Job[GanConfig]):
    """The training of a generator against a critic. Each kind of GAN is one of JOBS."""

    may_change = ("sample_every",)

    @staticmethod
    def read(stored: dict[str, Any], where: object) -> GanConfig:
        return read_gan(stored, where)

    trainer: GanTrainer

    def build(self, training: TrainConfig, device: torch.device) -> GanTrainer:
        network = self.config.network
        self.method = replace(GANS[self.kind], game=self.config.gan)
        generator = build_to_train(lambda: Generator(**vars(network)), device)
        critic = Critic(network.width, network.image_size, network.channels, self.config.gan.norm)
        return GanTrainer(generator, critic, self.method, self.data, training, device)

    def first_weights(self, place: str) -> Mapping[str, Tensor]:
        return load_gan(place).model.state_dict()

    def begin_with(self, start: Start) -> None:
        """Take generator and critic of another run. The critic is in its state.pt; without that it starts anew."""
        super().begin_with(start)
        state = read_state(Path(start.place))
        if state is None:
            self.warn(f"{start.place} has no {STATE}, so the {self.method.critic_name} begins with random weights.")
        elif "critic" in state:
            load_exactly(self.trainer.critic, state["critic"], start.place)

    @classmethod
    def batches_a_step(cls, config: GanConfig) -> int:
        return config.gan.critic_steps

    def describe_network(self) -> str:
        method, game = self.method, self.config.gan
        what = f"{method.title}: generator {self.parameters}, width {self.config.network.width}"
        turns = f"{game.critic_steps} {method.critic_name} step{'s' * (game.critic_steps > 1)} to each of its own"
        limits = f", weights clipped to {game.clip:g}" if game.clip else ""
        limits += f", gradient penalty {game.penalty:g}" if game.penalty else ""
        return f"{what}; {turns}{limits}"

    def averaged(self) -> GanRun:
        """Return the EMA weights of this moment, to sample from."""
        assert self.folder is not None
        precision = self.training.precision
        return GanRun(self.folder, self.config, self.trainer.ema, precision)

    def draw(self, count: int) -> Pixels:
        """Draw samples, always from the same noise, uint8 [count,H,W,3]."""
        at_once = self.trainer.slice_size
        return to_uint8(self.averaged().draw(range(count), seed=self.training.seed, batch_size=at_once))

    def measure(self, step: int) -> dict[str, float]:
        """Measure how varied the samples are beside real images: see `diversity`."""
        value = 0.0
        if distributed.is_main():
            chosen = np.linspace(0, len(self.data) - 1, min(len(self.data), COMPARED)).astype(int)
            value = diversity(self.draw(COMPARED), self.data.rgb(chosen))
        return {"diversity": distributed.from_main(value)}

    def measure_interval(self, steps: int) -> int | None:
        return self.sample_interval(steps)[0]

    @property
    def measure_passes(self) -> int:
        return COMPARED

    @property
    def preview_passes(self) -> int:
        return PREVIEW_IMAGES

    def preview(self, step: int) -> list[str]:
        """Draw a grid, always from the same noise."""
        assert self.folder is not None
        images = self.draw(PREVIEW_IMAGES)
        write_image(self.picture(step), grid(images))
        if is_young(self.kind, self.config.preset, self.training.steps, step):
            return []
        return suspicions(self.kind, read_metrics(self.folder, upto=step), step, images)

    def conclusion(self) -> str:
        return f"done      look at {self.picture(self.training.steps)} and {self.folder}/curves.png"


class Dcgan(GanJob):
    kind = "dcgan"


class Wgan(GanJob):
    kind = "wgan"


class WganGp(GanJob):
    kind = "wgan-gp"


JOBS: dict[str, type[GanJob]] = {job.kind: job for job in (Dcgan, Wgan, WganGp)}


def plan(kind: str, request: GanRequest) -> GanJob:
    """Plan a new training: a preset, with what the request says put over it. kind: one of GANS. Raises UserError."""
    # All that can be wrong with the request is found before the data are read, or downloaded.
    job = lookup("GAN", kind, JOBS)
    device = distributed.local_device(request.device)
    name = request.preset or default_preset(device.type)
    preset = lookup("preset", name, GAN_PRESETS[kind])
    start = load_gan(request.init) if request.init is not None else None
    if start and start.config.kind != kind:
        raise UserError(f"{request.init} is a {start.config.kind} run, and a {kind} begins with one of its own kind.")
    size = size_for(request, start.config.network.image_size if start else preset.image_size)
    levels(size)
    game, training = game_config(kind, request), training_config(preset.training, request)
    check_out(request.out)
    data, described = open_data(request, size)
    if len(data) < 2:
        raise UserError(f"{data.name} has one image, and a GAN needs many. Give more, or fit it: `minidiff dip fit`.")
    training = with_epochs(training, preset.training, request, len(data), game.critic_steps)
    usual = start.config.network if start and request.preset is None else preset
    config = GanConfig(
        kind=cast(GanKind, kind),
        preset=name,
        init=start_of(request.init, start.model.state_dict()) if start and request.init else None,
        data=described,
        network=GeneratorConfig(
            request.latent_dim or usual.latent_dim, request.width or usual.width, size, described.channels
        ),
        gan=game,
        training=training,
        save_every=request.save_every,
        sample_every=request.sample_every,
    )
    return fit_minutes(job(config, data, device, request.out), preset.training, request)


def game_config(kind: str, request: GanRequest) -> GameConfig:
    """Replace in a kind's game what a request sets. Raises UserError for a setting that this kind does not have."""
    game = GAMES[kind]
    for name in ("clip", "penalty"):
        if getattr(request, name) is not None and getattr(game, name) is None:
            owner = next(other for other, its in GAMES.items() if getattr(its, name) is not None)
            raise UserError(f"`{name}` belongs to {owner}, not {kind}. Leave it out.")
    return replace(game, **given(request, vars(game)))
