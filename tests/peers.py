"""The peers of the FID network, pytorch-fid and torch-fidelity, with the same seeded random weights as ours.

For the tests and the benchmark alone; nothing in the package rests on them.
"""

from pathlib import Path
from unittest import mock

import numpy as np
import pytorch_fid.inception
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from minidiff.images.convert import Pixels
from minidiff.networks.inception import Inception


def pictures(count: int, height: int, width: int, seed: int = 0) -> Pixels:
    """uint8 [count,height,width,3]: smooth colours of varying contrast and brightness, with some noise."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.normal(size=(count, 3, 7, 7)))
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic").permute(0, 2, 3, 1).numpy()
    brightness, contrast = random.uniform(80, 180, (count, 1, 1, 1)), random.uniform(20, 90, (count, 1, 1, 1))
    noise = random.normal(size=smooth.shape) * random.uniform(0, 40, (count, 1, 1, 1))
    return np.clip(brightness + contrast * smooth + noise, 0, 255).astype(np.uint8)


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """566 tensors under the published names, under which activations keep their size and pictures differ to the end.

    The stored statistics of the batch norms are near those that the convolutions have on eight pictures: then what all
    pictures share does not drown, layer by layer, what tells them apart. The filters are small, so that the variances
    are (0.005 to 0.1), and the eps of 0.001 is seen in the features.
    """
    generator = torch.Generator().manual_seed(seed)
    network = Inception().requires_grad_(False).train()

    def uniform(like: Tensor, low: float, high: float) -> None:
        like.uniform_(low, high, generator=generator)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(std=(0.05 / fan_in) ** 0.5, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the one batch that follows
            uniform(module.weight, 0.7, 1.1)
            module.bias.normal_(0.7, 0.4, generator=generator)
    network.fc.weight.normal_(std=0.05, generator=generator)
    network.fc.bias.normal_(std=0.5, generator=generator)
    small = torch.from_numpy(pictures(8, 64, 64, seed)).permute(0, 3, 1, 2) / 127.5 - 1
    network(F.interpolate(small, size=(299, 299), mode="bilinear"))
    weights = network.state_dict()
    for name, tensor in weights.items():
        if name.endswith("running_var"):
            tensor *= torch.empty_like(tensor).uniform_(0.8, 1.25, generator=generator)
        elif name.endswith("running_mean"):
            std = weights[name.replace("mean", "var")].sqrt()
            tensor += std * torch.empty_like(std).normal_(std=0.1, generator=generator)
    return weights


def weights_file(folder: Path, seed: int = 0) -> Path:
    """The random weights as a file of 96 MB in this folder, made once."""
    path = folder / f"random-{seed}.pth"
    if not path.exists():
        torch.save(random_weights(seed), path)
    return path


def pytorch_fid_network(weights: Path, *dims: int) -> nn.Module:
    """pytorch-fid's network, which gives a list of maps: one for each of these dims, in rising order."""
    given = torch.load(weights, weights_only=True)
    with mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: given):
        blocks = [pytorch_fid.inception.InceptionV3.BLOCK_INDEX_BY_DIM[d] for d in dims or (2048,)]
        return pytorch_fid.inception.InceptionV3(blocks).eval()


@torch.no_grad()
def pytorch_fid_features(network: nn.Module, images: Pixels) -> tuple[Tensor, ...]:
    """uint8 [N,H,W,3] -> [N,dims] for each of its dims, by the steps of pytorch_fid.fid_score: to [0,1], the mean."""
    batch = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous().float() / 255
    return tuple(F.adaptive_avg_pool2d(maps, 1).flatten(1) for maps in network(batch))


def torch_fidelity_network(weights: Path, *features: str) -> nn.Module:
    """torch-fidelity's network, which gives these of 64, 192, 768, 2048, logits_unbiased, logits."""
    wanted = list(features or ("2048",))
    return FeatureExtractorInceptionV3("inception-v3-compat", wanted, feature_extractor_weights_path=str(weights))


@torch.no_grad()
def torch_fidelity_features(network: nn.Module, images: Pixels) -> tuple[Tensor, ...]:
    """uint8 [N,H,W,3] -> what the network was asked for, in that order."""
    return network(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous())
