"""`minidiff train dcgan`, `wgan` and `wgan-gp` in their run folders: killed, resumed, gone wrong, and said so."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from minidiff import cli
from minidiff.errors import UserError
from minidiff.gan import job as gan_job
from minidiff.gan import suspicions as suspect
from minidiff.gan.config import GanRequest
from minidiff.gan.losses import GANS
from minidiff.gan.presets import GAN_PRESETS
from minidiff.gan.trainer import GanTrainer
from minidiff.images.files import image_shape, write_image
from minidiff.records import to_json
from minidiff.rng import Draws
from minidiff.runs import curves
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics, write_metrics

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(kind: str, photos: Path, *more: str) -> list[str]:
    small = "--device cpu --image-size 16 --width 4 --latent-dim 8 --steps 6 --batch-size 4 --sample-every 3"
    return ["train", kind, "--dataset", "folder", "--data-dir", str(photos), *small.split(), *more]


def request(photos: Path, **more: Any) -> GanRequest:
    small: dict[str, Any] = {"image_size": 16, "width": 4, "latent_dim": 8, "steps": 6, "batch_size": 4}
    return GanRequest(dataset="folder", data_dir=photos, device="cpu", **small, **more)


# --- a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GANS)
def test_a_run_explains_itself(kind: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its folder, the losses of both sides, the diversity at every preview, the previews; its generator draws."""
    assert cli.run(train(kind, photos)) == 0
    run, said = Path(f"runs/{kind}-folder-1"), capsys.readouterr()
    assert f"next      minidiff sample {run}" in said.out
    assert f"lr {GAN_PRESETS[kind]['cpu'].training.lr:g}," in said.out
    for text in {"dcgan": ["1 discriminator step to"], "wgan": ["5 critic steps", "clipped to 0.01"],
                 "wgan-gp": ["5 critic steps", "gradient penalty 10"]}[kind]:  # fmt: skip
        assert text in said.out
    config = json.loads((run / "config.json").read_text())
    assert config["kind"] == kind
    assert config["network"] == {"latent_dim": 8, "width": 4, "image_size": 16, "channels": 3}
    assert config["gan"] == to_json(GANS[kind].game)
    assert config["training"]["grad_clip"] is None and config["training"]["warmup"] == 0

    records = read_metrics(run)
    losses = [record for record in records if "loss" in record]
    assert [record["step"] for record in losses] == [1, 2, 3, 4, 5, 6]
    of_critic = {"dcgan": "discriminator_loss"}.get(kind, "critic_loss")
    assert all(of_critic in record for record in losses)
    if kind == "wgan":  # without a penalty, the loss is the estimate turned round
        assert all(record["wasserstein"] == pytest.approx(-record["critic_loss"]) for record in losses)
    assert [record["step"] for record in records if "diversity" in record] == [3, 6]
    assert sorted(os.listdir(run / "samples")) == ["0000003.png", "0000006.png"]
    assert image_shape(run / "samples" / "0000006.png")[0] > 8 * 16
    assert image_shape(run / "curves.png")[0] > 900  # three panels: losses, the estimate or accuracy, diversity

    assert cli.run(["sample", str(run), "--num", "3", "--device", "cpu", "--out", "s.npz"]) == 0
    assert np.load("s.npz")["images"].shape == (3, 16, 16, 3)


def test_options_override_the_preset(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "--critic-steps 2 --clip 0.5 --lr 0.01 --seed 4 --dry-run"
    assert cli.run(train("wgan", photos, *more.split())) == 0
    said = capsys.readouterr().out
    assert not Path("runs").exists()
    for part in ("6 steps of 4 images", "lr 0.01", "2 critic steps", "clipped to 0.5", "seed 4"):
        assert part in said
    job = gan_job.plan("wgan-gp", request(photos, penalty=3.0, critic_steps=2))
    trainer = job.trainer
    assert isinstance(trainer, GanTrainer)
    game = trainer.method.game
    assert game.penalty == 3 and game.critic_steps == 2 and game.clip is None


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["dcgan", "--clip", "0.1"], 2, "No such option"),
        (["wgan", "--penalty", "1"], 2, "No such option"),
        (["dcgan", "--accumulate", "2"], 2, "No such option"),
        (["wgan", "--clip", "0"], 2, "0"),
        (["dcgan", "--image-size", "20"], 1, "--image-size 20 is not 4 or 7 doubled a few times"),
        (["dcgan", "--batch-size", "1"], 1, "Raise --batch-size"),
        (["wgan", "--preset", "cifar10"], 2, "Known: cpu, gpu"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], code: int, said: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, *more = arguments
    assert cli.run(train(kind, photos, *more)) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not Path("runs").exists()


