"""The networks and the game of a GAN against closed forms: the shapes of the paper, the penalty of a critic whose
gradient is known, the distance of distributions that are known, and a resumed run that is the uninterrupted one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from minidiff.data.datasets import ImageData
from minidiff.errors import UserError
from minidiff.gan.config import GAMES
from minidiff.gan.losses import GANS, clip_weights, entropy_critic, entropy_generator, gradient_penalty, wasserstein
from minidiff.gan.trainer import GanTrainer, average_with_statistics
from minidiff.images.convert import to_float
from minidiff.networks.gan import Critic, Generator, initialise
from minidiff.rng import Draws
from minidiff.training.batches import global_batch
from minidiff.training.config import TrainConfig

# --- the networks -------------------------------------------------------------------------------------------------


def shapes_within(network: nn.Module, x: Tensor, kinds: tuple[type[nn.Module], ...]) -> list[list[int]]:
    """The shapes that come out of the layers of these kinds, without the batch."""
    found: list[list[int]] = []
    for module in network.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda _, inputs, out: found.append(list(out.shape[1:])))
    network(x)
    return found


def test_the_generator_is_figure_1_of_dcgan() -> None:
    """100 numbers, 1024 maps of 4x4 and on to 3 of 64x64; ReLU and batch normalisation behind every one but the last,
    which ends in tanh (section 3). Fails when the order of the widths is turned round or a level is left out."""
    generator = Generator()
    shapes = shapes_within(generator, torch.zeros(2, 100), (nn.ConvTranspose2d,))
    assert shapes == [[1024, 4, 4], [512, 8, 8], [256, 16, 16], [128, 32, 32], [3, 64, 64]]
    kinds = [type(layer).__name__ for layer in generator.layers]
    assert kinds == ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 4 + ["ConvTranspose2d", "Tanh"]


@pytest.mark.parametrize("norm, name", [("batch", "BatchNorm2d"), ("layer", "GroupNorm")])
def test_the_critic_is_the_generator_turned_round(norm: str, name: str) -> None:
    """No normalisation at its input and its output, LeakyReLU of slope 0.2, no sigmoid (DCGAN, section 3; WGAN)."""
    critic = Critic(norm=norm)
    shapes = shapes_within(critic, torch.zeros(2, 3, 64, 64), (nn.Conv2d,))
    assert shapes == [[128, 32, 32], [256, 16, 16], [512, 8, 8], [1024, 4, 4], [1, 1, 1]]
    kinds = [type(layer).__name__ for layer in critic.layers]
    assert kinds == ["Conv2d", "LeakyReLU"] + ["Conv2d", name, "LeakyReLU"] * 3 + ["Conv2d"]
    assert all(layer.negative_slope == 0.2 for layer in critic.layers if isinstance(layer, nn.LeakyReLU))


@pytest.mark.parametrize("size, channels", [(8, 1), (28, 1), (28, 3), (32, 1), (32, 3), (64, 3), (128, 1), (256, 3)])
def test_every_size(size: int, channels: int) -> None:
    generator, critic = Generator(5, 2, size, channels), Critic(2, size, channels)
    images = generator(torch.randn(3, 5))
    assert images.shape == (3, channels, size, size) and images.abs().max() <= 1
    assert critic(images).shape == (3,)


@pytest.mark.parametrize("size, nearest", [(30, 28), (48, 56), (4, 8), (7, 8), (512, 256), (100, 112)])
def test_a_size_that_does_not_double_is_named(size: int, nearest: int) -> None:
    with pytest.raises(UserError, match=rf".image_size. {size} is not 4 or 7 doubled.*Try {nearest}\."):
        Generator(image_size=size)


def test_the_first_weights_are_those_of_the_paper() -> None:
    """N(0, 0.02^2) for every convolution, N(1, 0.02^2) for the factors of a normalisation, no shift."""
    torch.manual_seed(0)
    for network in (Generator(50, 32, 32), Critic(32, 32), Critic(32, 32, norm="layer")):
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.GroupNorm):
                mean = 0.0 if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) else 1.0
                count = module.weight.numel()
                assert abs(module.weight.mean().item() - mean) < 4.5 * 0.02 / count**0.5, name
                assert abs(module.weight.std().item() / 0.02 - 1) < 4.5 / (2 * count) ** 0.5, name
                assert module.bias is None or not module.bias.any(), name


def test_an_image_does_not_depend_on_its_batch() -> None:
    """In eval mode, after the statistics have moved; in training mode it does."""
    torch.manual_seed(0)
    generator, z = Generator(6, 4, 16), torch.randn(8, 6)
    for _ in range(5):
        generator(torch.randn(8, 6))
    assert (generator(z)[:2] - generator(z[:2])).abs().max() > 1e-4
    generator.eval()
    assert torch.allclose(generator(z)[:2], generator(z[:2]), atol=1e-6)


def test_a_generator_is_rebuilt_from_a_config() -> None:
    generator = Generator(6, 4, 28, 1)
    again = Generator(**generator.config)
    again.load_state_dict(generator.state_dict())
    z = torch.randn(2, 6)
    assert torch.equal(generator.eval()(z), again.eval()(z))


# --- the losses ---------------------------------------------------------------------------------------------------


def test_the_loss_of_dcgan_is_the_cross_entropy_of_sigmoids() -> None:
    real, fake = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-3.0, 0.2, 1.0])
    yes, no = torch.ones(3), torch.zeros(3)
    critic = binary_cross_entropy(real.sigmoid(), yes) + binary_cross_entropy(fake.sigmoid(), no)
    assert entropy_critic(real, fake).item() == pytest.approx(critic.item(), rel=1e-6)
    assert entropy_generator(fake).item() == pytest.approx(binary_cross_entropy(fake.sigmoid(), yes).item(), rel=1e-6)
    assert entropy_generator(torch.tensor([-200.0])).item() == pytest.approx(200)  # and no log of 0


def test_the_wasserstein_estimate_of_two_known_distributions() -> None:
    """One apart by d from the other, in every pixel: their distance is |d|, and the critic along d, of slope 1, says
    so. One that does not look along d says less."""
    torch.manual_seed(0)
    x, d = torch.randn(500, 4), torch.tensor([1.0, 2.0, -2.0, 4.0])  # |d| = 5
    along, aside = d / 5, torch.tensor([1.0, 0, 0, 0])
    assert wasserstein((x + d) @ along, x @ along).item() == pytest.approx(5, rel=1e-5)
    assert wasserstein((x + d) @ aside, x @ aside).item() == pytest.approx(1, rel=1e-4)


class Linear(nn.Module):
    """A critic whose gradient is its weight, everywhere."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def test_the_penalty_of_a_linear_critic() -> None:
    """(|w| - 1)^2, and its gradient 2 (|w| - 1) w / |w|: fails without create_graph, on a norm over the batch, on a sum
    in place of the mean."""
    critic = Linear(torch.tensor([3.0, 0.0, 4.0, 0.0]))  # |w| = 5
    real, fake = torch.randn(6, 1, 2, 2), torch.randn(6, 1, 2, 2)
    penalty = gradient_penalty(critic, real, fake, torch.rand(6, 1, 1, 1))
    assert penalty.item() == pytest.approx(16)
    penalty.backward()
    assert critic.weight.grad is not None
    assert torch.allclose(critic.weight.grad, 2 * 4 * torch.tensor([3.0, 0.0, 4.0, 0.0]) / 5)


