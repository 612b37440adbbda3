"""Weights and optimizer states from a file are compared with the network before any of them is used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from minidiff.errors import UserError
from minidiff.networks.configs import UNetConfig
from minidiff.networks.unet import UNet
from minidiff.networks.weights import build_with, load_exactly, load_optimizer, read_saved

pytestmark = pytest.mark.quick


def network() -> nn.Sequential:
    """With the running statistics and the count of batches of a batch normalisation, which are no weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("0.weight", torch.full((2, 3), float("nan")), "0.weight holds NaN or infinity"),
        ("0.bias", torch.tensor([0.0, float("inf")]), "0.bias holds NaN or infinity"),
        ("0.bias", torch.tensor([0.0, -float("inf")], dtype=torch.bfloat16), "0.bias holds NaN or infinity"),
        ("0.bias", torch.tensor([0.0, 1e300], dtype=torch.float64), "0.bias holds a number beyond 3e[+]38"),
        ("1.running_var", torch.tensor([1.0, float("nan")]), "1.running_var holds NaN"),
        ("0.weight", torch.zeros(2, 3, dtype=torch.complex64), "0.weight holds complex64, not float32"),
        ("0.weight", torch.zeros(2, 3).to(torch.float8_e4m3fn), "0.weight holds float8_e4m3fn, not float32"),
        ("0.weight", torch.zeros(2, 3, dtype=torch.int64), "0.weight holds int64, not float32"),
        ("0.weight", torch.zeros(2, 3, dtype=torch.bool), "0.weight holds bool, not float32"),
        ("0.weight", torch.zeros(2, 3).to_sparse(), "0.weight is not a plain tensor"),
        ("0.weight", torch.zeros(2, 3, device="meta"), "0.weight is not a plain tensor"),
        ("1.num_batches_tracked", torch.tensor(1.5), "1.num_batches_tracked holds float32, not int64"),
        ("0.weight", "text", "0.weight is 'text', not a tensor"),
    ],
)
def test_numbers_that_no_network_can_use_are_refused(name: str, value: object, said: str) -> None:
    """Breaks when a check of `fault_of` is left out: torch casts complex, float8 and bool without an error."""
    module = network()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    with pytest.raises(UserError, match=f"^runs/a: |^runs/a .*{said}.*Nothing was loaded"):
        load_exactly(module, before | {name: value}, "runs/a")
    assert all(torch.equal(tensor, before[key]) for key, tensor in module.state_dict().items())
    load_exactly(module, before, "runs/a")
    load_exactly(module, {key: t.half() if t.is_floating_point() else t for key, t in before.items()}, "runs/a")


@pytest.mark.parametrize("tensors", [None, [], "x", {1: torch.zeros(1)}, {"a\x1b[31m": 3}])
def test_what_is_no_table_of_tensors_is_one_line(tensors: object) -> None:
    with pytest.raises(UserError) as error:
        load_exactly(network(), tensors, "file")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_a_network_of_terabytes_is_refused_before_memory_is_taken() -> None:
    """Breaks when the network is built before its weights are compared: the kernel ends the test."""
    config = UNetConfig(channels=(65_536,) * 4, attention=(True,) * 4, layers_per_block=8, image_size=32)

    def build() -> UNet:
        return UNet(**vars(config))

    with pytest.raises(UserError, match="does not fit this network"):
        build_with(build, {"conv_in.weight": torch.zeros(8, 3, 3, 3)}, "file")


def trained(kind: Callable[..., torch.optim.Optimizer]) -> torch.optim.Optimizer:
    module = nn.Linear(3, 2)
    optimizer = kind(module.parameters(), lr=0.5)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


def change(path: tuple[Any, ...], value: object) -> Callable[[dict[str, Any]], object]:
    def make(state: dict[str, Any]) -> object:
        *parents, last = path
        inner: Any = state
        for key in parents:
            inner = inner[key]
        inner[last] = value
        return state

    return make


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: None,
        lambda state: [],
        change(("state",), [3]),
        change(("state", 7), {}),
        change(("state", "0"), {}),
        change(("state", 0), {}),
        change(("state", 0), 3),
        change(("state", 0, "step"), 3),
        change(("state", 0, "exp_avg"), torch.zeros(3, 2)),
        change(("state", 0, "exp_avg"), torch.zeros(2, 3, dtype=torch.complex64)),
        change(("state", 0, "exp_avg_sq"), torch.full((2, 3), float("nan"))),
        change(("state", 0, "more"), torch.zeros(2, 3)),
    ],
)
def test_the_state_of_an_optimizer_must_fit(damage: Callable[[dict[str, Any]], object]) -> None:
    """Breaks when a part is not compared: torch takes any shape, and fails at the next step with a traceback."""
    state = trained(torch.optim.AdamW).state_dict()
    with pytest.raises(UserError, match="^state.pt") as error:
        load_optimizer(trained(torch.optim.AdamW), damage(state), "state.pt")
    assert "\n" not in str(error.value)


def test_an_optimizer_goes_on_and_keeps_its_own_settings() -> None:
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop):
        state, other = trained(kind).state_dict(), kind(nn.Linear(3, 2).parameters(), lr=0.1)
        load_optimizer(other, state, "state.pt")
        assert other.param_groups[0]["lr"] == 0.1
        for key, kept in other.state_dict()["state"].items():
            assert all(torch.equal(kept[name], state["state"][key][name]) for name in state["state"][key])


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    import zipfile

    torch.save({"step": 1, "zeros": torch.zeros(100_000)}, tmp_path / "plain.pt")
    assert read_saved(tmp_path / "plain.pt")["step"] == 1
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="declares more than it holds"):
        read_saved(tmp_path / "bomb.pt")
