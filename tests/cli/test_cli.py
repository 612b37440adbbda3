"""The commands as a user types them: what they write, what they say, and how they fail."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_training as train
from fits import fit_config
from PIL import Image

from minidiff import cli, load
from minidiff.diffusion.samplers import SAMPLERS
from minidiff.files import locked
from minidiff.images.convert import to_uint8
from minidiff.images.files import read_image, write_image
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minidiff.ddpm.previews.IMAGES", 4)  # previews take most of the time
    monkeypatch.setattr("minidiff.data.shapes.COUNTS", {"train": 40, "test": 20, "new_test": 20})
    return tmp_path


# --- train --------------------------------------------------------------------------------------------------------


def test_train_writes_a_run_that_explains_itself(
    tiny_preset: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(train(photos, "--sample-every", "3")) == 0
    said = capsys.readouterr().out
    assert "runs/ddpm-folder-1" in said and "next      minidiff sample runs/ddpm-folder-1" in said
    run = Path("runs/ddpm-folder-1")
    assert sorted({*os.listdir(run)} - {"tensorboard"}) == [
        ".lock", "config.json", "curves.png", "metrics.jsonl", "model.safetensors", "samples", "state.pt"
    ]  # fmt: skip
    assert sorted(os.listdir(run / "samples")) == ["0000003.png", "0000006.png"]
    assert [record["step"] for record in read_metrics(run)] == [1, 2, 3, 4, 5, 6]
    config = json.loads((run / "config.json").read_text())
    assert config["kind"] == "ddpm" and config["data"]["images"] == 24 and config["diffusion"]["timesteps"] == 50
    with Image.open(run / "curves.png") as curves:
        assert curves.size[0] > 500
    assert cli.run(["info", str(run)]) == 0
    said = capsys.readouterr().out
    assert "step 6 of 6 (done)" in said and "24 images" in said
    count = sum(p.numel() for p in load(run).model.parameters())
    assert f"{count:,} in" in said


def test_options_override_the_preset(tiny_preset: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--steps 9 --batch-size 8 --lr 0.01 --schedule cosine --timesteps 70 --prediction v --seed 4 --dry-run"
    assert cli.run(train(photos, *options.split())) == 0
    said = capsys.readouterr().out
    assert not Path("runs").exists()
    for part in ("9 steps of 8 images", "lr 0.01", "cosine schedule, T = 70, predicts v", "seed 4"):
        assert part in said


def test_a_finished_run_gets_the_pictures_it_lacks(
    tiny_preset: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between the last save and the last grid; a second --resume has nothing to do, changes nothing, and says
    the same. A --dry-run leaves the config as it is."""
    assert cli.run(train(photos, "--out", "run")) == 0
    weights, config = Path("run/model.safetensors").read_bytes(), Path("run/config.json").read_bytes()
    Path("run/samples/0000006.png").unlink()
    assert cli.run(["train", "ddpm", "--resume", "run", "--steps", "9", "--dry-run"]) == 0
    assert Path("run/config.json").read_bytes() == config
    assert cli.run(["train", "ddpm", "--resume", "run"]) == 0
    assert Path("run/samples/0000006.png").exists() and "done      look at run/samples" in capsys.readouterr().out
    assert Path("run/model.safetensors").read_bytes() == weights


