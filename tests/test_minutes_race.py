"""The race against time: what is missing, in which order, what the search picks, and what the table says of results.

No contender is trained and no other package is needed: the results are a small file, made here.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture()
def minutes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import minutes

    return minutes


@pytest.fixture()
def race(minutes: ModuleType) -> ModuleType:
    """Its chapter of jobs and results."""
    import minutes_race

    return minutes_race


def rows_of(jobs: list[Any], fd: float = 50.0) -> list[dict[str, Any]]:
    """Make the lines that these jobs would write."""
    about = {"steps": 10, "images": 320, "train_seconds": 20.0, "sample_seconds": 4.0, "sampler": "ddim", "calls": 9}
    rest = about | {"fd": fd, "kd": fd / 100, "parameters": 1_900_000}
    return [job.row(each) | rest for job in jobs for each in job.minutes]


def test_what_is_missing(race: ModuleType) -> None:
    """A constant rate gives all times in one training, a schedule needs one for each; short times of seed 0 are first.

    Fails when what is there is done again, when another preset or batch counts as the same, when a tuned race begins
    before its search has ended.
    """
    names, task = ["minidiff", "lucidrains"], race.Task()
    jobs = race.missing(names, task, (15, 2), (1, 0), [], None)
    assert [(job.contender, job.seed, job.minutes) for job in jobs] == [
        ("minidiff", 0, (2,)), ("lucidrains", 0, (2, 15)), ("minidiff", 0, (15,)),
        ("minidiff", 1, (2,)), ("lucidrains", 1, (2, 15)), ("minidiff", 1, (15,)),
    ]  # fmt: skip
    rows = rows_of(jobs[:2])
    left = race.missing(names, task, (2, 15, 60), (0,), rows, None)
    assert [(job.contender, job.minutes) for job in left] == [
        ("minidiff", (15,)), ("minidiff", (60,)), ("lucidrains", (60,)),
    ]  # fmt: skip
    other = [row | {"version": "another"} for row in rows if row["contender"] == "minidiff"]
    assert ("minidiff", (2,)) in [(job.contender, job.minutes) for job in
                                  race.missing(names, task, (2,), (0,), other, None)]  # fmt: skip
    assert not race.missing(names, task, (2,), (0,), rows, None)
    assert race.missing(names, race.Task(num=10), (2,), (0,), rows, None)


def test_the_search_for_a_rate(race: ModuleType) -> None:
    """The best rate races beside the published one, once every rate of the search has a result."""
    task = race.Task()
    lucidrains, dit = race.CONTENDERS["lucidrains"], race.CONTENDERS["smalldiffusion-dit"]
    jobs = race.searches(lucidrains, task)
    assert [job.rate for job in jobs] == pytest.approx([1e-4, 1e-4 / 3, 3e-4, 1e-3])
    assert {job.task.num for job in jobs} == {race.TUNED_BY}
    assert [(job.rate, job.batch) for job in race.searches(dit, task)][:2] == [(1e-3, 1024), (1e-3 / 3, 64)]
    rows = rows_of(jobs[:3]) + rows_of(jobs[3:], fd=40)
    assert race.tuned(lucidrains, rows[:3], task) is None
    assert race.tuned(lucidrains, rows, task) == (1e-3, 16)
    assert race.tuned(lucidrains, [*rows[:3], rows[3] | {"fd": float("nan")}], task) == (1e-4, 16)

    first = race.missing(["lucidrains"], task, (2,), (0,), [], task)
    assert (first[0].task.num, first[0].rate, len(first)) == (2000, 1e-4, 5)
    then = race.missing(["lucidrains"], task, (2,), (0,), [*rows, *rows_of(first[:1])], task)
    assert [(job.task.num, job.rate) for job in then] == [(2000, pytest.approx(1e-3))]


def test_the_table(minutes: ModuleType, race: ModuleType, tmp_path: Path) -> None:
    """Medians with the least and the greatest, ratios to the best of others, the search, pictures; half a line is none.

    Fails when the ratio takes one of ours for another package, or the search's 500 images for a race.
    """
    task, rows = race.Task(), []
    for name, fds in (("minidiff", (4.0, 5.0, 6.0)), ("minidiff-0.1", (10.0,)), ("lucidrains", (50.0, 40.0))):
        for seed, fd in enumerate(fds):
            for job in race.missing([name], task, (2, 5), (seed,), [], None):
                rows += rows_of([job], fd)
    for job, fd in zip(race.searches(race.CONTENDERS["lucidrains"], task), (9, 8, 1, 7), strict=True):
        rows += rows_of([job], fd)
    rows.append(rows[0] | {"rate": 3e-4, "contender": "lucidrains", "batch": 16, "fd": 20.0,
                           "version": race.CONTENDERS["lucidrains"].version})  # fmt: skip
    for row in rows:
        race.add_result(tmp_path, row)
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"contender": "minid')
    race.add_result(tmp_path, rows[0] | {"seed": 3, "fd": 5.0})
    assert len(race.read_results(tmp_path)) == len(rows) + 1
    done = CliRunner().invoke(minutes.main, ["table", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for line in (
        "| FD | 2 min | 5 min |",
        "| minidiff | 5 (4 to 6) | 5 (4 to 6) |",
        "| lucidrains, published (0.0001, batch 16) | 45 (40 to 50) | 45 (40 to 50) |",
        "| lucidrains, tuned (0.0003, batch 16) | 20 |  |",
        "| minidiff / best other package | 0.25 | 0.11 |",
        "| minidiff / minidiff 0.1 | 0.50 | 0.50 |",
        "| minidiff | 1.9M | 2 | 960 | ddim | 9 | 2 |",
        "| lucidrains | 0.0001, 16: 9; 3.3e-05, 16: 8; 0.0003, 16: 1; 0.001, 16: 7 | 0.0003, 16 |",
    ):
        assert line in done.stdout, done.stdout
    drawn = CliRunner().invoke(minutes.main, ["plot", "--out", str(tmp_path), "--to", str(tmp_path / "curves.png")])
    assert drawn.exit_code == 0 and (tmp_path / "curves.png").stat().st_size > 10_000
    empty = CliRunner().invoke(minutes.main, ["table", "--metric", "told", "--out", str(tmp_path)])
    assert empty.exit_code == 1 and "no scenes told" in empty.output


def test_a_package_that_is_not_there(minutes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line says what to install, before anything is made."""
    monkeypatch.setattr("contenders.find_spec", lambda module: None)
    words = ["train", "smalldiffusion-dit", "--features", "none", "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(minutes.main, words)
    assert told.exit_code == 1 and "pip install smalldiffusion torch-ema" in told.output
    assert not (tmp_path / "out").exists()
