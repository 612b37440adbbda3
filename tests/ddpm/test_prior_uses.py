"""A prior in a DDPM, by each of its three uses: its mathematics, what is left of it with a prior of zeros, its run."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny
from torch import Tensor, nn

import minidiff
from minidiff import cli
from minidiff.ddpm.config import DdpmConfig, PriorUse, UsedPrior
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.ddpm.prior import FOLDER, in_training, seeing
from minidiff.ddpm.recipe import build_network, ddpm_loss
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.shifted import SHIFTS
from minidiff.errors import UserError
from minidiff.priors.run import PriorRun, load_prior
from minidiff.rng import Draws
from minidiff.runs.folder import MODEL, read_state, save_model
from minidiff.training.config import Start

SMALL: dict[str, Any] = {
    "dataset": "folder", "image_size": 16, "steps": 6, "save_every": 3, "device": "cpu", "precision": "fp32",
}  # fmt: skip
DDPM = SMALL | {"preset": "tiny", "sample_every": 60}
GREY = np.zeros((4, 16, 16, 1), np.uint8)


@pytest.fixture(scope="module")
def home(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of six steps: a prior, a prior of zeros, a plain DDPM, and one for each use of a prior but `target`."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("priors")
        patch.chdir(home)
        patch.setitem(DDPM_PRESETS, "tiny", tiny())
        patch.setattr("minidiff.training.journal.draw_curves", lambda folder: None)
        patch.setattr("minidiff.ddpm.previews.IMAGES", 1)
        prior = minidiff.train("dip-prior", **SMALL, data_dir=photos, batch_size=4, out="prior")
        shutil.copytree("prior", "zero")
        save_model(Path("zero"), {name: torch.zeros_like(value) for name, value in prior.model.state_dict().items()})
        options = DDPM | {"data_dir": photos}
        minidiff.train("ddpm", **options, out="plain")
        minidiff.train("ddpm", **options, prior="zero", prior_use="start", out="start")
        minidiff.train("ddpm", **options, prior="prior", prior_use="residual", lr=0.01, out="residual")
        yield home


def opened(place: Path) -> Run:
    return load_ddpm(place)


# --- residual: the network sees u, and u shifts the process -----------------------------------------------------------


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_network_that_sees_the_prior_draws_from_the_posterior(shift: str) -> None:
    """x0 is N(0, s^2), and u is x0 with noise of deviation d: so x0 given u is normal, with known mean and variance.

    The ideal network takes the shift off again and knows u. Of 8,192 values the mean is within 0.02 and the deviation
    within 6%. Fails when u and x_t change places, when the network is shown x_t without its shift, and when u is left
    out (a deviation of 0.5 in place of 0.26).
    """
    schedule, s, d = Schedule.linear(200), 0.5, 0.3
    mean, variance = 0.4 * s**2 / (s**2 + d**2), s**2 * d**2 / (s**2 + d**2)
    u = torch.full((8, 1, 32, 32), 0.4)

    def ideal(x: Tensor, t: Tensor) -> Tensor:
        shown, seen = x.chunk(2, dim=1)
        alpha_bar = schedule.alphas_cumprod[t][:, None, None, None].float()
        x_t = shown - SHIFTS[shift](alpha_bar.sqrt()) * seen
        centre = seen * s**2 / (s**2 + d**2)
        precision = 1 / variance + alpha_bar / (1 - alpha_bar)
        return (centre / variance + alpha_bar.sqrt() / (1 - alpha_bar) * x_t) / precision

    x = torch.randn(u.shape, generator=torch.Generator().manual_seed(0))
    *_, last = SAMPLERS["ddim"](seeing(ideal, u, schedule, shift), schedule, x, steps=200, prediction="x0", clip=False)
    assert last.x.mean() == pytest.approx(mean, abs=0.02)
    assert last.x.std() == pytest.approx(variance**0.5, rel=0.06)


class Prior(nn.Module):
    """A prior that gives its input times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def loss_with(
    home: Path,
    use: PriorUse | None,
    prior: nn.Module | None = None,
    noise: float = 0.2,
    times: float = 1,
    shift: str = "data",
) -> tuple[float, nn.Module]:
    """The loss of a batch for a network that does not predict 0, and the network, with the gradient of the loss."""
    config = opened(home / ("residual" if use == "residual" else "plain")).config
    torch.manual_seed(1)
    network = build_network(config).eval()
    nn.init.normal_(network.conv_out.weight, generator=torch.Generator().manual_seed(2))  # type: ignore[arg-type, union-attr]
    schedule, change = Schedule.linear(50), None
    if use is not None and prior is not None:
        run = load_prior(home / "prior")
        run = PriorRun(run.folder, replace(run.config, noise=noise), prior, "fp32")
        change = in_training(run, UsedPrior(Start("", ""), use, shift), schedule)
    loss = ddpm_loss(schedule, config.diffusion, torch.device("cpu"), prior=change)
    x0 = times * (2 * torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3)) - 1)
    value = loss(network, x0, torch.zeros(4, 0), Draws(5, 4, slice(0, 4)))
    value.backward()
    return value.item(), network


