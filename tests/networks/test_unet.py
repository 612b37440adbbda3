"""The U-Net against diffusers' UNet2DModel with the same weights, and against what its own docstrings promise."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers_weights import copy_weights, diffusers_unet, pair, randomise, their_key
from torch import Tensor, nn

from minidiff.errors import UserError
from minidiff.networks.conditioning import timestep_embedding
from minidiff.networks.configs import UNetConfig
from minidiff.networks.unet import ChannelNorm, ResidualBlock, UNet, Upsample

CIFAR10 = {}  # the defaults
CELEBAHQ = {
    "image_size": 256, "channels": (128, 128, 256, 256, 512, 512), "attention": (False,) * 4 + (True, False),
}  # fmt: skip
LAB = CELEBAHQ | {
    "image_size": 64, "head_dim": 8, "norm_eps": 1e-5, "downsample_padding": 1, "flip_sin_to_cos": True,
    "freq_shift": 0, "label_dim": 24,
}  # fmt: skip

SMALL = {"image_size": 16, "channels": (16, 32), "attention": (False, True), "norm_groups": 8}
SIX_LEVELS = {"channels": (16, 16, 32, 32, 64, 64), "norm_groups": 8}
CONFIGS = {
    "cifar10 layout": {"channels": (32, 64, 64, 64)},
    "celebahq layout": CELEBAHQ | SIX_LEVELS | {"image_size": 64},
    "lab layout": LAB | SIX_LEVELS,
    "one channel": SMALL | {"in_channels": 1},
    "seven in, three out": SMALL | {"in_channels": 7, "out_channels": 3},
    "no attention": SMALL | {"attention": (False, False), "mid_attention": False, "layers_per_block": 1},
    "attention everywhere": SMALL | {"attention": (True, True), "layers_per_block": 3},
    "heads of 8": SMALL | {"head_dim": 8},
    "symmetric padding": SMALL | {"downsample_padding": 1},
    "eps 1e-5": SMALL | {"norm_eps": 1e-5},
    "cos first": SMALL | {"flip_sin_to_cos": True},
    "shift 0": SMALL | {"freq_shift": 0},
    "labels": SMALL | {"label_dim": 5},
    "scale and shift": SMALL | {"scale_shift": True, "label_dim": 5},
    "one level": SMALL | {"channels": (32,), "attention": (True,)},
    "wide images": SMALL | {"image_size": 96},
}
NORMS = ["group", "channel"]  # which the peer does not have


@pytest.fixture(autouse=True)
def one_thread():
    """The networks are tiny: more threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def diffusers() -> None:
    """For the tests that ask the peer."""
    pytest.importorskip("diffusers", reason="the peer is missing: pip install -e '.[test]'")


def drawn(config: dict) -> UNet:
    """Our network with random weights, in eval mode."""
    network = UNet(**config)
    randomise(network)
    return network.eval()


