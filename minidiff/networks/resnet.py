"""ResNet-18 for small images: what tells the labels of a picture, and, one layer below, what makes pictures alike.

Rests on torch alone. He et al. 2016 (deep residual learning), table 1 and figure 5, with the stem of section 4.2 for
32x32 images. The names of the parameters are torchvision's, so its weights fit but for the stem.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.errors import UserError
from minidiff.rng import Draws
from minidiff.runs import folder as checkpoint


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is carried past and added: [n,in,H,W] -> [n,out,H/stride,W/stride].

    Where the shape changes the input goes through a 1x1 convolution first (option B of the paper).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.downsample(x))


class ResNet18(nn.Module):
    """Four stages of two blocks at width, 2, 4 and 8 times that, each from the second on at half the size.

    The stem is one 3x3 convolution, with no max-pool: the 7x7 of stride 2 of the paper would leave 32x32 images 8x8.
    classes: outputs, of any meaning. channels: 1 or 3, of the images. width: of the first stage; 64 in the paper.
    """

    def __init__(self, classes: int, channels: int, width: int = 64) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"classes": classes, "channels": channels, "width": width}
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1))
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # He et al. 2015, eq. 14

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees of x [n,channels,H,W]: the last stage, averaged over the picture, [n,8*width]."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return h.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """x [n,channels,H,W] in [-1,1] -> logits [n,classes]."""
        return self.fc(self.features(x))


# --- what it learns -------------------------------------------------------------------------------------------------


def shifted(x: Tensor, most: int, draws: Draws) -> Tensor:
    """Each image moved by its own 0 to `most` pixels up or down, and left or right; the border is repeated.

    x [n,C,H,W] -> [n,C,H,W].
    """
    n, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) + (draws.randint(2 * most + 1) - most)[:, None]  # [n,H]
    columns = torch.arange(width, device=x.device) + (draws.randint(2 * most + 1) - most)[:, None]  # [n,W]
    rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    return x[torch.arange(n, device=x.device)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def classifier_loss(one_hot: bool, shift: int) -> Callable[[nn.Module, Tensor, Tensor, Draws], Tensor]:
    """The closure that `Trainer` calls: cross entropy of the logits.

    one_hot: whether an image has exactly one label, and the outputs compete for it; else each output says yes or no for
    itself. shift: of the augmentation, in pixels.
    """

    def loss(model: nn.Module, x: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        logits = model(shifted(x, shift, draws) if shift else x).float()
        if one_hot:
            return F.cross_entropy(logits, labels.argmax(dim=1))
        return F.binary_cross_entropy_with_logits(logits, labels)

    return loss


def highest(logits: Tensor, labels: Tensor) -> Tensor:
    """Which outputs are among the k highest, of an image with k labels: bool, of the shape of both, [...,L]."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)  # of each output, from 0 for the highest
    return rank < labels.bool().sum(dim=-1, keepdim=True)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Of an image with k labels, the share of them among the k highest outputs; the mean over the images that have any.

    With one label each this is the usual accuracy. logits: float [n,L]; labels: zeros and ones [n,L].
    """
    labels = labels.bool()
    k = labels.sum(dim=1)
    right = (highest(logits, labels) & labels).sum(dim=1).double()
    return (right / k)[k > 0].mean().item()


def exact(logits: Tensor, labels: Tensor) -> float:
    """The share of images of which every label is told rightly, by the sign of its output. Shapes as in `accuracy`."""
    return ((logits > 0) == labels.bool()).all(dim=1).double().mean().item()


# --- a trained one --------------------------------------------------------------------------------------------------


def load(folder: str | Path, device: str | torch.device = "cpu") -> tuple[dict[str, Any], ResNet18, str]:
    """A classifier's run folder: its config, its network (EMA weights, eval mode), the SHA-256 of its weights' file.

    Raises UserError when the folder is no classifier run, has no weights yet, or has some that do not fit exactly.
    """
    folder = Path(folder).expanduser()
    config = checkpoint.read_config(folder, kind="classifier")
    try:
        model = ResNet18(**config["network"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a classifier run has ({error}).") from None
    path = folder / checkpoint.MODEL
    checkpoint.load_exactly(model, checkpoint.read_tensors(path), path)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return config, model, hashlib.sha256(path.read_bytes()).hexdigest()
