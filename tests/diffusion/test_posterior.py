"""Chapter 6 against matrices: measurements, their equation, and the chain that ends at a posterior."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from gaussian_posterior import Chain, Field, matrix_of
from torch import Tensor

from minidiff.diffusion import posterior
from minidiff.diffusion.denoiser import denoiser
from minidiff.diffusion.levels import Level, Levels
from minidiff.diffusion.measurements import (
    Measurement,
    blur,
    first_guess,
    gaussian_kernel,
    identity,
    mask,
    pooling,
    rim,
)
from minidiff.diffusion.posterior import (
    POSTERIOR_PLAN,
    Evidence,
    guess_error,
    measured_doubt,
    posterior_rule,
    sample_posterior,
    white_doubt,
)
from minidiff.diffusion.predictions import PREDICTIONS
from minidiff.diffusion.process import q_sample
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.rng import randn, sample_generators

LINEAR = Schedule.linear()
SIGMAS = 4.5  # a right sampler strays further in 1 of 150,000 numbers; the seeds are fixed
SIZE, DRAWS = 6, 3000


def known(size: int = SIZE) -> Tensor:
    return (torch.rand(size, size, generator=torch.Generator().manual_seed(1)) < 0.6).double()


SKEWED = torch.tensor([[0.0, 0.1, 0.4], [0.1, 0.3, 0.1], [0.0, 0.0, 0.0]])  # so that A and A^T differ
CASES: dict[str, tuple[Measurement, float]] = {
    "identity": (identity(), 0.3),
    "mask": (mask(known()), 0.2),
    "mask, exact": (mask(known()), 0.0),
    "pooling": (pooling(2), 0.1),
    "pooling by 3, exact": (pooling(3), 0.0),
    "blur": (blur(SKEWED, SIZE, SIZE), 0.1),
    "blur, known inside": (blur(SKEWED, SIZE, SIZE, rim(SIZE, SIZE, 1, 1)), 0.1),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The measurements


@pytest.mark.parametrize("case", CASES)
def test_the_transpose_and_the_equation_are_those_of_the_matrix(case: str) -> None:
    """<A x, y> = <x, A^T y>; and r^2 A^T (r^2 A A^T + sigma_y^2 I)^-1 w, in which solve always stands.

    Fails with the kernel unflipped in A^T, with 1 / k for 1 / k^2, with r for r^2.
    """
    measurement, sigma_y = CASES[case]
    A = matrix_of(measurement.forward, SIZE)
    x = normal(2, 3, SIZE, SIZE)
    assert torch.allclose(measurement.forward(x).flatten(2), x.flatten(2) @ A.T, atol=1e-12)
    y = normal(*measurement.forward(x).shape, seed=1)
    assert torch.allclose(measurement.transpose(y).flatten(2), y.flatten(2) @ A, atol=1e-12)
    for r in (0.05, 0.7):
        inverse = torch.linalg.pinv(r**2 * A @ A.T + sigma_y**2 * torch.eye(len(A)), hermitian=True)
        theirs = y.flatten(2) @ inverse @ A
        ours = measurement.transpose(measurement.solve(y, r, sigma_y)).flatten(2)
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


def test_a_blur_is_a_convolution_with_the_kernel_turned_as_it_is() -> None:
    """A point becomes the kernel, around the edges. The inside of a rim takes nothing from the other side."""
    point = torch.zeros(1, 1, 5, 7)
    point[..., 0, 3] = 1
    blurred = blur(SKEWED, 5, 7).forward(point)
    assert torch.allclose(blurred[0, 0, [4, 0, 1], 2:5], SKEWED, atol=1e-6)
    A = blur(gaussian_kernel(0.5), 9, 9, rim(9, 9, 2, 2))
    x = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(2))
    valid = torch.nn.functional.conv2d(x, gaussian_kernel(0.5).float()[None, None])
    assert torch.allclose(A.forward(x)[..., 2:7, 2:7], valid, atol=1e-6) and A.forward(x)[..., :2, :].abs().max() == 0


def test_conjugate_gradients_take_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture with a rim, float32: as many as the rim asks for, since the circular answer leads."""
    measurement = blur(gaussian_kernel(1.6), 96, 80, rim(96, 80, 5, 5))
    y = measurement.forward(torch.rand(1, 3, 96, 80, generator=torch.Generator().manual_seed(3)))
    right = measurement.solve(y, 0.2, 0.02)
    monkeypatch.setattr("minidiff.diffusion.measurements.PATIENCE", 40)
    assert torch.equal(measurement.solve(y, 0.2, 0.02), right)
    again = 0.2**2 * measurement.forward(measurement.transpose(right)) + 0.02**2 * right
    assert (again - y).norm() < 1e-4 * y.norm()


