"""The deep image prior: networks counted by hand, a fit that resumes to the bit, stopping by the definition."""

import math
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minidiff.dip.config import FitConfig
from minidiff.dip.early_stop import EARLY_STOPS, EarlyStop, MovingVariance, WindowVariance
from minidiff.dip.fit import INPUTS, TASKS, FitStep, Fitter, fit
from minidiff.errors import UserError
from minidiff.networks.dip import CNN, DIP_NETS, DipNet, Hourglass, ResNet18, conv2


def small_net(in_channels: int = 4) -> Hourglass:
    torch.manual_seed(0)
    return Hourglass(in_channels, scales=2, channels=8, skip_channels=2)


def picture(height: int = 16, width: int = 20) -> Tensor:
    """Smooth, in three channels: [1,3,H,W] in [-1,1]."""
    y, x = torch.meshgrid(torch.linspace(-3, 3, height), torch.linspace(-3, 3, width), indexing="ij")
    return torch.stack([torch.sin(x), torch.cos(y), torch.sin(x + y)])[None]


@pytest.fixture(scope="module")
def recorded() -> list[FitStep]:
    """The first 260 steps of a fit to `noisy`."""
    return list(fit(small_net(), noisy(), FitConfig(260, average=0.9)))


def noisy(sigma: float = 0.3) -> Tensor:
    return picture() + sigma * torch.randn(1, 3, 16, 20, generator=torch.Generator().manual_seed(1))


CONFIG = FitConfig(steps=8)


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIP_NETS)
@pytest.mark.parametrize("size", [(32, 32), (45, 70)])
def test_any_size_comes_out_as_it_went_in(name: str, size: tuple[int, int]) -> None:
    """32x32 would leave one pixel at the coarsest scale, with no variance for batch norm; 45x70 divides by nothing."""
    torch.manual_seed(0)
    net = DIP_NETS[name](in_channels=5, out_channels=1)
    image = net(torch.randn(1, 5, *size))
    assert image.shape == (1, 1, *size) and image.dtype == torch.float32
    assert -1 <= image.min() < 0 < image.max() <= 1


