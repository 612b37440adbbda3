"""A run of any size: chains from pictures of every height and width, against the chain written out by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny, tiny_training
from torch import Tensor, nn

import minidiff
from minidiff import cli
from minidiff.ddpm import chains
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.diffusion.process import q_sample
from minidiff.errors import UserError
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import read_image, write_image
from minidiff.networks import tiles
from minidiff.networks.unet import UNet
from minidiff.rng import sample_generators

FREE = {"channels": (8, 16, 16), "layers_per_block": 1, "attention": (False,) * 3, "mid_attention": False}


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for 16x16 pictures, without attention and with the norm over channels; its weights are random."""
    torch.manual_seed(3)
    network = UNet(16, norm="channel", **FREE)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    folder = tmp_path_factory.mktemp("free") / "run"
    minidiff.save_run(folder, network, minidiff.Schedule.linear(50), prediction="v")
    return folder


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def photo(path: str, width: int, height: int, noise: float = 0) -> str:
    """Write a picture of colours that flow, with noise."""
    y, x = np.mgrid[0:height, 0:width] / 24
    picture = 128 + 90 * np.sin(np.stack([x + y, 2 * x - y, x * y], axis=2))
    picture += noise * np.random.default_rng(0).standard_normal(picture.shape)
    write_image(path, picture.clip(0, 255).round().astype(np.uint8))
    return path


def by_hand(folder: Path, init: Tensor, start_t: int, steps: Sequence[int]) -> Tensor:
    """DDIM from q(x_t | init) with noise number 0 of seed 0, its network on the padded picture: float [1,3,H,W]."""
    run = minidiff.load(folder)
    height, width = init.shape[2:]
    noise = torch.randn(init.shape[1:], generator=sample_generators(0, [0])[0])[None]
    x = q_sample(run.schedule, init, torch.tensor([start_t]), noise)
    for t, below in zip(steps, [*steps[1:], None], strict=True):
        padded = F.pad(x, (0, -width % 4, 0, -height % 4), mode="reflect")
        v = run.model(padded, torch.tensor([t]))[..., :height, :width]
        alpha_bar = run.schedule.alphas_cumprod[t].item()
        x0 = (alpha_bar**0.5 * x - (1 - alpha_bar) ** 0.5 * v).clamp(-1, 1)
        eps = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        last = 1.0 if below is None else run.schedule.alphas_cumprod[below].item()
        x = last**0.5 * x0 + (1 - last) ** 0.5 * eps
    return x


