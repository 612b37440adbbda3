"""The classifier: against torchvision, on a set small enough to learn by heart, and as a run that can be killed."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from minidiff import cli, load_data
from minidiff.classifier import job as classifier_job
from minidiff.classifier.loss import accuracy, classifier_loss, exact, shifted
from minidiff.classifier.run import load_classifier
from minidiff.data import shapes
from minidiff.data.datasets import CLOTHES, ImageData
from minidiff.errors import UserError
from minidiff.images.convert import to_float
from minidiff.images.files import write_image
from minidiff.networks.resnet import ResNet18
from minidiff.networks.weights import load_exactly
from minidiff.rng import Draws
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_clothes(folder: Path) -> Path:
    """A FashionMNIST of 60 and 21 images, which a small network can learn by heart: class k is a bright square at one
    of ten places, on noise. An odd test split, so that two processes share it unevenly."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 21)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = random.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[3 + 7 * row : 9 + 7 * row, 2 + 6 * column : 7 + 6 * column] = 250
        for array, kind in ((images, "images-idx3-ubyte"), (labels, "labels-idx1-ubyte")):
            magic = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
            (folder / f"{prefix}-{kind}.gz").write_bytes(gzip.compress(magic + array.tobytes()))
    return folder


@pytest.fixture(scope="session")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clothes(tmp_path_factory.mktemp("clothes"))


def train(data: Path, *more: str) -> list[str]:
    """The command line of a training that takes seconds."""
    tiny = ["--width", "4", "--batch-size", "20", "--lr", "0.01", "--ema-decay", "0.8", "--device", "cpu"]
    return ["train", "classifier", "--dataset", "fashion-mnist", "--data-dir", str(data), *tiny, *more]


@pytest.fixture(scope="session")
def learnt(clothes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("learnt"))
        assert cli.run(train(clothes, "--steps", "60", "--measure-every", "20", "--out", "run")) == 0
        return Path("run").resolve()


