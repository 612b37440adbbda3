"""The training of a GAN: critic and generator learn in turn, each against the other.

Rests on losses, networks.gan and training. This is algorithm 1 of Arjovsky et al. 2017 (WGAN) and of Gulrajani et al.
2017 (WGAN-GP). With cross entropy, and one step of the critic to each of the generator, it is the algorithm of
Goodfellow et al. 2014 as DCGAN runs it.

Every random number is a function of (seed, step), so a resumed run is the run that was never interrupted.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.data.config import Images
from minidiff.data.datasets import ImageData, load_data
from minidiff.errors import UserError
from minidiff.gan.config import GameConfig
from minidiff.gan.losses import Method, clip_weights, entropy_critic, gradient_penalty, wasserstein
from minidiff.networks.gan import Critic, Generator
from minidiff.networks.weights import load_exactly, load_optimizer
from minidiff.rng import Draws, seed_from
from minidiff.runtime import distributed
from minidiff.runtime.precision import mixed_precision
from minidiff.training.batches import load_batches, prepare
from minidiff.training.config import NOISE, TrainConfig
from minidiff.training.loop import slice_size
from minidiff.training.step import TrainStep


class GanTrainer:
    """A generator, its EMA, a critic and both optimizers at one step of a run; `steps()` moves them on.

    One step is a step of the generator, after `game.critic_steps` of the critic, each on a batch of its own. Batch
    normalisation uses the images of one process, so two processes of 32 do not train as one process of 64.
    Raises UserError when the batch does not divide, or leaves a process a single image.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        method: Method,
        data: Images,
        config: TrainConfig,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.method, self.step = config, method, 0
        self.data = data if isinstance(data, ImageData) else load_data(data)
        self.device, self.slice_size = torch.device(device), slice_size(config)
        if self.slice_size < 2:
            raise UserError("one image at a time is too little for batch normalisation. Raise `batch_size`.")
        layout = {"memory_format": torch.channels_last}
        self.model = generator.to(self.device).to(**layout).train()  # the one that is sampled from, in the end
        self.critic = critic.to(self.device).to(**layout).train()
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = optimizer_of(method.game, self.model.parameters(), config.lr)
        self.critic_optimizer = optimizer_of(method.game, self.critic.parameters(), config.lr)
        self.autocast = mixed_precision(config.precision, self.device, training=True)
        torch.backends.cudnn.benchmark = True  # every batch has the same shape: try the algorithms once

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "critic": self.critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], source: str = "state") -> None:
        """Go on from a saved state. Raise UserError for the state of other networks."""
        if missing := sorted(self.state_dict().keys() - state.keys()):
            what = f"it has no {missing[0]}"
            raise UserError(f"{source} is not the training state of a GAN: {what}. Start again, in another folder.")
        for name, network in (("model", self.model), ("ema", self.ema), ("critic", self.critic)):
            load_exactly(network, state[name], source)
        load_optimizer(self.optimizer, state["optimizer"], source)
        load_optimizer(self.critic_optimizer, state["critic_optimizer"], source)
        self.step = state["step"]

    def steps(self) -> Iterator[TrainStep]:
        """Train from the present step to `config.steps`. Yields a record after each step of the generator."""
        config, turns = self.config, self.method.game.critic_steps
        read = replace(config, steps=turns * config.steps)  # one batch for each step of the critic
        batches = load_batches(self.data, read, self.slice_size, turns * self.step, self.device)
        rows = slice(distributed.rank() * self.slice_size, (distributed.rank() + 1) * self.slice_size)
        while self.step < config.steps:
            step = self.step + 1
            lr = config.learning_rate(step)
            for group in (*self.optimizer.param_groups, *self.critic_optimizer.param_groups):
                group["lr"] = lr
            sums: dict[str, Tensor] = {}
            for turn in range(turns):
                images, _, _ = next(batches)
                draws = Draws(seed_from(config.seed, NOISE, step, turn), config.batch_size, rows, self.device)
                for name, value in self.critic_step(prepare(images, self.data.flip, draws), draws).items():
                    sums[name] = sums.get(name, 0) + value / turns
            draws = Draws(seed_from(config.seed, NOISE, step, turns), config.batch_size, rows, self.device)
            loss, grad_norm = self.generator_step(draws)
            average_buffers(self.model)
            average_with_statistics(self.ema, self.model, config.ema_decay_at(step))
            self.step = step
            also = {name: distributed.mean_over_processes(value) for name, value in sums.items()}
            yield TrainStep(step, distributed.mean_over_processes(loss), grad_norm, lr, also)

    def critic_step(self, real: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Move the critic one step against the present generator. Returns the numbers to log.

        real: float [n,C,H,W] in [-1,1].
        """
        method = self.method
        with self.autocast():
            with torch.no_grad():
                fake = self.make(draws)
            # Real and made images go through apart: with batch normalisation each is normalised among its like.
            real_scores, fake_scores = self.critic(real).float(), self.critic(fake).float()
        loss = method.critic_loss(real_scores, fake_scores)
        if method.game.penalty:
            mix = draws.rand(1, 1, 1)
            loss = loss + method.game.penalty * gradient_penalty(self.critic, real, fake.float(), mix)
        self.critic_optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average_gradients(self.critic)
        self.critic_optimizer.step()
        if method.game.clip:
            clip_weights(self.critic, method.game.clip)
        return {f"{method.critic_name}_loss": loss.detach(), **told_apart(method, real_scores, fake_scores)}

    def generator_step(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Move the generator one step against the present critic. Returns its loss and the norm of its gradient."""
        self.critic.requires_grad_(False)  # what it would learn here is not used: spare the work
        with self.autocast():
            scores = self.critic(self.make(draws)).float()
        loss = self.method.generator_loss(scores)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.critic.requires_grad_(True)
        average_gradients(self.model)
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), math.inf)  # of inf: none of the papers clips it
        self.optimizer.step()
        return loss.detach(), grad_norm

    def make(self, draws: Draws) -> Tensor:
        """Draw images from the generator as it is, [n,C,H,W]."""
        images: Tensor = self.model(draws.randn(self.model.config["latent_dim"]))
        return images


