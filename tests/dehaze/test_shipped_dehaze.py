"""The model `dehaze` that comes with the package: it takes haze away, and each way to break it has its own message."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minidiff.data import landscapes
from minidiff.data.config import Haze
from minidiff.data.haze import FARTHEST, HazyPair, add_haze, compressed
from minidiff.dehaze.config import DEHAZE, ClearRequest
from minidiff.dehaze.doubts import doubts
from minidiff.dehaze.pictures import clear_away
from minidiff.dehaze.run import DehazeRun, load_dehaze
from minidiff.errors import UserError
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.quality import psnr
from minidiff.networks import tiles
from minidiff.runs.folder import MODEL
from minidiff.runs.shipped import MODELS

DAY = Haze(beta=(0.8, 0.8), airlight=(0.8, 0.8), damage=0)  # haze by day, in which the far end is hardly seen


def landscape(number: int, size: int = 128, haze: Haze = DAY) -> HazyPair:
    """A drawn landscape that no training sees, behind haze."""
    random = np.random.default_rng([9, number])
    picture, depth = landscapes.draw(size, random)
    return add_haze(picture, (FARTHEST * np.minimum(depth / 30, 1)).astype(np.float32), haze, random)


def nearness(made: Tensor, pair: HazyPair) -> float:
    return psnr(to_uint8(made)[0], to_uint8(pair.clear)[0])


@pytest.fixture(scope="module")
def run() -> DehazeRun:
    return load_dehaze(DEHAZE, precision="fp32")


def test_haze_goes(run: DehazeRun) -> None:
    """Of five landscapes, by 2 dB in the mean for either stage; and nothing looks wrong."""
    gains = []
    for number in range(5):
        pair = landscape(number)
        guess, refined, _ = clear_away(run, pair.hazy, ClearRequest())
        assert refined is not None and doubts(pair.hazy, guess, refined, run.noise_left(guess)) == []
        gains.append([nearness(made, pair) - nearness(pair.hazy, pair) for made in (guess.clear, refined)])
    assert min(np.mean(gains, axis=0)) > 2


@pytest.mark.parametrize("sigma", [0, 25, 60])
def test_noise_in_the_picture_is_no_fault_of_the_weights(run: DehazeRun, sigma: float) -> None:
    """Noise grows where the haze is taken off, and stage 2 rightly takes it: that is not what its checksum measures."""
    pair = landscape(1, haze=Haze(beta=(0.9, 0.9), airlight=(0.9, 0.9), damage=0))
    noise = torch.randn(pair.hazy.shape, generator=torch.Generator().manual_seed(1))
    hazy = (pair.hazy + sigma / 127.5 * noise).clamp(-1, 1)
    guess, refined, _ = clear_away(run, hazy, ClearRequest())
    assert run.noise_left(guess) < 0.15 and doubts(hazy, guess, refined, run.noise_left(guess)) == []


def test_a_picture_without_haze_stays(run: DehazeRun) -> None:
    """A photograph that no training saw: nine tenths of the light come through, and it is changed by a few levels."""
    photograph = to_float(skimage.data.coffee()[None])
    guess, refined, _ = clear_away(run, photograph, ClearRequest())
    assert refined is not None and guess.transmission.mean() > 0.9
    assert psnr(to_uint8(refined)[0], skimage.data.coffee()) > 28


@pytest.mark.parametrize("broken", ["second.conv_in.weight", "second."])
def test_random_weights_of_the_right_shapes_are_told(broken: str, tmp_path: Path) -> None:
    """The published fault: the first convolution of stage 2 is random, all else as trained. And all of stage 2 random.

    They load, as every name and shape is right. What they paint is told by the picture.
    """
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text((MODELS / DEHAZE / "config.json").read_text())
    tensors, random = load_file(MODELS / DEHAZE / MODEL), torch.Generator().manual_seed(0)
    for name, value in tensors.items():
        if name.startswith(broken):
            bound = value[0].numel() ** -0.5 if value.ndim > 1 else 1.0  # as torch begins a convolution
            tensors[name] = (torch.rand(value.shape, generator=random) * 2 * bound - bound).to(value.dtype)
    save_file(tensors, folder / MODEL)
    run = load_dehaze(folder, precision="fp32")
    for haze in (DAY, Haze(damage=1)):  # smooth, and noisy: there the grain of the result tells nothing
        pair = landscape(0, haze=haze)
        guess, refined, _ = clear_away(run, pair.hazy, ClearRequest())
        (said,) = doubts(pair.hazy, guess, refined, run.noise_left(guess))
        assert said.startswith("stage 2 painted noise over a good J")


def test_the_chain_begins_where_J_is_as_noisy(run: DehazeRun) -> None:
    """Low for a clean picture, whose texture stays; higher for noise, and for the blocks of a JPEG."""
    photograph = skimage.data.astronaut()[:192, 128:320]
    pair = add_haze(photograph, np.ones((192, 192), np.float32), DAY, np.random.default_rng(0))
    noise = 0.06 * torch.randn(pair.hazy.shape, generator=torch.Generator().manual_seed(0))
    hazes = [pair.hazy, pair.hazy + noise, compressed(pair.hazy, 40)]
    low, *high = (clear_away(run, hazy, ClearRequest()) for hazy in hazes)
    assert low.start_t is not None and low.refined is not None and low.start_t < 10
    assert all(each.start_t is not None and each.start_t > 25 for each in high)
    assert (low.refined - low.guess.clear).abs().mean() < 2 / 127.5
    fixed = clear_away(run, hazes[0], ClearRequest(start_t=50))
    assert fixed.start_t == 50 and fixed.refined is not None
    assert (fixed.refined - fixed.guess.clear).abs().mean() > 2 * (low.refined - low.guess.clear).abs().mean()


def test_another_stage_1_is_refused(tmp_path: Path) -> None:
    """One weight of stage 1 is another: stage 2 was not trained behind it."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_text((MODELS / DEHAZE / "config.json").read_text())
    tensors = load_file(MODELS / DEHAZE / MODEL)
    name = next(name for name in tensors if name.startswith("first."))
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, folder / MODEL)
    with pytest.raises(UserError, match="another stage 1"):
        load_dehaze(folder)


def test_tiles_make_the_same_picture(run: DehazeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that fits both ways, in one piece and in tiles: less than a hundredth of a level apart."""
    guess = run.guess(landscape(2, size=192).hazy)
    whole = run.refine(guess, steps=2)
    monkeypatch.setattr(tiles, "AT_ONCE", tiles.AT_ONCE // 40)
    assert (run.refine(guess, steps=2) - whole).abs().max() < 0.01 / 127.5
