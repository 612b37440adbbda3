"""Stage 1: the network, its loss, its pairs, and its training, which goes on to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import minidiff
from minidiff import cli
from minidiff.data.haze import HazyPair, recompose
from minidiff.data.hazy_sets import hazy_pairs
from minidiff.data.packed_pairs import PackedPairs, pack, unpack
from minidiff.dehaze.config import GuessLoss
from minidiff.dehaze.run import load_dehaze
from minidiff.dehaze.stage1 import guess_loss
from minidiff.errors import UserError
from minidiff.images.convert import to_float
from minidiff.networks.gunet import Clearing, GUNet
from minidiff.rng import Draws

TINY: dict[str, Any] = {"channels": (4, 6), "blocks": (1, 1), "kernel": 3}
SMALL: dict[str, Any] = {
    "dataset": "hazy-photos", "image_size": 16, "batch_size": 2, "steps": 4, "precision": "fp32", "device": "cpu",
    "sample_every": 4,
}  # fmt: skip


def some_pair(count: int = 2, size: int = 12) -> HazyPair:
    """Pairs of random numbers that fulfil the equation."""
    random = torch.Generator().manual_seed(0)
    clear = 2 * torch.rand(count, 3, size, size, generator=random) - 1
    through = torch.rand(count, 1, size, size, generator=random)
    airlight = 2 * torch.rand(count, 3, generator=random) - 1
    return HazyPair(recompose(clear, through, airlight), clear, through, airlight, None)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(16, 16), (17, 30), (5, 3), (1, 1)])
def test_the_network_takes_pictures_of_any_size(height: int, width: int) -> None:
    """And begins with the picture itself as J, whatever T and A it says."""
    torch.manual_seed(0)
    network, hazy = GUNet(**TINY), torch.rand(2, 3, height, width)
    guess = network(hazy)
    assert torch.equal(guess.clear, hazy)
    assert guess.transmission.shape == (2, 1, height, width) and guess.airlight.shape == (2, 3)
    assert (guess.transmission > 0).all() and (guess.transmission < 1).all() and (guess.airlight.abs() < 1).all()


def test_every_weight_of_the_network_learns() -> None:
    """Fails when a part is not joined to what is learnt, once the last layer is not 0 any more."""
    torch.manual_seed(0)
    network = GUNet(**TINY)
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    guess = network(torch.rand(1, 3, 16, 16))
    sum(each.square().mean() for each in guess).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    hidden = {id(weight) for weight in network.hidden_weights()}
    outer = {"conv_in.weight", "conv_out.weight"}
    assert not any(id(parameter) in hidden for name, parameter in network.named_parameters() if name in outer)
    assert len(hidden) > 10


def test_a_network_that_cannot_be_is_refused() -> None:
    for wrong, said in (
        ({"channels": ()}, "`channels`"), ({"channels": (0, 4)}, "`channels`"), ({"blocks": (1,)}, "`blocks`"),
        ({"kernel": 4}, "`kernel` is 4. Use an odd number"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            GUNet(**TINY | wrong)


# --- the loss ---------------------------------------------------------------------------------------------------------


def loss_of(guess: Clearing, pair: HazyPair, packed: torch.Tensor | None = None) -> float:
    class Says(torch.nn.Module):
        def forward(self, hazy: torch.Tensor) -> Clearing:
            return guess

    pixels = to_float(pack(pair)) if packed is None else packed
    draws = Draws(0, len(pixels), slice(0, len(pixels)))
    return float(guess_loss(GuessLoss(0.01, 0.05))(Says(), pixels, torch.zeros(len(pixels), 0), draws))


def test_the_loss_is_that_of_its_terms() -> None:
    """0 for the truth; each error by itself counts as its weight says, the haze of a wrong J by T."""
    pair = unpack(to_float(pack(some_pair())))
    assert pair.transmission is not None and pair.airlight is not None
    truth = Clearing(pair.clear, pair.transmission, pair.airlight)
    rounding = loss_of(truth, pair)
    assert 0 < rounding < 0.05 * 0.01  # of the recomposed haze, from eight bits
    bright = loss_of(truth._replace(clear=pair.clear + 0.5), pair)
    assert bright == pytest.approx(0.5 + 0.05 * 0.5 * float(pair.transmission.mean()), rel=1e-2)
    thin = truth._replace(transmission=pair.transmission + 0.25)
    further = (0.25 * (pair.clear - pair.airlight[:, :, None, None])).abs().mean()
    assert loss_of(thin, pair) == pytest.approx(0.01 * 0.25 + 0.05 * float(further), rel=1e-2)


def test_pairs_of_files_are_learnt_without_t_and_a() -> None:
    """Fails when unknown T or A count as some number."""
    pair = some_pair()._replace(transmission=None, airlight=None)
    packed = to_float(pack(pair))
    assert packed.shape[1] == 6
    known = some_pair()
    assert known.transmission is not None and known.airlight is not None
    truth = Clearing(known.clear, known.transmission, known.airlight)
    light = known.airlight[:, :, None, None].expand_as(known.clear)
    wrong = truth._replace(transmission=known.transmission * 0, clear=light)
    assert loss_of(truth, pair, packed) < 0.01
    expected = (light - unpack(packed).clear).abs().mean() + 0.05 * (light - unpack(packed).hazy).abs().mean()
    assert loss_of(wrong, pair, packed) == pytest.approx(float(expected), rel=1e-5)


# --- the pairs --------------------------------------------------------------------------------------------------------


def test_pairs_survive_eight_bits() -> None:
    """To half of a level each; 1/510 for T."""
    pair = some_pair()
    again = unpack(to_float(pack(pair)))
    for name in ("hazy", "clear", "airlight", "transmission"):
        before, after = getattr(pair, name), getattr(again, name)
        most = 1 / 510 if name == "transmission" else 1 / 255
        assert before.shape == after.shape and (before - after).abs().max() <= most + 1e-6


def test_packed_pairs_are_read_like_an_array(hazy_folder: Path) -> None:
    pairs = hazy_pairs("hazy-photos", 16, data_dir=hazy_folder)
    packed = PackedPairs(pairs)
    assert packed.shape == (len(pairs), 16, 16, 10) and packed[5].shape == (16, 16, 10)
    assert np.array_equal(packed[[7, 3]][1], packed[3]) and np.array_equal(packed[2:4], pack(pairs[[2, 3]]))
    assert packed.digest != PackedPairs(hazy_pairs("hazy-photos", 16, seed=1, data_dir=hazy_folder)).digest


# --- the training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("muon", [True, False])
def test_a_training_goes_on_to_the_bit(hazy_folder: Path, tiny_dehazing: None, muon: bool) -> None:
    """Left after three of four steps, and resumed at the second: the weights are those of a training in one go."""
    request = SMALL | {"data_dir": hazy_folder, "muon": muon, "save_every": 2}
    whole = minidiff.train("dehaze", out="whole", **request)
    steps = minidiff.plan_training("dehaze", out="half", **request).steps()
    for _ in range(3):
        next(steps)
    steps.close()  # type: ignore[attr-defined]
    half = minidiff.resume("half", device="cpu")
    assert all(torch.equal(tensor, half.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())


def test_a_run_is_measured_drawn_described_and_opened(
    hazy_folder: Path, tiny_dehazing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command line; another photograph in the folder, and the run is not taken up."""
    line = "train dehaze --dataset hazy-photos --data-dir photographs --out run --image-size 16 --device cpu"
    assert cli.run([*line.split(), *["--batch-size", "2", "--steps", "2", "--measure-every", "1"]]) == 0
    said = capsys.readouterr()
    assert "dB on pairs that it was not trained on; look at run/samples/0000002.png" in said.out
    assert (Path("run") / "samples" / "0000002.png").exists() and (Path("run") / "curves.png").exists()
    assert cli.run(["info", "run"]) == 0
    said = capsys.readouterr()
    assert "GUNet, channels [4, 6]" in said.out and "train psnr" in said.out and "of 2 (done)" in said.out
    run = load_dehaze("run")
    hazy = torch.rand(2, 3, 20, 14)
    assert run.guess(hazy).clear.shape == hazy.shape and "stage 1" in repr(run)
    Image.new("RGB", (64, 64)).save(hazy_folder / "another.png")
    assert cli.run(["train", "dehaze", "--resume", "run", "--steps", "3", "--device", "cpu"]) == 1
    assert "run was trained on other pairs" in capsys.readouterr().err


def test_a_run_begins_with_another(hazy_folder: Path, tiny_dehazing: None) -> None:
    """With its weights, and in a folder that says so; a corruption of all images is refused."""
    first = minidiff.train("dehaze", data_dir=hazy_folder, out="first", **SMALL)
    job = minidiff.plan_training("dehaze", data_dir=hazy_folder, init="first", **SMALL)
    assert all(torch.equal(tensor, job.model.state_dict()[name]) for name, tensor in first.model.state_dict().items())
    assert job.config.init is not None and job.config.init.place.endswith("first")
    with pytest.raises(UserError, match="`corruption` does not go with hazy pairs"):
        minidiff.plan_training("dehaze", data_dir=hazy_folder, corruption="fog", **SMALL)
