"""The noise schedule against its papers' formulas, and the timesteps against diffusers'."""

import itertools
import math

import numpy as np
import pytest
import torch

from minidiff.diffusion.schedules import SCHEDULES, Schedule
from minidiff.diffusion.spacings import SPACINGS
from minidiff.errors import UserError


def peer_scheduler(**options):
    """diffusers' DDPMScheduler: a test-only dependency, without which the comparisons are skipped."""
    return pytest.importorskip("diffusers.schedulers.scheduling_ddpm").DDPMScheduler(**options)


# The levels


@pytest.mark.parametrize("T", [1, 2, 10, 100, 1000, 4000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_float64_and_falls_from_almost_one_towards_zero(name, T):
    """Fails when a schedule is computed in float32, or when a beta leaves (0, 1) at an unusual T."""
    schedule = SCHEDULES[name](T=T)
    assert schedule.T == len(schedule) == T
    for values in (schedule.betas, schedule.alphas_cumprod, schedule.snr):
        assert values.dtype == torch.float64 and values.shape == (T,) and bool(values.isfinite().all())
    assert bool((schedule.alphas_cumprod.diff() < 0).all())
    assert torch.allclose(schedule.alphas_cumprod.log(), (1 - schedule.betas).log().cumsum(0), rtol=1e-12)
    if T >= 10:
        assert schedule.alphas_cumprod[-1] < (0.005 if name == "scaled_linear" else 1e-4)


def test_linear_with_its_default_range_is_that_of_ddpm():
    """The figures of DDPM, section 4: T = 1000, 1e-4 to 0.02, evenly spaced."""
    schedule = Schedule.linear()
    assert schedule.betas.tolist() == pytest.approx([1e-4 + i / 999 * (0.02 - 1e-4) for i in range(1000)], rel=1e-12)
    assert schedule.alphas_cumprod[-1].item() == pytest.approx(4.036e-5, rel=1e-3)


def test_linear_ends_at_the_same_noise_whatever_T():
    """log alpha_bar is about -sum(beta), which 1000/T keeps at -10.05. The rest is the second order, sum(beta^2) / 2.

    Fails without the scaling: the last alpha_cumprod is then 0.36 at T = 100 and 2e-18 at T = 4000.
    """
    last = {T: Schedule.linear(T).alphas_cumprod[-1].log().item() for T in (100, 1000, 4000)}
    for T, log_alpha_bar in last.items():
        betas = Schedule.linear(T).betas
        assert betas.sum().item() == pytest.approx(10.05, rel=1e-12)
        assert -10.05 - betas.square().sum().item() < log_alpha_bar < -10.05
    assert last[100] == pytest.approx(last[1000], abs=0.7) and last[4000] == pytest.approx(last[1000], abs=0.06)


def test_linear_takes_a_given_range_as_it_is():
    """Also when it is the default one, at another T; and DehazeDDPM's. Fails when a given range is scaled."""
    for T, start, end in ((100, 1e-4, 0.02), (2000, 1e-6, 1e-2)):
        assert Schedule.linear(T, beta_start=start, beta_end=end).betas[[0, -1]].tolist() == pytest.approx([start, end])
    assert Schedule.linear(100, beta_end=0.05).betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.05])


def test_cosine_is_eq_17_except_where_beta_is_held_under_0999():
    """Nichol & Dhariwal eq. 17: alpha_bar(t) = f(t) / f(0). Fails with s left out, or with t one off."""
    T, s = 1000, 0.008
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    schedule = Schedule.cosine(T, s)
    assert schedule.alphas_cumprod[:-1].tolist() == pytest.approx([value / f[0] for value in f[1:-1]], rel=1e-9)
    assert schedule.betas[-1] == schedule.betas.max() == 0.999


def test_the_schedules_are_those_of_diffusers():
    """To the last bit of its float32: betas 6e-8 of each other."""
    for name, ours, given in (
        ("linear", Schedule.linear(), {}),
        ("scaled_linear", Schedule.scaled_linear(), {"beta_start": 0.00085, "beta_end": 0.012}),
        ("squaredcos_cap_v2", Schedule.cosine(), {}),
    ):
        peer = peer_scheduler(beta_schedule=name, **given)
        assert torch.allclose(ours.betas.float(), peer.betas, atol=1e-7, rtol=0)
        assert torch.allclose(ours.alphas_cumprod.float(), peer.alphas_cumprod, atol=1e-5, rtol=0)