def test_the_penalty_is_taken_between_real_and_made() -> None:
    """f(x) = |x|^2 / 2 has the gradient x: with real 8, fake 0 in one pixel, and mix m, (8 m - 1)^2. In float32 under
    autocast too."""
    real, fake = torch.full((4, 1, 1, 1), 8.0), torch.zeros(4, 1, 1, 1)
    mix = torch.tensor([0.0, 0.25, 0.5001, 1.0]).view(4, 1, 1, 1)
    expected = np.mean([(8 * m - 1) ** 2 for m in (0.0, 0.25, 0.5001, 1.0)])

    def critic(x: Tensor) -> Tensor:
        return (x @ x).flatten(1).sum(1) / 2  # `@` is what autocast would round

    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert gradient_penalty(critic, real, fake, mix).item() == pytest.approx(expected, rel=1e-6)


def test_clipping() -> None:
    critic = Linear(torch.tensor([-3.0, -0.01, 0.004, 0.02]))
    clip_weights(critic, 0.01)
    assert torch.equal(critic.weight.detach(), torch.tensor([-0.01, -0.01, 0.004, 0.01]))


# --- the game -----------------------------------------------------------------------------------------------------


class Still(nn.Module):
    """A generator that makes one grey image, and learns its shade."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.config = {"latent_dim": 2}
        self.shade, self.size = nn.Parameter(torch.tensor(-0.5)), size

    def forward(self, z: Tensor) -> Tensor:
        return self.shade.expand(len(z), 1, self.size, self.size)


def white(count: int = 6) -> ImageData:
    return ImageData("test", np.full((count, 8, 8, 1), 255, np.uint8), np.zeros((count, 0), np.uint8), [], flip=False)


def still(kind: str, lr: float = 0.003, **config: Any) -> GanTrainer:
    """A linear critic between white images and one of -0.5: 64 pixels that are 1.5 apart."""
    training = TrainConfig(**{"steps": 400, "batch_size": 4, "lr": lr, "warmup": 0, "precision": "fp32", **config})
    torch.manual_seed(0)
    critic = Linear(0.001 * torch.randn(64))
    return GanTrainer(Still(), critic, GANS[kind], white(), training)  # type: ignore[arg-type]


def critic_alone(trainer: GanTrainer, steps: int) -> Tensor:
    """The Wasserstein estimate after so many steps of the critic against a generator that stands still."""
    real = to_float(torch.from_numpy(trainer.data.images[:4]))
    for step in range(steps):
        record = trainer.critic_step(real, Draws(step, 4, slice(0, 4)))
    return record["wasserstein"]


def test_a_linear_critic_with_penalty_finds_the_distance() -> None:
    """Two points |d| = 12 apart: -w d + 10 (|w| - 1)^2 is least for w along d with |w| = 1 + |d| / 20 = 1.6, and the
    estimate is 1.6 times the distance. Fails when the critic is led the other way, on another weight of the penalty."""
    trainer = still("wgan-gp", lr=0.001)
    assert critic_alone(trainer, 260).item() == pytest.approx(12 * 1.6, rel=0.01)  # Adam goes to and fro by the rate
    assert trainer.critic.weight.norm().item() == pytest.approx(1.6, rel=0.01)


def test_the_penalty_looks_at_a_point_of_its_own_for_each_image() -> None:
    """Between white, 1, and the generator's -0.5: where an image lies on its way is even over all of it, and no two of
    200 lie at the same place. Fails with one mixing number for a batch, and with one for each pixel."""
    trainer = still("wgan-gp", batch_size=200)
    seen: list[Tensor] = []
    trainer.critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    trainer.critic_step(torch.ones(200, 1, 8, 8), Draws(0, 200, slice(0, 200)))
    mixed = (seen[-1].flatten(1) + 0.5) / 1.5
    assert (mixed.max(dim=1).values - mixed.min(dim=1).values).max() < 1e-6
    places = mixed[:, 0].sort().values
    assert (places.diff() > 0).all()
    steps = (torch.arange(200) + 0.5) / 200
    assert (places - steps).abs().max() < 1.95 / 200**0.5  # Kolmogorov and Smirnov: one time in a thousand


def test_a_linear_critic_with_clipping_finds_the_distance() -> None:
    """|w_i| <= 0.01 makes w_i = 0.01 sign(d_i), and the estimate 0.01 times the sum of |d_i| = 96."""
    trainer = still("wgan", lr=0.001)
    assert critic_alone(trainer, 60).item() == pytest.approx(0.96, rel=1e-5)
    assert torch.equal(trainer.critic.weight.detach(), torch.full((64,), 0.01))


def test_a_discriminator_learns_to_tell() -> None:
    trainer = still("dcgan")
    first, _ = trainer.critic_step(torch.ones(4, 1, 8, 8), Draws(0, 4, slice(0, 4))), None
    for step in range(30):
        record = trainer.critic_step(torch.ones(4, 1, 8, 8), Draws(step, 4, slice(0, 4)))
    assert first["discriminator_loss"].item() == pytest.approx(2 * np.log(2), rel=0.05)
    assert record["accuracy_real"] == record["accuracy_fake"] == 1 and record["discriminator_loss"] < 1


@pytest.mark.parametrize("kind", ["wgan", "wgan-gp", "dcgan"])
def test_the_generator_moves_towards_the_data(kind: str) -> None:
    """Its only image goes from -0.5 towards the white of the data, whichever game is played: fails on a wrong sign in
    any of the losses."""
    trainer = still(kind, steps=30)
    records = list(trainer.steps())
    assert trainer.model.shade > -0.48
    assert [record.step for record in records] == list(range(1, 31))


@pytest.mark.parametrize("kind", GANS)
def test_each_moves_alone(kind: str) -> None:
    """The critic's step leaves the generator's weights, and its the critic's; neither leaves gradients with the other,
    and the critic can learn again after it."""
    trainer = small(kind)
    draws = Draws(0, 4, slice(0, 4))

    def parameters(module: nn.Module) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    before = parameters(trainer.model), parameters(trainer.critic)
    trainer.critic_step(torch.rand(4, 3, 8, 8), draws)
    assert torch.equal(parameters(trainer.model), before[0])
    assert not torch.equal(parameters(trainer.critic), before[1])
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    between, gradients = parameters(trainer.critic), [p.grad.clone() for p in trainer.critic.parameters()]
    trainer.generator_step(draws)
    assert torch.equal(parameters(trainer.critic), between)
    assert not torch.equal(parameters(trainer.model), before[0])
    assert all(torch.equal(p.grad, old) for p, old in zip(trainer.critic.parameters(), gradients, strict=True))
    assert all(parameter.requires_grad for parameter in trainer.critic.parameters())


def test_each_step_of_the_critic_reads_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of three turns read the first six batches, in the order of a DDPM's; the second step goes on there."""
    data = ImageData("test", np.arange(10, dtype=np.uint8).repeat(64).reshape(10, 8, 8, 1), np.zeros((10, 0), np.uint8),
                     [], flip=False)  # fmt: skip
    seen: list[list[int]] = []
    config = TrainConfig(steps=2, batch_size=4, seed=3)

    def look(self: GanTrainer, real: Tensor, draws: Draws) -> dict[str, Tensor]:
        seen.append(((real[:, 0, 0, 0] + 1) * 127.5).round().int().tolist())
        return {}

    monkeypatch.setattr(GanTrainer, "critic_step", look)
    method = replace(GANS["dcgan"], game=replace(GAMES["dcgan"], critic_steps=3))
    expected = [global_batch(3, 10, 4, batch).tolist() for batch in range(1, 7)]
    first = GanTrainer(Generator(2, 2, 8, 1), Critic(2, 8, 1), method, data, config)
    next(first.steps())
    assert seen == expected[:3]
    list(first.steps())
    assert seen == expected


