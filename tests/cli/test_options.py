"""Every option of every command arrives where it is meant for; one that is left out has the default of the package.

The function that a command calls is taken away: what it was given is compared with the request that a script would
write, and what it answers with what is printed. Nothing is trained, drawn or measured.
"""

import importlib
import json
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch

from minidiff import cli
from minidiff.classifier.config import ClassifierRequest
from minidiff.ddpm.config import DdpmRequest
from minidiff.dehaze.config import ClearRequest, DehazeRequest
from minidiff.demo.serve import serve_demo
from minidiff.dip.config import FitRequest
from minidiff.evaluation.config import EvaluateRequest
from minidiff.gan.config import GanRequest
from minidiff.metrics.config import MeasureRequest
from minidiff.pretrained.likelihood_request import LikelihoodRequest
from minidiff.pretrained.request import DrawRequest
from minidiff.priors.config import DipPriorRequest
from minidiff.restoration.config import FinishRequest, RestoreRequest
from minidiff.studies.config import StudyRequest
from minidiff.studies.prior_config import PriorRequest
from minidiff.training.config import ResumeRequest

CPU = torch.device("cpu")


class Called(BaseException):
    """A function was called with these arguments."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.given, self.named = given, named


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # auto is cpu
    return tmp_path


@pytest.fixture()
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Called]:
    """Run a command line whose work is done by `place`, and return the call of it."""

    def called(*given: Any, **named: Any) -> Any:
        raise Called(*given, **named)

    def run(place: str, line: str | list[str]) -> Called:
        importlib.import_module("minidiff.dip.fit_picture")  # else it would take over, and keep, what is patched here
        module, _, name = place.rpartition(".")
        with monkeypatch.context() as patch, pytest.raises(Called) as stop:
            patch.setattr(importlib.import_module(f"minidiff{'.' * bool(module)}{module}"), name, called)
            cli.cli.main(line.split() if isinstance(line, str) else line, standalone_mode=False)
        return stop.value

    return run


# What every training can be told, as fields of its request and as a command line.
TRAINED: dict[str, Any] = {
    "dataset": "mnist", "data_dir": "in", "image_size": 24, "corruption": "fog", "severity": 5, "on_bad": "stop",
    "max_pixels": 99, "flip": True, "init": "first", "preset": "cpu", "steps": 7, "batch_size": 6, "lr": 0.25,
    "warmup": 2, "ema_decay": 0.5, "precision": "fp32", "seed": 9, "save_every": 3, "out": "to", "device": "cpu",
}  # fmt: skip
MORE: dict[str, tuple[type, dict[str, Any]]] = {
    "ddpm": (DdpmRequest, {
        "network": "a:B", "network_arguments": {"w": 1}, "conditional": True, "label_dropout": 0.5,
        "schedule": "cosine", "timesteps": 40, "beta_start": 0.125, "beta_end": 0.75, "prediction": "v",
        "min_snr_gamma": 4.0, "zero_terminal_snr": True, "sample_every": 4, "fid_every": 5, "fid_samples": 6,
        "fid_sampler": "heun", "fid_steps": 8, "fid_features": "clf", "fid_weights": "w", "accumulate": 2,
        "compile": True, "muon": True, "timestep_sampling": "stratified",
        "trained_below": 30, "file_noise": 0.25, "grey": 0.125, "prior": "pri", "prior_use": "residual",
        "prior_shift": "prior", "process": "flow", "shift": 3.0,
    }),
    "dcgan": (GanRequest, {"latent_dim": 5, "width": 4, "critic_steps": 2, "sample_every": 4}),
    "wgan": (GanRequest, {"latent_dim": 5, "width": 4, "critic_steps": 2, "clip": 0.5, "sample_every": 4}),
    "wgan-gp": (GanRequest, {"latent_dim": 5, "width": 4, "critic_steps": 2, "penalty": 5.0, "sample_every": 4}),
    "classifier": (ClassifierRequest, {
        "width": 4, "shift": 2, "measure_every": 3, "accumulate": 2, "compile": True,
    }),
    "dehaze": (DehazeRequest, {
        "dataset": "hazy-photos", "stage": 2, "stage_1": "one", "crop": 32, "fourier_weight": 0.125, "prediction": "x0",
        "shift": "data", "transmission_weight": 0.5, "haze_weight": 0.25, "sample_every": 4,
        "measure_every": 3, "accumulate": 2, "compile": True, "muon": True,
    }),
    "dip-prior": (DipPriorRequest, {
        "net": "cnn", "noise": 0.5, "sample_every": 4, "measure_every": 3, "accumulate": 2, "compile": True,
    }),
}  # fmt: skip
NOT_OF = {"dehaze": {"corruption", "severity"}}  # hazy pairs have damage of their own


def trained_as(kind: str) -> dict[str, Any]:
    """Return what a training of this kind can be told."""
    return {name: value for name, value in (TRAINED | MORE[kind][1]).items() if name not in NOT_OF.get(kind, ())}


def as_line(values: dict[str, Any]) -> str:
    """Write fields as options."""
    words = []
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value).replace("'", '"').replace(" ", "")]
    return " ".join(words)


@pytest.mark.parametrize("kind", MORE)
def test_a_training_is_planned_as_it_was_typed(kind: str, typed: Callable[..., Called]) -> None:
    """With nothing, and with everything but `--epochs`, which excludes `--steps`."""
    request = MORE[kind][0]
    call = typed("pretrained.train.plan", f"train {kind}")
    assert call.given == (kind, request(device="cpu"))
    every = trained_as(kind)
    call = typed("pretrained.train.plan", f"train {kind} {as_line(every)}")
    assert call.given == (kind, request(**every))
    call = typed("pretrained.train.plan", f"train {kind} --epochs 2.5 --no-flip")
    assert call.given == (kind, request(epochs=2.5, flip=False, device="cpu"))
    call = typed("pretrained.train.plan", f"train {kind} --minutes 0.5")
    assert call.given == (kind, request(minutes=0.5, device="cpu"))
    command = cli.cli.get_command(None, "train").get_command(None, kind)  # type: ignore[union-attr, arg-type, attr-defined]
    options = {each.name for each in command.params if isinstance(each, click.Option) and each.expose_value}
    assert options == {*every, "epochs", "minutes", "resume", "dry_run"}


def test_a_prior_knows_another_name_of_its_steps(typed: Callable[..., Called]) -> None:
    call = typed("pretrained.train.plan", "train dip-prior --dip-steps 5")
    assert call.given == ("dip-prior", DipPriorRequest(steps=5, device="cpu"))


@pytest.mark.parametrize("kind", MORE)
def test_a_training_is_resumed_with_the_changes_that_were_typed(kind: str, typed: Callable[..., Called]) -> None:
    """All that a request of this kind may change; `--epochs` beside it."""
    values = trained_as(kind)
    changes = {each.name: values[each.name] for each in fields(ResumeRequest) if each.name in values}
    call = typed("pretrained.train.take_up", f"train {kind} --resume there {as_line(changes)}")
    assert call.given == ("there", ResumeRequest(**changes), kind)
    call = typed("pretrained.train.take_up", f"train {kind} --resume there --epochs 2")
    assert call.given == ("there", ResumeRequest(epochs=2.0, device="cpu"), kind)


def test_images_are_drawn_as_it_was_typed(typed: Callable[..., Called]) -> None:
    place = "pretrained.sampling.plan"
    assert typed(place, "sample").given == (DrawRequest(device=CPU),)
    line = (
        "sample run -n 3 --sampler ddim --steps 5 --eta 0.5 --spacing karras --start-t 7 --init x.png --max-pixels 99 "
        "--init-mode scale --labels a --labels b --guidance 3 --threshold 0.75 --seed 4 --weights raw --batch-size 5 "
        "--progressive 6 --precision fp32 --variance fixed_large --out o.png --force --no-prior"
    )
    expected = DrawRequest(
        "run", num=3, sampler="ddim", steps=5, eta=0.5, spacing="karras", start_t=7, init="x.png", max_pixels=99,
        init_mode="scale", labels=("a", "b"), guidance_scale=3.0, clip=0.75, seed=4, weights="raw", batch_size=5,
        progressive=6, precision="fp32", variance="fixed_large", device=CPU, out="o.png", force=True,
        use_prior=False,
    )  # fmt: skip
    assert typed(place, line).given == (expected,)
    assert typed(place, "sample --start-step 7").given == (DrawRequest(start_t=7, device=CPU),)
    assert typed(place, "sample --size 64x48").given == (DrawRequest(size=(48, 64), device=CPU),)
    line = "sample --start-t auto --init run --init-steps 3,5 --no-clip --labels-file l.json"
    expected = DrawRequest(start_t="auto", init="run", init_steps=[3, 5], clip=False, labels_file="l.json", device=CPU)
    assert typed(place, line).given == (expected,)
    for line, noises in (
        ("--invert p.png", {"invert": "p.png"}),
        ("--noise n.npz", {"noise": "n.npz"}),
        ("--interpolate 3 p.png --num 5", {"interpolate": ("3", "p.png"), "num": 5}),
    ):
        assert typed(place, f"sample {line}").given == (DrawRequest(device=CPU, **noises),)  # type: ignore[arg-type]
    compared = DrawRequest(compare=[("ddpm", 9), ("heun", None)], device=CPU)
    assert typed(place, "sample --compare ddpm:9,heun").given == (compared,)


def test_distances_are_measured_as_it_was_typed(typed: Callable[..., Called]) -> None:
    place = "pretrained.distance.Comparison"
    assert typed(place, "fid a b").given == ("a", "b", MeasureRequest(), CPU)
    line = (
        "fid a b --metrics fid,kid --features clf --weights w.pt --dims 64 --mode clean -n 30 --sampler ddpm --steps 4 "
        "--seed 5 --on-bad stop --max-pixels 99 --data-dir in --image-size 24 --batch-size 7"
    )
    expected = MeasureRequest(
        ("fid", "kid"), features="clf", weights="w.pt", dims=64, mode="clean", num=30, sampler="ddpm", steps=4, seed=5,
        on_bad="stop", max_pixels=99, data_dir="in", image_size=24, batch_size=7,
    )  # fmt: skip
    assert typed(place, line).given == ("a", "b", expected, CPU)
    spaced = ["fid", "a", "b", "--metrics", "fid, kid"]
    assert typed(place, spaced).given == ("a", "b", MeasureRequest(("fid", "kid")), CPU)


def test_the_likelihood_is_measured_as_it_was_typed(typed: Callable[..., Called]) -> None:
    place = "pretrained.likelihood.Measurement"
    assert typed(place, "likelihood run dataset:mnist").given == ("run", "dataset:mnist", LikelihoodRequest(), "cpu")
    every: dict[str, Any] = {
        "num": 30, "steps": 4, "probes": 2, "seed": 5, "batch_size": 7, "weights": "raw", "data_dir": "in",
        "on_bad": "stop", "max_pixels": 99,
    }  # fmt: skip
    call = typed(place, f"likelihood run dataset:mnist {as_line(every)}")
    assert call.given == ("run", "dataset:mnist", LikelihoodRequest(**every), "cpu")
    assert set(every) == {each.name for each in fields(LikelihoodRequest)}


def test_statistics_go_into_a_file_that_can_be_made(
    typed: Callable[..., Called], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the long work: not over another file unless told so, not into a folder that is missing, only as .npz."""
    (own_folder / "there.npz").write_bytes(b"mine")
    for line, code, said in (
        ("fid a --save-stats there.npz", 1, "there.npz exists"), ("fid a --save-stats no/s.npz", 1, "no folder no"),
        ("fid a --save-stats s.npy", 2, "must end in .npz"), ("fid a", 2, "B is missing"),
    ):  # fmt: skip
        assert cli.run(line.split()) == code and said in capsys.readouterr().err, line
    for line in ("fid a --save-stats there.npz --force", "fid a --save-stats new.npz"):
        assert typed("pretrained.distance.Comparison", line).given == ("a", None, MeasureRequest(), CPU)


