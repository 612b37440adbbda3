"""Time a training step and a sampling step of our U-Net, beside diffusers' UNet2DModel.

Same architecture, same weights, one process; the contenders take turns in an order drawn anew each round, so that a
busy machine slows all of them, and the ratio is taken within a round. Prints a Markdown table: see README.md here.
"""

import copy
import datetime
import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import common
import torch
import torch.nn.functional as F
from common import CLOCKS, Times, gib, machine, ratio, resident, rounds_of, seconds, versions
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from diffusers_weights import pair, randomise  # noqa: E402

from minidiff.ddpm.presets import DDPM_PRESETS  # noqa: E402
from minidiff.networks.unet import UNet  # noqa: E402
from minidiff.records import to_json  # noqa: E402

SIX_LEVELS: dict[str, Any] = {"channels": (128, 128, 256, 256, 512, 512), "attention": (False,) * 4 + (True, False)}
CONFIGS: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "celebahq": SIX_LEVELS | {"image_size": 256},
    "lab": SIX_LEVELS | {"image_size": 64, "head_dim": 8, "norm_eps": 1e-5, "downsample_padding": 1,
                         "flip_sin_to_cos": True, "freq_shift": 0},
    "cpu": to_json(DDPM_PRESETS["cpu"].network),
}  # fmt: skip
DECAY = 0.9999
HAVE_DIFFUSERS = find_spec("diffusers") is not None


@dataclass(frozen=True)
class Settings:
    """One line of the table. The first is what the others are held against."""

    name: str
    ours: bool
    precision: str = "fp32"
    channels_last: bool = False
    compile: str | None = None  # a mode of torch.compile
    quick_update: bool = False  # fused AdamW, foreach EMA
    tf32: bool = True  # torch's own default for convolutions on a GPU


def contenders(device: str, precision: str, everything: bool) -> list[Settings]:
    """What is run on this device."""
    plain = Settings("diffusers, as it comes", ours=False)
    if not HAVE_DIFFUSERS:
        plain = Settings("minidiff, plain (eager, contiguous, AdamW loop): diffusers is not installed", ours=True)
    eager = Settings(f"minidiff, {precision}", True, precision, channels_last=True, quick_update=True)
    if device == "cpu" and not everything:
        return [plain, eager]
    compiled = replace(eager, name=f"{eager.name}, compiled", compile="default")
    theirs = replace(compiled, name=f"diffusers, {precision}, channels_last, compiled", ours=False)
    return [
        plain,
        replace(plain, name=f"{plain.name}, TF32 off", tf32=False),
        *([theirs] if HAVE_DIFFUSERS else []),
        eager,
        compiled,
        replace(eager, name=f"{eager.name}, compiled, CUDA graphs", compile="reduce-overhead"),
    ]


class Contender:
    """A network with its optimizer and its EMA, ready to take a step."""

    def __init__(self, settings: Settings, network: nn.Module, x: Tensor, t: Tensor, noise: Tensor) -> None:
        self.settings, device = settings, x.device
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.network = copy.deepcopy(network).to(device).to(memory_format=layout)
        self.x, self.t, self.noise = x.contiguous(memory_format=layout), t, noise.contiguous(memory_format=layout)
        self.parameters = list(self.network.parameters())
        self.forward = torch.compile(self.network, mode=settings.compile) if settings.compile else self.network
        fused = True if settings.quick_update else None  # None: torch's default
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=fused)
        self.average_weights = ema_update("foreach" if settings.quick_update else "diffusers", self.parameters)

    def predict(self) -> Tensor:
        """The network's output, whichever network it is."""
        output = self.forward(self.x, self.t)
        return output if isinstance(output, Tensor) else output.sample

    def autocast(self) -> Any:
        """bf16 where asked for."""
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.x.device.type, dtype=torch.bfloat16)

    def train_step(self) -> None:
        """Forward, loss, backward, AdamW, EMA."""
        if self.settings.compile:
            torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            loss = F.mse_loss(self.predict().float(), self.noise)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average_weights()

    @torch.no_grad()
    def sample_step(self) -> None:
        """One call of the network, as a sampler makes it."""
        if self.settings.compile:
            torch.compiler.cudagraph_mark_step_begin()
        with self.autocast():
            self.predict()

    def timed(self, kind: str, repeats: int) -> float:
        """Seconds for one step."""
        self.network.train(kind == "train")
        torch.backends.cudnn.allow_tf32 = self.settings.tf32
        step = self.train_step if kind == "train" else self.sample_step
        return seconds(step, repeats, self.x.device)