def test_no_noise_comes_twice() -> None:
    """Not in another turn, not in another step, not for another seed; the same seed has the same again."""
    drawn = []
    for seed in (0, 1, 0):
        trainer, seen = small("wgan", steps=2, seed=seed), list[Tensor]()
        trainer.model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        list(trainer.steps())
        drawn.append(torch.cat(seen))
    assert drawn[0].shape == (2 * (5 + 1) * 4, 4)
    assert len(torch.cat(drawn[:2]).unique(dim=0)) == 2 * len(drawn[0])
    assert torch.equal(drawn[0], drawn[2])


def test_optimizers_rates_and_records_are_those_of_the_papers() -> None:
    rmsprop, adam = torch.optim.RMSprop, torch.optim.Adam
    for kind, expected, betas in (("dcgan", adam, (0.5, 0.999)), ("wgan", rmsprop, None), ("wgan-gp", adam, (0, 0.9))):
        trainer = small(kind, lr=3e-4)
        record = next(trainer.steps())
        for optimizer in (trainer.optimizer, trainer.critic_optimizer):
            assert type(optimizer) is expected
            (group,) = optimizer.param_groups
            assert group["lr"] == 3e-4 and group.get("betas") == betas and not group["weight_decay"]
        names = {"dcgan": {"discriminator_loss", "accuracy_real", "accuracy_fake"}}
        assert record.also.keys() == names.get(kind, {"critic_loss", "wasserstein"}) and record.lr == 3e-4
    assert [game.critic_steps for game in GAMES.values()] == [1, 5, 5]
    assert GAMES["wgan"].clip == 0.01 and GAMES["wgan-gp"].penalty == 10


