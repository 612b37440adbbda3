"""Hold the package's computations on a GPU, without one.

`FakeTensorMode` makes tensors that claim to lie on cuda:0 and computes nothing: every operation checks shapes, types
and devices alone. A tensor that is left on the CPU then ends in the error that a GPU would give. Held here: the forward
pass of every network, every loss, guidance, every update rule, the feature networks' way from bytes to features, and
the batches of a training.

Not held, because it cannot be:

- Backward passes, and with them the optimizers of torch: autograd asks the driver for the GPU's context. The critic's
  penalty and Muon are held with stand-ins for the gradients they take.
- Whatever asks a tensor for a number, since there is none: `item()` in the log of a training, the early stop of a deep
  image prior, the noise level of a picture, and `numpy()` at the end of `to_uint8`.
- Random numbers from a GPU's own `torch.Generator`, which needs the driver.
- The move of a network to the GPU (`module.to`): a test's own loop lays parameters and buffers there.
- What a GPU computes, autocast's choice of types on it, compiled graphs, and several processes.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import minidiff
from minidiff.classifier.loss import classifier_loss
from minidiff.data.datasets import ImageData
from minidiff.ddpm.config import DiffusionConfig
from minidiff.ddpm.recipe import ddpm_loss
from minidiff.dehaze.config import GuessLoss, Refinement
from minidiff.dehaze.presets import seeing
from minidiff.dehaze.stage1 import guess_loss
from minidiff.dehaze.stage2 import refine_loss
from minidiff.diffusion.measurements import blur, mask, pooling
from minidiff.diffusion.posterior import Evidence, sample_posterior, white_doubt
from minidiff.diffusion.predictions import PREDICTIONS
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.gan.losses import GANS, gradient_penalty
from minidiff.images.convert import to_float
from minidiff.metrics.features import MODES, as_trained, network_input
from minidiff.networks.configs import UNetConfig
from minidiff.networks.dip import DIP_NETS
from minidiff.networks.gan import Critic, Generator
from minidiff.networks.gunet import GUNet
from minidiff.networks.inception import DIMS, Inception
from minidiff.networks.resnet import ResNet18
from minidiff.networks.tiles import at_any_size
from minidiff.networks.unet import UNet
from minidiff.rng import Draws, randn, sample_generators
from minidiff.training import batches
from minidiff.training.config import TrainConfig
from minidiff.training.loop import average_weights
from minidiff.training.muon import Muon

GPU = torch.device("cuda:0")
T = 1000
SCHEDULE = minidiff.Schedule.linear(T)
LEVELS = SCHEDULE.levels(range(T))


PROBE = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
torch.backends.cudnn.enabled = False
with FakeTensorMode():
    x = torch.zeros(1, 4, 8, 8, device="cuda:0")
    torch.zeros_like(x).copy_(x)
    torch.nn.functional.scaled_dot_product_attention(x, x, x)
    torch.nn.functional.conv2d(x, torch.nn.Parameter(torch.zeros(4, 4, 3, 3, device="cuda:0")))
"""


@pytest.fixture(scope="module", autouse=True)
def pretending() -> None:
    """Skip where torch cannot pretend. Version 2.6, built for CUDA, asks for the driver and may abort the process."""
    old = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
    if old and subprocess.run([sys.executable, "-c", PROBE], capture_output=True).returncode:
        pytest.skip("this version of torch needs the driver even for tensors that are not there")


@pytest.fixture()
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A machine that seems to have a GPU. Levels are numbers, so they are read off the schedule beforehand."""
    generators = sample_generators(0, range(2))
    monkeypatch.setattr("test_gpu_paths.sample_generators", lambda seed, indices: generators)
    monkeypatch.setattr(minidiff.Schedule, "levels", lambda self, timesteps: [LEVELS[t] for t in timesteps])
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)  # torch 2.6 asks its version, which needs the driver
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield GPU


class FakeDraws(Draws):
    """Random numbers on the GPU, for a batch of n. Zeros stand for them: old versions of torch ask the driver here."""

    def __init__(self, n: int) -> None:
        self.total = n

    def randn(self, *shape: int) -> Tensor:
        return torch.zeros(self.total, *shape, device=GPU)

    rand = randn

    def randint(self, high: int) -> Tensor:
        return torch.zeros(self.total, dtype=torch.int64, device=GPU)


def built(network: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Build a network and lay its parameters and buffers on the GPU, as `module.to` does: nothing else moves."""
    made = network(*arguments, **options)
    for module in made.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty(parameter.shape, device=GPU))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device=GPU)
    return made