def ema_update(kind: str, parameters: list[nn.Parameter]) -> Callable[[], None]:
    """A function that moves an average of the parameters towards them."""
    if kind == "diffusers" and HAVE_DIFFUSERS:
        from diffusers.training_utils import EMAModel

        average = EMAModel(parameters, decay=DECAY)
        return lambda: average.step(parameters)
    shadow = [parameter.detach().clone() for parameter in parameters]
    targets: list[Tensor] = list(parameters)

    @torch.no_grad()
    def one_by_one() -> None:
        for mean, parameter in zip(shadow, parameters, strict=True):
            mean.sub_((1 - DECAY) * (mean - parameter))

    @torch.no_grad()
    def together() -> None:
        torch._foreach_lerp_(shadow, targets, 1 - DECAY)

    return together if kind == "foreach" else one_by_one


def matmul_ceiling(device: torch.device, precision: str) -> float:
    """FLOP/s of a large square matrix product: what convolutions could reach at best."""
    side = 8192 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    seconds(lambda: a @ a, 2, device)
    return 2 * side**3 / min(seconds(lambda: a @ a, 5, device) for _ in range(5))


def peak_on_cpu(contender: Contender, before: int | None) -> int | None:
    """Most memory the network, its optimizer, EMA and two training steps took, over what was there before it."""
    contender.timed("train", 2)
    peak = resident("VmHWM")
    return None if before is None or peak is None else peak - before


@click.command()
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--config", type=click.Choice(list(CONFIGS)), default="cifar10", show_default=True)
@click.option("--image-size", type=click.IntRange(min=1), help="Another size than the network's own.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Default: 16 on the CPU, 128 on a GPU.")
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True, help="Paired, shuffled rounds.")
@click.option("--repeats", type=click.IntRange(min=1), help="Steps timed together. Default: 1 on the CPU, 10 on a GPU.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Of ours. Default: fp32; on a GPU bf16.")
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
@click.option("--memory-of", type=int, hidden=True, help="Print the peak memory of one contender, in bytes.")
def main(device: str, config: str, image_size: int | None, batch_size: int | None, rounds: int, repeats: int | None,
         precision: str | None, threads: int | None, clock_name: str, everything: bool, seed: int, out: Path | None,
         memory_of: int | None) -> None:  # fmt: skip
    """Time our U-Net beside diffusers'."""
    common.clock = clock_name
    on_gpu = device.startswith("cuda")
    batch_size, repeats = batch_size or (128 if on_gpu else 16), repeats or (10 if on_gpu else 1)
    precision = precision or ("bf16" if on_gpu else "fp32")
    if threads:
        torch.set_num_threads(threads)
    random.seed(seed)
    arguments = CONFIGS[config] | ({"image_size": image_size} if image_size else {})
    before = resident("VmRSS")

    # One pair of networks with the same weights, and one batch, for everyone.
    if HAVE_DIFFUSERS:
        theirs, ours = pair(arguments, seed)
    else:
        ours = UNet(**arguments)
        randomise(ours, seed)
        theirs = ours
    size, generator = ours.config["image_size"], torch.Generator().manual_seed(seed)
    x = torch.randn(batch_size, 3, size, size, generator=generator).to(device)
    noise = torch.randn(batch_size, 3, size, size, generator=generator).to(device)
    t = torch.randint(1000, (batch_size,), generator=generator).to(device)
    settings = contenders("cuda" if on_gpu else "cpu", precision, everything)

    def build(chosen: Settings) -> Contender:
        return Contender(chosen, ours if chosen.ours else theirs, x, t, noise)

    if memory_of is not None:
        print(peak_on_cpu(build(settings[memory_of]), before) or "")
        return

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = theirs(x[:1].cpu(), t[:1].cpu())
    expected = expected if isinstance(expected, Tensor) else expected.sample
    forward_flops = counter.get_total_flops()  # the architecture's: ours spares some, and gets no credit twice
    with torch.no_grad():
        difference = (ours(x[:1].cpu(), t[:1].cpu()) - expected).abs().max().item()

    racers: dict[str, Contender] = {}
    peaks: dict[str, int | None] = {}
    for chosen in settings:
        allocated = torch.cuda.memory_allocated() if on_gpu else 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        racers[chosen.name] = racer = build(chosen)
        for kind in ("train", "sample"):
            racer.timed(kind, 3 if on_gpu or chosen.compile else 1)  # warm up, compile
        peaks[chosen.name] = torch.cuda.max_memory_allocated() - allocated if on_gpu else None

    times = {
        kind: rounds_of({name: partial(racer.timed, kind, repeats) for name, racer in racers.items()}, rounds)
        for kind in ("train", "sample")
    }
    updates = update_times(ours, torch.device(device), max(rounds, 5), repeats)
    ceilings = {p: matmul_ceiling(torch.device(device), p) for p in {s.precision for s in settings}}
    racers.clear()
    if not on_gpu:  # the peak of a process can be asked, not of a part of it: one process for each
        for i, chosen in enumerate(settings):
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", str(i)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            peaks[chosen.name] = int(answer) if answer else None

    heading = [
        f"## {config}, {size}x{size}, batch {batch_size}: {machine(device)}, {datetime.date.today()}",
        "",
        f"`python benchmarks/unet_speed.py {' '.join(sys.argv[1:])}`".replace(" `", "`") + f": {rounds} rounds, "
        f"{torch.get_num_threads()} CPU threads, {clock_name} clock, {versions('diffusers')}. "
        f"{sum(p.numel() for p in ours.parameters()):,} parameters, {forward_flops / 1e9:.1f} GFLOP an image "
        f"forward (a training step counted as three times that). "
        f"Largest difference of the two networks' outputs: {difference:.1e}.",
    ]
    images = {kind: {n: batch_size / statistics.median(s) for n, s in times[kind].items()} for kind in times}
    table = "\n".join([*heading, "", *step_table(settings, times, images, peaks, forward_flops, ceilings), "",
                       *update_table(updates)]) + "\n"  # fmt: skip
    print(table)
    if out:
        out.write_text(table)


