"""Each corruption against what it must be: a formula, scikit-image on the same map, or MNIST-C's own definition."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.stats
import skimage.color
import skimage.data
import skimage.feature
import skimage.transform
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from minidiff import load_data
from minidiff.data import damage, damage_light, damage_shape, shapes
from minidiff.data.corruptions import CORRUPTIONS, corrupt
from minidiff.data.datasets import DEBIAN
from minidiff.errors import UserError
from minidiff.images.convert import Pixels
from minidiff.images.files import crop_resize

HARM = [name for name in CORRUPTIONS if name != "identity"]
SEVERITIES = (1, 2, 3, 4, 5)


def digits(count: int, size: int) -> Pixels:
    """Digits as MNIST has them, uint8 [count,size,size,1]: white on black, 20 pixels of 28 long, a little turned."""
    random = np.random.default_rng(0)
    font = ImageFont.load_default(200)
    images = []
    for number in range(count):
        image = Image.new("L", (300, 300))
        ImageDraw.Draw(image).text((150, 150), str(number % 10), 255, font, anchor="mm", stroke_width=6)
        image = image.rotate(random.uniform(-15, 15), Image.Resampling.BICUBIC)
        image = image.crop(image.getbbox())
        image.thumbnail((80, 80))
        sheet = Image.new("L", (112, 112))
        sheet.paste(image, ((112 - image.width) // 2, (112 - image.height) // 2))
        images.append(np.array(sheet.resize((size, size), Image.Resampling.LANCZOS))[..., None])
    return np.stack(images)


def photographs(count: int, size: int) -> Pixels:
    """Squares out of a colour photograph, uint8 [count,size,size,3]."""
    random, photo = np.random.default_rng(1), skimage.data.astronaut()
    cuts = [(*random.integers(0, 212, 2), random.integers(200, 300)) for _ in range(count)]
    return np.stack([crop_resize(photo[top : top + side, left : left + side], size) for top, left, side in cuts])


def pictures(kind: str, count: int, size: int) -> Pixels:
    if kind == "digits":
        return digits(count, size)
    if kind == "shapes":
        return shapes.make(count, size)[0]
    if kind == "photographs":
        return photographs(count, size)
    if not DEBIAN.is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    clothes = load_data("fashion-mnist", split="test", image_size=28).images[:count]
    return clothes if size == 28 else np.stack([crop_resize(image, size) for image in clothes])


def random_of(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + index) for index in range(count)]


def floats(images: Pixels) -> Tensor:
    """As a corruption takes them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255


@pytest.fixture(scope="module")
def grey() -> Pixels:
    return digits(12, 28)


@pytest.fixture(scope="module")
def colour() -> Pixels:
    return photographs(12, 28)


# --- all of them ------------------------------------------------------------------------------------------------------


def test_the_names_are_those_of_mnist_c():
    names = """identity shot_noise impulse_noise glass_blur motion_blur shear scale rotate brightness translate stripe
    fog spatter dotted_line zigzag canny_edges"""
    assert list(CORRUPTIONS) == names.split()


def test_identity_changes_nothing():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for severity in SEVERITIES:
        np.testing.assert_array_equal(corrupt(every, "identity", severity, [3]), every)


@pytest.mark.parametrize("kind", ["digits", "fashion-mnist", "shapes", "photographs"])
@pytest.mark.parametrize("size", [28, 32, 64, 96])
def test_more_severity_is_further_from_the_clean_image(kind: str, size: int):
    """On average over some images. With MNIST-C's own spatter, 4 is nearer than 3 (24 for 35 of 255 on digits);
    with its fog they may be alike."""
    count = 700 // size
    images = pictures(kind, count, size)
    for name in HARM:
        changes = [corrupt(images, name, severity, range(count)).astype(float) - images for severity in SEVERITIES]
        distances = [np.sqrt((change**2).mean(axis=(1, 2, 3))).mean() for change in changes]
        assert distances[0] > 1 and (np.diff(distances) > 0).all(), (name, distances)


