"""A U-Net at any size, against gradients, numpy and itself: how far it looks, what padding adds, tiles as the whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from diffusers_weights import randomise
from torch import Tensor

import minidiff
from minidiff.images.convert import to_float
from minidiff.networks.configs import UNetConfig
from minidiff.networks.tiles import at_any_size, bytes_a_pixel, cut, halo_of, mirrored, multiple, reach, sight
from minidiff.networks.unet import UNet

SMALL: dict[str, Any] = {
    "channels": (4, 6), "layers_per_block": 1, "attention": (False, False), "mid_attention": False, "norm": "channel",
    "scale_shift": True, "label_dim": 3,
}  # fmt: skip
CONFIGS = {
    "one level": {"channels": (4,), "layers_per_block": 2},
    "two levels": {},
    "no norms": {"norm": "none"},
    "two levels, padded all round": {"downsample_padding": 1},
    "three levels, two layers": {"channels": (4, 6, 8), "layers_per_block": 2},
    "four levels, padded all round": {"channels": (4, 4, 4, 4), "downsample_padding": 1},
}


def free(**change: Any) -> tuple[UNet, UNetConfig]:
    """A network of any size in float64, with random weights in every layer, and its config."""
    change = SMALL | change
    network = UNet(**change | {"attention": (False,) * len(change["channels"])})
    randomise(network)
    return network.double().eval().requires_grad_(False), UNetConfig(**network.config)


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.randn(count, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(height))


def told(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps, labels and keep, different for each image."""
    number = torch.arange(count)
    return 100 * number + 3, F.one_hot(number % 3, 3).double(), number % 2 == 0


def watched(network: Callable[..., Tensor], seen: list[tuple[int, ...]]) -> Callable[..., Tensor]:
    """The network, which notes the shape of every x that it is called with."""

    def call(x: Tensor, *more: Any) -> Tensor:
        seen.append(tuple(x.shape))
        return network(x, *more)

    return call


# --- how far it looks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_a_pixel_sees_exactly_as_far_as_its_gradient_goes(name: str) -> None:
    """At every place between two pixels of the coarsest level: the input has a gradient at the first and the last pixel
    that `sight` says, and none beyond. It fails when one convolution is forgotten, or the kind of padding."""
    network, config = free(**CONFIGS[name])
    margin = multiple(reach(config), config.stride) + config.stride
    found = []
    for place in range(margin, margin + config.stride):
        x = pictures(1, config.stride, 2 * margin + config.stride).requires_grad_()
        (seen,) = torch.autograd.grad(network(x, torch.tensor([3]))[..., place].sum(), x)
        columns = seen.abs().amax(dim=(0, 1, 2)).nonzero()[:, 0]
        first, last = sight(config, place)
        assert (columns.min().item(), columns.max().item()) == (first, last)
        found.append(max(place - first, last - place))
    assert reach(config) == max(found)


def test_the_reach_of_the_network_for_photographs() -> None:
    """97 pixels: by hand, 1 + 12 + 1 + 16 + 2 + ... for three levels of two layers, and what the places add."""
    config = UNetConfig(channels=(32, 64, 96), attention=(False,) * 3, mid_attention=False, norm="channel")
    up, middle, down = 1 + 6 + 2 * 1 + 2 * 6 + 4 * 1 + 4 * 6, 4 * 4, 4 * 4 + 2 * 1 + 2 * 4 + 1 + 4 + 1
    assert up + middle + down - 3 <= reach(config) <= up + middle + down + 3


# --- padding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(37, 53), (8, 12), (1, 1), (2, 1), (3, 2), (1, 9)])
def test_the_padding_is_numpys_reflection(height: int, width: int) -> None:
    """To multiples of 8, at least one; to the bit. numpy, too, mirrors a picture of two pixels again and again."""
    x = pictures(2, height, width)
    more = [(0, 0), (0, 0), (0, -height % 8), (0, -width % 8)]
    assert torch.equal(mirrored(x, 8), torch.from_numpy(np.pad(x.numpy(), more, mode="reflect")))


def test_a_picture_of_any_size_is_the_crop_of_the_padded_one() -> None:
    """37x53 in a network of stride 4. Fails by 0.1 and more if the padding is at the other edge, or zeros."""
    network, config = free(channels=(4, 6, 8))
    x, (t, labels, keep) = pictures(2, 37, 53), told(2)
    expected = network(F.pad(x, (0, 3, 0, 3), mode="reflect"), t, labels, keep)
    made = at_any_size(network, config)(x, t, labels, keep)
    assert made.shape == x.shape
    torch.testing.assert_close(made, expected[..., :37, :53], rtol=0, atol=1e-12)


def test_a_size_that_fits_goes_through_as_it_is() -> None:
    """To the bit, in one call: what such a run draws at its own size does not change."""
    network, config = free()
    x, seen = pictures(2, 16, 24), []
    made = at_any_size(watched(network, seen), config)(x, torch.tensor([3]))
    assert torch.equal(made, network(x, torch.tensor([3]))) and seen == [(2, 3, 16, 24)]


# --- tiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("pixels", [8100, 12000])
def test_tiles_are_the_whole(count: int, pixels: int) -> None:
    """In float64, to 1e-11: up to 15 tiles of a picture whose sides are no multiple of the stride, each image with its
    own timestep and labels. No call has more pixels than were allowed. 0.5 off without a halo, 1e-3 with half of it."""
    network, config = free()
    x, given, seen = pictures(count, 97, 131), told(count), []
    whole = network(mirrored(x, 2), *given)[..., :97, :131]
    tiled = at_any_size(watched(network, seen), config, pixels)(x, *given)
    assert len(seen) > count and all(shape[2] * shape[3] <= pixels for shape in seen)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-11)


