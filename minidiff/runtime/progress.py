"""Progress bars, for every loop of the package: in a terminal, in a notebook, and as plain lines in a file.

Rests on verbosity, and on tqdm. Under torchrun only the first process draws.
"""

import sys
import warnings
from typing import Any, TextIO

from tqdm import tqdm

from minidiff.runtime.verbosity import is_first, is_quiet

OFTEN, SELDOM = 5.0, 30.0  # seconds between two plain lines: at least, and at most while the work is young
RELAXED = 20  # later at most a twentieth of the time so far, so that a week makes no endless log


def progress_bar(
    total: int | None = None,
    what: str = "",
    *,
    unit: str,
    initial: int = 0,
    leave: bool = False,
    delay: float = 0.0,
    scaled: bool = False,
) -> "tqdm[Any]":
    """Return a bar to `update`. Where standard error is a file, plain lines appear in place of it.

    what: a word before the bar. leave: keep it on the screen at the end. delay: seconds before it appears.
    scaled: show thousands and millions as k and M, for bytes.
    """
    kind: Any = bar_of_notebooks() if in_notebook() else tqdm if sys.stderr.isatty() else Lines
    return kind(
        total=total, desc=what and f"{what}: ", unit=unit, initial=initial, leave=leave, delay=delay, unit_scale=scaled,
        disable=is_quiet() or not is_first(), dynamic_ncols=True, smoothing=0.05,
    )  # fmt: skip


class Lines(tqdm):  # type: ignore[misc]  # tqdm has no types
    """Progress in a file: no carriage returns, but a line at each tenth of the work, and at times in between.

    A loop that takes less than OFTEN seconds prints no line, unless its bar would stay on the screen.
    """

    FORMAT = "{desc}{percentage:.0f}%, {n_fmt} of {total_fmt}, {rate_fmt}, {elapsed} gone, {remaining} left{postfix}"
    said_at, said_tenth, said_n = 0.0, 0, -1  # time, tenth and number of the last line

    def __init__(self, **options: Any) -> None:
        super().__init__(gui=True, bar_format=self.FORMAT, **options)  # gui: tqdm leaves the drawing to `display`
        self.said_at = getattr(self, "start_t", 0.0)  # which a disabled bar lacks
        self.said_tenth = self.tenth()

    def tenth(self) -> int:
        """Return how many tenths of the work are done."""
        return 10 * self.n // self.total if self.total else 0

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line if one is due. tqdm calls this whenever it would redraw the bar."""
        since = self._time() - self.said_at
        patience = max(SELDOM, (self._time() - self.start_t) / RELAXED)
        if since >= patience or (since >= OFTEN and self.tenth() > self.said_tenth):
            self.say()

    def say(self) -> None:
        """Print where the work is."""
        self.said_at, self.said_tenth, self.said_n = self._time(), self.tenth(), self.n
        print(self.format_meter(**self.format_dict), file=self.fp, flush=True)

    def clear(self, *_: Any, **__: Any) -> None:
        """Do nothing: a line in a file stays."""

    def close(self) -> None:
        """Print the last line, if the bar would stay on the screen."""
        if not self.disable and self.leave and self.n not in (self.initial, self.said_n):
            self.say()
        super().close()


def print_above(message: str, file: TextIO) -> None:
    """Print a line above the bar, if there is one."""
    tqdm.write(message, file=file)


def in_notebook() -> bool:
    """Return whether this runs in a Jupyter kernel."""
    interactive = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(interactive, "config", {})


def bar_of_notebooks() -> Any:
    """Return tqdm's bar for notebooks, or the one for terminals where ipywidgets is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises to install ipywidgets, and that it is experimental
        from tqdm.autonotebook import tqdm as bar
    return bar