@pytest.mark.parametrize("kind", GANS)
def test_mixed_precision_is_near_full_precision(kind: str) -> None:
    """In bf16 the first records differ by its rounding, and are float32, as are the weights."""
    records = [next(small(kind, precision=precision).steps()) for precision in ("fp32", "bf16")]
    for name in ("loss", *records[0].also):
        full, mixed = (r.loss if name == "loss" else r.also[name] for r in records)
        assert mixed.dtype == torch.float32 and mixed.item() == pytest.approx(full.item(), rel=0.05, abs=0.02), name
    assert all(parameter.dtype == torch.float32 for parameter in small(kind).model.parameters())


def test_the_average_takes_the_statistics_along() -> None:
    """ema_n = d ema + (1 - d) model, for weights and running statistics alike; the count of batches is copied."""
    torch.manual_seed(0)
    model, ema = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    initialise(model)
    model(torch.randn(4, 2, 3, 3) + 5)
    average_with_statistics(ema, model, 0.75)
    assert torch.allclose(ema.running_mean, 0.25 * model.running_mean)  # type: ignore[operator, arg-type]
    assert torch.allclose(ema.running_var, 0.75 + 0.25 * model.running_var)  # type: ignore[operator, arg-type]
    assert torch.allclose(ema.weight, 0.75 + 0.25 * model.weight)
    assert ema.num_batches_tracked == model.num_batches_tracked == 1


