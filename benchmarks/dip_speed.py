"""How fast is a fit of a deep image prior? Compare our `Fitter` with a plain PyTorch loop, for each network.

Both have the same network and the same loss. Every contender has its own process, because the settings of
`minidiff.runtime.cpu` for the allocator hold for a whole process. The contenders take turns, in a new random order each
round, and the ratio is taken within a round. Prints a Markdown table: see README.md here.
"""

import datetime
import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click
import common
import torch
import torch.nn.functional as F
from common import CLOCKS, Racer, Times, gib, machine, ratio, resident, rounds_of, seconds, take_turns, versions
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from minidiff.dip.config import MOST_STEPS, FitConfig
from minidiff.dip.early_stop import EARLY_STOPS
from minidiff.dip.fit import Fitter, layout_for
from minidiff.networks.dip import DIP_NETS, DipNet
from minidiff.runtime import cpu


class Case(NamedTuple):
    """A network and its input: noise with this many channels, or the image."""

    net: str
    in_channels: int
    input_kind: str


CASES = {
    "conv2": Case("conv2", 3, "image"),
    "cnn": Case("cnn", 3, "image"),
    "cnn-noise": Case("cnn", 32, "noise"),
    "resnet18": Case("resnet18", 32, "noise"),
    "hourglass": Case("hourglass", 32, "noise"),
}


@dataclass(frozen=True)
class Settings:
    """One line of the table. The first of a network is what the others are held against."""

    name: str
    ours: bool = True
    compile: str | None = None  # a mode of torch.compile
    other_layout: bool = False  # not the one that `layout_for` chooses: to see whether it chooses well


PLAIN, EAGER = Settings("plain PyTorch", ours=False), Settings("minidiff")
OTHER = Settings("minidiff, the other layout", other_layout=True)
COMPILED = [
    Settings("minidiff, compiled", compile="default"),
    Settings("minidiff, compiled, CUDA graphs", compile="reduce-overhead"),
]


def picture(size: int) -> Tensor:
    """Smooth, with noise, in three channels: [1,3,size,size]."""
    y, x = torch.meshgrid(torch.linspace(-3, 3, size), torch.linspace(-3, 3, size), indexing="ij")
    return torch.stack([torch.sin(x), torch.cos(y), torch.sin(x + y)])[None] * 0.8 + 0.1 * torch.randn(1, 3, size, size)


# --- the contenders -----------------------------------------------------------------------------------------------


def plain_fit(net: DipNet, target: Tensor, input_kind: str) -> Iterator[float]:
    """Fit as a first plain loop would: contiguous tensors, Adam and the allocator with their defaults."""
    z = target if input_kind == "image" else 0.1 * torch.rand(1, net.in_channels, *target.shape[-2:]).to(target)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    averaged = torch.zeros_like(target)
    while True:
        optimizer.zero_grad()
        output = net(z + torch.randn_like(z) / 30)
        averaged = 0.99 * averaged + 0.01 * output.detach()
        loss = F.mse_loss(output, target)
        loss.backward()
        optimizer.step()
        yield loss.item()


def our_fit(net: DipNet, target: Tensor, input_kind: str, settings: Settings) -> Iterator[float]:
    """The same with a `Fitter`."""
    fitter = Fitter(net, target, FitConfig(steps=MOST_STEPS, input_kind=input_kind), device=target.device)
    if settings.other_layout:
        by_planes = layout_for(fitter.device) == torch.contiguous_format
        fitter.arrange(torch.channels_last if by_planes else torch.contiguous_format)
    if settings.compile:
        fitter.forward = torch.compile(net, mode=settings.compile)
    steps = fitter.steps()
    while True:
        if settings.compile:
            torch.compiler.cudagraph_mark_step_begin()
        yield next(steps).loss.item()


def serve(case: Case, settings: Settings, size: int, device: torch.device, turn: float, seed: int) -> None:
    """Be a contender: for each line of standard input take a turn, and print its seconds a step and the peak memory."""
    if settings.ours:
        cpu.tune()
    torch.manual_seed(seed)
    net = DIP_NETS[case.net](in_channels=case.in_channels).to(device)
    target, before = picture(size).to(device), resident("VmRSS")
    kind = case.input_kind
    fit = our_fit(net, target, kind, settings) if settings.ours else plain_fit(net, target, kind)
    for _ in range(3):  # compile, choose algorithms, fill the allocator's pool
        next(fit)
    take_turns(lambda: next(fit), turn, device, before)


