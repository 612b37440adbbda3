"""Muon: is its update orthogonal, are its matrices the right ones, and does a training with it resume to the bit?"""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import minidiff
from minidiff.ddpm.config import DiffusionConfig
from minidiff.ddpm.recipe import ddpm_loss
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.networks.resnet import ResNet18
from minidiff.networks.unet import UNet
from minidiff.rng import Draws
from minidiff.training.muon import POLYNOMIALS, SAFETY, Muon, hidden_weights, optimizers, orthogonalise

SMALL = {"channels": (8, 16), "attention": (False, True), "norm_groups": 8, "layers_per_block": 1}


def polar(matrices: torch.Tensor) -> torch.Tensor:
    """Return U V^T, from the singular value decomposition."""
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16), (1, 9)])
def test_the_update_is_nearly_the_nearest_orthogonal_matrix(shape: tuple[int, int]) -> None:
    """Singular values near 1, and the same singular vectors. Fails for a wrong coefficient, and for a matrix that is
    multiplied from the wrong side."""
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    matrices = u * (s.clamp(min=0.02 * s.max()))[:, None, :] @ v
    found = torch.stack(orthogonalise(list(matrices)))
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.85 and values.max() < 1.15
    in_its_own_basis = u.mT @ found @ v.mT
    assert (in_its_own_basis - torch.diag_embed(in_its_own_basis.diagonal(dim1=1, dim2=2))).abs().max() < 1e-9
    assert torch.cosine_similarity(found.flatten(1), polar(matrices).flatten(1)).min() > 0.99


def test_the_gram_matrix_gives_what_the_plain_iteration_gives() -> None:
    """X <- aX + b(XX^T)X + c(XX^T)^2 X, as Jordan et al. and Amsel et al. write it."""
    x = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.stack(orthogonalise(list(x)))
    x = x / (SAFETY * x.flatten(1).norm(dim=1)[:, None, None])
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_the_polynomials_keep_what_their_comment_says() -> None:
    """Of singular values from 0.01 to 1 they make 0.97 to 1.04, of a tiny one 493 times as much. Fails for any other
    first digit, and without the margin for rounding (an s of 1.01 must not run away)."""
    s = torch.cat([torch.logspace(-2, 0, 5000, dtype=torch.float64), torch.tensor([1.01, 1e-3, 1e-9])])
    for a, b, c in POLYNOMIALS:
        s = a * s + b * s**3 + c * s**5
    assert s[:-2].min() > 0.97 and s[:-2].max() < 1.04
    assert abs(s[-2] - 0.475) < 0.01 and abs(s[-1] / 1e-9 - 492.7) < 0.1


def test_shapes_of_all_kinds_go_together() -> None:
    """Wide, tall and square ones of the same shorter side go together, and zeros stay zeros; a gradient of
    1e-12 counts as much as one of 1. Fails when results change places, or a norm is taken over several matrices."""
    generator = torch.Generator().manual_seed(6)
    shapes = [(6, 40), (40, 6), (6, 6), (3, 5), (6, 40), (6, 7), (5, 3)]
    # In float64: in float32 two orders of the same sums differ by 1e-5 on some processors.
    matrices = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    together = orthogonalise(matrices)
    for x, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(found, orthogonalise([x])[0])
        torch.testing.assert_close(orthogonalise([x.mT])[0], found.mT)
        torch.testing.assert_close(orthogonalise([1e-12 * x])[0], found, rtol=1e-3, atol=1e-4)
    zeros = orthogonalise([torch.zeros(6, 40, dtype=torch.float64), matrices[0]])
    assert not zeros[0].any() and torch.equal(zeros[1], together[0])


