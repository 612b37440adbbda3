"""Bars are for terminals and notebooks; a file gets a plain line now and then."""

import io
import logging
import re
import sys
import types
from pathlib import Path

import pytest
import tqdm.std

import minidiff
from minidiff.errors import UserError
from minidiff.runtime import progress
from minidiff.runtime.details import LOGGER, set_verbosity
from minidiff.runtime.progress import OFTEN, SELDOM, Lines, progress_bar
from minidiff.runtime.verbosity import VARIABLE, verbosity


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tqdm.std, "time", made)
    return made


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(
    total: int, seconds: float, clock: Clock, capsys: pytest.CaptureFixture[str], **options: bool
) -> list[str]:
    """What a loop of `total` steps, each of this many seconds, prints into a file."""
    with progress_bar(total, "work", unit="step", **options) as bar:
        for _ in range(total):
            clock.now += seconds
            bar.update()
    said = capsys.readouterr().err
    assert "\r" not in said and "\x1b" not in said
    return said.splitlines()


def test_a_file_gets_a_line_at_every_tenth(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when the bar itself is drawn (carriage returns), or a line for every redraw (100 and more)."""
    found = lines_of(200, 0.9, clock, capsys)
    assert [line.split(",")[0] for line in found] == [f"work: {percent}%" for percent in range(10, 101, 10)]
    assert found[4] == "work: 50%, 100 of 200,  1.11step/s, 01:30 gone, 01:30 left"


def test_a_long_loop_tells_that_it_lives(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Three hours in steps of a second: a line within half a minute, then fewer. Fails without the lines between two
    tenths (10 lines), and when they come as often at the end as at the beginning (360)."""
    found = lines_of(10_800, 1, clock, capsys)
    assert 60 < len(found) < 150
    assert re.match(r"work: 0%, (29|30|31) of 10800", found[0]) and found[-1].startswith("work: 100%")


def test_a_short_loop_prints_no_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when every tenth is printed, however short. A bar that is left on the screen is one line in a file."""
    assert not lines_of(200, 0.9 * OFTEN / 200, clock, capsys)
    (line,) = lines_of(200, 0.9 * OFTEN / 200, clock, capsys, leave=True)
    assert line.startswith("work: 100%, 200 of 200") and OFTEN < SELDOM


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(3, "work", unit="step", leave=True) as bar:
        bar.update(3)
        progress.print_above("a line above", terminal)
    assert "\r" in terminal.getvalue() and "3/3" in terminal.getvalue() and "a line above\n" in terminal.getvalue()


def test_a_notebook_gets_the_bar_of_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when plain lines are chosen because the output of a notebook is no terminal, and on a warning of tqdm's."""
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))  # type: ignore
    with progress_bar(3, unit="step") as bar:
        assert not isinstance(bar, Lines)


@pytest.mark.parametrize("name, value", [(VARIABLE, "quiet"), ("RANK", "1")])
def test_some_processes_draw_nothing(
    name: str, value: str, clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of torchrun's processes only the first draws. Fails without `disable`."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    assert not lines_of(100, 10, clock, capsys, leave=True)


def test_tqdm_is_called_in_one_place() -> None:
    """A bar of one's own would be drawn into files, and by every process. Fails for an import of tqdm elsewhere."""
    package = Path(minidiff.__file__).parent
    users = [path for path in package.rglob("*.py") if re.search(r"^\s*(from|import) tqdm", path.read_text(), re.M)]
    assert users == [package / "runtime" / "progress.py"]


# --- how much is said -------------------------------------------------------------------------------------------------


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "normal")  # and afterwards as it was


def test_details_are_printed_on_demand(usual: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when the handler stays (two lines), and when details appear unasked."""
    log = logging.getLogger("minidiff.data.cache")
    for level, count in (("normal", 0), ("verbose", 1), ("verbose", 1), ("quiet", 0)):
        set_verbosity(level)
        log.info("read 3 images")
        assert capsys.readouterr().err.count("read 3 images") == count
        assert verbosity() == level
    assert not LOGGER.handlers and LOGGER.level == logging.NOTSET


def test_an_unknown_verbosity_is_refused(usual: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'verbos'.*'verbose'"):
        set_verbosity("verbos")
    monkeypatch.setenv(VARIABLE, "loud")
    with pytest.raises(UserError, match=VARIABLE):
        verbosity()
