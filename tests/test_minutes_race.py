"""The race against time: seconds become steps, what is missing, what the search picks, what the table says of results.

No contender is trained and no other package is needed: the rates and the results are small files, made here.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PLACE = ("fashion-mnist", 32)


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


def write_rates(folder: Path, names: list[str], cpu: str = "a CPU", step_seconds: float = 2.0) -> None:
    """Write the file that `rates` would write, with the same seconds for each."""
    import contenders
    import minutes_rates

    steps = [step for name in names for step in minutes_rates.steps_of(contenders.CONTENDERS[name], [PLACE])]
    rest = {"step_seconds": step_seconds, "rounds": [step_seconds]}
    (folder / "rates.json").write_text(json.dumps({"cpu": cpu, "steps": [step._asdict() | rest for step in steps]}))


def rows_of(jobs: list[Any], fd: float = 50.0) -> list[dict[str, Any]]:
    """Make the lines that these jobs would write."""
    about = {"steps": 10, "step_seconds": 2.0, "sample_seconds": 4.0, "sampler": "ddim", "calls": 9}
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


def test_an_option_that_the_package_gains_is_no_other_recipe(race: ModuleType) -> None:
    """A recipe's version comes from what a preset sets. Fails when an option left at its default is part of it.

    Or when one that is set is not: then the results of another preset would count as the same.
    """
    contenders = sys.modules["contenders"]

    @dataclass(frozen=True)
    class Before:
        rate: float
        steps: int = 10

    @dataclass(frozen=True)
    class After(Before):
        grey: float = 0.0

    besides = contenders.besides_defaults
    assert besides(Before(1.0, 20)) == besides(After(1.0, 20)) == {"rate": 1.0, "steps": 20}
    assert besides(After(1.0, grey=0.2)) == {"rate": 1.0, "grey": 0.2}


def test_the_search_for_a_rate(race: ModuleType) -> None:
    """The best rate races, once every rate of the search has a result. The search is the first seed's five minutes.

    Fails when a search is done again for the race, or when the race begins before its search has ended.
    """
    task = race.Task()
    lucidrains, dit = race.CONTENDERS["lucidrains"], race.CONTENDERS["smalldiffusion-dit"]
    jobs = race.searches(lucidrains, task)
    assert [job.rate for job in jobs] == pytest.approx([1e-4, 3e-4, 1e-3])
    assert {job.task for job in jobs} == {task}
    assert [(job.rate, job.batch) for job in race.searches(dit, task)][:2] == [(1e-3, 1024), (1e-3, 64)]
    rows = rows_of(jobs[:2]) + rows_of(jobs[2:], fd=40)
    assert race.tuned(lucidrains, rows[:2], task) is None
    assert race.tuned(lucidrains, rows, task) == (1e-3, 16)
    assert race.tuned(lucidrains, [*rows[:2], rows[2] | {"fd": float("nan")}], task) == (1e-4, 16)

    first = race.missing(["lucidrains"], task, (2, 5), (0, 1), [], task)
    assert [(job.rate, job.minutes, job.seed) for job in first] == [
        (1e-4, (5,), 0), (pytest.approx(3e-4), (5,), 0), (pytest.approx(1e-3), (5,), 0),
    ]  # fmt: skip
    then = race.missing(["lucidrains"], task, (2, 5), (0, 1), rows, task)
    assert [(job.rate, job.minutes, job.seed) for job in then] == [
        (pytest.approx(1e-3), (2,), 0), (pytest.approx(1e-3), (2, 5), 1),
    ]  # fmt: skip


def test_the_table(minutes: ModuleType, race: ModuleType, tmp_path: Path) -> None:
    """Medians with the least and the greatest, ratios to the best of others, the search, pictures; half a line is none.

    Fails when the ratio takes one of ours for another package, or results of other
    rates for results of these.
    """
    write_rates(tmp_path, ["minidiff", "minidiff-0.1", "lucidrains"])
    task, rows = race.Task(), []
    for name, fds in (("minidiff", (4.0, 5.0, 6.0)), ("minidiff-0.1", (10.0,)), ("lucidrains", (50.0, 40.0))):
        for seed, fd in enumerate(fds):
            for job in race.missing([name], task, (2, 5), (seed,), [], None):
                rows += rows_of([job], fd)
    for job, fd in zip(race.searches(race.CONTENDERS["lucidrains"], task)[1:], (20, 47), strict=True):
        rows += rows_of([job], fd)
    for row in rows:
        race.add_result(tmp_path, row)
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"contender": "minid')
    race.add_result(tmp_path, rows[0] | {"seed": 3, "fd": 5.0})
    race.add_result(tmp_path, rows[0] | {"seed": 3, "fd": 5.0})  # twice, as when two files are put together
    race.add_result(tmp_path, rows[0] | {"seed": 4, "fd": 1.0, "step_seconds": 2.1})
    assert len(race.read_results(tmp_path)) == len(rows) + 1
    done = CliRunner().invoke(minutes.main, ["table", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for line in (
        "| FD | 2 min | 5 min |",
        "| minidiff | 5 (4 to 6) | 5 (4 to 6) |",
        "| lucidrains, published (0.0001, batch 16) | 45 (40 to 50) | 45 (40 to 50) |",
        "| lucidrains, tuned (0.0003, batch 16) |  | 20 |",
        "| minidiff / best other package | 0.11 | 0.25 |",
        "| minidiff / minidiff 0.1 | 0.50 | 0.50 |",
        "| minidiff 0.1 | 1.9M | 2 | 960 | ddim | 9 | 4 |",
        "| lucidrains | 0.0001, 16: 50; 0.0003, 16: 20; 0.001, 16: 47 | 0.0003, 16 |",
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


class Counter:
    """A contender that counts its steps: the first takes 100 seconds of a clock, the others what it is made with."""

    def __init__(self, clock: SimpleNamespace, seconds: float, setting: Any = None) -> None:
        self.clock, self.seconds, self.setting, self.steps = clock, seconds, setting, 0

    def step(self) -> None:
        slow = 10 if self.clock.now in self.clock.slow else 1
        self.clock.now += slow * self.seconds if self.steps else 100.0
        self.steps += 1


@pytest.fixture()
def clock(minutes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only steps move, slowly at some times, on a CPU of a name. The process keeps its threads."""
    import minutes_rates

    clock = SimpleNamespace(now=0.0, slow=())
    monkeypatch.setattr(minutes_rates, "time", SimpleNamespace(process_time=lambda: clock.now))
    monkeypatch.setattr(minutes_rates, "processor", lambda: "a CPU")
    monkeypatch.setattr(minutes, "use_one_thread", lambda: None)
    return clock


