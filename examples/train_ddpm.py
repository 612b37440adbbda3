"""A DDPM from data to pictures with minidiff's public names: what `minidiff train ddpm` does, without a run folder.

python examples/train_ddpm.py            # a few minutes on a CPU; writes ddpm.png
"""

from pathlib import Path

import torch
from torch import Tensor, nn

import minidiff
from minidiff.images.convert import to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import grid
from minidiff.rng import Draws


def main(steps: int = 700, images: int = 36, out: str | Path = "ddpm.png") -> Tensor:
    """Train on the embedded data set, and write samples as a grid. Returns them, float [images,3,32,32] in [-1,1]."""
    data = minidiff.load_data("shapes", image_size=32)
    schedule = minidiff.Schedule.cosine()
    network = minidiff.UNet(
        32, channels=(32, 64, 96), layers_per_block=1, attention=(False, False, True), norm_groups=8, scale_shift=True
    )

    def loss(model: nn.Module, x0: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        t = draws.randint(schedule.T)
        noise = draws.randn(*x0.shape[1:])
        return minidiff.diffusion_loss(model, schedule, x0, t, noise, kind="v").mean()

    config = minidiff.TrainConfig(steps=steps, batch_size=32, lr=1e-3, warmup=100, decay="cosine", ema_decay=0.995)
    trainer = minidiff.Trainer(network, loss, data, config)
    for record in trainer.steps():
        if record.step % 20 == 0 or record.step == steps:
            print(f"step {record.step} of {steps}, loss {record.loss.item():.4f}")

    x = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for step in minidiff.SAMPLERS["ddim"](trainer.ema, schedule, x, steps=50, prediction="v"):
        x = step.x
    write_image(out, grid(to_uint8(x)))
    return x


if __name__ == "__main__":
    main()