def count(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameters() -> None:
    """Ulyanov et al.'s network for denoising has 2,217,831, counted in their code; the others by hand."""
    assert count(Hourglass()) == 2_217_831
    assert count(conv2()) == (32 * 9 * 64 + 64) + (64 * 9 * 3 + 3)
    assert count(CNN(layers=6, channels=16, kernel_size=5)) == (
        (32 * 25 * 16 + 16) + 4 * (16 * 25 * 16 + 16) + (16 * 25 * 3 + 3)
    )
    encoder = 11_689_512 - 513_000  # torchvision's figure, less the classifier of 512 x 1000 + 1000
    widths = [512, 256, 128, 64, 32, 16]
    decoder = sum(16 * a * b + b + 2 * b for a, b in pairwise(widths))
    assert count(ResNet18(in_channels=3)) == encoder + decoder + 16 * 9 * 3 + 3


@pytest.mark.parametrize("name", ["resnet18", "hourglass"])
def test_padding_is_seen_by_no_one(name: str) -> None:
    """An image that is padded, and the same padded by hand, agree where they overlap: fails on a crop off by one."""
    torch.manual_seed(0)
    net = DIP_NETS[name](in_channels=3)
    z = torch.randn(1, 3, 60, 97)
    by_hand = torch.nn.functional.pad(z, (15, 16, 2, 2), mode="reflect")
    assert torch.equal(net(z), net(by_hand)[..., 2:62, 15:112])


@pytest.mark.parametrize("name", ["resnet18", "hourglass"])
def test_smaller_than_the_stride(name: str) -> None:
    with pytest.raises(UserError, match="a side of 31 pixels .* Take at least 32x32"):
        DIP_NETS[name]()(torch.zeros(1, 32, 64, 31))


def test_the_hourglass_joins_the_scales() -> None:
    """Every scale is reached: with the skips cut the output still depends on the input, and with the depths cut too."""
    z = torch.randn(1, 4, 16, 16)
    for part in ("skip", "down"):
        net = small_net()
        with torch.no_grad():
            for name, weights in net.named_parameters():
                if f"{part}." in name:
                    weights.zero_()
        assert net(z).std(dim=(2, 3)).min() > 0.01  # over the pixels: the channels differ by their bias alone
    assert [m.mode for m in net.modules() if isinstance(m, torch.nn.Upsample)] == ["bilinear"] * 2
    assert {m.negative_slope for m in net.modules() if isinstance(m, torch.nn.LeakyReLU)} == {0.2}


def test_wrong_options_of_networks() -> None:
    for build in (
        lambda: CNN(layers=1),
        lambda: CNN(kernel_size=4),
        lambda: Hourglass(upsample="cubic"),
        lambda: Hourglass(scales=0),
        lambda: ResNet18(weights="cifar"),
    ):
        with pytest.raises(UserError, match="[Tt]ake"):
            build()


def test_imagenet_weights_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line; and nothing is fetched unless asked for."""

    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    ResNet18()
    with pytest.raises(UserError, match=r"no ImageNet weights .*no route to host.* Put .*resnet18.*\.pth"):
        ResNet18(weights="imagenet")


def test_imagenet_weights_reach_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first convolution, which cannot take 32 channels."""
    from torchvision.models import resnet18

    pretrained = {name: torch.full_like(t, 0.125) for name, t in resnet18().state_dict().items()}
    monkeypatch.setattr("minidiff.networks.dip.imagenet_weights", lambda: pretrained)
    same = {channels: [] for channels in (3, 32)}  # type: dict[int, list[bool]]
    for channels, found in same.items():
        for layer in list(ResNet18(channels, weights="imagenet").image.children())[:8]:  # type: ignore[union-attr]
            found += [bool((weights == 0.125).all()) for weights in layer.parameters()]
    assert all(same[3]) and same[32] == [False, *same[3][1:]]


# --- the fit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_resumed_fit_is_the_uninterrupted_one_to_the_bit(
    layout: torch.memory_format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the jitter is not a function of (seed, step), or the state leaves out moments or the average.

    And when the processor that goes on prefers another layout, which rounds otherwise, and takes it.
    """
    by_pixels = layout == torch.channels_last
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512" if by_pixels else "AVX2")
    whole = list(Fitter(small_net(), noisy(), CONFIG).steps())

    first = Fitter(small_net(), noisy(), CONFIG)
    assert first.input.is_contiguous(memory_format=layout)
    steps = first.steps()
    for _ in range(3):
        next(steps)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(123)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2" if by_pixels else "AVX512")
    second = Fitter(Hourglass(4, scales=2, channels=8, skip_channels=2), noisy(), CONFIG)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    rest = list(second.steps())

    assert all(weight.is_contiguous(memory_format=layout) for weight in second.net.parameters() if weight.ndim == 4)
    assert [record.step for record in rest] == [4, 5, 6, 7, 8]
    for ours, theirs in zip(rest, whole[3:], strict=True):
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(ours, theirs, strict=True))


def test_records() -> None:
    """The loss is that of the output beside it; the average weighs each output by 0.9 to the power of its age, and the
    weights add up to 1; kept tensors are not overwritten."""
    y = noisy()
    records = list(fit(small_net(), y, replace(CONFIG, average=0.9)))
    for record in records:
        assert torch.equal(record.loss, (record.output - y).square().mean())
        weights = 0.9 ** torch.arange(record.step).flip(0).view(-1, 1, 1, 1)
        outputs = torch.cat([earlier.output for earlier in records[: record.step]])
        average = (weights * outputs).sum(dim=0, keepdim=True) / weights.sum()
        assert torch.allclose(record.averaged, average, atol=1e-6)
        assert not record.output.requires_grad
    assert records[-1].loss < records[0].loss


NO_COMPILER = not any(shutil.which(name) for name in ("c++", "g++", "clang++"))


@pytest.mark.parametrize(
    "backend",
    [
        "eager",  # traces the network, and compiles nothing
        pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.skipif(NO_COMPILER, reason="needs a compiler")]),
    ],
)
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_a_compiled_fit_is_the_same_fit(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses are the eager ones up to rounding, and its state is that of the plain network."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # so that it compiles now
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    eager, compiled = (Fitter(small_net(), noisy(), replace(CONFIG, steps=3, compile=c)) for c in (False, True))
    for one, other in zip(eager.steps(), compiled.steps(), strict=True):
        assert torch.allclose(one.loss, other.loss, rtol=1e-4)
    assert compiled.forward is not compiled.net and eager.forward is eager.net
    assert compiled.state_dict()["net"].keys() == eager.state_dict()["net"].keys()


def test_seed_and_jitter() -> None:
    """Without jitter the input is fixed; the seed changes the input, and nothing else is random."""
    still = replace(CONFIG, jitter=0.0, lr=1e-12)
    a, b = (record.output for record in fit(small_net(), noisy(), replace(still, steps=2)))
    assert torch.allclose(a, b, atol=1e-5)
    inputs = [Fitter(small_net(), noisy(), replace(CONFIG, seed=seed)).input for seed in (0, 0, 1)]
    assert torch.equal(inputs[0], inputs[1]) and not torch.equal(inputs[0], inputs[2])
    assert inputs[0].shape == (1, 4, 16, 20) and inputs[0].min() >= 0 and inputs[0].max() < 0.1
    jittered = [record.output for record in fit(small_net(), noisy(), replace(CONFIG, lr=1e-12, steps=2))]
    assert (jittered[0] - jittered[1]).abs().max() > 1e-3


class Free(DipNet):
    """The image itself as the weights, whatever the input: then a fit must solve the task exactly."""

    def __init__(self, *size: int) -> None:
        super().__init__(in_channels=1)
        self.pixels = torch.nn.Parameter(torch.zeros(1, 3, *size))

    def forward(self, z: Tensor) -> Tensor:
        assert z.shape[-2:] == self.pixels.shape[-2:]
        return self.pixels + 0 * z.sum()


def last(steps: Iterator[FitStep]) -> FitStep:
    *_, record = steps
    return record


def test_inpainting_learns_nothing_in_the_holes() -> None:
    """Known pixels become the target, holes stay as they were, whatever lies there: fails on an inverted mask."""
    mask = torch.ones(1, 1, 16, 20)
    mask[..., 4:9, 5:11] = 0
    target = torch.where(mask > 0, picture(), 7.0)
    output = last(fit(Free(16, 20), target, FitConfig(300, 0.05, "inpaint", jitter=0), mask)).output
    known = (mask > 0).expand_as(output)
    assert torch.allclose(output[known], target[known], atol=1e-2)
    assert (output[~known] == 0).all()


def test_super_resolution_fits_the_small_image() -> None:
    """The result is factor times larger, and shrunk by Pillow's bicubic filter it is the target."""
    from PIL import Image

    small = picture(6, 8)
    output = last(fit(Free(24, 32), small, FitConfig(300, 0.05, "super-resolve", factor=4, jitter=0))).output
    assert output.shape == (1, 3, 24, 32)
    for channel, target in zip(output[0], small[0], strict=True):
        shrunk = np.asarray(Image.fromarray(channel.numpy()).resize((8, 6), Image.Resampling.BICUBIC))
        assert np.abs(shrunk - target.numpy()).max() < 0.02


def test_the_image_as_input() -> None:
    """What is known of it, of the size of the result; a network of other channels is told so."""
    config = replace(CONFIG, input_kind="image")
    assert torch.equal(Fitter(small_net(3), noisy(), config).input, noisy())
    large = Fitter(small_net(3), noisy(), replace(config, task="super-resolve", factor=2))
    assert large.input.shape == (1, 3, 32, 40)
    mask = torch.zeros(1, 1, 16, 20)
    mask[..., 3] = 1
    holed = Fitter(small_net(3), noisy(), replace(config, task="inpaint"), mask)
    assert torch.equal(holed.input, noisy() * mask)
    with pytest.raises(UserError, match="3 channels, the network takes 4"):
        Fitter(small_net(4), noisy(), config)


def test_wrong_options_of_a_fit() -> None:
    for wrong in (
        {"task": "denoize"},
        {"input_kind": "images"},
        {"steps": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"jitter": -1.0},
        {"average": 1.0},
        {"task": "super-resolve", "factor": 1},
        {"task": "inpaint"},
    ):
        with pytest.raises(UserError):
            Fitter(small_net(), noisy(), replace(CONFIG, **wrong))  # type: ignore[arg-type]
    for mask in (torch.zeros(1, 1, 16, 20), torch.ones(1, 1, 20, 16)):
        with pytest.raises(UserError, match="mask"):
            Fitter(small_net(), noisy(), replace(CONFIG, task="inpaint"), mask)
    with pytest.raises(ValueError, match="one image"):
        Fitter(small_net(), noisy().expand(2, -1, -1, -1), CONFIG)
    assert set(TASKS) == {"denoise", "inpaint", "super-resolve"} and set(INPUTS) == {"noise", "image"}


def test_the_prior_takes_the_picture_before_the_noise(recorded: list[FitStep]) -> None:
    """The best average on the way is well nearer to the clean picture than the target is: 10.5 dB to 19 dB or so."""
    y = noisy()
    errors = [(step.averaged - picture()).square().mean().item() for step in recorded[:250]]
    assert min(errors) < 0.5 * (y - picture()).square().mean().item()


# --- when to stop -------------------------------------------------------------------------------------------------


def by_definition(outputs: np.ndarray, window: int, patience: int) -> tuple[list[float], int, int | None]:
    """ES-WMV with numpy, from all the outputs: the statistics, the iteration of the minimum, the one of the stop.

    Iterations count from 0; the first statistic is that of iteration window - 1.
    """
    statistics, best, waited = [], 0, 0
    for i in range(window - 1, len(outputs)):
        statistics.append(float(np.var(outputs[i - window + 1 : i + 1].astype(np.float64), axis=0).mean()))
        if len(statistics) == 1 or statistics[-1] < statistics[best - window + 1]:
            best, waited = i, 0
        else:
            waited += 1
        if waited >= patience:
            return statistics, best, i
    return statistics, best, None


def watch(stopper: EarlyStop, outputs: np.ndarray) -> tuple[list[float], int | None]:
    """The statistics, and the iteration (from 0) at which the stopper says stop."""
    statistics = []
    for i, output in enumerate(outputs):
        value, stop = stopper.update(torch.from_numpy(output))
        statistics += [] if value is None else [value]
        if stop:
            return statistics, i
    return statistics, None


def walk(seed: int, steps: int = 400) -> np.ndarray:
    """A random walk whose steps shrink and grow again, with its minimum somewhere between: float32 [steps,1,3,4,5]."""
    rng = np.random.default_rng(seed)
    scale = 0.002 + 0.05 * np.abs(np.linspace(-1, rng.uniform(0.2, 1), steps))
    walk = np.cumsum(scale[:, None, None, None, None] * rng.normal(size=(steps, 1, 3, 4, 5)), axis=0)
    return np.sin(walk).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("window", "patience"), [(100, 1000), (100, 60), (7, 20), (2, 5)])
