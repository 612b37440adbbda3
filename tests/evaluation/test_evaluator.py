"""The examiner: the lab's checkpoint as the lab ran it, our own classifiers, and everything that is neither."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from peers import pictures
from torch import Tensor, nn

from minidiff.classifier.run import load_classifier
from minidiff.data import shapes
from minidiff.errors import UserError
from minidiff.evaluation import evaluator
from minidiff.evaluation.evaluator import open_evaluator
from minidiff.files import write_json
from minidiff.images.convert import to_float
from minidiff.metrics.features import classifier_features
from minidiff.runs import folder as checkpoint


def lab_network(outputs: int = 24) -> nn.Module:
    """What the lab builds, with the statistics of a few pictures and outputs that differ from picture to picture."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Sequential(nn.Linear(512, outputs), nn.Sigmoid())
    nn.init.normal_(network.fc[0].weight, std=0.2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(to_float(pictures(8, 64, 64, seed=1)))
    return network.eval()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The network, and its checkpoint."""
    path = tmp_path_factory.mktemp("lab") / "checkpoint.pth"
    network = lab_network()
    torch.save({"model": network.state_dict(), "epoch": 3}, path)
    return network, path


# --- the lab's own --------------------------------------------------------------------------------------------------


def test_the_labs_checkpoint_sees_what_it_saw_in_the_lab(lab: tuple[nn.Module, Path]) -> None:
    """The sigmoid of our logits is the lab's output for images normalised by 0.5 and 0.5; 24 labels in iCLEVR's order.
    Fails by 0.9 for images in [0,1], by 0.7 in training mode."""
    network, path = lab
    images = pictures(5, 64, 64)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    found = open_evaluator(path)
    with torch.no_grad():
        theirs = network(x)
    assert theirs.std() > 0.05
    torch.testing.assert_close(found.logits(images).sigmoid(), theirs, atol=1e-5, rtol=0)
    assert found.names == shapes.NAMES and found.names[:2] + found.names[23:] == [
        "gray cube", "red cube", "yellow cylinder"
    ]  # fmt: skip
    assert (found.size, found.channels, found.one_hot) == (64, 3, False)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and found.source == str(path)


def test_it_tells_outputs_apart_where_the_sigmoid_cannot(lab: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """With a last layer ten thousand times as steep most outputs are 0 or 1, and their order is lost; not so here."""
    path = lab[1]
    tensors = torch.load(path, weights_only=True)["model"]
    torch.save(tensors | {"fc.0.weight": 1e4 * tensors["fc.0.weight"]}, tmp_path / "steep.pth")
    images = pictures(5, 64, 64)
    logits = open_evaluator(tmp_path / "steep.pth").logits(images)
    assert (logits.sigmoid() == 1).sum(dim=1).min() >= 2
    order = open_evaluator(path).logits(images) - tensors["fc.0.bias"]
    assert torch.equal(logits.argsort(dim=1), order.argsort(dim=1))


@pytest.mark.parametrize("way", ["alone", "legacy", "without counters"])
def test_other_ways_to_save_it(way: str, lab: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """The tensors alone; in torch's format before 1.6; of a torch before 0.4.1, whose batch norms did not count."""
    network, path = lab
    tensors = dict(network.state_dict())
    if way == "without counters":
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
        assert len(tensors) == 102
    held = tensors if way == "alone" else {"model": tensors}
    torch.save(held, tmp_path / "other.pth", _use_new_zipfile_serialization=way != "legacy")
    images = pictures(2, 64, 64)
    assert torch.equal(open_evaluator(tmp_path / "other.pth").logits(images), open_evaluator(path).logits(images))


class Hostile:
    """Unpickled, it would leave a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def write_wrong(what: str, path: Path) -> None:
    tensors = dict(lab_network().state_dict())
    if what == "hostile":
        torch.save({"model": tensors, "more": Hostile()}, path)
    elif what == "plain pickle":
        path.write_bytes(pickle.dumps(Hostile()))
    elif what == "text":
        path.write_text("weights")
    elif what == "numbers":
        torch.save({"model": {"conv1.weight": 3}}, path)
    elif what == "list":
        torch.save([1, 2], path)
    elif what == "whole network":
        torch.save(lab_network(), path)
    elif what == "ten outputs":
        torch.save({"model": lab_network(10).state_dict()}, path)
    elif what == "plain head":
        torch.save({"model": {name.replace("fc.0.", "fc."): tensor for name, tensor in tensors.items()}}, path)
    elif what == "lacking":
        del tensors["layer3.1.bn2.running_var"]
        torch.save({"model": tensors}, path)
    elif what == "cut short":
        torch.save({"model": tensors}, path)
        path.write_bytes(path.read_bytes()[:1_000_000])


WRONG = {
    "hostile": "cannot be read as a checkpoint of the lab's evaluator",
    "plain pickle": "cannot be read as a checkpoint of the lab's evaluator",
    "text": "cannot be read as a checkpoint of the lab's evaluator",
    "numbers": "no table of tensors",
    "list": "no table of tensors",
    "whole network": "cannot be read as",
    "ten outputs": r"fc\.0\.weight is \[10, 512\], not \[24, 512\]",
    "plain head": r"fc\.0\.weight is missing",
    "lacking": r"layer3\.1\.bn2\.running_var is missing",
    "cut short": "cannot be read as",
    "nothing": "wrong.pth: no such classifier",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_evaluator_is_one_line(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing in a file is ever run: the hostile ones leave no trace, and no message says how to run them, as
    torch's does. Fails when pickles are loaded."""
    monkeypatch.chdir(tmp_path)
    write_wrong(what, Path("wrong.pth"))
    with pytest.raises(UserError, match=WRONG[what]) as caught:
        open_evaluator("wrong.pth")
    assert len(str(caught.value).splitlines()) == 1 and not Path("unpickled").exists()
    assert "weights_only" not in str(caught.value) and "torch.load" not in str(caught.value)  # torch's advice


# --- our own --------------------------------------------------------------------------------------------------------


def test_a_classifier_run(clf: Path) -> None:
    """Its labels and size; the logits that the feature network of the same run gives, for images of any size."""
    found, reference = open_evaluator(clf), classifier_features(clf)
    assert (found.names, found.one_hot, found.size, found.channels) == (["dark", "light"], True, 16, 3)
    assert found.sha256 == reference.sha256 and found.source == str(clf)
    for size in (16, 40):
        images = pictures(6, size, size)
        logits = reference.compute(images)[1]
        assert logits is not None
        assert torch.equal(found.logits(images), logits)


def test_batches_and_precision_do_not_change_the_answer(clf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 4 give what one of 10 gives; and autocast, in which the rest of a program may run, is off within.
    With bfloat16 the logits would be off by 0.03."""
    found, images = open_evaluator(clf), pictures(10, 16, 16)
    whole = found.logits(images)
    monkeypatch.setattr(evaluator, "AT_ONCE", 4)
    torch.testing.assert_close(found.logits(images), whole, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        again = found.logits(images)
    assert again.dtype == torch.float32
    torch.testing.assert_close(again, whole, atol=1e-5, rtol=1e-5)
    assert found.logits(np.empty((0, 16, 16, 3), np.uint8)).shape == (0, 2)


def test_runs_that_are_no_classifiers(trained: Path, clf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a ddpm run; this command needs a classifier run"):
        open_evaluator(trained)
    with pytest.raises(UserError, match="is not a run folder"):
        open_evaluator(tmp_path)
    config = checkpoint.read_config(clf)
    del config["labels"]
    (tmp_path / "model.safetensors").write_bytes((clf / "model.safetensors").read_bytes())
    write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match='"labels" is missing'):
        open_evaluator(tmp_path)


def test_labels_are_matched_by_name(lab: tuple[nn.Module, Path]) -> None:
    """Another order gives the columns of the same names; a name that one side lacks is named."""
    found = open_evaluator(lab[1])
    turned = shapes.NAMES[5:] + shapes.NAMES[:5]
    assert [found.names[column] for column in found.columns(turned)] == turned
    with pytest.raises(UserError, match="the classifier does not know cat, dog, mouse and 1 more"):
        found.columns([*shapes.NAMES, "cat", "dog", "mouse", "owl"])
    with pytest.raises(UserError, match="the model does not know gray cube. Give"):
        found.columns(shapes.NAMES[1:])


def test_a_run_is_asked_as_it_was_trained(clf: Path) -> None:
    """In eval mode and with images in [-1,1], whatever the batch: against the network called by hand."""
    network = load_classifier(clf).model
    images = pictures(3, 16, 16)
    by_hand: Tensor = network(to_float(images))
    torch.testing.assert_close(open_evaluator(clf).logits(images), by_hand, atol=1e-5, rtol=1e-5)