@pytest.mark.parametrize("schedule", [Schedule.linear(), Schedule.cosine(), Schedule.linear(2), Schedule.linear(50)])
def test_zero_terminal_snr_keeps_the_first_level_and_ends_in_pure_noise(schedule):
    """Lin et al. algorithm 1. The last alpha_cumprod is 0, not 1e-17; in between sqrt(alpha_bar) moves linearly."""
    stretched = schedule.zero_terminal_snr()
    assert stretched.alphas_cumprod[0].item() == pytest.approx(schedule.alphas_cumprod[0].item(), rel=1e-14)
    assert stretched.alphas_cumprod[-1] == 0 and stretched.betas[-1] == 1 and stretched.snr[-1] == 0
    assert bool((stretched.betas > 0).all()) and bool((stretched.alphas_cumprod.diff() < 0).all())
    assert torch.allclose(torch.cumprod(1 - stretched.betas, 0), stretched.alphas_cumprod, atol=1e-14)
    before, after = schedule.alphas_cumprod.sqrt(), stretched.alphas_cumprod.sqrt()
    share = (before - before[-1]) / (before[0] - before[-1])
    assert torch.allclose(after, share * before[0], atol=1e-14)


def test_zero_terminal_snr_is_that_of_diffusers():
    peer = peer_scheduler(rescale_betas_zero_snr=True)  # which then lifts the last alpha_cumprod to 2^-24
    ours = Schedule.linear().zero_terminal_snr()
    assert torch.allclose(ours.alphas_cumprod.float(), peer.alphas_cumprod, atol=1e-5, rtol=0)


def test_levels_are_exact_where_float32_would_lose_them():
    """`at` subtracts before it casts. Fails by 1.3% at t = 0 of DehazeDDPM's schedule when it casts first."""
    schedule = Schedule.linear(2000, 1e-6, 1e-2)
    level = schedule.at(torch.tensor([0, 1, 1999]), like=torch.zeros(3, 1, 2, 2))
    assert all(value.shape == (3, 1, 1, 1) and value.dtype == torch.float32 for value in vars(level).values())
    alpha_bar = [1.0, *schedule.alphas_cumprod.tolist()]
    assert level.alpha_bar_prev.flatten().tolist() == pytest.approx([alpha_bar[t] for t in (0, 1, 1999)], rel=1e-6)
    assert level.alpha_bar.flatten().tolist() == pytest.approx([alpha_bar[t + 1] for t in (0, 1, 1999)], rel=1e-6)
    assert level.var.flatten().tolist() == pytest.approx([1 - alpha_bar[t + 1] for t in (0, 1, 1999)], rel=1e-6)
    assert level.var_prev.flatten().tolist() == pytest.approx([1 - alpha_bar[t] for t in (0, 1, 1999)], rel=1e-6)
    assert level.beta.flatten().tolist() == pytest.approx(schedule.betas[[0, 1, 1999]].tolist(), rel=1e-6)
    assert level.alpha.flatten().tolist() == pytest.approx((1 - schedule.betas[[0, 1, 1999]]).tolist(), rel=1e-6)


def test_levels_take_the_shape_and_dtype_of_what_they_meet():
    """Points [N,2] as well as images: with four dimensions always, [N,1,1,1] * [N,2] would silently be [N,1,N,2]."""
    schedule = Schedule.linear(10)
    for shape, dtype in (((5, 2), torch.float64), ((5, 3, 4, 4), torch.bfloat16), ((5,), torch.float32)):
        level = schedule.at(torch.arange(5), like=torch.zeros(shape, dtype=dtype))
        assert level.beta.shape == (5, *[1] * (len(shape) - 1)) and level.beta.dtype == dtype


# The timesteps


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("T", [1000, 1200, 100, 37])
def test_timesteps_are_those_of_diffusers(spacing, T):
    """For every number of steps, dividing T or not. Fails when rounding is half up, or floor for nearest.

    Up to its slip with trailing: 29 of 100 and others come out one too many, the last of them t = -1.
    """
    peer = peer_scheduler(num_train_timesteps=T, timestep_spacing=spacing)
    schedule = Schedule.linear(T)
    for steps in range(1, T + 1):
        peer.set_timesteps(steps)
        assert schedule.timesteps(steps, spacing=spacing) == peer.timesteps.tolist()[:steps], steps


