"""From images to a number: the statistics of all images whatever the batches, kept, cached, and doubted where due."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from minidiff.data import shapes
from minidiff.errors import UserError
from minidiff.metrics import compare as measure
from minidiff.metrics import extraction
from minidiff.metrics.doubts import doubts as list_doubts
from minidiff.metrics.features import FeatureNetwork
from minidiff.metrics.sources import ImageSource
from minidiff.metrics.statistics import StoredStatistics, save_statistics
from minidiff.pretrained.sources import open_place


def corners(images: object) -> tuple[Tensor, Tensor]:
    """A network in place of Inception: 12 features, the means of the four quarters of an image; its logits are 4."""
    rows = []
    for image in images:  # type: ignore[attr-defined]
        h, w = image.shape[0] // 2, image.shape[1] // 2
        quarters = [image[:h, :w], image[:h, w:], image[h:, :w], image[h:, w:]]
        rows.append(np.concatenate([quarter.mean(axis=(0, 1)) / 255 for quarter in quarters]))
    features = torch.tensor(np.array(rows).reshape(-1, 12), dtype=torch.float32)
    return features, features[:, :4] * 5


NETWORK = FeatureNetwork("inception", "pytorch-fid", 12, "stand-in", "0" * 64, True, corners)


def saved(folder: Path, count: int, seed: int = 0, low: int = 0, high: int = 256, size: int = 8) -> Path:
    """An array of smooth random pictures, uint8 [count,size,size,3]."""
    draw = np.random.default_rng(seed)
    ends = draw.integers(low, high, (2, count, 1, 1, 3))
    ramp = np.linspace(0, 1, size)[None, :, None, None]
    pictures = (ends[0] * ramp + ends[1] * (1 - ramp)).repeat(size, axis=2).astype(np.uint8)
    path = folder / f"{count}-{seed}-{low}-{high}-{size}.npy"
    np.save(path, pictures)
    return path


@pytest.fixture()
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is drawn in a moment."""
    monkeypatch.setattr(shapes, "COUNTS", {"train": 60, "test": 40})


def sides(a: Path | str, b: Path | str, wanted: tuple[str, ...] = ("fid",)) -> list[extraction.MeasuredSet]:
    return [extraction.measure_set(open_place(str(place)), NETWORK, wanted=wanted) for place in (a, b)]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_statistics_are_those_of_all_images(tmp_path: Path, batch_size: int) -> None:
    path = saved(tmp_path, 50)
    source = open_place(str(path))
    assert isinstance(source, ImageSource)
    done: list[int] = []
    side = extraction.extract(source, NETWORK, batch_size=batch_size, wanted=measure.METRICS, on_images=done.append)
    features, logits = corners(np.load(path))
    assert sum(done) == side.count == 50
    assert (side.features[:] == features.numpy()).all() and (side.logits[:] == logits.numpy()).all()
    some = np.array([49, 0, 7, 7])
    assert (side.features[some] == features.numpy()[some]).all() and side.features[60:].shape == (0, 12)
    torch.testing.assert_close(side.mean, features.double().mean(0))
    torch.testing.assert_close(side.covariance, torch.cov(features.double().T))


def test_precision_is_of_a_and_recall_of_b(tmp_path: Path) -> None:
    """Forty copies of pictures of the reference: each lies among it, and hardly any of it lies among the copies."""
    reference = saved(tmp_path, 300)
    np.save(tmp_path / "few.npy", np.load(reference)[:5].repeat(8, axis=0))
    a, b = sides(tmp_path / "few.npy", reference, ("prec-recall",))
    found = measure.compute_metrics(a, b, NETWORK, ("prec-recall",))
    assert found["precision"] == 1 and found["recall"] < 0.1


def test_every_metric_comes_out(tmp_path: Path) -> None:
    a, b = sides(saved(tmp_path, 300), saved(tmp_path, 300, seed=1), measure.METRICS)
    found = measure.compute_metrics(a, b, replace(NETWORK, dims=2048), measure.METRICS)
    assert list(found) == ["fid", "fid-inf", "kid", "is", "precision", "recall"]
    assert all(isinstance(measure.describe_value(value), str) for value in found.values())


