"""The forward process, its posterior and the three predictions, against Bayes' rule and the papers' formulas."""

import math
import re
from pathlib import Path

import pytest
import torch

from minidiff.diffusion.predictions import PREDICTIONS, check_prediction
from minidiff.diffusion.process import (
    diffusion_loss,
    loss_weight,
    predict_eps,
    predict_x0,
    q_posterior,
    q_sample,
    rates,
    target,
)
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError

SCHEDULES = {
    "linear": Schedule.linear(),
    "cosine": Schedule.cosine(),
    "zero-snr": Schedule.linear().zero_terminal_snr(),
    "short": Schedule.linear(10),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


def batch(schedule, dtype=torch.float64):
    """x0 in [-1,1], noise, and a timestep for each of 6 samples: both ends and between."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(6, 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([0, 1, schedule.T // 3, schedule.T // 2, schedule.T - 2, schedule.T - 1])
    return x0.to(dtype), t, noise.to(dtype)


@pytest.mark.parametrize("t", [0, 1, 100, 500, 998, 999])
def test_q_sample_has_the_mean_and_variance_of_that_many_noisy_steps(t):
    """Against x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) z walked step by step: its mean and variance, from the betas.

    Within 4.5 sigma of 2^18 draws. Fails when alpha_bar stands without its root, or when t is one off: by 200 sigma at
    t = 1 and 9 at t = 100, but by 2 at t = 500, where only the comparison with the same draws sees it.
    """
    schedule = Schedule.linear()
    mean, variance = 0.7, 0.0
    for beta in schedule.betas[: t + 1].tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta  # DDPM eq. 2
    n = 2**18
    noise = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(t))
    x_t = q_sample(schedule, torch.full((n, 1, 1, 1), 0.7), torch.full((n,), t), noise)
    residual = (x_t.double() - mean) / math.sqrt(variance)
    assert abs(residual.mean().item()) * math.sqrt(n) < 4.5
    assert abs(residual.square().mean().item() - 1) * math.sqrt(n / 2) < 4.5
    exact = mean + math.sqrt(variance) * noise.double()  # the same draws, so it also holds where t-1 looks alike
    assert torch.allclose(x_t.double(), exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize("t", [1, 2, 100, 500, 990])
def test_q_posterior_is_bayes_rule_worked_out_on_a_grid(t):
    """q(x_{t-1} | x_t, x0) ~ q(x_t | x_{t-1}) q(x_{t-1} | x0), multiplied and normalised numerically.

    Fails when eq. 7 loses a root, when alpha_bar_prev is alpha_bar, when the variance is beta.
    """
    schedule = Schedule.linear()
    beta, alpha_bar_prev = schedule.betas[t].item(), schedule.alphas_cumprod[t - 1].item()
    x0, x_t = 0.6, 0.6 * math.sqrt(schedule.alphas_cumprod[t].item()) + 0.9 * math.sqrt(1 - alpha_bar_prev)
    centre, reach = math.sqrt(alpha_bar_prev) * x0, 12 * math.sqrt(1 - alpha_bar_prev)
    x_prev = torch.linspace(centre - reach, centre + reach, 200_001, dtype=torch.float64)
    log_density = (
        -((x_t - math.sqrt(1 - beta) * x_prev) ** 2) / (2 * beta)  # DDPM eq. 2
        - (x_prev - centre) ** 2 / (2 * (1 - alpha_bar_prev))  # DDPM eq. 4
    )
    density = (log_density - log_density.max()).exp()
    density = density / density.sum()
    expected_mean = (density * x_prev).sum().item()
    expected_variance = (density * (x_prev - expected_mean) ** 2).sum().item()
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    mean, variance = q_posterior(schedule, x0 * one, x_t * one, torch.tensor([t]))
    assert mean.item() == pytest.approx(expected_mean, rel=1e-7)
    assert variance.item() == pytest.approx(expected_variance, rel=1e-7)


def test_q_posterior_ends_at_the_image(schedule):
    """At t = 0 the mean is x0 and the variance 0; nowhere is there a NaN, also not at zero SNR."""
    x0, t, noise = batch(schedule)
    x_t = q_sample(schedule, x0, t, noise)
    mean, variance = q_posterior(schedule, x0, x_t, t)
    assert torch.allclose(mean[0], x0[0], atol=1e-12) and variance[0] == 0
    assert variance.shape == (6, 1, 1, 1)
    assert bool(mean.isfinite().all()) and bool((variance[1:] > 0).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_prediction_gives_back_the_image_and_the_noise(schedule, kind, dtype):
    """target, predict_x0 and predict_eps agree, at every level. At zero SNR only eps cannot say x0.

    Fails when v has a sign or a rate exchanged.
    """
    x0, t, noise = batch(schedule, dtype)
    x_t = q_sample(schedule, x0, t, noise)
    answer = target(schedule, x0, t, noise, kind)
    signal_rate, noise_rate = rates(schedule, t, like=x0)
    rounding = 4 * torch.finfo(dtype).eps
    eps_error = (predict_eps(schedule, x_t, t, answer, kind) - noise).abs()
    assert bool((eps_error <= rounding * 4 / noise_rate).all())
    x0_error = (predict_x0(schedule, x_t, t, answer, kind) - x0).abs()
    knows = signal_rate.flatten() > 0 if kind == "eps" else torch.ones(6, dtype=torch.bool)
    assert bool((x0_error <= rounding * 4 / signal_rate)[knows].all())
    assert x0_error.dtype == dtype


def test_v_is_the_velocity_on_the_circle():
    """Salimans & Ho, appendix D: x = cos(phi) x0 + sin(phi) eps, and v = dx / dphi. Here by a finite difference."""
    schedule = Schedule.cosine()
    x0, t, noise = batch(schedule)
    signal_rate, noise_rate = rates(schedule, t, like=x0)
    phi, step = torch.atan2(noise_rate, signal_rate), 1e-5
    x_after, x_before = (torch.cos(p) * x0 + torch.sin(p) * noise for p in (phi + step, phi - step))
    assert torch.allclose(target(schedule, x0, t, noise, "v"), (x_after - x_before) / (2 * step), atol=1e-8)


# The loss


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_the_bound_is_a_weighted_squared_error(variance):
    """DDPM eq. 8 is eq. 12: the means of the two steps differ by the error in eps, times the root of a weight.

    At every t but the first, where the posterior is a point. Fails with another alpha in the weight, or another beta.
    """
    schedule = Schedule.linear()
    t = torch.arange(1, schedule.T)
    generator = torch.Generator().manual_seed(0)
    x0, noise, guess = torch.randn(3, len(t), 1, 1, 2, generator=generator, dtype=torch.float64)
    x_t = q_sample(schedule, x0, t, noise)
    mean, posterior = q_posterior(schedule, x0, x_t, t)
    model_mean, _ = q_posterior(schedule, predict_x0(schedule, x_t, t, guess), x_t, t)  # eq. 11
    jump = schedule.at(t, like=x0)
    sigma_squared = posterior if variance == "fixed_small" else jump.beta
    eq_8 = (mean - model_mean) ** 2 / (2 * sigma_squared)  # DDPM eq. 8
    eq_12 = jump.beta**2 / (2 * sigma_squared * jump.alpha * jump.var) * (noise - guess) ** 2  # DDPM eq. 12
    assert torch.allclose(eq_8, eq_12, rtol=1e-6)


def test_min_snr_weights_are_the_papers():
    """Hang et al.: min(SNR, 5) / SNR for eps, min(SNR, 5) for x0, min(SNR, 5) / (SNR + 1) for v; 1 without gamma."""
    schedule = Schedule.cosine()
    t = torch.arange(schedule.T)
    snr = [a / (1 - a) for a in schedule.alphas_cumprod.tolist()]
    assert max(snr) > 5 > min(snr)
    for kind, formula in (
        ("eps", lambda s: min(s, 5) / s),
        ("x0", lambda s: min(s, 5)),
        ("v", lambda s: min(s, 5) / (s + 1)),
    ):
        assert loss_weight(schedule, t, kind, 5).tolist() == pytest.approx([formula(s) for s in snr], rel=1e-9)
        assert bool((loss_weight(schedule, t, kind) == 1).all())


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_min_snr_weights_are_finite_at_zero_snr(kind):
    """min(SNR, gamma) / SNR is 0 / 0 there, and its limit is 1. Fails with the formula as printed."""
    weight = loss_weight(SCHEDULES["zero-snr"], torch.tensor([999]), kind, 5.0)
    assert weight.item() == (kind == "eps")


def test_with_min_snr_all_predictions_have_one_loss():
    """One guess of x0, told in every way: the weighted losses are equal. Fails when two weights are exchanged."""
    schedule = Schedule.cosine()
    x0, t, noise = batch(schedule)
    guess = torch.tanh(x0 + 0.3 * noise)
    signal_rate, noise_rate = rates(schedule, t, like=x0)

    def model(x_t, t, kind):
        eps = (x_t - signal_rate * guess) / noise_rate
        told = {"eps": eps, "x0": guess, "v": signal_rate * eps - noise_rate * guess, "velocity": eps - guess}
        deviation = (noise_rate**2 + 0.25 * signal_rate**2).sqrt()
        told["F"] = (guess - 0.25 * signal_rate * x_t / deviation**2) * deviation / (0.5 * noise_rate)  # EDM eq. 7
        return told[kind]

    losses = [
        diffusion_loss(lambda x, t, k=kind: model(x, t, k), schedule, x0, t, noise, kind, 5.0) for kind in PREDICTIONS
    ]
    snr = schedule.snr[t].clamp(max=5.0)
    expected = snr * (guess - x0).square().mean((1, 2, 3))
    for loss in losses:
        assert torch.allclose(loss, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_loss_is_each_samples_own_mean_squared_error(schedule, kind):
    """A model that answers 0 has the loss mean(target^2); one that answers right has 0. No reduction over the batch."""
    x0, t, noise = batch(schedule, torch.float32)
    answer = target(schedule, x0, t, noise, kind)
    loss = diffusion_loss(lambda x, t: torch.zeros_like(x), schedule, x0, t, noise, kind)
    assert loss.shape == (6,) and loss.dtype == torch.float32
    assert loss.tolist() == pytest.approx([sample.square().mean().item() for sample in answer], rel=1e-6)
    assert diffusion_loss(lambda x, t: answer, schedule, x0, t, noise, kind).tolist() == [0.0] * 6


def test_the_model_is_called_with_the_noisy_images_and_their_timesteps():
    schedule = Schedule.linear()
    x0, t, noise = batch(schedule, torch.float32)
    seen = []

    def model(x_t, t):
        seen.append((x_t, t))
        return torch.zeros_like(x_t, dtype=torch.bfloat16)  # as under mixed precision

    loss = diffusion_loss(model, schedule, x0, t, noise)
    ((x_t, called),) = seen
    assert torch.equal(x_t, q_sample(schedule, x0, t, noise)) and torch.equal(called, t) and called.dtype == torch.int64
    assert loss.dtype == torch.float32


def test_the_loss_reaches_the_weights():
    weight = torch.zeros(1, requires_grad=True)
    x0, t, noise = batch(Schedule.linear(), torch.float32)
    diffusion_loss(lambda x, t: weight * x, Schedule.linear(), x0, t, noise).mean().backward()
    assert weight.grad is not None and weight.grad.item() != 0


# What can go wrong


def test_an_unknown_prediction_names_the_nearest():
    schedule = Schedule.linear()
    x0, t, noise = batch(schedule)
    for call in (
        lambda: check_prediction(schedule, "epsilon"),
        lambda: predict_x0(schedule, x0, t, noise, "epsilon"),
        lambda: predict_eps(schedule, x0, t, noise, "epsilon"),
        lambda: target(schedule, x0, t, noise, "epsilon"),
        lambda: loss_weight(schedule, t, "epsilon", 5.0),
        lambda: diffusion_loss(lambda x, t: x, schedule, x0, t, noise, "epsilon"),
    ):
        with pytest.raises(UserError, match=r"unknown prediction 'epsilon'\. Did you mean 'eps'\?"):
            call()


def test_eps_prediction_and_zero_snr_exclude_each_other():
    check_prediction(SCHEDULES["linear"], "eps")
    check_prediction(SCHEDULES["zero-snr"], "v")
    check_prediction(SCHEDULES["zero-snr"], "x0")
    with pytest.raises(UserError, match=r"zero SNR .* Predict x0, v, velocity or F"):
        check_prediction(SCHEDULES["zero-snr"], "eps")


# The chapters


DOCS = Path(__file__).parents[1].parent / "docs"


@pytest.mark.parametrize("chapter", ["schedules", "diffusion", "ddpm-paper"])
def test_the_code_in_the_chapters_runs(chapter, capsys):
    """All of a chapter's blocks, one after another, as a reader would type them; a bare formula is left out."""
    text = (DOCS / f"{chapter}.md").read_text("utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import" in block]
    assert blocks
    exec("\n".join(blocks), {})
