"""Ask something in a process of its own, which may crash, hang or be killed without harm to this one.

Rests on findings. A question is a function of `questions.QUESTIONS`; its answer is JSON.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import minidiff.health
from minidiff.health.findings import without_paths

QUESTIONS = "minidiff.health.questions"
MARK = "minidiff's answer: "  # before the answer, since libraries print lines of their own
ROOT = Path(minidiff.health.__file__).parents[2]  # so that the process finds this very package, installed or not


class NoAnswer(Exception):
    """Say in a line what went wrong, or how a process ended that did not answer."""


class NoTime(NoAnswer):
    """Say that the time was over before the answer came."""


def ask(question: str, *about: str, limit: float, environment: dict[str, str] | None = None) -> Any:
    """Return the answer to a question. Raise NoAnswer for an error, a crash, or no answer after `limit` seconds."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-m", QUESTIONS, question, *about],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"} | (environment or {}), start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise NoTime(f"no answer in {limit:g} seconds") from None
    finally:
        if process.poll() is None:
            end(process)
    for line in reversed(out.decode(errors="replace").splitlines()):
        if line.startswith(MARK):
            told = json.loads(line.removeprefix(MARK))
            if "error" in told:
                raise NoAnswer(told["error"])
            return told["answer"]
    raise NoAnswer(f"{ending(process.returncode)}{last_words(err.decode(errors='replace'))}")


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process with those that it has started, such as compilers."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()


def ending(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"it ended with exit code {code}"
    name = signal.Signals(-code).name
    causes = {"SIGKILL": ", as the system does when memory runs out", "SIGILL": ", an instruction this processor lacks"}
    return f"it was ended by {name}{causes.get(name, '')}"


def last_words(err: str) -> str:
    """Return the last line that a process wrote on standard error, short and without folders."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return f": {without_paths(lines[-1])[:300]}" if lines else ""
