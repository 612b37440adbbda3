"""How near does a chain of chapter 6 come to the posterior? On images whose pixels are correlated as in photographs.

python benchmarks/posterior.py

Everything is linear algebra: a Gaussian field on a torus of 12x12 pixels, deviation 0.5, whose spectrum falls with
frequency^2. The denoiser is exact; what is not is the isotropic r. Prints the tables of docs/restoration.md. A minute.
"""

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from gaussian_posterior import Chain, Field, matrix_of  # noqa: E402

from minidiff.diffusion.levels import Levels  # noqa: E402
from minidiff.diffusion.measurements import blur, first_guess, gaussian_kernel, identity, mask, pooling  # noqa: E402
from minidiff.diffusion.noise_level import timestep_for  # noqa: E402
from minidiff.diffusion.posterior import POSTERIOR_PLAN  # noqa: E402
from minidiff.diffusion.schedules import Schedule  # noqa: E402

SIZE = 12
LINEAR = Schedule.linear()
TOP = 249  # sigma is 0.96
HALF = (torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0)) < 0.5).double()
HOLE = torch.ones(SIZE, SIZE).double()
HOLE[3:9, 3:9] = 0
TASKS = {
    "noise 0.2": (identity(), 0.2),
    "half the pixels": (mask(HALF), 0.01),
    "a hole": (mask(HOLE), 0.01),
    "upscaling 2": (pooling(2), 0.01),
    "upscaling 4": (pooling(4), 0.01),
    "deblurring 1.5": (blur(gaussian_kernel(1.5), SIZE, SIZE), 0.02),
}
RULES = {
    "mean, zeta 0": {"draw": False, "zeta": 0.0},
    "mean, zeta 1": {"draw": False, "zeta": 1.0},
    "draw, zeta 0": {"zeta": 0.0},
    "draw, zeta 0.3": {"zeta": 0.3},
    "draw, zeta 1": {"zeta": 1.0},
}


class Task(Chain):
    """A chain of one task, with its first guess as a matrix and the error of this guess."""

    def __init__(self, name: str) -> None:
        measurement, sigma_y = TASKS[name]
        super().__init__(Field(SIZE, 0.0, 0.5, falls=2.0), measurement, sigma_y)
        A = matrix_of(measurement.forward, SIZE)
        shape = measurement.forward(torch.zeros(1, 1, SIZE, SIZE).double()).shape
        answers = torch.eye(len(A)).double().view(-1, *shape[1:])
        steps = (self.prior[0, 0] - self.prior[0, 1]).mul(2).sqrt().item()  # the deviation between neighbours
        self.start = first_guess(measurement, answers, sigma_y, steps).flatten(1).T[:, A.abs().sum(1) > 0]
        self.plain = self.A.T / self.eigen[0].max()  # black holes, blocks, the blurred picture

    def error(self, guess: Tensor) -> float:
        """Give the root mean squared error of a guess at x0, a matrix that takes y."""
        wrong = guess @ self.A - torch.eye(SIZE**2)
        total = (wrong @ self.prior @ wrong.T).trace() + self.sigma_y**2 * guess.square().sum()
        return math.sqrt(total.item() / SIZE**2)

    def distance(self, end: tuple[Tensor, Tensor]) -> float:
        """Give the squared Wasserstein distance from the posterior, as a share of its variance."""
        bias, apart, _ = self.judge(*end)
        return bias + apart

    def loss(self, end: tuple[Tensor, Tensor], chains: int = 1) -> float:
        """Give how many dB the mean of some chains is worse than the best guess, the posterior's mean."""
        bias, _, variance = self.judge(*end)
        return 10 * math.log10(1 + bias + variance / chains)


def chain(steps: int, start_t: int | None = TOP, spacing: str | None = None) -> Levels:
    return POSTERIOR_PLAN.levels(LINEAR, steps, start_t, spacing)


def again(levels: Levels) -> Levels:
    """Visit every level twice but the last: noise of the same level is added to the first answer there (RePaint)."""
    return [pair for level, below in levels[:-1] for pair in ((level, level), (level, below))] + [levels[-1]]


Row = TypeVar("Row")


def table(title: str, rows: Iterable[Row], cell: Callable[[Task, Row], str], tasks: dict[str, Task]) -> None:
    """Print a table with a column for each task."""
    print(f"\n{title}\n\n| | {' | '.join(tasks)} |\n{'| --- ' * (len(tasks) + 1)}|")
    for row in rows:
        print(f"| {row} | {' | '.join(cell(task, row) for task in tasks.values())} |", flush=True)


def percent(*distances: float) -> str:
    return " / ".join(f"{100 * distance:.1f}" for distance in distances)


def main() -> None:
    tasks = {name: Task(name) for name in TASKS}

    def by_rule(task: Task, rule: str) -> str:
        ends = (task.run(chain(steps), start=task.start, **RULES[rule]) for steps in (5, 10, 20, 50))
        return percent(*map(task.distance, ends))

    def from_noise(task: Task, spacing: str) -> str:
        ends = (task.run(chain(steps, None, spacing)) for steps in (10, 20, 50, 200))
        return percent(*map(task.distance, ends))

    def by_start(task: Task, times: float, plain: bool = False) -> str:
        start = task.plain if plain else task.start
        levels = chain(10, timestep_for(LINEAR, times * task.error(start)))
        return percent(*(task.distance(task.run(levels, zeta, start=start)) for zeta in (1.0, 0.0)))

    def by_doubt(task: Task, times: float) -> str:
        end = task.run(chain(10), start=task.start, doubt=times)
        return f"{percent(task.distance(end))}, {task.loss(end):.1f} dB"

    def by_calls(task: Task, steps: int) -> str:
        levels = chain(steps, timestep_for(LINEAR, 2 * task.error(task.start)))
        end = task.run(levels, start=task.start)
        return " / ".join(f"{task.loss(end, chains):.1f}" for chains in (1, 4, 16))

    def by_visits(task: Task, calls: int) -> str:
        ends = (task.run(levels, start=task.start) for levels in (chain(calls), again(chain((calls + 1) // 2))))
        return percent(*map(task.distance, ends))

    print("Distance from the posterior in percent of its variance, unless another unit is named.")
    table("Error of the first guess / of a plain one / of the best", ["error"], lambda task, _: (
        f"{task.error(task.start):.2f} / {task.error(task.plain):.2f} / {task.error(task.gain):.2f}"
    ), tasks)  # fmt: skip
    table("5 / 10 / 20 / 50 calls from the first guess at t = 249", RULES, by_rule, tasks)
    table("10 / 20 / 50 / 200 calls from pure noise, zeta 1", ["karras", "logsnr", "trailing"], from_noise, tasks)
    table("10 calls from N times the error of the first guess, zeta 1 / 0", [0.5, 1, 2, 3, 4], by_start, tasks)
    table("The same from a plain guess", [0.5, 1, 2, 3, 4], lambda *row: by_start(*row, plain=True), tasks)
    table("10 calls from t = 249, r times N, and dB below the best guess", [0.1, 0.5, 0.7, 1, 1.4, 2], by_doubt, tasks)
    title = "N calls from twice the error: dB below the best guess, of one chain / of the mean of 4 / of 16"
    table(title, [1, 2, 3, 5, 10, 20], by_calls, tasks)
    table("N calls, every level once / every second level twice (RePaint)", [9, 19, 49], by_visits, tasks)


if __name__ == "__main__":
    main()
