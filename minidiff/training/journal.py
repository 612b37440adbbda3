"""Between the steps of a training: progress, metrics, pictures, checkpoints, and the ways a run can end.

Rests on loop and runs. `keep` drives any `Training` inside a run folder. If the run is killed at any moment, the folder
holds the whole last checkpoint. After Ctrl-C or SIGTERM the run saves before it stops. A loss that is not a number ends
the run before it can be saved.
"""

import math
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.errors import UserError, printable
from minidiff.files import locked
from minidiff.runs.curves import draw_curves, spaced
from minidiff.runs.folder import STATE, save_model, save_state
from minidiff.runs.log import append_metrics, is_measurement, read_metrics, write_metrics
from minidiff.runtime import distributed
from minidiff.runtime.progress import print_above, progress_bar
from minidiff.training.loop import Training
from minidiff.training.step import TrainStep


class Interrupted(Exception):
    """A signal asked the run to stop, and the run has saved. exit_code: the shell's code for that signal."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


Warn = Callable[[str], None]


def warn(message: str) -> None:
    """Print a warning on standard error, above the progress bar."""
    print_above(f"Warning: {printable(message)}", sys.stderr)


def keep(
    trainer: Training,
    folder: Path,
    *,
    log_every: int = 20,
    save_every: int = 1000,
    sample_every: int = 1000,
    preview: Callable[[int], list[str]] | None = None,
    measure: Callable[[int], dict[str, float]] | None = None,
    measure_every: int | None = None,
    warn: Warn = warn,
) -> Iterator[TrainStep]:
    """Run `trainer` to its last step, and keep the run folder up to date. Yields each step when that is done.

    preview: draws pictures of a step into the folder and returns warnings about them. Only the main process calls it.
    measure: returns numbers by name, which say how good the EMA weights are; they become a record in metrics.jsonl.
    Every process calls it, every measure_every steps and at the last step; never if measure_every is None. It comes
    after the step is saved. After a kill, a missing measurement is made when the run is resumed; none is made twice.
    warn: prints one of the preview's warnings.
    Raises Interrupted after Ctrl-C or SIGTERM, UserError on a loss or gradient that is not finite. A caller who stops
    in between loses what was not saved.
    """
    main = distributed.is_main()
    last = trainer.config.steps
    # Summed on the device and read when a line is due: reading each loss would make a GPU wait for the host. A loss
    # that is not a number stays in the sum, so none is missed.
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=trainer.device))
    count, since = 0, time.perf_counter()
    bar = progress_bar(last, unit="step", initial=trainer.step, leave=True)
    lock = locked(folder) if main else nullcontext()
    with lock, stop_signals() as stop, tensorboard(folder if main else None, trainer.step + 1) as board, bar:
        known: list[dict[str, Any]] = []
        if main:  # without the steps that a kill lost and that now come again
            known = read_metrics(folder, upto=trainer.step)
            write_metrics(folder, known)

        def measured(step: int) -> bool:
            """Measure a step if it is time. Returns whether it was."""
            if measure is None or measure_every is None or not step or (step % measure_every and step != last):
                return False
            values = measure(step)
            if main:
                log(folder, board, {"step": step} | values)
            return True

        if not distributed.from_main(any(is_measurement(r) and r["step"] == trainer.step for r in known)):
            measured(trainer.step)  # what a kill came before
        for record in trainer.steps():
            for name, value in {"loss": record.loss, "grad_norm": record.grad_norm, **record.also}.items():
                sums[name] += value
            count += 1
            bar.update()
            step = record.step
            saving = step % save_every == 0 or step == last
            sampling = step % sample_every == 0 or step == last
            logging = step % log_every == 0 or step == last
            # Asking the other processes makes a GPU wait, and torchrun kills 30 s after the signal: every tenth step.
            checking = distributed.world_size() == 1 or trainer.device.type == "cpu" or step % 10 == 0 or logging
            stopping = checking and step < last and distributed.any_process(bool(stop), trainer.device)
            if logging or saving or stopping:
                means = {name: value.item() / count for name, value in sums.items()}
                if not all(map(math.isfinite, means.values())):
                    raise Diverged(diverged(step, means, folder))
                if main:
                    rate = count * trainer.config.batch_size / (time.perf_counter() - since)
                    log(folder, board, {"step": step, **means, "lr": record.lr, "images_per_second": rate})
                    bar.set_postfix_str(f"loss {means['loss']:.4f}, {rate:.0f} images/s")
                sums.clear()
                count, since = 0, time.perf_counter()
            if main and (saving or stopping):
                save(trainer, folder)
            if stopping:
                number = signal.Signals(stop[0] if stop else signal.SIGTERM)  # none here: another process was asked
                raise Interrupted(f"Stopped by {number.name} at step {step} of {last}; saved.", 128 + number)
            news = measured(step)
            if main and preview and sampling:
                draw(folder, preview, step, warn)
            elif main and news:
                draw_curves(folder)
            yield record
            if news or sampling:
                since = time.perf_counter()


def draw(folder: Path, preview: Callable[[int], list[str]], step: int, warn: Warn = warn) -> None:
    """Draw the pictures of a step: the curves and the preview. `warn` prints the preview's warnings."""
    draw_curves(folder)
    for warning in preview(step):
        warn(warning)


def save(trainer: Training, folder: Path) -> None:
    """Save the state to resume from, then the weights to sample from. A kill in between loses nothing."""
    save_state(folder, trainer.state_dict())
    save_model(folder, trainer.ema.state_dict())


def log(folder: Path, board: Any, entry: dict[str, Any]) -> None:
    """Add a record to metrics.jsonl, and to TensorBoard where it is installed."""
    append_metrics(folder, entry)
    if board is not None:
        for name in entry.keys() - {"step"}:
            board.add_scalar(name, entry[name], entry["step"])


class Diverged(UserError):
    """A loss or a gradient is no longer a number. The same training would end in the same way again."""


def diverged(step: int, means: dict[str, float], folder: Path) -> str:
    """Say which value is no longer a number, what is kept, and what to try."""
    saved = (folder / STATE).exists()
    kept = f"The last good checkpoint is kept in {folder}." if saved else "No checkpoint had been written yet."
    name = next(name for name, value in means.items() if not math.isfinite(value))
    what = "the gradient became infinite" if name == "grad_norm" else f"the {spaced(name)} became {means[name]}"
    return (
        f"{what} by step {step}; stopped. {kept} "
        "Go on from there, or start again, with a third of the `lr`, a longer `warmup`, or the `precision` fp32."
    )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, so that the step ends and is saved. A second Ctrl-C acts at once.

    Outside of the main thread, where Python allows no handlers, the list stays empty.
    """
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def tensorboard(folder: Path | None, next_step: int) -> Iterator[Any]:
    """Open a TensorBoard writer in the run folder; None without TensorBoard (the extra `tensorboard`).

    The plots leave out what an earlier process wrote from next_step on, because those steps are run again.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        folder = None
    if folder is None:
        yield None
        return
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step)
    try:
        yield writer
    finally:
        writer.close()