def step_table(settings: list[Settings], times: dict[str, Times], images: dict[str, dict[str, float]],
               peaks: dict[str, int | None], flops: float, ceilings: dict[str, float]) -> list[str]:  # fmt: skip
    """Training and sampling, a line for each contender; then the ceilings the last column is a share of."""
    lines = [
        "| | training step, ms | images/s | ratio (range) | sampling step, ms | images/s | ratio (range) "
        "| peak memory, GiB | of the matmul ceiling, training / sampling |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = settings[0].name
    for chosen in settings:
        name, ceiling = chosen.name, ceilings[chosen.precision]
        cells = [name]
        for kind in ("train", "sample"):
            mine = times[kind][name]
            cells += [f"{1e3 * statistics.median(mine):.1f}", f"{images[kind][name]:.2f}"]
            cells += [ratio(times[kind][base], mine)]
        shares = [3 * flops * images["train"][name] / ceiling, flops * images["sample"][name] / ceiling]
        lines.append("| " + " | ".join([*cells, gib(peaks[name]), f"{shares[0]:.0%} / {shares[1]:.0%}"]) + " |")
    measured = ", ".join(f"{precision} {ceiling / 1e12:.2f} TFLOP/s" for precision, ceiling in ceilings.items())
    return [*lines, "", f"Matmul ceilings measured: {measured}."]


def update_table(updates: list[Times]) -> list[str]:
    """Optimizer and EMA by themselves; each group against its first line."""
    lines = ["| one update of all parameters | ms | ratio (range) |", "| --- | --- | --- |"]
    for group in updates:
        first = next(iter(group.values()))
        lines += [f"| {n} | {1e3 * statistics.median(s):.1f} | {ratio(first, s)} |" for n, s in group.items()]
    return lines


def update_times(network: UNet, device: torch.device, rounds: int, repeats: int) -> list[Times]:
    """Times of AdamW and of the EMA by themselves, each in its ways."""
    parameters = [nn.Parameter(p.detach().clone().to(device)) for p in network.parameters()]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizers: dict[str, Callable[[], object]] = {
        "AdamW, loop": torch.optim.AdamW(parameters, lr=0.0, foreach=False).step,
        "AdamW, foreach": torch.optim.AdamW(parameters, lr=0.0, foreach=True).step,
        "AdamW, fused": torch.optim.AdamW(parameters, lr=0.0, fused=True).step,
    }
    averages: dict[str, Callable[[], object]] = {
        ("EMA, diffusers" if HAVE_DIFFUSERS else "EMA, loop"): ema_update("diffusers", parameters),
        "EMA, `torch._foreach_lerp_`": ema_update("foreach", parameters),
    }
    groups = []
    for steps in (optimizers, averages):
        for step in steps.values():
            seconds(step, 1, device)  # allocates the state
        groups.append(rounds_of({n: partial(seconds, s, repeats, device) for n, s in steps.items()}, rounds))
    return groups


if __name__ == "__main__":
    main()
