"""PSNR and SSIM against scikit-image and values worked out by hand; LPIPS against its formula."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision

from minidiff.errors import UserError
from minidiff.images.quality import lpips, lpips_network, psnr, ssim


def pair(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture, and the same with noise."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(0, 9, shape), axis=0) + 128
    noisy = smooth + rng.normal(0, 20, shape)
    return tuple(np.clip(x, 0, 255).astype(np.uint8) for x in (smooth, noisy))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(11, 11), (40, 33), (40, 33, 3), (20, 64, 1)])
def test_equal_to_scikit_image(shape: tuple[int, ...]) -> None:
    """Fails on a window of another width (5e-3), a border counted in, the sample covariance, channels mixed."""
    metrics = pytest.importorskip("skimage.metrics")
    image, reference = pair(*shape)
    assert psnr(image, reference) == pytest.approx(metrics.peak_signal_noise_ratio(reference, image), abs=1e-10)
    theirs = metrics.structural_similarity(
        reference,
        image,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2 if len(shape) == 3 else None,
    )
    assert ssim(image, reference) == pytest.approx(theirs, abs=1e-10)


def test_by_hand() -> None:
    """Off by 5 everywhere: 10 log10(255^2 / 25) dB. Flat images: only the first factor of SSIM is left."""
    grey, lighter = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 105, np.uint8)
    assert psnr(lighter, grey) == pytest.approx(10 * math.log10(255**2 / 25))
    c1 = (0.01 * 255) ** 2
    assert ssim(lighter, grey) == pytest.approx((2 * 100 * 105 + c1) / (100**2 + 105**2 + c1))
    assert psnr(grey, grey) == math.inf and ssim(grey, grey) == 1


def test_what_cannot_be_compared() -> None:
    image, _ = pair(12, 12, 3)
    with pytest.raises(UserError, match="cannot be compared"):
        psnr(image, image[:, :11])
    with pytest.raises(UserError, match="11x11"):
        ssim(image[:10], image[:10])
    with pytest.raises(ValueError, match="uint8"):
        psnr(image / 255, image)  # type: ignore[arg-type]


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of downloads, from which the network is opened anew."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    lpips_network.cache_clear()
    yield tmp_path
    lpips_network.cache_clear()


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_its_formula(channels: int, monkeypatch: pytest.MonkeyPatch, torch_home: Path) -> None:
    """Eq. 1 of Zhang et al. 2018 by hand, in float64, in an AlexNet of random weights with the published last layer.

    Fails when pixels are handed over in [0, 1] (0.0026 in place of 0.019) or in [0, 255].
    """
    package = pytest.importorskip("lpips")
    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet(weights=None)
    monkeypatch.setattr("torchvision.models.alexnet", lambda *arguments, **options: alexnet)
    image, reference = pair(40, 36, channels)
    found = lpips(image, reference)
    assert lpips(image, image) == 0

    head = torch.load(Path(package.__file__).parent / "weights/v0.1/alex.pth", "cpu", weights_only=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    x = torch.tensor(np.stack([image, reference]).repeat(3 // channels, 3)).double() / 255
    x = ((x - mean) / deviation).permute(0, 3, 1, 2)
    total, layer = 0.0, 0
    for step in alexnet.features.double()[:12]:
        x = step(x.clone())
        if isinstance(step, torch.nn.ReLU):
            unit = x / x.norm(dim=1, keepdim=True)
            weights = head[f"lin{layer}.model.1.weight"].double()[0, :, 0, 0]
            total += float(((unit[0] - unit[1]) ** 2 * weights[:, None, None]).sum(0).mean())
            layer += 1
    assert layer == 5 and found == pytest.approx(total, rel=1e-3)  # the package rounds mean and deviation


def test_lpips_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, torch_home: Path) -> None:
    """The package, or AlexNet's weights: one line each, that says what to fetch. A later call tries again."""
    image, reference = pair(32, 32, 3)
    with pytest.raises(UserError, match="at least 31 pixels a side"):
        lpips(image[:30], reference[:30])
    with pytest.raises(UserError, match="cannot be compared"):
        lpips(image, reference[:31])
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "lpips", None)
        with pytest.raises(UserError, match=r"pip install 'minidiff\[lpips\]'"):
            lpips(image, reference)
    pytest.importorskip("lpips")

    def no_net(*arguments: object, **options: object) -> None:
        raise URLError("no net")

    monkeypatch.setattr("torch.hub.urlopen", no_net)
    with pytest.raises(UserError) as caught:
        lpips(image, reference)
    place = torch_home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    place.write_bytes(b"<html>")
    with pytest.raises(UserError, match="neither read nor downloaded"):
        lpips(image, reference)
    text = str(caught.value)
    assert "\n" not in text and "no net" in text and str(torch_home / "hub" / "checkpoints") in text
    assert "alexnet-owt-7be5be79.pth (244 MB, from https://download.pytorch.org/models/alexnet" in text
