"""Flow matching and EDM: their levels, what is learnt on them, and that all three notations walk the same way."""

import itertools
import math

import pytest
import torch
from test_samplers import some_model
from torch import Tensor

from minidiff.diffusion.continuous import (
    NOTATIONS,
    Continuous,
    edm,
    facing,
    flow,
    log_normal,
    logit_normal,
    rewritten,
    timestep_at,
)
from minidiff.diffusion.predictions import PREDICTIONS, Model, check_prediction
from minidiff.diffusion.process import diffusion_loss, predict_eps, predict_x0, q_sample, target
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import Process, Schedule
from minidiff.errors import UserError

PROCESSES: dict[str, Process] = {
    "flow": flow(), "flow, shift 3": flow(shift=3.0), "edm": edm(), "ddpm": Schedule.cosine(),
}  # fmt: skip


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- levels -------------------------------------------------------------------------------------------------------


def test_levels_of_a_flow_lie_on_a_straight_line() -> None:
    """x_t = (1 - tau) x0 + tau eps with tau = (t + 1) / T, all noise at the end; the shift is SD3's eq. 23."""
    for level in flow(500).levels([0, 99, 498, 499]):
        tau = (level.t + 1) / 500
        assert level.signal == pytest.approx(1 - tau, abs=1e-15) and level.noise == pytest.approx(tau, abs=1e-15)
    assert flow().levels([999])[0].alpha_bar == 0
    for plain, moved in zip(flow().levels([0, 499, 998]), flow(shift=3.0).levels([0, 499, 998]), strict=True):
        assert moved.sigma == pytest.approx(3 * plain.sigma)  # eq. 23 multiplies noise / signal by the shift
    with pytest.raises(UserError, match="Take a number above 0"):
        flow(shift=0)


def test_levels_of_edm_are_those_of_its_own_sampler() -> None:
    """Its eq. 5 with rho = 7 from 80 to 0.002, at N = 1000 steps; and the image keeps its size."""
    n = 1000
    levels = edm(n).levels(range(n))
    for i in (0, 1, 500, 999):
        sigma = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # eq. 5
        assert levels[n - 1 - i].sigma == pytest.approx(sigma, rel=1e-12) and levels[n - 1 - i].signal == 1
    with pytest.raises(UserError, match="rising sigmas"):
        edm(sigma_min=2, sigma_max=1)


@pytest.mark.parametrize("name", PROCESSES)
def test_marginals(name: str) -> None:
    """Mean and variance of q_sample at several levels, within 5 sigma, of 200,000 draws; between timesteps, too."""
    process, x0 = PROCESSES[name], torch.full((200_000, 1, 1, 1), 0.7, dtype=torch.float64)
    for t in (0, 300, 999) if name == "ddpm" else (0, 300.4, 999):
        x = q_sample(process, x0, torch.full((len(x0),), t), normal(*x0.shape))
        signal, noise = (rate[0].item() for rate in process.rates(torch.tensor([t]), like=x0))
        assert abs(x.mean().item() - 0.7 * signal) < 5 * noise / math.sqrt(len(x0)) + 1e-12
        assert x.var().item() == pytest.approx(noise**2, rel=5 * math.sqrt(2 / len(x0)))


# --- what is learnt -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(PROCESSES, PREDICTIONS)))
def test_the_right_answer_gives_back_image_and_noise(name: str, kind: str) -> None:
    """Every prediction on every process, or it is refused. Fails when a formula takes the rates for DDPM's."""
    process, (x0, eps) = PROCESSES[name], normal(2, 6, 1, 4, 4)
    t = torch.tensor([0, 1, 300, 700, 990, 998])
    try:
        check_prediction(process, kind)
    except UserError as error:
        assert name != "ddpm" and (kind == "v" or (kind == "eps" and "flow" in name)), error
        return
    assert kind != "v" or name == "ddpm"
    x_t, answer = q_sample(process, x0, t, eps), target(process, x0, t, eps, kind)
    assert torch.allclose(predict_x0(process, x_t, t, answer, kind), x0, atol=1e-7)
    assert torch.allclose(predict_eps(process, x_t, t, answer, kind), eps, atol=1e-7)


def test_edm_is_preconditioned_as_published() -> None:
    """Table 1 of EDM: D(x) = c_skip x + c_out F(c_in x, c_noise), and F's target has variance 1."""
    process, sigma_data = edm(), 0.5
    t = torch.tensor([50, 500, 950])
    (_, sigma), x = process.rates(t, like=normal(3, 1, 1, 1)), normal(3, 1, 8, 8) * 3
    seen: list[Tensor] = []

    def network(x: Tensor, told: Tensor) -> Tensor:
        seen.extend([x, told])
        return torch.tanh(x)

    output = facing(network, process)(x, t)
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
    c_in = 1 / (sigma**2 + sigma_data**2).sqrt()
    assert torch.allclose(seen[0], c_in * x) and torch.allclose(seen[1], 1000 * sigma.log().flatten() / 4)
    assert torch.allclose(predict_x0(process, x, t, output, "F"), c_skip * x + c_out * torch.tanh(c_in * x))
    many = torch.full((20_000,), 500)
    answer = target(process, sigma_data * normal(20_000, 1, 1, 1), many, normal(20_000, 1, 1, 1, seed=1), "F")
    assert answer.var().item() == pytest.approx(1, rel=0.05)


