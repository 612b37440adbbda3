"""The training of a classifier, planned and run in its folder: what `minidiff train classifier` does.

Rests on training.job and loss. During the training, the EMA weights are measured on the test split.

job = plan(ClassifierRequest(dataset="fashion-mnist", steps=500))
job.start(); job.run(); print(job.conclusion())
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minidiff.classifier.config import ClassifierConfig, ClassifierRequest, read_classifier
from minidiff.classifier.loss import accuracy, classifier_loss, exact
from minidiff.classifier.presets import CLASSIFIER_PRESETS
from minidiff.classifier.run import load_classifier
from minidiff.data.datasets import ImageData, splits_of
from minidiff.errors import UserError, lookup
from minidiff.files import write_atomically, write_json
from minidiff.images.convert import to_float
from minidiff.networks.configs import ResNetConfig
from minidiff.networks.resnet import ResNet18
from minidiff.runs.log import read_metrics
from minidiff.runtime import distributed
from minidiff.runtime.memory import build_to_train
from minidiff.training.config import TrainConfig
from minidiff.training.data import check_labels, labels_of, load_together, open_data, size_for
from minidiff.training.job import Job, check_out, start_of
from minidiff.training.loop import Trainer
from minidiff.training.minutes import fit_minutes
from minidiff.training.presets import default_preset, training_config, with_epochs
from minidiff.training.step import TrainStep

RESULT = "result.json"
AT_ONCE = 500  # images to a batch when nothing is learnt


class ClassifierJob(Job[ClassifierConfig]):
    """The training of a ResNet-18 to tell the labels of an image."""

    kind = "classifier"
    may_change = ("measure_every",)

    def __init__(
        self,
        config: ClassifierConfig,
        data: ImageData,
        device: torch.device,
        out: str | Path | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(config, data, device, out, folder)
        if self.trainer.slice_size < 2:  # batch normalisation compares the images of a slice
            raise UserError("one image at a time is too little for batch normalisation. Raise `batch_size`.")
        spec = config.data.spec(folder)
        if "test" in splits_of(data.name, spec.data_dir):
            self.split, self.asked = "test", load_together(**vars(replace(spec, split="test")))
        else:
            self.split, self.asked = "train", some(data, 10_000)
        self.answers: tuple[int, Tensor] | None = None  # a step, and the logits of all that is asked at it

    def measure_interval(self, steps: int) -> int:
        return self.config.measure_every or max(200, steps // 10)

    def sample_interval(self, steps: int) -> tuple[int, bool]:
        return self.measure_interval(steps), self.config.measure_every is None

    @property
    def measure_passes(self) -> int:
        return len(self.asked)

    @staticmethod
    def read(stored: dict[str, Any], where: object) -> ClassifierConfig:
        return read_classifier(stored, where)

    def build(self, training: TrainConfig, device: torch.device) -> Trainer:
        loss = classifier_loss(self.one_hot, self.config.shift)
        network = build_to_train(lambda: ResNet18(**vars(self.config.network)), device)
        return Trainer(network, loss, self.data, training, device)

    def first_weights(self, place: str) -> Mapping[str, Tensor]:
        return load_classifier(place).model.state_dict()

    @property
    def one_hot(self) -> bool:
        return self.config.labels.one_hot

    def describe_network(self) -> str:
        width, names, shift = self.config.network.width, self.config.labels.names, self.config.shift
        learns = f"one of {len(names)} classes" if self.one_hot else f"{len(names)} labels, each by itself"
        moved = f"moved by up to {shift} pixels" + (", mirrored" if self.data.flip else "")
        return f"ResNet-18 {self.parameters}, width {width}; learns {learns}; images {moved}"

    def measure(self, step: int) -> dict[str, float]:
        """Measure the accuracy on the test split, or on training images if there is no test split.

        If an image can have several labels, measure also how many images have all of them right. The processes share
        the images.
        """
        ema, device = self.trainer.ema, self.trainer.device
        distributed.copy_from_main(ema.buffers())  # the statistics of batch normalisation: the ones that are saved
        count = len(self.asked)
        share = math.ceil(count / distributed.world_size())
        mine = range(count)[distributed.rank() * share :][:share]
        logits = distributed.gather_rows(answer(ema, self.asked, mine, device), share).cpu()
        self.answers = step, logits
        labels = torch.from_numpy(self.asked.labels)
        values = {f"{self.split}_accuracy": accuracy(logits, labels)}
        return values if self.one_hot else values | {f"{self.split}_exact": exact(logits, labels)}

    def work(self) -> Iterator[TrainStep]:
        """Train to the last step, and write result.json: see `Job.work`."""
        yield from super().work()
        assert self.folder is not None
        if distributed.is_main():
            result = self.result() | {"split": self.split, "images": len(self.asked)}
            write_json(self.folder / RESULT, result)

    def result(self) -> dict[str, Any]:
        """Return the last measurement: its step, and what was measured."""
        assert self.folder is not None
        return [r for r in read_metrics(self.folder) if f"{self.split}_accuracy" in r][-1]

    def preview(self, step: int) -> list[str]:
        """Draw the surest mistakes; with one label an image also the confusion matrix."""
        assert self.folder is not None
        if self.answers is None or self.answers[0] != step:
            every = range(len(self.asked))
            self.answers = step, answer(self.trainer.ema, self.asked, every, self.trainer.device).cpu()
        logits = self.answers[1].numpy()
        if self.one_hot:
            draw_confusion(self.confusion(step), logits, self.asked)
        titles = (class_mistakes if self.one_hot else label_mistakes)(logits, self.asked)
        draw_mistakes(self.picture(step), titles, self.asked)
        return []

    def confusion(self, step: int) -> Path:
        """Return the path of the confusion matrix of a step."""
        return self.picture(step).with_stem(f"{step:07d}-confusion")

    def conclusion(self) -> str:
        value, last = self.result()[f"{self.split}_accuracy"], self.training.steps
        kind = "test" if self.split == "test" else "training"
        return (
            f"done      {100 * value:.2f}% accuracy on {len(self.asked):,} {kind} images; "
            f"its surest mistakes are {self.picture(last)}"
        )


def plan(request: ClassifierRequest) -> ClassifierJob:
    """Plan a new training: a preset, with what the request says put over it.

    Raises UserError, also for data without labels.
    """
    # All that can be wrong with the request is found before the data are read, or downloaded.
    device = distributed.local_device(request.device)
    name = request.preset or default_preset(device.type)
    preset = lookup("preset", name, CLASSIFIER_PRESETS)
    start = load_classifier(request.init) if request.init is not None else None
    size = size_for(request, start.config.data.image_size if start else preset.image_size)
    shift = size // 16 if request.shift is None else request.shift
    if 2 * shift > size:
        raise UserError(f"`shift` {shift} would move most of a {size}x{size} image out of sight. Try {size // 16}.")
    training = training_config(preset.training, request)
    check_out(request.out)
    data, described = open_data(request, size)
    training = with_epochs(training, preset.training, request, len(data))
    check_labels(data, "a classifier")
    width = start.config.network.width if start and request.preset is None else preset.width
    if start and start.label_names != data.label_names:
        raise UserError(
            f"{request.init} tells other labels apart ({', '.join(start.label_names[:6])}) than {data.name}."
        )
    config = ClassifierConfig(
        preset=name,
        init=start_of(request.init, start.model.state_dict()) if start and request.init else None,
        data=described,
        labels=labels_of(data),
        network=ResNetConfig(len(data.label_names), described.channels, request.width or width),
        shift=shift,
        training=training,
        save_every=request.save_every,
        measure_every=request.measure_every,
    )
    return fit_minutes(ClassifierJob(config, data, device, request.out), preset.training, request)


def some(data: ImageData, most: int) -> ImageData:
    """Return the data set; if it has more than `most` images, `most` of them, spread evenly."""
    chosen = np.linspace(0, len(data) - 1, min(len(data), most)).astype(int)
    return replace(data, images=np.array(data.images[chosen]), labels=data.labels[chosen])


@torch.no_grad()
def answer(model: nn.Module, data: ImageData, rows: range, device: torch.device) -> Tensor:
    """Compute the logits of some images, float32 [n,L], on the device. The model is in eval mode."""
    layout = {"memory_format": torch.channels_last}
    logits = [torch.empty((0, len(data.label_names)), device=device)]
    for first in rows[::AT_ONCE]:
        images = torch.from_numpy(np.array(data.images[first : min(first + AT_ONCE, rows.stop)]))
        logits.append(model(to_float(images.to(device)).contiguous(**layout)).float())
    return torch.cat(logits)


# --- pictures -------------------------------------------------------------------------------------------------------

SHOWN = 25  # of the surest mistakes


def class_mistakes(logits: NDArray[np.float32], data: ImageData) -> dict[int, str]:
    """Find the wrong answers for images with one label, the surest first, and what to write above each."""
    chances = torch.from_numpy(logits).softmax(dim=1).numpy()
    said, true, names = logits.argmax(axis=1), data.labels.argmax(axis=1), data.label_names
    surest = [int(i) for i in np.argsort(-chances.max(axis=1), kind="stable") if said[i] != true[i]]
    return {i: f"{names[said[i]]} {chances[i, said[i]]:.0%}\nis {names[true[i]]}" for i in surest}


def label_mistakes(logits: NDArray[np.float32], data: ImageData) -> dict[int, str]:
    """Find the wrong answers for images with several labels, the surest first, and what to write above each.

    A + marks a label that the network adds, a - a label that it misses.
    """
    wrong = (logits > 0) != data.labels.astype(bool)
    sureness = np.where(wrong, np.abs(logits), 0)  # of each wrong label
    titles = {}
    for i in np.argsort(-sureness.max(axis=1), kind="stable")[: int(wrong.any(axis=1).sum())]:
        worst = np.argsort(-sureness[i], kind="stable")[: wrong[i].sum()]
        lines = [f"{'+' if logits[i, k] > 0 else '-'} {data.label_names[k]}" for k in worst]
        titles[int(i)] = "\n".join(lines if len(lines) < 3 else [lines[0], f"and {len(lines) - 1} more"])
    return titles


def draw_mistakes(path: Path, titles: dict[int, str], data: ImageData) -> None:
    """Draw the first SHOWN images of `titles`, by number, each under its title."""
    from matplotlib.figure import Figure

    columns = math.isqrt(SHOWN)
    figure = Figure(figsize=(1.6 * columns, 1.9 * columns), layout="constrained")
    figure.suptitle(f"{len(titles):,} of {len(data):,} images are wrong; the surest mistakes", fontsize=10)
    panels = figure.subplots(columns, columns).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (number, title) in zip(panels, titles.items(), strict=False):
        axes.imshow(data.rgb([number])[0])
        axes.set_title(title, fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def draw_confusion(path: Path, logits: NDArray[np.float32], data: ImageData) -> None:
    """Draw the confusion matrix: the share of each class's images (a row) that is taken for each class (a column)."""
    from matplotlib.figure import Figure

    names, true, said = data.label_names, data.labels.argmax(axis=1), logits.argmax(axis=1)
    count = len(names)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (true, said), 1)
    matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(14.0, max(5.0, 0.6 * count))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="taken for", ylabel="is", title=path.parent.parent.name)
    size = min(9.0, 60 * side / count)
    axes.set_xticks(range(count), names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    if count <= 30:
        for row, column in np.argwhere(matrix >= 0.005):
            share = matrix[row, column]
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=size - 1)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
