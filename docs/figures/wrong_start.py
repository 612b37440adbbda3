"""Why the wrong start scrambles: one noisy photograph, read as x_t of several t. For docs/systems/dip-then-ddpm.md.

In the upper row the picture enters as it is, scaled by sqrt(alpha_bar_t), and the model is told t. In the lower row the
noise of t is added first, as to a clean picture. The right t is where the picture's own noise belongs.

python docs/figures/wrong_start.py            # writes docs/pictures/wrong-start.jpg, half a minute on a CPU
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch

import minidiff
from minidiff.ddpm.inits import INIT_MODES
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import crop_resize, write_image
from minidiff.images.grid import table

OUT = Path(__file__).parents[1] / "pictures" / "wrong-start.jpg"
STARTS = (10, 54, 100, 150, 249)  # 54 has a noise of 25 of 255; the model knows no t above 249
SIGMA = 25
MODES = {"scale": "told t", "noise": "noise of t\nadded"}


def main(out: str | Path = OUT, size: int = 128, calls: int = 8) -> dict[str, list[float]]:
    """Draw the picture and the answers. Returns the PSNR of the answers in dB, for each way and each start."""
    clean = crop_resize(skimage.data.astronaut(), size)
    noise = np.random.default_rng(0).normal(0, SIGMA, clean.shape)
    noisy = np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)
    run, picture = minidiff.load("photos"), to_float(noisy[None])
    images, captions, found = [], [], {}
    for mode in MODES:
        found[mode] = []
        images.append(noisy)
        captions.append([f"it has {minidiff.psnr(noisy, clean):.1f} dB"])
        for t in STARTS:
            fresh = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
            x = INIT_MODES[mode](run.schedule, picture, torch.tensor([t]), fresh)
            with torch.no_grad():
                *_, last = minidiff.SAMPLERS["ddim"](run.model, run.schedule, x, steps=min(calls, t + 1), start_t=t)
            images.append(to_uint8(last.x.clamp(-1, 1))[0])
            found[mode].append(minidiff.psnr(images[-1], clean))
            captions[-1].append(f"t = {t}: {found[mode][-1]:.1f} dB")
    write_image(out, table(np.stack(images), captions, list(MODES.values())))
    return found


if __name__ == "__main__":
    print(main())