def batch(config: dict, n: int = 2, seed: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images, timesteps (0 and 999 among them) and labels that fit the network."""
    generator = torch.Generator().manual_seed(seed)
    size, label_dim = config.get("image_size", 32), config.get("label_dim", 0)
    x = torch.randn(n, config.get("in_channels", 3), size, size, generator=generator)
    t = torch.tensor([999, 0, 437, 20])[:n]
    return x, t, torch.randint(2, (n, label_dim), generator=generator).float() if label_dim else None


@torch.no_grad()
def distance(theirs: nn.Module, ours: nn.Module, config: dict, dtype: torch.dtype = torch.float64) -> float:
    """The largest absolute difference of the two outputs on the same batch."""
    x, t, labels = batch(config)
    x, labels = x.to(dtype), None if labels is None else labels.to(dtype)
    expected = theirs.to(dtype)(x, t, class_labels=labels).sample
    assert expected.std() > 0.1  # or agreement would mean nothing
    return (ours.to(dtype)(x, t, labels) - expected).abs().max().item()


# ---- against diffusers ----


@pytest.mark.parametrize("name", CONFIGS)
def test_same_weights_same_output(name, diffusers):
    """Under 1e-4 in float32, as rounding allows (about 5e-6 seen); under 1e-9 in float64, where nothing hides."""
    theirs, ours = pair(CONFIGS[name])
    assert distance(theirs, ours, CONFIGS[name], torch.float32) < 1e-4
    assert distance(theirs, ours, CONFIGS[name], torch.float64) < 1e-9


@pytest.mark.parametrize(
    "change",
    [{"head_dim": 8}, {"norm_eps": 1e-5}, {"downsample_padding": 1}, {"flip_sin_to_cos": True}, {"freq_shift": 0}],
    ids=str,
)
def test_the_comparison_sees_a_setting_read_wrongly(change, diffusers):
    """The weights load all the same; the output differs. By 1e-5 for eps, by more than 0.01 for each of the others."""
    theirs, _ = pair(SMALL)
    ours = UNet(**SMALL | change).eval()
    copy_weights(theirs, ours)
    assert distance(theirs, ours, SMALL) > (1e-6 if "norm_eps" in change else 1e-2)


@pytest.mark.parametrize(("one", "other"), [("query", "value"), ("query", "key"), ("key", "out")])
def test_the_comparison_sees_swapped_attention_layers(one, other, diffusers):
    theirs, ours = pair(SMALL)
    attention = ours.mid[0].attention
    first, second = getattr(attention, one), getattr(attention, other)
    setattr(attention, one, second)
    setattr(attention, other, first)
    assert distance(theirs, ours, SMALL) > 1e-3


@pytest.mark.parametrize("norm", [*NORMS, "none"])
def test_every_parameter_matters(norm):
    """Each parameter tensor moved a little moves the output: none is unused, none is hidden by a zero."""
    config = SMALL | {"label_dim": 5, "norm": norm}
    ours = drawn(config)
    x, t, labels = batch(config)
    ours(x, t, labels).square().sum().backward()
    for name, parameter in ours.named_parameters():
        if not name.endswith("key.bias"):  # softmax forgets a constant added to every logit of a query
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-4, name


def test_same_gradients(diffusers):
    """Every parameter's gradient, and the image's, in float64."""
    config = CONFIGS["lab layout"] | {"image_size": 32}
    theirs, ours = (network.double() for network in pair(config))
    x, t, labels = batch(config)
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x_theirs, x_ours = x.double().requires_grad_(), x.double().requires_grad_()
    (theirs(x_theirs, t, class_labels=labels.double()).sample * direction).sum().backward()
    (ours(x_ours, t, labels.double()) * direction).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = expected[their_key(ours.config, name)].grad
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-8, msg=name)
    torch.testing.assert_close(x_ours.grad, x_theirs.grad, rtol=1e-8, atol=1e-8)


def test_full_size_cifar10(diffusers):
    theirs, ours = pair(CIFAR10)
    x, t, _ = batch(CIFAR10, n=1)
    with torch.no_grad():
        difference = (ours(x, t) - theirs(x, t).sample).abs().max()
    assert difference < 1e-4


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [(CIFAR10, 35_746_307, 328), (CELEBAHQ, 113_673_219, 450), (LAB, 113_673_219 + 24 * 512 + 512, 452)],
    ids=["cifar10", "celebahq", "lab"],
)
def test_published_sizes(config, parameters, tensors, diffusers):
    """Parameter and tensor counts of the published checkpoints, and a partner of the same shape for each key."""
    with torch.device("meta"):
        ours = UNet(**config)
        theirs = diffusers_unet(ours.config).state_dict()
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters
    assert len(ours.state_dict()) == tensors == len(theirs)
    for key, tensor in ours.state_dict().items():
        assert theirs.pop(their_key(ours.config, key)).shape == tensor.shape
    assert not theirs


def test_upsample_is_nearest_and_a_convolution():
    """The two steps that it says it is, output and gradients, in float64."""
    generator = torch.Generator().manual_seed(0)
    upsample = Upsample(6).double()
    with torch.no_grad():
        upsample.conv.bias.normal_(generator=generator)
    x = torch.randn(2, 6, 5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    expected = upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    direction = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    wanted = torch.autograd.grad((expected * direction).sum(), [x, *upsample.parameters()])
    output = upsample(x)
    got = torch.autograd.grad((output * direction).sum(), [x, *upsample.parameters()])
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(got, wanted)


# ---- the norm over channels ----


def test_the_norm_over_channels_is_its_formula():
    """(x - mean) / sqrt(variance + eps) * weight + bias, with mean and variance over the channels of each pixel."""
    generator = torch.Generator().manual_seed(0)
    norm = ChannelNorm(6, eps=1e-3).double()
    with torch.no_grad():
        norm.weight.normal_(generator=generator)
        norm.bias.normal_(generator=generator)
    x = 3 + torch.randn(2, 6, 5, 7, dtype=torch.float64, generator=generator)
    centred = x - x.mean(dim=1, keepdim=True)
    expected = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-3).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


def test_a_norm_over_channels_needs_no_groups():
    """Channels that no number of groups divides; and the names of the parameters are the same with both norms."""
    network = UNet(channels=(6, 10), attention=(False, True), norm="channel")
    assert network(torch.zeros(1, 3, 4, 6), torch.tensor([3])).shape == (1, 3, 4, 6)
    other = UNet(channels=(6, 10), attention=(False, True), norm_groups=2)
    other.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ({}, True),
        ({"norm": "none"}, True),
        ({"norm": "group"}, False),
        ({"mid_attention": True}, False),
        ({"attention": (True, False)}, False),
    ],
    ids=str,
)
def test_any_size_means_that_only_near_pixels_matter(change, near):
    """`any_size` says whether the far corner of a large image leaves a pixel as it is, to the bit."""
    free = {"channels": (8, 16), "layers_per_block": 1, "attention": (False, False), "mid_attention": False}
    network = drawn(free | {"norm": "channel", "norm_groups": 4} | change)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    moved = x.clone()
    moved[..., 60:, 60:] += 1
    with torch.no_grad():
        before, after = (network(each, torch.tensor([3])) for each in (x, moved))
    assert not torch.equal(before, after)
    assert torch.equal(before[..., 0, 0], after[..., 0, 0]) is near
    assert UNetConfig(**network.config).any_size is near


# ---- timestep embedding and first weights ----


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
def test_timestep_embedding_is_the_formula(flip, shift):
    """Against the formula in Python floats: 1e-4 at t = 999 is float32's own rounding of the angle."""
    for t in (0, 1, 500, 999):
        angles = [t * math.exp(-math.log(10_000) * i / (8 - shift)) for i in range(8)]
        sin, cos = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
        waves = timestep_embedding(torch.tensor([t]), 16, flip, shift)[0]
        torch.testing.assert_close(waves, torch.tensor(cos + sin if flip else sin + cos), rtol=0, atol=1e-4)


def test_timestep_embedding_stays_float32_under_autocast():
    t = torch.arange(1000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        waves = timestep_embedding(t, 32)
    assert waves.dtype == torch.float32
    assert len(waves.unique(dim=0)) == 1000


def test_a_fresh_network_predicts_zero_and_its_blocks_are_their_shortcuts():
    """So the first loss is the variance of the noise: 1."""
    torch.manual_seed(0)
    network = UNet(**SMALL)
    x, t, _ = batch(SMALL)
    assert network(x, t).abs().max() == 0
    h = torch.randn(2, 16, 8, 8)
    block = next(module for module in network.modules() if isinstance(module, ResidualBlock))
    assert torch.equal(block(h, torch.randn(2, 64)), h)


def test_a_few_steps_learn():
    """From its zero start the network gets off the ground: the loss halves on one repeated batch."""
    torch.manual_seed(0)
    network = UNet(**SMALL)
    x, t, _ = batch(SMALL, n=4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):
        loss = F.mse_loss(network(x, t), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# ---- shapes, layouts, precisions ----


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64, 96])
def test_shapes(channels, size):
    network = UNet(image_size=size, in_channels=channels, channels=(8, 16, 16, 16), norm_groups=8).eval()
    assert network(torch.zeros(2, channels, size, size), torch.tensor([0, 9])).shape == (2, channels, size, size)


def test_image_size_is_advice():
    """A network meant for 16 takes any height and width its levels divide."""
    assert UNet(**SMALL)(torch.zeros(1, 3, 24, 10), torch.tensor([3])).shape == (1, 3, 24, 10)


@pytest.mark.parametrize("norm", NORMS)
def test_channels_last_gives_the_same_and_stays(norm):
    """The same output, and no layer falls back to the other layout: that would be a copy at the next convolution."""
    network = drawn(SMALL | {"norm": norm})
    x, t, _ = batch(SMALL)
    expected = network(x, t)
    network = network.to(memory_format=torch.channels_last)
    fallen = []

    def look(module: nn.Module, _: object, output: Tensor, name: str) -> None:
        if output.ndim == 4 and not output.is_contiguous(memory_format=torch.channels_last):
            fallen.append(name)

    for name, module in network.named_modules():
        module.register_forward_hook(lambda *args, name=name: look(*args, name))
    output = network(x.contiguous(memory_format=torch.channels_last), t)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)
    assert fallen == []


