"""A trained classifier, opened from its run folder.

Rests on networks.resnet and runs. `minidiff.open_evaluator` lets it look at images, and `minidiff.distance` can measure
in its last layer.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from minidiff.classifier.config import ClassifierConfig, read_classifier
from minidiff.classifier.knowledge import Knowledge, knowledge_of
from minidiff.images.show import newest_png
from minidiff.networks.resnet import ResNet18
from minidiff.networks.weights import build_with
from minidiff.runs.folder import CONFIG, MODEL, read_config, read_tensors
from minidiff.runs.shipped import find_run


@dataclass
class ClassifierRun:
    """A trained classifier: its folder, its config and its network, in eval mode with the EMA weights."""

    folder: Path
    config: ClassifierConfig
    model: ResNet18
    sha256: str  # of the file of its weights

    def __repr__(self) -> str:
        return f"ClassifierRun({self.folder}: {len(self.label_names)} labels of {self.config.data.name})"

    def _repr_png_(self) -> bytes | None:
        """Show the last samples of the training in a notebook."""
        return newest_png(self.folder / "samples")

    @property
    def knowledge(self) -> Knowledge:
        """What it was trained on, and how well it knows that."""
        return knowledge_of(self.folder, self.config)

    @property
    def label_names(self) -> list[str]:
        """The name of the label behind each output."""
        return list(self.config.labels.names)


def load_classifier(folder: str | Path, device: str | torch.device = "cpu") -> ClassifierRun:
    """Open the run folder of a classifier, or one that comes with the package, by its name.

    Raises UserError when the folder is not a classifier run, has no weights yet, or has weights that do not fit.
    """
    folder = Path(find_run(folder, classifier=True)).expanduser()
    config = read_classifier(read_config(folder, kind="classifier"), folder / CONFIG)
    path = folder / MODEL
    model = build_with(lambda: ResNet18(**vars(config.network)), read_tensors(path), path)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return ClassifierRun(folder, config, model, hashlib.sha256(path.read_bytes()).hexdigest())
