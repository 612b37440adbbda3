"""Kill -9 what works in a folder, again and again, and compare its end with that of a work that was left alone.

Each piece of work runs in a fork of this process, so that nothing has to be imported again. It is killed at a random
moment, or at its n-th write: before the new file takes its place, so that the working file is left.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

VARY = {"out", "images_per_second", "seconds"}  # of a record: where the answer went, how fast the machine was
APART = ("tensorboard",)  # each process has files of its own there


def fork(work: Callable[[], int], write: int | None = None) -> int:
    """Start the work in a process of its own, which kills itself at its n-th write if one is given."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        log = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if write is not None:
            die_at_write(write)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def die_at_write(number: int) -> None:
    replace, done = os.replace, [0]

    def replace_or_die(*names: Any) -> None:
        done[0] += 1
        if done[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)

    os.replace = replace_or_die  # type: ignore[assignment]


def until_done(start: Callable[[], int], resume: Callable[[], int], kills: int, longest: float, seed: int) -> int:
    """Start the work, kill it and resume it, `kills` times, and let it end. Returns how many kills found it at work.

    Every other kill comes at a write: the first at one of the first 3, later ones at one of the first 12. The others
    come within `longest` seconds, which should be about the time that the whole work takes here.
    """
    draw, hits, work = random.Random(seed), 0, start
    for number in range(kills):
        write = None if number % 2 else draw.randint(1, 12 if number else 3)
        pid, until = fork(work, write), time.monotonic() + (draw.uniform(0, longest) if write is None else 600)
        ended, status = 0, 0
        while not ended and time.monotonic() < until:
            ended, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.005)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        hits += os.WIFSIGNALED(status)
        work = resume
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0, f"exit code {os.WEXITSTATUS(status)} after kill {hits}"
            return hits
    _, status = os.waitpid(fork(work), 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, status
    return hits


def differences(whole: Path, killed: Path, leave_out: tuple[str, ...] = APART) -> list[str]:
    """List the files that are not the same in both folders, byte for byte; records without what varies by nature."""
    found = []
    for name in sorted({str(path.relative_to(home)) for home in (whole, killed) for path in home.rglob("*")}):
        pair = [home / name for home in (whole, killed)]
        if name.endswith(".lock") or pair[0].is_dir() or any(part in name for part in leave_out):
            continue
        if not all(path.exists() for path in pair):
            found.append(f"{name} is only in {'whole' if pair[0].exists() else 'killed'}")
        elif contents(pair[0]) != contents(pair[1]):
            found.append(f"{name} differs")
    return found


def contents(path: Path) -> object:
    if path.suffix == ".pt":
        return flat(torch.load(path, weights_only=True))
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    return [{key: value for key, value in json.loads(line).items() if key not in VARY} for line in lines]


def flat(value: object) -> object:
    """Return a state with its tensors as bytes, because the same state is pickled in more than one way."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.detach().contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: flat(one) for key, one in value.items()}
    return [flat(one) for one in value] if isinstance(value, list | tuple) else value
