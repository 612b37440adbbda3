"""The reverse chain against the forward marginals, an exactly known Gaussian, and diffusers' schedulers.

Here is what all samplers have in common, and the rest about ddpm and ddim. The solvers have test_solvers.py.
"""

import itertools
import math

import pytest
import torch
from plain_samplers import lost, plain

from minidiff.diffusion.levels import Jump
from minidiff.diffusion.predictions import PREDICTIONS
from minidiff.diffusion.process import predict_eps, predict_x0, q_sample, target
from minidiff.diffusion.samplers import SAMPLERS, VARIANCES, Step, calls
from minidiff.diffusion.schedules import Schedule
from minidiff.diffusion.spacings import SPACINGS
from minidiff.errors import UserError
from minidiff.rng import sample_generators

LINEAR = Schedule.linear()
ZERO_SNR = LINEAR.zero_terminal_snr()
ddpm, ddim, heun = SAMPLERS["ddpm"], SAMPLERS["ddim"], SAMPLERS["heun"]
SIGMAS = 4.5  # a right sampler strays further in 1 of 150,000 draws; the seeds are fixed, so it passes always or never


# With x0 known, every x_s on the way down must follow q(x_s | x0)


def point(pixels: int) -> torch.Tensor:
    """The data: one image, every pixel of which is its own point in [-1, 1]. [1,1,1,pixels]."""
    return torch.rand(1, 1, 1, pixels, generator=torch.Generator().manual_seed(1)) * 2 - 1


def exact_model(x0: torch.Tensor, schedule: Schedule, kind: str = "eps"):
    """Make the ideal network for data that is always x0: it answers with exactly the noise that is in x_t."""

    def model(x_t, t):
        eps = predict_eps(schedule, x_t, t, x0, "x0")
        return target(schedule, x0, t, eps, kind)

    return model


def worst_deviation(sampler, schedule: Schedule, start_t: int, pixels: int, kind: str = "eps", **options) -> float:
    """Measure how many sigma the chain from start_t strays from the forward marginals, at its worst step and statistic.

    x is drawn from q(x_{start_t} | x0). The residual (x_s - sqrt(alpha_bar_s) x0) / sqrt(1 - alpha_bar_s) must be
    standard normal at every s: its mean is 0, its slope against x0 is 0 (an error in the signal has no mean, as x0 has
    both signs), its variance is 1. After the last step x must be x0 itself: any noise there is counted in float32 ulps.
    """
    x0 = point(pixels)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(x0.shape, generator=generator)
    x = q_sample(schedule, x0, torch.tensor([start_t]), noise)
    model = exact_model(x0, schedule, kind)
    steps = list(sampler(model, schedule, x, start_t=start_t, prediction=kind, generator=generator, **options))
    worst = 0.0
    for step, after in itertools.pairwise(steps):
        alpha_bar = schedule.alphas_cumprod[after.t].item()  # the level x is at: that of the next call
        residual = ((step.x - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)).flatten()
        mean = residual.mean().item() * math.sqrt(pixels)
        slope = (residual @ x0.flatten() / x0.norm()).item()
        variance = (residual.square().mean().item() - 1) * math.sqrt(pixels / 2)
        worst = max(worst, abs(mean), abs(slope), abs(variance))
    last_error = (steps[-1].x - x0).abs().max().item()
    return max(worst, last_error / 1e-5)  # the chain divides by sqrt(alpha_bar) once, at most by 0.1 in the last step


MARGINAL_SAMPLERS = {
    "ddpm": (ddpm, {}),
    "ddim, eta 0": (ddim, {"eta": 0.0}),
    "ddim, eta 0.5": (ddim, {"eta": 0.5}),
    "ddim, eta 1": (ddim, {"eta": 1.0}),
    "ddim, keep_eps": (ddim, {"eta": 0.5, "keep_eps": True}),
    "dpm++": (SAMPLERS["dpm++"], {}),
    "dpm++sde": (SAMPLERS["dpm++sde"], {}),
    "heun": (heun, {}),
    "unipc": (SAMPLERS["unipc"], {}),
}


