"""Describe a run folder from its files, without building the network.

Rests on the records of every kind of run, and on none of their code, so that `minidiff info` needs no torch.
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minidiff.dehaze.config import ClearConfig
from minidiff.dip.config import ANSWERS, RESULT, DipFolderConfig, FitResult, read_any_fit
from minidiff.errors import UserError, counted, printable
from minidiff.evaluation.config import EvaluateConfig
from minidiff.evaluation.result import read_lists
from minidiff.files import read_json, size_in_words
from minidiff.gan.config import GAMES
from minidiff.priors.config import DIP_PRIOR
from minidiff.records import from_json
from minidiff.reports.describe_training import (
    describe_classifier,
    describe_ddpm,
    describe_dehaze,
    describe_dip_prior,
    describe_gan,
    progress,
    summarise_classifier,
    summarise_ddpm,
    summarise_dehaze,
    summarise_dip_prior,
    summarise_gan,
)
from minidiff.restoration.config import ANSWER as RESTORED
from minidiff.restoration.config import FinishConfig, RestoreConfig
from minidiff.runs.folder import CONFIG, RESULTS, read_config
from minidiff.runs.shipped import find_run


def describe_run(folder: str | Path) -> str:
    """Describe a run folder of any kind, or a model that comes with the package, in several lines. Raises UserError."""
    folder = Path(find_run(folder))
    try:
        config = read_config(folder)
    except UserError:
        refuse_foreign(folder)
        raise
    lines = {"run": f"{folder} ({config['kind']}, minidiff {config.get('minidiff', '?')})"} | about(folder, config)
    return "\n".join(f"{name:11} {printable(text)}" for name, text in (lines | {"files": files(folder)}).items())


def refuse_foreign(folder: Path) -> None:
    """Raise UserError for a checkpoint of another library. The error says what it is."""
    from minidiff.interop.checkpoints import is_foreign, open_checkpoint  # needs torch

    if folder.exists() and is_foreign(folder):
        open_checkpoint(folder)
        raise UserError(
            f"{folder} is a checkpoint of diffusers, which `minidiff sample` takes as it is. "
            f"`minidiff import {shlex.quote(str(folder))}` makes a run of it."
        )


def about(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Say what a run is and how far it is, by name. Raises UserError."""
    try:
        return KINDS[config["kind"]][0](folder, config) if config["kind"] in KINDS else {}
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} lacks what a {config['kind']} run has ({error}).") from None


def summarise_run(folder: Path) -> str:
    """Describe a run in one line: name, kind, data, progress. Raises UserError."""
    config = read_config(folder)
    try:
        return f"{folder}  {config['kind']} {KINDS[config['kind']][1](folder, config)}"
    except UserError:
        raise
    except (KeyError, TypeError, ValueError):
        return f"{folder}  {config['kind']}"


# --- what each kind has to say; trainings do in describe_training -------------------------------------------------