@pytest.mark.parametrize("shift", SHIFTS)
def test_with_zeros_residual_is_the_plain_ddpm(shift: str, home: Path) -> None:
    """The same first weights, and the same loss and gradients up to rounding; of what is beside x_t they are 0.

    Fails when the wider network begins with other weights, and when the prior's noise is drawn before that of x_t.
    """
    plain, one = loss_with(home, None)
    value, two = loss_with(home, "residual", Prior(0.0), shift=shift)
    assert value == pytest.approx(plain, rel=1e-5)
    wide = dict(two.named_parameters())
    for name, parameter in one.named_parameters():
        first = slice(0, 3) if name == "conv_in.weight" else slice(None)
        assert torch.equal(wide[name][:, first] if parameter.ndim > 1 else wide[name], parameter), name
    (narrow, gradient) = (each.conv_in.weight.grad for each in (one, two))  # type: ignore[union-attr]
    assert isinstance(narrow, Tensor) and isinstance(gradient, Tensor)
    torch.testing.assert_close(gradient[:, :3], narrow, rtol=1e-3, atol=1e-3 * float(narrow.abs().max()))
    assert narrow.abs().max() > 0 and not gradient[:, 3:].any()


def test_residual_learns_from_the_prior(home: Path) -> None:
    """Another output gives another loss by each shift but none, where only what is beside x_t is another."""
    values = {shift: loss_with(home, "residual", Prior(1.0), shift=shift) for shift in SHIFTS}
    zeros = loss_with(home, "residual", Prior(0.0))[0]
    assert all(abs(value - zeros) > 1e-3 for shift, (value, _) in values.items() if shift != "none")
    assert values["none"][0] == pytest.approx(zeros, rel=1e-5)  # for the weights beside x_t begin at 0
    gradient = values["none"][1].conv_in.weight.grad  # type: ignore[union-attr]
    assert isinstance(gradient, Tensor) and gradient[:, 3:].abs().max() > 0


def test_a_residual_run_shows_its_network_the_prior(home: Path) -> None:
    """Sample k sees what the prior makes of a training image; another prior gives another sample, from the same noise.

    Fails when the outputs come to other samples than their own, or when the network is shown zeros.
    """
    run, plan = opened(home / "residual"), {"sampler": "ddim", "steps": 4, "seed": 3}
    made = run.draw(range(4), **plan)
    torch.testing.assert_close(run.draw([2, 1], **plan), made[[2, 1]], rtol=0, atol=1e-3)
    own = run.prior_outputs(range(4), seed=3)
    assert own.abs().max() <= 1 and (own[0] - own[1]).abs().max() > 0.1
    torch.testing.assert_close(run.draw(range(4), prior=own, **plan), made, rtol=0, atol=1e-3)
    other = run.draw(range(4), prior=-own, **plan)
    assert all((a - b).abs().max() > 0.05 for a, b in zip(made, other, strict=True))


# --- start: chains start from u ---------------------------------------------------------------------------------------


def test_start_trains_as_without_a_prior(home: Path) -> None:
    """To the bit; and without its prior the run draws as the plain one does, to the bit."""
    assert (home / "start" / MODEL).read_bytes() == (home / "plain" / MODEL).read_bytes()
    start, plain, plan = opened(home / "start"), opened(home / "plain"), {"steps": 4, "seed": 1}
    assert torch.equal(start.draw(range(3), use_prior=False, **plan), plain.draw(range(3), **plan))


@pytest.mark.parametrize("start_t", [None, 7, 49])
def test_chains_start_from_the_prior_with_the_noise_of_t(start_t: int | None, home: Path) -> None:
    """x_t is sqrt(alpha_bar) u + sqrt(1 - alpha_bar) eps, with the noise that the plain chain starts from.

    At T / 2 unless another t is given. With zeros it is a start of the plain run from an image of zeros, to the bit.
    """
    start, plain = opened(home / "start"), opened(home / "plain")
    start.prior = load_prior(home / "prior")
    t, given = 25 if start_t is None else start_t, {} if start_t is None else {"start_t": start_t}
    level = start.schedule.levels([t])[0]
    x, _ = start.start([0, 5], seed=2, **given)
    noise, _ = plain.start([0, 5], seed=2)
    torch.testing.assert_close(x, level.signal * start.prior_outputs([0, 5], 2) + level.noise * noise)
    first = next(start.chain([0], steps=3, **given))
    assert first.t == t
    zeros, grey = opened(home / "start"), torch.zeros(1, 3, 16, 16)
    from_grey = plain.draw(range(3), init=grey, start_t=t, steps=3)
    assert torch.equal(zeros.draw(range(3), steps=3, **given), from_grey)
    assert torch.equal(zeros.draw(range(3), steps=3, prior=grey, **given), from_grey)


# --- target: u is learnt in place of the image ------------------------------------------------------------------------