def unet(label_dim: int = 0, **options: Any) -> UNet:
    small: dict[str, Any] = {"channels": (8, 16), "layers_per_block": 1, "attention": (False, True), "norm_groups": 4}
    return built(UNet, 16, **small, dropout=0.1, label_dim=label_dim, **options)


def images(n: int = 2, channels: int = 3, size: int = 16) -> Tensor:
    return torch.zeros(n, channels, size, size, device=GPU)


def lies(tensor: Tensor, *shape: int) -> bool:
    return tensor.device == GPU and tuple(tensor.shape) == shape


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label_dim", "options"),
    [(0, {}), (4, {"scale_shift": True}), (4, {"flip_sin_to_cos": True}), (0, {"norm": "channel"})],
)
def test_unet(gpu: torch.device, label_dim: int, options: dict[str, Any]) -> None:
    network, t = unet(label_dim, **options), torch.zeros(2, dtype=torch.int64, device=gpu)
    assert lies(network(images(), t), 2, 3, 16, 16)
    if label_dim:
        labels, keep = torch.zeros(2, label_dim, device=gpu), torch.ones(2, dtype=torch.bool, device=gpu)
        assert lies(network(images(), t, labels), 2, 3, 16, 16)
        assert lies(network(images(), t, labels, keep), 2, 3, 16, 16)


def test_a_large_picture_in_tiles(gpu: torch.device) -> None:
    """Padded, cut and put together there."""
    free: dict[str, Any] = {"channels": (8, 16), "layers_per_block": 1, "attention": (False, False), "norm": "channel"}
    network = built(UNet, 16, **free, mid_attention=False, label_dim=4)
    call = at_any_size(network, UNetConfig(**network.config), pixels=8100)
    t, labels = torch.zeros(2, dtype=torch.int64, device=gpu), torch.zeros(2, 4, device=gpu)
    assert lies(call(torch.zeros(2, 3, 97, 131, device=gpu), t, labels), 2, 3, 97, 131)


@pytest.mark.parametrize("name", DIP_NETS)
def test_dip_nets(gpu: torch.device, name: str) -> None:
    """A side of 70 is no multiple of a stride, so the padding is used, too."""
    assert lies(built(DIP_NETS[name])(images(1, 32, 70)), 1, 3, 70, 70)


@pytest.mark.parametrize(("norm", "size"), [("batch", 16), ("layer", 28)])
def test_gan(gpu: torch.device, norm: str, size: int) -> None:
    made = built(Generator, 10, 8, size, 1)(torch.zeros(2, 10, device=gpu))
    assert lies(made, 2, 1, size, size)
    assert lies(built(Critic, 8, size, 1, norm)(made), 2)


def test_resnet(gpu: torch.device) -> None:
    assert lies(built(ResNet18, 10, 3, 4)(images()), 2, 10)


def test_inception(gpu: torch.device) -> None:
    network = built(Inception)
    for dims in DIMS:
        features = network(images(size=299), dims)
        assert lies(features, 2, dims)
    assert network.logits(features, bias=False).device == gpu


# --- losses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dropout", "gamma"), [(None, None), (0.1, 5.0)])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_loss_of_a_ddpm(gpu: torch.device, kind: str, dropout: float | None, gamma: float | None) -> None:
    """With labels, of which some are not told, and without."""
    loss = ddpm_loss(SCHEDULE, DiffusionConfig(prediction=kind, min_snr_gamma=gamma), gpu, dropout)
    network = unet(0 if dropout is None else 4)
    assert lies(loss(network, images(), torch.zeros(2, 4, device=gpu), FakeDraws(2)))


def test_losses_of_a_dehazing(gpu: torch.device) -> None:
    """Of pictures whose sides the levels do not divide; stage 2 on crops of what stage 1 says."""
    first = built(GUNet, channels=(4, 6), blocks=(1, 1), kernel=3)
    packed, none = images(channels=10, size=19), torch.zeros(2, 0, device=gpu)
    assert lies(guess_loss(GuessLoss())(first, packed, none, FakeDraws(2)))
    diffusion = DiffusionConfig(timestep_sampling="uniform")
    settings = Refinement(network=seeing((4, 8), 1), diffusion=diffusion, fourier=0.01, crop=8, crops=2)
    second = built(UNet, **vars(settings.network))
    assert lies(refine_loss(first, SCHEDULE, settings, gpu)(second, packed, none, FakeDraws(2)))


