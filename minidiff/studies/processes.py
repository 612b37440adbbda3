"""The cells of a study, each in a process of its own, one after the other or several at once.

This process only waits, so its memory stays as it is. Rests on progress; starts `cell`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from minidiff.errors import UserError
from minidiff.files import locked
from minidiff.records import from_json, to_json
from minidiff.studies.config import Planned, Settings, Times, data_of
from minidiff.studies.progress import distances_in_words, is_prepared, unfinished, write_failure
from minidiff.studies.results import CellFailure, CellResult, read_result, read_state
from minidiff.studies.study import CELLS, RESULT, folder_of
from minidiff.training.journal import Interrupted, stop_signals

LOG = "log.txt"  # what a process says, if several run at once
POLL = 0.1  # seconds
PATIENCE = 120  # seconds that stopped processes have to save


Stream = int | IO[Any] | None  # where a process writes to, as subprocess takes it


class Event(NamedTuple):
    """Something that has begun or ended in a study."""

    name: str  # of a cell, or of the data that some share
    state: str  # begun, done or failed
    text: str = ""  # the distances, or the error


def start(
    arguments: Sequence[str],
    device: str,
    share: int = 1,
    *,
    stdout: Stream = None,
    stderr: Stream = None,
    module: str = Planned.process,
) -> "subprocess.Popen[bytes]":
    """Start a process of `cell`, or of another `module` like it.

    share: how many of them run at once; on a CPU they share the threads. It gets a session of its own, so that Ctrl-C
    reaches only the study, which then stops it once, gently. When its standard input ends, it knows that the study was
    killed.
    """
    environment = dict(os.environ)
    if share > 1 and device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        environment["OMP_NUM_THREADS"] = str(max(1, int(environment.get("OMP_NUM_THREADS") or cores) // share))
    command = [sys.executable, "-m", module, *arguments, device]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
    )


def measure_times(settings: Settings, device: str, share: int = 1) -> Times:
    """Run `timing.take_times` in a process of its own. Raise UserError."""
    process = start(["time", json.dumps(to_json(settings))], device, share, stdout=subprocess.PIPE)
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
    return from_json(Times, found, "the timing")


def end(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process has ended, and free what belongs to it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def ending(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    cause = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{cause}"


# --- a whole study ----------------------------------------------------------------------------------------------------


def carry_out(folder: Path, study: Planned, devices: Sequence[str], retry: bool = False) -> Iterator[Event]:
    """Run every cell that is not finished, and yield an event when something begins and when it ends.

    devices: one for each process that may run at once. retry: run the failed cells, too. If a cell fails, its error is
    stored, and the rest goes on. Raise Interrupted after Ctrl-C, SIGTERM or SIGHUP, when the processes have saved.
    Raise UserError if another process works in the folder.
    """
    running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
    with locked(folder), stop_signals() as stopped:
        waiting = unfinished(folder, study, retry)
        for cell in waiting:
            (folder / CELLS / cell / RESULT).unlink(missing_ok=True)  # of an attempt that failed
        try:
            while (waiting or running) and not stopped:
                free = list(devices)
                for _, device in running.values():
                    free.remove(device)
                name = next_of(folder, study, waiting, running)
                if free and name is not None:
                    running[name] = begin(folder, study, name, free[0], len(devices)), free[0]
                    yield Event(name, "begun")
                    continue
                for name in [name for name, (process, _) in running.items() if process.poll() is not None]:
                    process, _ = running.pop(name)
                    end(process)
                    if stopped:
                        continue
                    event = conclude(folder, study, name, process.returncode)
                    over = study.cells_with(name) if event.state == "failed" or name in waiting else []
                    waiting = [cell for cell in waiting if cell not in over]
                    yield event
                time.sleep(POLL)
            if stopped:
                number = signal.Signals(stopped[0])
                raise Interrupted(f"Stopped by {number.name}; what was done is kept.", 128 + number)
        finally:
            try:
                stop(process for process, _ in running.values())  # they save, whatever ends the study
            finally:
                for process, _ in running.values():
                    end(process)


def next_of(folder: Path, study: Planned, waiting: Sequence[str], running: Collection[str]) -> str | None:
    """Return what to start next: the first cell whose data are prepared, or else its data; None if all are started.

    A cell that needs others waits until these are over.
    """
    for cell in waiting:
        if any(needed in waiting for needed in study.needs(cell)):
            continue
        data = data_of(cell)
        name = cell if is_prepared(folder, data) and data not in running else data
        if name not in running:
            return name
    return None


def begin(folder: Path, study: Planned, name: str, device: str, share: int) -> "subprocess.Popen[bytes]":
    """Start the process of a cell or of data. If it is the only one, it writes to the terminal, else into its log."""
    if share == 1:
        return start([str(folder), name], device, module=study.process)
    try:
        log = open(folder_of(folder, name) / LOG, "ab")  # noqa: SIM115
    except OSError:  # on a full disk the cell itself will say so
        return start([str(folder), name], device, share, module=study.process)
    with log:
        return start([str(folder), name], device, share, stdout=log, stderr=log, module=study.process)


def conclude(folder: Path, study: Planned, name: str, code: int) -> Event:
    """Return how a process ended, and store its failure if it could not do that itself."""
    line = f"{ending(code)}. Try it again with `retry`."
    if name not in study.cells:
        if is_prepared(folder, name):
            return Event(name, "done")
        without = [cell for cell in study.cells_with(name) if read_state(folder, cell) != "done"]
        if any(read_result(folder, cell) is None for cell in without):
            write_failure(study, folder, name, line)
        first = read_result(folder, without[0])
        error = first.error.removeprefix("its data: ") if isinstance(first, CellFailure) else line
        return Event(name, "failed", f"{error} {len(without)} cell{'s need' if len(without) > 1 else ' needs'} it.")
    if read_result(folder, name) is None:
        write_failure(study, folder, name, line)
    result = read_result(folder, name)
    if isinstance(result, CellResult):
        return Event(name, "done", distances_in_words(result))
    return Event(name, "failed", result.error if result else line)


def stop(processes: Iterable["subprocess.Popen[bytes]"]) -> None:
    """Ask all processes to save and end, and wait for them."""
    asked = list(processes)
    for process in asked:
        process.terminate()
    until = time.monotonic() + PATIENCE
    for process in asked:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