def test_target_learns_the_outputs(home: Path) -> None:
    """A prior that changes nothing gives the loss of the plain DDPM, and a prior of zeros the loss of images of zeros.

    But for rounding: the layout in memory is another. The noise of another prior is learnt, too.
    """
    plain, zeros = loss_with(home, None)[0], loss_with(home, None, times=0)[0]
    assert loss_with(home, "target", Prior(1.0), noise=1e-30)[0] == pytest.approx(plain, rel=1e-5)
    assert loss_with(home, "target", Prior(0.0))[0] == pytest.approx(zeros, rel=1e-5)
    assert loss_with(home, "target", Prior(1.0))[0] != pytest.approx(plain, rel=1e-5)


# --- the run ----------------------------------------------------------------------------------------------------------


def test_a_run_carries_its_prior(home: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is resumed to the bit when the prior's own folder is gone. Its copy is a run; no other one is taken for it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "prior", "prior")
    options = DDPM | {"data_dir": photos, "prior": "prior", "prior_use": "residual", "lr": 0.01}
    job = minidiff.plan_training("ddpm", **options, out="run")
    for step in job.steps():
        if step.step == 4:
            break
    job.close()
    shutil.rmtree("prior")
    minidiff.resume("run")
    states = [read_state(place) for place in (home / "residual", Path("run"))]
    assert states[0] is not None and states[1] is not None
    assert all(torch.equal(value, states[1]["ema"][name]) for name, value in states[0]["ema"].items())
    assert isinstance(minidiff.load(Path("run", FOLDER)), PriorRun)
    shutil.copy(home / "zero" / MODEL, Path("run", FOLDER, MODEL))
    with pytest.raises(UserError, match="other weights than the prior"):
        load_ddpm("run")


def test_commands_say_what_the_prior_does(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sample` and `info`; and `export`, which has no words for such a network."""
    monkeypatch.chdir(tmp_path)
    for use, does in (
        ("start", "chains start from what conv2 makes"),
        ("residual", "the network sees what conv2 makes"),
    ):
        words = ["sample", str(home / use), "-n", "2", "--steps", "2", "--device", "cpu", "--out", f"{use}.png"]
        assert cli.run(words) == 0
        assert does in capsys.readouterr().out
        assert cli.run(["info", str(home / use)]) == 0
        assert f"for {use}" in capsys.readouterr().out
    assert (
        cli.run(["sample", str(home / "start"), "-n", "2", "--start-step", "9", "--steps", "2", "--device", "cpu"]) == 0
    )
    said = capsys.readouterr()
    assert "t = 9" in said.out and "pure noise" not in said.err
    assert cli.run(["export", str(home / "residual"), "there"]) == 1
    assert "sees a prior beside x_t" in capsys.readouterr().err and not Path("there").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"use_prior": False}, "draws nothing without it"),
        ({"init": torch.zeros(1, 3, 16, 16), "start_t": 3}, "none belongs to this `init`"),
        ({"prior": torch.zeros(1, 1, 16, 16)}, "this run draws"),
    ],
)
def test_a_residual_run_refuses_what_it_cannot_draw(options: dict[str, Any], said: str, home: Path) -> None:
    with pytest.raises(UserError, match=said):
        opened(home / "residual").draw([0], **options)
    with pytest.raises(UserError, match="needs the output of a prior"):
        opened(home / "residual").denoiser()
    with pytest.raises(UserError, match="start from no prior"):
        opened(home / "plain").draw([0], prior=torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    "more, said",
    [
        ({"prior_use": "start"}, "`prior_use` needs `prior`"),
        ({"prior": "prior"}, "`prior` needs `prior_use`, what it is for: target, start or residual"),
        ({"prior": "prior", "prior_use": "star"}, "`prior_use` is 'star'"),
        ({"prior": "prior", "prior_use": "start", "prior_shift": "data"}, "`prior_shift` belongs to"),
        ({"prior": "prior", "prior_use": "residual", "prior_shift": "up"}, "unknown shift 'up'"),
        ({"prior": "plain", "prior_use": "start"}, "plain is a ddpm run; this command needs a dip-prior run"),
        ({"prior": "prior", "prior_use": "start", "conditional": True}, "exclude each other"),
        ({"prior": "prior", "prior_use": "start", "grey": 0.5}, "`grey` is for a run that finishes pictures"),
        ({"prior": "prior", "prior_use": "start", "image_size": 32}, "knows images of 16x16, and these are 32x32"),
        ({"prior": "prior", "prior_use": "residual", "init": "plain"}, "does not see a prior beside x_t"),
        ({"init": "residual"}, "residual sees a prior beside x_t"),
        ({"prior": "prior", "prior_use": "residual", "network": "os:getcwd"}, "`network` is one too many"),
        (
            {"prior": "prior", "prior_use": "start", "dataset": GREY, "data_dir": None},
            "in colour, and these are in grey",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    more: dict[str, Any], said: str, home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(UserError, match=said):
        minidiff.train("ddpm", **DDPM | {"data_dir": photos, "out": "new"} | more)
    assert not Path("new").exists()


def test_a_config_says_which_channels_there_are(home: Path) -> None:
    """A config.json whose network and prior do not fit each other is refused."""
    config = opened(home / "residual").config
    assert isinstance(config, DdpmConfig)
    with pytest.raises(UserError, match=r"`network.in_channels` is 6"):
        replace(config, prior=None)