@pytest.mark.parametrize("name", HARM)
def test_an_image_has_the_same_damage_in_any_batch(name: str, grey: Pixels, colour: Pixels):
    """And another image another one, where anything is drawn."""
    for images in (grey, colour):
        whole = corrupt(images, name, 3, range(12), seed=5)
        assert whole.dtype == np.uint8 and whole.shape == images.shape
        order = [7, 0, 11]
        np.testing.assert_array_equal(corrupt(images[order], name, 3, order, seed=5), whole[order])
        np.testing.assert_array_equal(corrupt(images[4:5], name, 3, np.array([4]), seed=5), whole[4:5])
        twice = corrupt(images[[0] * 12], name, 3, range(12), seed=5)
        drawn = name not in ("scale", "brightness", "stripe", "canny_edges")
        assert (twice != twice[0]).any() == drawn
        assert (corrupt(images, name, 3, range(12), seed=6) != whole).any() == drawn


@pytest.mark.parametrize("name", HARM)
def test_any_size_will_do(name: str):
    random = np.random.default_rng(0)
    for shape in ((2, 8, 8, 1), (1, 45, 45, 3), (2, 24, 40, 3), (1, 40, 24, 1)):
        images = random.integers(0, 256, shape, dtype=np.uint8)
        for severity in (1, 5):
            changed = corrupt(images, name, severity, range(shape[0]))
            assert changed.shape == shape and ((changed != images).any() or severity == 1)
    assert corrupt(np.zeros((0, 8, 8, 1), np.uint8), name, 1, []).shape == (0, 8, 8, 1)


@pytest.mark.parametrize("name", [n for n in HARM if n not in ("shot_noise", "impulse_noise", "canny_edges")])
def test_lengths_grow_with_the_image(name: str, grey: Pixels):
    """Three times as large, an image is about as far from itself (0.84 to 1.13 times): a blur or a shift that is left
    as it was in pixels falls below 0.7, a spatter whose noise is not made stronger to 0."""
    large = grey.repeat(3, axis=1).repeat(3, axis=2)
    for severity in (2, 4):
        near, far = (
            np.sqrt(((corrupt(images, name, severity, range(12)).astype(float) - images) ** 2).mean())
            for images in (grey, large)
        )
        assert 0.75 < far / near < 1.25, far / near


def test_wrong_orders():
    image = np.zeros((1, 8, 8, 1), np.uint8)
    with pytest.raises(UserError, match="unknown corruption 'fogg'. Did you mean 'fog'?"):
        corrupt(image, "fogg", 1, [0])
    for severity in (0, 6):
        with pytest.raises(UserError, match=f"severity {severity} is not one of 1 to 5"):
            corrupt(image, "fog", severity, [0])
    with pytest.raises(ValueError, match="2 numbers for 1 images"):
        corrupt(image, "fog", 1, [0, 1])


# --- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("severity", "pieces"), list(enumerate((60, 25, 12, 5, 3), start=1)))
def test_shot_noise_is_poisson(severity: int, pieces: int):
    """Of 40,000 pixels of 0.2 the mean is 0.2 and the variance 0.2 / c, and the counts are Poisson's (chi squared)."""
    x = torch.full((4, 1, 100, 100), 51 / 255, dtype=torch.float64)
    counts = damage_light.shot_noise(x, severity, random_of(4)) * pieces
    assert counts.mean().item() == pytest.approx(pieces / 5, abs=4 * math.sqrt(pieces / 5 / 40_000))
    assert counts.var().item() == pytest.approx(pieces / 5, rel=0.04)
    seen = np.bincount(counts.flatten().numpy().round().astype(int))
    expected = 40_000 * scipy.stats.poisson.pmf(np.arange(len(seen)), pieces / 5)
    often = expected > 5
    chi = ((seen - expected)[often] ** 2 / expected[often]).sum()
    assert chi < scipy.stats.chi2.ppf(0.9999, often.sum())
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    assert not damage_light.shot_noise(torch.zeros(1, 1, 9, 9).double(), severity, random_of(1)).any()


@pytest.mark.parametrize(("severity", "share"), list(enumerate((0.03, 0.06, 0.09, 0.17, 0.27), start=1)))
def test_impulse_noise_has_its_share(severity: int, share: float):
    """Half of it white, in each channel by itself."""
    x = torch.full((4, 3, 100, 100), 0.4, dtype=torch.float64)
    noisy = damage_light.impulse_noise(x, severity, random_of(4))
    assert set(noisy.unique().tolist()) == {0.0, 0.4, 1.0}
    within = 4 * math.sqrt(share / 120_000)
    assert (noisy == 1).double().mean().item() == pytest.approx(share / 2, abs=within)
    assert (noisy == 0).double().mean().item() == pytest.approx(share / 2, abs=within)
    together = ((noisy != 0.4).double().mean(dim=1) == 1).double().mean()
    assert together < 2 * share**3 + 0.001


