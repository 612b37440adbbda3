"""FID against truths: closed forms, 60 digits, one pass over all, and the peers' functions on the same features."""

import numpy as np
import pytest
import torch
from clouds import covariance, normal, sample_statistics, symmetric
from scipy import linalg

from minidiff.errors import UserError
from minidiff.metrics.frechet import FeatureStatistics, frechet_distance

# Mean and covariance


def test_statistics_in_pieces_are_those_of_one_pass(small_blocks: None) -> None:
    """Means far from 0, which would cost sums of squares 8 digits. Fails with a weight of the mean left out."""
    x = 1e4 + normal(500, 7, seed=1) @ normal(7, 7, seed=2)
    statistics = FeatureStatistics(7)
    for start, stop in ((0, 1), (1, 3), (3, 200), (200, 200), (200, 500)):
        statistics.update(x[start:stop])
    mean, cov = sample_statistics(x)
    assert statistics.count == 500
    assert torch.allclose(statistics.mean, mean, rtol=1e-14, atol=0)
    assert torch.allclose(statistics.covariance, cov, rtol=0, atol=1e-11 * cov.abs().max().item())


@pytest.mark.parametrize("cuts", [(0, 500), (250,), (1, 2, 3), (100, 450)])
def test_merged_shards_are_one_pass(cuts: tuple[int, ...]) -> None:
    """Also shards of nothing and of one image, and after a journey as parts."""
    x = 100 + normal(500, 6, seed=3)
    whole = FeatureStatistics.of(x)
    merged = FeatureStatistics(6)
    for shard in torch.tensor_split(x, cuts):
        merged.merge(FeatureStatistics.from_parts(*FeatureStatistics.of(shard).parts()))
    assert merged.count == whole.count == 500
    assert torch.allclose(merged.mean, whole.mean, rtol=1e-14, atol=0)
    assert torch.allclose(merged.covariance, whole.covariance, rtol=0, atol=1e-13)


def test_a_shard_can_be_taken_out_again() -> None:
    """Back to the statistics of the others. Fails when the scatter between the means stays in."""
    x, y = 5 + normal(300, 6, seed=3), normal(40, 6, seed=4)
    both = FeatureStatistics.of(torch.cat([x, y]))
    left, alone = both.without(FeatureStatistics.of(y)), FeatureStatistics.of(x)
    assert left.count == 300 and both.count == 340
    assert torch.allclose(left.mean, alone.mean, rtol=1e-13, atol=0)
    assert torch.allclose(left.covariance, alone.covariance, rtol=0, atol=1e-13)


def test_statistics_refuse_what_is_not_finite_and_what_does_not_fit() -> None:
    x = torch.zeros(9, 3)
    x[7, 1] = torch.nan
    with pytest.raises(UserError, match="image 12 "):
        FeatureStatistics.of(torch.zeros(5, 3)).update(x)
    with pytest.raises(UserError, match=r"\[9, 3\].*\[n,4\]"):
        FeatureStatistics(4).update(x)
    with pytest.raises(UserError, match="4 features .* 3"):
        FeatureStatistics(4).merge(FeatureStatistics(3))
    with pytest.raises(UserError, match="at least 2 images"):
        _ = FeatureStatistics.of(torch.zeros(1, 3)).covariance


# Frechet distance


def test_two_covariances_in_the_plane_have_a_closed_form() -> None:
    """For 2x2 matrices, tr (AB)^1/2 = sqrt(tr AB + 2 sqrt(det AB)). These two do not commute."""
    a = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    product = a @ b
    assert not torch.allclose(product, product.T)
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    mean_a, mean_b = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    truth = 1 + 4 + (a.trace() + b.trace() - 2 * root).item()
    assert frechet_distance(mean_a, a, mean_b, b) == pytest.approx(truth, rel=1e-14)


@pytest.mark.parametrize("lowest", [0.1, 1e-6, 1e-11])
def test_covariances_that_do_not_commute_against_60_digits(lowest: float) -> None:
    """Eigenvalues of A B, not symmetric, in 60 digits. Covariances of a condition up to 1e11."""
    mpmath = pytest.importorskip("mpmath")
    a, b = (symmetric(covariance(8, seed, lowest)) for seed in (4, 5))
    with mpmath.workdps(60):
        values = mpmath.eig(mpmath.matrix(a.tolist()) * mpmath.matrix(b.tolist()), left=False, right=False)
        root = float(sum(mpmath.sqrt(mpmath.re(value)) for value in values))
    mean = torch.zeros(8)
    truth = (a.trace() + b.trace()).item() - 2 * root
    assert frechet_distance(mean, a, mean, b) == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("d", [1, 64])
def test_covariances_that_commute_differ_by_their_standard_deviations(d: int) -> None:
    """Same eigenvectors: |mean_a - mean_b|^2 + sum (sd_a - sd_b)^2. For d = 1 that is all there is."""
    q, _ = torch.linalg.qr(normal(d, d, seed=6))
    sd_a, sd_b, shift = normal(d, seed=7).abs(), normal(d, seed=8).abs(), normal(d, seed=9)
    a, b = (symmetric((q * sd.square()) @ q.T) for sd in (sd_a, sd_b))
    truth = (shift.square().sum() + (sd_a - sd_b).square().sum()).item()
    assert frechet_distance(shift, a, torch.zeros(d), b) == pytest.approx(truth, rel=1e-11)