def test_the_first_guess_is_smooth_and_explains_what_was_measured() -> None:
    """Linear slopes come back from half the pixels and from a half; a hole in them is closed as by a soap film."""
    slope = torch.linspace(-0.5, 0.5, 16, dtype=torch.float64).expand(2, 3, 16, 16).contiguous()
    hole = torch.ones(16, 16, dtype=torch.float64)
    hole[4:12, 3:13] = 0
    for measurement in (mask(known(16)), mask(hole), pooling(2)):
        guess = first_guess(measurement, measurement.forward(slope), 0.0)
        assert (guess - slope).abs().max() < 0.067  # a pixel of the slope, at the edge, where it levels out
    noisy = slope + 0.2 * normal(2, 3, 16, 16)
    assert (first_guess(identity(), noisy, 0.2) - slope).std() < 0.12


def test_spread_is_a_share_of_the_deviation() -> None:
    """The same random numbers, half as far from the mean: to the rounding. With 0 nothing is drawn."""
    measurement, sigma_y = CASES["pooling"]
    evidence = Evidence(measurement, normal(2, 3, SIZE // 2, SIZE // 2), sigma_y, white_doubt(0.5))
    guess, (level,) = normal(2, 3, SIZE, SIZE, seed=1), LINEAR.levels([200])
    mean = evidence.mean(guess, level)
    whole, half, none = (
        evidence.draw(guess, level, torch.Generator().manual_seed(2), spread) - mean for spread in (1.0, 0.5, 0.0)
    )
    assert whole.std() > 0.1 and none.abs().max() < 1e-12
    torch.testing.assert_close(half, 0.5 * whole)


# The posterior of independent pixels: exact at every level, in any number of calls


Rule = Callable[..., Iterator[posterior.Step]]


def strange(numbers: Tensor) -> float:
    """Say in sigmas how far the squares of numbers that should be standard normal are from adding up as they should.

    Their sum is chi-squared; its cube root is nearly normal (Wilson & Hilferty 1931).
    """
    few = 2 / (9 * len(numbers))
    return abs(numbers.square().mean().item() ** (1 / 3) - (1 - few)) / math.sqrt(few)


def worst(
    case: str, rule: Rule = posterior_rule, steps: int = 3, zeta: float = 1.0, r: float = 1.0, told: float | None = None
) -> float:
    """Measure how many sigma a chain from pure noise strays from p(x_s | y), at its worst level and statistic.

    Pixels are N(0.3, 0.5^2). Each x is turned to where its covariance is 1: mean 0, variances 1, covariances 0.
    The last x is the mean of p(x0 | x_t, y) at the last level, whose covariance falls short by that of x0 there.
    r: a factor of the right one; told: sigma_y as the chain takes it.
    """
    measurement, sigma_y = CASES[case]
    field = Field(SIZE, 0.3, 0.5)
    x0 = 0.3 + 0.5 * normal(1, 1, SIZE, SIZE, seed=4)
    y = measurement.forward(x0)
    y = y + sigma_y * normal(*y.shape, seed=5)
    if "inside" in case:
        y = measurement.forward(torch.ones_like(x0)).sign() * y
    mean, covariance = field.posterior(measurement, y, sigma_y)
    doubt = white_doubt(0.5)
    evidence = Evidence(measurement, y, sigma_y if told is None else told, lambda level: r * doubt(level))
    levels = POSTERIOR_PLAN.levels(LINEAR, steps)
    network = denoiser(field.network(LINEAR), PREDICTIONS["x0"], clip=False)
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(DRAWS, 1, SIZE, SIZE, generator=generator).double()
    found = 0.0
    one = torch.eye(SIZE**2).double()
    for (level, below), step in zip(levels, rule(network, x, levels, generator, evidence, zeta), strict=True):
        right = below.alpha_bar * covariance + below.var * one
        if below.var == 0:
            A = matrix_of(measurement.forward, SIZE)
            V = doubt(level) ** 2
            right -= V * one - V**2 * A.T @ torch.linalg.pinv(V * A @ A.T + sigma_y**2 * torch.eye(len(A))) @ A
        values, vectors = torch.linalg.eigh(right)
        apart = (step.x.flatten(1) - below.signal * mean) @ vectors
        free = values > 1e-6
        if not free.all():  # what is measured exactly must be exact: every 1e-5 counts as a sigma
            found = max(found, apart[:, ~free].abs().max().item() / 1e-5)
        apart = apart[:, free] / values[free].sqrt()
        spread = math.sqrt(DRAWS) * (apart.T @ apart / DRAWS - one[: len(apart.T), : len(apart.T)])
        found = max(
            found,
            strange(math.sqrt(DRAWS) * apart.mean(0)),
            strange(spread.diagonal() / math.sqrt(2)),
            strange(spread[tuple(torch.triu_indices(*spread.shape, offset=1))]),
        )
    print(f"{case}, zeta {zeta}, {steps} calls: {found:.1f} sigma")
    return found


@pytest.mark.parametrize(
    ("case", "zeta"),
    [*((case, 1.0) for case in CASES), *((case, zeta) for case in ("mask", "pooling", "blur") for zeta in (0.0, 0.4))],
)
def test_the_chain_follows_the_posterior_at_every_level(case: str, zeta: float) -> None:
    """Mean and covariance of x_s given y, within 4.5 sigma of 3000 draws, in three calls from pure noise."""
    assert worst(case, zeta=zeta) < SIGMAS


@pytest.mark.parametrize("steps", [2, 12])
def test_the_number_of_calls_does_not_matter(steps: int) -> None:
    assert worst("mask", steps=steps) < SIGMAS


@pytest.mark.parametrize("case", CASES)
def test_one_call_gives_the_mean_of_x0_given_both(case: str) -> None:
    """E[x0 | x_t, y] of independent pixels, with x_t one more measurement of every pixel. Exact, without any draw."""
    measurement, sigma_y = CASES[case]
    field, (level,) = Field(SIZE, 0.3, 0.5), LINEAR.levels([200])
    x0 = 0.3 + 0.5 * normal(1, 1, SIZE, SIZE, seed=4)
    x_t, y = level.signal * x0 + level.noise * normal(*x0.shape, seed=5), measurement.forward(x0)
    A, one = matrix_of(measurement.forward, SIZE), torch.eye(SIZE**2).double()
    both = torch.cat([level.signal * one, A])
    noise = torch.cat([level.var * one.diagonal(), sigma_y**2 * torch.ones(len(A)).double()]).diag()
    gain = 0.25 * both.T @ torch.linalg.pinv(0.25 * both @ both.T + noise, hermitian=True)
    right = 0.3 + gain @ (torch.cat([x_t.flatten(), y.flatten()]) - both @ torch.full((SIZE**2,), 0.3).double())
    evidence = Evidence(measurement, y, sigma_y, white_doubt(0.5))
    (step,) = sample_posterior(field.network(LINEAR), LINEAR, x_t, evidence, start_t=200, steps=1, clip=False)
    assert torch.equal(step.x, step.x0) and torch.allclose(step.x.flatten(), right, atol=1e-4)


def plain(
    fresh: Callable[[Level, Level], float] = lambda level, below: below.noise,
    drawn: Callable[[Evidence, Tensor, Level, torch.Generator], Tensor] = Evidence.draw,
) -> Rule:
    """Write the rule with zeta = 1 once more, with one mistake."""

    def rule(
        denoise: Callable[..., tuple[Tensor, Tensor]], x: Tensor, levels: Levels, noise: torch.Generator,
        evidence: Evidence, zeta: float,
    ) -> Iterator[posterior.Step]:  # fmt: skip
        for level, below in levels:
            guess, _ = denoise(x, level)
            x0 = drawn(evidence, guess, level, noise) if below.var else evidence.mean(guess, level)
            x = below.signal * x0 + (fresh(level, below) if below.var else 0) * randn(x.shape, noise, like=x)
            yield posterior.Step(level.t, x, x0)

    return rule


def test_the_check_sees_mistakes() -> None:
    """Measured: r halved 70 to 460 sigma, doubled 170 to 250, a wrong sigma_y 75 and more, the noise of the level above
    1000, the mean for a draw 130, y not drawn anew 100."""
    assert worst("mask", plain()) < SIGMAS
    wrong = {
        **{f"r times {factor}, {case}": worst(case, r=factor) for factor in (0.5, 2.0)
           for case in ("identity", "mask", "mask, exact", "pooling", "blur")},
        **{f"sigma_y, {case}": worst(case, told=told) for case, told in
           (("identity", 0.0), ("mask", 0.0), ("pooling", 0.0), ("mask, exact", 0.1), ("blur", 0.05))},
        "the noise of the level above": worst("mask", plain(fresh=lambda level, below: level.noise)),
        "the mean for a draw": worst("mask", plain(drawn=lambda evidence, guess, level, noise: evidence.mean(
            guess, level))),
        "y as it is": worst("identity", plain(drawn=lambda evidence, guess, level, noise: evidence.mean(
            guess + evidence.doubt(level) * randn(guess.shape, noise, like=guess), level))),
    }  # fmt: skip
    print(wrong)
    assert min(wrong.values()) > 2 * SIGMAS


# A field with correlated pixels, as photographs are: r is then too large for some frequencies, too small for others


TASKS = {
    "mask": (mask(known(8)), 0.01),
    "pooling": (pooling(2), 0.01),
    "blur": (blur(gaussian_kernel(1.0), 8, 8), 0.02),
}


def chain_of(task: str) -> Chain:
    return Chain(Field(8, 0.0, 0.5, falls=2.0), *TASKS[task])


@pytest.mark.parametrize(("task", "zeta"), [("mask", 1.0), ("pooling", 0.3), ("blur", 1.0)])
def test_the_sampler_does_what_the_matrices_of_the_chain_say(task: str, zeta: float) -> None:
    """So what they say of rules, calls and starts (docs/restoration.md) holds for the sampler. 5 calls from a guess."""
    chain, draws, (measurement, sigma_y) = chain_of(task), 4000, TASKS[task]
    levels = POSTERIOR_PLAN.levels(LINEAR, 5, 249)
    start = torch.zeros_like(chain.gain)
    B, V = chain.run(levels, zeta, start=start)
    y = measurement.forward(0.5 * normal(1, 1, 8, 8, seed=1))
    measured = y.flatten()[matrix_of(measurement.forward, 8).abs().sum(1) > 0]
    generator = torch.Generator().manual_seed(2)
    x = levels[0][0].noise * torch.randn(draws, 1, 8, 8, generator=generator).double()
    evidence = Evidence(measurement, y, sigma_y, chain.field.doubt)
    options = {"steps": 5, "start_t": 249, "clip": False, "zeta": zeta, "generator": generator}
    for step in sample_posterior(chain.field.network(LINEAR), LINEAR, x, evidence, **options):
        x = step.x
    values, vectors = torch.linalg.eigh(V)
    apart = ((x.flatten(1) - B @ measured) @ vectors / values.clamp(min=1e-12).sqrt())[:, values > 1e-8]
    assert apart.mean(0).abs().max() * math.sqrt(draws) < SIGMAS
    assert (apart.square().mean(0) - 1).abs().max() * math.sqrt(draws / 2) < SIGMAS


@pytest.mark.parametrize("task", TASKS)
def test_more_calls_come_nearer_to_the_posterior_of_correlated_pixels(task: str) -> None:
    """From pure noise. Without the draw (the mean instead) the variance is half missing, with any number of calls."""
    chain = chain_of(task)
    few, many = (chain.judge(*chain.run(POSTERIOR_PLAN.levels(LINEAR, steps))) for steps in (10, 80))
    mean = chain.judge(*chain.run(POSTERIOR_PLAN.levels(LINEAR, 80), draw=False))
    print(task, few, many, mean)
    assert many[0] < 0.4 * few[0] and many[0] < 0.05 and many[1] < 0.01 and abs(many[2] - 1) < 0.1
    assert mean[2] < 0.6


# Denoising is a chain that starts at the picture itself


def test_a_noisy_picture_needs_no_measurement() -> None:
    """y scaled to the level of its noise is an x_t. From there ddpm draws from p(x0 | y), whatever the prior.

    Here N(0, 0.5^2): the chain's own recursion says what is left of the variance at steps of finite size, 2% less.
    Fails with ddim and eta = 0, whose draws are all the same.
    """
    field, (level,), draws = Field(1, 0.0, 0.5), LINEAR.levels([200]), 2**14
    y, sigma_y = 0.4, level.sigma
    x = torch.full((draws, 1, 1, 1), level.signal * y).double()
    generator = torch.Generator().manual_seed(1)
    options = {"start_t": 200, "clip": False, "generator": generator}
    *_, last = SAMPLERS["ddpm"](field.network(LINEAR), LINEAR, x, **options)
    share = 0.25 / (0.25 + sigma_y**2)
    deviation = math.sqrt(share) * sigma_y
    assert abs(last.x.mean().item() - share * y) < SIGMAS * deviation / math.sqrt(draws)
    assert abs(last.x.var().item() / deviation**2 - 1) < 0.02 + SIGMAS * math.sqrt(2 / draws)


# What a caller may rely on


def test_r_is_what_it_says() -> None:
    """white_doubt near 0 and at infinity; measured_doubt through its points; guess_error of an exact guess."""
    low, middle, high = LINEAR.levels([0, 250, 999])
    doubt = white_doubt(0.5)
    assert doubt(LINEAR.zero_terminal_snr().levels([999])[0]) == 0.5
    assert doubt(low) == pytest.approx(low.sigma, rel=1e-3) and doubt(high) == pytest.approx(0.5, rel=1e-4)
    points = LINEAR.levels([10, 100, 400])
    measured = measured_doubt([level.sigma for level in points], [0.05, 0.2, 0.3])
    assert [measured(level) for level in points] == pytest.approx([0.05, 0.2, 0.3])
    assert measured(low) == pytest.approx(0.05 * low.sigma / points[0].sigma) and measured(high) == 0.3
    assert 0.2 < measured(middle) < 0.3
    field = Field(16, 0.1, 0.5, falls=2.0)
    x0 = 0.1 + field.filtered(normal(400, 1, 16, 16), field.power.sqrt())
    network = denoiser(field.network(LINEAR), PREDICTIONS["x0"], clip=False)
    assert guess_error(network, x0, middle, torch.Generator().manual_seed(3)) == pytest.approx(
        field.doubt(middle), rel=0.01
    )


def test_steps_are_the_callers_and_images_do_not_depend_on_their_batch() -> None:
    """Fails when a draw is made for the whole batch at once, or when the x that is yielded is the x that goes on."""
    field, measurement = Field(8, 0.0, 0.4, falls=2.0), mask(known(8).float())
    x0, x = normal(4, 1, 8, 8).float(), normal(4, 1, 8, 8, seed=1).float()
    before = x.clone()

    def run(rows: list[int], spoil: bool = False) -> Tensor:
        evidence = Evidence(measurement, measurement.forward(x0[rows]), 0.1, white_doubt(0.4))
        options = {"steps": 4, "zeta": 0.5, "generator": sample_generators(5, rows)}
        timesteps = []
        for step in sample_posterior(field.network(LINEAR), LINEAR, x[rows], evidence, **options):
            timesteps.append(step.t)
            last = step.x.clone()
            if spoil:
                step.x.fill_(9)
        assert timesteps == POSTERIOR_PLAN.calls(LINEAR, 4) and timesteps[0] == 999
        return last

    whole = run([0, 1, 2, 3])
    assert torch.allclose(run([2]), whole[2:3], atol=1e-6) and torch.equal(run([0, 1, 2, 3], spoil=True), whole)
    assert torch.equal(x, before) and whole.dtype == torch.float32


def test_a_start_in_the_middle_is_that_of_q_sample() -> None:
    """y exact everywhere: the answer is y, from any start."""
    y, field = 0.3 * normal(2, 3, 8, 8).float(), Field(8, 0.0, 0.4)
    x = q_sample(LINEAR, torch.zeros_like(y), torch.tensor([200]), torch.randn(y.shape))
    evidence = Evidence(identity(), y, 0.0, white_doubt(0.4))
    *_, last = sample_posterior(field.network(LINEAR), LINEAR, x, evidence, start_t=200, steps=3)
    assert torch.allclose(last.x, y, atol=1e-6)


def test_what_cannot_be_done_is_said() -> None:
    image = torch.zeros(1, 1, 6, 6)
    with pytest.raises(UserError, match="odd"):
        blur(torch.ones(2, 3), 6, 6)
    with pytest.raises(UserError, match="larger"):
        blur(torch.ones(7, 3), 6, 6)
    with pytest.raises(UserError, match="above 0"):
        blur(SKEWED, 6, 6).solve(image, 0.1, 0.0)
    with pytest.raises(UserError, match="divide"):
        pooling(4).forward(image)
    with pytest.raises(UserError, match="deviation"):
        Evidence(identity(), image, math.inf, white_doubt(0.5))
    evidence = Evidence(identity(), image, 0.1, white_doubt(0.5))
    with pytest.raises(UserError, match="spread"):
        list(sample_posterior(lambda x, t: x, LINEAR, image, evidence, steps=1, spread=-0.1))
    with pytest.raises(UserError, match="zeta"):
        list(sample_posterior(lambda x, t: x, LINEAR, image, evidence, steps=1, zeta=1.5))