FIT = (
    "--net cnn --layers 3 --channels 8 --kernel-size 5 --scales 2 --steps 9 --lr 0.5 --input image --jitter 0.25 "
    "--average 0.5 --early-stop window --patience 4 --window 5 --save-every 2 --max-pixels 99 --reference c.png "
    "--seed 3 --compile --noise-sigma 25"
)
FITTED: dict[str, Any] = {
    "net": "cnn", "layers": 3, "channels": 8, "kernel_size": 5, "scales": 2, "steps": 9, "lr": 0.5, "input": "image",
    "jitter": 0.25, "average": 0.5, "early_stop": "window", "patience": 4, "window": 5, "save_every": 2,
    "max_pixels": 99, "reference": "c.png", "seed": 3, "compile": True, "noise_sigma": 25.0,
}  # fmt: skip


def test_a_fit_begins_as_it_was_typed(typed: Callable[..., Called]) -> None:
    """With `--out` the answer stays there, and is not copied to here."""
    call = typed("dip.recipe.begin", "dip fit p.png")
    assert call.given == ("p.png", FitRequest(), "cpu", None) and call.named == {"deliver": True}
    line = f"dip fit p.png {FIT} --task super-resolve --factor 2 --size 32 --out to"
    call = typed("dip.recipe.begin", line)
    assert call.given == ("p.png", FitRequest(task="super-resolve", factor=2, size=32, **FITTED), "cpu", "to")
    assert call.named == {"deliver": False}
    call = typed("dip.recipe.begin", "dip fit p.png --task inpaint --mask m.png --weights imagenet --net resnet18")
    assert call.given[1] == FitRequest(task="inpaint", mask="m.png", weights="imagenet", net="resnet18")
    for line, steps in (("dip fit --resume there", None), ("dip fit --resume there --steps 9", 9)):
        assert typed("dip.fit_picture.open_fit", line).given == ("there", "cpu", steps)