@pytest.mark.parametrize("steps", [5, 10, 20, 50, 100])
def test_quadratic_timesteps_are_those_of_the_ddim_code(steps):
    """`skip_type == "quad"` of DDIM's repository. From 50 steps on it calls small timesteps twice: not here."""
    published = [int(s) for s in np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2]
    ours = Schedule.linear().timesteps(steps, spacing="quadratic")[::-1]
    repeats = steps - len(set(published))
    assert repeats == {5: 0, 10: 0, 20: 0, 50: 1, 100: 4}[steps]
    assert all(a == b or (a == i and b < i) for i, (a, b) in enumerate(zip(ours, published, strict=True)))
    assert sum(a != b for a, b in zip(ours, published, strict=True)) <= 3 * repeats


def test_the_published_starting_points():
    """50 of 1000: leading starts at 980, DDIM's quadratic at 0.8 T; the others start where x is pure noise."""
    starts = {spacing: Schedule.linear().timesteps(50, spacing=spacing)[0] for spacing in SPACINGS}
    below = {"leading": 980, "quadratic": pytest.approx(800, abs=1)}
    assert starts == dict.fromkeys(("trailing", "linspace", "karras", "logsnr"), 999) | below


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_given_start_is_always_the_first_call(spacing):
    """For every number of steps: falling, no timestep twice, inside [0, start_t]. Fails when leading starts low."""
    schedule = Schedule.linear()
    for start_t in (0, 1, 2, 7, 100, 998, 999):
        for steps in {1, 2, 3, start_t // 2, start_t, start_t + 1} & set(range(1, start_t + 2)):
            timesteps = schedule.timesteps(steps, start_t, spacing)
            assert timesteps[0] == start_t and timesteps[-1] >= 0 and len(timesteps) == steps
            assert all(a > b for a, b in itertools.pairwise(timesteps))
            assert all(type(t) is int for t in timesteps)
        assert schedule.timesteps(start_t + 1, start_t, spacing) == list(range(start_t, -1, -1))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_no_spacing_repeats_a_timestep_or_drops_one(spacing):
    """Every number of steps has as many different timesteps. Fails for quadratic as published, from 100 steps on."""
    schedule = Schedule.linear()
    for steps in (*range(1, 130), 500, 999, 1000):
        timesteps = schedule.timesteps(steps, spacing=spacing)
        assert len(timesteps) == steps and timesteps[-1] >= 0 and timesteps[0] < 1000
        assert all(a > b for a, b in itertools.pairwise(timesteps))


def edm_sigmas(steps: int, lowest: float, highest: float, rho: float = 7) -> list[float]:
    """EDM eq. 5, as it is printed: i = 0 ... N-1 from sigma_max to sigma_min."""
    ends = highest ** (1 / rho), lowest ** (1 / rho)
    return [(ends[0] + i / (steps - 1) * (ends[1] - ends[0])) ** rho for i in range(steps)]


@pytest.mark.parametrize("start_t", [None, 999, 700, 100])
def test_karras_is_eq_5_rounded_to_the_nearest_sigma(start_t):
    """No timestep has a sigma nearer to that of eq. 5. From 100, where two are rounded to one, one of them moves up.

    Fails with rho other than 7, or when rounded to the nearest log sigma.
    """
    schedule = Schedule.linear()
    sigmas = schedule.sigmas.tolist()
    for steps in (2, 3, 10, 18, 35):
        timesteps = schedule.timesteps(steps, start_t, "karras")
        wanted = edm_sigmas(steps, sigmas[0], sigmas[999 if start_t is None else start_t])
        best = [min(range(1000), key=lambda t, goal=goal: abs(sigmas[t] - goal)) for goal in wanted]
        if start_t != 100:
            assert timesteps == best
        assert [t for t in timesteps if t > 20] == [t for t in best if t > 20]  # below, eq. 5 is denser than they are


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
def test_karras_is_that_of_diffusers():
    """The timesteps of DPMSolverMultistepScheduler(use_karras_sigmas), which rounds in log sigma: a few differ by 1."""
    peer = pytest.importorskip("diffusers.schedulers.scheduling_dpmsolver_multistep").DPMSolverMultistepScheduler
    for steps in (5, 10, 18, 35):
        scheduler = peer(use_karras_sigmas=True)
        scheduler.set_timesteps(steps)
        ours = Schedule.linear().timesteps(steps, spacing="karras")
        differences = [abs(a - b) for a, b in zip(ours, scheduler.timesteps.tolist(), strict=True)]
        print(steps, differences)
        assert max(differences) <= 1 and sum(differences) <= steps // 10


def test_logsnr_is_even_in_lambda():
    """Each within half a timestep of where it should be. Fails when even in t, or in sigma."""
    for schedule in (Schedule.linear(), Schedule.cosine()):
        half_log_snr = schedule.snr.log() / 2
        for steps, start_t in ((5, 999), (10, 700), (10, 300)):
            timesteps = schedule.timesteps(steps, start_t, "logsnr")
            wanted = np.linspace(half_log_snr[start_t].item(), half_log_snr[0].item(), steps)
            best = [(half_log_snr - goal).abs().argmin().item() for goal in wanted]
            assert timesteps == best


def test_what_is_noise_anyway_gets_no_steps():
    """cosine ends at a sigma of 20,000. Without a start_t karras and logsnr begin where linear does, near 160.

    Fails when they begin at 999: of 10 steps karras then takes 6 above a sigma of 100, logsnr 4.
    """
    schedule = Schedule.cosine()
    for spacing, above in (("karras", 6), ("logsnr", 4)):
        free, given = schedule.timesteps(10, None, spacing), schedule.timesteps(10, 999, spacing)
        assert free[0] == 995 and given[0] == 999
        assert schedule.sigmas[free[0]].item() == pytest.approx(160, rel=0.1)
        assert (schedule.sigmas[given] > 100).sum() == above and (schedule.sigmas[free] > 100).sum() == 1
    assert schedule.timesteps(1000, None, "karras") == list(range(999, -1, -1))


@pytest.mark.parametrize("spacing", ["karras", "logsnr"])
def test_pure_noise_is_called_once_and_the_rest_is_laid_below(spacing):
    """Where sigma is infinite there is nothing to space evenly from: T-1 itself, then as from a sigma near 160."""
    for schedule in (Schedule.linear().zero_terminal_snr(), Schedule.cosine().zero_terminal_snr()):
        second = int((schedule.sigmas - 160).abs().argmin())
        for start_t in (None, 999):
            timesteps = schedule.timesteps(10, start_t, spacing)
            assert timesteps[:2] == [999, second] and timesteps[-1] == 0 and len(set(timesteps)) == 10
            assert 120 < schedule.sigmas[second] < 200
            assert schedule.timesteps(1, start_t, spacing) == [999]
            assert schedule.timesteps(2, start_t, spacing) == [999, second]
        assert schedule.timesteps(1000, None, spacing) == list(range(999, -1, -1))
        assert schedule.timesteps(10, 998, spacing)[0] == 998
        assert schedule.sigmas[-1] == math.inf


def test_without_steps_every_timestep_is_called():
    schedule = Schedule.linear()
    for spacing in SPACINGS:
        assert schedule.timesteps(spacing=spacing) == list(range(999, -1, -1))
        assert schedule.timesteps(start_t=5, spacing=spacing) == [5, 4, 3, 2, 1, 0]


# What can go wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_t": 1000}, "`start_t` 1000 is outside .* 0 to 999"),
        ({"start_t": -1, "steps": 5}, "`start_t` -1 is outside .* 0 to 999"),
        ({"steps": 0}, "0 steps do not fit .* 1 to 1000"),
        ({"steps": 1001}, "1001 steps do not fit .* 1 to 1000"),
        ({"steps": 102, "start_t": 100}, "102 steps do not fit in 101 timesteps .* 1 to 101"),
        ({"spacing": "trailling"}, "unknown spacing 'trailling'. Did you mean 'trailing'"),
    ],
)
def test_timesteps_out_of_range_are_one_clear_line(arguments, message):
    with pytest.raises(UserError, match=message):
        Schedule.linear().timesteps(**arguments)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Schedule.linear(0),
        lambda: Schedule.cosine(-5),
        lambda: Schedule.linear(10, beta_start=0.0),
        lambda: Schedule.linear(10, beta_end=1.5),
        lambda: Schedule.from_betas([0.1, 1.0, 0.1]),
        lambda: Schedule.from_betas([0.1, float("nan")]),
        lambda: Schedule.from_betas(torch.zeros(2, 2)),
        lambda: Schedule.from_betas([]),
        lambda: Schedule.linear(1).zero_terminal_snr(),
    ],
)
def test_impossible_schedules_are_refused(build):
    with pytest.raises(UserError):
        build()