# --- blur -------------------------------------------------------------------------------------------------------------


def test_a_gaussian_blur():
    """scipy's, out to 4 sigma, divided by what it makes of white: as Canny's is."""
    x = torch.from_numpy(np.random.default_rng(0).random((2, 1, 20, 33)))
    for sigma in (0.7, 1.5, 4.0):
        blur = [[scipy.ndimage.gaussian_filter(i[0].numpy(), sigma, mode="constant") for i in each]
                for each in (x, torch.ones_like(x))]  # fmt: skip
        np.testing.assert_allclose(damage.blurred(x, sigma)[:, 0], np.array(blur[0]) / blur[1], atol=1e-12)


@pytest.mark.parametrize(("severity", "moved"), list(enumerate((1.1, 1.3, 2.2, 2.5, 3.1), start=1)))
def test_glass_blur_shuffles_as_far_as_a_chain_of_swaps(severity: int, moved: float, monkeypatch: pytest.MonkeyPatch):
    """Every pixel is kept. `moved`: root mean square by which MNIST-C's swaps move a pixel each way, simulated; with
    one jitter for all rounds, or none but the first, this would be 1.6 at severity 3."""
    monkeypatch.setattr(damage_light, "blurred", lambda x, sigma: x)
    at = torch.stack(torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")).double()
    x = torch.cat([at, at[:1] * 28 + at[1:]])[None].repeat(50, 1, 1, 1)
    shuffled = damage_light.glass_blur(x, severity, random_of(50))
    assert (shuffled[:, 2].flatten(1).sort().values == torch.arange(784)).all()
    torch.testing.assert_close(shuffled[:, 0] * 28 + shuffled[:, 1], shuffled[:, 2])  # channels go together
    displacement = (shuffled - x)[:, :2, 6:-6, 6:-6]
    for axis in (0, 1):
        assert (displacement[:, axis] ** 2).mean().sqrt().item() == pytest.approx(moved, rel=0.16)
        assert abs(displacement[:, axis].mean().item()) < 0.1


def line_kernel(severity: int, angle: float) -> np.ndarray:
    """A one-sided Gaussian along a line, drawn point by point: [2 n + 1,n + 1], of which the middle left is the
    start."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    count = int(min(2 * radius, 4 * sigma)) + 1
    kernel = np.zeros((2 * count + 1, count + 2))
    for step in range(count):
        row, column = count + step * math.sin(angle), step * math.cos(angle)
        top, left = math.floor(row), math.floor(column)
        down, right = row - top, column - left
        weight = math.exp(-(step**2) / (2 * sigma**2))
        kernel[top : top + 2, left : left + 2] += weight * np.outer((1 - down, down), (1 - right, right))
    return kernel / kernel.sum()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_a_convolution_with_a_line(severity: int, monkeypatch: pytest.MonkeyPatch):
    """To 1e-9, for angles all over MNIST-C's range; and all light stays that does not leave the image."""
    x = torch.from_numpy(np.random.default_rng(0).random((3, 2, 28, 28)))
    drawn = torch.tensor([[0.0], [0.5], [0.999]], dtype=torch.float64)  # -45 degrees, 0, nearly 45
    monkeypatch.setattr(damage_light, "uniform", lambda random, *shape: drawn)
    blurred = damage_light.motion_blur(x, severity, [])
    for image, result, share in zip(x, blurred, drawn[:, 0], strict=True):
        kernel = line_kernel(severity, (float(share) - 0.5) * math.pi / 2)
        reach = kernel.shape[0] // 2
        for channel, seen in zip(image, result, strict=True):
            padded = np.pad(channel.numpy(), ((reach, reach), (0, kernel.shape[1] - 1)), mode="edge")
            np.testing.assert_allclose(seen, scipy.signal.correlate2d(padded, kernel, mode="valid"), atol=1e-9)
    wide = torch.zeros(3, 1, 28, 28, dtype=torch.float64)
    wide[:, :, 14, 27] = 1  # at the right edge it is repeated beyond it
    wide = torch.nn.functional.pad(wide, (60, 60, 60, 60))
    monkeypatch.setattr(damage_light, "unit", lambda x: 1.0)
    torch.testing.assert_close(damage_light.motion_blur(wide, severity, []).sum(dim=(1, 2, 3)), torch.ones(3).double())


def test_motion_blur_goes_all_ways_within_45_degrees():
    """The centre of a blurred point lies to its left, as far up or down as the angle says."""
    x = torch.zeros(300, 1, 84, 84, dtype=torch.float64)
    x[:, :, 42, 63] = 1
    blurred = damage_light.motion_blur(x, 1, random_of(300))[:, 0]
    rows, columns = (torch.arange(84.0).double() - at for at in (42, 63))
    down, right = (blurred.sum(2) * rows).sum(1), (blurred.sum(1) * columns).sum(1)
    angles = torch.atan2(-down, -right)
    assert right.max() < 0 and angles.abs().max() < math.pi / 4 + 0.01
    assert scipy.stats.kstest(angles.numpy(), scipy.stats.uniform(-math.pi / 4, math.pi / 2).cdf).pvalue > 1e-4


# --- affine maps ------------------------------------------------------------------------------------------------------


def warped(image: Tensor, matrix: list[list[float]], size: int) -> np.ndarray:
    """scikit-image's, about the centre: [C,H,W]."""
    centre = np.full(2, (size - 1) / 2)
    whole = np.eye(3)
    whole[:2, :2] = matrix
    whole[:2, 2] = centre - np.array(matrix) @ centre
    inverse = skimage.transform.AffineTransform(matrix=whole)
    return skimage.transform.warp(image.permute(1, 2, 0).numpy(), inverse, order=1).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [28, 33])
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["shear", "rotate", "scale"])
def test_affine_maps_are_those_of_scikit_image(name: str, severity: int, size: int):
    """To 1e-9, one way or the other, and both ways come."""
    angle, zoom = severity / 5, 1 / (1 - severity / 10)
    matrices = {
        "shear": [[[1, -math.sin(a)], [0, math.cos(a)]] for a in (angle, -angle)],  # its AffineTransform(shear=a), 2019
        "rotate": [[[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]] for a in (angle, -angle)],
        "scale": [[[zoom, 0], [0, zoom]]],
    }[name]
    x = torch.from_numpy(np.random.default_rng(0).random((1, 3, size, size))).expand(12, -1, -1, -1)
    mapped = CORRUPTIONS[name](x, severity, random_of(12)).numpy()
    ways = [warped(x[0], matrix, size) for matrix in matrices]
    which = [[np.abs(image - way).max() < 1e-9 for way in ways] for image in mapped]
    assert (np.sum(which, axis=1) == 1).all() and np.any(which, axis=0).all()