def test_float32_is_enough_where_most_directions_are_nearly_lost() -> None:
    """Singular values from 1 down to 1e-5, as a young network's momenta have. Fails in bfloat16."""
    generator = torch.Generator().manual_seed(7)
    u, v = (torch.linalg.qr(torch.randn(n, 96, generator=generator, dtype=torch.float64))[0] for n in (96, 288))
    x = u * torch.logspace(0, -5, 96, dtype=torch.float64) @ v.mT
    exact, found = orthogonalise([x])[0], orthogonalise([x.float()])[0].double()
    assert (found - exact).norm() < 0.02 * exact.norm()
    assert torch.linalg.matrix_norm(found, 2) < 1.2


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_layout_in_memory_makes_no_difference(layout: torch.memory_format) -> None:
    """A convolution [out,in,3,3] that is not square moves by U V^T of [out,in*9] in any layout. Fails when the columns
    come back in another order."""
    generator = torch.Generator().manual_seed(8)
    value, gradient = (torch.randn(4, 6, 3, 3, generator=generator) for _ in range(2))
    weight = nn.Parameter(value.clone().to(memory_format=layout))
    weight.grad = gradient.to(memory_format=layout)
    Muon([weight], lr=0.1).step()
    update = orthogonalise([gradient.flatten(1)])[0].view_as(value)
    torch.testing.assert_close(weight.detach(), value - 0.1 * 0.2 * math.sqrt(54) * update, rtol=1e-4, atol=1e-5)
    assert weight.is_contiguous(memory_format=layout)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
def test_it_is_the_muon_of_torch() -> None:
    """Momentum, its Nesterov form, the scale of the update and the decay, over three steps. Ours orthogonalises better,
    so both get gradients whose singular values are all the same: there the two differ by the length alone."""
    generator = torch.Generator().manual_seed(2)
    ours, theirs = (nn.Parameter(torch.zeros(8, 24, dtype=torch.float64)) for _ in range(2))
    mine = Muon([ours], lr=0.1, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        before = ours.detach().clone()
        ours.grad = torch.randn(8, 24, generator=generator, dtype=torch.float64)
        theirs.data.copy_(before)
        theirs.grad = ours.grad.clone()
        mine.step(), other.step()
        moved, by_torch = ours - 0.99 * before, theirs - 0.99 * before
        assert torch.cosine_similarity(moved.flatten(), by_torch.flatten(), dim=0) > 0.98
        assert 0.8 < moved.norm() / by_torch.norm() < 1.25
    assert abs(moved.square().mean().sqrt().item() - 0.1 * 0.2) < 0.002  # of 8 orthogonal rows of 24: lr * 0.2


def test_weights_of_one_shape_are_moved_as_if_alone() -> None:
    """A convolution is the matrix of its rows; stacking changes nothing. Fails when matrices are mixed up."""
    generator = torch.Generator().manual_seed(3)
    values = [torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2)]
    gradients = [torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2)]

    def moved(which: list[int], flat: bool) -> list[torch.Tensor]:
        weights = [nn.Parameter(values[i].flatten(1) if flat else values[i].clone()) for i in which]
        for weight, i in zip(weights, which, strict=True):
            weight.grad = gradients[i].view_as(weight).clone()
        Muon(weights, lr=0.1).step()
        return [weight.detach().view(4, 3, 3, 3) for weight in weights]

    together = moved([0, 1], flat=False)
    torch.testing.assert_close(together, [*moved([0], flat=True), *moved([1], flat=True)])


def test_which_weights_it_moves() -> None:
    """Features to features: not the first and last layer, not what the timestep goes through, no norm and no bias."""
    network = UNet(16, **SMALL)
    names = {id(weight): name for name, weight in network.named_parameters()}
    hidden = {names[id(weight)] for weight in hidden_weights(network)}
    assert "down.0.block.conv1.weight" in hidden and "mid.0.attention.query.weight" in hidden
    assert not any(part in name for name in hidden for part in ("time", "conv_in", "conv_out", "norm", "bias"))
    assert hidden == {
        name
        for name, weight in network.named_parameters()
        if weight.ndim >= 2 and not any(part in name for part in ("time", "conv_in", "conv_out"))
    }
    resnet = ResNet18(3, 1, width=4)
    assert len(hidden_weights(resnet)) == sum(weight.ndim >= 2 for weight in resnet.parameters()) - 2
    resnet.layer1.requires_grad_(False)
    assert len(hidden_weights(resnet)) == sum(weight.ndim >= 2 for weight in resnet.parameters()) - 2 - 4
    made = optimizers(network, True, lr=1e-3, weight_decay=0.0, fused=True)
    assert made.keys() == {"optimizer", "muon"}
    counted = sum(len(group["params"]) for each in made.values() for group in each.param_groups)
    assert counted == len(list(network.parameters()))