@pytest.fixture()
def count(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Counter]]:
    """Let a contender be counters of so many seconds a step. Returns those that were made."""
    import contenders

    def change(name: str, seconds: float) -> list[Counter]:
        made: list[Counter] = []

        def make(setting: Any) -> Counter:
            made.append(Counter(clock, seconds, setting))
            return made[-1]

        changed = replace(contenders.CONTENDERS[name], make=make, needs=())
        monkeypatch.setitem(contenders.CONTENDERS, name, changed)
        return made

    return change


def test_rates(minutes: ModuleType, count: Callable[..., list[Counter]], tmp_path: Path) -> None:
    """Each batch of a contender has its turns, without its first step; a later run measures only what is missing.

    Fails when the first step counts (100 s), or when a rate is measured twice.
    """
    count("minidiff-0.1", 0.5), count("smalldiffusion-dit", 3.0)

    def rates(*words: str) -> Any:
        return CliRunner().invoke(minutes.main, ["rates", "--out", str(tmp_path), "--rounds", "3", *words])

    first = rates("--contenders", "smalldiffusion-dit,smalldiffusion-dit")
    assert first.exit_code == 0, first.output
    assert "| smalldiffusion DiT | fashion-mnist 32 | 1024 | 3 (3 to 3) | 20 |" in first.stdout
    both = rates("--contenders", "minidiff-0.1,smalldiffusion-dit", "--on", "fashion-mnist:32,shapes:64")
    assert both.exit_code == 0, both.output
    assert "smalldiffusion-dit, batch 64, fashion-mnist at 32x32:" not in both.stdout  # it was there
    found = json.loads((tmp_path / "rates.json").read_text())
    assert found["cpu"] == "a CPU" and len(found["steps"]) == 6
    by_step = {(each["contender"], each["data"], each["size"], each["batch"]): each for each in found["steps"]}
    ours = by_step["minidiff-0.1", "shapes", 64, 32]
    assert (ours["step_seconds"], ours["rounds"], ours["threads"]) == (0.5, [0.5] * 3, 1)
    assert "torch" in ours["versions"]
    assert by_step["smalldiffusion-dit", "fashion-mnist", 32, 64]["step_seconds"] == 3.0
    wrong = rates("--on", "shapes")
    assert wrong.exit_code == 2 and "'shapes' is not DATA:SIZE" in wrong.output


