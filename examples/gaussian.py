"""Run a reverse chain whose answer is known: Gaussian data has an exact denoiser, so no network is needed.

For x0 ~ N(m, s^2), x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps is Gaussian too. The best prediction of eps is
its conditional mean, which is one line below. Samples must have mean m and deviation s again, up to the error of finite
steps: a few percent of s at 1000 steps. ddpm loses the most, as its variance fixed_small is right for a single point.

    python examples/gaussian.py
"""

import torch
from torch import Tensor

import minidiff


def main(steps: int = 1000, mean: float = 0.3, deviation: float = 0.1) -> dict[str, tuple[float, float]]:
    """Draw 65,536 samples with each sampler, and print their mean and deviation beside the data's."""
    schedule = minidiff.Schedule.linear()

    def exact_eps(x_t: Tensor, t: Tensor) -> Tensor:
        """E[eps | x_t] for x0 ~ N(mean, deviation^2)."""
        alpha_bar = schedule.alphas_cumprod[t].view(-1, 1, 1, 1).to(x_t)
        variance = alpha_bar * deviation**2 + (1 - alpha_bar)  # of x_t
        return (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * mean) / variance

    found = {}
    for name, sampler in minidiff.SAMPLERS.items():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(16, 1, 64, 64, generator=generator)
        for step in sampler(exact_eps, schedule, x, steps=steps, generator=generator):
            x = step.x
        found[name] = (x.mean().item(), x.std().item())
        print(f"{name:8} mean {found[name][0]:.4f} of {mean}, deviation {found[name][1]:.4f} of {deviation}")
    return found


if __name__ == "__main__":
    main()
