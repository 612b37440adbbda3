"""Salt and pepper, and JPEG blocks: said in a line when a picture is denoised, and no line for anything else."""

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageDraw
from restorations import restore

from minidiff.diffusion.noise_level import noise_sigma
from minidiff.images.blind import block_step, faults, outliers
from minidiff.images.convert import Pixels, to_float
from minidiff.images.files import crop_resize, read_image, write_image
from minidiff.images.quality import psnr


def photograph() -> Pixels:
    return crop_resize(skimage.data.astronaut(), 256)


def drawing() -> Pixels:
    """Lines one pixel wide, letters, and areas of pure black and white."""
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    for k in range(40):
        draw.line([(6 * k, 0), (255 - 5 * k, 255)], fill="black")
        draw.text((6 * k, 6 * k), "Hello", fill="black")
    draw.rectangle((40, 40, 120, 100), fill="black")
    return np.array(image)


def noisy(clean: Pixels, sigma: float) -> Pixels:
    noise = np.random.default_rng(0).normal(0, sigma, clean.shape)
    return np.clip(np.round(clean + noise), 0, 255).astype(np.uint8)


def salted(clean: Pixels, share: float) -> Pixels:
    random = np.random.default_rng(0)
    hit, value = random.random((*clean.shape[:2], 1)) < share, 255 * random.integers(0, 2, (*clean.shape[:2], 1))
    return np.where(hit, value, clean).astype(np.uint8)


def compressed(clean: Pixels, quality: int) -> Pixels:
    data = io.BytesIO()
    Image.fromarray(clean).save(data, "JPEG", quality=quality)
    return np.array(Image.open(data))


def found(pixels: Pixels, is_jpeg: bool = False) -> list[str]:
    x = to_float(pixels[None])
    return faults(x, noise_sigma(x), is_jpeg)


def grey(clean: Pixels) -> Pixels:
    return clean.mean(2, keepdims=True).round().astype(np.uint8)


@pytest.mark.parametrize("sigma", [0, 15, 25, 50])
def test_there_are_no_false_alarms(sigma: float) -> None:
    """Also in grey, where noise of 50 alone makes many pixels black or white."""
    assert found(noisy(photograph(), sigma)) == found(noisy(grey(photograph()), sigma).repeat(3, axis=2)) == []
    assert found(noisy(drawing(), sigma)) == []
    flat = np.full((16, 16, 3), 255, np.uint8)
    assert found(flat) == found(flat[:8, :9]) == []


def test_salt_and_blocks_are_found() -> None:
    (line,) = found(salted(photograph(), 0.05))
    assert "% of the pixels are black or white" in line and "`mask` auto" in line
    for is_jpeg, mend in ((True, "`task` jpeg"), (False, "`noise`")):
        (line,) = found(compressed(photograph(), 15), is_jpeg)
        assert "blocks of a JPEG" in line and mend in line
    assert found(compressed(photograph(), 95)) == []
    assert len(found(compressed(photograph(), 15)[3:, 5:])) == 1  # where a turned or cropped picture has its blocks
    assert block_step(to_float(compressed(photograph(), 30)[None])) > 1.3


def test_outliers_are_where_salt_and_pepper_fell() -> None:
    """Nine of ten, and hardly any others. Not where it was dark or bright before: there nothing is to be mended."""
    clean, damaged = photograph(), salted(photograph(), 0.2)
    x = to_float(damaged[None])
    hit = torch.from_numpy((np.abs(clean.astype(int) - damaged) > 60).all(2))
    marked = outliers(x, noise_sigma(x))
    assert marked[hit].float().mean() > 0.9 and marked[~hit].float().mean() < 0.05


def test_the_command_says_so_and_fills_the_holes(
    finisher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer of `--mask auto` is 8 dB nearer to the truth, by a network that has learned nothing."""
    monkeypatch.chdir(tmp_path)
    clean = photograph()[64:128, 64:128]
    write_image("salt.png", salted(clean, 0.05))
    assert restore("salt.png", "--model", finisher) == 0
    assert "Warning: salt.png: " in (said := capsys.readouterr().err) and "--task inpaint with the --mask auto" in said
    assert restore("salt.png", "--model", finisher, "--task", "inpaint", "--mask", "auto", "--out", "auto.png") == 0
    assert psnr(read_image("auto.png"), clean) > psnr(read_image("salt.png"), clean) + 8
    write_image("flat.png", np.full((20, 20, 3), 99, np.uint8))
    assert restore("flat.png", "--model", finisher, "--task", "inpaint", "--mask", "auto") == 1
    assert "--mask of auto has no hole" in capsys.readouterr().err