@pytest.mark.parametrize(
    ("name", "start_t", "pixels"),
    [
        *(
            (name, *start)
            for name in MARGINAL_SAMPLERS
            for start in ((0, 2**12), (1, 2**16), (20, 2**16), (100, 2**16))
        ),
        ("ddpm", 999, 2**13),  # the others start there in the next test
        ("ddim, eta 0.5", 999, 2**13),
    ],
)
def test_reverse_chain_has_the_forward_marginals_at_every_step(name, start_t, pixels):
    """With x0 known, x_s must follow q(x_s | x0) for every s below start_t: mean, slope and variance within 4.5 sigma.

    Fails with every change of MUTANTS, see there for how many sigma.
    """
    sampler, options = MARGINAL_SAMPLERS[name]
    options = options | {"steps": 2 * start_t + 1 if sampler is heun else start_t + 1}
    assert worst_deviation(sampler, LINEAR, start_t, pixels, **options) < SIGMAS


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("start_t", "steps"), [(100, 7), (999, 10), (999, 50)])
@pytest.mark.parametrize("name", MARGINAL_SAMPLERS)
def test_skipped_steps_keep_the_marginals(name, start_t, steps, spacing):
    """A jump must land on the level of the next timestep listed. Fails when alpha and beta are those of one step."""
    sampler, options = MARGINAL_SAMPLERS[name]
    assert worst_deviation(sampler, LINEAR, start_t, 2**15, steps=steps, spacing=spacing, **options) < SIGMAS


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("name", [name for name in MARGINAL_SAMPLERS if name != "heun"])
def test_zero_terminal_snr_samples_with_x0_and_v(name, kind):
    """From alpha_bar = 0, pure noise, to the image, also in one step. Fails with any division by sqrt(alpha_bar)."""
    sampler, options = MARGINAL_SAMPLERS[name]
    for steps in (1, 2, 20):
        given = options | {"steps": steps, "spacing": "trailing"}
        assert worst_deviation(sampler, ZERO_SNR, 999, 2**15, kind, **given) < SIGMAS


# The checker itself is tried on broken samplers. Each has one mistake, see plain_samplers.py


