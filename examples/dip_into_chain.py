"""A deep image prior's output as the start of a reverse chain: where may it enter? `minidiff sample --start-t --init`.

A network that has learnt nothing is fitted to a noisy photograph, and gives back a smooth one. A DDPM of photographs
should put the detail back. If its chain begins too high, with new noise, it draws another picture. If the noisy
photograph itself enters, at the timestep whose noise it has, nothing has to be fitted; on a picture as small as this
one a quarter of the fit in it still helps.

    python examples/dip_into_chain.py        # a minute or two on a CPU, needs scikit-image; writes dip_into_chain.png
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from torch import Tensor

import minidiff
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import crop_resize, write_image
from minidiff.images.grid import captioned


def main(
    steps: int = 500, size: int = 96, sigma: float = 25, out: str | Path = "dip_into_chain.png"
) -> dict[str, float]:
    """Fit, then start chains in four ways. Returns the PSNR in dB of what goes in and of what comes out."""
    clean = crop_resize(skimage.data.chelsea(), size)
    noise = np.random.default_rng(0).normal(0, sigma, clean.shape)
    noisy = to_float(np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)[None])

    torch.manual_seed(0)  # the network's first weights
    net = minidiff.DIP_NETS["hourglass"](scales=4, channels=32)
    *_, last = minidiff.fit(net, noisy, minidiff.FitConfig(steps=steps))
    fitted = last.averaged  # of the outputs: better than any single one

    run = minidiff.load("photos")

    def chain(x: Tensor, t: int) -> Tensor:
        """Walk down from x, float [1,3,H,W] at the noise of timestep t, in at most 20 calls."""
        with torch.no_grad():
            *_, end = minidiff.SAMPLERS["ddim"](run.model, run.schedule, x, steps=min(20, t + 1), start_t=t)
        return end.x.clamp(-1, 1)

    def noised(t: int) -> Tensor:
        """Add the noise of t to the fit, as the forward process does."""
        fresh = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(1))
        return minidiff.q_sample(run.schedule, fitted, torch.tensor([t]), fresh)

    own = minidiff.start_from(run.schedule, noisy)  # the noise of the photograph, and the timestep that has as much
    mixed = own.x + 0.25 * run.schedule.alphas_cumprod[own.t].sqrt().float() * (fitted - noisy)
    pictures = {
        "clean": to_float(clean[None]),
        "noisy": noisy,
        f"the fit,\n{steps} steps": fitted,
        "the fit, with\nnew noise, from\nt = 249": chain(noised(249), 249),
        "the same\nfrom t = 100": chain(noised(100), 100),
        f"a quarter of\nthe fit, from\nt = {own.t}": chain(mixed, own.t),
        f"noisy, no fit,\nfrom t = {own.t}": chain(own.x, own.t),
    }
    found = {name.replace("\n", " "): minidiff.psnr(to_uint8(each)[0], clean) for name, each in pictures.items()}
    for name, value in found.items():
        print(f"{name:45} {value:.2f} dB")
    captions = [f"{name}\n{value:.1f} dB" for name, value in zip(pictures, found.values(), strict=True)]
    write_image(out, captioned(np.concatenate([to_uint8(each) for each in pictures.values()]), captions, len(captions)))
    return found


if __name__ == "__main__":
    main()