def test_a_restoration_begins_as_it_was_typed(typed: Callable[..., Called]) -> None:
    place = "restoration.with_dip.begin"
    call = typed(place, "restore p.png --with-dip --model run")
    assert call.given == ("p.png", "run", RestoreRequest(), "cpu", None, "restored.png")
    call = typed(
        place,
        "restore p.png --with-dip --model run --mix 0.25 --start-t 9 --init-mode noise --sampler heun "
        f"{FIT} --size 32 --run t --out a.png",
    )
    expected = RestoreRequest(0.25, 9, "noise", "heun", FitRequest(size=32, **FITTED))
    assert call.given == ("p.png", "run", expected, "cpu", "t", "a.png")
    place = "restoration.finish.begin"
    call = typed(place, "restore p.png")
    assert call.given == ("p.png", "photos", FinishRequest(), None, None, False, "cpu")
    call = typed(
        place,
        "restore p --model run --noise 20 --calls 7 --seed 3 --reference c.png --max-pixels 99 --out a --run b --force",
    )
    request = FinishRequest(noise=20.0, calls=7, seed=3, reference="c.png", max_pixels=99)
    assert call.given == ("p", "run", request, "a", "b", True, "cpu")
    for words, named in (
        ("--task inpaint --mask m.png", {"task": "inpaint", "mask": "m.png"}),
        ("--task inpaint --mask auto", {"task": "inpaint", "mask": "auto"}),
        ("--task upscale --scale 2", {"task": "upscale", "scale": 2}),
        ("--task deblur --kernel gaussian:1.5", {"task": "deblur", "kernel": "gaussian:1.5"}),
        ("--task jpeg --noise 12", {"task": "jpeg", "noise": 12.0}),
    ):
        assert typed(place, f"restore p.png {words}").given[2] == FinishRequest(**named)