@pytest.mark.parametrize("kind", GANS)
def test_losses_of_a_gan(gpu: torch.device, kind: str) -> None:
    method = GANS[kind]
    real, fake = torch.zeros(2, device=gpu), torch.zeros(2, device=gpu)  # scores, as test_gan has them
    assert lies(method.critic_loss(real, fake)) and lies(method.generator_loss(fake))


def test_gradient_penalty(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.autograd, "grad", lambda outputs, x, create_graph: (outputs * x,))
    critic = built(Critic, 8, 16, 3, "layer")
    assert lies(gradient_penalty(critic, images(), images(), FakeDraws(2).rand(1, 1, 1)))
    with pytest.raises(RuntimeError, match="device"):
        gradient_penalty(critic, images(), images(), torch.rand(2, 1, 1, 1))


@pytest.mark.parametrize("one_hot", [True, False])
def test_loss_of_a_classifier(gpu: torch.device, one_hot: bool) -> None:
    """Of images that are moved by up to two pixels."""
    network, labels = built(ResNet18, 10, 3, 4), torch.zeros(2, 10, device=gpu)
    assert lies(classifier_loss(one_hot, 2)(network, images(), labels, FakeDraws(2)))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_update_of_muon(gpu: torch.device, layout: torch.memory_format) -> None:
    """Wide, tall and square weights, with gradients that stand in for those of a backward pass."""
    shapes = [(8, 4, 3, 3), (8, 2, 1, 1), (4, 8), (8, 8)]
    weights = [torch.zeros(shape, device=gpu) for shape in shapes]
    weights = [w.to(memory_format=layout) if w.ndim == 4 else w for w in weights]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer = Muon(weights, lr=0.1, weight_decay=0.1)
    optimizer.step()
    for weight, shape in zip(weights, shapes, strict=True):
        assert lies(weight, *shape) and lies(optimizer.state[weight]["momentum"], *shape)


def test_update_of_the_average(gpu: torch.device) -> None:
    network = built(ResNet18, 10, 3, 4)
    average_weights(network, built(ResNet18, 10, 3, 4), 0.9)


# --- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_guidance(gpu: torch.device, guidance: float) -> None:
    model = minidiff.guided(unet(4), torch.zeros(2, 4, device=gpu), guidance)
    assert lies(model(images(), torch.zeros(2, dtype=torch.int64, device=gpu)), 2, 3, 16, 16)


def simple(x: Tensor, t: Tensor) -> Tensor:
    """Stand for a network: it uses both x and t."""
    return x / (1 + t[:, None, None, None])


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(gpu: torch.device, name: str) -> None:
    """Every tensor of every step. The noise comes from one generator an image, on the CPU, as in a run."""
    noise = sample_generators(0, range(2))
    for step in SAMPLERS[name](simple, SCHEDULE, images(), steps=5, spacing="trailing", generator=noise):
        assert lies(step.x, 2, 3, 16, 16) and lies(step.x0, 2, 3, 16, 16)


@pytest.mark.parametrize("clip", [True, False, 0.99])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_and_clipping(gpu: torch.device, kind: str, clip: bool | float) -> None:
    noise = sample_generators(0, range(2))
    for step in SAMPLERS["ddpm"](simple, SCHEDULE, images(), steps=2, clip=clip, prediction=kind, generator=noise):
        assert lies(step.x, 2, 3, 16, 16) and lies(step.x0, 2, 3, 16, 16)


def test_options_of_a_sampler(gpu: torch.device) -> None:
    for name, options in (("ddim", {"eta": 1.0}), ("ddim", {"keep_eps": True}), ("ddpm", {"variance": "fixed_large"})):
        noise = sample_generators(0, range(2))
        for step in SAMPLERS[name](simple, SCHEDULE, images(), steps=2, generator=noise, **options):
            assert lies(step.x, 2, 3, 16, 16)


