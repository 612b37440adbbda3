"""The few-call samplers against diffusers', the order of their errors, a mixture's exact flow, and their limits."""

import itertools
import math

import pytest
import torch
from mixture import THREE, even_schedule, path_error
from plain_samplers import half_the_slope, no_line, plain
from test_samplers import LINEAR, PEER_BETAS, PEER_PREDICTION, SIGMAS, ZERO_SNR, largest_difference, some_model

from minidiff.diffusion.denoiser import clipped
from minidiff.diffusion.levels import IMAGE, PLANS, Level
from minidiff.diffusion.predictions import PREDICTIONS
from minidiff.diffusion.process import q_sample
from minidiff.diffusion.samplers import SAMPLERS, calls
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.solvers import integral
from minidiff.diffusion.spacings import SPACINGS
from minidiff.errors import UserError

SOLVERS = {name: SAMPLERS[name] for name in ("dpm++", "dpm++sde", "heun", "unipc")}
ddim, heun = SAMPLERS["ddim"], SAMPLERS["heun"]

# Against diffusers, number for number. Its own lists of timesteps and sigmas are other ones: it is given ours


def peer_scheduler(name: str, schedule: Schedule, kind: str, timesteps: list[int], clip: bool | float, exact: bool):
    """diffusers' scheduler of this sampler, about to call the network at these timesteps.

    Heun's are pairs. clip True is its thresholding with a limit of 1; of Heun its own clipping. exact: the sigmas are
    our float64 ones, and not those of its own float32 table.
    """
    betas = next(betas for ours, betas in PEER_BETAS.values() if ours is schedule)
    config = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": betas, "prediction_type": PEER_PREDICTION[kind]}
    if name == "heun":
        peer = pytest.importorskip("diffusers.schedulers.scheduling_heun_discrete").HeunDiscreteScheduler
        scheduler = peer(**config, clip_sample=clip is True)
    else:
        config |= {"thresholding": clip is not False, "solver_order": 2, "final_sigmas_type": "zero"}
        if clip is not False:
            config |= {"dynamic_thresholding_ratio": 0.995 if clip is True else clip}
            config |= {"sample_max_value": 1.0 if clip is True else 100.0}
        if name == "unipc":
            peer = pytest.importorskip("diffusers.schedulers.scheduling_unipc_multistep").UniPCMultistepScheduler
            scheduler = peer(**config, solver_type="bh2")
        else:
            peer = pytest.importorskip("diffusers.schedulers.scheduling_dpmsolver_multistep")
            algorithm = {"dpm++": "dpmsolver++", "dpm++sde": "sde-dpmsolver++"}[name]
            scheduler = peer.DPMSolverMultistepScheduler(**config, algorithm_type=algorithm, solver_type="midpoint")
    table = schedule.alphas_cumprod if exact else scheduler.alphas_cumprod
    sigmas = ((1 - table) / table).sqrt()[timesteps]
    scheduler.sigmas = torch.cat([sigmas, torch.zeros(1).to(sigmas)])
    if name == "heun":  # the second call of a pair ends where the first does
        scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:], torch.zeros(1).to(sigmas)])
    scheduler.timesteps = torch.tensor(timesteps)
    scheduler.num_inference_steps = len(timesteps)
    scheduler.set_begin_index(0)
    return scheduler


def peer_chain(name: str, scheduler, model, x):
    """Yield every x of diffusers' chain. For heun it works with x / sqrt(alpha_bar) in between."""
    generator = torch.Generator().manual_seed(4)
    if name == "heun":
        x = x * (scheduler.sigmas[0] ** 2 + 1).sqrt()
    for i, t in enumerate(scheduler.timesteps.tolist()):
        x_t = scheduler.scale_model_input(x, t)
        more = {"variance_noise": torch.randn(x.shape, generator=generator)} if name == "dpm++sde" else {}
        x = scheduler.step(model(x_t, torch.full((len(x),), t)), t, x, **more).prev_sample
        yield x / (scheduler.sigmas[i + 1] ** 2 + 1).sqrt() if name == "heun" else x


