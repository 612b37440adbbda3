"""Feature networks: what turns an image into the features that a distance is measured in.

Rests on resizing and inception_weights (Inception), and on classifier (another network in its place).
Heusel et al. 2017.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.classifier.knowledge import Knowledge
from minidiff.classifier.run import load_classifier
from minidiff.errors import UserError, lookup
from minidiff.images.convert import Pixels, to_float
from minidiff.metrics import inception_weights
from minidiff.metrics.config import FeatureIdentity
from minidiff.metrics.inception_weights import load_inception
from minidiff.metrics.resizing import MODES, interpolate, network_input, stacked
from minidiff.networks.inception import DIMS
from minidiff.runs.shipped import is_name
from minidiff.runtime import distributed
from minidiff.runtime.precision import full_precision


@dataclass(frozen=True)
class FeatureNetwork:
    """Turns images into features, and says which network does it and how.

    compute: takes images, uint8 [n,H,W,3] or a list of uint8 [H,W,3] of any sizes. Returns features float32 [n,dims]
    and logits float32 [n,classes], both on the CPU; None for logits that the network does not have.
    """

    name: str  # inception or classifier
    mode: str  # how images are resized and scaled: a name of MODES, or `classifier`
    dims: int  # features of an image
    source: str  # the file or run folder of the weights
    sha256: str  # of the file with the weights
    published: bool  # whether published figures are measured with these weights
    compute: Callable[[Pixels | Sequence[Pixels]], tuple[Tensor, Tensor | None]]
    knowledge: Knowledge | None = None  # of a classifier

    @property
    def identity(self) -> FeatureIdentity:
        """Return what features must have in common to be compared."""
        return FeatureIdentity(self.name, self.mode, self.dims, self.sha256)


# --- Inception ----------------------------------------------------------------------------------------------------


def inception_features(
    dims: int = 2048, mode: str = "pytorch-fid", weights: Path | None = None, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Return FID's network as a feature network.

    dims: 64, 192, 768 or 2048, where it is cut off. mode: a name of MODES. weights: a file that fits exactly; None: the
    published weights, found or downloaded. At 2048 features there are logits, too, without the bias of the last layer,
    as the Inception Score takes them. Raise UserError.
    """
    lookup("mode", mode, MODES)
    if dims not in DIMS:
        raise UserError(
            f"`dims` is {dims}, and no layer of Inception has {dims} features. Choose from {', '.join(map(str, DIMS))}."
        )
    network, path, sha256 = load_inception(weights)
    network.to(device)
    resizing = "cpu" if torch.device(device).type == "mps" else device  # Apple's GPUs have no float64

    @torch.no_grad()
    def compute(images: Pixels | Sequence[Pixels]) -> tuple[Tensor, Tensor | None]:
        with full_precision():
            features = network(network_input(images, mode, resizing).to(device), dims)
            logits = network.logits(features, bias=False).cpu() if dims == 2048 else None
        return features.cpu(), logits

    published = sha256 == inception_weights.PUBLISHED_SHA256
    return FeatureNetwork("inception", mode, dims, str(path), sha256, published, compute)


# --- a classifier ------------------------------------------------------------------------------------------------


def classifier_features(folder: str | Path, device: torch.device | str = "cpu") -> FeatureNetwork:
    """Return a trained classifier as a feature network: the input of its last layer. Raise UserError.

    It is for images that are unlike ImageNet's photographs, such as digits.
    """
    run = load_classifier(folder, device)
    network, sha256, channels, size = run.model, run.sha256, run.config.data.channels, run.config.data.image_size

    @torch.no_grad()
    def compute(images: Pixels | Sequence[Pixels]) -> tuple[Tensor, Tensor | None]:
        with full_precision():
            features = network.features(as_trained(images, channels, size).to(device))
            return features.cpu(), network.fc(features).cpu()

    return FeatureNetwork(
        "classifier", "classifier", network.fc.in_features, str(folder), sha256, False, compute,
        run.knowledge,
    )  # fmt: skip


def as_trained(images: Pixels | Sequence[Pixels], channels: int, size: int) -> Tensor:
    """Bring images into the form of a classifier's training: float32 [n,channels,size,size] in [-1,1].

    images: uint8 [n,H,W,3], or a list of uint8 [H,W,3]. Colours become grey by the weights of ITU-R BT.601. Other sizes
    are resized, bicubic and antialiased; but 28x28 gets a black margin up to 32x32, as in the data sets like MNIST.
    """
    inputs = [torch.empty(0, channels, size, size)]  # under torchrun a process may have no image of the last batch
    sizes = {image.shape for image in images}

    def prepared(rows: Tensor) -> Tensor:
        x = to_float(rows.permute(0, 2, 3, 1))
        return x if channels == 3 else (x * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)

    for group in [images] if len(sizes) == 1 else [[image] for image in images]:
        same = torch.from_numpy(stacked(list(group))).permute(0, 3, 1, 2)
        if same.shape[2:] == (28, 28) and size == 32:
            inputs.append(F.pad(prepared(same), (2, 2, 2, 2), value=-1))
        elif same.shape[2:] == (size, size):
            inputs.append(prepared(same))
        else:
            inputs.append(interpolate(same, size, prepared, "bicubic", antialias=True).clamp_(-1, 1))
    return torch.cat(inputs).contiguous(memory_format=torch.channels_last)


def choose(
    name: str,
    *,
    weights: str | Path | None = None,
    dims: int | None = None,
    mode: str | None = None,
    device: torch.device | str = "cpu",
) -> FeatureNetwork:
    """Open a feature network: `inception`, with the options of `inception_features`, or a classifier.

    A classifier is a run folder, or the name of one that comes with the package, such as fashion-mnist.
    Under torchrun the main process goes first, so that the weights are downloaded once. Raise UserError.
    """
    if name != "inception":
        given = {"weights": weights, "dims": dims, "mode": mode}
        if wrong := next((option for option, value in given.items() if value is not None), None):
            raise UserError(f"`{wrong}` is for Inception, but `features` is {name}. Leave one of the two out.")
        if not is_name(name, classifier=True) and not Path(name).expanduser().exists():
            raise UserError(
                f"the features {name} are neither inception nor a run. `minidiff info` lists the runs, "
                "`minidiff models` the classifiers that come with minidiff."
            )
        return classifier_features(name, device)
    if weights is None:
        distributed.main_first(inception_weights.find_weights)
    return inception_features(dims or 2048, mode or "pytorch-fid", Path(weights) if weights else None, device)