def test_a_set_against_itself_and_against_a_darker_one(tmp_path: Path) -> None:
    same, other = saved(tmp_path, 300), saved(tmp_path, 300, seed=1, high=128)
    assert abs(measure.compute_metrics(*sides(same, same), NETWORK)["fid"]) < 1e-9
    assert measure.compute_metrics(*sides(same, other), NETWORK)["fid"] > 0.5


def test_statistics_stand_for_their_images(tmp_path: Path) -> None:
    """Saved and read again, to the last digit; statistics of another network, mode or weights are refused."""
    a, b = sides(saved(tmp_path, 60), saved(tmp_path, 60, seed=1))
    save_statistics(tmp_path / "b.npz", extraction.statistics_of(b, NETWORK))
    stored = open_place(str(tmp_path / "b.npz"))
    assert isinstance(stored, StoredStatistics)
    again = extraction.measure_set(stored, NETWORK)
    assert measure.compute_metrics(a, again, NETWORK) == measure.compute_metrics(a, b, NETWORK)
    assert again.count == 60
    for change in ({"mode": "clean"}, {"sha256": "1" * 64}, {"name": "classifier"}):
        with pytest.raises(UserError, match="another feature network"):
            extraction.measure_set(stored, replace(NETWORK, **change))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="statistics of 12 features, this network has 13"):
        extraction.measure_set(stored, replace(NETWORK, dims=13))


def test_a_data_set_is_measured_once(few_scenes: None) -> None:
    """The second time its statistics come from the cache; another mode, or metrics of every feature, measure anew."""
    calls: list[int] = []

    def counting(images: object) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return corners(images)

    network = replace(NETWORK, compute=counting, sha256="2" * 64)
    source = open_place("dataset:shapes:test", image_size=16)
    first = extraction.measure_set(source, network)
    assert calls and not any("cache" in change for change in first.changes)
    calls.clear()
    second = extraction.measure_set(source, network)
    assert not calls and "statistics from the cache" in second.changes
    assert (first.mean == second.mean).all() and (first.covariance == second.covariance).all()
    assert second.count == first.count and second.size == first.size
    place = extraction.cache_place(source, network)  # type: ignore[arg-type]
    assert place is not None
    place.write_bytes(b"damaged")
    extraction.measure_set(source, network)
    assert calls
    calls.clear()
    extraction.measure_set(source, network, wanted=("fid", "is"))
    assert calls
    calls.clear()
    extraction.measure_set(source, replace(network, mode="clean"))
    assert calls
    calls.clear()
    extraction.measure_set(replace(source, fingerprint="of other images"), network)  # type: ignore[type-var]
    assert calls


def test_what_was_seen_is_remembered_with_the_statistics(tmp_path: Path) -> None:
    """Noise in the cache, or in a statistics file, is warned of as noise among images is."""
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), np.uint8)
    np.save(tmp_path / "noise.npy", images)
    source = replace(open_place(str(tmp_path / "noise.npy")), fingerprint="noise")  # type: ignore[type-var]
    network = replace(NETWORK, sha256="3" * 64)
    first, second = extraction.measure_set(source, network), extraction.measure_set(source, network)
    assert "statistics from the cache" in second.changes
    save_statistics(tmp_path / "noise.npz", extraction.statistics_of(first, network))
    third = extraction.measure_set(open_place(str(tmp_path / "noise.npz")), network)
    for side in (first, second, third):
        assert "looked at in A are noise" in "\n".join(list_doubts(side, first, network))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "file" / "cache"))
    source = replace(open_place(str(saved(tmp_path, 40))), fingerprint="some")  # type: ignore[type-var]
    assert extraction.measure_set(source, NETWORK).count == 40


# --- what could mislead -------------------------------------------------------------------------------------------