@pytest.mark.parametrize(("size", "pixels"), [(28, (1, 2, 3, 4, 5)), (32, (1, 2, 3, 5, 6)), (64, (2, 5, 7, 9, 11))])
def test_translate_moves_whole_pixels(size: int, pixels: tuple[int, ...], grey: Pixels):
    images = np.random.default_rng(0).integers(1, 256, (16, size, size, 1), dtype=np.uint8)
    for severity, by in zip(SEVERITIES, pixels, strict=True):
        seen = set()
        for image, moved in zip(images, corrupt(images, "translate", severity, range(16)), strict=True):
            for down in (-by, by):
                for right in (-by, by):
                    expected = np.roll(image, (down, right), axis=(0, 1))
                    expected[:down] = 0 if down > 0 else expected[:down]
                    expected[down:] = 0 if down < 0 else expected[down:]
                    expected[:, :right] = 0 if right > 0 else expected[:, :right]
                    expected[:, right:] = 0 if right < 0 else expected[:, right:]
                    seen |= {(down, right)} if (moved == expected).all() else set()
        assert len(seen) == 4, severity


# --- light ------------------------------------------------------------------------------------------------------------


def test_brightness_raises_the_value(colour: Pixels):
    """On grey it is added, on colour it is what scikit-image's HSV says, black included."""
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    colour = colour.copy()
    colour[0, :3] = 0
    for severity in SEVERITIES:
        added = np.minimum(every + severity / 10 * 255, 255)
        assert np.abs(corrupt(every, "brightness", severity, [0]) - added).max() <= 0.501
        hsv = skimage.color.rgb2hsv(colour)
        hsv[..., 2] = np.minimum(hsv[..., 2] + severity / 10, 1)
        expected = 255 * skimage.color.hsv2rgb(hsv)
        assert np.abs(corrupt(colour, "brightness", severity, range(12)) - expected).max() < 0.501