# --- the race -----------------------------------------------------------------------------------------------------


def early_stop_times(size: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of one update of each early stop, its window full."""
    times = {}
    for name, build in EARLY_STOPS.items():
        stopper, output = build(), picture(size).to(device)
        for _ in range(100):
            stopper.update(output)
        times[name] = seconds(lambda: stopper.update(output), repeats, device)  # noqa: B023
    return times


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--nets", default=",".join(CASES), show_default=True, help="Which, with commas between.")
@click.option("--size", type=click.IntRange(min=32), default=256, show_default=True, help="Pixels a side.")
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True, help="Paired, shuffled rounds.")
@click.option("--turn", type=float, default=2.0, show_default=True, help="Seconds of a turn, at least.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: torch's choice.")
@click.option(
    "--clock",
    "clock_name",
    type=click.Choice(list(CLOCKS)),
    default="wall",
    show_default=True,
    help="cpu: processor seconds, for one thread on a machine that others use too.",
)
@click.option("--everything", is_flag=True, help="On the CPU too: the contenders of the GPU.")
@click.option("--seed", default=0, show_default=True, help="Of the weights and of the order of the rounds.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the table here.")
@click.option("--contender", nargs=2, hidden=True, help="Be this one, in a process of its own.")
def main(device: str, nets: str, size: int, rounds: int, turn: float, threads: int | None, clock_name: str,
         everything: bool, seed: int, out: Path | None, contender: tuple[str, str] | None) -> None:  # fmt: skip
    """Time our fit of each network beside a plain one."""
    common.clock = clock_name
    if threads:
        torch.set_num_threads(threads)
    settings = [PLAIN, EAGER, OTHER, *(COMPILED if everything or device.startswith("cuda") else [])]
    if contender:
        case, name = contender
        serve(CASES[case], next(s for s in settings if s.name == name), size, torch.device(device), turn, seed)
        return
    names = nets.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise click.BadParameter(f"unknown net {unknown[0]!r}. Known: {', '.join(CASES)}.", param_hint="--nets")

    cpu.tune()  # its word to OpenMP passes on to all contenders: a busy machine is no handicap for the plain one
    random.seed(seed)
    lines = [
        f"## Deep image priors, {size}x{size}: {machine(device)}, {datetime.date.today()}",
        "",
        f"`{' '.join(['python benchmarks/dip_speed.py', *sys.argv[1:]])}`: {rounds} rounds, {torch.get_num_threads()} "
        f"CPU threads, {clock_name} clock, {versions()}.",
        "",
        "| network | | ms an iteration | iterations/s | ratio (range) | peak memory, GiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        racers = {s.name: Racer("--contender", name, s.name) for s in settings}
        times = rounds_of({key: racer.turn for key, racer in racers.items()}, rounds)
        for racer in racers.values():
            racer.close()
        lines += table_of(name, times, {key: racer.peak for key, racer in racers.items()})
    lines += ["", "| one update of the early stop | ms |", "| --- | --- |"]
    for name, time in early_stop_times(size, torch.device(device), repeats=50).items():
        lines.append(f"| {name} | {1e3 * time:.2f} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if out:
        out.write_text(table)


def table_of(case: str, times: Times, peaks: dict[str, int | None]) -> list[str]:
    """A line for each contender, against the first."""
    net, in_channels, input_kind = CASES[case]
    given = "the image" if input_kind == "image" else f"{in_channels} channels of noise"
    base = next(iter(times.values()))
    lines = []
    for name, mine in times.items():
        median = statistics.median(mine)
        cells = [f"{net}, of {given}", name, f"{1e3 * median:.1f}", f"{1 / median:.2f}", ratio(base, mine)]
        lines.append("| " + " | ".join([*cells, gib(peaks[name])]) + " |")
    return lines


if __name__ == "__main__":
    main()
