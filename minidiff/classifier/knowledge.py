"""What a classifier was trained on, and how well it knows that: said with every number that rests on it.

Rests on its config and its log, so that pages and `minidiff info` need no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from minidiff.classifier.config import ClassifierConfig, read_classifier
from minidiff.runs.folder import CONFIG, read_config
from minidiff.runs.log import read_metrics
from minidiff.runs.shipped import find_run


@dataclass(frozen=True)
class Knowledge:
    """The data set of a classifier, and its accuracy there."""

    data: str  # as `data.config.called` names it
    accuracy: float | None = None  # as last measured; None: not known
    split: str = "test"  # of the data set, which the accuracy was measured on

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"trained on {self.data}, its accuracy not known"
        images = "test images" if self.split == "test" else "images of its training"
        return f"trained on {self.data}, {100 * self.accuracy:.2f}% accuracy on {images}"


def knowledge_of(folder: str | Path, config: ClassifierConfig | None = None) -> Knowledge:
    """Read it from the run folder of a classifier. config: if it has been read already. Raises UserError."""
    folder = Path(find_run(folder, classifier=True))
    config = config or read_classifier(read_config(folder, "classifier"), folder / CONFIG)
    for measured in reversed(read_metrics(folder)):
        for split in ("test", "train"):
            value = measured.get(f"{split}_accuracy")
            if isinstance(value, float) and 0 <= value <= 1:
                return Knowledge(config.data.called, value, split)
    return Knowledge(config.data.called)