def test_stripe_inverts_two_quarters(colour: Pixels):
    """At severity 3, MNIST-C's; at the others stripes of 2, 5, 9 and 12 pixels."""
    for severity, width in zip(SEVERITIES, (2, 5, 7, 9, 12), strict=True):
        expected = colour.copy()
        expected[:, :, :width] = 255 - expected[:, :, :width]
        expected[:, :, 28 - width :] = 255 - expected[:, :, 28 - width :]
        np.testing.assert_array_equal(corrupt(colour, "stripe", severity, range(12)), expected)


def test_fog():
    """(x + c f) m / (m + c), m the brightest value: the f that is found on white explains what is made of grey. It is
    as dense, varied and rough as MNIST-C's (docs/corruptions.md), and on black there is none."""
    roughness = []
    for severity, amount in zip(SEVERITIES, (1.5, 2.0, 2.25, 2.5, 3.0), strict=True):
        white = damage_light.fog(torch.ones(200, 1, 28, 28).double(), severity, random_of(200))
        bank = (white * (1 + amount) - 1) / amount
        flat = damage_light.fog(torch.full((200, 3, 28, 28), 0.5).double(), severity, random_of(200))
        torch.testing.assert_close(flat, ((0.5 + amount * bank) * 0.5 / (0.5 + amount)).expand(-1, 3, -1, -1))
        assert bank.mean().item() == pytest.approx(0.5, abs=0.03)
        assert 0.12 < bank.mean(dim=(1, 2, 3)).std() < 0.17
        roughness.append(bank.std(dim=(2, 3)).mean().item())
    np.testing.assert_allclose(roughness, (0.040, 0.040, 0.045, 0.053, 0.061), rtol=0.1)  # of its code, simulated
    assert not corrupt(np.zeros((1, 28, 28, 1), np.uint8), "fog", 5, [0]).any()


# --- things in the way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_spatter_is_mud_in_drops(severity: int):
    """A pixel is either untouched or at least four fifths mud; and there is as much of it in a larger image."""
    mud = torch.tensor([63, 42, 20], dtype=torch.float64).view(3, 1, 1) / 255
    shares = []
    for size in (28, 84):
        x = torch.ones(60, 3, size, size, dtype=torch.float64)
        drops = (1 - damage_shape.spatter(x, severity, random_of(60))) / (1 - mud)
        torch.testing.assert_close(drops[:, 0], drops[:, 2])
        assert ((drops > -1e-12) & ((drops < 1e-9) | (drops > 0.8 - 1e-9)) & (drops < 1 + 1e-9)).all()
        shares.append((drops > 0.5).double().mean().item())
    # MNIST-C's, simulated; of few drops the more lie at the edges, where its blur repeats the last pixel
    theirs = (0.087, 0.168, 0.255, 0.35, 0.53)[severity - 1]
    assert shares[0] == pytest.approx(theirs, rel=0.4 if severity == 1 else 0.15)
    assert shares[1] == pytest.approx(shares[0], rel=0.4)
    grey = damage_shape.spatter(torch.ones(60, 1, 28, 28).double(), severity, random_of(60))
    assert grey.min().item() == pytest.approx(63 / 255, abs=0.02)


