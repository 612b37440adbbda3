"""A picture's own noise, strips between two noises, and bits a dimension: on runs, and on the command line."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny, tiny_training
from restorations import Gaussian

import minidiff
from minidiff import cli
from minidiff.ddpm.ode import invert, regenerate, way_of
from minidiff.ddpm.presets import DDPM_PRESETS
from minidiff.diffusion.likelihood import bits_per_dimension, dequantised
from minidiff.diffusion.schedules import Schedule
from minidiff.errors import UserError
from minidiff.images.files import read_image, write_image
from minidiff.rng import sample_generators

NEAR = 37  # dB; the networks of the tests are hardly trained, and have large steps


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sample(*words: object) -> int:
    return cli.run(["sample", *map(str, words), "--device", "cpu"])


def measure(*words: object) -> int:
    return cli.run(["likelihood", *map(str, words), "--device", "cpu"])


def images_of(folder: str) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [read_image(file) for file in sorted(Path(folder).glob("*.png"))]


# --- a picture's own noise --------------------------------------------------------------------------------------------


def test_pictures_come_back_from_their_noise(trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the sheet's file, in batches of another size, and the command says how near. The file says which timesteps.

    Fails when the way down clips, or has the default number of steps.
    """
    assert sample(trained, "--invert", photos, "--num", 3, "--steps", 25, "--out", "s.png", "--batch-size", 2) == 0
    said = capsys.readouterr().out
    assert said.count("comes back") == 4 and "s-noise.npz" in said  # a line for each, and the legend
    with np.load("s-noise.npz") as file:
        assert file["noise"].shape == (3, 3, 16, 16) and len(file["timesteps"]) == 25 and file["timesteps"][0] == 49
    assert sample(trained, "--noise", "s-noise.npz", "--out", "back") == 0
    for number, back in enumerate(images_of("back")):
        assert minidiff.psnr(back, read_image(photos / f"{number:02d}.png")) > NEAR
    assert len(images_of("back")) == 3
    assert sample(trained, "--noise", "s-noise.npz", "--num", 1, "--out", "one.png") == 0