def describe_dip(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Describe a fit of one picture, or of all pictures of a folder."""
    read = read_any_fit(config, folder / CONFIG)
    if isinstance(read, DipFolderConfig):
        return {"images": read.images, "progress": summarise_dip(folder, config)}
    fit, stop = read.fit, read.early_stop
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in read.net.settings().items())
    ending = f"{stop.name}, patience {stop.patience:,}" if stop else "off"
    return {
        "image": read.image + (f", noise {read.noise_sigma:g}/255" if read.noise_sigma else ""),
        "network": f"{read.net.name}: {settings}; its input {fit.input_kind}",
        "fit": f"{fit.task}, lr {fit.lr:g}, jitter {fit.jitter:.3g}, average {fit.average:g}, "
        f"seed {fit.seed}; early stop {ending}",
        "progress": fit_progress(folder, fit.steps),
    }


def summarise_dip(folder: Path, config: dict[str, Any]) -> str:
    read = read_any_fit(config, folder / CONFIG)
    if isinstance(read, DipFolderConfig):
        return f"of the pictures in {read.images}, {len(list((folder / ANSWERS).glob('*.png')))} fitted"
    return f"of {read.image}, {fit_progress(folder, read.fit.steps)}"


def fit_progress(folder: Path, steps: int) -> str:
    """Say how a fit ended, or how far it is. Raises UserError for a damaged result."""
    if not (folder / RESULT).exists():
        return progress(folder, steps)
    result = from_json(FitResult, read_json(folder / RESULT), folder / RESULT)
    found = "" if result.psnr is None else f", PSNR {result.psnr:.2f} dB"
    return f"done at step {result.steps:,}, its answer is from step {result.best_step:,}{found}"


def describe_restore(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Describe a restoration: its picture, its model, and whether it is done."""
    read = from_json(RestoreConfig, config, folder / CONFIG)
    return {"image": read.image, "model": read.model, "progress": restore_progress(folder)}


def summarise_restore(folder: Path, config: dict[str, Any]) -> str:
    return f"of {from_json(RestoreConfig, config, folder / CONFIG).image}, {restore_progress(folder)}"


def describe_finish(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Describe pictures that a model finishes."""
    read = from_json(FinishConfig, config, folder / CONFIG)
    return {"pictures": read.source, "model": read.model, "out": read.out, "progress": finish_progress(folder)}


def summarise_finish(folder: Path, config: dict[str, Any]) -> str:
    """Describe the same in a line."""
    return f"of {from_json(FinishConfig, config, folder / CONFIG).source}, {finish_progress(folder)}"


def describe_clear(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Describe pictures that are dehazed."""
    read = from_json(ClearConfig, config, folder / CONFIG)
    model = f"{read.model}, with the weights {read.weights}"
    return {"pictures": ", ".join(read.sources), "model": model, "out": read.out, "progress": finish_progress(folder)}


def summarise_clear(folder: Path, config: dict[str, Any]) -> str:
    """Describe the same in a line."""
    sources = from_json(ClearConfig, config, folder / CONFIG).sources
    return f"of {sources[0]}{' and more' * (len(sources) > 1)}, {finish_progress(folder)}"


def finish_progress(folder: Path) -> str:
    """Say how many pictures are finished."""
    return f"{counted(len(list((folder / RESULTS).glob('*.json'))), 'picture')} finished"


def restore_progress(folder: Path) -> str:
    return "done" if (folder / RESTORED).exists() else "not finished"


def describe_evaluation(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Describe an evaluation: the model or the images, the classifier, and the score of each list."""
    evaluation = from_json(EvaluateConfig, config, folder / CONFIG)
    shown = f"{evaluation.data.name}: {evaluation.data.images:,} images" if evaluation.data else ""
    if sampling := evaluation.sampling:
        how = f"{sampling.sampler}, {sampling.calls} calls, guidance {sampling.guidance_scale:g}"
        shown = f"{evaluation.run}: {how}"
    looks = evaluation.classifier
    knows = f"; {looks.knowledge}" * bool(looks.knowledge)
    told = {"shown": shown, "looked at": f"by {looks.place}, {looks.image_size}x{looks.image_size}{knows}"}
    for name, figures in read_lists(folder).items():
        conditions, seeds = counted(figures["conditions"], "condition"), counted(len(figures["seeds"]), "seed")
        told[name] = f"score {figures['score']['value']:.3f}, {conditions}, {seeds}"
    return told


def summarise_evaluation(folder: Path, config: dict[str, Any]) -> str:
    """Describe an evaluation in one line: the model or the images, and the scores."""
    evaluation = from_json(EvaluateConfig, config, folder / CONFIG)
    shown = evaluation.data.name if evaluation.data else evaluation.run
    scores = [f"{name} {figures['score']['value']:.3f}" for name, figures in read_lists(folder).items()]
    return f"of {shown}: {', '.join(scores) or 'not finished'}"


Lines = Callable[[Path, dict[str, Any]], dict[str, str]]
Line = Callable[[Path, dict[str, Any]], str]
KINDS: dict[str, tuple[Lines, Line]] = {
    "ddpm": (describe_ddpm, summarise_ddpm),
    **dict.fromkeys(GAMES, (describe_gan, summarise_gan)),
    "classifier": (describe_classifier, summarise_classifier),
    "dehaze": (describe_dehaze, summarise_dehaze),
    DIP_PRIOR: (describe_dip_prior, summarise_dip_prior),
    "evaluate": (describe_evaluation, summarise_evaluation),
    "dip": (describe_dip, summarise_dip),
    "restore": (describe_restore, summarise_restore),
    "finish": (describe_finish, summarise_finish),
    "clear": (describe_clear, summarise_clear),
}


def files(folder: Path) -> str:
    """List what is in the folder, with the sizes."""
    shown = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]
    sizes = [f"{path.name} {size_in_words(path.stat().st_size)}" for path in shown]
    within = [f"{path.name}/ {contents(path)}" for path in folder.iterdir() if path.is_dir()]
    return ", ".join([*sizes, *sorted(within)])


def contents(folder: Path) -> str:
    """Count the pictures, or other files, in a folder."""
    pictures = len(list(folder.glob("*.png")))
    others = len([path for path in folder.iterdir() if path.is_file()]) - pictures
    both = [counted(pictures, "picture")] * bool(pictures or not others) + [counted(others, "file")] * bool(others)
    return " and ".join(both)
