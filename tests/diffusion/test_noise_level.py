"""The noise of an image, and the timestep it belongs to: on photographs whose noise is known."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from minidiff.diffusion import noise_level
from minidiff.diffusion.noise_level import (
    HARDLY_ANY,
    luma_deviation,
    noise_sigma,
    smallest_deviation,
    start_from,
    timestep_for,
    white_deviation,
)
from minidiff.diffusion.process import q_sample
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.images.convert import to_float, to_uint8
from minidiff.images.files import crop_resize

PHOTOS = ["astronaut", "chelsea", "coffee", "rocket"]
TIMESTEPS = [20, 35, 50, 100, 200, 350, 500]


def photo(name: str, size: int = 256) -> Tensor:
    """One of scikit-image's photographs: float [1,3,size,size]."""
    data = pytest.importorskip("skimage.data")
    return to_float(crop_resize(getattr(data, name)(), size)[None].copy())


def noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def misses(x0: Tensor, schedule: Schedule) -> list[int]:
    """How far the chosen t is from the true one, for x_t made at each of TIMESTEPS, undone to the image's scale."""
    found = []
    for t in TIMESTEPS:
        x_t = q_sample(schedule, x0, torch.tensor([t]), noise(x0, t))
        image = x_t / math.sqrt(schedule.alphas_cumprod[t])
        start = start_from(schedule, image)
        found.append(start.t - t)
        if start.t == t:
            assert torch.allclose(start.x, x_t, atol=1e-5)
    return found


@pytest.mark.parametrize("name", PHOTOS)
def test_the_timestep_of_photographs(name: str) -> None:
    """Within 5 of 1000 at 256x256 (1 seen), 20 at 32x32 (12 seen). Fails by hundreds when the estimate is taken for the
    noise of x_t, which is smaller by sqrt(alpha_bar), and by 13 with the Laplacian's median (Immerkaer)."""
    schedule = Schedule.linear()
    assert max(map(abs, misses(photo(name), schedule))) <= 5
    assert max(map(abs, misses(photo(name, 32), schedule))) <= 20


