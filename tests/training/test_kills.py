"""Trainings of every kind, fits, restorations and the cells of a study, killed at any moment and resumed."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import APART, differences, until_done

from minidiff import cli
from minidiff.studies import cell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]
SEEDS = range(int(os.environ.get("KILL_SEEDS", "2")))
KILLS = 10  # of each piece of work


@pytest.fixture(autouse=True)
def in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("whole", "killed"):
        Path(name).mkdir()


def command(line: str, home: str) -> Callable[[], int]:
    def work() -> int:
        os.chdir(home)
        return cli.run(line.split())

    return work


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["ddpm", "dcgan", "wgan", "wgan-gp", "classifier", "dip-prior"])
def test_a_training(kind: str, seed: int, clf: Path) -> None:
    small = "--image-size 16 --batch-size 8 --steps 24 --save-every 4 --device cpu --out run"
    every = "--measure-every 8" if kind == "classifier" else "--sample-every 8"
    width = "" if kind in ("ddpm", "dip-prior") else "--width 4"
    line = f"train {kind} --dataset folder --data-dir {clf.parent / 'data'} {small} {every} {width}"
    resume = f"train {kind} --resume run --device cpu"
    compare_ends(line, resume, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_by_muon(seed: int, clf: Path) -> None:
    """Fails when the momentum is not saved, or a product depends on where in memory its matrices lie."""
    small = "--image-size 16 --batch-size 8 --steps 24 --save-every 4 --sample-every 8 --device cpu --out run"
    line = f"train ddpm --muon --dataset folder --data-dir {clf.parent / 'data'} {small}"
    compare_ends(line, "train ddpm --resume run --device cpu", seed)


def compare_ends(line: str, resume: str, seed: int) -> None:
    """Do the work once undisturbed, and once with kills; both folders hold the same in the end.

    What was killed before it had a config.json is begun once more.
    """

    def go_on() -> int:
        os.chdir("killed")
        return cli.run((resume if Path("run/config.json").exists() else line).split())

    began = time.monotonic()
    assert until_done(command(line, "whole"), command(line, "whole"), 0, 0, 0) == 0
    hits = until_done(command(line, "killed"), go_on, KILLS, time.monotonic() - began, seed)
    found = differences(Path("whole"), Path("killed"))
    print(f"KILLS {line.split()[:2]} seed {seed}: {hits} kills, {len(found)} files differ {found}")
    assert hits and not found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fit(seed: int, clf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saves its state every minute; here after every step."""
    monkeypatch.setattr("minidiff.dip.job.SAVE_SECONDS", 0.0)
    picture = sorted((clf.parent / "data/light").iterdir())[0]
    line = f"dip fit {picture} --net cnn --channels 4 --steps 30 --early-stop off --device cpu --out run"
    compare_ends(line, "dip fit --resume run --device cpu", seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fits_of_a_folder(seed: int, clf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minidiff.dip.job.SAVE_SECONDS", 0.0)
    Path("pictures").mkdir()
    for picture in sorted((clf.parent / "data/light").iterdir())[:3]:
        shutil.copy(picture, "pictures")
    place = Path("pictures").resolve()
    line = f"dip fit {place} --net cnn --channels 4 --steps 15 --early-stop off --device cpu --out run"
    compare_ends(line, "dip fit --resume run --device cpu", seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_restoration(seed: int, clf: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minidiff.dip.job.SAVE_SECONDS", 0.0)
    picture = sorted((clf.parent / "data/light").iterdir())[0]
    line = (
        f"restore {picture} --with-dip --model {trained} --noise-sigma 20 --start-t 10 --net cnn --channels 4 "
        "--steps 20 --early-stop off --device cpu --run run"
    )
    compare_ends(line, "restore --resume run --device cpu", seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_study(seed: int, clf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells are killed, each in the process that works on it. The numbers depend on how many threads that has.

    The times in its files vary, and so do the pictures before the last: they are left out where they take long.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = clf.parent / "data"
    plan = (
        f"compare --out study --datasets folder --data-dir folder={data} --corruptions identity --models dcgan "
        f"--image-size 16 --steps 12 --num 24 --features {clf} --device cpu"
    )
    began = time.monotonic()
    assert until_done(command(plan, "whole"), command(plan, "whole"), 0, 0, 0) == 0
    longest = (time.monotonic() - began) / 4  # about what a part of it takes
    Path("killed/study").mkdir()
    shutil.copy("whole/study/study.json", "killed/study")
    hits = 0
    for name in ("folder.identity", "folder.identity.dcgan"):

        def work(name: str = name) -> int:
            os.chdir("killed")
            return cell.main(["study", name, "cpu"])

        hits += until_done(work, work, KILLS, longest, seed)
    assert until_done(command("compare --out study", "killed"), command("compare --out study", "killed"), 0, 0, 0) == 0
    found = differences(Path("whole"), Path("killed"), leave_out=(*APART, "report.html", "samples.json", "/samples/0"))
    assert Path("killed/study/cells/folder.identity.dcgan/run/samples/0000012.png").exists()
    print(f"KILLS compare seed {seed}: {hits} kills, {len(found)} files differ {found}")
    assert hits and not found
