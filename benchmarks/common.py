"""What the benchmarks share: a clock, rounds in shuffled order, ratios within a round, and names of the machine."""

import math
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

Times = dict[str, list[float]]  # seconds of each contender, round by round

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = "wall"  # a script sets it once


def seconds(step: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Measure one call in seconds, by the chosen clock. The GPU's queue is emptied before and after."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    wait()
    start = CLOCKS[clock]()
    for _ in range(repeats):
        step()
    wait()
    return (CLOCKS[clock]() - start) / repeats


def rounds_of(steps: dict[str, Callable[[], float]], rounds: int) -> Times:
    """Run every step once a round, in an order drawn anew each round, and return the times of each."""
    times: Times = {name: [] for name in steps}
    for _ in range(rounds):
        for name in random.sample(list(steps), len(steps)):
            times[name].append(steps[name]())
    return times


def take_turns(step: Callable[[], object], turn: float, device: torch.device, before: int | None) -> None:
    """Be a contender. For each line of standard input, repeat the step for `turn` seconds.

    Prints the seconds of one step, and the peak memory in bytes beyond `before`.
    """
    repeats = max(1, math.ceil(turn / seconds(step, 1, device)))
    for _ in sys.stdin:
        time = seconds(step, repeats, device)
        on_cpu = (resident("VmHWM") or 0) - (before or 0)
        print(time, torch.cuda.max_memory_allocated() if device.type == "cuda" else on_cpu, flush=True)


class Racer:
    """Run a contender in a process of its own: this script, started again with more words, to `take_turns`."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, *sys.argv, *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak: int | None = None

    def turn(self) -> float:
        """Give the contender its turn and return the seconds of a step. Exits if the contender has died."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if not answer:
            sys.exit(f"a contender ended with code {self.process.wait()}: {' '.join(self.process.args[-2:])}")  # type: ignore[index]
        self.peak = int(answer[1]) or None
        return float(answer[0])

    def close(self) -> None:
        """Let the contender end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def ratio(base: list[float], other: list[float]) -> str:
    """Say how many times faster than the base it is: the median of the rounds' ratios, the least and the greatest."""
    ratios = [a / b for a, b in zip(base, other, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def resident(field: str) -> int | None:
    """Read how many bytes this process holds (VmRSS) or has held at most (VmHWM). None where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)


def gib(amount: int | None) -> str:
    """Write a number of bytes in GiB."""
    return "-" if amount is None else f"{amount / 2**30:.2f}"


def machine(device: str) -> str:
    """Name the GPU, or the processor and how many there are."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    names = processors()
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def processor() -> str:
    """Name the processor."""
    return (processors() or [platform.processor()])[0]


def processors() -> list[str]:
    """Read the names of the processors. Empty where there is no /proc."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]


def versions(*packages: str) -> str:
    """Name the versions of Python, torch, and whichever of the packages are installed."""
    found = ["torch", *filter(find_spec, packages)]
    return f"Python {platform.python_version()}, " + ", ".join(f"{package} {version(package)}" for package in found)
