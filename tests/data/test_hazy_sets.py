"""Where hazy pictures come from: depth against closed forms, plausible depth, and pairs that are the same again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff import cli
from minidiff.data import depth, hazy_sets, landscapes, shapes
from minidiff.data.config import DENSE, Haze
from minidiff.data.haze import FARTHEST
from minidiff.data.hazy_sets import HAZY_SETS, from_left, hazy_pairs, stereo
from minidiff.data.landscapes import Camera, Solid
from minidiff.errors import UserError
from minidiff.images.convert import to_uint8
from minidiff.images.files import read_image
from minidiff.images.grid import grid

# -- The depth of what is drawn ----------------------------------------------------------------------------------------


def depth_of_sphere(
    rays: np.ndarray, eye: np.ndarray, centre: np.ndarray, axis: np.ndarray, radius: float = 0.5
) -> np.ndarray:
    """How far along the view each ray [...,3] meets a sphere; NaN where it misses."""
    towards = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    middle = towards @ (centre - eye)  # along the ray, to the point nearest to the centre
    with np.errstate(invalid="ignore"):
        half_chord = np.sqrt(radius**2 - ((centre - eye) @ (centre - eye) - middle**2))
    return (middle - half_chord) * (towards @ axis)


def test_pictures_of_shapes_are_drawn_with_their_depth_as_without() -> None:
    """Fails when drawing the depth draws a random number, or changes the order of the sprites."""
    for index in range(5):
        picture, _ = shapes.draw_with_depth(index, 40, seed=3)
        assert np.array_equal(picture, shapes.draw(index, 40, seed=3))


def test_the_depth_of_a_sphere_of_shapes_is_the_closed_form() -> None:
    """Inside the outline, to 1e-4 of a width. Fails for the distance along the ray in place of that along the view."""
    scale = 40.0
    solid = shapes.sprite("sphere", scale, 0.0, 0.5, 0.5)
    back = np.array([0, -np.cos(shapes.ELEVATION), np.sin(shapes.ELEVATION)])
    up = np.array([0, np.sin(shapes.ELEVATION), np.cos(shapes.ELEVATION)])
    height, width = solid.clear.shape[:2]
    fine = (np.arange(4) + 0.5) / 4
    u = (solid.left - 0.5 + (np.arange(width)[:, None] + fine).ravel()) / scale
    v = -(solid.top - 0.5 + (np.arange(height)[:, None] + fine).ravel()) / scale
    rays = u[None, :, None] * np.array([1.0, 0, 0]) + v[:, None, None] * up - shapes.DISTANCE * back
    exact = depth_of_sphere(rays, shapes.DISTANCE * back, np.array([0, 0, 0.5]), -back)
    exact = exact.reshape(height, 4, width, 4).mean(axis=(1, 3)) - shapes.DISTANCE
    inside = solid.clear[..., 0] == 0
    assert inside.sum() > 900
    np.testing.assert_allclose(solid.relief[inside, 0], exact[inside], atol=1e-4)


def test_the_floor_of_shapes_is_a_plane_on_which_the_solids_stand() -> None:
    """Of a plane, 1/depth is linear in the row. A solid's foot is as far away as the floor at its row.

    Fails when the depth of the floor is linear in the row, and when a solid's depth is not moved to its place.
    """
    generator = shapes.stream(0, 0, "train")
    pieces = shapes.lay_out([16], 64, generator)  # a cylinder
    found = shapes.depth_of(pieces, 64)
    floor = 1 / shapes.depth_of([], 64)[:, 0]
    np.testing.assert_allclose(np.diff(floor, 2), 0, atol=1e-6)
    rows = (np.arange(64) + 0.5) / 64
    horizon = rows[0] - floor[0] * (rows[-1] - rows[0]) / (floor[-1] - floor[0])
    assert horizon == pytest.approx(shapes.ROWS[0] - 0.4 * shapes.FAR / (shapes.NEAR - shapes.FAR), abs=1e-4)
    solid, _, (across, along), foot = pieces[0]
    covered = np.zeros((192, 192))
    covered[across, along] = 1 - solid.clear[..., 0]
    row = np.flatnonzero((covered[64:128, 64:128] == 1).any(axis=1))[-1]  # the lowest that it covers
    column = np.flatnonzero(covered[64 + row, 64:128] == 1)[0]
    assert abs(found[row, column] - shapes.floor_depth((row + 0.5) / 64)) < 0.15
    assert abs(found[row, column] - shapes.floor_depth(foot)) < 0.6  # the front edge is nearer than the foot's middle


def test_the_plain_of_a_landscape_ends_at_the_horizon() -> None:
    """Where nothing stands, a row's depth is height focal / (row - horizon); nothing is farther away than the plain.

    Fails when the horizon, the height or the focal length is not the one that is drawn first.
    """
    for seed in range(3):
        first = np.random.default_rng(seed)
        height, focal, horizon = first.uniform(1.0, 2.5), first.uniform(0.8, 1.4), first.uniform(0.15, 0.6)
        _, found = landscapes.draw(48, np.random.default_rng(seed))
        fine = (np.arange(96) + 0.5) / 96 - horizon
        plain = np.where(fine > 0, height * focal / np.maximum(fine, 1e-9), np.inf)
        plain = np.minimum(plain, landscapes.HORIZON).reshape(48, 2).mean(axis=1)
        assert (found <= plain[:, None] + 1e-3).all()
        bare = np.isclose(found, plain[:, None], rtol=1e-4)
        assert bare[plain < 20].mean() > 0.2 and found.max() == landscapes.HORIZON


def test_the_depth_of_a_ball_in_a_landscape_is_the_closed_form() -> None:
    """To 1e-4. Fails when the stretching of a solid is forgotten in the ray, but not in its origin."""
    camera, place = Camera(1.2, 1.0, 0.4), np.array([0.3, 4.0, 0.2])
    ball = Solid("sphere", tuple(place), (1.4, 1.4, 1.4), 0.4, np.ones(3, np.float32), 0)
    middles = (np.arange(64, dtype=np.float32) + 0.5) / 64
    across, up = (middles - 0.5) / camera.focal, (camera.horizon - middles) / camera.focal
    picture, found = np.zeros((64, 64, 3), np.float32), np.full((64, 64), 60.0, np.float32)
    seen = landscapes.window(ball, camera, 64)
    part = (picture[seen], found[seen], across[seen[1]], up[seen[0]])
    landscapes.paint(*part, camera, ball, (0.0, -0.6, 0.8), np.zeros((64, 64), np.float32))
    rays = np.stack([np.broadcast_to(across, (64, 64)), np.ones((64, 64)), np.broadcast_to(up[:, None], (64, 64))], -1)
    eye, centre = np.array([0, 0, camera.height]), place + np.array([0, 0, 0.7])
    exact = depth_of_sphere(rays, eye, centre, np.array([0.0, 1, 0]), 0.7)
    assert np.array_equal(np.isfinite(exact), found < 60) and (found < 60).sum() > 100
    np.testing.assert_allclose(found[found < 60], exact[found < 60], atol=1e-4)


def test_a_landscape_is_the_same_at_every_size() -> None:
    """Fails when a random number is drawn for each pixel."""
    small, near = landscapes.draw(32, np.random.default_rng(7))
    large, far = landscapes.draw(64, np.random.default_rng(7))
    shrunk = far.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(near - shrunk).mean() < 1.0 and np.corrcoef(near.ravel(), shrunk.ravel())[0, 1] > 0.99
    assert np.abs(small - large.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).mean() < 6


def test_the_stereo_picture_has_the_depth_of_its_calibration() -> None:
    """At a known pixel, by hand; the unknown ones lie no nearer than a neighbour. Fails when doffs is left out."""
    skimage_data = pytest.importorskip("skimage.data")
    left, _, disparity = skimage_data.stereo_motorcycle()
    picture, found = stereo()
    known = np.isfinite(disparity)
    metres = found * 5.01685 / FARTHEST
    assert np.array_equal(picture, left) and found.max() == FARTHEST and found[~known].min() > 0
    assert metres[250, 300] == pytest.approx(994.978 * 0.193001 / (disparity[250, 300] + 31.086), rel=1e-5)
    holes = from_left(np.array([[np.inf, 2.0, np.inf, np.inf, 5.0]]))
    assert holes.tolist() == [[0, 2, 2, 2, 5]]


# -- Plausible depth ---------------------------------------------------------------------------------------------------


def halves() -> np.ndarray:
    """A picture with a red left half and a blue right half."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :32, 0], picture[:, 32:, 2] = 255, 255
    return picture


