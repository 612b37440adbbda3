"""Fit a deep image prior to a noisy picture, and see how well its early stop chose: what `minidiff dip fit` does.

python examples/dip.py            # two minutes on a CPU; writes dip.png: clean, noisy, the answer, the last output
"""

from pathlib import Path

import numpy as np
import torch

import minidiff
from minidiff.data.shapes import draw
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import grid


def main(steps: int = 2500, sigma: float = 25, out: str | Path = "dip.png") -> dict[str, float]:
    """Fit a drawn scene with noise of `sigma` of 255. Returns the PSNR of the noisy picture, the answer, the last."""
    clean = draw(3, size=64)
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noisy = (to_float(clean[None]) + sigma / 127.5 * noise).clamp(-1, 1)

    torch.manual_seed(0)  # the network's first weights
    net = minidiff.DIP_NETS["hourglass"](scales=4, channels=32)
    stopper = minidiff.WindowVariance(window=100, patience=1000)
    last = noisy
    for step in minidiff.fit(net, noisy, minidiff.FitConfig(steps=steps)):
        last = step.averaged
        _, stop = stopper.update(step.output, answer=step.averaged)
        if step.step % 100 == 0:
            print(f"step {step.step}, loss {step.loss.item():.4f}, best so far {stopper.best_step}")
        if stop:
            break
    best = last if stopper.best is None else stopper.best  # no statistic in fewer steps than the window

    pictures = {"noisy": noisy, "answer": best, "last": last}
    found = {name: minidiff.psnr(to_uint8(picture)[0], clean) for name, picture in pictures.items()}
    for name, value in found.items():
        print(f"{name:8} {value:.2f} dB")
    write_image(out, grid(np.concatenate([clean[None], *map(to_uint8, pictures.values())]), columns=4))
    return found


if __name__ == "__main__":
    main()
