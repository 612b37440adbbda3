"""Run folders: files that are written whole or not at all, and read exactly.

A run folder explains itself:

    config.json         what was built: kind, data, network, diffusion, training
    model.safetensors   the EMA weights, the ones to sample from
    state.pt            all that resuming needs: raw and EMA weights, optimizer, step
    metrics.jsonl       one record a line: step, loss, rate, ...; or step and what was measured there
    samples/            a grid of pictures from time to time
    curves.png          the loss so far, and what was measured

Rests on files. At any moment, `kill -9` included, a file is the whole old one or the whole new one. Nothing is ever
unpickled: weights are safetensors, and `state.pt` is read with `weights_only=True`.
"""

import logging
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minidiff.errors import UserError, listed, one_line, shown, warn_once
from minidiff.files import is_empty, locked, read_json, regular, size_in_words, write_atomically, write_json
from minidiff.records import LARGEST_INT

if TYPE_CHECKING:  # a run can be listed and described without waiting for torch
    from torch import Tensor

LOG = logging.getLogger(__name__)

CONFIG, MODEL, STATE = "config.json", "model.safetensors", "state.pt"
RESULTS, SHEETS = "results", "sheets"  # of a run that works on pictures: what was found in each, and how it looks
MODELS = Path(__file__).parents[1] / "models"  # those that come with the package: see `shipped`
WEIGHTS = ("ema", "raw")  # the averaged ones, to sample from; and those being trained

Opened = TypeVar("Opened")
Kinds = str | tuple[str, ...]  # of runs: one of these is asked for


# --- write ---------------------------------------------------------------------------------------------


def save_model(folder: Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Write the weights to sample from, as `model.safetensors`."""
    from safetensors.torch import save

    dense, seen = {}, set[int]()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        dense[name] = copy.clone() if copy.data_ptr() in seen else copy  # safetensors refuses weights in two places
        seen.add(copy.data_ptr())
    write_atomically(folder / MODEL, lambda file: file.write(save(dense)))


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write all that resuming needs, as `state.pt`: plain containers of tensors and numbers only."""
    import torch

    write_atomically(folder / STATE, lambda file: torch.save(state, file))
    LOG.info(f"saved {told(folder / STATE)}, step {state.get('step', '?')}")


def told(path: Path) -> str:
    """Name a file, with its size."""
    return f"{path} ({size_in_words(path.stat().st_size)})"


# --- read -------------------------------------------------------------------------------------------------


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """Read a .safetensors file. Raises UserError when it is missing or damaged."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(
            f"{path} is missing. A run has it after its first checkpoint; resume the training to write one."
        )
    try:
        tensors: dict[str, Tensor] = load_file(path)
        LOG.info(f"read {told(path)}: {len(tensors)} tensors")
        return tensors
    except Exception as error:  # whatever its header says: the library has no one error for it
        raise UserError(f"{path} is damaged ({one_line(error)}). Resume the run to write it anew.") from None


def read_state(folder: Path, name: str = STATE) -> dict[str, Any] | None:
    """Read the training state, onto the CPU. Returns None when the run has not written one yet.

    name: of the file. Raises UserError when it is damaged.
    """
    from minidiff.networks.weights import read_saved

    path = folder / name
    if not path.exists():
        return None
    regular(path)
    try:
        state: dict[str, Any] = read_saved(path)
        step = state["step"] if isinstance(state, dict) and "step" in state else None
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= LARGEST_INT:
            raise ValueError(f"its step is {shown(step)}, so it is not the state of a run")
        LOG.info(f"read {told(path)}: the training at step {step}")
        return state
    except Exception as error:  # whatever bytes are there: the restricted unpickler fails on them in many ways
        raise UserError(f"{path} is damaged ({one_line(error)}). Start again, in another folder.") from None


def read_weights(folder: Path, weights: str = "ema") -> tuple[dict[str, "Tensor"], Path]:
    """Read one of WEIGHTS of the network that draws. Return the weights and their file. Raises UserError."""
    if weights not in WEIGHTS:
        raise UserError(f"unknown weights '{weights}'. Known: {', '.join(WEIGHTS)}.")
    if weights == "ema":
        return read_tensors(folder / MODEL), folder / MODEL
    state = read_state(folder)
    if state is None:
        raise UserError(f"{folder / STATE} is missing, and only it holds the raw weights. Use ema.")
    if not isinstance(state.get("model"), dict):
        raise UserError(f"{folder / STATE} has no raw weights, so it is not the state of a training. Use ema.")
    return state["model"], folder / STATE


# --- run folders --------------------------------------------------------------------------------------------------


def read_config(folder: str | Path, kind: Kinds | None = None) -> dict[str, Any]:
    """Read a run's config.json. If `kind` is given, raise UserError unless the run is of that kind, or one of them.

    Each kind of run has a record for it, such as `DdpmConfig`, and a function that checks it, such as `read_ddpm`.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        raise UserError(
            f"{folder} does not exist. `minidiff info` lists the runs there are, and `minidiff models` the models that "
            "come with minidiff."
        )
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a run folder. Give the folder that holds {CONFIG}.")
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder} is not a run folder (it has no {CONFIG}). `minidiff info` lists the runs.")
    config = read_json(folder / CONFIG)
    if not isinstance(config.get("kind"), str):
        raise UserError(f"{folder / CONFIG} was not written by minidiff (it names no kind of run).")
    if not config["kind"].isprintable() or len(config["kind"]) > 40:
        raise UserError(f"{folder / CONFIG} was not written by minidiff (its kind of run is {shown(config['kind'])}).")
    if kind is not None and config["kind"] not in several(kind):
        needs, comes = listed(several(kind), "or"), folder.parent == MODELS
        name = folder.name if comes else str(folder)
        raise UserError(
            f"{name}{', which comes with minidiff,' * comes} is a {config['kind']} run; this command needs a {needs} "
            f"run. See `minidiff info {shlex.quote(name)}`."
        )
    return config