def refused(schedule, steps, start_t, spacing) -> bool:
    """Whether this sigma is too much for heun, which has a test of its own."""
    return bool(schedule.sigmas[schedule.timesteps((steps + 1) // 2, start_t, spacing or "karras")[0]] > 1000)


WHOLE_OR_NOT = (None, 400)
GRIDS = [*itertools.product((20,), WHOLE_OR_NOT, SPACINGS), *itertools.product((1, 2, 3, 50), WHOLE_OR_NOT, ["logsnr"])]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize("betas", PEER_BETAS)
@pytest.mark.parametrize("kind", ["eps", "x0", "v"])  # which diffusers has
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_those_of_diffusers(name, kind, betas):
    """Every x of the chain: all spacings, whole and from the middle, without clipping and clipped in both ways.

    With the same sigmas within 1.4e-6, heun 7.6e-6. With diffusers' own float32 table 1.5e-5 where the schedule is
    linear, and 3.8e-4 for cosine, of whose first 1 - alpha_cumprod, 4e-5, float32 has lost 0.1%.
    """
    schedule, _ = PEER_BETAS[betas]
    model = some_model(kind, schedule)
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    worst = {True: 0.0, False: 0.0}
    cases = itertools.product(GRIDS, (True, False, 0.9), (True, False))
    for (steps, start_t, spacing), clip, exact in cases:
        if (steps != 20 or spacing not in ("logsnr", "trailing")) and (clip == 0.9 or not exact):
            continue  # to save time
        if kind != "eps" and ((steps, start_t, spacing) != (20, None, "logsnr") or not exact):
            continue  # the rules do not know the kind
        if name == "heun" and (clip == 0.9 or refused(schedule, steps, start_t, spacing)):
            continue  # diffusers has no thresholding here, and we refuse such a sigma
        timesteps = calls(name, schedule, steps, start_t, spacing)
        # heun's x goes beyond 1000 in three calls from a sigma of 160: there the comparison is in float64
        x = noise.double() if name == "heun" and steps <= 3 else noise
        scheduler = peer_scheduler(name, schedule, kind, timesteps, clip, exact)
        options = {"steps": steps, "start_t": start_t, "spacing": spacing, "clip": clip, "prediction": kind}
        ours = SOLVERS[name](model, schedule, x, generator=torch.Generator().manual_seed(4), **options)
        difference = largest_difference(ours, peer_chain(name, scheduler, model, x))
        worst[exact] = max(worst[exact], difference)
    print(f"{name} {kind} {betas}: {worst[True]:.1e}, with its own table {worst[False]:.1e}")
    assert 0 < worst[True] < 1e-4
    assert worst[False] < {"linear": 1e-4, "cosine": 1e-3}[betas]


# The order of the error, where the answer is known


ORDERS = {"ddim": 1, "dpm++": 2, "heun": 2, "unipc": 3}  # unipc: the corrector adds one to the predictor's order


def measured_order(name: str, start_t: int, draw=None) -> float:
    """Measure how often the error halves when the steps are halved: from 40 steps to 160."""
    schedule = even_schedule(641)
    steps = [81, 321] if name == "heun" else [41, 161]
    errors = [path_error(name, THREE, schedule, n, start_t, "linspace", draw=draw) for n in steps]
    print(f"{name} from {start_t}: order {math.log2(errors[0] / errors[1]) / 2:.2f}, errors {errors}")
    return math.log2(errors[0] / errors[1]) / 2


@pytest.mark.parametrize("start_t", [640, 320])
@pytest.mark.parametrize("name", ORDERS)
def test_errors_fall_with_their_order(name, start_t):
    """Twice the steps, half, a quarter or an eighth of the error: from a sigma of 100 and from 1, down to 0.01.

    Measured, from 640 and from 320: ddim 0.99 and 1.00, dpm++ 1.99 and 2.02, heun 2.02 and 2.00, unipc 2.92 and 2.94.
    """
    assert measured_order(name, start_t) == pytest.approx(ORDERS[name], abs=0.15)


LOWERED = {
    "dpm++ without its line": ("dpm++", plain("dpm++", straight=no_line), 1),
    "dpm++, half the slope": ("dpm++", plain("dpm++", straight=half_the_slope), 1),
    "unipc without corrector": ("unipc", plain("unipc", corrects=False), 2),
    "unipc, its bend": ("unipc", plain("unipc", second_moment=lambda h, moment: h**2 - moment), 1),
    "unipc, its slope": ("unipc", plain("unipc", bend_share=0.0), 2),
    "heun without correction": ("heun", plain("heun", correction=lambda difference: 0 * difference), 1),
    "heun, too much of it": ("heun", plain("heun", correction=lambda difference: difference), 1),
}


@pytest.mark.parametrize("mutant", LOWERED)
def test_the_order_shows_what_is_broken(mutant):
    """Each still draws good samples in enough steps. Only the order tells."""
    name, broken, order = LOWERED[mutant]
    assert measured_order(name, 320, broken) == pytest.approx(order, abs=0.3)


# The equation with noise: no path to hold it against, but the marginals


def test_the_sde_keeps_the_marginals_of_a_mixture():
    """x_s / sqrt(alpha_bar) has the mixture's mean and variance, widened by sigma_s, at every level within 4.5 sigma.

    Measured: 3.0. Without the straight line (first order) 16, with half the noise 65.
    """
    schedule, draws = even_schedule(641), 2**15
    generator = torch.Generator().manual_seed(3)
    share = torch.rand(draws, generator=generator, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)

    def worst(draw) -> float:
        sigma = schedule.sigmas[-1].item()
        x = (THREE.quantiles(share, sigma) / math.sqrt(1 + sigma**2)).view(1, 1, 1, -1)
        noise = torch.Generator().manual_seed(4)
        found, levels = 0.0, []
        chain = list(draw(THREE.denoiser(schedule), schedule, x, steps=65, spacing="linspace", generator=noise))
        for step, after in itertools.pairwise(chain):
            levels.append(schedule.sigmas[after.t].item())
            mean, variance, fourth = THREE.moments(levels[-1])
            values = step.x.flatten() * math.sqrt(1 + levels[-1] ** 2)
            off = abs(values.mean().item() - mean) / math.sqrt(variance / draws)
            wide = abs((values - mean).square().mean().item() - variance) / math.sqrt((fourth - variance**2) / draws)
            found = max(found, off, wide)
        return found

    right = worst(SAMPLERS["dpm++sde"])
    mistakes = ({"straight": no_line}, {"added": lambda var: 0.5 * var})
    wrong = [worst(plain("dpm++sde", **mistake)) for mistake in mistakes]
    print(right, wrong)
    assert right < SIGMAS and min(wrong) > 2 * SIGMAS


# What they have in common with the samplers before, and what happens at the ends


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize(("name", "steps"), [("dpm++", 2), ("dpm++sde", 2), ("unipc", 2), ("heun", 1)])
def test_with_too_few_calls_for_a_line_they_are_ddim(name, steps, kind):
    """The first step and the last have no line to follow. dpm++sde is then ddim with eta = 1."""
    model = some_model(kind, LINEAR)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    eta = float(name == "dpm++sde")
    for start_t in (None, 300):
        options = {"steps": steps, "start_t": start_t, "spacing": "linspace" if start_t else "trailing"}
        options |= {"prediction": kind}
        a = SOLVERS[name](model, LINEAR, x, generator=torch.Generator().manual_seed(7), **options)
        b = ddim(model, LINEAR, x, eta=eta, generator=torch.Generator().manual_seed(7), **options)
        assert largest_difference(a, [step.x for step in b]) < 1e-4


def test_the_corrector_integrates_a_parabola_exactly():
    """Against Simpson's rule in 2000 parts: x0(tau) = 3 - 2 tau + 5 tau^2, over a step of 0.7 after one of 0.4."""
    h, before = 0.7, 0.4

    def parabola(tau):
        return 3 - 2 * tau + 5 * tau**2

    tau = torch.linspace(0, h, 2001, dtype=torch.float64)
    weights = torch.tensor([1.0, *[4.0, 2.0] * 999, 4.0, 1.0], dtype=torch.float64)
    wanted = (weights * (tau - h).exp() * parabola(tau)).sum() * h / 2000 / 3
    guesses = [parabola(torch.tensor([at], dtype=torch.float64)) for at in (h, 0.0, -before)]
    assert integral(guesses, [h, before]).item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("name", ["dpm++", "dpm++sde", "unipc"])
def test_pure_noise_is_the_limit_of_hardly_any_signal(name, kind):
    """From alpha_bar = 0, where lambda is infinite, as from 1e-300, where it is -345: x differs by up to 0.0008.

    With 1e-16, where it is -18, x differs by 0.010 to 0.018.
    """
    above = torch.tensor([1e-300], dtype=torch.float64)
    almost = Schedule(ZERO_SNR.betas, torch.cat([ZERO_SNR.alphas_cumprod[:-1], above]))
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    a, b = (
        SOLVERS[name](some_model(kind, LINEAR), schedule, x, steps=6, spacing="linspace", prediction=kind,
                      generator=torch.Generator().manual_seed(7))
        for schedule in (ZERO_SNR, almost)
    )  # fmt: skip
    difference = largest_difference(a, [step.x for step in b])
    print(name, kind, difference)
    assert difference < 0.002


def test_lambda_at_its_ends():
    assert Level(0, 0.0, 1.0).half_log_snr == -math.inf and IMAGE.half_log_snr == math.inf
    assert Level(0, 0.5, 0.5).half_log_snr == 0
    (level,) = LINEAR.levels([100])
    assert level.half_log_snr == pytest.approx(-LINEAR.sigmas[100].log().item())


def test_heun_refuses_a_sigma_without_measure():
    """At zero terminal SNR it is infinite, at cosine's T-1 it is 20,291; the same with its own spacing is fine."""
    cosine = PEER_BETAS["cosine"][0]
    model = some_model("x0", LINEAR)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    for schedule, sigma, options in (
        (ZERO_SNR, "inf", {}),
        (ZERO_SNR, "inf", {"start_t": 999}),
        (cosine, "20291", {"start_t": 999}),
        (cosine, "20291", {"spacing": "trailing"}),
    ):
        refusal = f"t = 999, pure noise with a sigma of {sigma}: .* Take dpm\\+\\+"
        with pytest.raises(UserError, match=refusal):
            next(heun(model, schedule, x, prediction="x0", **options))
        with pytest.raises(UserError, match=refusal):  # known before anything is computed
            calls("heun", schedule, **options)
    assert len(list(heun(model, cosine, x, prediction="x0"))) == 19
    assert len(list(heun(model, ZERO_SNR, x, prediction="x0", start_t=900))) == 19


@pytest.mark.parametrize("schedule", [ZERO_SNR, Schedule.cosine().zero_terminal_snr()], ids=["linear", "cosine"])
def test_pure_noise_does_not_cost_the_order(schedule):
    """Gaussian data, whose flow from pure noise is x0 = 0.3 + 0.2 x: with 20 calls the solvers are far ahead of ddim.

    Fails when they are laid as linspace at zero terminal SNR: then their error is ddim's.
    """

    def model(x_t, t):
        alpha_bar = schedule.alphas_cumprod[t[0]].item()
        shrink = math.sqrt(alpha_bar) * 0.04 / (alpha_bar * 0.04 + 1 - alpha_bar)
        return 0.3 + shrink * (x_t - math.sqrt(alpha_bar) * 0.3)

    x = torch.randn(1, 1, 1, 256, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    error = {}
    for name in ("ddim", "dpm++", "unipc"):
        *_, last = SAMPLERS[name](model, schedule, x, steps=20, prediction="x0", clip=False)
        error[name] = (last.x - (0.3 + 0.2 * x)).abs().mean().item()
    print(error)
    assert error["dpm++"] < 0.2 * error["ddim"] and error["unipc"] < 0.2 * error["ddim"]


# Which timesteps they call


def test_every_sampler_has_a_plan_and_keeps_it():
    """`calls` says what the sampler does, for every sampler, schedule, number of steps, start and spacing."""
    assert {name: sampler.plan for name, sampler in SAMPLERS.items()} == PLANS
    x = torch.zeros(1, 1, 1, 1)
    schedules = (LINEAR, Schedule.cosine(100), Schedule.from_betas([0.3] * 7), ZERO_SNR)
    for name, schedule in itertools.product(SAMPLERS, schedules):
        for steps, start_t, spacing in itertools.product((None, 1, 2, 6), (None, 5), (None, "trailing", "quadratic")):
            options = {"steps": steps, "start_t": start_t, "spacing": spacing}
            if name == "heun" and refused(schedule, steps or 11, start_t, spacing):
                continue
            chain = SAMPLERS[name](lambda x, t: x, schedule, x, prediction="x0", **options)
            assert [step.t for step in chain] == calls(name, schedule, **options)


def test_how_many_calls_and_from_where():
    """Unless told otherwise: 20 of the solvers, 19 of heun, all with both ends; fewer where there are no more."""
    for name, spacing in (("dpm++", "logsnr"), ("unipc", "logsnr")):
        assert calls(name, LINEAR) == LINEAR.timesteps(20, None, spacing)
        assert calls(name, LINEAR)[0] == 999 and calls(name, LINEAR)[-1] == 0
        assert calls(name, LINEAR, start_t=100)[0] == 100
        assert calls(name, LINEAR, start_t=9) == list(range(9, -1, -1))
        assert calls(name, ZERO_SNR) == ZERO_SNR.timesteps(20, None, spacing)
        assert calls(name, ZERO_SNR)[0] == 999 and calls(name, ZERO_SNR)[-1] == 0
        assert calls(name, ZERO_SNR, start_t=998) == ZERO_SNR.timesteps(20, 998, spacing)
    assert calls("dpm++sde", LINEAR) == calls("dpm++sde", ZERO_SNR) == list(range(999, 0, -50))
    assert calls("dpm++sde", LINEAR, start_t=9) == list(range(9, -1, -1))
    assert calls("ddim", LINEAR) == list(range(999, 0, -20)) and len(calls("ddpm", LINEAR)) == 1000
    assert calls("heun", LINEAR) == [999, *(t for t in LINEAR.timesteps(10, None, "karras")[1:] for _ in range(2))]
    assert calls("heun", LINEAR, start_t=3) == [3, 2, 2, 1, 1, 0, 0]
    assert calls("heun", LINEAR, 6, 4, "linspace") == calls("heun", LINEAR, 5, 4, "linspace") == [4, 2, 2, 0, 0]
    assert [len(calls("heun", LINEAR, n)) for n in (1, 2, 3, 4, 20, 1999)] == [1, 1, 3, 3, 19, 1999]
    for steps in (0, 10, -1):
        with pytest.raises(UserError, match=f"{steps} steps do not fit.* 9 calls .*Take 1 to 9"):
            calls("heun", LINEAR, steps, 4)
    with pytest.raises(UserError, match="unknown sampler 'dpmpp'. Did you mean .*Known: ddpm, ddim, dpm"):
        calls("dpmpp", LINEAR)


# Thresholding


def test_dynamic_thresholding_of_a_ramp():
    """Imagen, section 2.3: 101 values from 0 to s_max, so the quantile p is p * s_max. Each image has its own.

    Fails when s is taken of the whole batch, of the signed values, or not held above 1.
    """
    ramp = torch.linspace(0, 1, 101) * torch.tensor([1.0, -1.0] * 50 + [1.0])
    x0 = torch.stack([4 * ramp, 0.5 * ramp, 1.2 * ramp]).view(3, 1, 1, 101)
    kept = x0.clone()
    out = clipped(x0, 0.9)
    assert torch.allclose(out[0], x0[0].clamp(-3.6, 3.6) / 3.6)
    assert torch.equal(out[1], x0[1])  # s is 0.45, so 1: nothing to do
    assert torch.allclose(out[2], x0[2].clamp(-1.08, 1.08) / 1.08)
    assert torch.equal(x0, kept) and torch.equal(clipped(x0, True), x0.clamp(-1, 1))
    assert clipped(x0.bfloat16(), 0.9).dtype == torch.bfloat16
    assert torch.equal(clipped(x0[:1], 0.9), out[:1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_can_threshold(name):
    """x0 stays in [-1, 1], and is another one than with plain clipping."""
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    a, b = (
        list(SAMPLERS[name](some_model("eps", LINEAR), LINEAR, x, steps=5, clip=clip, spacing="linspace",
                            generator=torch.Generator().manual_seed(7)))
        for clip in (0.95, True)
    )  # fmt: skip
    assert max(step.x0.abs().max().item() for step in a) <= 1
    assert not torch.allclose(a[-1].x0, b[-1].x0, atol=0.01)


def test_from_the_middle_the_data_come_back():
    """Noise of t = 200 on draws from the mixture, 19 calls: each gives back the mixture's deviation within 1.5%."""
    share = (torch.arange(2**14) + 0.5) / 2**14
    draws = THREE.quantiles(share.double(), 0.0).view(1, 1, 1, -1)
    noise = torch.randn(draws.shape, generator=torch.Generator().manual_seed(8))
    x = q_sample(LINEAR, draws, torch.tensor([200]), noise)
    deviation = math.sqrt(THREE.moments(0.0)[1])
    for name in SOLVERS:
        generator = torch.Generator().manual_seed(9)
        *_, last = SOLVERS[name](THREE.denoiser(LINEAR), LINEAR, x, steps=19, start_t=200, generator=generator)
        assert last.x.std().item() == pytest.approx(deviation, rel=0.015), name