# --- the network, and what it learns --------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_that_of_torchvision(training: bool) -> None:
    """With the stem for small images put in, and the same weights and statistics: the same logits and features, and no
    parameter without its like. Fails when a stride, a norm or a shortcut is elsewhere."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # as if trained
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_(0.5, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    ours = ResNet18(10, 3)
    load_exactly(ours, theirs.state_dict(), "torchvision")
    ours.train(training), theirs.train(training)
    x = torch.randn(3, 3, 32, 32)
    features: list[Tensor] = []
    theirs.avgpool.register_forward_hook(lambda module, inputs, output: features.append(output.flatten(1)))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))
        if not training:
            torch.testing.assert_close(ours.features(x), features[0])
            torch.testing.assert_close(ours.fc(ours.features(x)), ours(x))


@pytest.mark.parametrize(("channels", "width", "size"), [(1, 4, 8), (3, 6, 30)])
def test_other_widths_and_sizes(channels: int, width: int, size: int) -> None:
    network = ResNet18(7, channels, width)
    x = torch.randn(2, channels, size, size)
    assert network(x).shape == (2, 7) and network.features(x).shape == (2, 8 * width)
    assert ResNet18(**network.config).state_dict().keys() == network.state_dict().keys()


def test_accuracy_is_counted_rightly() -> None:
    """By hand, of 5 images: both of two labels found; one of two; the one; none of one; and one without labels, which
    does not count. Then against a count in plain Python, for one label an image and for several."""
    logits = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [-1, -2, -3, -4], [0, 1, 2, 3], [9, 9, 9, 9]])
    labels = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert accuracy(logits, labels) == (1 + 0.5 + 1 + 0) / 4
    assert exact(logits - 1.5, labels) == 1 / 5  # the first; the third has the right order, and no yes

    random = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 6, generator=random)
    one = nn.functional.one_hot(torch.randint(6, (200,), generator=random), 6)
    right = sum(a == b for a, b in zip(logits.argmax(1).tolist(), one.argmax(1).tolist(), strict=True))
    assert accuracy(logits, one) == pytest.approx(right / 200)
    several = (torch.rand(200, 6, generator=random) < 0.4).int()
    shares = []
    for row, wanted in zip(logits.tolist(), several.tolist(), strict=True):
        true = {index for index, value in enumerate(wanted) if value}
        highest = sorted(range(6), key=lambda index: -row[index])[: len(true)]
        if true:
            shares.append(len(true & set(highest)) / len(true))
    assert accuracy(logits, several) == pytest.approx(sum(shares) / len(shares))


def test_losses_are_cross_entropies() -> None:
    """Written out: the logarithm of the softmax at the label; of several labels, the mean over yes and no."""
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    x, draws = torch.zeros(2, 1, 8, 8), Draws(0, 2, slice(0, 2))

    def model(x: Tensor) -> Tensor:
        return logits

    one = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    chances = torch.tensor([1 / (np.exp(2) + 1 + np.exp(-1)), np.e / (np.e + 2)], dtype=torch.float32)
    torch.testing.assert_close(classifier_loss(True, 0)(model, x, one, draws), -chances.log().mean())  # type: ignore[arg-type]
    several = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    p = 1 / (1 + torch.exp(-logits))
    by_hand = -(several * p.log() + (1 - several) * (1 - p).log())
    torch.testing.assert_close(classifier_loss(False, 0)(model, x, several, draws), by_hand.mean())  # type: ignore[arg-type]


def test_images_are_shifted_each_by_its_own() -> None:
    """Every result is one of the 25 moves of its image by up to two pixels with the border repeated, every move
    comes about as often as every other, and a slice of the batch is moved as it is in the whole. With a shift the
    loss shows the network moved images."""
    x = torch.randn(500, 2, 6, 7)
    moved = shifted(x, 2, Draws(3, 500, slice(0, 500)))
    padded = nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    same = torch.stack(
        [(moved == padded[:, :, r : r + 6, c : c + 7]).flatten(1).all(1) for r in range(5) for c in range(5)]
    )
    assert (same.sum(0) == 1).all()
    counts = same.sum(1)
    assert ((counts - 20).abs() < 4.5 * np.sqrt(20 * 24 / 25)).all(), counts
    torch.testing.assert_close(shifted(x[100:130], 2, Draws(3, 500, slice(100, 130))), moved[100:130])

    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return x.mean(dim=(2, 3))

    classifier_loss(True, 2)(model, x, torch.ones(500, 2), Draws(3, 500, slice(0, 500)))  # type: ignore[arg-type]
    assert torch.equal(seen[0], moved)


# --- a run ----------------------------------------------------------------------------------------------------------


def logits_of(run: Path, data: ImageData) -> Tensor:
    model = load_classifier(run).model
    with torch.no_grad():
        return model(to_float(torch.from_numpy(np.array(data.images))))


def test_a_tiny_set_is_learnt_by_heart(learnt: Path, clothes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """60 steps to 100% on images not seen; the accuracies that were written are those of the weights that were saved,
    the folder explains itself, and `minidiff info` tells it."""
    records = [r for r in read_metrics(learnt) if "test_accuracy" in r]
    assert [r["step"] for r in records] == [20, 40, 60]
    result = json.loads((learnt / "result.json").read_text())
    assert result == {"step": 60, "test_accuracy": 1.0, "split": "test", "images": 21}
    test = load_data("fashion-mnist", data_dir=clothes, image_size=32, split="test")
    assert accuracy(logits_of(learnt, test), torch.from_numpy(test.labels)) == 1.0
    assert sorted({*os.listdir(learnt)} - {"tensorboard"}) == [
        ".lock", "config.json", "curves.png", "metrics.jsonl", "model.safetensors", "result.json", "samples",
        "state.pt",
    ]  # fmt: skip
    assert sorted(os.listdir(learnt / "samples")) == [
        f"00000{step}{kind}.png" for step in (20, 40, 60) for kind in ("-confusion", "")
    ]
    config = json.loads((learnt / "config.json").read_text())
    assert config["kind"] == "classifier" and config["labels"]["names"] == CLOTHES and config["labels"]["one_hot"]
    assert config["network"] == {"classes": 10, "channels": 1, "width": 4} and config["shift"] == 2
    assert cli.run(["info", str(learnt)]) == 0
    said = capsys.readouterr().out
    assert "classifier" in said and "test accuracy 1 at step 60" in said and "10, one an image: t-shirt, " in said
    Path("runs").mkdir()
    os.symlink(learnt, "runs/clothes")
    assert cli.run(["info"]) == 0
    assert "classifier on fashion-mnist 32x32, step 60 of 60 (done)" in capsys.readouterr().out


def test_what_is_written_is_what_the_saved_weights_are_worth(clothes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Early, where raw and averaged weights differ: fails when the raw ones are measured, or the training images.

    Of 21 images both may get as many right, on one processor or another. Then another seed tells them apart.
    """
    data = {name: load_data("fashion-mnist", data_dir=clothes, image_size=32, split=name) for name in ("train", "test")}
    x, labels = to_float(torch.from_numpy(data["test"].images)), torch.from_numpy(data["test"].labels)
    told_apart = False
    for seed in range(3, 9):
        run = Path(f"run{seed}")
        assert cli.run(train(clothes, "--steps", "16", "--seed", str(seed), "--out", str(run))) == 0
        said = capsys.readouterr().out
        values = {name: accuracy(logits_of(run, each), torch.from_numpy(each.labels)) for name, each in data.items()}
        assert json.loads((run / "result.json").read_text())["test_accuracy"] == values["test"]
        assert f"{100 * values['test']:.2f}% accuracy on 21 test images" in said
        state = checkpoint.read_state(run)
        assert state is not None
        raw = ResNet18(10, 1, 4).eval()
        raw.load_state_dict(state["model"])
        told_apart = values["train"] != values["test"] != accuracy(raw(x), labels)
        if told_apart:
            break
    assert told_apart


