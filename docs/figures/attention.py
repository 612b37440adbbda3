"""What attention looks at, in a small U-Net that has learnt scenes: the pixels that one pixel asks. For docs/unet.md.

The network is trained here, on the embedded data set, with attention at 16x16. Hooks take the input of each `Attention`
and compute its weights, softmax(q k^T / sqrt(d)), which the network itself never holds as a matrix.

python docs/figures/attention.py            # writes docs/pictures/attention.png, five minutes of one CPU thread
"""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

import minidiff
from minidiff.data import shapes
from minidiff.images.convert import to_float, to_uint8
from minidiff.networks.unet import Attention
from minidiff.rng import Draws

OUT = Path(__file__).parents[1] / "pictures" / "attention.png"
SIZE, COARSE = 32, 16  # of the images, and of the level with attention
T = 300  # the timestep at which the network looks
# Test scenes, and the pixel of 32x32 that asks: row and column.
QUERIES = ((0, (22, 21)), (0, (4, 4)), (2, (10, 26)), (2, (18, 7)))
NAMES = {"down.2": "on the way down", "mid.0": "in the middle", "up.0": "on the way up, 1", "up.1": "on the way up, 2"}
FLOOR, EDGE = -1, -2  # in `solids_of`


def main(out: str | Path = OUT, steps: int = 500, scenes: int = 60) -> dict[str, dict[str, float]]:
    """Train, draw, and measure how much of the weight goes to what belongs together.

    Returns for every attention the mean share of a floor pixel's weight that goes to "floor", and of that of a pixel of
    a solid that goes to the "same" solid. Under "area" are the shares of the picture that these are.
    """
    network, schedule = train(steps), minidiff.Schedule.cosine()
    figure = Figure(figsize=(8.6, 6.2), dpi=100, layout="constrained")
    for row, (scene, (y, x)) in zip(figure.subplots(len(QUERIES), 6), QUERIES, strict=True):
        x_t = noisy(schedule, scene)
        maps = attention_maps(network, x_t, T)
        row[0].imshow(shapes.draw(scene, SIZE, split="test"))
        row[1].imshow(to_uint8(x_t.clamp(-1, 1))[0])
        for axes in row[:2]:
            axes.plot(x, y, "+", color="black", ms=13, mew=5)
            axes.plot(x, y, "+", color="white", ms=10, mew=2)
        for axes, weights in zip(row[2:], maps.values(), strict=True):
            axes.imshow(weights[y // 2, x // 2].numpy(), cmap="magma", vmin=0)
        for axes, name in zip(row, ["the scene", f"what is seen, t = {T}", *NAMES.values()], strict=True):
            if row[0].get_subplotspec().is_first_row():
                axes.set_title(name, fontsize=9)
            axes.set_xticks([], [])
            axes.set_yticks([], [])
    figure.savefig(out)
    return shares(network, schedule, scenes)


def train(steps: int) -> nn.Module:
    """Train a small unconditional DDPM on the embedded data set. Returns the network with averaged weights."""
    torch.manual_seed(0)  # the first weights
    network = minidiff.UNet(
        SIZE, channels=(32, 64), layers_per_block=1, attention=(False, True), norm_groups=8, scale_shift=True
    )
    schedule = minidiff.Schedule.cosine()

    def loss(model: nn.Module, x0: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        t, noise = draws.randint(schedule.T), draws.randn(*x0.shape[1:])
        return minidiff.diffusion_loss(model, schedule, x0, t, noise, kind="v").mean()

    config = minidiff.TrainConfig(steps=steps, batch_size=16, lr=2e-3, warmup=50, decay="cosine", ema_decay=0.98)
    trainer = minidiff.Trainer(network, loss, minidiff.load_data("shapes", image_size=SIZE), config)
    for record in trainer.steps():
        if record.step % 50 == 0:
            print(f"step {record.step} of {steps}, loss {record.loss.item():.4f}", flush=True)
    return trainer.ema


def noisy(schedule: minidiff.Schedule, scene: int) -> Tensor:
    """Give a test scene the noise of T: [1,3,32,32]."""
    x0 = to_float(shapes.draw(scene, SIZE, split="test")[None])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(scene))
    return minidiff.q_sample(schedule, x0, torch.tensor([T]), noise)


def attention_maps(network: nn.Module, x_t: Tensor, t: int) -> dict[str, Tensor]:
    """Give the weights of every attention of the network, [H,W,H,W]: of each pixel, over the pixels that it asks.

    x_t: [1,C,H',W']. Every attention must have one head.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str, layer: Attention, x: Tensor) -> None:
        height, width = x.shape[2:]
        h = layer.norm(x).permute(0, 2, 3, 1).reshape(height * width, -1)
        scores = layer.query(h) @ layer.key(h).T / math.sqrt(h.shape[1])
        maps[name] = scores.softmax(dim=1).reshape(height, width, height, width)

    hooks = [
        module.register_forward_pre_hook(lambda layer, given, name=name: keep(name, layer, given[0]))
        for name, module in network.named_modules()
        if isinstance(module, Attention)
    ]
    with torch.no_grad():
        network(x_t, torch.tensor([t]))
    for hook in hooks:
        hook.remove()
    return maps


def solids_of(scene: int) -> NDArray[np.int64]:
    """Say what each pixel of the coarse level shows, [16,16]: the number of a solid, FLOOR, or EDGE for both."""
    generator = shapes.stream(scene, 0, "test")
    sheet = np.full((3 * SIZE, 3 * SIZE), FLOOR)
    for number, (solid, _, window, _) in enumerate(
        shapes.lay_out(shapes.draw_labels("test", generator), SIZE, generator)
    ):
        sheet[window][solid.clear.reshape(solid.clear.shape[:2]) < 0.5] = number
    fine = sheet[SIZE : 2 * SIZE, SIZE : 2 * SIZE].reshape(COARSE, 2, COARSE, 2)
    low, high = fine.min(axis=(1, 3)), fine.max(axis=(1, 3))
    return np.where(low == high, low, EDGE)


def shares(network: nn.Module, schedule: minidiff.Schedule, scenes: int) -> dict[str, dict[str, float]]:
    """Measure where the weights go, see `main`: a mean over all the pixels of that kind in the first test scenes."""
    found: dict[str, dict[str, list[float]]] = {}
    for scene in range(scenes):
        shown = solids_of(scene)
        for name, weights in {"area": None, **attention_maps(network, noisy(schedule, scene), T)}.items():
            kinds = found.setdefault(name, {"floor": [], "same": []})
            for number in range(FLOOR, shown.max() + 1):
                own = torch.from_numpy(shown == number)
                share = own.float().mean() if weights is None else weights[own][:, own].sum(dim=1)
                kinds["floor" if number == FLOOR else "same"] += share.expand(int(own.sum())).tolist()
    return {name: {kind: float(np.mean(values)) for kind, values in kinds.items()} for name, kinds in found.items()}


if __name__ == "__main__":
    for name, kinds in main().items():
        print(name, *(f"{kind} {share:.2f}" for kind, share in kinds.items()))
