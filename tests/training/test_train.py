"""The training loop against closed forms: what it optimises, averages and repeats."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minidiff.data.datasets import ImageData
from minidiff.ddpm.config import DiffusionConfig
from minidiff.ddpm.recipe import ddpm_loss
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.networks.unet import UNet
from minidiff.rng import Draws
from minidiff.training.batches import epoch_order, global_batch, load_batches, prepare, read_by_workers, slices_of
from minidiff.training.config import TrainConfig
from minidiff.training.loop import Trainer, average_weights


def some_images(count: int = 10, size: int = 8) -> ImageData:
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ImageData("test", images, np.zeros((count, 0), np.uint8), [], flip=True)


def small_unet() -> UNet:
    torch.manual_seed(0)
    return UNet(8, channels=(8, 16), layers_per_block=1, attention=(False, True), norm_groups=4, dropout=0.2)


def trainer(config: TrainConfig, count: int = 10) -> Trainer:
    loss = ddpm_loss(Schedule.linear(50), DiffusionConfig(), torch.device("cpu"))
    return Trainer(small_unet(), loss, some_images(count), config)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


CONFIG = TrainConfig(steps=8, batch_size=4, warmup=2, decay="cosine")


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path: Path, stop: int) -> None:
    """Fails when anything random is not a function of (seed, step), or the state leaves anything out: optimizer
    moments, EMA, data position (10 images in batches of 4 put an epoch's end inside a batch)."""
    whole = trainer(CONFIG)
    list(whole.steps())

    first = trainer(CONFIG)
    for record in first.steps():
        if record.step == stop:
            break
    torch.save(first.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(123)  # a new process has another global state
    second = trainer(CONFIG)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(second.steps())

    assert second.step == 8
    assert torch.equal(weights(whole.model), weights(second.model))
    assert torch.equal(weights(whole.ema), weights(second.ema))
    assert not torch.equal(weights(whole.model), weights(whole.ema))


def test_accumulation_is_the_same_batch_in_slices() -> None:
    """Without dropout 4 slices of 2 give the gradient of one batch of 8: fails when slices repeat their noise, are
    not averaged, or gradients are cleared between them."""
    results = []
    for accumulate in (1, 4):
        config = TrainConfig(steps=3, batch_size=8, warmup=0, lr=1e-3, accumulate=accumulate, precision="fp32")
        run = trainer(config)
        for module in run.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        losses = [record.loss.item() for record in run.steps()]
        results.append((losses, weights(run.model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=2e-5)


def test_the_ema_is_the_weighted_sum_of_all_weights() -> None:
    """ema_n = prod(d) w_0 + sum_k (1 - d_k) prod(d after k) w_k, with the decay of each step: fails when the roles of
    decay and 1 - decay are exchanged, or the EMA moves before the optimizer."""
    run = trainer(CONFIG)
    expected = weights(run.model).double()
    for record in run.steps():
        decay = min(CONFIG.ema_decay, (1 + record.step) / (10 + record.step))
        expected = decay * expected + (1 - decay) * weights(run.model).double()
    assert torch.allclose(weights(run.ema).double(), expected, atol=1e-6)


def test_the_ema_copies_buffers() -> None:
    """Batch-norm statistics of the model, not the initial ones."""
    model, ema = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    model(torch.randn(4, 2, 3, 3))
    average_weights(ema, model, 0.9)
    assert ema.running_mean is not None and model.running_mean is not None
    assert torch.equal(ema.running_mean, model.running_mean)


def test_the_optimizer_is_adamw_on_the_mean_loss() -> None:
    """One parameter with the loss (w - x)^2 against AdamW written out by hand in float64 (Loshchilov & Hutter,
    algorithm 2), with warm-up and clipping: fails on a rate off by one step or an unclipped gradient."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(3.0))

    data = ImageData("test", np.full((4, 8, 8, 3), 255, np.uint8), np.zeros((4, 0), np.uint8), [], flip=False)
    config = TrainConfig(steps=5, batch_size=2, lr=0.1, warmup=3, weight_decay=0.01, grad_clip=1.0)

    def loss(model: nn.Module, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        return (model.w - images).square().mean()  # type: ignore[operator]

    run = Trainer(Constant(), loss, data, config)
    w, m, v = 3.0, 0.0, 0.0
    for record in run.steps():
        k = record.step
        assert record.lr == pytest.approx(0.1 * min(1, k / 3))
        assert record.loss.item() == pytest.approx((w - 1) ** 2, rel=1e-4)
        gradient = 2 * (w - 1)
        assert record.grad_norm.item() == pytest.approx(abs(gradient), rel=1e-4)
        gradient = math.copysign(min(abs(gradient), 1.0), gradient)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w -= record.lr * (0.01 * w + (m / (1 - 0.9**k)) / (math.sqrt(v / (1 - 0.999**k)) + 1e-8))
        assert run.model.w.item() == pytest.approx(w, rel=1e-4)  # type: ignore[operator]


def test_learning_rates() -> None:
    """Linear to the peak at step `warmup`, then constant, or half a cosine to 0 at the last step."""
    config = TrainConfig(steps=110, lr=1.0, warmup=10, decay="cosine")
    assert [config.learning_rate(s) for s in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert config.learning_rate(60) == pytest.approx(0.5)
    assert config.learning_rate(110) == pytest.approx(0.0, abs=1e-12)
    assert TrainConfig(steps=110, lr=1.0, warmup=10).learning_rate(110) == 1.0


def test_every_epoch_sees_every_image_once() -> None:
    """60 batches of 4 over 10 images: each epoch of 10 is a permutation, and no two are alike."""
    order = np.concatenate([global_batch(7, 10, 4, step) for step in range(1, 61)])
    epochs = order.reshape(24, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 24
    assert (epoch_order(7, 10, 3) == epochs[3]).all()


def test_a_batch_larger_than_the_data_goes_round() -> None:
    assert sorted(global_batch(0, 3, 7, 1))[:2] == [0, 0]


def test_slices_of_all_processes_make_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, two slices each, read the batch that one process reads, each row once."""
    data, config = some_images(), TrainConfig(steps=2, batch_size=8, accumulate=2)
    seen = torch.zeros(8)
    for rank in range(2):
        monkeypatch.setattr("minidiff.runtime.distributed.rank", lambda rank=rank: rank)
        for images, _, rows in list(load_batches(data, config, 2, 0, torch.device("cpu")))[:2]:
            expected = data.images[global_batch(0, 10, 8, 1)[rows]]
            assert (images.numpy() == expected).all()
            seen[rows] += 1
    assert (seen == 1).all()


def test_worker_processes_read_the_same_slices_in_order() -> None:
    """What a GPU run with much data reads through workers is what a CPU run reads itself."""
    data, config = some_images(), TrainConfig(steps=5, batch_size=4, accumulate=2)
    direct = list(load_batches(data, config, 2, 0, torch.device("cpu")))
    ahead = list(read_by_workers(data, slices_of(10, config, 2, 0), workers=2))
    assert len(direct) == len(ahead) == 10
    for (images, labels, rows), (others, other_labels, other_rows) in zip(direct, ahead, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels) and rows == other_rows


def test_draws_do_not_depend_on_the_slicing() -> None:
    whole = Draws(5, 6, slice(0, 6))
    expected = [whole.rand(1), whole.randint(1000), whole.randn(3, 2)]
    for start in (0, 2, 4):
        part = Draws(5, 6, slice(start, start + 2))
        for value, full in zip((part.rand(1), part.randint(1000), part.randn(3, 2)), expected, strict=True):
            assert torch.equal(value, full[start : start + 2])


def test_timesteps_are_uniform_from_0_to_the_last() -> None:
    """Both ends are drawn: the lab's own randint(0, T - 1) never trained the noisiest step."""
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return x

    loss = ddpm_loss(Schedule.linear(10), DiffusionConfig(), torch.device("cpu"))
    x0 = torch.zeros(500, 3, 2, 2)
    for seed in range(8):
        loss(model, x0, torch.zeros(500, 0), Draws(seed, 500, slice(0, 500)))  # type: ignore[arg-type]
    counts = torch.cat(seen).bincount(minlength=10)
    assert len(counts) == 10
    assert ((counts - 400).abs() < 4.5 * math.sqrt(4000 * 0.1 * 0.9)).all()


def test_half_of_the_images_are_mirrored() -> None:
    """And only left to right: fails on a flip up and down, or one decision for the whole batch."""
    images = torch.from_numpy(some_images(400).images)
    straight = prepare(images, False, Draws(0, 400, slice(0, 400)))
    mixed = prepare(images, True, Draws(0, 400, slice(0, 400)))
    mirrored = (mixed != straight).flatten(1).any(1)
    assert torch.equal(mixed[mirrored], straight[mirrored].flip(3))
    assert abs(mirrored.sum().item() - 200) < 4.5 * 10


def test_wrong_batch_sizes_are_named() -> None:
    with pytest.raises(UserError, match=r".batch_size. 10 does not divide .* Try 12"):
        trainer(TrainConfig(batch_size=10, accumulate=4))


def test_a_state_of_another_network_is_refused_whole() -> None:
    """Nothing is copied, and the message names the first tensors that do not fit."""
    run = trainer(CONFIG)
    before = weights(run.model)
    state = run.state_dict()
    state["model"] = {name: tensor for name, tensor in state["model"].items() if name != "conv_out.bias"}
    state["model"]["extra"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"conv_out.bias is missing; extra is not of this network"):
        run.load_state_dict(state, "state.pt")
    assert torch.equal(before, weights(run.model))