MUTANTS = {
    "ddpm, start_t one too high": ("ddpm", {}, plain("ddpm", shift=1)),
    "ddpm, start_t one too low": ("ddpm", {}, plain("ddpm", shift=-1)),
    "ddpm, eq. 7 without its first root": ("ddpm", {}, plain("ddpm", first_root=lost)),
    "ddpm, eq. 7 without its second root": ("ddpm", {}, plain("ddpm", second_root=lost)),
    "ddpm, noise with the variance for its root": ("ddpm", {}, plain("ddpm", spread=lost)),
    "ddpm, noise in the last step": ("ddpm", {"variance": "fixed_large"}, plain("ddpm", noise_at_the_end=True)),
    "ddpm, fixed_large for fixed_small": ("ddpm", {"variance": "fixed_large"}, SAMPLERS["ddpm"]),
    "ddpm, no noise at all": ("ddpm", {}, plain("ddpm", spread=lambda variance: 0.0)),
    "ddpm, one level too far down": ("ddpm", {}, plain("ddpm", lower=lambda levels: [*levels[2:], 1.0, 1.0])),
    "ddim, eq. 12 without its first root": ("ddim", {}, plain("ddim", first_root=lambda alpha_bar: 1.0)),
    "ddim, eq. 12 without its second root": ("ddim", {}, plain("ddim", second_root=lost)),
    "ddim, eq. 12 with sigma for sigma^2": ("ddim", {"eta": 0.5}, plain("ddim", squared=lost)),
    "ddim, eq. 12 without its noise": ("ddim", {"eta": 0.5}, plain("ddim", share=0.0)),
    "dpm++, level": ("dpm++", {}, plain("dpm++", decay=math.expm1)),
    "dpm++sde, no drift": ("dpm++sde", {}, plain("dpm++sde", drift=lambda h: 1.0)),
    "dpm++sde, half": ("dpm++sde", {}, plain("dpm++sde", decay=lambda h: math.expm1(-h))),
    "dpm++sde, noise": ("dpm++sde", {}, plain("dpm++sde", added=lambda var: 1.0)),
    "unipc, corrector's level": ("unipc", {}, plain("unipc", level_root=lost)),
    "unipc, corrected from here": ("unipc", {}, plain("unipc", from_here=True)),
    "heun, level": ("heun", {}, plain("heun", level=lambda alpha_bar, alpha_bar_next: alpha_bar)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_marginal_test_sees_what_a_picture_hides(mutant):
    """Most of these draw pictures that look right. Each must stray by more than twice the 4.5 sigma that are allowed.

    Measured: start_t off by one 12 and 14; a root missing in eq. 7 17, in eq. 12 180 and more; noise in the last step
    4600; the other changes 145 to 181.
    """
    name, options, broken = MUTANTS[mutant]
    start_t = 20 if "start_t" in mutant else 100  # a step more or less is 9% of the noise at 20, 2% at 100
    if name != "ddpm":
        options = options | {"steps": start_t + 1}
    deviation = worst_deviation(broken, LINEAR, start_t, 2**16, **options)
    print(f"{mutant}: {deviation:.1f} sigma")
    assert deviation > 2 * SIGMAS


# Data that is not a point: a Gaussian, whose ideal denoiser is a formula


@pytest.mark.parametrize(("kind", "variance"), [("eps", "fixed_large"), ("x0", "fixed_small"), ("v", "fixed_small")])
def test_gaussian_data_comes_out_with_its_mean_and_variance(kind, variance):
    """x0 ~ N(0.3, 0.25): the chain's x_t is Gaussian, and x_{t-1} = a x_t + b + sigma z gives its variance exactly.

    The last x follows that recursion within 4.5 sigma of its draws; and the recursion itself ends within 2% of the
    data's variance, which is what 1000 steps of finite size cost. Fails when a prediction is taken for another, by
    24 sigma (eps told as v) or more.
    """
    mean_0, variance_0, pixels = 0.3, 0.25, 2**14
    schedule = LINEAR

    def model(x_t, t):
        alpha_bar = schedule.alphas_cumprod[t[0]].item()
        shrink = math.sqrt(alpha_bar) * variance_0 / (alpha_bar * variance_0 + 1 - alpha_bar)
        guess = mean_0 + shrink * (x_t - math.sqrt(alpha_bar) * mean_0)  # E[x0 | x_t]
        return target(schedule, guess, t, predict_eps(schedule, x_t, t, guess, "x0"), kind)

    mean, spread = 0.0, 1.0
    for t in reversed(range(1000)):
        alpha_bar, beta = schedule.alphas_cumprod[t].item(), schedule.betas[t].item()
        previous = schedule.alphas_cumprod[t - 1].item() if t else 1.0
        shrink = math.sqrt(alpha_bar) * variance_0 / (alpha_bar * variance_0 + 1 - alpha_bar)
        from_x0 = math.sqrt(previous) * beta / (1 - alpha_bar)  # DDPM eq. 7
        a = from_x0 * shrink + math.sqrt(1 - beta) * (1 - previous) / (1 - alpha_bar)
        added = {"fixed_small": (1 - previous) / (1 - alpha_bar) * beta, "fixed_large": beta if t else 0.0}[variance]
        mean = a * mean + from_x0 * (1 - shrink * math.sqrt(alpha_bar)) * mean_0
        spread = a * a * spread + added
    assert mean == pytest.approx(mean_0, rel=0.02) and spread == pytest.approx(variance_0, rel=0.02)

    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 1, 1, pixels, generator=generator)
    for step in ddpm(model, schedule, x, variance=variance, clip=False, prediction=kind, generator=generator):
        x = step.x
    residual = (x - mean) / math.sqrt(spread)
    assert abs(residual.mean().item()) * math.sqrt(pixels) < SIGMAS
    assert abs(residual.square().mean().item() - 1) * math.sqrt(pixels / 2) < SIGMAS


# Against diffusers, number for number

PEER_PREDICTION = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
PEER_BETAS = {"linear": (LINEAR, "linear"), "cosine": (Schedule.cosine(), "squaredcos_cap_v2")}
# What diffusers' float32 alphas_cumprod may cost it. The cosine's last one is 2e-9: of a jump from there,
# 1 - alpha_bar_next - sigma^2 = 8e-8 is all rounding in float32. Measured 6.2e-5 and 7.7e-4; with our table 5e-6.
FLOAT32_TABLE = {"linear": 1e-4, "cosine": 1e-3}
CHAINS = [  # steps, spacing, kind: the rules do not know the kind, so the other two have one chain each
    *((10, spacing, "eps") for spacing in ("leading", "trailing", "linspace")),
    (50, "trailing", "eps"),
    *((10, "trailing", kind) for kind in ("x0", "v")),
    (1000, "trailing", "eps"),
    *(pytest.param(1000, "trailing", kind, marks=pytest.mark.slow) for kind in ("x0", "v")),
]


def some_model(kind: str, schedule: Schedule):
    """Make a cheap, nonlinear stand-in for a network. Its x0 reaches a little beyond [-1, 1], so clipping matters."""

    def model(x, t):
        guess = 1.2 * torch.tanh(0.8 * x + 0.4 * torch.sin(0.01 * t.view(-1, 1, 1, 1)) * x.roll(1, -1))
        return target(schedule, guess, t, predict_eps(schedule, x, t, guess, "x0"), kind)

    return model


def peer_chain(peer, scheduler, model, x, monkeypatch, **options):
    """Yield every x of diffusers' chain. Its noise comes from a generator seeded as ours; in the last step it is 0."""
    generator = torch.Generator().manual_seed(4)
    timesteps = scheduler.timesteps.tolist()
    for t, after in itertools.pairwise([*timesteps, -1]):

        def noise(shape, last=(after == -1), **_):
            return torch.zeros(shape) if last else torch.randn(shape, generator=generator)

        monkeypatch.setattr(peer, "randn_tensor", noise)
        if peer.__name__.endswith("ddim"):  # its stride is num_train_timesteps // num_inference_steps, used only here
            scheduler.register_to_config(num_train_timesteps=t - after)
            scheduler.num_inference_steps = 1
        x = scheduler.step(model(x, torch.full((len(x),), t)), t, x, **options).prev_sample
        yield x


def largest_difference(ours, theirs) -> float:
    return max((step.x - x).abs().max().item() for step, x in zip(ours, theirs, strict=True))


def parity(peer, sampler, betas, steps, spacing, kind, options, peer_config, peer_options, exact, monkeypatch) -> float:
    """Measure the largest difference of any x on the way, from the same x, model, noise and timesteps.

    exact: diffusers' formulas work on our float64 alphas_cumprod, not on its own float32 ones.
    """
    schedule, peer_betas = PEER_BETAS[betas]
    model = some_model(kind, schedule)
    scheduler = (peer.DDPMScheduler if sampler is ddpm else peer.DDIMScheduler)(
        beta_schedule=peer_betas, prediction_type=PEER_PREDICTION[kind], timestep_spacing=spacing, **peer_config
    )
    if exact:
        scheduler.alphas_cumprod = schedule.alphas_cumprod
    scheduler.set_timesteps(steps)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    options = options | {"steps": steps, "spacing": spacing, "prediction": kind}
    ours = sampler(model, schedule, x, generator=torch.Generator().manual_seed(4), **options)
    difference = largest_difference(ours, peer_chain(peer, scheduler, model, x, monkeypatch, **peer_options))
    print(f"{peer.__name__} {betas} {options} {exact=}: {difference:.1e}")
    return difference


@pytest.mark.parametrize("betas", PEER_BETAS)
@pytest.mark.parametrize(("steps", "spacing", "kind"), CHAINS)
def test_ddpm_is_that_of_diffusers(steps, spacing, kind, betas, monkeypatch):
    """Every x of the chain, for both variances, with and without clipping. (All spacings are one at 1000 steps.)

    One difference is meant: with fixed_large and trailing spacing diffusers adds noise to the finished image (it asks
    whether t > 0, not whether this is the last step); so its last noise is set to 0.
    """
    peer = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    cases = list(itertools.product(VARIANCES, (True, False)))
    for variance, clip in cases[:: 3 if steps == 1000 else 1]:  # at 1000 each variance with one way of clipping
        options = {"variance": variance, "clip": clip}
        config = {"variance_type": variance, "clip_sample": clip}
        given = (peer, ddpm, betas, steps, spacing, kind, options, config, {})
        assert parity(*given, exact=True, monkeypatch=monkeypatch) < 2e-5
        if clip and (steps < 1000 or kind == "eps"):
            assert parity(*given, exact=False, monkeypatch=monkeypatch) < FLOAT32_TABLE[betas]


@pytest.mark.parametrize("betas", PEER_BETAS)
@pytest.mark.parametrize(("steps", "spacing", "kind"), CHAINS)
def test_ddim_is_that_of_diffusers(steps, spacing, kind, betas, monkeypatch):
    """Every x of the chain, for three etas, without clipping, and clipped in both ways.

    One difference is meant: diffusers steps to t - 1000 // steps, which with linspace is not the next timestep of its
    own list; so each of its steps is told the true stride.
    """
    peer = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    cases = list(itertools.product((0.0, 0.5, 1.0), ((True, False), (True, True), (False, False))))
    for eta, (clip, keep_eps) in cases[:: 4 if steps == 1000 else 1]:  # at 1000 each eta with one way of clipping
        options = {"eta": eta, "clip": clip, "keep_eps": keep_eps}
        peer_options = {"eta": eta, "use_clipped_model_output": not keep_eps}
        given = (peer, ddim, betas, steps, spacing, kind, options, {"clip_sample": clip}, peer_options)
        assert parity(*given, exact=True, monkeypatch=monkeypatch) < 2e-5
        if keep_eps and (steps < 1000 or kind == "eps"):  # diffusers' own defaults
            assert parity(*given, exact=False, monkeypatch=monkeypatch) < FLOAT32_TABLE[betas]


# What a caller may rely on


def numbers(model_kind: str = "eps"):
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    return x, some_model(model_kind, LINEAR)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_t_is_the_timestep_just_evaluated_and_the_first_is_start_t(name, spacing):
    """And it is what the model sees, int64 [N]; x0 is the model's own guess there, of the x of the step before."""
    x, inner = numbers()
    seen = []

    def model(x, t):
        seen.append((x, t))
        return inner(x, t)

    for start_t, steps in ((999, 20), (100, 30), (1, 2), (1, 1), (0, 1)):
        seen.clear()
        chain = list(SAMPLERS[name](model, LINEAR, x, start_t=start_t, steps=steps, spacing=spacing, clip=False))
        assert chain[0].t == start_t and [s.t for s in chain] == calls(name, LINEAR, steps, start_t, spacing)
        assert name == "heun" or [s.t for s in chain] == LINEAR.timesteps(steps, start_t, spacing)
        assert torch.equal(seen[0][0], x)
        for step, (x_t, t) in zip(chain, seen, strict=True):
            assert t.dtype == torch.int64 and t.tolist() == [step.t] * 8
            assert torch.allclose(step.x0, predict_x0(LINEAR, x_t, t, inner(x_t, t)), rtol=1e-4, atol=1e-4)
        for step, (x_next, _) in zip(chain, seen[1:], strict=False):
            assert torch.equal(step.x, x_next)
        assert torch.allclose(chain[-1].x, chain[-1].x0)


def test_the_number_of_calls():
    """ddpm takes every timestep, ddim 50 or as many as there are. Both begin at T-1, where x is pure noise."""
    x, model = numbers()
    x = x[:1]
    assert [step.t for step in ddpm(model, LINEAR, x)] == list(range(999, -1, -1))
    assert [step.t for step in ddim(model, LINEAR, x)] == list(range(999, 0, -20))
    assert [step.t for step in ddim(model, LINEAR, x, start_t=9)] == list(range(9, -1, -1))
    assert len(list(ddim(model, Schedule.linear(20), x))) == 20


@pytest.mark.parametrize(
    ("name", "options"),
    [("ddim", {"eta": 1.0}), *((name, {}) for name in SAMPLERS)],
)
def test_an_image_does_not_depend_on_its_batch(name, options):
    """One generator for each sample: image k is the same to the last bit in a batch of 1, of 3 and of 8.

    Fails when noise is drawn for the whole batch at once.
    """
    x, model = numbers()
    options = options | {"steps": 20}
    whole = list(SAMPLERS[name](model, LINEAR, x, generator=sample_generators(7, range(8)), **options))[-1].x
    for rows in ([0], [5], [2, 3, 4]):
        part = list(SAMPLERS[name](model, LINEAR, x[rows], generator=sample_generators(7, rows), **options))[-1].x
        assert torch.equal(part, whole[rows])
    other = list(SAMPLERS[name](model, LINEAR, x, generator=sample_generators(8, range(8)), **options))[-1].x
    assert torch.equal(other, whole) == (name not in ("ddpm", "dpm++sde") and "eta" not in options)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_steps_can_be_kept_and_changed(name, clip, kind):
    """x goes in untouched, and what a caller does to a Step does not reach the chain, even if the model reuses memory.

    Fails when the x that is yielded is the x that goes on, or when x0 is the model's own output.
    """
    x, inner = numbers(kind)
    buffer = torch.empty_like(x)

    def model(x, t):
        return buffer.copy_(inner(x, t))

    def run(spoil):
        chain = []
        options = {"steps": 5, "clip": clip, "prediction": kind, "generator": torch.Generator().manual_seed(8)}
        for step in SAMPLERS[name](model, LINEAR, x, **options):
            chain.append(Step(step.t, step.x.clone(), step.x0.clone()) if spoil else step)
            if spoil:
                step.x.fill_(9)
                step.x0.fill_(9)
        return chain

    before = x.clone()
    kept, spoiled = run(False), run(True)
    assert torch.equal(x, before)
    for ours, theirs in zip(kept, spoiled, strict=True):
        assert torch.equal(ours.x, theirs.x) and torch.equal(ours.x0, theirs.x0)
    pointers = {tensor.data_ptr() for step in kept for tensor in (step.x, step.x0)}
    assert len(pointers) == 2 * len(kept) and not pointers & {x.data_ptr(), buffer.data_ptr()}


@pytest.mark.parametrize("name", SAMPLERS)
def test_clipping_holds_x0_in_range(name):
    x, model = numbers()
    clipped = list(SAMPLERS[name](model, LINEAR, x, steps=5))
    free = list(SAMPLERS[name](model, LINEAR, x, steps=5, clip=False))
    assert max(step.x0.abs().max().item() for step in clipped) == 1 < free[0].x0.abs().max().item()


def test_ddim_without_clipping_has_one_eps():
    """keep_eps only says which eps to use where clipping parted the two."""
    x, model = numbers()
    for clip in (True, False):
        a, b = (list(ddim(model, LINEAR, x, steps=5, clip=clip, keep_eps=keep))[-1].x for keep in (True, False))
        assert torch.allclose(a, b, atol=1e-4) == (not clip)


def test_ddim_with_eta_1_is_ddpm():
    """DDIM, section 4.1: eta = 1 is DDPM with fixed_small, also with skipped steps.

    The marginals are right for any sigma, that is DDIM's theorem: only here an error in eq. 16 shows without a peer.
    With its root left out, x differs by 0.8 to 5.2.
    """
    x, model = numbers()
    wrong = plain("ddim", root_of_sigma=lost)
    for options in ({"steps": 1000}, {"steps": 20}, {"steps": 7, "start_t": 100, "spacing": "quadratic"}):
        a, b, c = (
            list(sampler(model, LINEAR, x, generator=torch.Generator().manual_seed(9), **extra, **options))
            for sampler, extra in ((ddpm, {}), (ddim, {"eta": 1.0}), (wrong, {"eta": 1.0}))
        )
        assert largest_difference(a, [step.x for step in b]) < 1e-4
        assert largest_difference(a, [step.x for step in c]) > 0.1


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_model_says_what_it_predicts(name):
    """prediction=None asks the model, and takes eps if it does not say; what the caller says goes first."""
    x, v_model = numbers("v")

    def speaking(x, t):
        return v_model(x, t)

    speaking.prediction = "v"

    def last(model, **options):
        generator = torch.Generator().manual_seed(1)
        return list(SAMPLERS[name](model, LINEAR, x, steps=5, generator=generator, **options))[-1].x

    assert torch.equal(last(speaking), last(v_model, prediction="v"))
    assert torch.equal(last(v_model), last(speaking, prediction="eps"))
    assert not torch.equal(last(speaking), last(v_model))


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_are_off_inside_and_only_there(name):
    """A plain `with torch.no_grad()` around a yield would leave them off in the caller's loop."""
    x, inner = numbers()
    weight = torch.ones(1, requires_grad=True)
    for step in SAMPLERS[name](lambda x, t: weight * inner(x, t), LINEAR, x, steps=3):
        assert torch.is_grad_enabled() and not step.x.requires_grad and not step.x0.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", SAMPLERS)
def test_dtypes_of_images_are_kept(name):
    """float64 stays float64; a model in bfloat16, as under mixed precision, does not drag x down with it."""
    x, inner = numbers()
    for dtype, out in ((torch.float64, torch.float64), (torch.float32, torch.bfloat16)):
        for step in SAMPLERS[name](lambda x, t, out=out: inner(x, t).to(out), LINEAR, x.to(dtype), steps=3):
            assert step.x.dtype == step.x0.dtype == dtype


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_t": 1000}, "`start_t` 1000 is outside"),
        ({"start_t": -1}, "`start_t` -1 is outside"),
        ({"steps": 202, "start_t": 100}, "202 steps do not fit"),
        ({"steps": 0}, "0 steps do not fit"),
        ({"spacing": "quadratik"}, "Did you mean 'quadratic'"),
        ({"prediction": "V"}, "Did you mean 'v'"),
    ],
)
def test_options_out_of_range_are_one_clear_line(name, options, message):
    x, model = numbers()
    with pytest.raises(UserError, match=message):
        next(SAMPLERS[name](model, LINEAR, x, **options))