def doubts(a: Path | str, b: Path | str, network: FeatureNetwork = NETWORK) -> str:
    return "\n".join(list_doubts(*sides(a, b), network))


def test_nothing_is_said_against_a_good_comparison(tmp_path: Path) -> None:
    assert doubts(saved(tmp_path, 10_000, size=4), saved(tmp_path, 10_000, seed=1, size=4)) == ""


def test_too_few_images(tmp_path: Path) -> None:
    """Fewer images than features is another fault than a small number of them."""
    few, some = saved(tmp_path, 12), saved(tmp_path, 40)
    text = doubts(few, some)
    assert "A has 12 images for 12 features: the covariance is singular" in text
    assert "B has 40: below about 10,000 images FID (12 features) is biased upwards" in text
    assert "A has 12 images and B has 40." in text
    assert "A has 40 and B has 13: below" in doubts(some, saved(tmp_path, 13))


def test_ranges_that_look_wrong(tmp_path: Path) -> None:
    fine = saved(tmp_path, 40)
    pictures = np.load(fine)
    np.save(tmp_path / "unit.npy", (pictures / 255).astype(np.float32))
    np.save(tmp_path / "signed.npy", (pictures / 127.5 - 1).astype(np.float32))
    np.save(tmp_path / "half.npy", 128 + pictures // 2)
    np.save(tmp_path / "cut.npy", (pictures / 255).astype(np.uint8))
    assert "A holds floats in [0, 1] and B in [-1, 1]" in doubts(tmp_path / "unit.npy", tmp_path / "signed.npy")
    assert "read by its own range" not in doubts(tmp_path / "unit.npy", fine)
    assert "the values of B go from 1" in doubts(fine, tmp_path / "half.npy")
    assert "no value in A is above 1 of 255" in doubts(tmp_path / "cut.npy", fine)


def test_noise_and_blanks_are_noticed(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    np.save(tmp_path / "noise.npy", draw.integers(0, 256, (200, 16, 16, 3), np.uint8))
    np.save(tmp_path / "flat.npy", np.full((200, 16, 16, 3), 77, np.uint8))
    text = doubts(tmp_path / "noise.npy", tmp_path / "flat.npy")
    assert "looked at in A are noise" in text
    assert "looked at in B are one flat colour" in text
    late = np.concatenate([np.load(saved(tmp_path, 100, size=16)), np.load(tmp_path / "noise.npy")[:100]])
    np.save(tmp_path / "late.npy", late)  # noise in the later batches only
    assert "looked at in A are noise" in doubts(tmp_path / "late.npy", tmp_path / "flat.npy")


def test_sizes_and_names(few_scenes: None, tmp_path: Path) -> None:
    fine = saved(tmp_path, 40)
    assert "A is 8x8 and B is 4x4" in doubts(fine, saved(tmp_path, 40, size=4))
    assert "A and B are the same images" in doubts(fine, fine)
    assert "A and B are the same images" in doubts(fine, f"{fine.parent}/./../{fine.parent.name}/{fine.name}")
    assert "A and B are the same images" in doubts("dataset:shapes:test", "dataset:shapes:test")
    assert "the same images" not in doubts("dataset:shapes:train", "dataset:shapes:test")
    assert "not the published weights" in doubts(fine, saved(tmp_path, 41), replace(NETWORK, published=False))


def test_what_a_number_may_be_called() -> None:
    inception = replace(NETWORK, dims=2048)
    assert measure.title("fid", inception) == "FID"
    assert measure.title("fid", replace(inception, published=False)) == "FID (unpublished weights)"
    assert measure.title("kid", replace(inception, dims=64)) == "KID (64 features)"
    classifier = replace(NETWORK, name="classifier", mode="classifier", published=False)
    assert measure.title("fid", classifier) == "FD(classifier)"
    assert measure.title("fid-inf", classifier) == "FD∞(classifier)"
    assert measure.title("precision", classifier) == "precision(classifier)"


@pytest.mark.parametrize(("metric", "statistics"), [("kid", "b"), ("prec-recall", "b"), ("is", "a"), ("fid-inf", "a")])
def test_metrics_that_statistics_cannot_give(metric: str, statistics: str) -> None:
    stored = StoredStatistics("s.npz", np.zeros(12), np.eye(12))
    images = ImageSource("images", 90, "8x8", lambda batch_size: iter(()))
    pair = (stored, images) if statistics == "a" else (images, stored)
    with pytest.raises(UserError, match=f"{metric} needs the images of {statistics.upper()}"):
        measure.check_wanted([metric], pair, NETWORK)


def test_what_cannot_come_out_is_refused_before_the_work() -> None:
    """Too few images, statistics of another width: by what is known before a batch is read."""

    def of(count: int) -> ImageSource:
        return ImageSource(f"{count} images", count, "8x8", lambda batch_size: iter(()))

    deep = replace(NETWORK, dims=2048)
    for metric, count in (("fid", 1), ("kid", 1), ("is", 9), ("prec-recall", 3), ("fid-inf", 19)):
        with pytest.raises(
            UserError, match=rf"A has {count} images?, and {metric} needs at least {measure.NEEDED[metric]}"
        ):
            measure.check_wanted([metric], (of(count), of(500)), deep)
        if metric != "is":  # which asks nothing of B
            with pytest.raises(UserError, match="B has"):
                measure.check_wanted([metric], (of(500), of(count)), deep)
        measure.check_wanted([metric], (of(measure.NEEDED[metric]), of(500)), deep)
    with pytest.raises(UserError, match="statistics of 10 features, this network has 12"):
        measure.check_wanted(["fid"], (of(500), StoredStatistics("s.npz", np.zeros(10), np.eye(10))), NETWORK)
    measure.check_wanted(["fid"], (of(500),), NETWORK)  # one side, for --save-stats


def test_only_what_was_asked_for_is_doubted(tmp_path: Path) -> None:
    """FID of few images is biased; KID of the same is not. FID-infinity has a bound of its own."""
    a, b = sides(saved(tmp_path, 40), saved(tmp_path, 60, seed=1), ("fid-inf",))
    said = {metric: "\n".join(list_doubts(a, b, NETWORK, (metric,))) for metric in measure.METRICS}
    assert "is biased upwards" in said["fid"] and "KID (12 features) is not" in said["fid"]
    assert said["kid"] == said["is"] == said["prec-recall"] == ""
    assert "begins at about 48 images of 12 features, and A has 40: it comes out too low" in said["fid-inf"]
    equal = list_doubts(a, sides(saved(tmp_path, 40, seed=2), saved(tmp_path, 40), ("fid-inf",))[0], NETWORK)
    assert any("KID (12 features) and FID∞ (12 features) are not" in doubt for doubt in equal)
    of_statistics = replace(b, features=extraction.RowFile())
    assert "takes them as exact" in "\n".join(list_doubts(a, of_statistics, NETWORK, ("fid-inf",)))


MEMORY = """
import sys
sys.path[:0] = {tests!r}
import torch
torch.set_num_threads(1)
from dataclasses import replace
from test_measure import NETWORK
from minidiff.metrics import extraction
from minidiff.metrics import compare as measure
from minidiff.pretrained.sources import open_place

def wide(images):
    return torch.from_numpy(images.reshape(-1, 3072)[:, ::6] / 255).float(), None

network = replace(NETWORK, dims=512, compute=wide)
wanted = ("fid", "kid")
a, b = (extraction.measure_set(open_place(sys.argv[1]), network, wanted=wanted, batch_size=500) for _ in range(2))
measure.compute_metrics(a, b, network, wanted)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Of 50,000 images the pixels are 150 MB, and the features, of which there are 512, 100 MB on each side."""
    peaks = []
    for count in (2_000, 50_000):
        path = saved(tmp_path, count, size=32)
        code = MEMORY.format(tests=[str(folder) for folder in Path(__file__).parents[:2]])
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    print(peaks)
    assert peaks[1] < 1.1 * peaks[0], peaks
