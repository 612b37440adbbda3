"""Work that is watched while it runs, and can be stopped: what the tabs of the page share.

Rests on torch. A job is a generator of `View`s, of which the last is the answer. A network is asked at each of its
layers whether somebody wants it to stop, as one call of it may take a minute.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from minidiff.images.convert import Pixels

Result = TypeVar("Result")
Stop = Callable[[], bool]  # whether somebody wants the work to end
TICK = 0.5  # seconds between two looks at work that goes on elsewhere


class Stopped(Exception):
    """Say that the work ended because somebody wanted it to."""


def never() -> bool:
    """Want no work to end."""
    return False


@dataclass(frozen=True)
class View:
    """What there is to see of a job: after each call of the network, and in the end."""

    done: int  # calls of the network
    total: int
    lines: tuple[str, ...] = ()  # what was measured and done, in words
    warnings: tuple[str, ...] = ()
    picture: Pixels | None = None  # uint8 [H,W,3]: the images so far, or the answer
    before: Pixels | None = None  # uint8 [H,W,3], as large as the answer: what it was made of
    strip: Pixels | None = None  # uint8 [H,W,3]: moments of the chain
    file: Path | None = None  # the answer to take away, in the folder that the caller named


@contextmanager
def stoppable(model: nn.Module, stop: Stop) -> Iterator[None]:
    """Let the model raise Stopped, before its next layer, once `stop` says so."""

    def look(*_: object) -> None:
        if stop():
            raise Stopped

    hooks = [module.register_forward_pre_hook(look) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def stepwise(
    work: Callable[[Callable[[object], None]], Result], total: int, model: nn.Module, stop: Stop
) -> Generator[View, None, Result]:
    """Turn a function that calls back after each step into a generator of Views. Returns the function's answer.

    work(on_step) runs in a thread of its own. What it raises is raised here. It ends soon when the generator is closed.
    """
    done, left = 0, False

    def on_step(_: object) -> None:
        nonlocal done
        done += 1

    with stoppable(model, lambda: left or stop()), ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, on_step)
        try:
            while not wait([future], TICK).done:
                yield View(min(done, total), total)
        finally:
            left = True
        return future.result()


class Jobs:
    """The jobs that run, each for a visitor of the page, and how to stop them."""

    def __init__(self) -> None:
        self.running: list[tuple[str, threading.Event]] = []
        self.changed = threading.Condition()

    @contextmanager
    def one(self, visitor: str) -> Iterator[Stop]:
        """Note a job as long as the block runs. The block is given a function that says whether to stop."""
        job = (visitor, threading.Event())
        with self.changed:
            self.running.append(job)
        try:
            yield job[1].is_set
        finally:
            with self.changed:
                self.running.remove(job)
                self.changed.notify_all()

    def stop(self, visitor: str | None = None) -> None:
        """Ask the jobs of a visitor to stop; None: all."""
        with self.changed:
            for owner, wanted in self.running:
                if visitor in (None, owner):
                    wanted.set()

    def wait(self, seconds: float) -> None:
        """Wait until no job runs, but no longer than this."""
        with self.changed:
            self.changed.wait_for(lambda: not self.running, seconds)