@pytest.mark.parametrize("kind", [*depth.DEPTHS, depth.plausible])
def test_plausible_depth_has_the_shape_and_the_range_it_should(kind) -> None:
    spans = []
    for seed in range(30):
        found = kind(halves(), np.random.default_rng(seed))
        assert found.shape == (48, 64) and found.dtype == np.float32
        assert found.min() >= 0 and found.max() <= 1 + 1e-6
        spans.append(np.ptp(found))
    assert np.mean(spans) > 0.3


def test_cells_end_at_the_outlines_of_colour() -> None:
    """Fails when colour has no weight in a cell's distance: then most cells cross the middle."""
    for seed in range(5):
        cells, _ = depth.cells_of(halves(), np.random.default_rng(seed))
        left, right = set(cells[:, :30].ravel()), set(cells[:, 34:].ravel())
        assert len(left | right) > 5 and len(left & right) <= 1


def test_ground_is_a_plane() -> None:
    """Below the horizon 1/depth is linear. Fails when the depth itself is."""
    found = 1 / depth.ground(halves(), np.random.default_rng(1))[20:]
    below = found > 1.001
    bends = np.diff(found, 2, axis=0)[below[:-2] & below[1:-1]]
    assert bends.size > 100 and np.abs(bends).max() < 1e-3