# --- the parts of a step ------------------------------------------------------------------------------------------


def optimizer_of(game: GameConfig, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Make the optimizer of a game: Adam, or RMSprop as WGAN has it."""
    if game.betas is None:
        return torch.optim.RMSprop(parameters, lr=lr)
    return torch.optim.Adam(parameters, lr=lr, betas=game.betas)


@torch.no_grad()
def told_apart(method: Method, real: Tensor, fake: Tensor) -> Mapping[str, Tensor]:
    """Measure how well the critic tells real images from generated ones, by its scores.

    For a critic this is the Wasserstein estimate, in the critic's own units. For a discriminator it is the share of
    each that it recognises.
    """
    if method.critic_loss is entropy_critic:
        return {"accuracy_real": (real > 0).float().mean(), "accuracy_fake": (fake < 0).float().mean()}
    return {"wasserstein": wasserstein(real, fake)}


@torch.no_grad()
def average_with_statistics(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the generator: ema <- decay * ema + (1 - decay) * model, with its running statistics.

    The generator never settles while the critic answers, so the statistics of batch normalisation that it has at one
    step do not fit its averaged weights. On FashionMNIST (dcgan, width 8, step 300), averaged means differed by 0.012
    standard deviations from the true means of the averaged network, and copied means by 0.058. For a network that
    settles, copied statistics fit better: see `training.loop.average_weights`.
    """
    mine, theirs = ema.state_dict(), model.state_dict()
    averaged = [name for name, tensor in mine.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in averaged], [theirs[name] for name in averaged], 1 - decay)
    for name in mine.keys() - averaged:  # the count of batches
        mine[name].copy_(theirs[name])


def average_gradients(module: nn.Module) -> None:
    """Give every process the mean of the gradients of all.

    DDP cannot handle the penalty's second derivatives, and the gradients are only a few megabytes.
    """
    average_together([parameter.grad for parameter in module.parameters() if parameter.grad is not None])


def average_buffers(module: nn.Module) -> None:
    """Give every process the mean of the running statistics of all, so that they stay equal."""
    average_together([buffer for buffer in module.buffers() if buffer.is_floating_point()])


@torch.no_grad()
def average_together(tensors: list[Tensor]) -> None:
    """Replace the tensors by their means over all processes; all are sent together."""
    if distributed.world_size() == 1 or not tensors:
        return
    mean = distributed.mean_over_processes(torch.cat([tensor.flatten() for tensor in tensors]))
    for tensor, part in zip(tensors, torch.split(mean, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