def test_the_loss_of_a_flow_is_that_of_the_velocity() -> None:
    """The mean of |network(x_t, 1000 tau) - (eps - x0)|^2: Lipman et al. 2023, with t running up to the noise."""
    process, (x0, eps) = flow(), normal(2, 3, 1, 4, 4)
    t = torch.tensor([10.5, 400.25, 998.0])
    tau = ((t.double() + 1) / 1000).view(-1, 1, 1, 1)
    x_t = (1 - tau) * x0 + tau * eps

    def network(x: Tensor, told: Tensor) -> Tensor:
        return torch.sin(x) + told.view(-1, 1, 1, 1) / 1000

    expected = (torch.sin(x_t) + tau - (eps - x0)).square().mean((1, 2, 3))
    assert torch.allclose(diffusion_loss(facing(network, process), process, x0, t, eps, "velocity"), expected)


def test_where_a_training_looks() -> None:
    """The quantiles of both densities: tau is a sigmoid, log sigma has EDM's mean and deviation."""
    z = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])
    tau = (logit_normal(flow(), z) + 1) / 1000
    assert torch.allclose(tau, z.double().sigmoid())
    t = log_normal(edm(), z)
    _, sigma = edm().rates(t, like=torch.empty(0, 1, dtype=torch.float64))
    assert torch.allclose(sigma.flatten().log(), -1.2 + 1.2 * z.double())
    assert timestep_at(edm(), torch.tensor([1e-9, 1e9])).tolist() == [0, 999]


# --- one way, three notations -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("ddim", "eps"), ("ddim", "v"), ("dpm++", "v"), ("heun", "x0"), ("unipc", "F")]
)
@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_network_of_ddpm_walks_the_same_way_in_every_notation(notation: str, name: str, kind: str) -> None:
    """Every guess of x0 is the same to rounding, and every x is the other times the number of its level."""
    schedule = Schedule.linear()
    model = some_model(kind, schedule)
    model.prediction = kind  # type: ignore[attr-defined]
    other, process = rewritten(model, schedule, notation)
    options = {"steps": 9, "spacing": "karras", "clip": False}
    first = schedule.timesteps(5 if name == "heun" else 9, None, "karras")[0]
    (level,) = schedule.levels([first])
    x = normal(2, 1, 4, 4)
    ours = list(SAMPLERS[name](other, process, x * NOTATIONS[notation](level.signal, level.noise), **options))
    plain = list(SAMPLERS[name](model, schedule, x, **options))
    for a, b, below in zip(ours, plain, [*plain[1:], None], strict=True):
        assert torch.allclose(a.x0, b.x0, rtol=1e-9, atol=1e-9)
        (at,) = schedule.levels([below.t]) if below else (None,)
        factor = NOTATIONS[notation](at.signal, at.noise) if at else 1.0
        assert torch.allclose(a.x, factor * b.x, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(ours[0].x, plain[0].x) or notation == "ddpm"  # it is another notation


def test_edm_cannot_write_pure_noise() -> None:
    with pytest.raises(UserError, match="ends in pure noise"):
        model = some_model("velocity", flow())
        model.prediction = "velocity"  # type: ignore[attr-defined]
        rewritten(model, flow(), "edm")


def of_normal_data(process: Continuous, deviation: float) -> Model:
    """The exact denoiser of normal data with this deviation: its x0 is linear in x_t."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        signal, noise = process.rates(t, like=x)
        return signal * deviation**2 / (noise**2 + signal**2 * deviation**2) * x

    return model


@pytest.mark.parametrize("name", ["ddim", "dpm++", "heun", "unipc", "dpm++sde", "ddpm"])
@pytest.mark.parametrize("process", [flow(), edm()], ids=["flow", "edm"])
def test_samplers_draw_normal_data(process: Continuous, name: str) -> None:
    """With the exact denoiser the images have the data's deviation: within 3% of the truth for 100 calls or all."""
    deviation = 0.3
    model = of_normal_data(process, deviation)
    start_t = 990 if name == "heun" and process.name == "flow" else None  # where sigma is infinite, heun cannot start
    (first,) = process.levels([process.T - 1 if start_t is None else start_t])
    x = math.sqrt(first.var + first.alpha_bar * deviation**2) * normal(1, 1, 200, 200)
    steps = None if name == "ddpm" else 99
    *_, last = SAMPLERS[name](model, process, x, steps=steps, start_t=start_t, spacing="trailing", clip=False,
                              prediction="x0", generator=torch.Generator().manual_seed(1))  # fmt: skip
    assert last.x.std().item() == pytest.approx(deviation, rel=0.03)