# -- Pairs -------------------------------------------------------------------------------------------------------------


@pytest.fixture()
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (150, 170, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{number}.png")
    return tmp_path / "mine"


@pytest.mark.parametrize("name", ["haze", "hazy-photos", "hazy-landscapes", "hazy-shapes"])
def test_a_pair_is_a_function_of_its_number_and_the_seed(name: str, photographs: Path) -> None:
    """Fails when a pair depends on those read before it, or on the batch; and when the seed or the split is unused."""
    pairs = hazy_pairs(name, 32, seed=5, data_dir=photographs)
    batch = pairs[[4, 0, 9]]
    again = hazy_pairs(name, 32, seed=5, data_dir=photographs)[9]
    for mine, other in zip(batch, again, strict=True):
        assert torch.equal(mine[2:], other) and not torch.equal(mine[:1], other)
    other = hazy_pairs(name, 32, seed=6, data_dir=photographs)
    assert not torch.equal(other[9].clear, again.clear) and other.fingerprint() != pairs.fingerprint()
    assert [tuple(part.shape) for part in batch] == [(3, 3, 32, 32)] * 2 + [(3, 1, 32, 32), (3, 3), (3, 1, 32, 32)]
    assert batch.hazy.abs().max() <= 1 and batch.depth.min() >= 0 and batch.depth.max() <= FARTHEST
    assert len(pairs) == HAZY_SETS[name].splits["train"]


def test_the_fingerprint_covers_all_that_decides_a_pair(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the rule, the size, the haze or a photograph is no part of it: then a resumed run sees other pairs."""
    first = hazy_pairs("hazy-photos", 32, data_dir=photographs).fingerprint()
    assert hazy_pairs("hazy-photos", 32, data_dir=photographs).fingerprint() == first
    assert hazy_pairs("hazy-photos", 24, data_dir=photographs).fingerprint() != first
    assert hazy_pairs("hazy-photos", 32, data_dir=photographs, haze=DENSE).fingerprint() != first
    with monkeypatch.context() as changed:
        changed.setattr(hazy_sets, "VERSION", 0)
        assert hazy_pairs("hazy-photos", 32, data_dir=photographs).fingerprint() != first
    Image.fromarray(halves().repeat(4, axis=0).repeat(4, axis=1)).save(photographs / "1.png")
    assert hazy_pairs("hazy-photos", 32, data_dir=photographs).fingerprint() != first


def test_crops_are_wide_and_in_changing_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a grey ramp, crops cover from S pixels to all of its height. Of the split train, its light and colours change.

    The ramp rises by one level a pixel, so the range of a crop says how wide it is. Fails for crops of one width.
    """
    monkeypatch.setenv("MINIDIFF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8)[:, None, None] + 60, (120, 128, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "mine" / "ramp.png")
    as_they_are = hazy_pairs("hazy-photos", 30, data_dir=tmp_path / "mine", haze=Haze(damage=0))
    changing = to_uint8(as_they_are[:60].clear).astype(int)
    monkeypatch.setattr(hazy_sets, "recoloured", lambda picture, random: np.ascontiguousarray(picture))
    plain = to_uint8(as_they_are[:60].clear).astype(int)
    wide = np.ptp(plain.reshape(60, -1), axis=1)
    assert 25 < wide.min() < 40 and 100 < wide.max() <= 122
    assert np.ptp(plain, axis=3).max() == 0 and np.ptp(changing, axis=3).max() > 20
    assert changing.mean((1, 2, 3)).std() > 2 * plain.mean((1, 2, 3)).std()


def test_splits_share_no_picture() -> None:
    """Fails when the split is no part of the seed."""
    train, test = (hazy_pairs("hazy-landscapes", 16, split=split)[0] for split in ("train", "test"))
    assert not torch.equal(train.clear, test.clear)


def test_the_mixture_goes_on_without_photographs(tmp_path: Path) -> None:
    """And says so. Fails when the first error ends it, or when nothing is said."""
    pairs = hazy_pairs("haze", 16, data_dir=tmp_path / "nowhere", haze=Haze(damage=0))
    assert len(pairs.notes) == 1 and "without photographs" in pairs.notes[0] and "nowhere" in pairs.notes[0]
    assert pairs[:2].hazy.shape == (2, 3, 16, 16)


def test_sets_and_splits_that_are_not_there_are_named(photographs: Path) -> None:
    with pytest.raises(UserError, match="hazy-photos"):
        hazy_pairs("hazy-photo")
    with pytest.raises(UserError, match="split of hazy-stereo"):
        hazy_pairs("hazy-stereo")
    with pytest.raises(UserError, match="no photograph has 160x160"):
        hazy_pairs("hazy-photos", 160, data_dir=photographs)


def test_preview_shows_a_pair_beside_its_transmission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three pictures of 16 pixels for a pair, and only two where nobody knows the transmission.

    Fails when a picture of a pair is left out, or when the names of data sets alone are known.
    """
    out = tmp_path / "grid.png"
    line = ["data", "preview", "hazy-shapes", "--image-size", "64", "--num", "1", "--out", str(out)]
    assert cli.run(line) == 0 and "1 of the 100,000 pairs of hazy-shapes (train), 64x64" in capsys.readouterr().out
    shown = read_image(out)[18:]  # below the names of the columns
    pair = hazy_pairs("hazy-shapes", 64)[[np.random.default_rng(0).permutation(100_000)[0]]]
    expected = [pair.hazy, pair.clear, (2 * pair.transmission - 1)]
    assert np.array_equal(shown, grid(np.concatenate([to_uint8(part) for part in expected]), columns=3))
    Image.fromarray(shown[:40, :40]).save(tmp_path / "1_hazy.png")
    Image.fromarray(shown[:40, :40]).save(tmp_path / "1_GT.png")
    line = ["data", "preview", "hazy-pairs", "--data-dir", str(tmp_path), "--image-size", "32", "--num", "2"]
    assert cli.run([*line, "--out", str(tmp_path / "own.png")]) == 0
    assert read_image(tmp_path / "own.png").shape[1] == 2 + 2 * (2 * 32 + 2)
    assert cli.run([*line, "--out", str(out), "--corruption", "fog", "--force"]) == 2
    assert "Leave --corruption out" in capsys.readouterr().err
