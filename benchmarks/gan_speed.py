"""Time a step of each GAN, beside the simplest loop for the same networks and losses.

A step is one of the generator, with the steps of the critic before it.

The two take turns in an order drawn anew each round, and the ratio is taken within a round. Prints a Markdown table.
"""

import datetime
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import common
import numpy as np
import torch
from common import CLOCKS, machine, ratio, rounds_of, seconds, versions
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from minidiff.data.datasets import ImageData
from minidiff.gan.config import GAMES
from minidiff.gan.losses import GANS, gradient_penalty
from minidiff.gan.trainer import GanTrainer
from minidiff.networks.gan import Critic, Generator
from minidiff.runtime import cpu
from minidiff.training.config import TrainConfig


def networks(kind: str, width: int, size: int, channels: int) -> tuple[Generator, Critic]:
    torch.manual_seed(0)
    return Generator(100, width, size, channels), Critic(width, size, channels, GANS[kind].game.norm)


def plain(kind: str, width: int, batches: Tensor, device: torch.device) -> Iterator[None]:
    """Train in the simplest way: no memory format, no average, no autocast. batches: [M,N,C,H,W] in [-1,1]."""
    method, game, count = GANS[kind], GANS[kind].game, batches.shape[1]
    generator, critic = (n.to(device) for n in networks(kind, width, batches.shape[3], batches.shape[2]))
    if game.betas is None:
        g, c = (torch.optim.RMSprop(n.parameters(), lr=5e-5) for n in (generator, critic))
    else:
        g, c = (torch.optim.Adam(n.parameters(), lr=1e-4, betas=tuple(game.betas)) for n in (generator, critic))
    while True:
        for turn in range(game.critic_steps):
            real = batches[turn % len(batches)]
            fake = generator(torch.randn(count, 100, device=device)).detach()
            loss = method.critic_loss(critic(real), critic(fake))
            if game.penalty:
                mix = torch.rand(count, 1, 1, 1, device=device)
                loss = loss + game.penalty * gradient_penalty(critic, real, fake, mix)
            c.zero_grad()
            loss.backward()
            c.step()
            if game.clip:
                for parameter in critic.parameters():
                    parameter.data.clamp_(-game.clip, game.clip)
        g.zero_grad()
        method.generator_loss(critic(generator(torch.randn(count, 100, device=device)))).backward()
        g.step()
        yield


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--width", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--size", type=click.IntRange(min=8), default=32, show_default=True, help="Pixels a side.")
@click.option("--channels", type=click.IntRange(1, 3), default=1, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True, help="Paired, shuffled rounds.")
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Steps in a turn.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: torch's choice.")
@click.option("--clock", "clock_name", type=click.Choice(list(CLOCKS)), default="wall", show_default=True,
              help="cpu: processor seconds, for one thread on a machine that others use too.")  # fmt: skip
def main(device: str, width: int, size: int, channels: int, batch_size: int, rounds: int, repeats: int,
         threads: int | None, clock_name: str) -> None:  # fmt: skip
    """Time a step of every kind of GAN beside a plain one."""
    common.clock = clock_name
    cpu.tune()
    if threads:
        torch.set_num_threads(threads)
    place = torch.device(device)
    images = np.random.default_rng(0).integers(0, 256, (8 * batch_size, size, size, channels), dtype=np.uint8)
    data = ImageData("noise", images, np.zeros((len(images), 0), np.uint8), [], flip=False)
    batches = (torch.from_numpy(images).to(place).permute(0, 3, 1, 2) / 127.5 - 1).contiguous()
    print(f"## A step of a GAN, {size}x{size}, {channels} channels, width {width}: {machine(device)}, "
          f"{datetime.date.today()}\n")  # fmt: skip
    print(f"`{' '.join(['python benchmarks/gan_speed.py', *sys.argv[1:]])}`: {rounds} rounds, batch {batch_size}, "
          f"{torch.get_num_threads()} CPU threads, {clock_name} clock, {versions()}.\n")  # fmt: skip
    print("| | critic steps | plain, ms | minidiff, ms | ratio (range) |\n| --- | --- | --- | --- | --- |")
    for kind, method in GANS.items():
        config = TrainConfig(steps=sys.maxsize, batch_size=batch_size, lr=1e-4, warmup=0)
        trainer = GanTrainer(*networks(kind, width, size, channels), method, data, config, place)
        steps = {"plain": plain(kind, width, batches.unflatten(0, (8, batch_size)), place), "ours": trainer.steps()}
        for step in steps.values():
            next(step), next(step)  # choose algorithms, fill the allocator's pool
        turns = {name: lambda step=step: seconds(lambda: next(step), repeats, place) for name, step in steps.items()}
        times = rounds_of(turns, rounds)  # type: ignore[arg-type]
        middle = [f"{1e3 * statistics.median(times[name]):.0f}" for name in ("plain", "ours")]
        print(f"| {kind} | {GAMES[kind].critic_steps} | {' | '.join(middle)} | "
              f"{ratio(times['plain'], times['ours'])} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
