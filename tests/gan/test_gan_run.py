"""gan_run.py: a GAN's run draws like any other, and says no to what only a reverse chain can do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import finish, minidiff

from minidiff import cli, load
from minidiff.ddpm.run import Run, load_ddpm
from minidiff.errors import UserError
from minidiff.files import write_json
from minidiff.gan.config import GAMES
from minidiff.gan.losses import GANS
from minidiff.gan.run import GanRun
from minidiff.images.convert import to_uint8
from minidiff.metrics.sources import ImageSource
from minidiff.networks.gan import Generator
from minidiff.pretrained.load import KINDS
from minidiff.pretrained.sources import open_place
from minidiff.records import to_json
from minidiff.reports import describe as report
from minidiff.rng import sample_generators
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import append_metrics
from minidiff.training.config import TrainConfig


def write_run(folder: Path, kind: str = "dcgan", image_size: int = 16, channels: int = 3) -> Path:
    """The run folder of a GAN that has seen a little: weights, and the running statistics of its batches."""
    torch.manual_seed(0)
    model = Generator(latent_dim=8, width=4, image_size=image_size, channels=channels)
    for parameter in model.parameters():
        parameter.data *= 6  # so that images differ, as after a training
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(32, 8))
    gan = {name: value for name, value in to_json(GAMES[kind]).items() if value is not None}
    data = {"name": "folder", "data_dir": None, "image_size": image_size, "channels": channels, "images": 24}
    config = {
        "minidiff": "0.1.0", "kind": kind, "preset": "cpu", "data": data | {"on_bad": "skip"},
        "network": model.config, "gan": gan | {"critic_steps": 5},
        "training": to_json(TrainConfig(steps=20, batch_size=8, ema_decay=0.99)),
        "save_every": None, "sample_every": None,
    }  # fmt: skip
    checkpoint.create_run(folder, "", config)
    checkpoint.save_model(folder, model.state_dict())
    raw = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    checkpoint.save_state(folder, {"step": 20, "model": raw})
    append_metrics(folder, {"step": 20, "loss": 1.25, "critic_loss": 0.5})
    append_metrics(folder, {"step": 20, "diversity": 0.875})
    return folder


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("gan") / "run")


def opened(folder: Path, **options: Any) -> GanRun:
    run = load(folder, **options)
    assert isinstance(run, GanRun)
    return run


# --- drawing ------------------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_in_any_batch(gan: Path) -> None:
    """By its seed and its number, alone or among others, in any order. Fails in train mode, where batch normalisation
    goes by the batch, and when a batch shares one generator."""
    run = opened(gan)
    whole = torch.cat(list(run.sample(9, seed=3)))
    assert whole.shape == (9, *run.shape) == (9, 3, 16, 16) and whole.dtype == torch.float32
    assert whole.abs().max() <= 1 and whole.std(dim=0).mean() > 0.1
    parts = list(run.sample(9, seed=3, batch_size=4))
    assert [len(part) for part in parts] == [4, 4, 1]
    for other in (torch.cat(parts), run.draw(range(9), seed=3, batch_size=2)):
        torch.testing.assert_close(other, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(run.draw([7, 2], seed=3), whole[[7, 2]], rtol=0, atol=1e-5)
    assert (run.draw(range(9), seed=4) - whole).abs().max() > 0.1
    assert run.draw([]).shape == (0, 3, 16, 16)


def test_the_noise_is_standard_normal_and_each_samples_own(gan: Path) -> None:
    z = opened(gan).latents(range(500), seed=1)
    assert z.shape == (500, 8)
    assert abs(z.mean()) < 0.06 and abs(z.std() - 1) < 0.05  # 4 standard errors of 4,000 numbers
    (generator,) = sample_generators(1, [17])
    assert torch.equal(z[17], torch.randn(8, generator=generator))


def test_the_images_are_those_of_the_saved_generator(gan: Path) -> None:
    """Read by hand from model.safetensors; with --weights raw from state.pt."""
    for weights, tensors in (
        ("ema", checkpoint.read_tensors(gan / "model.safetensors")),
        ("raw", (checkpoint.read_state(gan) or {})["model"]),
    ):
        run = opened(gan, weights=weights)
        model = Generator(**run.model.config)
        model.load_state_dict(tensors)
        with torch.no_grad():
            want = model.eval()(run.latents(range(3)))
        torch.testing.assert_close(run.draw(range(3)), want, rtol=0, atol=1e-5)
    assert (opened(gan).draw([0]) - opened(gan, weights="raw").draw([0])).abs().max() > 0.01


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (64, 1)])
def test_it_draws_at_every_size(tmp_path: Path, size: int, channels: int) -> None:
    run = opened(write_run(tmp_path / "run", "wgan", size, channels))
    assert run.shape == (channels, size, size) and run.draw([0, 1]).shape == (2, channels, size, size)
    assert run.label_names == []


def test_it_tells_of_every_call_and_is_float32_in_any_precision(gan: Path) -> None:
    seen: list[torch.Tensor] = []
    run = opened(gan, precision="bf16")
    images = run.draw(range(5), batch_size=2, on_step=seen.append)
    assert [len(part) for part in seen] == [2, 2, 1] and torch.equal(torch.cat(seen), images)
    assert images.dtype == seen[0].dtype == torch.float32 and not images.requires_grad
    exact = opened(gan, precision="fp32").draw(range(5))
    assert 0 < (images - exact).abs().max() < 0.1


@pytest.mark.slow
def test_two_processes_draw_what_one_does(gan: Path, tmp_path: Path) -> None:
    """Five images in batches of 2: the second process gets fewer, and nothing of it is lost or twice."""
    output = finish(minidiff(2, f"sample {gan} --device cpu -n 5 --batch-size 2 --seed 1 --out two.npz", tmp_path))
    assert output.count("written ") == output.count("sampling ") == 1
    one, two = to_uint8(opened(gan).draw(range(5), seed=1)), np.load(tmp_path / "two.npz")["images"].astype(int)
    assert one.shape == two.shape == (5, 16, 16, 3)
    assert np.abs(one - two).max() <= 1 and np.abs(two[0] - two[1]).max() > 10


# --- opening ------------------------------------------------------------------------------------------------------


def test_load_opens_both_kinds_and_no_others(gan: Path, trained: Path, clf: Path) -> None:
    assert isinstance(load(trained), Run) and isinstance(load(gan), GanRun)
    with pytest.raises(
        UserError, match="is a classifier run; this command needs a ddpm, dcgan, wgan, wgan-gp or dip-prior"
    ):
        load(clf)
    with pytest.raises(UserError, match=f"{gan} is a dcgan run; this command needs a ddpm run"):
        load_ddpm(gan)
    with pytest.raises(UserError, match="unknown weights 'best'. Known: ema, raw."):
        load(gan, weights="best")


def test_what_is_missing_or_does_not_fit_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    for damage, expected in (
        ({"network": config["network"] | {"size": 3}}, 'config.json: "network.size" is not a key'),
        ({"network": {"width": 4}}, '"network.[a-z_]*" is missing'),
        ({"network": None}, '"network" is None, and should be an object'),
        ({"network": config["network"] | {"image_size": 0}}, 'config.json: in "network", "image_size" is 0'),
        ({"gan": config["gan"] | {"optimizer": "sgd"}}, '"gan.optimizer" is .sgd., and should be .adam. or .rmsprop.'),
        ({"training": {}}, '"training.[a-z_]*" is missing'),
        ({"network": config["network"] | {"image_size": 30}}, "network.image_size. is 30"),
        ({"network": config["network"] | {"width": 8}}, "does not fit this network.*Nothing was loaded"),
    ):
        write_json(folder / "config.json", config | damage)
        with pytest.raises(UserError, match=expected):
            load(folder)
    write_json(folder / "config.json", config)
    (folder / "state.pt").unlink()
    with pytest.raises(UserError, match="only it holds the raw weights. Use ema"):
        load(folder, weights="raw")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="resume the training to write one"):
        load(folder)


# --- the commands -------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> str:
    """What a command prints; of one that fails, its one line."""
    capsys.readouterr()
    assert cli.run([str(arg) for arg in args]) == code
    out, err = capsys.readouterr()
    if code:
        (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
        return line
    return out


def test_sample_needs_no_flags(gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    first = said(capsys, "sample", gan)
    assert "16 images, each in one call of the dcgan generator, seed 0" in first and "sample.png" in first
    assert "sample-2.png" in said(capsys, "sample", gan)  # what is there is kept
    assert (tmp_path / "sample.png").read_bytes() == (tmp_path / "sample-2.png").read_bytes()
    said(capsys, "sample", gan, "-n", 5, "--seed", 2, "--batch-size", 3, "--out", "five.npz")
    images = np.load("five.npz")["images"]
    want = to_uint8(opened(gan).draw(range(5), seed=2))
    assert images.dtype == np.uint8 and np.abs(images.astype(int) - want).max() <= 1
    assert "five.npz exists" in said(capsys, "sample", gan, "--out", "five.npz", code=1)


def test_the_newest_run_is_the_newest_that_can_do_what_is_asked(trained: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Of any kind; with an option of the reverse chain, the newest DDPM."""
    monkeypatch.chdir(tmp_path)
    none = said(capsys, "sample", code=1)
    assert none == ("Error: no ddpm, dcgan, wgan or wgan-gp run with weights under runs/. "
                    "Train one with `minidiff train ddpm`, or name a run folder.")  # fmt: skip
    Path("runs").mkdir()
    Path("runs/chain").symlink_to(trained)
    assert "runs/chain (the newest)" in said(capsys, "sample", "--steps", 2, "-n", 1)
    write_run(Path("runs/noise"), "wgan-gp")
    (tmp_path / "runs/noise/model.safetensors").touch()
    assert "runs/noise (the newest)" in said(capsys, "sample", "-n", 1)
    assert "runs/chain (the newest)" in said(capsys, "sample", "-n", 1, "--steps", 2)