def test_a_restoration_goes_on_as_it_was_typed(typed: Callable[..., Called], tmp_path: Path) -> None:
    """The run says of which kind it is."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "config.json").write_text(json.dumps({"kind": "finish"}))
    assert typed("restoration.finish.reopen", f"restore --resume {there}").given == (str(there), "cpu")
    (there / "config.json").write_text(json.dumps({"kind": "restore"}))
    for more, steps in (("", None), ("--steps 9", 9)):
        call = typed("restoration.with_dip.reopen", f"restore --resume {there} {more}")
        assert call.given == (str(there), "cpu", steps)


def test_an_evaluation_is_planned_as_it_was_typed(typed: Callable[..., Called]) -> None:
    """What belongs to a run is refused for a data set, and the other way round."""
    place = "evaluation.evaluate.plan"
    assert typed(place, "evaluate run --classifier clf").given == (EvaluateRequest("run", "clf", device=CPU),)
    drawing: dict[str, Any] = {"per_class": 4, "sampler": "heun", "steps": 5, "seeds": 6, "seed": 7, "batch_size": 8}
    line = f"evaluate run --classifier clf {as_line(drawing)} --labels-file a --labels-file b --guidance 3 --out to"
    expected = EvaluateRequest(
        "run", "clf", labels_files=("a", "b"), guidance_scale=3.0, out="to", device=CPU, **drawing
    )
    assert typed(place, line).given == (expected,)
    looking: dict[str, Any] = {"num": 5, "data_dir": "in", "image_size": 24}
    line = f"evaluate dataset:shapes --classifier clf {as_line(looking)}"
    assert typed(place, line).given == (EvaluateRequest("dataset:shapes", "clf", device=CPU, **looking),)
    for name, value in (drawing | {"labels_file": "a", "guidance": 3}).items():
        assert cli.run(f"evaluate dataset:shapes --classifier clf {as_line({name: value})}".split()) == 2
    for name, value in looking.items():
        assert cli.run(f"evaluate run --classifier clf {as_line({name: value})}".split()) == 2


def test_a_study_is_planned_as_it_was_typed(typed: Callable[..., Called]) -> None:
    place = "studies.compare.plan_study"
    call = typed(place, "compare --out s")
    assert call.given[:3] == (Path("s"), StudyRequest(), 1)
    line = (
        "compare --out s --datasets mnist,shapes --corruptions fog --models ddpm,wgan --severity 5 --image-size 16 "
        "--data-dir mnist=in --steps ddpm=4,wgan=5 --num 30 --features clf --seed 6 --seeds 2 --device cpu --parallel 2"
    )
    expected = StudyRequest(
        ("mnist", "shapes"), ("fog",), ("ddpm", "wgan"), severity=5, image_size=16, data_dir={"mnist": "in"},
        steps={"ddpm": 4, "wgan": 5}, num=30, features="clf", seed=6, seeds=2, device="cpu",
    )  # fmt: skip
    assert typed(place, line).given[:3] == (Path("s"), expected, 2)
    request = typed(place, "compare --out s --corruptions all --steps 9 --data-dir in=side --minutes 2").given[1]
    assert request == StudyRequest(corruptions=tuple(request.corruptions), steps=9, data_dir="in=side", minutes=2.0)
    assert len(request.corruptions) == 16 and request.corruptions[0] == "identity"
    for wrong in ("--steps 0", "--steps ddpm=0", "--steps ddpm=4,5", "--data-dir a=b --data-dir mnist=in"):
        assert cli.run(["compare", "--out", "s", *wrong.split()]) == 2


def test_a_study_of_priors_is_planned_as_it_was_typed(typed: Callable[..., Called]) -> None:
    place = "studies.compare_priors.plan_study"
    assert typed(place, "compare-priors --out s").given == (Path("s"), PriorRequest())
    line = (
        "compare-priors --out s --dataset shapes --nets cnn,conv2 --uses start,target --steps 9 --prior-steps 8 "
        "--noise 0.5 --measure-every 3 --samples 20 --seed 4 --seeds 2 --image-size 16 --features clf --fid "
        "--data-dir in --device cpu --parallel 2 --retry"
    )
    expected = PriorRequest(
        "shapes", ("cnn", "conv2"), ("start", "target"), steps=9, prior_steps=8, noise=0.5, measure_every=3, num=20,
        seed=4, seeds=2, image_size=16, features="clf", fid=True, data_dir="in", device="cpu",
    )  # fmt: skip
    assert typed(place, line).given == (Path("s"), expected)
    assert typed(place, "compare-priors --out s --no-fid").given[1] == PriorRequest(fid=False)
    for wrong in ("--uses begin", "--nets conv3", "--noise 0", "--steps 0", "--samples 2", "--dataset shape"):
        assert cli.run(["compare-priors", "--out", "s", *wrong.split()]) == 2


def test_the_other_commands_pass_on_what_was_typed(typed: Callable[..., Called]) -> None:
    data = "--corruption fog --severity 5 --image-size 16 --split test --data-dir in --on-bad stop --max-pixels 99"
    loaded: dict[str, Any] = {
        "name": "mnist", "corruption": "fog", "severity": 5, "image_size": 16, "split": "test", "data_dir": Path("in"),
        "on_bad": "stop", "max_pixels": 99,
    }  # fmt: skip
    for line in (f"data preview mnist {data} --out g.png", f"data export mnist to {data}"):
        assert typed("data.datasets.load_data", line).named == loaded | {"flip": None}
    call = typed("report", "report run --out p.html --force")
    assert call.given == (Path("run"), Path("p.html")) and call.named == {"force": True}
    call = typed("report", "report")
    assert call.given == (None, None) and call.named == {"force": False}
    call = typed("pretrained.exchange.export_run", "export run to --weights raw")
    assert call.given == ("run", Path("to"), "diffusers", "raw")
    assert typed("pretrained.exchange.export_run", "export run to").given[3] == "ema"
    assert typed("pretrained.exchange.import_run", "import a/b to").given == ("a/b", Path("to"))
    assert typed("reports.describe.describe_run", "info run").given == ("run",)


def test_a_home_folder_is_found_where_the_shell_left_it(
    typed: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out=~/run`: a shell replaces `~` only at the beginning of a word."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    call = typed("pretrained.train.plan", "train dcgan --out=~/run")
    assert Path(call.given[1].out) == Path("/home/me/run")


@pytest.mark.parametrize(
    "line, said",
    [
        ("sample --threshold 0.9 --no-clip", "--threshold and --no-clip exclude each other"),
        ("train ddpm --ema-decay 1", "--ema-decay"),
        ("train ddpm --severity 2", "--severity needs a --corruption"),
        ("data preview mnist --severity 2 --out g.png", "--severity needs a --corruption"),
        ("data export mnist to --severity 2", "--severity needs a --corruption"),
        ("data preview mnist --corruption all --severity 2 --out g.png", "Leave --severity out"),
    ],
)
def test_what_excludes_each_other_is_wrong_usage(
    line: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read: a training that began here would take minutes."""
    for work in ("pretrained.train.plan", "pretrained.sampling.plan", "data.datasets.load_data"):
        monkeypatch.setattr(f"minidiff.{work}", lambda *_, **__: pytest.fail("it went on"))
    assert cli.run(line.split()) == 2 and said in capsys.readouterr().err