def test_window_variance_is_the_definition(seed: int, window: int, patience: int) -> None:
    """Statistics to 1e-9, indices equal, and the answer is the output at the minimum, not the last one.

    Fails on a window off by one, ddof 1, a counter that is not reset, patience off by one.
    """
    outputs = walk(seed)
    statistics, best, stop = by_definition(outputs, window, patience)
    stopper = WindowVariance(window, patience)
    ours, our_stop = watch(stopper, outputs)
    assert ours == pytest.approx(statistics, rel=1e-9, abs=1e-15)
    assert (stopper.best_step - 1, our_stop) == (best, stop)
    assert stopper.best is not None and np.array_equal(stopper.best.numpy(), outputs[best])


def test_the_first_statistic_is_that_of_iteration_99() -> None:
    stopper = WindowVariance()
    values = [stopper.update(torch.from_numpy(output))[0] for output in walk(0, 102)]
    assert [i for i, value in enumerate(values) if value is not None] == [99, 100, 101]
    assert (stopper.window, stopper.patience) == (100, 1000)


def test_ties_and_the_counter() -> None:
    """Of equal minima the first counts, and an equal value is waited for like a larger one.

    A pattern of period 8 in eighths: float64 sums are exact, so equal windows have equal variances.
    """
    pattern = np.array([0, 1, 0, -1, 2, 0, 0, 0]) / 8
    outputs = np.tile(pattern, 8).astype(np.float32).reshape(-1, 1, 1, 1, 1)
    stopper = WindowVariance(window=2, patience=12)
    statistics, stop = watch(stopper, outputs)
    assert statistics[:9] == [(b - a) ** 2 / 4 for a, b in pairwise(outputs.ravel()[:10])]
    assert stopper.best_step == 7  # the window of steps 6 and 7, both 0; steps 8, 9 and 15 have a 0 as well
    assert stop == 7 - 1 + 12 and stopper.waited == 12

    lower = np.concatenate([outputs[:3], outputs[4:8]])  # a minimum at the end resets the counter
    stopper = WindowVariance(window=2, patience=5)
    assert watch(stopper, lower)[1] is None and stopper.waited == 1


