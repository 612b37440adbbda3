"""The shifted process: every kind of shift against its own steps, Bayes' rule, and the plain process."""

import math

import pytest
import torch

from minidiff.diffusion.process import diffusion_loss, q_posterior, q_sample
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.shifted import SHIFTS, Shifted
from minidiff.errors import UserError

SHORT = Schedule.linear(20)
N = 2**15


def of_prior(value, n, kind="prior", schedule=SHORT):
    return Shifted(schedule, torch.full((n, 1, 1, 1), value, dtype=torch.float64), kind)


def at(t, n):
    return torch.full((n,), t)


def normal(n, seed):
    return torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", SHIFTS)
def test_the_marginal_is_the_sum_of_all_steps(kind):
    """Walked step by step from x0, x_t has the mean and variance that q_sample jumps to, at every t.

    Within 4.5 sigma of 2^15 walkers. Fails when the step forgets the shift of the level it comes from (from t = 1 on,
    by 100 sigma), when alpha loses its root, when the image of "data" or "constant" is not shifted.
    """
    process = of_prior(0.8, N, kind)
    x = torch.full((N, 1, 1, 1), -0.5, dtype=torch.float64)
    first = process.shift_below(at(0, N))
    x, ones = x + first, torch.ones(N, 1, 1, 1, dtype=torch.float64)
    for t in range(SHORT.T):
        x = process.step_mean(x, at(t, N)) + math.sqrt(SHORT.betas[t]) * normal(N, t)
        jump = process.q_sample(-0.5 * ones, at(t, N), torch.zeros_like(ones))
        variance = 1 - SHORT.alphas_cumprod[t].item()
        apart = (x - jump) / math.sqrt(variance)
        assert abs(apart.mean().item()) * math.sqrt(N) < 4.5
        assert abs(apart.square().mean().item() - 1) * math.sqrt(N / 2) < 4.5


@pytest.mark.parametrize("kind", SHIFTS)
def test_the_posterior_is_bayes_rule_on_draws(kind):
    """Of pairs (x_{t-1}, x_t) that the forward process drew, x_{t-1} is linear in x_t with the posterior's numbers.

    Mean, slope and what is left, within 4.5 sigma. Fails when a shift is left out or has the other level's k.
    """
    process = of_prior(0.8, N, kind)
    x0 = torch.full((N, 1, 1, 1), -0.5, dtype=torch.float64)
    for t in (1, 7, 19):
        before = process.q_sample(x0, at(t - 1, N), normal(N, 1))
        after = process.step_mean(before, at(t, N)) + math.sqrt(SHORT.betas[t]) * normal(N, 2)
        mean, variance = process.q_posterior(x0, after, at(t, N))
        apart = (before - mean) / variance.sqrt()
        assert abs(apart.mean().item()) * math.sqrt(N) < 4.5
        assert abs(apart.square().mean().item() - 1) * math.sqrt(N / 2) < 4.5
        standard = (after - after.mean()) / after.std()
        assert abs((apart * standard).mean().item()) * math.sqrt(N) < 4.5


def test_the_ends_of_each_kind():
    """At the image and at pure noise, k is what the papers say. Fails when two kinds are exchanged."""
    schedule = Schedule.linear(1000).zero_terminal_snr()
    for kind, at_image, at_noise in [("prior", 0, 1), ("data", -1, 0), ("quadratic", 0, 0), ("constant", 1, 1)]:
        process = of_prior(0.8, 1, kind, schedule)
        assert process.shift_below(at(0, 1)).item() == pytest.approx(0.8 * at_image, abs=1e-12)
        assert process.shift(at(999, 1)).item() == pytest.approx(0.8 * at_noise, abs=1e-12)
    middle = of_prior(1.0, 1, "quadratic").shift(at(10, 1)).item()
    signal = math.sqrt(SHORT.alphas_cumprod[10])
    assert middle == pytest.approx(signal * (1 - signal))


def network(x, t):
    return 0.3 * x.flip(-1) - 0.01 * t.view(-1, 1, 1, 1) / 20


def test_without_a_prior_everything_is_as_it_was():
    """With u = 0, marginals, posterior, loss and every sampler give the plain process's numbers to the bit."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 3, 4, 4, generator=generator) for _ in range(2))
    t = torch.tensor([0, 3, 10, 19])
    for kind in SHIFTS:
        process = Shifted(SHORT, torch.zeros_like(x0), kind)
        assert torch.equal(process.q_sample(x0, t, noise), q_sample(SHORT, x0, t, noise))
        for mine, plain in zip(process.q_posterior(x0, noise, t), q_posterior(SHORT, x0, noise, t), strict=True):
            assert torch.equal(mine, plain)
        shown = process.unshifted(network)
        assert torch.equal(diffusion_loss(shown, SHORT, x0, t, noise), diffusion_loss(network, SHORT, x0, t, noise))
        for sampler in SAMPLERS.values():
            shifted, plain = (
                list(sampler(model, SHORT, noise, steps=5, generator=torch.Generator().manual_seed(1)))[-1].x
                for model in (shown, network)
            )
            assert torch.equal(shifted, plain)


@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_chains_of_gaussian_data_are_the_plain_ones(kind, sampler):
    """With a perfect denoiser, for data N(0.8, 0.2^2), a shifted chain makes the plain chain's images, and the data.

    The denoiser takes the shift off x_t by itself, as a trained network would. Fails when a sampler shows the network
    an x_t without the shift, or with the shift of the timestep below.
    """
    schedule, n, deviation = Schedule.linear(200), 2**12, 0.2
    process = of_prior(0.5, n, kind, schedule)
    levels = schedule.levels(range(schedule.T))

    def perfect(x_t, t):
        level = levels[int(t[0])]
        slope = level.signal * deviation**2 / (level.alpha_bar * deviation**2 + level.var)
        return 0.8 + slope * (x_t - level.signal * 0.8)  # E[x0 | x_t] for Gaussians

    def perfect_shifted(x_t, t):
        signal = torch.tensor(levels[int(t[0])].signal, dtype=torch.float64)
        return perfect(x_t - SHIFTS[kind](signal) * 0.5, t)

    shifted, plain = (
        list(SAMPLERS[sampler](model, schedule, normal(n, 0), steps=19, spacing="trailing", prediction="x0", clip=False,
                               generator=torch.Generator().manual_seed(1)))[-1].x
        for model in (process.unshifted(perfect_shifted), perfect)
    )  # fmt: skip
    assert torch.allclose(shifted, plain, atol=1e-9, rtol=0)
    assert shifted.mean().item() == pytest.approx(0.8, abs=0.03)


def test_an_unknown_shift_is_named():
    """One line with the kinds that there are."""
    with pytest.raises(UserError, match="shift"):
        of_prior(0.5, 1, "sideways")