def test_the_samplers_own_options_are_checked():
    x, model = numbers()
    with pytest.raises(UserError, match="Did you mean 'fixed_small'"):
        next(ddpm(model, LINEAR, x, variance="fixed_smal"))
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="outside \\[0, 1\\]"):
            next(ddim(model, LINEAR, x, eta=eta))
    for sampler in SAMPLERS.values():
        with pytest.raises(UserError, match="Predict x0, v, velocity or F"):
            next(sampler(model, ZERO_SNR, x, prediction="eps"))
        for clip in (0.0, 1.0, 1.5, 1, -0.5, float("nan")):
            with pytest.raises(UserError, match="is not a quantile. Take one between 0 and 1"):
                next(sampler(model, LINEAR, x, clip=clip))


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_option_of_another_sampler_is_refused(name):
    """Also where its value is what happens anyway: eta 0 adds no noise, but to ddpm that would be a wrong promise."""
    x, model = numbers()
    options = {"eta": 0.0, "variance": "fixed_small", "keep_eps": True}
    for option in options.keys() - set(SAMPLERS[name].plan.options):
        with pytest.raises(UserError, match=f"has no `{option}`"):
            next(SAMPLERS[name](model, LINEAR, x, **{option: options[option]}))


def test_the_floor_of_the_variance_is_that_of_the_published_code():
    """It takes log(max(variance, 1e-20)) (Ho et al. 2020). Fails with a floor that could be seen."""
    for variance, expected in ((0.0, 1e-20), (1e-12, 1e-12), (0.5, 0.5)):
        jump = Jump(beta=variance, alpha=0.5, alpha_bar=0.5, alpha_bar_prev=0.75, var=0.25, var_prev=0.25)
        assert VARIANCES["fixed_small"](jump) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_chain_may_begin_at_its_last_timestep(name):
    """0 is a timestep like any other. Fails when it is taken for no `start_t`."""
    x, model = numbers()
    assert [step.t for step in SAMPLERS[name](model, LINEAR, x, start_t=0)] == calls(name, LINEAR, start_t=0) == [0]


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_model_may_return_the_same_memory_every_time(name, kind):
    """As a compiled network does. Fails where a guess of the step before is kept without a copy."""
    x, _ = numbers()
    memory = torch.empty_like(x)

    def fresh(x, t):
        return 0.3 * x + t.view(-1, 1, 1, 1) / 1000

    def again(x, t):
        return memory.copy_(fresh(x, t))

    options = {"prediction": kind, "clip": False, "steps": 5, "start_t": 400}
    ends = [list(SAMPLERS[name](model, LINEAR, x, generator=torch.Generator().manual_seed(0), **options))[-1].x
            for model in (fresh, again)]  # fmt: skip
    assert torch.equal(*ends)
