"""Between the steps of a training: progress, metrics, pictures, checkpoints, and the ways a run can end.

Rests on loop and runs. `keep` drives any `Training` inside a run folder. If the run is killed at any moment, the folder
holds the whole last checkpoint. After Ctrl-C, SIGTERM or SIGHUP the run saves before it stops. A loss that is not a
number ends the run before it can be saved.
"""

import math
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minidiff.errors import UserError, printable
from minidiff.runs.curves import draw_curves, spaced
from minidiff.runs.log import append_metrics, check_there, is_measurement, read_metrics, write_metrics
from minidiff.runtime import distributed
from minidiff.runtime.progress import print_above, progress_bar
from minidiff.runtime.signals import ending_signals
from minidiff.runtime.verbosity import is_quiet
from minidiff.training.checkpoints import Checkpoints, complete, telling
from minidiff.training.loop import Training
from minidiff.training.previews import Previews
from minidiff.training.step import TrainStep


class Interrupted(Exception):
    """A signal asked the run to stop, and the run has saved. exit_code: the shell's code for that signal."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def tell(message: str) -> None:
    """Print a line on standard error, above the progress bar. A training outlives its terminal."""
    with suppress(OSError):
        print_above(printable(message), sys.stderr)


def remark(message: str) -> None:
    """Print what is worth knowing on the way, unless it is to be quiet."""
    if not is_quiet():
        tell(message)


Warn = Callable[[str], None]


def warn(message: str) -> None:
    """Print a warning, above the progress bar."""
    tell(f"Warning: {message}")


def keep(
    trainer: Training,
    folder: Path,
    *,
    log_every: int = 20,
    save_every: int = 1000,
    sample_every: int = 1000,
    preview: Callable[[int], list[str]] | None = None,
    is_drawn: Callable[[int], bool] = lambda step: True,
    limit: int | None = None,
    measure: Callable[[int], dict[str, float]] | None = None,
    measure_every: int | None = None,
    warn: Warn = warn,
    pauses: Callable[[int], bool] | None = None,
) -> Iterator[TrainStep]:
    """Run `trainer` to its last step, and keep the run folder up to date. Yields each step when that is done.

    The process holds the folder: see `Job`.
    preview: draws pictures of a step into the folder and returns warnings about them. Only the main process calls it.
    is_drawn: tells whether a step has its pictures; after a kill, missing ones are drawn when the run is resumed.
    limit: how many images go through the network for a preview, if it is left out where it would take too long: see
    `Previews`. None: none is left out.
    measure: returns numbers by name, which say how good the EMA weights are; they become a record in metrics.jsonl.
    Every process calls it, every measure_every steps and at the last step; never if measure_every is None. It comes
    after the step is saved. After a kill, a missing measurement is made when the run is resumed; none is made twice.
    warn: prints one of the preview's warnings, each once.
    pauses: tells after a step whether to save and return before the last one. Only the main process is asked.
    Raises Interrupted after Ctrl-C, SIGTERM or SIGHUP, UserError on a loss or gradient that is not finite, and on a
    loss at the last step that is not sane (see `Checkpoints`). A caller who stops in between loses what was not saved.
    """
    main = distributed.is_main()
    last = trainer.config.steps
    # Summed on the device and read when a line is due: reading each loss would make a GPU wait for the host. A loss
    # that is not a number stays in the sum, so none is missed.
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=trainer.device))
    count, since, written = 0, time.perf_counter(), 0
    done, trained = 0, 0.0  # steps that were logged since the start of this process, and their time
    previews = Previews(sample_every, last, limit is not None, limit or 0)
    bar = progress_bar(last, unit="step", initial=trainer.step, leave=True)
    with stop_signals() as stop, tensorboard(folder if main else None, trainer.step + 1) as board, bar:
        known: list[dict[str, Any]] = []
        if main:  # without the steps that a kill lost and that now come again
            known = read_metrics(folder, upto=trainer.step)
            write_metrics(folder, known)
            if trainer.step:
                complete(folder, trainer)
        first = next((telling(record)[1] for record in known if not is_measurement(record)), None)
        checkpoints = Checkpoints(folder, trainer.step, distributed.from_main(first))

        def measured(step: int) -> bool:
            """Measure a step if it is time. Returns whether it was."""
            if measure is None or measure_every is None or not step or (step % measure_every and step != last):
                return False
            values = measure(step)
            if main:
                log(folder, board, {"step": step} | values)
            return True

        def show(step: int, news: bool, drawing: bool) -> None:
            """Draw the pictures of a step; without time for them at least the curves, if something was measured."""
            if main and preview and drawing:
                began = time.perf_counter()
                draw_curves(folder)
                for warning in filter(previews.is_new, preview(step)):
                    warn(warning)
                previews.spend(time.perf_counter() - began)
            elif main and news:
                draw_curves(folder)

        # What a kill came before.
        news = not distributed.from_main(any(is_measurement(r) and r["step"] == trainer.step for r in known))
        news = news and measured(trainer.step)
        show(trainer.step, news, trainer.step > 0 and previews.is_due(trainer.step) and not is_drawn(trainer.step))
        since = time.perf_counter()
        for record in trainer.steps():
            for name, value in {"loss": record.loss, "grad_norm": record.grad_norm, **record.also}.items():
                sums[name] += value
            count += 1
            bar.update()
            step = record.step
            saving = step % save_every == 0 or step == last
            logging = step == 1 or step % log_every == 0 or step == last
            # Asking the other processes makes a GPU wait, and torchrun kills 30 s after the signal: every tenth step.
            checking = distributed.world_size() == 1 or trainer.device.type == "cpu" or step % 10 == 0 or logging
            stopping = checking and step < last and distributed.any_process(bool(stop), trainer.device)
            pausing = False
            if pauses is not None and checking and step < last and not stopping:
                pausing = distributed.any_process(main and pauses(step), trainer.device)
            if main and checkpoints.proving:
                name, value = telling({"loss": record.loss, **record.also})
                if not checkpoints.prove(name, value.item()):
                    found = f"the weights of step {step - 1} gave a {spaced(name)} of {value.item():.3g}"
                    note = f"{found}, so their checkpoint is taken back. {checkpoints.in_words()}"
                    if previews.is_new(note):
                        warn(note)
            if logging or saving or stopping or pausing:
                means = {name: value.item() / count for name, value in sums.items()}
                if not all(map(math.isfinite, means.values())):
                    raise Diverged(diverged(step, means, checkpoints))
                seconds = time.perf_counter() - since
                if main:
                    check_there(folder, written)
                    rate = count * trainer.config.batch_size / seconds
                    written = log(folder, board, {"step": step, **means, "lr": record.lr, "images_per_second": rate})
                    bar.set_postfix_str(f"loss {means['loss']:.4f}, {rate:.0f} images/s")
                name, loss = telling(means)
                sane = checkpoints.is_sane(name, loss)
                done, trained = done + count, trained + seconds
                sums.clear()
                count, since = 0, time.perf_counter()
            note = "saved"
            if saving or stopping or pausing:
                if sane and main:
                    checkpoints.save(trainer)
                elif not sane:
                    note = f"not saved, because the {spaced(name)} is {loss:.3g}. {checkpoints.in_words()}"
                    if step == last:
                        raise Diverged(f"the {spaced(name)} was {loss:.3g} in the end. {checkpoints.in_words()} {MEND}")
                    if main and saving and not stopping and previews.is_new(note):
                        warn(f"step {step} is {note}")
            if stopping:
                checkpoints.close()
                number = signal.Signals(stop[0] if stop else signal.SIGTERM)  # none here: another process was asked
                raise Interrupted(f"Stopped by {number.name} at step {step} of {last}; {note}.", 128 + number)
            began = time.perf_counter()
            news, in_all = measured(step), trained + began - since
            images = (done + count) * trainer.config.batch_size
            show(step, news, previews.is_due(step) and previews.is_worth(step, images, in_all))
            since += time.perf_counter() - began
            yield record
            if pausing and sane:
                bar.leave = False  # another one goes on
                break
        checkpoints.close()


def log(folder: Path, board: Any, entry: dict[str, Any]) -> int:
    """Add a record to metrics.jsonl, and to TensorBoard where it is installed. Returns the size of metrics.jsonl."""
    size = append_metrics(folder, entry)
    if board is not None:
        for name in entry.keys() - {"step"}:
            board.add_scalar(name, entry[name], entry["step"])
        board.flush()  # else its thread writes later, perhaps after the folder was deleted, and fails there
    return size


class Diverged(UserError):
    """A loss or a gradient is no longer a number. The same training would end in the same way again."""


MEND = "Go on from there, or start again, with a third of the `lr`, a longer `warmup`, or the `precision` fp32."


def diverged(step: int, means: dict[str, float], checkpoints: Checkpoints) -> str:
    """Say which value is no longer a number, what is kept, and what to try."""
    name = next(name for name, value in means.items() if not math.isfinite(value))
    what = "the gradient became infinite" if name == "grad_norm" else f"the {spaced(name)} became {means[name]}"
    return f"{what} by step {step}; stopped. {checkpoints.in_words()} {MEND}"


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the signals that ask to stop in a list, so that the step ends and is saved. A second Ctrl-C acts at once.

    They are SIGINT, SIGTERM, and SIGHUP, which comes when the terminal closes; under `nohup` that stays ignored.
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
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, *ending_signals())}
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