@pytest.mark.filterwarnings("ignore:Matrix is:RuntimeWarning")  # sqrtm, of singular matrices
@pytest.mark.parametrize("counts", [(1000, 800), (50, 1000), (50, 70), (64, 65), (2, 3)])
def test_sample_covariances_as_scipy_and_pytorch_fid_have_them(counts: tuple[int, int]) -> None:
    """d = 64: sound, singular on one side, on both, barely singular."""
    d = 64
    statistics = [sample_statistics(normal(n, d, seed=n) @ covariance(d, 10 + n, 1e-2)) for n in counts]
    (mean_a, a), (mean_b, b) = statistics
    ours = frechet_distance(mean_a, a, mean_b, b)
    root = np.trace(linalg.sqrtm((a @ b).numpy())).real
    assert ours == pytest.approx(
        (mean_a - mean_b).square().sum().item() + np.trace(a) + np.trace(b) - 2 * root, rel=1e-6
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pytorch-fid gives sqrtm an argument that is going away
@pytest.mark.parametrize("counts", [(1000, 800), (50, 1000), (50, 70)])
def test_pytorch_fid_says_the_same(counts: tuple[int, int]) -> None:
    peer = pytest.importorskip("pytorch_fid.fid_score").calculate_frechet_distance
    statistics = [sample_statistics(normal(n, 64, seed=n) @ covariance(64, 10 + n, 1e-2)) for n in counts]
    (mean_a, a), (mean_b, b) = statistics
    truth = peer(mean_a.numpy(), a.numpy(), mean_b.numpy(), b.numpy())
    assert frechet_distance(mean_a, a, mean_b, b) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("counts", [(30, 40), (30, 300)])
def test_singular_covariances_have_the_distance_of_the_samples(counts: tuple[int, int]) -> None:
    """N < d: tr (AB)^1/2 is the sum of singular values of the centred samples' product, with no covariance at all.

    Fails by 1e-8 when zero eigenvalues come back as 1e-16 and have their roots taken.
    """
    x, y = (normal(n, 128, seed=20 + n) @ covariance(128, n, 1e-4) for n in counts)
    u, v = ((z - z.mean(dim=0)) / np.sqrt(len(z) - 1) for z in (x, y))
    means = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    truth = (means + u.square().sum() + v.square().sum() - 2 * torch.linalg.svdvals(u @ v.T).sum()).item()
    assert frechet_distance(*sample_statistics(x), *sample_statistics(y)) == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("n", [1, 2, 50, 64, 65, 2000])
def test_equal_sides_have_no_distance(n: int) -> None:
    """To 1e-12 of the trace, sound or singular; never below 0."""
    x = normal(max(n, 2), 64, seed=n) @ covariance(64, 30, 1e-5)
    x = x if n > 1 else x[:1].repeat(2, 1)  # one image twice: no variance at all
    mean, cov = sample_statistics(x)
    distance = frechet_distance(mean, cov, mean, cov)
    assert 0 <= distance <= 1e-12 * cov.trace().item()


def test_the_distance_does_not_depend_on_the_order() -> None:
    (mean_a, a), (mean_b, b) = (sample_statistics(normal(n, 64, seed=n)) for n in (40, 500))
    there, back = frechet_distance(mean_a, a, mean_b, b), frechet_distance(mean_b, b, mean_a, a)
    assert there == pytest.approx(back, rel=1e-12)


@pytest.mark.parametrize("counts", [(60, 70), (500, 60)])
def test_covariances_that_were_rounded_to_float32(counts: tuple[int, int]) -> None:
    """Eigenvalues of -1e-8 where there were zeros, and as many of +1e-8: rounding, all of them.

    Off by 7e-10 or less; by 6e-6 or more with a Cholesky factor, or with the positive ones kept.
    """
    (mean_a, a), (mean_b, b) = (sample_statistics(normal(n, 128, seed=n) @ covariance(128, n, 1e-2)) for n in counts)
    truth = frechet_distance(mean_a, a, mean_b, b)
    assert torch.linalg.eigvalsh(b.float().double())[0] < -1e-9
    assert frechet_distance(mean_a, a.float(), mean_b, b.float()) == pytest.approx(truth, rel=1e-8)


def test_covariances_that_share_a_few_directions() -> None:
    """40 directions of 80 on one side, 50 on the other, 10 on both; the same eigenvectors, so the distance is known.

    Fails by 2e-9 with eigenvalues of the product alone: 30 of them are 0, and come out as 1e-17.
    """
    q, _ = torch.linalg.qr(normal(80, 80, seed=1))
    sd_a, sd_b = normal(80, seed=2).abs(), normal(80, seed=3).abs()
    sd_a[40:], sd_b[:30] = 0, 0
    a, b = (symmetric((q * sd.square()) @ q.T) for sd in (sd_a, sd_b))
    truth = (sd_a - sd_b).square().sum().item()
    assert frechet_distance(torch.zeros(80), a, torch.zeros(80), b) == pytest.approx(truth, rel=1e-11)


def test_what_is_no_covariance_is_refused() -> None:
    mean, good = torch.zeros(3), torch.eye(3)
    with pytest.raises(UserError, match="3 features .* 4"):
        frechet_distance(mean, good, torch.zeros(4), torch.eye(4))
    with pytest.raises(UserError, match=r"\[3\] and \[3, 4\]"):
        frechet_distance(mean, torch.zeros(3, 4), mean, good)
    with pytest.raises(UserError, match="NaN"):
        frechet_distance(mean, good, mean, good * torch.nan)
    with pytest.raises(UserError, match="not symmetric"):
        frechet_distance(mean, torch.eye(3).roll(1, dims=0), mean, good)
    with pytest.raises(UserError, match="eigenvalues -1 "):
        frechet_distance(mean, torch.tensor([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), mean, good)
