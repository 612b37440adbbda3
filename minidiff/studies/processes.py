"""The cells of a study, each in a process of its own, one after the other or several at once.

Nothing is computed here: this process waits, and its memory stays as it is. Rests on study; starts `cell`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from minidiff.errors import UserError
from minidiff.files import locked
from minidiff.studies import progress
from minidiff.studies import study as studies
from minidiff.training.journal import Interrupted, stop_signals

LOG = "log.txt"  # what a process says, where several run at once
POLL = 0.1  # seconds
PATIENCE = 120  # seconds that stopped processes have to save


class Event(NamedTuple):
    """Something has begun or ended in a study."""

    name: str  # of a cell, or of the data that some share
    state: str  # begun, done or failed
    text: str = ""  # the distances, or the error


def start(arguments: Sequence[str], device: str, share: int = 1, **streams: Any) -> "subprocess.Popen[bytes]":
    """A process of `cell`. share: how many such there may be at once, which on a CPU share its threads.

    It has a session of its own, so that Ctrl-C reaches the study alone, which stops it once, gently. The end of its
    standard input tells it that the study has been killed.
    """
    environment = dict(os.environ)
    if share > 1 and device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment["OMP_NUM_THREADS"] = str(max(1, int(environment.get("OMP_NUM_THREADS") or cores) // share))
    command = [sys.executable, "-m", "minidiff.studies.cell", *arguments, device]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True, **streams)


def timed(settings: Mapping[str, Any], device: str, share: int = 1) -> dict[str, Any]:
    """What `timing.take_times` finds, in a process of its own. Raises UserError."""
    process = start(["time", json.dumps(settings)], device, share, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        lines = process.stdout.read().decode().splitlines()
        process.wait()
    finally:
        end(process)
    try:
        found = json.loads(lines[-1])
    except (ValueError, IndexError):
        raise UserError(f"the models could not be timed: {ending(process.returncode)}. Look at what it said.") from None
    if "error" in found:
        raise UserError(found["error"])
    return found


def end(process: "subprocess.Popen[bytes]") -> None:
    """Make sure that it has ended, and let go of it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    cause = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{cause}"


# --- a whole study ----------------------------------------------------------------------------------------------------


def carry_out(folder: Path, study: Mapping[str, Any], devices: Sequence[str], retry: bool = False) -> Iterator[Event]:
    """Do every cell that is not done; yields when something begins or has ended.

    devices: of the processes that may run at once, one for each. retry: the cells that failed, too. A cell that fails
    is written down as such, and the rest goes on. Raises Interrupted after Ctrl-C or SIGTERM, when the processes have
    saved; UserError where another study is at work in the folder.
    """
    running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
    with locked(folder), stop_signals() as stopped:
        waiting = unfinished(folder, study, retry)
        for cell in waiting:
            (folder / studies.CELLS / cell / studies.RESULT).unlink(missing_ok=True)  # of an attempt that failed
        try:
            while (waiting or running) and not stopped:
                free = list(devices)
                for _, device in running.values():
                    free.remove(device)
                name = next_of(folder, waiting, running)
                if free and name is not None:
                    running[name] = begin(folder, name, free[0], len(devices)), free[0]
                    yield Event(name, "begun")
                    continue
                for name in [name for name, (process, _) in running.items() if process.poll() is not None]:
                    process, _ = running.pop(name)
                    end(process)
                    if stopped:
                        continue
                    event = conclude(folder, study, name, process.returncode)
                    over = studies.cells_of(study, name) if event.state == "failed" or name in waiting else []
                    waiting = [cell for cell in waiting if cell not in over]
                    yield event
                time.sleep(POLL)
            if stopped:
                number = signal.Signals(stopped[0])
                raise Interrupted(f"Stopped by {number.name}; what was done is kept.", 128 + number)
        finally:
            try:
                stop(process for process, _ in running.values())  # they save, whatever it is that ends the study
            finally:
                for process, _ in running.values():
                    end(process)


def unfinished(folder: Path, study: Mapping[str, Any], retry: bool) -> list[str]:
    """The cells that are to be done, in order."""
    over = ("done",) if retry else ("done", "failed")
    return [cell for cell in study["cells"] if progress.state(folder, cell) not in over]


def next_of(folder: Path, waiting: Sequence[str], running: Collection[str]) -> str | None:
    """The next thing to do: the first cell whose data are prepared, or data that are not. None: it is all under way."""
    for cell in waiting:
        data = studies.data_of(cell)
        name = cell if progress.prepared(folder, data) and data not in running else data
        if name not in running:
            return name
    return None


def begin(folder: Path, name: str, device: str, share: int) -> "subprocess.Popen[bytes]":
    """The process of a cell, or of data. Where it is the only one it speaks for itself, else into its log."""
    if share == 1:
        return start([str(folder), name], device)
    try:
        log = open(studies.home(folder, name) / LOG, "ab")  # noqa: SIM115
    except OSError:  # a full disk is for the cell to find out, and to fail by
        return start([str(folder), name], device, share)
    with log:
        return start([str(folder), name], device, share, stdout=log, stderr=log)


def conclude(folder: Path, study: Mapping[str, Any], name: str, code: int) -> Event:
    """What became of a process that has ended; written down, where it could not do that itself and there is room."""
    said = f"{ending(code)}. Try it again with --retry."
    if name not in study["cells"]:
        if progress.prepared(folder, name):
            return Event(name, "done")
        without = [cell for cell in studies.cells_of(study, name) if progress.state(folder, cell) != "done"]
        if any(progress.result(folder, cell) is None for cell in without):
            progress.fail(study, folder, name, said)
        told = (progress.result(folder, without[0]) or {}).get("error", said).removeprefix("its data: ")
        return Event(name, "failed", f"{told} {len(without)} cell{'s need' if len(without) > 1 else ' needs'} it.")
    if progress.result(folder, name) is None:
        progress.fail(study, folder, name, said)
    found = progress.result(folder, name) or {"error": said}
    if "error" in found:
        return Event(name, "failed", found["error"])
    return Event(name, "done", progress.distances_in_words(found))


def stop(processes: Iterable["subprocess.Popen[bytes]"]) -> None:
    """Ask them all to save and go, and wait."""
    asked = list(processes)
    for process in asked:
        process.terminate()
    until = time.monotonic() + PATIENCE
    for process in asked:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