def test_contenders_have_turns(clock: SimpleNamespace, count: Callable[..., list[Counter]]) -> None:
    """A time in which the machine is slow hits all contenders, and leaves the median of each as it was.

    Four turns in a row are slow. Fails when a contender has its turns in a row: then four of its seven are slow.
    """
    import minutes_rates

    names = ("minidiff", "lucidrains")
    for name in names:
        count(name, 1.0)
    clock.slow = range(202, 242)  # the first steps of both end at 200
    times = minutes_rates.measure([minutes_rates.Step(name, "", *PLACE, 32) for name in names], rounds=7)
    assert sorted(times[0] + times[1])[-5:] == [1.0, 10.0, 10.0, 10.0, 10.0]
    assert [sorted(each)[3] for each in times] == [1.0, 1.0]


def test_rates_of_another_cpu(
    minutes: ModuleType, race: ModuleType, count: Callable[..., list[Counter]], tmp_path: Path
) -> None:
    """Seconds of two processors do not stand in one file; --anew begins again, and results so far count no longer."""
    count("minidiff", 0.5)
    write_rates(tmp_path, ["minidiff"], cpu="another CPU")
    (job,) = race.missing(["minidiff"], race.Task(), (2,), (0,), [], None)
    race.add_result(tmp_path, rows_of([job])[0])
    words = ["rates", "--contenders", "minidiff", "--out", str(tmp_path)]
    told = CliRunner().invoke(minutes.main, words)
    assert told.exit_code == 1 and "was measured on another CPU, and this is a CPU." in told.output
    assert len(race.read_results(tmp_path)) == 1
    done = CliRunner().invoke(minutes.main, [*words, "--anew"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "rates.json").read_text())["cpu"] == "a CPU"
    assert race.read_results(tmp_path) == []


def test_no_rates(minutes: ModuleType, count: Callable[..., list[Counter]], tmp_path: Path) -> None:
    """One line says to measure first, before anything is trained or made."""
    made = count("minidiff", 0.5), count("lucidrains", 0.5)
    for words in (["train", "lucidrains"], ["all", "--contenders", "minidiff,lucidrains"]):
        told = CliRunner().invoke(minutes.main, [*words, "--features", "none", "--out", str(tmp_path / "out")])
        assert told.exit_code == 1 and told.output.count("\n") == 1, told.output
        assert "lucidrains, batch 16, fashion-mnist at 32x32. Run `rates` first." in told.output
    assert not (tmp_path / "out").exists() and made == ([], [])


def test_minutes_are_steps(race: ModuleType, count: Callable[..., list[Counter]]) -> None:
    """A training takes the nearest number of steps, however long they take; the schedule ends with the last one."""
    import minutes_measure

    made = count("lucidrains", 0.5)
    job = race.Job("lucidrains", race.Task(), 3, (0.001, 1, 2.5), 1e-4, 16)
    found = [(row["minutes"], row["steps"], learner.steps) for row, learner in minutes_measure.learn(job, 7.0)]
    assert found == [(0.001, 1, 1), (1, 9, 9), (2.5, 21, 21)]  # 60 / 7 is 8.57, 150 / 7 is 21.43
    assert (made[0].setting.steps, made[0].setting.seed, made[0].setting.batch) == (21, 3, 16)
    (row, _), *_ = minutes_measure.learn(replace(job, minutes=(0.35,)), 2.0)  # 10.5: to the even neighbour
    assert row == job.row(0.35) | {"steps": 10, "step_seconds": 2.0}


def test_a_training_runs_once_at_a_time(race: ModuleType, tmp_path: Path) -> None:
    """A training that a process is at is known to others, whichever of its times are left, and free when it ends."""
    job = race.Job("lucidrains", race.Task(), 0, (2, 5), 1e-4, 16)
    with race.lock_of(tmp_path, job):
        assert race.is_running(tmp_path, replace(job, minutes=(5,)))
        assert not race.is_running(tmp_path, replace(job, seed=1))
        assert not race.is_running(tmp_path, replace(job, rate=3e-4))
    assert not race.is_running(tmp_path, job)
    ours = race.Job("minidiff", race.Task(), 0, (2,), None, 32)
    with race.lock_of(tmp_path, ours):  # a schedule needs a training for each time
        assert not race.is_running(tmp_path, replace(ours, minutes=(5,)))
