"""Make one of the classifiers that come with the package from a run: its config, its weights in half precision.

python benchmarks/ship_classifier.py benchmarks/race/classifier fashion-mnist-classifier

A distance stores the digest of the file of its feature network, so the one in half precision is another network than
the one it was made of, and their features are never mixed. The script measures by how much they differ: on 1,000 test
images, clean and with two kinds of damage, against 1,000 others.
"""

import json
from pathlib import Path

import click
from torch import Tensor

from minidiff.classifier.run import load_classifier
from minidiff.data.corruptions import corrupt
from minidiff.data.datasets import load_data
from minidiff.files import size_in_words
from minidiff.metrics.features import classifier_features
from minidiff.metrics.frechet import FeatureStatistics, frechet_distance
from minidiff.runs.folder import CONFIG, MODEL, read_tensors, save_model
from minidiff.runs.shipped import MODELS

IMAGES = 1000


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
def main(run: Path, name: str) -> None:
    """Write minidiff/models/NAME."""
    folder = MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    tensors = read_tensors(run / MODEL)
    save_model(folder, {key: each.half() if each.is_floating_point() else each for key, each in tensors.items()})
    config = json.loads((run / CONFIG).read_text())
    if config["init"]:  # the run that it began with, by its name: its place is on this machine alone
        config["init"]["place"] = Path(config["init"]["place"]).name
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    write_accuracy(run, folder)
    print(f"{folder}: {size_in_words((folder / MODEL).stat().st_size)}; {load_classifier(folder).knowledge}")
    compare(run, folder, config["data"]["name"])


def write_accuracy(run: Path, folder: Path) -> None:
    """Keep the last accuracy of the training as the whole log, since the rest of it says nothing to a user."""
    logs = [run / name for name in ("metrics.jsonl", "result.json") if (run / name).exists()]
    text = logs[0].read_text()
    records = map(json.loads, text.splitlines()) if logs[0].suffix == ".jsonl" else [json.loads(text)]
    last = [record for record in records if "test_accuracy" in record][-1]
    kept = {"step": last["step"], "test_accuracy": last["test_accuracy"]}
    (folder / "metrics.jsonl").write_text(json.dumps(kept) + "\n")


def compare(run: Path, folder: Path, data: str) -> None:
    """Measure the same distances in both networks."""
    networks = [classifier_features(place) for place in (run, folder)]
    others, images = (load_data(data, split=split).rgb(slice(IMAGES)) for split in ("train", "test"))
    reference = [network.compute(others)[0] for network in networks]
    for damage in ("identity", "motion_blur", "shot_noise"):
        damaged = corrupt(images, damage, 3, range(IMAGES))
        found = [network.compute(damaged) for network in networks]
        whole, half = (distance(features, of) for (features, _), of in zip(found, reference, strict=True))
        same = int((found[0][1].argmax(1) == found[1][1].argmax(1)).sum())
        print(f"{damage}: FD {whole:.5f} and {half:.5f}, a change of {half / whole - 1:.3%}; same class {same}")


def distance(features: Tensor, others: Tensor) -> float:
    """Return the Fréchet distance of two sets of features."""
    a, b = map(FeatureStatistics.of, (features, others))
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


if __name__ == "__main__":
    main()
