"""Stage 2: what it learns, what its chain draws, and that it goes with its own stage 1 alone."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import minidiff
from minidiff import cli
from minidiff.data.haze import HazyPair, recompose
from minidiff.data.packed_pairs import pack
from minidiff.ddpm.config import DiffusionConfig
from minidiff.ddpm.recipe import build_schedule
from minidiff.dehaze.config import Refinement
from minidiff.dehaze.presets import GUESS_PRESETS, REFINE_PRESETS, seeing
from minidiff.dehaze.run import load_dehaze
from minidiff.dehaze.stage2 import TwoStages, refine_loss, walk
from minidiff.diffusion.process import q_sample
from minidiff.errors import UserError
from minidiff.images.convert import to_float
from minidiff.networks.gunet import Clearing
from minidiff.rng import Draws
from minidiff.runs.folder import MODEL

SMALL: dict[str, Any] = {
    "dataset": "hazy-photos", "image_size": 16, "batch_size": 2, "steps": 4, "precision": "fp32", "device": "cpu",
    "sample_every": 4,
}  # fmt: skip
COSINE = DiffusionConfig(schedule="cosine", prediction="x0")


def guess_of(clear: Tensor, through: float | Tensor = 0.5) -> Clearing:
    transmission = torch.as_tensor(through, dtype=torch.float32).expand(len(clear), 1, *clear.shape[2:])
    return Clearing(clear, transmission, torch.zeros(len(clear), 3))


# --- the chain --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler, shift", [("ddim", "none"), ("ddpm", "none"), ("ddim", "data")])
def test_the_chain_draws_from_the_posterior(sampler: str, shift: str) -> None:
    """x0 is N(0, s^2), and J is x0 with noise of deviation d, which is larger where less light comes through.

    So x0 given J and T is normal with known mean and variance, and so is the ideal guess. Of 3,072 values in each half
    the mean is within 0.015, and the deviation within 6%, of which the finite steps take 2%. Fails when J or T come
    into another channel, when the network is shown J in place of x_t, and when the start has no noise (deviation 0).
    The ideal guess takes the shift off again: fails, too, when the chain shows it none.
    """
    schedule, s = build_schedule(COSINE), 0.25

    def posterior(seen: Tensor, through: Tensor) -> tuple[Tensor, Tensor]:
        d2 = (0.6 * (1 - through)) ** 2
        return seen * s**2 / (s**2 + d2), s**2 * d2 / (s**2 + d2)

    def ideal(x: Tensor, t: Tensor) -> Tensor:
        x_t, seen, through = x[:, :3], x[:, 3:6], (x[:, 6:] + 1) / 2
        mean, variance = posterior(seen, through)
        alpha_bar = float(schedule.alphas_cumprod[int(t[0])])
        if shift == "data":
            x_t = x_t + alpha_bar**0.5 * seen
        precision = 1 / variance + alpha_bar / (1 - alpha_bar)
        return (mean / variance + alpha_bar**0.5 / (1 - alpha_bar) * x_t) / precision

    through = torch.full((1, 1, 16, 128), 0.8)
    through[..., 64:] = 0.3
    seen = torch.full((1, 3, 16, 128), 0.2)
    *_, last = walk(ideal, schedule, guess_of(seen, through), prediction="x0", shift=shift, steps=400,
                    sampler=sampler, noise=torch.Generator().manual_seed(0))  # fmt: skip
    mean, variance = posterior(seen, through)
    for half in (slice(0, 64), slice(64, 128)):
        drawn = last.x[..., half]
        assert drawn.mean() == pytest.approx(float(mean[..., half].mean()), abs=0.015)
        assert drawn.std() == pytest.approx(float(variance[..., half].mean().sqrt()), rel=0.06)


def test_the_chain_begins_at_a_noisy_j() -> None:
    """The first call is at start_t, and sees J as q(x_t | J) has it."""
    schedule, calls = build_schedule(COSINE), []

    def network(x: Tensor, t: Tensor) -> Tensor:
        calls.append((int(t[0]), x[:, :3]))
        return x[:, 3:6]

    clear = torch.rand(1, 3, 64, 64) - 0.5
    *_, last = walk(network, schedule, guess_of(clear), prediction="x0", steps=4, start_t=300,
                    noise=torch.Generator().manual_seed(0))  # fmt: skip
    assert len(calls) == 4 and calls[0][0] == 300 and torch.allclose(last.x, clear, atol=1e-6)
    signal, noise = (float(q_sample(schedule, *pair)) for pair in (
        (torch.ones(1, 1, 1, 1), torch.tensor([300]), torch.zeros(1, 1, 1, 1)),
        (torch.zeros(1, 1, 1, 1), torch.tensor([300]), torch.ones(1, 1, 1, 1)),
    ))  # fmt: skip
    left = (calls[0][1] - signal * clear) / noise
    assert abs(left.mean()) < 0.04 and left.std() == pytest.approx(1, abs=0.03)


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error, wrong, expected", [("l2", 0, 0), ("l1", 0, 0), ("l2", 0.5, 0.25), ("l1", 0.5, 0.5)])
def test_the_loss_compares_the_same_part_of_every_picture(error: Any, wrong: float, expected: float) -> None:
    """Stage 1 knows the truth, and stage 2 repeats it, or is off by 0.5. Fails when the crops of J and x0 differ."""
    random = torch.Generator().manual_seed(0)
    clear = torch.rand(2, 3, 16, 16, generator=random) / 2
    through, airlight = torch.rand(2, 1, 16, 16, generator=random), torch.zeros(2, 3)
    pair = HazyPair(recompose(clear, through, airlight), clear, through, airlight, None)
    packed = to_float(pack(pair))
    settings = Refinement(network=seeing((4,), 1), diffusion=COSINE, error=error, fourier=0.01, crop=8, crops=3)

    class Knows(torch.nn.Module):
        def forward(self, hazy: Tensor) -> Clearing:
            return Clearing(packed[:, 3:6], (packed[:, 9:] + 1) / 2, airlight)

    class Repeats(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            assert x.shape == (6, 7, 8, 8) and t.shape == (6,)
            return x[:, 3:6] + wrong

    loss = refine_loss(Knows(), build_schedule(COSINE), settings, torch.device("cpu"))
    found = float(loss(Repeats(), packed, torch.zeros(2, 0), Draws(0, 2, slice(0, 2))))
    # A shift of 0.5 is in the Fourier transform one number of each channel, 0.5 * 8 off, among 8 * 5.
    assert found == pytest.approx(expected + 0.01 * wrong * 8 / 40, abs=1e-4)


def test_the_loss_shows_j_in_x_t() -> None:
    """With the same draws, x_t of a shifted loss is x_t of the plain one and k_t J, here (1 - sqrt(alpha_bar)) J."""
    schedule, clear = build_schedule(COSINE), torch.full((2, 3, 8, 8), 0.5)
    pair = HazyPair(clear, clear, torch.ones(2, 1, 8, 8), torch.zeros(2, 3), None)
    seen: dict[str, Tensor] = {}

    class Guesses(torch.nn.Module):
        def forward(self, hazy: Tensor) -> Clearing:
            return guess_of(torch.full((2, 3, 8, 8), -0.25))

    for shift in ("none", "prior"):
        settings = Refinement(network=seeing((4,), 1), diffusion=COSINE, shift=shift, crop=8, crops=1)

        def network(x: Tensor, t: Tensor, shift: str = shift) -> Tensor:
            seen[shift], seen["t"] = x, t
            return x[:, :3]

        loss = refine_loss(Guesses(), schedule, settings, torch.device("cpu"))
        loss(network, to_float(pack(pair)), torch.zeros(2, 0), Draws(0, 2, slice(0, 2)))  # type: ignore[arg-type]
    signal = schedule.alphas_cumprod[seen["t"]].sqrt()[:, None, None, None]
    apart = (seen["prior"] - seen["none"])[:, :3]
    assert torch.allclose(apart, -0.25 * (1 - signal).float().expand_as(apart), atol=1e-6)


# --- the training -----------------------------------------------------------------------------------------------------


@pytest.fixture()
def first(hazy_folder: Path, tiny_dehazing: None) -> Path:
    """A run of stage 1."""
    minidiff.train("dehaze", data_dir=hazy_folder, out="first", **SMALL)
    return Path("first")


Train = Callable[..., Any]


@pytest.fixture()
def train(hazy_folder: Path, first: Path) -> Train:
    """Train a stage 2 behind it."""
    request = SMALL | {"stage": 2, "stage_1": first, "data_dir": hazy_folder, "save_every": 2}
    return lambda out, **more: minidiff.train("dehaze", out=out, **request | more)


def test_a_run_of_stage_2_carries_its_stage_1(first: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """Its weights are those of the run it was trained behind, to the bit, and that run may go."""
    guess = load_dehaze(first)
    train("second")
    shutil.rmtree(first)
    run = load_dehaze("second")
    assert isinstance(run.model, TwoStages)
    own = run.model.first.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in guess.model.state_dict().items())
    hazy = torch.rand(1, 3, 20, 14)
    answer = run.refine(run.guess(hazy), steps=2)
    assert answer.shape == hazy.shape and torch.equal(answer, run.refine(run.guess(hazy), steps=2))
    assert not torch.equal(answer, run.refine(run.guess(hazy), steps=2, seed=1))
    assert cli.run(["info", "second"]) == 0 and "2, with its stage 1" in capsys.readouterr().out
    with pytest.raises(UserError, match="is a run of stage 1, which has no chain"):
        guess.refine(guess.guess(hazy))


def test_a_training_of_stage_2_goes_on_to_the_bit(first: Path, train: Train, hazy_folder: Path) -> None:
    """Left after three of four steps; then killed before the first checkpoint, when it takes stage 1 from its run."""
    whole = train("whole").model.state_dict()
    request = SMALL | {"stage": 2, "stage_1": first, "data_dir": hazy_folder, "save_every": 2}
    for out, left_after in (("half", 3), ("early", 1)):
        steps = minidiff.plan_training("dehaze", out=out, **request).steps()
        for _ in range(left_after):
            next(steps)
        steps.close()  # type: ignore[attr-defined]
        again = minidiff.resume(out, device="cpu").model.state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items()), out


def test_another_stage_1_is_refused(train: Train) -> None:
    """With the right shapes, so that it would load; so are a stage 2 without its first layer, and a missing file."""
    train("second")
    path = Path("second") / MODEL
    weights = load_file(path)
    other = {name: tensor + 0.01 if name == "first.conv_in.weight" else tensor for name, tensor in weights.items()}
    save_file(other, path)
    with pytest.raises(UserError, match="holds another stage 1"):
        load_dehaze("second")
    save_file({name: tensor for name, tensor in weights.items() if name != "second.conv_in.weight"}, path)
    with pytest.raises(UserError, match="second.conv_in.weight is missing. Nothing was loaded"):
        load_dehaze("second")
    path.unlink()
    with pytest.raises(UserError, match="model.safetensors is missing"):
        load_dehaze("second")


def test_a_stage_2_needs_a_stage_1(first: Path, hazy_folder: Path, train: Train) -> None:
    request = SMALL | {"data_dir": hazy_folder}
    for fields, said in (
        ({"stage": 2}, "`stage` 2 needs `stage_1`"),
        ({"stage": 1, "stage_1": first}, "`stage_1` belongs to `stage` 2"),
        ({"stage": 2, "haze_weight": 1.0}, "`haze_weight` belongs to `stage` 1"),
        ({"stage": 2, "stage_1": "nowhere"}, "nowhere does not exist"),
        ({"stage": 2, "init": first}, "is of stage 1. Begin with a run of stage 2"),
        ({"stage": 2, "stage_1": first, "crop": 24}, "`crop` is 24, and pairs of `image_size` 16 are smaller"),
        ({"stage": 2, "stage_1": first, "crop": 9}, "`crop` 9 does not divide by 2"),
    ):
        with pytest.raises(UserError, match=said):
            minidiff.plan_training("dehaze", **request | fields)


def test_a_training_knows_clear_air(hazy_folder: Path) -> None:
    """15 in 100 pairs have no haze; what is measured has some, or a PSNR would be endless."""
    job = minidiff.plan_training("dehaze", data_dir=hazy_folder, **SMALL)
    pairs = job.data.images.pairs[:60]
    clear = (pairs.transmission == 1).all(dim=(1, 2, 3)).sum()
    assert job.config.haze.clear == 0.15 and 3 <= clear <= 18
    assert not (job.others[1].transmission == 1).all(dim=(1, 2, 3)).any()


def test_a_chain_that_is_not_there_is_refused(train: Train) -> None:
    """Before anything is written. The timesteps of this run are 400."""
    run = train("second")
    for steps, start_t, said in ((1, 400, "at 399 at most"), (5, 2, "there are 3 timesteps"), (401, None, "are 400")):
        with pytest.raises(UserError, match=said):
            run.check_chain(steps, start_t)
    run.check_chain(3, 2)
    run.check_chain(400, None)
    run.check_chain(0, 9999)


def test_a_stage_2_begins_with_another(train: Train, hazy_folder: Path) -> None:
    """And keeps its stage 1, which need not be there any more."""
    before = train("second")
    shutil.rmtree("first")
    job = minidiff.plan_training("dehaze", stage=2, init="second", data_dir=hazy_folder, **SMALL)
    assert all(torch.equal(tensor, job.model.state_dict()[name]) for name, tensor in before.model.state_dict().items())
    assert job.config.refinement is not None and job.config.refinement.first == before.config.refinement.first


def test_a_stage_1_begins_with_the_one_of_a_stage_2(train: Train, hazy_folder: Path) -> None:
    """A run of stage 2 carries its stage 1, so the model of the package can learn on. Killed at once, it begins so."""
    carried = train("second").first.state_dict()
    shutil.rmtree("first")
    job = minidiff.plan_training("dehaze", init="second", out="on", data_dir=hazy_folder, **SMALL)
    found = job.model.state_dict()
    assert found.keys() == carried.keys() and all(torch.equal(carried[name], each) for name, each in found.items())
    steps = job.steps()
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    whole = minidiff.train("dehaze", init="second", out="whole", data_dir=hazy_folder, **SMALL).model.state_dict()
    killed = minidiff.resume("on", device="cpu").model.state_dict()
    assert all(torch.equal(whole[name], each) for name, each in killed.items())


def test_a_stage_2_goes_on_behind_another_stage_1(
    train: Train, hazy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own network is that of `init`, and its stage 1 the one named; killed at once, it begins so again."""
    before = train("second")
    request = SMALL | {"data_dir": hazy_folder}
    other = replace(GUESS_PRESETS["cpu"].network, blocks=(2, 1))  # another network: nothing of the old one may stay
    monkeypatch.setitem(GUESS_PRESETS, "cpu", replace(GUESS_PRESETS["cpu"], network=other))
    minidiff.train("dehaze", out="other", **request | {"seed": 5})
    behind = load_dehaze("other").model.state_dict()
    job = minidiff.plan_training("dehaze", stage=2, init="second", stage_1="other", out="third", **request)
    expected = {name: tensor for name, tensor in before.model.state_dict().items() if name.startswith("second.")}
    expected |= {f"first.{name}": tensor for name, tensor in behind.items()}
    assert expected.keys() == job.model.state_dict().keys()
    assert all(torch.equal(tensor, job.model.state_dict()[name]) for name, tensor in expected.items())
    assert job.config.refinement is not None and job.config.refinement.first is not None
    assert Path(job.config.refinement.first.place).name == "other"
    steps = job.steps()
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    done = minidiff.resume("third", device="cpu").model.state_dict()
    assert all(torch.equal(tensor, done[f"first.{name}"]) for name, tensor in behind.items())
    assert torch.equal(load_dehaze("third").first.state_dict()["conv_in.weight"], behind["conv_in.weight"])


# --- large pictures ---------------------------------------------------------------------------------------------------


def test_tiles_make_the_same_picture(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece, and in tiles of a few pixels: equal up to rounding. Fails when tiles have noise of their own."""
    run = train("second")
    torch.nn.init.normal_(run.model.second.conv_out.weight, std=0.1)  # 4 steps leave it near 0
    guess = run.guess(torch.rand(1, 3, 70, 90))
    whole = run.refine(guess, steps=2)
    monkeypatch.setattr("minidiff.networks.tiles.AT_ONCE", 500_000)
    assert (run.refine(guess, steps=2) - whole).abs().max() < 1e-5


def test_the_published_configuration_is_a_preset() -> None:
    """DehazeDDPM's: 7 channels come in, and attention is in the middle alone."""
    preset = REFINE_PRESETS["dehazeddpm"]
    assert preset.network.channels == (64, 128, 256, 512, 512) and preset.network.dropout == 0.2
    assert preset.network.in_channels == 7 and preset.network.mid_attention and not any(preset.network.attention)
    schedule = build_schedule(preset.diffusion)
    assert schedule.T == 2000 and float(schedule.betas[0]) == 1e-6 and float(schedule.betas[-1]) == pytest.approx(1e-2)