def test_the_noise_alone_is_a_file(trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --out x.npz; from part of the way up there is some picture left in it. Nothing is replaced unasked."""
    words = (trained, "--invert", photos / "00.png", "--start-t", 20, "--steps", 10, "--out", "x.npz")
    assert sample(*words) == 0 and sample(*words) == 1
    assert "x.npz exists" in capsys.readouterr().err
    with np.load("x.npz") as file:
        assert file["timesteps"][0] == 20 and len(file["timesteps"]) == 10
    assert sample(trained, "--noise", "x.npz", "--out", "x.png") == 0
    assert minidiff.psnr(read_image("x.png"), read_image(photos / "00.png")) > NEAR


def test_labels_go_up_and_come_back(photos: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without label dropout draws nothing without labels: it needs them to invert, and the file keeps them."""
    for number in range(4):
        write_image(own_folder / "data" / "ab"[number % 2] / f"{number}.png", read_image(photos / f"{number:02d}.png"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DDPM_PRESETS, "tiny", tiny())
        more = ["--conditional", "--label-dropout", "0", "--steps", "2", "--out", "run", "--device", "cpu"]
        assert cli.run(tiny_training(own_folder / "data", *more)) == 0
    assert sample("run", "--invert", "data/b", "--out", "s.png") == 1
    assert "draws nothing without labels" in capsys.readouterr().err
    assert sample("run", "--invert", "data/b", "--labels", "b", "--out", "s.png") == 0
    with np.load("s-noise.npz") as file:
        assert file["labels"].tolist() == [[0, 1], [0, 1]]
    assert sample("run", "--noise", "s-noise.npz", "--out", "same") == 0
    assert sample("run", "--noise", "s-noise.npz", "--labels", "a", "--out", "other") == 0
    given = images_of("data/b")
    assert all(minidiff.psnr(*pair) > 45 for pair in zip(images_of("same"), given, strict=True))
    assert not np.array_equal(images_of("same"), images_of("other"))
    assert measure("run", "data", "--steps", "5", "--num", "4") == 0
    assert "labels    of each image" in capsys.readouterr().out
    Path("unlabelled").mkdir()
    (Path("unlabelled") / "0.png").write_bytes((photos / "00.png").read_bytes())
    (Path("unlabelled") / "1.png").write_bytes((photos / "01.png").read_bytes())
    assert measure("run", "unlabelled", "--steps", "5") == 1
    assert "needs labels" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, because",
    [
        ("--invert p.png --sampler heun", "--invert needs a chain without new noise"),
        ("--invert p.png --interpolate 3 4", "--interpolate does not go with --invert"),
        ("--invert p.png --seed 3", "--seed does not go with --invert"),
        ("--invert p.png --no-clip", "does not go with --invert"),
        ("--invert p.png --out there", "Give --out a .png or a .npz"),
        ("--invert no.png", "no.png"),
        ("--invert p.png --labels cat", "without labels"),
        ("--noise no.npz", "no such file"),
        ("--noise p.png", "no file of noise"),
        ("--noise empty.npz", "lacks"),
        ("--noise small.npz", "is for images of [3, 8, 8]"),
        ("--noise up.npz", "does not lead down"),
        ("--noise nan.npz", "must be finite"),
        ("--noise small.npz --steps 5", "--steps does not go with --noise"),
        ("--interpolate 3 no.png", "no.png"),
        ("--interpolate 3 4 --num 1", "2 frames or more"),
        ("--interpolate 3 4 --start-t 10", "Leave out --start-t"),
    ],
)
def test_bad_input_gets_one_line(
    words: str, because: str, trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not go together, is not there, or is of another run. Nothing is written."""
    Path("p.png").write_bytes((photos / "00.png").read_bytes())
    good = {"noise": np.zeros((1, 3, 16, 16), np.float32), "timesteps": [40, 20], "guidance_scale": [1.0]}
    for name, change in {
        "small": {"noise": good["noise"][..., :8, :8]}, "up": {"timesteps": [20, 40]},
        "nan": {"noise": good["noise"] + np.float32("nan")},
    }.items():  # fmt: skip
        np.savez(f"{name}.npz", **(good | change))
    np.savez("empty.npz", a=[1])
    before = sorted(Path().iterdir())
    assert sample(trained, *words.split()) in (1, 2)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(said) == 1 and because in said[0] and "Traceback" not in said[0]
    assert sorted(Path().iterdir()) == before


# --- between two ------------------------------------------------------------------------------------------------------


def test_a_strip_goes_from_one_picture_to_the_other(trained: Path, photos: Path) -> None:
    """Its ends are the pictures, and each frame is unlike both its neighbours; the strip names the pictures."""
    ends = (photos / "00.png", photos / "09.png")
    assert sample(trained, "--interpolate", *ends, "--num", 4, "--steps", 25, "--out", "frames") == 0
    frames = images_of("frames")
    assert len(frames) == 4
    assert all(minidiff.psnr(frames[k], read_image(ends[k])) > NEAR for k in (0, -1))
    assert all(minidiff.psnr(a, b) < 30 for a, b in pairwise(frames))
    assert sample(trained, "--interpolate", *ends, "--steps", 5, "--out", "strip.png") == 0
    assert read_image("strip.png").shape[1] == 11 * 66 + 2  # nine frames, and the two pictures


def test_a_strip_between_seeds_begins_and_ends_with_their_images(trained: Path) -> None:
    """As `--seed 3 --num 1` and `--seed 4 --num 1` draw them, to the byte. Fails when only one of them clips."""
    assert sample(trained, "--interpolate", 3, 4, "--num", 3, "--steps", 10, "--out", "frames") == 0
    for seed, number in ((3, 0), (4, 2)):
        assert (
            sample(trained, "--seed", seed, "--num", 1, "--sampler", "ddim", "--steps", 10, "--out", f"{seed}.png") == 0
        )
        assert minidiff.psnr(images_of("frames")[number], read_image(f"{seed}.png")) > 60


def test_a_run_that_only_finishes_pictures_goes_up_as_far_as_it_knows(finisher: Path, photos: Path) -> None:
    run = minidiff.load(finisher, precision="fp32")
    way = way_of(run, 20)
    assert way.timesteps[0] == 39
    with pytest.raises(UserError, match="up to 39"):
        way_of(run, 20, start_t=45)
    x = torch.from_numpy(read_image(photos / "03.png")).permute(2, 0, 1)[None] / 127.5 - 1
    assert (regenerate(run, invert(run, x, way), way) - x).abs().max() < 0.1
    assert sample(finisher, "--interpolate", 3, 4) == 1


# --- bits a dimension -------------------------------------------------------------------------------------------------


def test_bits_of_a_run_are_those_of_its_density(trained: Path, photos: Path) -> None:
    """The run is given the exact guess for normal pixels, whose density has a closed form; signs are exact for it.

    Fails when images and labels of noise are mixed up between batches, and when bytes are read as other numbers.
    """
    run = minidiff.load(trained, precision="fp32")
    run.schedule = Schedule.cosine(1000)
    run.model = Gaussian(run.schedule)
    found = minidiff.likelihood(run, photos, num=10, steps=400, batch_size=4, seed=5, device="cpu")
    data = minidiff.load_data(photos, image_size=16)
    assert len(found.each) == 10 and len(set(found.indices)) == 10
    pixels = torch.from_numpy(np.asarray(data.images)[found.indices]).permute(0, 3, 1, 2)
    x = dequantised(pixels, sample_generators(5, found.indices)).double().flatten(1)
    deviation = math.sqrt(0.4**2 + run.schedule.sigmas[0].item() ** 2)
    log_p = torch.distributions.Normal(0.2, deviation).log_prob(x).sum(1)
    exact = bits_per_dimension(log_p, x.shape[1]).numpy()
    np.testing.assert_allclose(found.each, exact, atol=4e-3)
    assert found.error == pytest.approx(found.each.std(ddof=1) / math.sqrt(10)) and abs(found.change) < 0.02
    again = minidiff.likelihood(run, photos, num=10, steps=400, batch_size=10, seed=5, device="cpu")
    np.testing.assert_allclose(found.each, again.each, atol=1e-4)


def test_the_command_measures(trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line, or JSON with nothing else on standard output. It says that these are the training images."""
    words = (trained, photos, "--num", 3, "--steps", 6, "--probes", 2)
    assert measure(*words) == 0
    said = capsys.readouterr()
    assert "bits a dimension, give or take" in said.out and "was trained on these images" in said.err
    assert measure(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{found['bits_per_dimension']:.3f}" in said.out and len(found["each"]) == 3


@pytest.mark.parametrize(
    "words, because",
    [
        ("{trained} no", "unknown data set 'no'"),
        ("{trained} {photos} --num 1", "1 is not in the range"),
        ("{trained} {photos} --steps 51", "51 steps do not fit in 50"),
        ("{trained} dataset:fashion-mnis", "fashion-mnist"),
        ("{trained} grey.npy", "are grey"),
        ("{finisher} {photos}", "only finishes pictures"),
    ],
)
def test_what_cannot_be_measured_gets_one_line(
    words: str, because: str, trained: Path, finisher: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("grey.npy", np.zeros((4, 16, 16, 1), np.uint8))
    assert measure(trained, photos, "--num", 2) == 0  # the 50 timesteps there are, in place of 100
    line = words.format(trained=trained, finisher=finisher, photos=photos)
    assert measure(*line.split()) in (1, 2)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(said) == 1 and because in said[0]
