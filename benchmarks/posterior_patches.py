"""How near does a chain of chapter 6 come to the posterior where nothing is Gaussian? On patches of photographs.

python benchmarks/posterior_patches.py

The data is 6000 patches of 8x8 pixels from four photographs of scikit-image, each with a little noise (a mixture of
Gaussians): its denoiser and its posterior are sums over all patches. Two draws for each of 200 damaged patches are
judged by their energy score, which is least for draws from the true posterior (Gneiting & Raftery 2007), against draws
from it. Prints the table of docs/restoration.md. Two minutes.
"""

import math
import sys
from pathlib import Path

import skimage.data
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from gaussian_posterior import matrix_of  # noqa: E402

from minidiff.diffusion.levels import Level  # noqa: E402
from minidiff.diffusion.measurements import (  # noqa: E402
    Measurement,
    blur,
    first_guess,
    gaussian_kernel,
    mask,
    pooling,
)
from minidiff.diffusion.noise_level import timestep_for  # noqa: E402
from minidiff.diffusion.posterior import (  # noqa: E402
    POSTERIOR_PLAN,
    Evidence,
    guess_error,
    measured_doubt,
    posterior_rule,
)
from minidiff.diffusion.schedules import Schedule  # noqa: E402
from minidiff.images.convert import to_float  # noqa: E402
from minidiff.images.files import crop_resize  # noqa: E402

SIZE, PATCHES, DRAWS, WIDTH = 8, 6000, 200, 0.06  # WIDTH: the deviation of the noise that is part of the data
LINEAR = Schedule.linear()
CALLS = (1, 3, 10, 30)
RULES = {"zeta 1": (1.0, 1.0), "zeta 0.3": (0.3, 1.0), "zeta 0": (0.0, 1.0), "zeta 1, r times 0.5": (1.0, 0.5)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patches() -> Tensor:
    """Cut grey photographs of 128x128 into patches that overlap: float64 [PATCHES,64]."""
    photos = [crop_resize(getattr(skimage.data, name)(), 128) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    grey = torch.cat([to_float(photo[None].copy()) for photo in photos]).mean(1)
    cut = grey.unfold(1, SIZE, 2).unfold(2, SIZE, 2).reshape(-1, SIZE * SIZE).double()
    return cut[torch.randperm(len(cut), generator=seeded(0))[:PATCHES]]


class Mixture:
    """Data that is one of these patches plus noise of WIDTH."""

    def __init__(self, centres: Tensor) -> None:
        self.centres = centres

    def draw(self, rows: Tensor, seed: int) -> Tensor:
        noise = torch.randn(len(rows), SIZE**2, generator=seeded(seed)).double()
        return (self.centres[rows] + WIDTH * noise).view(-1, 1, SIZE, SIZE)

    def denoise(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Give E[x0 | x_t], and x itself in place of an eps that nobody asks for."""
        u, spread = x.flatten(1) / level.signal, WIDTH**2 + level.sigma**2
        share = ((u @ self.centres.T - self.centres.square().sum(1) / 2) / spread).softmax(1)
        return ((share @ self.centres * level.sigma**2 + u * WIDTH**2) / spread).view_as(x), x

    def posterior(self, measurement: Measurement, y: Tensor, sigma_y: float, seed: int) -> Tensor:
        """Draw x0 given y: a patch by its likelihood, then its noise as a Gaussian that is given y."""
        A = matrix_of(measurement.forward, SIZE)
        seen = A.abs().sum(1) > 0
        A, y = A[seen], y.flatten(1)[:, seen]
        precision = torch.linalg.inv(WIDTH**2 * A @ A.T + sigma_y**2 * torch.eye(len(A)))
        apart = y[:, None] - self.centres @ A.T
        share = (-((apart @ precision) * apart).sum(2) / 2).softmax(1)
        rows = torch.multinomial(share, 1, generator=seeded(seed))[:, 0]
        x = self.draw(rows, seed + 1).flatten(1)
        y = y + sigma_y * torch.randn(y.shape, generator=seeded(seed + 2)).double()
        return (x + WIDTH**2 * (y - x @ A.T) @ precision @ A).view(-1, 1, SIZE, SIZE)


def score(first: Tensor, second: Tensor, truth: Tensor) -> str:
    """Give the energy score of two draws, per image and times 100, and the PSNR of one."""

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).flatten(1).norm(dim=1)

    energy = (apart(first, truth) + apart(second, truth) - apart(first, second)).mean().item() / 2
    return f"{100 * energy:.0f}, {10 * math.log10(4 / (first - truth).square().mean().item()):.1f} dB"


def main() -> None:
    known = (torch.rand(SIZE, SIZE, generator=seeded(1)) < 0.5).double()
    hole = torch.ones(SIZE, SIZE).double()
    hole[2:6, 2:6] = 0
    tasks = {
        "half the pixels": (mask(known), 0.01),
        "a hole": (mask(hole), 0.01),
        "upscaling 2": (pooling(2), 0.01),
        "upscaling 4": (pooling(4), 0.01),
        "deblurring 1": (blur(gaussian_kernel(1.0), SIZE, SIZE), 0.02),
    }
    data = Mixture(patches())
    truth = data.draw(torch.randint(PATCHES, (DRAWS,), generator=seeded(2)), 3)
    levels = LINEAR.levels(range(0, 1000, 20))
    doubt = measured_doubt(
        [level.sigma for level in levels], [guess_error(data.denoise, truth, level, seeded(4)) for level in levels]
    )
    print(f"| | | {' | '.join(f'{calls} calls' for calls in CALLS)} |\n| --- | --- {'| --- ' * len(CALLS)}|")
    for task, (measurement, sigma_y) in tasks.items():
        y = measurement.forward(truth)
        y = y + sigma_y * torch.randn(y.shape, generator=seeded(5)).double()
        right = [data.posterior(measurement, y, sigma_y, seed) for seed in (6, 16)]
        print(f"| {task} | the posterior itself | | | | {score(*right, truth)} |")
        guess = first_guess(measurement, y, sigma_y)
        wrong = (guess - truth).square().mean((0, 1))
        start_t = timestep_for(LINEAR, 2 * math.sqrt(wrong[wrong > wrong.max() / 20].mean().item()))  # unknown pixels
        for rule, (zeta, times) in RULES.items():
            evidence = Evidence(measurement, y, sigma_y, lambda level, times=times: times * doubt(level))
            cells = []
            for calls in CALLS:
                levels, ends = POSTERIOR_PLAN.levels(LINEAR, calls, start_t), []
                for seed in (7, 8):
                    noise, first = seeded(seed), levels[0][0]
                    x = first.signal * guess + first.noise * torch.randn(guess.shape, generator=noise).double()
                    *_, last = posterior_rule(data.denoise, x, levels, noise, evidence, zeta)
                    ends.append(last.x)
                cells.append(score(*ends, truth))
            print(f"| {task}, t = {start_t} | {rule} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