@pytest.mark.parametrize("name", PHOTOS)
def test_a_large_photograph_is_measured_in_some_of_its_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eleventh of them gives the noise to 3% (1% seen), in memory that does not grow with the picture."""
    image = photo(name, 512) + 0.2 * noise(photo(name, 512), 0)
    monkeypatch.setattr(noise_level, "MOST_PATCHES", 512 * 512 // 10)
    patches = []
    monkeypatch.setattr(noise_level, "smallest_deviation", lambda of: patches.append(of) or smallest_deviation(of))
    assert abs(noise_sigma(image) - 0.2) < 0.006
    assert patches[0].shape == (27, math.ceil(510 / 11) * 510)


@pytest.mark.parametrize("name", PHOTOS)
def test_the_timestep_of_grey_photographs(name: str) -> None:
    """One channel tells less: within 50 of 1000, most within 20. Grey repeated in three channels is the same image."""
    grey = photo(name).mean(dim=1, keepdim=True)
    found = np.abs(misses(grey, Schedule.linear()))
    assert found.max() <= 50 and np.mean(found <= 20) > 0.8
    noisy = grey + 0.2 * noise(grey, 0)
    assert noise_sigma(noisy.expand(-1, 3, -1, -1)) == noise_sigma(noisy)


@pytest.mark.parametrize("sigma", [10 / 255, 25 / 255, 40 / 255])
@pytest.mark.parametrize("name", PHOTOS)
def test_noise_in_a_file(name: str, sigma: float) -> None:
    """Of 8 bits, clipped at black and white: within 5%. Without leaving out what is clipped, up to 12% is missing."""
    clean = photo(name)
    noisy = to_float(to_uint8(clean + 2 * sigma * noise(clean, 0)))
    assert noise_sigma(noisy) == pytest.approx(2 * sigma, rel=0.05)


def in_jpeg(image: Tensor, quality: int, colours: str) -> Tensor:
    """The image as it comes out of a JPEG file: float [1,3,H,W]."""
    data = io.BytesIO()
    Image.fromarray(to_uint8(image)[0]).save(data, "JPEG", quality=quality, subsampling=colours)
    return to_float(np.array(Image.open(data))[None])


@pytest.mark.parametrize(("quality", "sigma"), [(95, 10), (95, 25), (85, 25), (75, 25)])
@pytest.mark.parametrize("name", PHOTOS)
def test_noise_in_a_jpeg_file_with_colours_at_half_size(name: str, quality: int, sigma: float) -> None:
    """Within 20%; what quantisation takes and adds is not known. By the colours alone it would be 1 to 4 of 255, and
    without telling texture from noise 34% too much for 10 in the astronaut."""
    clean = photo(name)
    noisy = to_float(to_uint8(clean + sigma / 127.5 * noise(clean, 0)))
    found = in_jpeg(noisy, quality, "4:2:0")
    assert 127.5 * noise_sigma(found) == pytest.approx(sigma, rel=0.2)
    assert 127.5 * white_deviation(found) < 0.3 * sigma


@pytest.mark.parametrize("name", PHOTOS)
def test_a_clean_jpeg_file_and_a_png_are_measured_in_colour_as_ever(name: str) -> None:
    """Also with noise of 5, 10 and 25 in a PNG, and none of it in a JPEG. Where colours are white, the luma is not
    asked. Fails if the luma always counts: that of a clean photograph shows up to 6 of 255."""
    clean = photo(name)
    images = [to_float(to_uint8(clean + sigma / 127.5 * noise(clean, 0))) for sigma in (0, 5, 10, 25)]
    images += [in_jpeg(clean, quality, "4:2:0") for quality in (50, 75, 90)]
    for image in images:
        assert noise_sigma(image) == white_deviation(image)
    for image in (images[0], *images[4:]):
        assert noise_sigma(image) < HARDLY_ANY


def test_fine_texture_is_no_noise() -> None:
    """Tinted grass has 13 of 255 in its luma, and three times as much in pixels of twice the size: nothing to remove.
    Fails when the luma at full size alone is asked.

    A picture too small to be halved is measured in colour.
    """
    data = pytest.importorskip("skimage.data")
    grass = to_float(data.grass()[None, :256, :256, None]) * torch.tensor([1.0, 0.85, 0.6]).view(1, 3, 1, 1)
    assert 127.5 * white_deviation(grass.mean(1, keepdim=True)) > 8
    for image in (grass, in_jpeg(grass, 90, "4:2:0")):
        assert noise_sigma(image) < HARDLY_ANY
    small = in_jpeg(photo("coffee", 32) + 0.2 * noise(photo("coffee", 32), 0), 95, "4:2:0")[..., :12, :12]
    assert noise_sigma(small) == white_deviation(small)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_salt_and_pepper_are_no_noise_of_the_luma(share: float) -> None:
    """They are equal in all colours, so the luma has 40 to 100 of 255. They would be smeared, not found as holes."""
    random = np.random.default_rng(0)
    hit, value = random.random((256, 256)) < share, 2.0 * random.integers(0, 2, (256, 256)) - 1
    for name in PHOTOS:
        image = torch.where(torch.from_numpy(hit), torch.from_numpy(value).float(), photo(name))
        assert 127.5 * luma_deviation(image) > 30
        assert noise_sigma(image) == white_deviation(image)


def test_pure_noise_and_none() -> None:
    x = noise(torch.empty(1, 3, 64, 64), 0)
    assert noise_sigma(3 * x) == pytest.approx(3, rel=0.03)
    smooth = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    assert noise_sigma(smooth) < 1e-6 and start_from(Schedule.linear(), smooth).t == 0
    assert noise_sigma(torch.zeros(1, 1, 16, 16)) == 0


@pytest.mark.parametrize("schedule", [Schedule.linear(), Schedule.cosine(100), Schedule.linear(50).zero_terminal_snr()])
def test_every_timestep_finds_itself(schedule: Schedule) -> None:
    """All levels there are, an infinite one at zero SNR excepted; between two levels the nearer one, as a ratio."""
    levels = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()
    for t, level in enumerate(levels.tolist()):
        if level < math.inf:
            assert timestep_for(schedule, level) == t
    a, b = levels[3:5].tolist()
    assert timestep_for(schedule, math.sqrt(a * b) * 0.999) == 3
    assert timestep_for(schedule, math.sqrt(a * b) * 1.001) == 4
    assert timestep_for(schedule, 0) == 0 and timestep_for(schedule, 1e9) >= len(levels) - 2


def test_what_cannot_be_measured() -> None:
    for sigma in (-1, math.nan, math.inf):
        with pytest.raises(UserError, match="deviation"):
            timestep_for(Schedule.linear(), sigma)
    with pytest.raises(UserError, match="too small"):
        noise_sigma(torch.zeros(1, 3, 7, 9))
    with pytest.raises(ValueError, match="one image"):
        noise_sigma(torch.zeros(2, 3, 16, 16))
