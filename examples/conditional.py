"""Scenes to order: a network learns what its pictures show, and guidance leads it to what it is asked for.

python examples/conditional.py           # a quarter of an hour on a CPU; writes conditional.png
"""

from pathlib import Path

import torch
from torch import Tensor, nn

import minidiff
from minidiff.data.conditions import multi_hot, parse_condition
from minidiff.diffusion.guidance import guided
from minidiff.images.convert import to_uint8
from minidiff.images.files import write_image
from minidiff.images.grid import captioned
from minidiff.rng import Draws

ORDERS = ["blue cube", "red sphere, green cylinder", "yellow cube, cyan sphere, purple cylinder"]


def main(steps: int = 2500, each: int = 4, out: str | Path = "conditional.png") -> Tensor:
    """Train on the embedded data set, and draw `each` pictures of every order: float [3*each,3,32,32]."""
    data = minidiff.load_data("shapes", image_size=32)
    schedule = minidiff.Schedule.cosine()
    network = minidiff.UNet(
        32,
        channels=(32, 64, 96),
        layers_per_block=1,
        attention=(False, False, True),
        norm_groups=8,
        scale_shift=True,
        label_dim=24,
    )

    def loss(model: nn.Module, x0: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        t, noise = draws.randint(schedule.T), draws.randn(*x0.shape[1:])
        keep = draws.rand() >= 0.1  # the labels of one image in ten are left out

        def told(x: Tensor, t: Tensor) -> Tensor:
            return model(x, t, labels, keep)

        return minidiff.diffusion_loss(told, schedule, x0, t, noise, kind="v").mean()

    config = minidiff.TrainConfig(steps=steps, batch_size=32, lr=1e-3, warmup=100, decay="cosine", ema_decay=0.995)
    trainer = minidiff.Trainer(network, loss, data, config)
    for record in trainer.steps():
        if record.step % 50 == 0 or record.step == steps:
            print(f"step {record.step} of {steps}, loss {record.loss.item():.4f}")

    conditions = [parse_condition(order, data.label_names) for order in ORDERS for _ in range(each)]
    model = guided(trainer.ema, multi_hot(conditions, 24), guidance_scale=2.0)
    x = torch.randn(len(conditions), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for step in minidiff.SAMPLERS["dpm++"](model, schedule, x, steps=20, prediction="v"):
        x = step.x
    captions = [order.replace(", ", "\n") for order in ORDERS for _ in range(each)]
    write_image(out, captioned(to_uint8(x), captions, columns=each))
    return x


if __name__ == "__main__":
    main()