@pytest.mark.parametrize("size", [(53, 37), (7, 30), (16, 16)])
@pytest.mark.parametrize("tiled", [False, True])
def test_the_command_draws_a_picture_at_its_own_size(
    free: Path, size: tuple[int, int], tiled: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three sizes, whole and in tiles: the picture of the chain by hand, to a grey level. 40 and more apart with noise
    of another shape, or with a picture that was cut or resized. The warning of a picture that is shrunk is gone."""
    if tiled:
        monkeypatch.setattr(tiles, "AT_ONCE", 300 * tiles.bytes_a_pixel(minidiff.load(free).config.network))
    name = photo("photo.png", *size)
    assert cli.run(["sample", str(free), "--init", name, "--start-t", "30", "--steps", "3", "--out", "a.png"]) == 0
    printed = capsys.readouterr()
    assert f"photo.png: {size[0]}x{size[1]}, drawn at its own size" in printed.out + printed.err
    assert "shrunk" not in printed.out + printed.err
    found = read_image("a.png").astype(int)
    steps = minidiff.load(free).timesteps("ddim", steps=3, start_t=30)
    with torch.no_grad():
        expected = to_uint8(by_hand(free, to_float(read_image(name)[None]), 30, steps))[0].astype(int)
    assert found.shape == (size[1], size[0], 3)
    assert np.abs(found - expected).max() <= 1


def test_auto_strips_arrays_and_comparisons(free: Path) -> None:
    """All that can be drawn of an init: each has the picture's own size, and the noise is measured at that size."""
    name, sample = photo("noisy.png", 60, 45, noise=20), ["sample", str(free), "--init", "noisy.png", "--start-t"]
    sigma = minidiff.noise_sigma(to_float(read_image(name)[None]))
    assert cli.run([*sample, "auto", "--out", "a.npz", "--progressive", "3"]) == 0
    (image,) = np.load("a.npz")["images"]
    assert image.shape == (45, 60, 3)
    run = minidiff.load(free)
    t = minidiff.timestep_for(run.schedule, sigma)
    (expected,) = run.sample(1, init=to_float(read_image(name)[None]), start_t=t, init_mode="scale")
    assert np.array_equal(to_uint8(expected)[0], image)
    height, width, _ = read_image("a-progressive.png").shape
    assert width >= 3 * 60 and height >= 2 * 45
    assert cli.run([*sample, "20", "--compare", "ddim:2,dpm++:2", "--num", "2", "--out", "b.png"]) == 0
    height, width, _ = read_image("b.png").shape
    assert width >= 2 * 60 and height >= 2 * 45


def test_several_inits_of_one_size_and_of_two(free: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture is the same alone and among others, where it has the noise of its place; another size is refused."""
    Path("photos").mkdir()
    for number in range(2):
        photo(f"photos/{number}.png", 21, 30, noise=10 * number)
    options = ["--start-t", "20", "--steps", "2"]
    assert cli.run(["sample", str(free), "--init", "photos", *options, "--out", "both"]) == 0
    assert cli.run(["sample", str(free), "--init", "photos/0.png", *options, "--out", "first.png"]) == 0
    assert np.abs(read_image("both/000000.png").astype(int) - read_image("first.png")).max() <= 1
    assert read_image("both/000001.png").shape == (30, 21, 3)
    photo("photos/2.png", 22, 30)
    assert cli.run(["sample", str(free), "--init", "photos", *options, "--out", "three"]) != 0
    assert "0.png and 2.png: 21x30 and 22x30" in capsys.readouterr().err
    assert not Path("three").exists()


def test_large_pictures_are_drawn_a_few_at_a_time(free: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pictures, in batches whose size the memory decides; at the run's own size the user's batch stays."""
    run, init = minidiff.load(free), torch.rand(5, 3, 12, 20) * 2 - 1
    options = {"start_t": 20, "steps": 2}
    (together,) = run.sample(5, init=init, **options)
    monkeypatch.setattr(chains, "MOST_PIXELS", 2 * 12 * 20 + 1)
    batches = list(run.sample(5, init=init, **options))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(batches), together, rtol=0, atol=1e-4)
    assert [len(batch) for batch in run.sample(5, steps=2)] == [5]


def test_the_noise_depends_on_seed_number_and_shape(free: Path) -> None:
    """Sample k of a seed and a shape begins with the same noise in any batch, with other noise for another k."""
    run = minidiff.load(free)
    init = torch.zeros(1, 3, 10, 14)
    options = {"start_t": 49, "init_mode": "noise", "seed": 2}
    three, _ = run.start([0, 1, 2], init=init.expand(3, -1, -1, -1), **options)
    alone, _ = run.start([2], init=init, **options)
    assert torch.equal(three[2:], alone) and not torch.equal(three[0], three[1])
    assert run.start([2], seed=2)[0].shape == (1, 3, 16, 16)  # without an init: the size of the training


def test_images_of_any_size_from_noise(free: Path) -> None:
    """`--size` is width x height. Sample k is the same in any batch; other than at another size, and no crop of it."""
    assert cli.run(["sample", str(free), "-n", "3", "--size", "26x11", "--steps", "2", "--out", "a.npz"]) == 0
    images = np.load("a.npz")["images"]
    assert images.shape == (3, 11, 26, 3)
    run = minidiff.load(free)
    alone = run.draw([2], size=(11, 26), sampler="dpm++sde", steps=2)
    assert np.abs(to_uint8(alone)[0].astype(int) - images[2]).max() <= 1
    assert run.start([0], size=(11, 26))[0].shape == (1, 3, 11, 26)


def test_what_a_run_of_any_size_does_not_take(free: Path, trained: Path) -> None:
    """Other channels, and images without pixels; a run with attention takes its own size alone."""
    run = minidiff.load(free)
    for shape in ((1, 1, 20, 20), (1, 3, 0, 20)):
        with pytest.raises(UserError, match="this run's images have 3 channels and any size. Convert it."):
            list(run.sample(1, init=torch.zeros(shape), start_t=3))
    with pytest.raises(UserError, match=r"shape \[3, 20, 20\], and this run's images have \[3, 16, 16\]. Resize it."):
        list(minidiff.load(trained).sample(1, init=torch.zeros(1, 3, 20, 20), start_t=3))


def test_a_run_with_attention_still_shrinks_a_picture(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo("photo.png", 40, 32)
    assert cli.run(["sample", str(trained), "--init", "photo.png", "--start-t", "3", "--out", "a.png"]) == 0
    printed = capsys.readouterr()
    assert "the picture is shrunk to that" in printed.err and read_image("a.png").shape == (16, 16, 3)


def test_a_training_makes_such_a_run(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its preset; a training that begins with its weights keeps its network. `minidiff info` says what it is."""
    preset = tiny()
    network = replace(preset.network, norm="channel", attention=(False, False), mid_attention=False, dropout=0.0)
    monkeypatch.setitem(DDPM_PRESETS, "tiny", replace(preset, network=network))
    assert cli.run(tiny_training(photos, "--out", "run")) == 0
    run = minidiff.load("run")
    assert run.any_size
    (image,) = run.sample(1, init=torch.zeros(1, 3, 9, 50), start_t=10, steps=2)
    assert image.shape == (1, 3, 9, 50)
    capsys.readouterr()
    assert cli.run(["info", "run"]) == 0
    assert "no attention, channel norm: takes images of any size" in capsys.readouterr().out
    short = ["--steps", "2", "--batch-size", "4", "--sample-every", "60", "--device", "cpu", "--out", "more"]
    assert cli.run(["train", "ddpm", "--init", "run", "--dataset", "folder", "--data-dir", str(photos), *short]) == 0
    assert minidiff.load("more").any_size