# --- what is said on the way ----------------------------------------------------------------------------------------


def test_a_drawing_is_told_in_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What will be drawn, what is doubted before and after, what was written; `clip` is two flags."""
    facts = ["`clip` False may help", "`clip` 0.995 may, too", "leave `clip` out"]

    def draw(_: Any, aside: Callable[[str], None]) -> Any:
        aside("by the way")
        return SimpleNamespace(written=["a.png", "b.png"], problems=facts)

    order = SimpleNamespace(lines=["`start_t` is 5"], warnings=["`steps` are few"], total=1, unit="image", draw=draw)
    monkeypatch.setattr("minidiff.pretrained.sampling.plan", lambda request: order)
    assert cli.run(["sample"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["--start-t is 5", "by the way", "written   a.png", "written   b.png"]
    assert [line for line in said.err.splitlines() if line.startswith("Warning")] == [
        "Warning: --steps are few", "Warning: --no-clip may help", "Warning: --threshold 0.995 may, too",
        "Warning: leave --no-clip or --threshold out",
    ]  # fmt: skip


class Job:
    """A training that can be told of, and does nothing."""

    def __init__(self) -> None:
        self.data, self.config = SimpleNamespace(notes=["two files are bad"]), SimpleNamespace()
        self.folder, self.calls, self.warn = Path("run"), list[str](), print

    def describe(self) -> str:
        return "the plan"

    def start(self) -> str:
        self.calls.append("start")
        return "the folder"

    def run(self) -> None:
        self.calls.append("run")
        self.warn("the `lr` is high")

    def conclusion(self) -> str:
        return "the end"

    def close(self) -> None:
        self.calls.append("close")


@pytest.mark.parametrize("how, printed", [("", ["the plan", "the folder", "the end"]), ("--quiet", ["the end"])])
def test_a_training_says_what_it_does(
    how: str, printed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run says its plan even if it is to be quiet: that is its result. The folder is let go of in the end."""
    job = Job()
    monkeypatch.setattr("minidiff.pretrained.train.plan", lambda kind, request: job)
    monkeypatch.setattr("minidiff.cli.train_run.next_command", lambda training, folder: "sample")
    assert cli.run(f"train ddpm --dry-run {how}".split()) == 0
    assert capsys.readouterr().out == "the plan\n" and job.calls == ["close"]
    assert cli.run(f"train ddpm {how}".split()) == 0
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if not line.startswith("next")] == printed
    assert "Warning: two files are bad." in said.err and "Warning: the --lr is high" in said.err
    assert job.calls == ["close", "start", "run", "close"]