def test_several_labels_an_image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The shapes, of which each image shows up to some: yes and no for each, and a second figure, for all at once."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 40, "test": 10, "new_test": 10})
    options = "--steps 3 --width 4 --batch-size 20 --device cpu --out run"
    assert cli.run(["train", "classifier", "--dataset", "shapes", *options.split()]) == 0
    assert "learns 24 labels, each by itself" in capsys.readouterr().out
    test = load_data("shapes", image_size=32, split="test")
    logits, labels = logits_of(Path("run"), test), torch.from_numpy(test.labels)
    result = json.loads(Path("run/result.json").read_text())
    assert result["test_accuracy"] == accuracy(logits, labels) and result["test_exact"] == exact(logits, labels)
    assert os.listdir("run/samples") == ["0000003.png"]


def test_a_folder_is_measured_on_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Sub-folders are the classes; there is no test split, so the training images are asked, and that is said."""
    random = np.random.default_rng(0)
    for name, colour in (("red", 0), ("blue", 2)):
        Path("photos", name).mkdir(parents=True)
        for number in range(6):
            image = random.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            image[..., colour] = 250
            write_image(Path("photos", name, f"{number}.png"), image)
    options = "--steps 20 --width 4 --batch-size 6 --lr 0.01 --ema-decay 0.5 --image-size 16 --device cpu --out run"
    assert cli.run(["train", "classifier", "--dataset", "folder", "--data-dir", "photos", *options.split()]) == 0
    assert "100.00% accuracy on 12 training images" in capsys.readouterr().out
    data = load_data("folder", data_dir="photos", image_size=16)
    few = classifier_job.some(data, 3)  # of a large set, so many spread over it
    assert (few.images == data.images[[0, 5, 11]]).all() and (few.labels == data.labels[[0, 5, 11]]).all()
    assert json.loads(Path("run/result.json").read_text())["train_accuracy"] == 1.0


def test_the_surest_mistakes_come_first() -> None:
    """One label: sorted by the chance of the wrong answer. Several: by the surest wrong yes (+) or no (-)."""
    logits = np.log(np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32))
    images = np.zeros((4, 8, 8, 1), np.uint8)
    data = ImageData("test", images, np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.uint8), ["cat", "dog"], flip=True)
    titles = classifier_job.class_mistakes(logits, data)
    assert list(titles) == [2, 3, 0]
    assert titles[2] == "dog 80%\nis cat" and titles[0] == "cat 60%\nis dog"
    titles = classifier_job.label_mistakes(np.array([[1, 2], [1, -1], [-3, 1], [1, 5]], np.float32), data)
    assert list(titles) == [3, 2, 0]
    assert titles[3] == "+ dog" and titles[2] == "- cat\n+ dog" and titles[0] == "+ cat"


# --- resumed, killed, shared ----------------------------------------------------------------------------------------


def spawn(arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "minidiff", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def same(one: Path, other: Path) -> bool:
    """Whether two runs have the same weights and statistics, losses and accuracies, to the bit."""
    mine, theirs = (checkpoint.read_tensors(run / "model.safetensors") for run in (one, other))
    told = [
        [{k: v for k, v in r.items() if k != "images_per_second"} for r in read_metrics(run)] for run in (one, other)
    ]
    return all(torch.equal(mine[name], theirs[name]) for name in theirs | mine) and told[0] == told[1]


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_run_that_was_left_alone(clothes: Path) -> None:
    """kill -9 in the middle of a training with measurements: the same weights, batch-norm statistics, losses and
    accuracies to the bit. Fails when the shifts, or the statistics, are not of (seed, step)."""
    options = ["--steps", "120", "--save-every", "6", "--measure-every", "60"]
    assert cli.run(train(clothes, *options, "--out", "alone")) == 0
    process = spawn(train(clothes, *options, "--out", "run"))
    for _ in range(1200):
        if (Path("run") / checkpoint.MODEL).exists():
            break
        assert process.poll() is None, process.stdout.read()  # type: ignore[union-attr]
        time.sleep(0.02)
    process.kill()
    process.communicate()
    state = checkpoint.read_state(Path("run"))
    assert state is not None and 6 <= state["step"] < 120
    assert cli.run(["train", "classifier", "--resume", "run", "--device", "cpu"]) == 0
    assert same(Path("run"), Path("alone"))


MEASURE = """
import sys, torch
from minidiff.classifier import job as classifier_job
from minidiff.classifier.config import ClassifierRequest
from minidiff.runtime import distributed
request = ClassifierRequest(dataset="fashion-mnist", data_dir=sys.argv[1], width=4, batch_size=20, steps=8,
                            measure_every=4, out="run", device="cpu")
