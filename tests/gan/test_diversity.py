"""diversity.py: as varied as the data is 1, the same few pictures are 0, and the alarm lies between."""

import numpy as np
import pytest

from minidiff.data import shapes
from minidiff.gan.diversity import TOO_ALIKE, diversity, nearest_other
from minidiff.images.convert import Pixels


@pytest.fixture(scope="module")
def pictures() -> Pixels:
    """256 pictures of the shapes, uint8 [256,16,16,3]."""
    return np.stack([shapes.draw(i, 16, split="train") for i in range(256)])


def shuffled(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)


def test_the_distance_to_the_nearest_other_is_that_of_a_loop() -> None:
    """Also where sums of squares pass what float32 holds exactly: two images one grey level apart are 1 apart."""
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), np.uint8)
    images[3] = images[1]
    images[3, 0, 0, 0] ^= 1
    flat = images.reshape(7, -1).astype(float)
    want = [min(np.linalg.norm(a - b) for j, b in enumerate(flat) if j != i) for i, a in enumerate(flat)]
    np.testing.assert_allclose(nearest_other(images), want, rtol=1e-12)
    assert nearest_other(images)[3] == 1
    large = np.full((2, 64, 64, 3), 255, np.uint8)
    large[1, 0, 0, 0] = 254
    assert nearest_other(large).tolist() == [1, 1]


def test_real_images_are_as_varied_as_real_images(pictures: Pixels) -> None:
    """Within 0.2 of 1 for any halves; measured here 0.93 to 1.09."""
    for seed in range(5):
        order = shuffled(256, seed)
        assert abs(diversity(pictures[order[:128]], pictures[order[128:]]) - 1) < 0.2


@pytest.mark.parametrize("modes", [1, 10, 60])
def test_the_same_few_pictures_are_zero(pictures: Pixels, modes: int) -> None:
    """Each several times; and with noise of 4 grey levels on each, still far below the alarm."""
    samples = pictures[np.arange(256) % modes]
    assert diversity(samples, pictures) == 0
    noise = np.random.default_rng(0).normal(0, 4, samples.shape)
    alike = (samples + noise).clip(0, 255).round().astype(np.uint8)
    assert 0 < diversity(alike, pictures) < TOO_ALIKE


def test_a_half_that_is_one_image_is_noticed(pictures: Pixels) -> None:
    samples = pictures[shuffled(256)].copy()
    samples[:140] = samples[0]
    assert diversity(samples, pictures) < TOO_ALIKE


def test_what_is_narrower_or_smoother_than_the_data_is_no_collapse(pictures: Pixels) -> None:
    """Half the contrast is half the distance: 0.5, to the rounding. Noise is more varied than any data."""
    pale = (pictures // 2 + 64).astype(np.uint8)
    assert TOO_ALIKE < diversity(pale, pictures) == pytest.approx(0.5, abs=0.02)
    noise = np.random.default_rng(0).integers(0, 256, pictures.shape, np.uint8)
    assert diversity(noise, pictures) > 1.5


def test_the_fewer_decide_how_many_are_compared(pictures: Pixels) -> None:
    """With more images the nearest is nearer: 32 samples beside 256 images would pass for too varied."""
    assert diversity(pictures[:32], pictures) == diversity(pictures, pictures[:32]) == 1
    of_32, of_256 = (float(np.median(nearest_other(pictures[:count]))) for count in (32, 256))
    assert of_32 > 1.1 * of_256


def test_grey_samples_and_grey_images_in_colour_are_the_same(pictures: Pixels) -> None:
    grey = pictures[..., :1]
    first, second = grey[:128], grey[128:]
    want = diversity(first, second)
    assert diversity(first.repeat(3, axis=3), second) == pytest.approx(want)
    assert diversity(first, second.repeat(3, axis=3)) == pytest.approx(want)


def test_data_that_leave_nothing_to_compare_with(pictures: Pixels) -> None:
    one = pictures[[0] * 8]
    assert diversity(one, one) == diversity(pictures, one) == diversity(pictures, pictures[:1]) == 1


def test_other_forms_are_refused(pictures: Pixels) -> None:
    with pytest.raises(ValueError, match=r"float32 \[256, 16, 16, 3\]"):
        diversity(pictures.astype(np.float32), pictures)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be compared"):
        diversity(pictures[:, :8], pictures)
