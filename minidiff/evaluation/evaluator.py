"""The evaluator: a classifier that says which labels it sees in a picture, one of ours or the 2023 course lab's.

Rests on classifier (a run of our own), features (an image as that network was trained on it) and shapes (iCLEVR's
labels). He et al. 2016 (ResNet); El-Nouby et al. 2019 (iCLEVR).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minidiff.classifier.knowledge import Knowledge
from minidiff.classifier.run import load_classifier
from minidiff.data import shapes
from minidiff.errors import UserError, one_line
from minidiff.files import regular, sha256_of
from minidiff.images.convert import Pixels
from minidiff.metrics.features import as_trained
from minidiff.networks.weights import load_exactly, read_saved
from minidiff.runs.shipped import is_name
from minidiff.runtime.precision import full_precision

AT_ONCE = 200  # images to a batch
LAB_SIZE = 64  # pixels of an image as the lab's evaluator takes it, in [-1,1]


@dataclass(frozen=True)
class Evaluator:
    """A function from images to a number for each label, with its names and its image size.

    logits: takes uint8 [n,H,W,3] of any size, resizes them to the size the network was trained on, and gives
    float32 [n,L] on the CPU. Where an image can have several labels, a number above 0 is a yes.
    """

    names: list[str]  # of the L outputs
    one_hot: bool  # whether the outputs compete, as an image has exactly one label; else each says yes or no for itself
    size: int  # height and width of the network's input
    channels: int  # 1 or 3, of it
    source: str  # the run folder or file of the weights
    sha256: str  # of the file of the weights
    logits: Callable[[Pixels], Tensor]
    knowledge: Knowledge

    def columns(self, names: Sequence[str]) -> list[int]:
        """Find the output of each name. Raises UserError unless the classifier knows exactly these names."""
        for who, lacking in (
            ("the classifier", [name for name in names if name not in self.names]),
            ("the model", [name for name in self.names if name not in names]),
        ):
            if lacking:
                more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
                raise UserError(
                    f"{self.source} was trained on other labels: {who} does not know {', '.join(lacking[:3])}{more}. "
                    "Give a `classifier` of the same data set."
                )
        return [self.names.index(name) for name in names]


def open_evaluator(place: str | Path, device: torch.device | str = "cpu") -> Evaluator:
    """Open a classifier, by its run folder or by its name, or a file of the lab's own evaluator. Raises UserError."""
    path = Path(place).expanduser()
    if path.is_dir() or is_name(place, classifier=True):
        run = load_classifier(path if path.is_dir() else place, device)
        channels, size, one_hot = run.config.data.channels, run.config.data.image_size, run.config.labels.one_hot
        logits = asking(run.model, channels, size, device)
        return Evaluator(run.label_names, one_hot, size, channels, str(place), run.sha256, logits, run.knowledge)
    if not path.exists():
        raise UserError(
            f"{place}: no such classifier. Give a run folder, the name of a model (`minidiff models`), "
            "or a file of the lab's evaluator."
        )
    lab = load_lab(path).to(device)
    logits = asking(lab, 3, LAB_SIZE, device)
    knowledge = Knowledge("iclevr")  # its file does not say how well
    return Evaluator(list(shapes.NAMES), False, LAB_SIZE, 3, str(place), sha256_of(path), logits, knowledge)


def asking(network: nn.Module, channels: int, size: int, device: torch.device | str) -> Callable[[Pixels], Tensor]:
    """Make the function `Evaluator.logits` of a network in eval mode: a batch at a time, in full precision."""

    @torch.no_grad()
    def logits(images: Pixels) -> Tensor:
        with full_precision():
            parts = [images[first : first + AT_ONCE] for first in range(0, max(1, len(images)), AT_ONCE)]
            return torch.cat([network(as_trained(part, channels, size).to(device)).float().cpu() for part in parts])

    return logits


# --- the lab's own ----------------------------------------------------------------------------------------------------


def load_lab(path: Path) -> nn.Module:
    """Load the evaluator of the 2023 lab: x [n,3,64,64] in [-1,1] -> logits [n,24], in iCLEVR's order.

    It is torchvision's ResNet-18, with the paper's stem of 7x7 and max-pool, and a last layer followed by a sigmoid.
    The sigmoid is left out here. It does not change which output is higher, but in float32 it makes all outputs above
    17 equal. The file holds {"model": tensors by name}, or the tensors alone; no code in it is run. Raises UserError.
    """
    from torchvision.models import resnet18

    what = "a checkpoint of the lab's evaluator, a ResNet-18 with 24 outputs"
    fault, found = "it holds no table of tensors", None
    regular(path)
    try:
        found = read_saved(path)
    except OSError as error:
        fault = error.strerror or one_line(error)
    except Exception:  # whatever bytes are there; torch's own message would have the user load them unsafely
        fault = "it is damaged, no file of torch, or has more in it than tensors"
    tensors = found["model"] if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping) else found
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{path} cannot be read as {what}: {fault}. Give that, or a run folder.")
    network = resnet18(weights=None)
    network.fc = nn.Sequential(nn.Linear(512, len(shapes.NAMES)), nn.Sigmoid())
    counters = {name: own for name, own in network.state_dict().items() if name.endswith("num_batches_tracked")}
    load_exactly(network, counters | dict(tensors), path, f"give {what}")  # torch before 0.4.1 kept no counters
    network.fc = network.fc[0]
    looking: nn.Module = network.to(memory_format=torch.channels_last)
    return looking.eval().requires_grad_(False)