def test_a_recorded_fit_is_stopped_where_the_definition_stops_it(recorded: list[FitStep]) -> None:
    outputs = np.stack([step.output.numpy() for step in recorded])
    statistics, best, stop = by_definition(outputs, 30, 50)
    stopper = WindowVariance(30, 50)
    ours, our_stop = watch(stopper, outputs)
    assert ours == pytest.approx(statistics, rel=1e-9)
    assert (stopper.best_step - 1, our_stop) == (best, stop)


@pytest.mark.parametrize("seed", range(3))
def test_moving_variance_is_the_definition(seed: int) -> None:
    outputs = walk(seed)
    mean, variance, statistics = np.full(outputs.shape[1:], -1.0), np.zeros(outputs.shape[1:]), []
    for output in outputs.astype(np.float64):
        variance = 0.9 * variance + 0.1 * 0.9 * (output - mean) ** 2
        mean = 0.9 * mean + 0.1 * output
        statistics.append(variance.mean())
    stopper = MovingVariance(patience=1000)
    ours, _ = watch(stopper, outputs)
    assert ours == pytest.approx(statistics, rel=1e-9)
    assert stopper.best_step - 1 == np.argmin(statistics)
    assert stopper.best is not None and np.array_equal(stopper.best.numpy(), outputs[np.argmin(statistics)])