# --- resuming, and several processes ------------------------------------------------------------------------------


def some_images(count: int = 10) -> ImageData:
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return ImageData("test", images, np.zeros((count, 0), np.uint8), [], flip=True)


def small(kind: str, **config: Any) -> GanTrainer:
    """A generator and a critic of 8x8 images, 10 of them, so that an epoch's end comes inside a batch."""
    torch.manual_seed(0)
    method, generator = GANS[kind], Generator(4, 4, 8)
    training = TrainConfig(**{"steps": 6, "batch_size": 4, "lr": 1e-3, "warmup": 0, "precision": "fp32", **config})
    return GanTrainer(generator, Critic(4, 8, norm=method.game.norm), method, some_images(), training)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in module.state_dict().values()])


@pytest.mark.parametrize("kind", GANS)
@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(kind: str, stop: int, tmp_path: Path) -> None:
    """Fails when anything random is not a function of (seed, step), or the state leaves anything out: either
    optimizer, the critic, the EMA, the running statistics, the place in the data."""
    whole = small(kind)
    list(whole.steps())
    first = small(kind)
    for record in first.steps():
        if record.step == stop:
            break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = small(kind)
    torch.manual_seed(123)  # a new process has another global state
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(second.steps())
    assert second.step == 6
    for name in ("model", "ema", "critic"):
        assert torch.equal(weights(getattr(whole, name)), weights(getattr(second, name))), name
    assert not torch.equal(weights(whole.model), weights(whole.ema))


def test_a_state_of_another_kind_is_refused() -> None:
    trainer = small("dcgan")
    state = trainer.state_dict()
    with pytest.raises(UserError, match="state.pt .*training state of a GAN: it has no critic"):
        trainer.load_state_dict({name: state[name] for name in state if name != "critic"}, "state.pt")


def test_batches_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match=r"one image at a time .* Raise .batch_size."):
        small("dcgan", batch_size=1)


TWO = """
import sys
import torch
from minidiff.runtime import distributed
from test_gan import small, still, weights
with distributed.process_group(torch.device("cpu")):
    found = {}
    for kind in ("dcgan", "wgan-gp"):
        trainer, noise = small(kind, steps=2, batch_size=8), []
        trainer.model.register_forward_pre_hook(lambda _, inputs, noise=noise: noise.append(inputs[0]))
        records = list(trainer.steps())
        found[kind] = {name: weights(getattr(trainer, name)) for name in ("model", "ema", "critic")}
        found[kind]["logged"] = torch.stack([records[-1].loss, *records[-1].also.values()])
        found[f"noise {kind}"] = torch.stack(noise)
    point = still("wgan-gp", steps=3)
    list(point.steps())
    found["still"] = {name: weights(getattr(point, name)) for name in ("model", "critic")}
    torch.save(found, f"{sys.argv[1]}-{distributed.rank()}.pt")
"""


@pytest.mark.slow
def test_two_processes_stay_equal(tmp_path: Path) -> None:
    """Weights, averages, statistics and what is logged, though each sees images of its own, and noise of its own: the
    rows of what one process draws. A network without batch normalisation is trained as by one process. Fails when
    gradients, or the statistics, are not averaged."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    places = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if processes == 2 else []
        done = subprocess.run(
            [sys.executable, *launcher, str(script), str(tmp_path / f"of{processes}")], timeout=300, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": places}, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two, other = (torch.load(tmp_path / name) for name in ("of1-0.pt", "of2-0.pt", "of2-1.pt"))
    for kind in ("dcgan", "wgan-gp", "still"):
        for name in two[kind]:
            assert torch.equal(two[kind][name], other[kind][name]), (kind, name)
    for kind in ("noise dcgan", "noise wgan-gp"):
        assert torch.equal(torch.cat([two[kind], other[kind]], dim=1), one[kind])
    for name in ("model", "critic"):
        assert torch.allclose(one["still"][name], two["still"][name], atol=1e-6), name
