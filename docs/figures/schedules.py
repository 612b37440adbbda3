"""What a schedule does to a picture: the same noise at the same timesteps of three schedules. For docs/schedules.md.

python docs/figures/schedules.py            # writes docs/pictures/schedules.jpg, in seconds
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch

from minidiff import SCHEDULES, q_sample
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import crop_resize, write_image
from minidiff.images.grid import table

OUT = Path(__file__).parents[1] / "pictures" / "schedules.jpg"
TIMESTEPS = (0, 100, 250, 500, 750, 999)
NAMES = ("linear", "cosine", "scaled_linear")


def main(out: str | Path = OUT, size: int = 112) -> None:
    """Draw x_t of chelsea: a row for each schedule, a column for each timestep."""
    x0 = to_float(crop_resize(skimage.data.chelsea(), size)[None])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    noisy = [q_sample(SCHEDULES[name](), x0, torch.tensor([t]), noise) for name in NAMES for t in TIMESTEPS]
    images = np.concatenate([to_uint8(x.clamp(-1, 1)) for x in noisy])
    write_image(out, table(images, [[f"t = {t}" for t in TIMESTEPS]] * len(NAMES), NAMES))


if __name__ == "__main__":
    main()
