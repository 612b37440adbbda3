"""Every next step that a command prints is typed here, as it was printed, and works.

They are found in what a command says: a line `next`, `then`, or `Resume with:`, and commands in backticks.
"""

import html
import os
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_training as train
from diffusers_folders import SMALL, peer, save
from diffusers_weights import randomise
from fits import interrupt_at
from studied import Inside
from torch import nn

import minidiff
from minidiff import cli
from minidiff.images.files import write_image
from minidiff.studies import processes
from minidiff.training import journal

PRINTED = re.compile(
    r"^(?:next|then) +(minidiff .*)$|(?:[Rr]esume with|[Gg]o on with|Start with|start with): (minidiff [^)\n]*)|"
    r"`(minidiff \w+ [^`]+)`",
    re.MULTILINE,
)
PACKAGE = Path(minidiff.__file__).parent


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space in its name, so that a path that is not quoted shows."""
    (tmp_path / "my work").mkdir()
    monkeypatch.chdir(tmp_path / "my work")
    return tmp_path / "my work"


Typing = Callable[..., list[str]]


@pytest.fixture()
def typing(capsys: pytest.CaptureFixture[str]) -> Typing:
    """Type a command; return the commands that it prints as next steps."""

    def run(*words: object, code: int = 0) -> list[str]:
        capsys.readouterr()
        assert cli.run([str(word) for word in words]) == code
        said = capsys.readouterr()
        return ["".join(found) for found in PRINTED.findall(said.out + said.err)]

    return run


def works(step: str, *more: str) -> None:
    """Type a printed command, twice: what the first wrote does not keep the second from working."""
    words = shlex.split(step)[1:] + list(more)
    assert cli.run(words) == 0, step
    assert cli.run(words) == 0, step


# ---- import and export ----


@pytest.mark.parametrize(
    "labels", ["table", pytest.param("none", marks=pytest.mark.slow), pytest.param("linear", marks=pytest.mark.slow)]
)
def test_after_an_import(labels: str, typing: Typing) -> None:
    """Fails when a network with labels is to be sampled without: the peer's draws nothing then, nor does ours."""
    network = peer(SMALL | {"layers_per_block": 1, "num_class_embeds": 3 if labels == "table" else None})
    if labels == "linear":
        network.class_embedding = nn.Linear(3, 64)
        randomise(network)
    save(network, Path("their folder"))
    for step in typing("info", "their folder", code=1):
        if step.startswith("minidiff import"):
            (step,) = typing(*shlex.split(step)[1:])
            assert step.startswith("minidiff sample 'runs/their folder'")
            works(step, "--steps", "2")
            return
    raise AssertionError("info did not say how to import it")


