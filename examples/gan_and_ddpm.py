"""A GAN beside a DDPM: the same data, the same number of samples, and one distance. What `minidiff compare` does.

A GAN draws a picture in one call of its generator, and learns quickly to draw sharp ones. A DDPM takes many calls, and
learns slowly, but it cannot collapse. Which is nearer to the data depends on how long each was trained, so the budget
stands beside the distance. As many real images are the floor: even they are not at 0.

    python examples/gan_and_ddpm.py          # minutes on a CPU; writes gan_and_ddpm.png and two run folders
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import minidiff
from minidiff.images.convert import to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import table
from minidiff.metrics.sources import ImageSource

STEPS = {"dcgan": 500, "ddpm": 150}  # a step of a DDPM is the dearer one


def in_memory(name: str, images: np.ndarray) -> ImageSource:
    """Let uint8 [N,H,W,C] be a side of a distance."""
    return ImageSource(name, len(images), "", lambda some: (images[k : k + some] for k in range(0, len(images), some)))


def main(
    steps: Mapping[str, int] = STEPS,
    dataset: str = "fashion-mnist",
    features: str = "fashion-mnist",
    num: int = 1000,
    out: str | Path = "gan_and_ddpm.png",
) -> dict[str, float]:
    """Train each kind, draw `num` samples of each, and return their distances to images that none has seen."""
    unseen = minidiff.load_data(dataset, image_size=32, split="test").images
    reference, real = in_memory("unseen", unseen[num:]), unseen[:num]
    pictures, captions, found = {"real": real}, [], {}
    for kind, count in steps.items():
        begun = time.monotonic()
        run = minidiff.train(kind, dataset=dataset, image_size=32, steps=count, seed=0)
        trained = time.monotonic()
        pictures[kind] = to_uint8(torch.cat(list(run.sample(num, seed=0))))
        print(f"{kind}: {count} steps in {trained - begun:.0f} s, {num} samples in {time.monotonic() - trained:.0f} s")
    for name, images in pictures.items():
        found[name] = minidiff.distance(in_memory(name, images), reference, features=features).values["fid"]
        captions.append(f"{name}\nFD {found[name]:.1f}")
        print(f"{name}: FD {found[name]:.2f}")
    sheet = np.concatenate([images[:10] for images in pictures.values()])
    write_image(out, table(sheet, [[""] * 10] * len(pictures), captions))
    return found


if __name__ == "__main__":
    main()
