"""The FID network against pytorch-fid's and torch-fidelity's, with the same seeded random weights."""

from pathlib import Path

import peers
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff.networks.inception import DIMS, Inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peers.weights_file(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def network(weights: Path) -> Inception:
    """Ours, as it is loaded: not folded."""
    network = Inception()
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Two pictures of the network's own size, in [-1, 1]."""
    return torch.from_numpy(peers.pictures(2, 299, 299)).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def by_dims(network: Inception, x: Tensor) -> dict[int, Tensor]:
    return {dims: network(x, dims) for dims in DIMS}


@pytest.fixture(scope="module")
def expected(network: Inception, images: Tensor) -> dict[int, Tensor]:
    return by_dims(network, images)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of any feature, in units of the features' mean size."""
    return ((ours - theirs).abs().max() / theirs.abs().mean()).item()


def test_names_and_shapes_are_the_published_ones(weights: Path) -> None:
    """566 tensors; both peers load them without a word (see `peers`), and have no others."""
    own = {name: tensor.shape for name, tensor in Inception().state_dict().items()}
    theirs = peers.torch_fidelity_network(weights).state_dict()
    assert own == {name: tensor.shape for name, tensor in theirs.items()}
    assert len(own) == 566
    assert own["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3) and own["fc.weight"] == (1008, 2048)


def test_the_weights_tell_pictures_apart(expected: dict[int, Tensor]) -> None:
    """Random weights are of use only if features neither vanish nor explode, and still differ between pictures."""
    for features in expected.values():
        assert 0.3 < features.abs().mean() < 3
        assert distance(features[:1], features[1:]) > 0.5


def test_equal_to_pytorch_fid(expected: dict[int, Tensor], images: Tensor, weights: Path) -> None:
    """At all four depths, within 1e-4 of a feature's mean size (seen: 1e-6 to 1e-5).

    Other defects seen: 0.004 with an eps of 1e-5, 0.5 where the last block's max-pool is a mean, 0.02 where one mean
    counts the padding.
    """
    theirs = peers.pytorch_fid_network(weights, *DIMS)
    theirs.resize_input = theirs.normalize_input = False
    with torch.no_grad():
        for dims, maps in zip(DIMS, theirs(images), strict=True):
            assert distance(expected[dims], F.adaptive_avg_pool2d(maps, 1).flatten(1)) < 1e-4, dims


def test_logits_are_torch_fidelitys(network: Inception, weights: Path) -> None:
    """With the bias and without."""
    features = torch.rand(3, 2048)
    theirs = peers.torch_fidelity_network(weights)
    with torch.no_grad():
        assert torch.allclose(network.logits(features), theirs.fc(features), atol=1e-5)
        assert torch.allclose(network.logits(features, bias=False), theirs.fc(features) - theirs.fc.bias, atol=1e-5)
        assert theirs.fc.bias.abs().max() > 0.5


def test_folding_changes_rounding_only(expected: dict[int, Tensor], images: Tensor, network: Inception) -> None:
    """Folded and channels_last: the same features; no batch norm is left."""
    folded = Inception()
    folded.load_state_dict(network.state_dict())
    folded.fold()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    for dims, features in by_dims(folded, images).items():
        assert distance(features, expected[dims]) < 3e-5, dims


def test_goes_no_deeper_than_needed(network: Inception) -> None:
    """64 features need three convolutions, 192 five."""
    seen: list[nn.Module] = []
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(lambda module, *_: seen.append(module)) for module in convolutions]
    counts = []
    for dims in DIMS:
        seen.clear()
        assert network(torch.zeros(1, 3, 75, 75), dims).shape == (1, dims)
        counts.append(len(seen))
    for hook in hooks:
        hook.remove()
    assert counts == [3, 5, 70, 94] and len(convolutions) == 94