@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16_autocast_is_near(norm):
    network = drawn(SMALL | {"norm": norm})
    x, t, _ = batch(SMALL)
    with torch.no_grad():
        expected = network(x, t)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(x, t)
    assert (output.float() - expected).std() < 0.05 * expected.std()


def test_one_graph_for_the_compiler():
    """No graph break: with the default backend that is the difference between one program and a chain of them."""
    config = SMALL | {"label_dim": 5}
    network = drawn(config)
    x, t, labels = batch(config)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, labels), network(x, t, labels))


def test_dropout_only_while_training():
    torch.manual_seed(0)
    network = drawn(SMALL | {"dropout": 0.5}).train()
    x, t, _ = batch(SMALL)
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))


# ---- labels, configuration, errors ----


def test_no_labels_is_not_the_same_as_all_zeros():
    """None adds nothing; zeros add the bias of the label layer."""
    network = drawn(SMALL | {"label_dim": 5})
    plain = drawn(SMALL)
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("label.")})
    x, t, _ = batch(SMALL)
    assert torch.equal(network(x, t), plain(x, t))
    assert not torch.allclose(network(x, t, torch.zeros(2, 5)), plain(x, t))


def test_labels_may_be_integers():
    network = drawn(SMALL | {"label_dim": 5})
    x, t, labels = batch(SMALL | {"label_dim": 5})
    assert torch.equal(network(x, t, labels.to(torch.uint8)), network(x, t, labels))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_rebuilds_the_network(name):
    """Through JSON and back: the same configuration, and the weights fit."""
    network = UNet(**CONFIGS[name])
    config = json.loads(json.dumps(network.config))
    assert config == network.config
    copy = UNet(**config)
    assert copy.config == config
    copy.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 28, "channels": (16,) * 4, "attention": (False,) * 4}, r"28 does not divide by 8.*24 or 32"),
        ({"image_size": 3}, r"image size 3 does not divide by 2, which .* 2 levels need\. Try 2 or 4\."),
        ({"image_size": 1}, r"Try 2 or 4\."),
        ({"norm_groups": 32}, r"16 channels do not divide into 32 norm groups\. Try 32 channels, or norm_groups=16"),
        ({"channels": (16, 36)}, r"36 channels do not divide into 8 .* Try 32 channels, or norm_groups=4"),
        ({"attention": (True,)}, r"attention has 1 entries for 2 levels"),
        ({"head_dim": 12}, r"head_dim 12 does not divide the 32 channels of level 1.*Try 4"),
        ({"head_dim": 0}, r"`head_dim` is 0"),
        ({"head_dim": 5, "attention": (False, False)}, r"head_dim 5"),
        ({"channels": (7, 14), "norm_groups": 7}, r"7 channels\. The timestep embedding needs an even"),
        ({"channels": (), "attention": ()}, r"`channels` is \(\)"),
        ({"layers_per_block": 0}, r"`layers_per_block` is 0"),
        ({"in_channels": 0}, r"`in_channels` is 0"),
        ({"downsample_padding": 2}, r"downsample_padding. is 2"),
        ({"dropout": 1.0}, r"dropout. is 1\.0"),
        ({"norm": "batch"}, r"`norm` is 'batch'\. Use group, channel or none\."),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_built_says_why(change, message):
    with pytest.raises(UserError, match=message) as caught:
        UNet(**SMALL | change)
    assert "\n" not in str(caught.value)


def test_head_dim_matters_only_where_there_is_attention():
    UNet(**SMALL | {"head_dim": 5, "attention": (False, False), "mid_attention": False})


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((2, 1, 16, 16), None, r"\[2, 1, 16, 16\] do not fit .* takes \[N,3,H,W\].*in_channels=1"),
        ((3, 16, 16), None, r"\[3, 16, 16\] do not fit"),
        ((2, 3, 16, 17), None, r"17 does not divide by 2.*16 or 18"),
        ((2, 3, 16, 16), (2, 4), r"labels of shape \[2, 4\].*\[2,5\]"),
        ((2, 3, 16, 16), (1, 5), r"labels of shape \[1, 5\]"),
    ],
    ids=str,
)
def test_input_that_does_not_fit_says_why(shape, labels, message):
    network = UNet(**SMALL | {"label_dim": 5})
    with pytest.raises(UserError, match=message):
        network(torch.zeros(shape), torch.tensor([1, 2]), None if labels is None else torch.zeros(labels))


def test_labels_for_a_network_without_them_are_an_error():
    with pytest.raises(UserError, match="label_dim > 0"):
        UNet(**SMALL)(torch.zeros(2, 3, 16, 16), torch.tensor([1, 2]), torch.zeros(2, 5))