class Names(nn.Sequential):
    """A network that says which of its weights are inside."""

    def __init__(self, *names: str) -> None:
        super().__init__(*(nn.Linear(4, 4) for _ in range(3)))
        self.names = names

    def hidden_weights(self) -> list[torch.Tensor]:
        return [self.get_parameter(name) if name else torch.zeros(4, 4) for name in self.names]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "Sequential has no layer between .* Train it without"),
        (Names(), "Names has no layer"),
        (Names("1.bias"), "hidden_weights. of Names must return some of its weights"),
        (Names("1.weight", ""), "hidden_weights. of Names must return some of its weights"),
    ],
)
def test_a_network_that_muon_cannot_train_is_one_line(network: nn.Module, said: str) -> None:
    """Fails when such a network is trained by AdamW alone, and nobody is told."""
    with pytest.raises(UserError, match=said):
        optimizers(network, True, lr=1e-3, weight_decay=0.0, fused=True)
    assert optimizers(Names("1.weight"), True, lr=1e-3, weight_decay=0.0, fused=True).keys() == {"optimizer", "muon"}


def trainer(steps: int, **settings: bool) -> minidiff.Trainer:
    """A training of a small U-Net on eight images of noise."""
    torch.manual_seed(0)
    images = torch.randint(256, (8, 8, 8, 3), dtype=torch.uint8).numpy()
    loss = ddpm_loss(Schedule.linear(50), DiffusionConfig(timestep_sampling="stratified"), torch.device("cpu"))
    config = minidiff.TrainConfig(steps=steps, batch_size=4, lr=1e-2, warmup=0, **settings)
    return minidiff.Trainer(UNet(8, **SMALL), loss, images, config)


def test_a_resumed_training_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    """To the bit. Fails when the momentum of Muon, or the state of AdamW, is not saved. A state without Muon's part, or
    with a momentum of another shape, is refused."""
    whole, first, second = trainer(4, muon=True), trainer(2, muon=True), trainer(4, muon=True)
    list(whole.steps()), list(first.steps())
    torch.save(first.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(state)
    list(second.steps())
    for (name, one), other in zip(whole.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    with pytest.raises(UserError, match="muon"):
        trainer(4, muon=True).load_state_dict({key: value for key, value in state.items() if key != "muon"})
    state["muon"]["state"][0]["momentum"] = torch.zeros(1)
    with pytest.raises(UserError, match="momentum of parameter 0"):
        trainer(4, muon=True).load_state_dict(state)


def test_a_training_without_muon_is_adamw_as_before() -> None:
    """And with it other weights come out. Fails when the choice is not passed on."""
    plain, turned = trainer(3), trainer(3, muon=True)  # the first moves the last layer alone
    assert plain.state_dict().keys() == {"step", "model", "ema", "optimizer"}
    list(plain.steps()), list(turned.steps())
    name = "down.0.block.conv1.weight"
    assert not torch.equal(plain.model.state_dict()[name], turned.model.state_dict()[name])


def test_stratified_timesteps_are_one_in_each_part_and_all_equally_likely() -> None:
    """Sample k of N has a timestep from the k-th Nth, also when processes share the batch. Fails for timesteps that
    repeat, and when a process draws other ones than its rows of the whole batch."""
    whole = Draws(5, 8, slice(0, 8)).stratified(80)
    assert [int(t) // 10 for t in whole] == list(range(8))
    halves = [Draws(5, 8, rows).stratified(80) for rows in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat(halves), whole)
    drawn = torch.stack([Draws(seed, 4, slice(0, 4)).stratified(10) for seed in range(4000)])
    counts = drawn.flatten().bincount(minlength=10).double() / drawn.numel()
    assert (counts - 0.1).abs().max() < 0.01