@pytest.mark.parametrize(
    "given",
    ["--steps 5", "--sampler ddim", "--eta 0", "--variance fixed_small", "--spacing linspace", "--start-t 3",
     "--init p.png --start-t 3", "--labels cube", "--guidance 2", "--no-clip", "--threshold 0.9", "--progressive 4",
     "--compare ddim:5"],
)  # fmt: skip
def test_what_only_a_reverse_chain_can_do_is_refused(gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], given: str) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    line = said(capsys, "sample", gan, *given.split(), code=1)
    assert line.startswith(f"Error: {gan} is a dcgan run, which draws an image in one call of its network: --")
    assert line.endswith("for ddpm runs. Leave it out.") and any(word in line for word in given.split()[::2])
    assert list(tmp_path.iterdir()) == []


def test_other_commands_say_that_they_need_a_ddpm(gan: Path, trained: Path, clf: Path, photos: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    photo = next(photos.glob("*.png"))
    for command in (
        ["evaluate", gan, "--classifier", clf],
        ["restore", photo, "--model", gan],
        ["export", gan, "theirs"],
    ):
        line = said(capsys, *command, code=1)
        assert line.startswith(f"Error: {gan} is a dcgan run; this command needs a ddpm run."), line
    line = said(capsys, "sample", trained, "--init", gan, "--start-t", 3, code=1)
    assert line == f"Error: {gan} is a dcgan run, and no image to start from. Give an image, a folder, or a dip run."


def test_fid_draws_from_it(gan: Path, clf: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """The same number as that of its samples in a file; a seed of its own; no sampler."""
    monkeypatch.chdir(tmp_path)
    features = ["--features", clf, "--device", "cpu", "--json"]
    said(capsys, "sample", gan, "-n", 40, "--seed", 5, "--out", "40.npz", "--device", "cpu")

    def distance(*sides: object) -> float:
        return json.loads(said(capsys, "fid", *sides, *features))["metrics"]["fid"]["value"]

    stored = distance("40.npz", photos)
    assert distance(gan, photos, "-n", 40, "--seed", 5) == pytest.approx(stored, rel=1e-3)
    assert distance(gan, photos, "-n", 40) != pytest.approx(stored, rel=1e-3)
    for option in (["--sampler", "ddim"], ["--steps", "5"]):
        assert f"{option[0]} is for ddpm runs" in said(capsys, "fid", gan, photos, *option, *features, code=1)


def test_the_samples_to_measure_are_those_of_the_command(tmp_path: Path) -> None:
    run = opened(write_run(tmp_path / "run", "wgan", 28, 1))
    source = open_place(str(tmp_path / "run"), num=5, seed=2)
    assert isinstance(source, ImageSource) and source.sampled and (source.count, source.size) == (5, "28x28")
    assert source.changes == ["sampled from the wgan generator, seed 2", "grey repeated to RGB"]
    images = np.concatenate([np.asarray(batch) for batch in source.batches(2)])
    assert np.abs(images.astype(int) - to_uint8(run.draw(range(5), seed=2))).max() <= 1
    again, other = (open_place(str(tmp_path / "run"), num=5, seed=seed) for seed in (2, 3))
    assert isinstance(again, ImageSource) and isinstance(other, ImageSource) and again.same == source.same != other.same


def test_info_tells_what_it_is(gan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    out = said(capsys, "info", gan)
    count = sum(parameter.numel() for parameter in opened(gan).model.state_dict().values())
    for expected in (
        "data        folder: 24 images, 16x16, 3 channels\n",
        "network     generator of width 4, from 8 numbers of noise\n",
        f"parameters  {count:,} in ",
        "critic      5 steps to each of the generator's, by adam\n",
        "progress    step 20 of 20 (done), last generator loss 1.2500\n",
        "measured    diversity 0.875 at step 20\n",
    ):
        assert expected in out, out
    monkeypatch.chdir(tmp_path)
    folder = write_run(Path("runs/a"), "wgan-gp")
    config = json.loads((folder / "config.json").read_text())
    config["data"] |= {"corruption": "motion_blur", "severity": 4}
    write_json(folder / "config.json", config)
    assert "16x16, under motion_blur-4, 3 channels" in (out := said(capsys, "info", folder))
    assert "by adam, gradient penalty 10\n" in out
    (line,) = said(capsys, "info").splitlines()
    assert line.startswith(
        "runs/a  wgan-gp on folder 16x16 under motion_blur-4, step 20 of 20 (done), last generator loss 1.25"
    )
    assert line.endswith("diversity 0.875 at step 20")
    assert "weights clipped to 0.01" in said(capsys, "info", write_run(Path("runs/b"), "wgan"))


def test_every_gan_is_known_everywhere() -> None:
    assert ("ddpm", *GANS) == KINDS
    assert GANS.keys() <= report.KINDS.keys()