def test_other_data_are_noticed_on_resume(tiny_preset: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One image of 24 replaced: the run could not go on as it began."""
    Path("data").mkdir()
    for path in photos.glob("*.png"):
        Path("data", path.name).write_bytes(path.read_bytes())
    assert cli.run(train(Path("data"), "--out", "run")) == 0
    write_image("data/03.png", np.zeros((16, 16, 3), np.uint8))
    assert cli.run(["train", "ddpm", "--resume", "run", "--steps", "9"]) == 1
    assert "that are not the same" in capsys.readouterr().err


def test_two_trainings_cannot_share_a_folder(
    tiny_preset: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(train(photos, "--out", "run")) == 0
    with locked(Path("run")):
        assert cli.run(["train", "ddpm", "--resume", "run", "--steps", "9"]) == 1
    assert "another process is at work in run" in capsys.readouterr().err
    assert cli.run(["train", "ddpm", "--resume", "run", "--steps", "9"]) == 0


def test_a_damaged_run_does_not_hide_the_others(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/bad").mkdir(parents=True)
    Path("runs/bad/config.json").write_text("{")
    os.symlink(trained, "runs/good")
    assert cli.run(["info"]) == 0
    said = capsys.readouterr()
    assert "runs/good  ddpm on folder 16x16, step 6 of 6" in said.out and "runs/bad" not in said.out
    assert said.err.startswith("Warning: runs/bad/config.json is no JSON") and said.err.count("\n") == 1


def test_resume_goes_on_to_the_bit_and_keeps_the_options(tiny_preset: str, photos: Path) -> None:
    """Train 6 steps in one go; train 3, then resume to 6 with the schedule of rates of 6."""
    assert cli.run(train(photos, "--out", "whole")) == 0
    assert cli.run(train(photos, "--out", "half", "--save-every", "3", "--steps", "3")) == 0
    assert cli.run(["train", "ddpm", "--resume", "half", "--steps", "6"]) == 0
    whole, half = (checkpoint.read_tensors(Path(run, "model.safetensors")) for run in ("whole", "half"))
    assert all(torch.equal(whole[name], half[name]) for name in whole)
    losses = [[r["loss"] for r in read_metrics(Path(run))] for run in ("whole", "half")]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_nan_stops_the_run_with_the_last_checkpoint_kept(
    tiny_preset: str, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 5 on the loss is not a number. The weights of step 4 gave it, so the checkpoint of step 2 is kept."""
    from minidiff.ddpm import job as ddpm_job
    from minidiff.ddpm.recipe import ddpm_loss

    calls = 0

    def poisoned(*arguments):  # type: ignore[no-untyped-def]
        true = ddpm_loss(*arguments)

        def loss(*inner):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            return true(*inner) * (float("nan") if calls >= 5 else 1.0)

        return loss

    monkeypatch.setattr(ddpm_job, "ddpm_loss", poisoned)
    assert cli.run(train(photos, "--out", "run", "--save-every", "2")) == 1
    error = capsys.readouterr().err
    assert "the loss became nan by step 5" in error and "is kept in run: that of step 2." in error and "--lr" in error
    state = checkpoint.read_state(Path("run"))
    assert state is not None and state["step"] == 2
    tensors = checkpoint.read_tensors(Path("run/model.safetensors"))
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from conftest import DDPM_PRESETS, tiny
DDPM_PRESETS["tiny"] = tiny()
from minidiff.cli import main
main(sys.argv[1:])
"""


def spawn(arguments: list[str], **options: object) -> "subprocess.Popen[str]":
    """The command line in a process of its own, one thread, so that it can be killed."""
    program = PROGRAM.format(tests=str(Path(__file__).parents[1]))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def wait_for_step(run: Path, step: int, process: "subprocess.Popen[str]") -> None:
    for _ in range(6000):
        records = read_metrics(run)
        if records and records[-1]["step"] >= step:
            return
        assert process.poll() is None, process.stdout.read()  # type: ignore[union-attr]
        time.sleep(0.05)
    raise AssertionError("the training did not start")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_says_how_to_resume(photos: Path, number: int) -> None:
    process = spawn(train(photos, "--steps", "5000", "--save-every", "5000", "--out", "run"))
    wait_for_step(Path("run"), 50, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number, output
    said = r"Stopped by SIG\w+ at step (\d+) of 5000; saved. Resume with: minidiff train ddpm --resume run"
    match = re.search(said, output)
    assert match and "Traceback" not in output
    state = checkpoint.read_state(Path("run"))
    assert state is not None and state["step"] == int(match[1])


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted."), (signal.SIGTERM, "terminated.")])
def test_a_sampling_that_is_stopped_leaves_nothing_half_done(trained: Path, number: int, said: str) -> None:
    Path("out").mkdir()
    process = spawn(["sample", str(trained), "--num", "1000000", "--out", "out/samples.npz"])
    for _ in range(6000):
        if any(path.stat().st_size for path in Path("out").iterdir()):  # the first batch, in a working file
            break
        assert process.poll() is None, process.stdout.read()  # type: ignore[union-attr]
        time.sleep(0.05)
    process.send_signal(number)
    if number == signal.SIGTERM:  # as a service manager may do, and torchrun: the second must not undo the first
        time.sleep(0.02)
        process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number and output.rstrip().endswith(f"Error: {said}"), output
    assert not list(Path("out").iterdir())


@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_loses_nothing(tiny_preset: str, photos: Path, kills: int) -> None:
    """Killed again and again at random moments, then resumed: every file can be read at every moment, and the end is
    bit for bit the weights and losses of a run that was left alone."""
    steps = 100 * kills  # enough that every kill finds it at work
    options = ["--steps", str(steps), "--save-every", "7", "--sample-every", "60"]
    assert cli.run(train(photos, *options, "--out", "alone")) == 0

    random, run, killed = np.random.default_rng(0), Path("run"), 0
    first = spawn(train(photos, *options, "--out", "run"))
    wait_for_step(run, 4, first)
    process = first
    while killed < kills:
        time.sleep(random.uniform(0, 0.5))
        process.kill()
        process.communicate()
        killed += 1
        state, done = checkpoint.read_state(run), 0
        if state is not None:
            done = state["step"]
            assert done % 7 == 0 or done == steps
        if (run / "model.safetensors").exists():
            checkpoint.read_tensors(run / "model.safetensors")
        for picture in [*run.glob("samples/*.png"), *run.glob("curves.png")]:
            Image.open(picture).load()
        if done == steps:
            break
        process = spawn(["train", "ddpm", "--resume", "run", "--device", "cpu"])
        wait_for_step(run, done + 4, process)
    assert killed == kills
    if done < steps:
        process.kill()
        process.communicate()
        state = checkpoint.read_state(run)
        if state is None or state["step"] < steps:
            last = spawn(["train", "ddpm", "--resume", "run"])
            output, _ = last.communicate(timeout=600)
            assert last.returncode == 0, output
    ours, theirs = (checkpoint.read_tensors(Path(r, "model.safetensors")) for r in ("run", "alone"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    steps_logged = [[r["step"] for r in read_metrics(folder)] for folder in (run, Path("alone"))]
    assert steps_logged[0] == steps_logged[1]


# --- sample -------------------------------------------------------------------------------------------------------


def test_the_last_preview_is_what_sample_draws(trained: Path) -> None:
    """The first picture that a user sees comes from the default sampler, not from a quicker one that is worse."""
    assert cli.run(["sample", str(trained), "--num", "36", "--out", "grid.png", "--precision", "fp32"]) == 0
    preview = read_image(trained / "samples" / "0000006.png")
    drawn = read_image(Path("grid.png"))
    assert preview.shape == drawn.shape
    assert np.abs(preview.astype(int) - drawn).max() <= 1


def test_sample_as_array_and_as_the_public_names_compute_it(trained: Path) -> None:
    """The command, and the chain written out with the public names and one generator for each sample, agree."""
    from minidiff.rng import randn, sample_generators

    assert cli.run(["sample", str(trained), "--num", "5", "--steps", "10", "--seed", "3", "--out", "a.npz"]) == 0
    run = load(trained)
    assert not run.model.training and len(run.schedule.betas) == 50
    generators = sample_generators(3, range(5))
    x = randn((5, 3, 16, 16), generators, like=torch.empty(0))
    *_, last = SAMPLERS["dpm++sde"](run.model, run.schedule, x, steps=10, generator=generators)
    images = np.load("a.npz")["images"]
    assert images.shape == (5, 16, 16, 3)
    assert np.abs(images.astype(int) - to_uint8(last.x)).max() <= 1


@pytest.mark.parametrize("sampler", [["ddpm"], ["ddim", "--steps", "10", "--eta", "1"]])
def test_an_image_does_not_depend_on_the_batch_size(trained: Path, sampler: list[str]) -> None:
    for batch in (2, 7):
        options = ["--num", "7", "--sampler", *sampler, "--batch-size", str(batch), "--out", f"{batch}.npz"]
        assert cli.run(["sample", str(trained), *options]) == 0
    two, seven = np.load("2.npz")["images"].astype(int), np.load("7.npz")["images"].astype(int)
    assert np.abs(two - seven).max() <= 1


def test_start_t_with_the_newest_run_as_typed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`minidiff sample --start-t 20 --init dip.png`: the newest run is found and named; at start_t 0 the one step left
    hardly changes the picture, at T - 1 nothing of it is left."""
    Path("runs").mkdir()
    os.symlink(trained, "runs/older")
    ramp = np.tile(np.linspace(0, 255, 40).astype(np.uint8)[:, None, None], (1, 40, 3))
    write_image("dip.png", ramp)
    assert cli.run(["sample", "--start-t", "20", "--init", "dip.png"]) == 0
    said = capsys.readouterr().out
    assert "runs/older (the newest)" in said and "t = 20, 19, 18, ..., 0" in said and "sample.png" in said
    results = {}
    for start in (0, 49):
        assert cli.run(["sample", "--start-t", str(start), "--init", "dip.png", "--out", f"{start}.npz"]) == 0
        results[start] = np.load(f"{start}.npz")["images"][0].astype(float)
    small = np.asarray(Image.fromarray(ramp).resize((16, 16)), float)
    correlation = {s: np.corrcoef(r.ravel(), small.ravel())[0, 1] for s, r in results.items()}
    assert correlation[0] > 0.99 and correlation[49] < 0.7, correlation


def test_init_modes_and_folders(trained: Path, photos: Path) -> None:
    """as-is takes the image for x_t: from t = 0 it is only rescaled; noise adds noise first. A folder: one each."""
    for mode in ("as-is", "noise"):
        options = ["--start-t", "5", "--init", str(photos), "--init-mode", mode, "--out", f"{mode}.npz"]
        assert cli.run(["sample", str(trained), *options]) == 0
    first, second = np.load("as-is.npz")["images"], np.load("noise.npz")["images"]
    assert len(first) == len(second) == 24 and (first != second).any()


def test_progressive_strip(trained: Path) -> None:
    options = ["--num", "3", "--steps", "12", "--progressive", "4", "--out", "g.png"]
    assert cli.run(["sample", str(trained), *options]) == 0
    picture = np.asarray(Image.open("g-progressive.png"))
    strip = picture[-6 * 66 - 2 :, -4 * 66 - 2 :]
    above, beside = picture[: -len(strip), -strip.shape[1] :], picture[-len(strip) :, : -strip.shape[1]]
    assert all((part < 128).any() for part in np.array_split(above, 4, axis=1))  # every column has its t
    assert all((part < 128).any() for part in np.array_split(beside, 6))  # and every row its name
    final = np.asarray(Image.open("g.png"))[2:66, 2:66].astype(int)  # the last prediction of ddim is the image
    assert np.abs(strip[68:132, -66:-2] - final).max() <= 1
    start = strip[2:66:4, 2:66:4].astype(float)  # the first column is the noise the chain begins with
    assert (start.std(axis=(0, 1)) > 60).all()
    assert cli.run(["sample", str(trained), *options[:-1], "new.png"]) == 0
    os.unlink("new.png")
    assert cli.run(["sample", str(trained), *options[:-1], "new.png"]) == 1  # the strip is still there


def test_noise_is_warned_of(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six steps teach nothing: the samples are noise, and it is said with the likely causes."""
    assert cli.run(["sample", str(trained), "--sampler", "ddpm", "--no-clip"]) == 0
    assert re.search(r"Warning: \d+ of 16 images are (noise|saturated).*trained too briefly", capsys.readouterr().err)


def test_raw_weights_differ_from_the_average(trained: Path) -> None:
    for weights in ("ema", "raw"):
        assert cli.run(["sample", str(trained), "--weights", weights, "--out", f"{weights}.npz"]) == 0
    assert (np.load("ema.npz")["images"] != np.load("raw.npz")["images"]).any()


# --- bad input ----------------------------------------------------------------------------------------------------

BAD = {
    "train ddpm --dataset shape": (2, "Did you mean 'shapes'"),
    "train ddpm --preset cpuu": (2, "Did you mean 'cpu'"),
    "train ddpm --schedule cosin": (2, "Did you mean 'cosine'"),
    "train ddpm --image-size 30": (1, r"30 does not divide by 4, .* Try 28 or 32"),
    "train ddpm --schedule cosine --beta-end 0.01": (1, "--beta-end belongs to the linear schedule"),
    "train ddpm --schedule linear --zero-terminal-snr --prediction eps": (1, "zero"),
    "train ddpm --steps 0": (2, "--steps"),
    "train ddpm --lr -1": (2, "--lr"),
    "train ddpm --device gpu": (2, "unknown device 'gpu'"),
    "train ddpm --batch-size 30 --accumulate 4": (1, "--batch-size 30 does not divide"),
    "train ddpm --dataset folder": (1, "folder"),
    "train ddpm --dataset folder --data-dir nowhere": (1, "nowhere"),
    "train ddpm --dataset folder --data-dir empty": (1, "empty"),
    "train ddpm --resume nowhere": (1, "nowhere does not exist"),
    "train ddpm --resume empty": (1, "empty is not a run folder"),
    "train ddpm --resume {run} --seed 1": (2, "--seed is part of the run"),
    "train ddpm --resume stateless": (1, "stateless has weights but no state.pt"),
    "train ddpm --resume gan": (1, "gan is a gan run"),
    "train ddpm --resume hollow": (1, 'hollow/config.json: "[a-z]+" is missing'),
    "train ddpm --lr nan": (2, "nan is not a finite number"),
    "train ddpm --out taken": (1, "taken is not empty"),
    "train dppm": (2, "dppm"),
    "trian": (2, "Did you mean 'train'"),
    "sample {run} --sampler dim": (2, "Did you mean 'ddim'"),
    "sample {run} --start-t 50 --init {photo}": (1, "50"),
    "sample {run} --start-t -1": (2, "start-t"),
    "sample {run} --steps 51": (1, "51"),
    "sample {run} --steps 11 --start-t 9": (1, "11"),
    "sample {run} --init {photo}": (2, "--init needs --start-t"),
    "sample {run} --start-t 9 --init nowhere.png": (1, "nowhere.png: no such image file"),
    "sample {run} --start-t 9 --init empty": (1, "empty holds no images"),
    "sample {run} --start-t soon --init {photo}": (2, "'soon' is neither a whole number from 0 on nor auto"),
    "sample {run} --start-t 1.5": (2, "'1.5' is neither"),
    "sample {run} --start-t auto": (2, "--start-t auto needs --init"),
    "sample {run} --start-t auto --init {run}": (1, "is a ddpm run, and no image"),
    "sample {run} --start-t 9 --init gan": (1, "gan is a gan run, and no image"),
    "sample {run} --start-t 9 --init dip": (1, "dip is not finished"),
    "sample {run} --start-t 9 --init dip --init-steps 10,20": (1, "has not saved step 20. The nearest are 10 and 40"),
    "sample {run} --start-t 9 --init dip --init-steps 10,": (2, "'10,' is no list of steps"),
    "sample {run} --start-t 9 --init dip --init-steps 10 --num 3": (2, "--init-steps draws 1, an image for each"),
    "sample {run} --start-t 9 --init {photo} --init-steps 10": (1, "--init-steps needs a dip run"),
    "sample {run} --init-steps 10": (2, "--init-steps needs --init"),
    "sample {run} --size 64": (2, "'64' is no size. Give width and height in pixels, as in 640x480"),
    "sample {run} --size 0x64": (2, "height and width, of 1 to 8,192 pixels each"),
    "sample {run} --size 64x48 --start-t 9 --init {photo}": (2, "--init says how large the images are"),
    "sample {run} --size 64x48": (
        1,
        r"--size asks for images of \[3, 48, 64\], and this run's images have \[3, 16, 16\]",
    ),
    "sample {run} --eta 1 --sampler ddpm": (1, "--eta belongs to the sampler ddim"),
    "sample {run} --out taken.png": (1, "taken.png exists"),
    "sample {run} --out grid.doc": (1, "cannot tell what 'grid.doc' should be"),
    "sample {run} --out taken.png/grid.png": (1, "taken.png"),
    "sample": (1, "no ddpm, dcgan, wgan or wgan-gp run with weights under runs/"),
    "sample empty": (1, "empty is not a run folder"),
    "sample gan": (1, "gan is a gan run; this command needs a ddpm, dcgan, wgan, wgan-gp or dip-prior run"),
    "sample unsaved": (1, "model.safetensors is missing"),
    "info gun": (1, "gun does not exist"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line(
    line: str, trained: Path, photos: Path, tiny_preset: str, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code, the words, no traceback, and nothing written."""
    code, words = BAD[line]
    folders = {"empty": None, "gan": {"kind": "gan"}, "unsaved": None, "hollow": {"kind": "ddpm"}, "stateless": None,
               "dip": fit_config()}  # fmt: skip
    for folder, config in folders.items():
        (own_folder / folder).mkdir()
        if config:
            (own_folder / folder / "config.json").write_text(json.dumps(config))
    for name in ("unsaved/config.json", "stateless/config.json", "stateless/model.safetensors"):
        (own_folder / name).write_bytes((trained / Path(name).name).read_bytes())
    for step in (10, 40):
        write_image(own_folder / f"dip/steps/{step:06d}.png", np.zeros((16, 16, 3), np.uint8))
    (own_folder / "taken").mkdir()
    (own_folder / "taken/mine").touch()
    (own_folder / "taken.png").write_text("mine")
    before = sorted(own_folder.rglob("*"))
    assert cli.run(line.format(run=trained, photo=photos / "00.png").split()) == code
    printed = capsys.readouterr()
    assert re.search(words, printed.err), printed.err
    assert len([text for text in printed.err.splitlines() if text.startswith("Error")]) == 1
    assert "Traceback" not in printed.err and "Traceback" not in printed.out
    assert sorted(own_folder.rglob("*")) == before and (own_folder / "taken.png").read_text() == "mine"


def test_a_folder_with_bad_images_trains_or_stops_as_asked(
    tiny_preset: str, photos: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = own_folder / "mixed"
    mixed.mkdir()
    for path in list(photos.glob("*.png"))[:8]:
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "broken.png").write_bytes(b"not an image")
    assert cli.run(train(mixed, "--out", "skipped")) == 0
    assert "broken.png" in capsys.readouterr().err
    assert cli.run(train(mixed, "--out", "stopped", "--on-bad", "stop")) == 1
    assert "broken.png" in capsys.readouterr().err
    assert not Path("stopped").exists()


def test_a_config_that_lies_is_one_line(trained: Path, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of one network under the config of another: an error that names the tensors, never a partial load."""
    config = json.loads((trained / "config.json").read_text())
    config["network"]["channels"] = [16, 16]
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(config))
    Path("run/model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    assert cli.run(["sample", "run"]) == 1
    assert "does not fit this network" in capsys.readouterr().err
    del config["diffusion"]
    Path("run/config.json").write_text(json.dumps(config))
    assert cli.run(["sample", "run"]) == 1
    assert "config.json" in capsys.readouterr().err


def test_a_read_only_place_is_one_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/proc takes no files, not even from root."""
    assert cli.run(["sample", str(trained), "--out", "/proc/minidiff/grid.png"]) == 1
    assert cli.run(["train", "ddpm", "--steps", "2", "--out", "/proc/minidiff"]) == 1
    errors = capsys.readouterr().err
    assert "cannot write /proc/minidiff/grid.png" in errors and "cannot make the run folder /proc/minidiff" in errors