def test_after_an_export(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import diffusers

    assert cli.run(["export", str(trained), "for 'them'"]) == 0
    found = re.search(r"^written .*?: (diffusers\..*)$", capsys.readouterr().out, re.MULTILINE)
    assert found and found[1].startswith("diffusers.DDPMPipeline.from_pretrained(")
    assert eval(found[1], {"diffusers": diffusers}).unet.config.sample_size == 16


# ---- trainings ----


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of pictures; a name has a comma and a space in it."""
    home = tmp_path_factory.mktemp("labelled pictures")
    for number in range(16):
        name = ("dark", "light, bright")[number % 2]
        write_image(home / name / f"{number}.png", np.full((16, 16, 3), 60 + 100 * (number % 2) + number, np.uint8))
    return home


@pytest.mark.parametrize(
    "more",
    [("--conditional",), pytest.param((), marks=pytest.mark.slow),
     pytest.param(("--conditional", "--label-dropout", "0"), marks=pytest.mark.slow)],
    ids=str,
)  # fmt: skip
def test_after_a_training(more: tuple[str, ...], labelled: Path, tiny_preset: str, typing: Typing) -> None:
    (step,) = typing(*train(labelled, *more, "--steps", "2", "--out", "my run"))
    assert step.startswith("minidiff sample 'my run'")
    works(step, "--steps", "2")


@pytest.mark.slow
def test_after_a_gan(labelled: Path, typing: Typing) -> None:
    data = ["--dataset", "folder", "--data-dir", labelled, "--image-size", "16"]
    small = "--device cpu --width 4 --latent-dim 8 --steps 2 --batch-size 4 --sample-every 2"
    (step,) = typing("train", "dcgan", *data, *small.split())
    works(step)


@pytest.mark.slow
def test_after_a_classifier(labelled: Path, typing: Typing) -> None:
    """It named samples.npz, which nobody has yet."""
    data = ["--dataset", "folder", "--data-dir", labelled, "--image-size", "16"]
    small = "--width 4 --steps 2 --batch-size 4 --device cpu"
    (step,) = typing("train", "classifier", *data, *small.split(), "--out", "my classifier")
    assert "--classifier 'my classifier'" in step
    works(step)


def stop_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the signal of an interruption come when a training has logged its first step."""
    log, done = journal.log, list[int]()

    def interrupted(*given: Any) -> None:
        if not done:
            done.append(1)
            signal.raise_signal(signal.SIGTERM)
        log(*given)

    monkeypatch.setattr(journal, "log", interrupted)


@pytest.mark.slow
def test_after_an_interrupted_training(
    photos: Path, tiny_preset: str, typing: Typing, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_in(patch)
        (step,) = typing(*train(photos, "--out", "my run"), code=143)
    assert step == "minidiff train ddpm --resume 'my run'"
    works(step)


# ---- fits and restorations ----


@pytest.fixture()
def photo() -> str:
    y, x = np.mgrid[0:16, 0:16] / 16
    write_image("a photo.png", (255 * np.stack([x, y, x * y], axis=2)).astype(np.uint8))
    return "a photo.png"


FIT = ["--channels", "8", "--steps", "12", "--save-every", "5", "--window", "4"]


@pytest.mark.slow
def test_after_a_fit(photo: str, trained: Path, typing: Typing) -> None:
    """With a model, which has 50 timesteps: at 100 no chain could start. Without one, that of photographs draws."""
    instead, then, more = typing("dip", "fit", photo, *FIT)
    assert instead == "minidiff restore 'a photo.png'" and then.startswith("minidiff sample photos --start-t 100")
    works(instead)
    works(then)
    os.symlink(trained, "runs/a model")
    assert more.startswith(
        "minidiff dip fit --resume 'runs/dip-a photo-1' --steps "
    )  # it ended while it still improved
    assert cli.run([*shlex.split(more)[1:-1], "14"]) == 0  # fewer steps than advised, to save time
    step = typing("dip", "fit", photo, *FIT)[1]
    assert step == "minidiff sample 'runs/a model' --start-t 5 --init dip-3.png"  # the longer fit wrote dip-2.png
    works(step)
    Path("pictures").mkdir()
    os.rename(photo, "pictures/a.png")
    for step in typing("dip", "fit", "pictures", *FIT)[:2]:
        works(step)


@pytest.mark.slow
def test_a_model_that_draws_nothing_without_labels_is_passed_over(photo: str, trained: Path, typing: Typing) -> None:
    Path("runs").mkdir()
    os.symlink(trained, "runs/a model")
    save(peer(SMALL | {"layers_per_block": 1, "num_class_embeds": 3}), Path("theirs"))
    assert cli.run(["import", "theirs", "runs/newer"]) == 0
    step = typing("dip", "fit", photo, *FIT)[1]
    assert "'runs/a model'" in step
    works(step)


@pytest.mark.slow
def test_after_an_interrupted_fit(photo: str, trained: Path, typing: Typing, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where its answer is asked for before it is there."""
    with monkeypatch.context() as patch:
        interrupt_at(10, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        _, step = typing("dip", "fit", photo, *FIT, "--out", "my fit", code=143)
    (same,) = typing("sample", trained, "--start-t", "5", "--init", "my fit", code=1)
    assert step == same == "minidiff dip fit --resume 'my fit'"
    assert cli.run(shlex.split(step)[1:]) == 0


@pytest.mark.slow
def test_after_an_interrupted_restoration(
    photo: str, trained: Path, typing: Typing, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(10, patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        (step,) = typing("restore", photo, "--with-dip", "--model", trained, *FIT, "--run", "my picture", code=143)
    assert step == "minidiff restore --resume 'my picture'"
    assert cli.run(shlex.split(step)[1:]) == 0


# ---- where there is nothing yet, or something else ----


@pytest.mark.usefixtures("small")
def test_where_there_is_no_run(typing: Typing) -> None:
    """All name the same command: its dry run is of the whole training, with all its defaults."""
    for words, code in ((["info"], 0), (["report"], 1), (["sample"], 1)):
        assert typing(*words, code=code) == ["minidiff train ddpm"]
    assert cli.run(["train", "ddpm", "--dry-run"]) == 0


def test_where_the_run_is_of_another_kind(clf: Path, typing: Typing) -> None:
    os.symlink(clf, "a classifier")
    (step,) = typing("export", "a classifier", "out", code=1)
    assert step == "minidiff info 'a classifier'"
    works(step)


def test_commands_in_messages_exist() -> None:
    """Every command that some message names, anywhere in the package: each word of it is known to the command line."""
    named = set()
    for path in PACKAGE.rglob("*.py"):
        named |= set(re.findall(r"`minidiff ([a-z]+(?: [a-z-]*[a-z])?)", path.read_text()))
    assert len(named) > 10
    for words in named:
        name, _, sub = words.partition(" ")
        command = cli.Commands().get_command(None, name)  # type: ignore[arg-type]
        assert command is not None, words
        if sub and hasattr(command, "commands"):
            assert sub in command.commands, words


def test_all_that_print_a_next_step_are_here() -> None:
    """Fails when another module begins to print one: type it above, then name the module here."""
    printed = re.compile(r'"(next|then|\{word\}) +minidiff|([Rr]esume|[Gg]o on|[Ss]tart) with: (minidiff|\{)')
    files = [path for path in PACKAGE.rglob("*.py") if printed.search(path.read_text())]
    sites = {path.relative_to(PACKAGE).as_posix() for path in files}
    assert sites == {
        "cli/dip.py", "cli/info.py", "cli/interop.py", "cli/picture_run.py", "cli/study_run.py", "cli/train_run.py",
        "reports/report.py",
    }  # fmt: skip


# ---- studies ----


@pytest.mark.slow
@pytest.mark.usefixtures("small", "inside", "untimed")
def test_after_an_interrupted_study(clf: Path, typing: Typing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line at its start and the one at its end are the same command; the report has the one that repeats it all."""
    start, told = processes.start, list[int]()

    def once(*given: Any, **named: Any) -> Any:
        if not told:
            told.append(1)
            signal.raise_signal(signal.SIGTERM)
        return start(*given, **named)

    words = ["compare", "--datasets", "shapes", "--models", "wgan", "--num", "20", "--steps", "2", "--image-size", "16"]
    with monkeypatch.context() as patch:
        patch.setattr(processes, "start", once)
        patch.setattr(Inside, "wait", lambda *_: 0)
        steps = typing(*words, "--features", clf, "--device", "cpu", "--out", "my study", code=143)
    assert len(steps) == 2 and set(steps) == {"minidiff compare --out 'my study'"}
    works(steps[0])
    page = html.unescape(Path("my study/report.html").read_text())
    (again,) = re.findall(r"minidiff compare \\\n(?:.*\\\n)*.*--out [^<\n]*", page)
    works(again.replace("\\\n", ""), "--dry-run")