def test_downscaling_watches_the_smaller_image() -> None:
    outputs = np.random.default_rng(0).normal(size=(12, 1, 3, 8, 8)).astype(np.float32)
    small = torch.nn.functional.avg_pool2d(torch.from_numpy(outputs[:, 0]), 4)[:, None].numpy()
    stopper = WindowVariance(5, 100, downscale=4)
    assert watch(stopper, outputs)[0] == pytest.approx(by_definition(small, 5, 100)[0], rel=1e-9)
    assert stopper.best is not None and stopper.best.shape == (1, 3, 8, 8)
    assert stopper.outputs is not None and stopper.outputs.shape == (5, 1, 3, 2, 2)


@pytest.mark.parametrize("name", EARLY_STOPS)
def test_a_stopper_resumes_and_keeps_its_own(name: str, tmp_path: Path) -> None:
    """Its state goes through a file; the kept image is the answer given, and no view of the caller's tensor."""
    outputs = walk(1, 150)
    whole, half, resumed = (EARLY_STOPS[name](patience=20) for _ in range(3))
    values = [whole.update(torch.from_numpy(output)) for output in outputs]
    for output in outputs[:120]:
        half.update(torch.from_numpy(output))
    torch.save(half.state_dict(), tmp_path / "stop.pt")
    resumed.load_state_dict(torch.load(tmp_path / "stop.pt", weights_only=True))
    assert [resumed.update(torch.from_numpy(output)) for output in outputs[120:]] == values[120:]
    assert resumed.best_step == whole.best_step

    stopper, answer = MovingVariance(), torch.ones(1, 3, 4, 4)
    stopper.update(torch.zeros(1, 3, 4, 4), answer)
    answer.zero_()
    assert stopper.best is not None and (stopper.best == 1).all()


def test_a_fit_that_breaks_down_is_stopped() -> None:
    """NaN is no minimum: the counter rises, and the answer is the last good one."""
    stopper = WindowVariance(3, 4)
    outputs = np.concatenate([walk(0, 5), np.full((6, 1, 3, 4, 5), np.nan, np.float32)])
    assert watch(stopper, outputs)[1] is not None
    assert stopper.best is not None and stopper.best.isfinite().all()
