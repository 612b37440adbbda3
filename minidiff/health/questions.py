"""What is asked in a process of its own: `python -m minidiff.health.questions NAME ...` prints the answer as JSON.

Rests on driver, look, caches and trials, each imported for its own question: `driver` must not wait for torch, nor fail
with it.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from minidiff.health.apart import MARK
from minidiff.health.findings import Wrong, said
from minidiff.records import to_json


def driver() -> dict[str, Any]:
    """Look at the driver of the GPUs."""
    from minidiff.health.driver import look_at_driver

    return to_json(look_at_driver())


def torch() -> dict[str, Any]:
    """Look at torch, and through it at the machine."""
    from minidiff.health.look import look

    return to_json(look())


def caches() -> list[dict[str, Any]]:
    """Look into the folders where downloads are kept."""
    from minidiff.health.caches import look_into_caches

    return [to_json(finding) for finding in look_into_caches()]


def device(name: str) -> str:
    """Compute on a device, and compare."""
    from minidiff.health.trials import try_device

    return try_device(name)


def compiled(name: str) -> str:
    """Compile a small function for a device."""
    from minidiff.health.trials import try_compile

    return try_compile(name)


def models() -> list[dict[str, Any]]:
    """Open every model that comes with the package."""
    from minidiff.health.trials import try_models

    return [to_json(finding) for finding in try_models()]


QUESTIONS: dict[str, Callable[..., Any]] = {
    "driver": driver, "torch": torch, "caches": caches, "device": device, "compile": compiled, "models": models,
}  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Answer one question."""
    name, *about = arguments
    try:
        told = {"answer": QUESTIONS[name](*about)}
    except Exception as error:  # it becomes a line of the doctor's, whatever it is
        told = {"error": str(error) if isinstance(error, Wrong) else said(error)}
    print(f"{MARK}{json.dumps(told)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