def test_one_image_is_no_data_set() -> None:
    write_image("one/a.png", np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(UserError, match="folder has one image, and a GAN needs many"):
        gan_job.plan("dcgan", request(Path("one")))


def test_the_presets_are_the_papers() -> None:
    assert GAN_PRESETS.keys() == GANS.keys() == gan_job.JOBS.keys()
    gpu = {kind: presets["gpu"] for kind, presets in GAN_PRESETS.items()}
    papers = {"dcgan": (128, 2e-4), "wgan": (64, 5e-5), "wgan-gp": (64, 1e-4)}
    assert {kind: (p.training.batch_size, p.training.lr) for kind, p in gpu.items()} == papers
    assert all((p.latent_dim, p.width) == (100, 128) and p.image_size == 64 for p in gpu.values())


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "presets"]) == 0
    said = capsys.readouterr().out
    assert all(f"minidiff train {kind}\n" in said for kind in ("ddpm", *GANS, "classifier"))


# --- stopped and gone on with -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GANS)
def test_a_killed_run_goes_on_to_the_bit(kind: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at step 5, with the last save at 4: weights, losses and diversity are those of a run left alone, and no
    record is there twice."""
    assert cli.run(train(kind, photos, "--out", "whole")) == 0

    class Killed(BaseException):
        pass

    def die(self: GanTrainer, draws: Draws, step=GanTrainer.generator_step) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        if self.step == 4:
            raise Killed
        return step(self, draws)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(GanTrainer, "generator_step", die)
        cli.run(train(kind, photos, "--out", "run", "--save-every", "2"))
    torch.manual_seed(99)
    assert cli.run(["train", kind, "--resume", "run", "--device", "cpu"]) == 0
    assert Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    whole, run = (read_metrics(Path(name)) for name in ("whole", "run"))
    for record in (*whole, *run):
        record.pop("images_per_second", None)
    assert whole == run and len(run) == 8


@pytest.mark.slow
def test_kill_9_loses_nothing(photos: Path) -> None:
    """In a process of its own, at whatever it is doing; the resumed run is the one that was left alone."""
    arguments = train("dcgan", photos, "--steps", "60", "--save-every", "5", "--sample-every", "60", "--out", "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "minidiff", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (Path("run") / checkpoint.STATE).exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = checkpoint.read_state(Path("run"))
    assert state is not None and state["step"] % 5 == 0 and state["step"] < 60
    assert cli.run(["train", "dcgan", "--resume", "run", "--steps", "20"]) == 0
    assert cli.run(train("dcgan", photos, "--steps", "20", "--sample-every", "60", "--out", "whole")) == 0
    ours, theirs = (checkpoint.read_tensors(Path(name, checkpoint.MODEL)) for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_of_another_kind_is_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(train("wgan", photos, "--out", "run", "--steps", "1")) == 0
    assert cli.run(["train", "dcgan", "--resume", "run"]) == 1
    assert "run is a wgan run" in capsys.readouterr().err
    assert cli.run(["train", "wgan", "--resume", "run", "--clip", "0.2"]) == 2  # it is what the run is
    assert "--clip" in capsys.readouterr().err


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poisoned", ["critic_step", "generator_step"])
def test_nan_on_either_side_stops_the_run(
    poisoned: str, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 5 on: a good checkpoint is kept, and the line says whose loss it was.

    It is that of step 2 if the critic's loss shows that the weights of step 4 are bad. The generator's does not tell.
    """
    true = getattr(GanTrainer, poisoned)

    def step(self: GanTrainer, *arguments: Any) -> Any:
        found, factor = true(self, *arguments), float("nan") if self.step == 4 else 1.0
        if isinstance(found, dict):
            return {name: factor * value for name, value in found.items()}
        return factor * found[0], found[1]

    monkeypatch.setattr(GanTrainer, poisoned, step)
    assert cli.run(train("dcgan", photos, "--out", "run", "--save-every", "2")) == 1
    error = capsys.readouterr().err
    whose = "the discriminator loss" if poisoned == "critic_step" else "the loss"
    kept = 2 if poisoned == "critic_step" else 4
    assert f"{whose} became nan by step 5" in error and f"is kept in run: that of step {kept}." in error
    state = checkpoint.read_state(Path("run"))
    assert state is not None and state["step"] == kept


def test_samples_that_are_alike_are_warned_of_once(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator whose noise is left out draws one image; the diversity it is warned with stands in the metrics. One
    of an untrained generator is not 0."""
    monkeypatch.setattr(gan_job, "is_young", lambda *of: False)
    monkeypatch.setattr("minidiff.gan.run.GanRun.latents", lambda self, indices, seed=0: torch.ones(len(indices), 8))
    assert cli.run(train("dcgan", photos, "--out", "run")) == 0
    error = capsys.readouterr().err
    assert error.count("are too alike: their diversity is 0.00") == 1 and "the samples at step 3" in error
    assert "start again with another --seed, or try wgan-gp." in error and "`" not in error  # flags, not arguments
    assert [r["diversity"] for r in read_metrics(Path("run")) if "diversity" in r] == pytest.approx([0, 0])
    monkeypatch.undo()
    job = gan_job.plan("dcgan", request(photos))
    job.folder = Path("nowhere")
    assert job.measure(0)["diversity"] > 0


def test_collapse_is_of_the_latest_measurement() -> None:
    alike = [{"step": 1, "diversity": 0.9}, {"step": 2, "loss": 1.0}, {"step": 3, "diversity": 0.1}]
    (warning,) = suspect.collapse(alike, "wgan")
    assert "step 3" in warning and warning.endswith("another `seed`, or try wgan-gp.")
    assert suspect.collapse([*alike, {"step": 4, "diversity": 0.8}], "wgan") == []
    assert suspect.collapse(alike[:2], "wgan") == []
    assert suspect.collapse([{"step": 1, "loss": 1.0}], "wgan") == []
    assert suspect.collapse(alike, "wgan-gp")[0].endswith("another `seed`.")  # it is one already


def test_nothing_is_said_of_a_gan_that_is_only_young() -> None:
    """Before a tenth of its preset's 2,000 steps, the last step of a shorter run aside."""
    assert [suspect.is_young("dcgan", "cpu", 300, step) for step in (1, 199, 200, 300)] == [True, True, False, False]
    assert not suspect.is_young("dcgan", "cpu", 20, 20)
    assert not suspect.is_young("dcgan", "of an older version", 300, 1)
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    assert len(suspect.suspicions("dcgan", [{"step": 1, "diversity": 0.1}], 200, noise)) == 2
    assert "(of a diffusion model) a wrong start timestep" in suspect.suspicions("dcgan", [], 300, noise)[0]


def test_a_discriminator_that_nothing_deceives_is_warned_of() -> None:
    """For the latest fifth of the record, on both sides: not one that takes everything for made, nor at the start."""

    def records(real: float, fake: float, count: int) -> list[dict[str, float]]:
        return [{"step": k, "loss": 1.0, "accuracy_real": real, "accuracy_fake": fake} for k in range(count)]

    (warning,) = suspect.one_sided(records(0.7, 0.8, 40) + records(1.0, 0.999, 10))
    assert "the discriminator has recognised 99.9% of images" in warning
    assert suspect.one_sided(records(1.0, 1.0, 40) + records(0.7, 0.8, 10)) == []
    assert suspect.one_sided(records(0.2, 1.0, 50)) == []
    assert suspect.one_sided(records(1.0, 1.0, 4)) == []
    assert suspect.one_sided([{"step": 1, "loss": 1.0, "wasserstein": 3.0}] * 50) == []


def test_a_critic_that_has_gone_flat_is_warned_of() -> None:
    """Its estimate in the latest fifth of the record beside the largest; of the critic whose weights are clipped alone:
    the penalty holds the other's slope, and its estimate falls because the samples get better."""

    def records(*estimates: float) -> list[dict[str, float]]:
        return [{"step": k, "loss": 1.0, "wasserstein": value} for k, value in enumerate(estimates)]

    died = records(*[0.02] * 40, *[4e-5, -4e-5] * 5)
    (warning,) = suspect.flat(died, "wgan")
    assert "estimate has fallen to 0.2% of its largest" in warning and "wgan-gp" in warning
    assert suspect.flat(died, "wgan-gp") == [] and suspect.flat(died[:-9], "wgan") == []
    assert suspect.flat(records(*[0.087] * 40, *[0.011] * 10), "wgan") == []  # as a good one ends
    assert suspect.flat(records(*[0.087] * 40, *[4e-4, 3e-4] * 5), "wgan") == []  # small, and yet no noise
    assert suspect.flat(records(*[0.02, -0.02] * 25), "wgan") == []  # noise, and yet not small
    assert suspect.flat(records(0.02, 0.0, 0.0, 0.0), "wgan") == []  # too few to tell
    assert "to 0.0% of" in suspect.flat(records(*[0.02] * 40, *[0.0] * 10), "wgan")[0]
    smooth = np.broadcast_to(np.linspace(60, 200, 16, dtype=np.uint8)[:, None], (8, 3, 16, 16)).transpose(0, 2, 3, 1)
    assert suspect.suspicions("wgan", died, 50, smooth) == [warning]


# --- what is drawn of the losses ----------------------------------------------------------------------------------


def test_curves_of_losses_below_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic's loss goes below 0, where a logarithmic axis has no place for it; a panel more for what else there
    is, and one for what was measured; both losses, and everything else, have their line and their name."""
    plain = [{"step": k, "loss": 1.0 + k, "lr": 1.0} for k in range(1, 4)]
    more = [r | {"critic_loss": -1.0, "wasserstein": 2.0} for r in plain]
    drawn: list[list[tuple[str, list[str]]]] = []

    def look(self: Figure, file: Any, **rest: Any) -> None:
        panels = [axes for axes in self.axes if axes.get_legend()]
        names = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in panels]  # type: ignore[union-attr]
        drawn.append([(axes.get_yscale(), found) for axes, found in zip(panels, names, strict=True)])

    monkeypatch.setattr(Figure, "savefig", look)
    for records in (plain, more, [*more, {"step": 3, "diversity": 0.7}]):
        write_metrics(tmp_path, records)
        curves.draw_curves(tmp_path)
    rate = "learning rate (right)"
    losses = ("linear", ["generator loss", "critic loss", rate])
    estimate, diversity = ["Wasserstein estimate"], ["diversity of the samples (the data: 1)"]
    assert drawn == [
        [("log", ["loss", rate])],
        [losses, ("linear", estimate)],
        [losses, ("linear", estimate), ("linear", diversity)],
    ]
