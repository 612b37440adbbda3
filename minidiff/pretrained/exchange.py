"""What `minidiff import` and `minidiff export` do, from a script: make runs from checkpoints of diffusers, and back.

Rests on interop and ddpm.

minidiff.import_run("google/ddpm-celebahq-256", "runs/celebahq")
minidiff.export_run("runs/ddpm-shapes-1", "shapes-diffusers")
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from minidiff.ddpm.config import DdpmConfig, read_ddpm
from minidiff.ddpm.recipe import build_schedule
from minidiff.ddpm.run import load_ddpm
from minidiff.errors import UserError, lookup
from minidiff.interop.checkpoints import is_foreign, open_checkpoint
from minidiff.interop.writing import FORMATS, check_new, write_run
from minidiff.networks.configs import DiTConfig
from minidiff.records import to_json
from minidiff.runs.folder import read_config
from minidiff.runs.shipped import find_run, is_name


class Imported(NamedTuple):
    """A run that was made from a checkpoint."""

    folder: Path
    config: DdpmConfig
    parameters: int  # how many numbers its network has
    notes: tuple[str, ...]  # which weights were read, and where minidiff samples them differently from their library


def import_run(source: str | Path, run: str | Path | None = None) -> Imported:
    """Make a run folder from a folder that diffusers saved, or from owner/name on the Hugging Face Hub.

    run: the new folder; None is runs/NAME. Raises UserError.
    """
    if is_name(str(source)):
        raise UserError(f"{source} comes with minidiff, and every command takes its name. There is nothing to import.")
    folder = Path("runs", Path(source).expanduser().absolute().name) if run is None else Path(run)
    check_new(folder)
    found = open_checkpoint(source)
    config = read_ddpm(found.config, source)
    write_run(folder, found.config, found.tensors)
    parameters = sum(tensor.numel() for tensor in found.tensors.values())
    notes = (*config.source.weights, *config.source.notes) if config.source else ()
    return Imported(folder, config, parameters, notes)


def export_run(run: str | Path, folder: str | Path, kind: str = "diffusers", weights: str = "ema") -> list[str]:
    """Write a run as a new folder for another library. Returns notes about what that folder cannot hold.

    kind: one of FORMATS. weights: `ema`, the averaged ones, or `raw`. Raises UserError.
    """
    write = lookup("format", kind, FORMATS)
    check_new(Path(folder))
    run = find_run(run)
    stored = {} if is_foreign(run) else read_config(run, kind="ddpm")
    network = stored.get("network")  # not judged yet
    if isinstance(network, dict) and "module" in network:
        raise UserError(f"the network of {run} is {network['module']}, for which {kind} has no layers.")
    opened = load_ddpm(run, weights)
    if isinstance(opened.config.network, DiTConfig):
        raise UserError(f"the network of {run} is a DiT, and {kind} gets U-Nets alone. It cannot be exported.")
    if opened.prior_use == "residual":
        raise UserError(f"the network of {run} sees a prior beside x_t, for which {kind} has no pipeline.")
    if opened.config.diffusion.process != "ddpm":
        raise UserError(
            f"{run} was trained as {opened.config.diffusion.process}, and {kind} is written for ddpm alone."
        )
    plain = build_schedule(replace(opened.config.diffusion, zero_terminal_snr=False))
    return write(Path(folder), to_json(opened.config), opened.model.state_dict(), plain)