def mnist_line(height: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """MNIST-C's stroke: log(1 - d / 2.3) + 1, of the distance d up or down, in some of the columns."""
    distance = np.minimum(np.abs(np.arange(28)[:, None] - height), 2.3 - 1e-10)
    return np.clip(np.log(1 - distance / 2.3) + 1, 0, 1) * columns


def test_dotted_line_is_that_of_mnist_c():
    """Each of 40 is a line from (0, r0) to (27, r1) for whole numbers from 0 to 26, dashed 2 by 2, up to column 26."""
    drawn = damage_shape.dotted_line(torch.zeros(40, 1, 28, 28).double(), 3, random_of(40))[:, 0].numpy()
    columns = np.arange(28)
    lines = {
        (start, end): mnist_line(start + (end - start) * columns / 27, (columns // 2 % 2 == 1) & (columns < 27))
        for start in range(27)
        for end in range(27)
    }
    found = [next(ends for ends, line in lines.items() if np.abs(line - image).max() < 1e-9) for image in drawn]
    assert len(set(found)) > 30


def mnist_zigzag(start: int, rise: int) -> np.ndarray:
    """MNIST-C's zigzag from (2, start): seven pieces between turned corners, each in its own whole columns."""
    turn = math.atan2(rise, 23)
    length = 23 / math.cos(turn)
    corners = [(0.0, 0.0), *((4.0 * k + 2, 2.0 * (-1) ** k) for k in range(6)), (length, -1 / (length - 20))]
    turned = [
        (2 + c * math.cos(turn) - r * math.sin(turn), start + c * math.sin(turn) + r * math.cos(turn))
        for c, r in corners
    ]
    image, columns = np.zeros((28, 28)), np.arange(28)
    for (c0, r0), (c1, r1) in itertools.pairwise(turned):
        own = (columns >= math.floor(c0)) & (columns < math.ceil(c1))
        image += mnist_line(r0 + (r1 - r0) / (c1 - c0) * (columns - c0), own)
    return image.clip(0, 1)


def test_zigzag_is_that_of_mnist_c():
    """In 200 it begins at (2, 0 to 26) and rises by -5 to 4. Fails without the shared columns at the joints (12%)."""
    drawn = damage_shape.zigzag(torch.zeros(200, 1, 28, 28).double(), 3, random_of(200))[:, 0].clamp(max=1).numpy()
    lines = {(start, rise): mnist_zigzag(start, rise) for start in range(27) for rise in range(-5, 5)}
    found = [next(way for way, line in lines.items() if np.abs(line - image).max() < 1e-9) for image in drawn]
    assert {start for start, _ in found} == set(range(27)) and {rise for _, rise in found} == set(range(-5, 5))


def test_lines_are_added_in_white_and_grow_wider(grey: Pixels):
    for name in ("dotted_line", "zigzag"):
        before = grey
        for severity in SEVERITIES:
            lined = corrupt(grey, name, severity, range(12))
            assert (lined >= before).all()
            before = lined


# --- edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("kind", ["digits", "fashion-mnist", "photographs", "spiral"])
def test_canny_is_that_of_scikit_image(kind: str, size: int):
    """Pixel by pixel. In the spiral a long thin way leads from the one place above the high threshold."""
    if kind == "spiral":
        y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
        wave = np.sin(20 * np.hypot(x, y) + np.arctan2(y, x)) * (0.11 + 0.2 * (x > 0.7)) + 0.5
        images = (255 * wave).astype(np.uint8)[None, :, :, None]
    else:
        images = pictures(kind, 12, size)
    grey = images.mean(axis=3) / 255
    scale = size / 28
    ours = damage_shape.canny(torch.from_numpy(grey)[:, None], scale)[:, 0].numpy()
    theirs = [skimage.feature.canny(image, scale, 0.1 / scale, 0.2 / scale) for image in grey]
    np.testing.assert_array_equal(ours, np.stack(theirs))
    assert 0.01 < ours.mean() < 0.5


def test_canny_edges_take_the_place_of_the_image(grey: Pixels, colour: Pixels):
    """From severity 5; below they are mixed."""
    edges = corrupt(grey, "canny_edges", 5, range(12))
    assert set(np.unique(edges)) == {0, 255}
    mixed = corrupt(grey, "canny_edges", 2, range(12))
    assert np.abs(mixed - (0.6 * grey + 0.4 * edges)).max() <= 0.501
    assert set(np.unique(corrupt(colour, "canny_edges", 5, range(12)))) == {0, 255}
    white = skimage.color.rgb2gray(colour[0])
    np.testing.assert_array_equal(
        corrupt(colour, "canny_edges", 5, range(12))[0, ..., 1] > 0, skimage.feature.canny(white)
    )