@pytest.mark.parametrize("task", ["mask", "pooling", "blur"])
def test_posterior(gpu: torch.device, task: str) -> None:
    """With a mask and a kernel that lie on the CPU."""
    measurements = {"mask": mask(torch.ones(16, 16)), "pooling": pooling(2), "blur": blur(torch.ones(3, 3), 16, 16)}
    y = measurements[task].forward(images())
    evidence = Evidence(measurements[task], y, 0.1, white_doubt(0.5))
    noise = sample_generators(0, range(2))
    for step in sample_posterior(simple, SCHEDULE, images(), evidence, steps=3, spacing="trailing", generator=noise):
        assert lies(step.x, 2, 3, 16, 16) and lies(step.x0, 2, 3, 16, 16)


def test_start_of_a_chain_in_the_middle(gpu: torch.device) -> None:
    noise = randn((2, 3, 16, 16), sample_generators(0, range(2)), like=images())
    t = torch.full((2,), 10, device=gpu)
    assert lies(minidiff.q_sample(SCHEDULE, images(), t, noise), 2, 3, 16, 16)
    mean, variance = minidiff.q_posterior(SCHEDULE, images(), noise, t)
    assert lies(mean, 2, 3, 16, 16) and lies(variance, 2, 1, 1, 1)


# --- data, and features of images -----------------------------------------------------------------------------------


def test_images_become_floats(gpu: torch.device) -> None:
    pixels = torch.zeros(2, 16, 16, 3, dtype=torch.uint8, device=gpu)
    assert lies(to_float(pixels), 2, 3, 16, 16)
    assert lies(batches.prepare(pixels, True, FakeDraws(2)), 2, 3, 16, 16)


@pytest.mark.parametrize("memory", [0, 1 << 40])
def test_batches(gpu: torch.device, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that fits the GPU lies there whole; one that does not is read slice by slice."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (memory, memory))
    monkeypatch.setattr(batches, "read_by_workers", lambda data, items: map(batches.Reader(data).__getitem__, items))
    data = ImageData("test", np.zeros((8, 16, 16, 3), np.uint8), np.zeros((8, 4), np.uint8), list("abcd"), flip=True)
    pixels, labels, _ = next(batches.load_batches(data, TrainConfig(steps=3, batch_size=4), 4, 0, gpu))
    assert lies(pixels, 4, 16, 16, 3) and lies(labels, 4, 4)


@pytest.mark.parametrize("sizes", [(16, 16), (16, 20)])
@pytest.mark.parametrize("mode", MODES)
def test_inputs_of_inception(gpu: torch.device, mode: str, sizes: Sequence[int]) -> None:
    """Images of one size and of several are brought to 299x299 on the GPU."""
    pixels = [np.zeros((size, size, 3), np.uint8) for size in sizes]
    assert lies(network_input(pixels, mode, gpu), 2, 3, 299, 299)


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 24)])
def test_features_of_a_classifier(gpu: torch.device, channels: int, size: int) -> None:
    network = built(ResNet18, 10, channels, 4)
    inputs = as_trained(np.zeros((2, 28, 28, 3), np.uint8), channels, size).to(gpu)
    features = network.features(inputs)
    assert lies(features, 2, 32) and lies(network.fc(features), 2, 10)


# --- what must fail -------------------------------------------------------------------------------------------------


def test_a_timestep_on_the_cpu_is_found(gpu: torch.device) -> None:
    network = unet(4)
    with pytest.raises(RuntimeError, match="device"):
        network(images(), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="device"):
        network(images(), torch.zeros(2, dtype=torch.int64, device=gpu), torch.zeros(2, 4))


def test_noise_on_the_cpu_is_found(gpu: torch.device) -> None:
    t = torch.zeros(2, dtype=torch.int64, device=gpu)
    with pytest.raises(RuntimeError, match="device"):
        minidiff.diffusion_loss(unet(), SCHEDULE, images(), t, torch.zeros(2, 3, 16, 16))


def test_a_forgotten_device_is_found(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual mistake: a constant made inside a network, without saying where. Here `arange` in the U-Net."""
    network, real = unet(), torch.arange
    monkeypatch.setattr(torch, "arange", lambda *arguments, device=None, **options: real(*arguments, **options))
    with pytest.raises(RuntimeError, match="device"):
        network(images(), torch.zeros(2, dtype=torch.int64, device=gpu))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_prediction_on_the_cpu_is_found(gpu: torch.device, name: str) -> None:
    chain = SAMPLERS[name](lambda x, t: torch.zeros(x.shape), SCHEDULE, images(), steps=3, spacing="trailing")
    with pytest.raises(RuntimeError, match="device"):
        list(chain)