def test_a_halo_that_lacks_a_pixel_would_be_seen() -> None:
    """With the largest value near a pixel in place of a network, every pixel of the halo counts: to the bit."""
    config = free()[1]

    def farthest(x: Tensor, *_: Any) -> Tensor:
        for rows, columns in ((reach(config), 0), (0, reach(config))):
            x = F.max_pool2d(x, (2 * rows + 1, 2 * columns + 1), stride=1, padding=(rows, columns))
        return x

    x = pictures(1, 150, 204)
    assert torch.equal(at_any_size(farthest, config, 8000)(x, torch.tensor([3])), farthest(x))


def test_the_halo_of_the_network_for_photographs_is_enough() -> None:
    """With 64 of 97 pixels its output changes by less than a thousandth of a grey level, 8e-6: by 1e-6, where another
    order of the sums changes it by 1e-6, too. With 48 by 1e-4 to 3e-4, with 32 by 3e-3, without by 0.6.

    That is measured, and further training may change it: then take a larger halo. Few or small layers are seen whole.
    """
    run = minidiff.load("photos", precision="fp32")
    config = run.config.network
    assert isinstance(config, UNetConfig) and halo_of(config) == 64
    picture = skimage.data.coffee()[None, 100:132, 100:232].copy()
    x = (to_float(picture) + 0.2 * pictures(1, 32, 132).float()).contiguous(memory_format=torch.channels_last)
    part, whole = (run.model(each, torch.tensor([60]))[..., :68] for each in (x, F.pad(x, (0, 36))))
    torch.testing.assert_close(part, whole, rtol=0, atol=8e-6)
    assert halo_of(free()[1]) == multiple(reach(free()[1]), 2)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (80, 96), (400, 12), (404, 300)])
def test_every_pixel_is_in_one_tile(height: int, width: int) -> None:
    """With the halo around it, as far as the picture goes, and its place in what is seen; all at multiples of 4.

    All calls have one shape, whose pixels are not more than allowed.
    """
    count, shapes = torch.zeros(height, width), set()
    for tile in cut(height, width, 120**2, halo=40, stride=4):
        count[tile.place] += 1
        shapes.add(tuple(seen.stop - seen.start for seen in tile.seen))
        for place, seen, inside, length in zip(*tile, (height, width), strict=True):
            assert seen.start <= max(place.start - 40, 0) and min(place.stop + 40, length) <= seen.stop <= length
            assert (seen.start + inside.start, seen.start + inside.stop) == (place.start, place.stop)
            assert seen.start % 4 == seen.stop % 4 == 0
    ((rows, columns),) = shapes
    assert count.eq(1).all() and rows * columns <= 120**2


def test_a_halo_that_is_wider_than_the_tiles_is_kept() -> None:
    """The result comes first: then a call has more pixels than were allowed."""
    network, config = free()
    x, t = pictures(1, 90, 130), torch.tensor([3])
    torch.testing.assert_close(at_any_size(network, config, 100)(x, t), network(x, t), rtol=0, atol=1e-11)


def test_images_take_turns_when_there_are_too_many() -> None:
    """Seven images, two at a time: each with its own timestep, labels and keep."""
    network, config = free()
    x, given, seen = pictures(7, 16, 16), told(7), []
    made = at_any_size(watched(network, seen), config, 600)(x, *given)
    assert [shape[0] for shape in seen] == [2, 2, 2, 1]
    torch.testing.assert_close(made, network(x, *given), rtol=0, atol=1e-12)


def test_gradients_go_through_tiles() -> None:
    """As methods need that steer a chain by what was measured."""
    network, config = free()
    x, t = pictures(1, 60, 131).requires_grad_(), torch.tensor([3])
    direction = pictures(1, 60, 131)
    found = [
        torch.autograd.grad((made * direction).sum(), x)[0]
        for made in (at_any_size(network, config, 5000)(x, t), network(mirrored(x, 2), t)[..., :131])
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-11)


def test_tiles_in_bfloat16_are_near() -> None:
    network, config = free()
    network = network.float().to(memory_format=torch.channels_last)
    x, t = pictures(1, 60, 130).float(), torch.tensor([3])
    expected = network(x, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = at_any_size(network, config, 5000)(x, t)
    assert made.dtype == torch.bfloat16 and (made.float() - expected).std() < 0.05 * expected.std()


@pytest.mark.parametrize(
    ("channels", "layers", "floats"), [((32, 64, 96), 2, 416), ((32,), 2, 288), ((8, 16, 256), 1, 288)]
)
def test_the_memory_of_a_call(channels: tuple[int, ...], layers: int, floats: int) -> None:
    """By hand, for each pixel: (32, 64, 96) holds 3 x 96 (a concatenation, its norm, its SiLU), the 64 from below and
    two skips of 32. The peak of a process said 443 and 292 for the first two, with what oneDNN holds beside. In the
    third the second level holds most: a quarter of 3 x 272 + 256 + 16, and the finest level's skips of 2 x 8."""
    config = free(channels=channels, layers_per_block=layers)[1]
    assert bytes_a_pixel(config) == 4 * floats