with distributed.process_group(torch.device("cpu")):
    training = classifier_job.plan(request)
    training.start()
    training.run()
    torch.save(training.answers, f"told{distributed.rank()}.pt")
"""


@pytest.mark.slow
def test_two_processes_measure_as_one(clothes: Path) -> None:
    """Trained by two processes, which share an odd number of images: all logits are those of the weights and of the
    batch-norm statistics that were saved. With its own the second process would be off by far more than rounding.
    Resumed by one process, the run goes on."""
    Path("measure.py").write_text(MEASURE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "measure.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, str(clothes)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    test = load_data("fashion-mnist", data_dir=clothes, image_size=32, split="test")
    logits = logits_of(Path("run"), test)
    for rank in range(2):
        step, told = torch.load(f"told{rank}.pt", weights_only=True)
        assert step == 8
        torch.testing.assert_close(told, logits, atol=1e-4, rtol=1e-4)
    assert [r["step"] for r in read_metrics(Path("run")) if "test_accuracy" in r] == [4, 8]
    assert cli.run(["train", "classifier", "--resume", "run", "--steps", "10", "--device", "cpu"]) == 0
    assert json.loads(Path("run/result.json").read_text())["step"] == 10


# --- bad input ------------------------------------------------------------------------------------------------------

BAD = {
    "train classifier --image-size 16 --dataset folder --data-dir {photos}": "folder has no labels; a classifier needs",
    "train classifier --dataset folder --data-dir one": "folder has only one label (",
    "train classifier --resume {learnt} --width 8": "--width is part of the run",
    "train classifier --resume {trained}": "is a ddpm run; this command needs a classifier run",
    "train ddpm --resume {learnt}": "is a classifier run; this command needs a ddpm run",
    "sample {learnt}": "is a classifier run; this command needs a ddpm, dcgan, wgan, wgan-gp or dip-prior run",
    "train classifier --resume hollow": 'hollow/config.json: "data" is missing',
    "train classifier --resume other": "are not the ones that other began with",
    "train classifier --resume wide": "does not fit this network: ",
    "train classifier --dataset folder --data-dir two --batch-size 1": "one image at a time is too little",
    "train classifier --dataset folder --data-dir two --shift 30": "--shift 30 would move most of a 32x32 image",
    "train classifier --dataset fashion": "Did you mean 'fashion-mnist'",
    "train classifier --preset cifar10": "unknown preset 'cifar10'",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line(
    line: str, learnt: Path, trained: Path, photos: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("one/a/1.png", "one/2.png", "two/a/1.png", "two/b/2.png"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        write_image(place, np.zeros((16, 16, 3), np.uint8))
    config = json.loads((learnt / "config.json").read_text())
    wide = config | {"network": config["network"] | {"width": 8}}
    other = config | {"labels": config["labels"] | {"fingerprint": "0" * 16}}
    for folder, content in (("hollow", {"kind": "classifier"}), ("wide", wide), ("other", other)):
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(json.dumps(content))
        Path(folder, "state.pt").write_bytes((learnt / "state.pt").read_bytes())
    before = sorted(own_folder.rglob("*"))
    assert cli.run(line.format(learnt=learnt, trained=trained, photos=photos).split()) in (1, 2)
    printed = capsys.readouterr()
    assert BAD[line] in printed.err, printed.err
    assert len([text for text in printed.err.splitlines() if text.startswith("Error")]) == 1
    assert "Traceback" not in printed.err and sorted(own_folder.rglob("*")) == before


def test_loading_is_exact(learnt: Path, trained: Path) -> None:
    """The config, the network in eval mode, the digest of its file; what does not fit is named."""
    run = load_classifier(learnt)
    assert run.config.kind == "classifier" and not run.model.training
    config = json.loads((learnt / "config.json").read_text())
    content = (learnt / "model.safetensors").read_bytes()
    assert run.sha256 == hashlib.sha256(content).hexdigest()
    Path("run").mkdir()
    Path("run/model.safetensors").write_bytes(content)
    for change, words in (
        ({"width": 8}, "does not fit this network: "),
        ({"depth": 3}, '"network.depth" is not a key of this version'),
    ):
        Path("run/config.json").write_text(json.dumps(config | {"network": config["network"] | change}))
        with pytest.raises(UserError, match=words):
            load_classifier("run")
    with pytest.raises(UserError, match="is a ddpm run; this command needs a classifier run"):
        load_classifier(trained)
    Path("run/model.safetensors").unlink()
    Path("run/config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model.safetensors is missing"):
        load_classifier("run")