def several(kind: Kinds) -> tuple[str, ...]:
    return (kind,) if isinstance(kind, str) else kind


def list_runs(root: str | Path = "runs", kind: Kinds | None = None) -> list[Path]:
    """List the run folders under `root`, the newest first.

    If `kind` is given, list only runs of that kind, or one of them, that have weights.
    """
    found = []
    for config in Path(root).glob(f"*/{CONFIG}"):
        model = config.parent / MODEL
        try:
            if kind is None or (read_config(config.parent)["kind"] in several(kind) and model.exists()):
                found.append(((model if model.exists() else config).stat().st_mtime, config.parent))
        except OSError:  # it has just been removed
            continue
        except UserError as error:
            skip(error)
    return [folder for _, folder in sorted(found, reverse=True)]


def skip(error: UserError) -> None:
    """Print that a run is left out of a list or of a choice. The error names it."""
    warn_once(f"{str(error).rstrip('.')}; this run is skipped.")


def open_newest(kind: Kinds, open_run: Callable[[Path], Opened], root: str | Path = "runs") -> tuple[Path, Opened]:
    """Open the run of this kind, or one of these, that was written last. Returns its folder, and it.

    A run that cannot be opened is skipped with a warning. Raises UserError when there is no other.
    """
    runs, first = list_runs(root, kind), None
    for folder in runs:
        try:
            return folder, open_run(folder)
        except UserError as error:
            first = first or error
            if folder != runs[-1]:
                skip(error)
    kinds = several(kind)
    raise first or UserError(
        f"no {listed(kinds, 'or')} run with weights under {root}/. "
        f"Train one with `minidiff train {kinds[0]}`, or name a run folder."
    )


def create_run(
    folder: str | Path | None,
    name: str,
    config: Mapping[str, Any],
    pictures: str = "samples",
    fill: Callable[[Path], None] | None = None,
    option: str = "out",
) -> Path:
    """Make a new run folder with its config.json: `folder`, or the first free one of `runs/NAME-1`, `-2`, ...

    pictures: the name of the folder inside it for what the run draws. fill: puts more into the folder, before the
    config.json. option: the argument by which the user named the folder, for the errors. Raises UserError.
    """
    folder, before = next_folder(name) if folder is None else Path(folder), False
    check_free(folder, option)
    try:
        before = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):  # another process may want the same folder at this moment
            check_free(folder, option)
            if fill is not None:
                fill(folder)
            write_json(folder / CONFIG, config)  # before the pictures: what a kill leaves without it is still free
            (folder / pictures).mkdir()
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}. Choose another `{option}`.") from None
    except UserError:
        if not before and not (folder / CONFIG).exists():
            shutil.rmtree(folder, ignore_errors=True)  # no half-made run stays behind
        raise
    return folder


def next_folder(name: str) -> Path:
    """Return the first free one of `runs/NAME-1`, `-2`, ..."""
    number = 1
    while Path("runs", f"{name}-{number}").exists():
        number += 1
    return Path("runs", f"{name}-{number}")


def check_free(folder: Path, option: str = "out") -> None:
    """Raise UserError unless a run folder can be made at `folder`, where there is none or an empty one.

    option: the argument by which the user named it.
    """
    if folder.is_dir() and not is_empty(folder):
        hint = f"Go on with it by `resume` {folder}, or use" if (folder / CONFIG).exists() else "Use"
        raise UserError(f"{folder} is not empty. {hint} another `{option}`.")
    check_makeable(folder, option)


def check_makeable(folder: Path, option: str = "out") -> None:
    """Raise UserError unless a folder is there that can be written into, or can be made."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"{there} is a file, so {folder} cannot be a folder. Use another `{option}`.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"nothing can be written into {there}: permission denied. Use another `{option}`.")