def test_pictures_are_dehazed_as_it_was_typed(typed: Callable[..., Called], own_folder: Path) -> None:
    """A run may come first: what has a config.json. With --resume the settings are those of the folder."""
    place = "dehaze.pictures.begin"
    assert typed(place, "dehaze a.png").given == (("a.png",), None, ClearRequest(), None, None, False, CPU)
    (own_folder / "run").mkdir()
    (own_folder / "run" / "config.json").touch()
    line = (
        "dehaze run a.png b.png --strength 0.5 --steps 3 --start-t 7 --seed 4 --reference r.png --max-pixels 99 "
        "--dump-stages --out to --run there --force --device cpu"
    )
    request = ClearRequest(strength=0.5, steps=3, start_t=7, seed=4, reference="r.png", max_pixels=99, dump_stages=True)
    assert typed(place, line).given == (("a.png", "b.png"), "run", request, "to", "there", True, CPU)
    assert typed(place, "dehaze a.png --start-t noise").given[2] == ClearRequest(start_t=None)
    assert typed(place, "dehaze a.png --start-t auto").given[2] == ClearRequest(start_t="auto") == ClearRequest()
    assert typed("dehaze.pictures.reopen", "dehaze --resume there").given == ("there", CPU)
    for wrong in ("dehaze", "dehaze a.png --resume there", "dehaze --resume there --steps 3"):
        assert cli.run(wrong.split()) == 2


def test_the_page_is_served_as_it_was_typed(typed: Callable[..., Called]) -> None:
    """What is left out is as in a script: the help names the defaults, which are with the server."""
    place = "demo.serve.serve_demo"
    call = typed(place, "demo")
    defaults = {name: each.default for name, each in signature(serve_demo).parameters.items() if name in call.named}
    assert call.given == ("127.0.0.1", None) and call.named | {"on_ready": print} == defaults
    call = typed(place, "demo --host 0.0.0.0 --port 8000 --max-pixels 5000 --device cpu --open")
    del call.named["on_ready"]
    assert call.given == ("0.0.0.0", 8000)
    assert call.named == {"device": "cpu", "max_pixels": 5000, "open_browser": True}
