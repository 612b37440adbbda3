"""Describe a run folder from its files, without building the network.

Rests on the records of every kind of run, and on none of their code, so that `minidiff info` needs no torch.
"""

import json
import shlex
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from minidiff.classifier.config import read_classifier
from minidiff.data.config import DataConfig, Labels
from minidiff.ddpm.config import UsedPrior, read_ddpm
from minidiff.dehaze.config import ClearConfig, read_dehaze
from minidiff.dip.config import ANSWERS, RESULT, DipFolderConfig, FitResult, read_any_fit
from minidiff.errors import UserError, counted, printable, shown
from minidiff.evaluation.config import EvaluateConfig
from minidiff.evaluation.result import read_lists
from minidiff.files import read_json, regular, size_in_words
from minidiff.gan.config import GAMES, read_gan
from minidiff.networks.configs import OwnNetwork, UNetConfig
from minidiff.priors.config import DIP_PRIOR, read_dip_prior
from minidiff.records import from_json
from minidiff.restoration.config import ANSWER as RESTORED
from minidiff.restoration.config import FinishConfig, RestoreConfig
from minidiff.runs.folder import CONFIG, MODEL, RESULTS, read_config
from minidiff.runs.log import is_measurement, name_of_loss, read_metrics
from minidiff.runs.shipped import find_run
from minidiff.training.config import TrainConfig


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


# --- what each kind has to say ------------------------------------------------------------------------------------


def describe_ddpm(folder: Path, stored: dict[str, Any]) -> dict[str, str]:
    """Describe a DDPM, trained here or imported."""
    config = read_ddpm(stored, folder / CONFIG)
    data, network, diffusion, labels = config.data, config.network, config.diffusion, config.labels
    size = f"{data.image_size}x{data.image_size}"
    made = {"preset": config.preset or "?"}
    if config.source:
        made = {"source": f"{config.source.place}, of {config.source.format}"}
    if config.init:
        made["init"] = f"the weights of {config.init.place}"
    told = {"labels": f"{listed(labels)}; not told of {100 * labels.dropout:g}% of the images"} if labels else {}
    if config.source and network.label_dim:
        many = "one" if config.source.one_hot else "any number of them"
        told = {"labels": f"{network.label_dim}, {many} an image: the numbers 0 to {network.label_dim - 1}"}
    return {
        **made,
        "data": f"{size if config.source else seen_of(data)}, {counted(data.channels, 'channel')}",
        **told,
        **({"prior": prior_in_words(config.prior)} if config.prior else {}),
        "network": in_words(network),
        "parameters": parameters(folder / MODEL),
        "diffusion": f"{diffusion.schedule} schedule, T = {diffusion.timesteps}, predicts {diffusion.prediction}"
        + (", zero terminal SNR" if diffusion.zero_terminal_snr else ""),
        **(trained(folder, config.training) if config.training else {}),
    }


def prior_in_words(prior: UsedPrior) -> str:
    """Describe what the prior of a DDPM is for, in a line."""
    shifted = f", shifted by {prior.shift}" * (prior.use == "residual")
    return f"of {prior.run.place}, for {prior.use}{shifted}"


def in_words(network: UNetConfig | OwnNetwork) -> str:
    """Describe the network of a DDPM in a line."""
    if isinstance(network, OwnNetwork):
        given = ", ".join(f"{name}={shown(value)}" for name, value in network.arguments.items())
        return f"{network.module}({given}), which is not a part of minidiff"
    sides = [str(network.image_size >> level) for level, attends in enumerate(network.attention) if attends]
    sides += ["the middle alone"] * (network.mid_attention and not sides)
    attention = f"attention at {', '.join(sides)}" if sides else "no attention"
    norm = {"group": "", "channel": ", channel norm", "none": ", without norms"}[network.norm]
    size = ": takes images of any size" * network.any_size
    return (
        f"UNet, channels {list(network.channels)}, {network.layers_per_block} blocks a level, {attention}{norm}{size}"
    )


def summarise_ddpm(folder: Path, stored: dict[str, Any]) -> str:
    config = read_ddpm(stored, folder / CONFIG)
    if config.source or not config.training:
        return f"{config.data.image_size}x{config.data.image_size}, from {config.source and config.source.place}"
    return f"{on_data(config.data)}, {progress(folder, config.training.steps)}"


def describe_gan(folder: Path, stored: dict[str, Any]) -> dict[str, str]:
    """Describe a GAN of any kind."""
    config = read_gan(stored, folder / CONFIG)
    data, network, game = config.data, config.network, config.gan
    turns = f"{counted(game.critic_steps, 'step')} to each of the generator's, by {game.optimizer}"
    limits = f", weights clipped to {game.clip:g}" if game.clip else ""
    limits += f", gradient penalty {game.penalty:g}" if game.penalty else ""
    return {
        "preset": config.preset or "?",
        "data": f"{seen_of(data)}, {counted(data.channels, 'channel')}",
        "network": f"generator of width {network.width}, from {network.latent_dim} numbers of noise",
        "parameters": parameters(folder / MODEL),
        "critic": f"{turns}{limits}",
        **trained(folder, config.training),
        "measured": measured(folder),
    }


def summarise_gan(folder: Path, stored: dict[str, Any]) -> str:
    config = read_gan(stored, folder / CONFIG)
    return f"{on_data(config.data)}, {progress(folder, config.training.steps)}, {measured(folder)}"


def describe_classifier(folder: Path, stored: dict[str, Any]) -> dict[str, str]:
    """Describe a classifier."""
    config = read_classifier(stored, folder / CONFIG)
    how = trained(folder, config.training)
    return {
        "preset": config.preset or "?",
        "data": f"{seen_of(config.data)}, {counted(config.data.channels, 'channel')}",
        "labels": listed(config.labels),
        "network": f"ResNet-18, width {config.network.width}",
        "parameters": parameters(folder / MODEL),
        **how,
        "training": f"{how['training']}, images moved by up to {config.shift} pixels",
        "measured": measured(folder),
    }


def summarise_classifier(folder: Path, stored: dict[str, Any]) -> str:
    config = read_classifier(stored, folder / CONFIG)
    return f"{on_data(config.data)}, {progress(folder, config.training.steps)}, {measured(folder)}"


def describe_dehaze(folder: Path, stored: dict[str, Any]) -> dict[str, str]:
    """Describe a dehazing: what its stages are, and how far the training is."""
    config = read_dehaze(stored, folder / CONFIG)
    data, guess = config.data, config.guess
    told = {
        "preset": config.preset or "?",
        "stage": "2, with its stage 1" if config.refinement else "1",
        "data": f"{seen_of(data)}{f' of {data.data_dir}' * bool(data.data_dir)}",
        "network": f"GUNet, channels {list(guess.channels)}, {list(guess.blocks)} blocks: takes pictures of any size",
        "parameters": parameters(folder / MODEL),
    }
    if config.refinement:
        second, diffusion, behind = config.refinement.network, config.refinement.diffusion, config.refinement.first
        told["stage 2"] = f"{in_words(second)}; behind stage 1 of {behind.place if behind else '?'}"
        told["diffusion"] = f"{diffusion.schedule} schedule, T = {diffusion.timesteps}, predicts {diffusion.prediction}"
    return told | (trained(folder, config.training) if config.training else {}) | {"measured": measured(folder)}


def summarise_dehaze(folder: Path, stored: dict[str, Any]) -> str:
    config = read_dehaze(stored, folder / CONFIG)
    steps = progress(folder, config.training.steps) if config.training else "imported"
    return f"stage {config.stage}, {on_data(config.data)}, {steps}, {measured(folder)}"


def describe_dip_prior(folder: Path, stored: dict[str, Any]) -> dict[str, str]:
    """Describe a prior of a whole data set."""
    config = read_dip_prior(stored, folder / CONFIG)
    return {
        "preset": config.preset or "?",
        "data": f"{seen_of(config.data)}, {counted(config.data.channels, 'channel')}",
        "network": f"{config.net}, from an image with noise of deviation {config.noise:g} to the image",
        "parameters": parameters(folder / MODEL),
        **trained(folder, config.training),
        "measured": measured(folder),
    }


def summarise_dip_prior(folder: Path, stored: dict[str, Any]) -> str:
    config = read_dip_prior(stored, folder / CONFIG)
    steps = progress(folder, config.training.steps)
    return f"{config.net}, noise {config.noise:g}, {on_data(config.data)}, {steps}, {measured(folder)}"


def seen_of(data: DataConfig) -> str:
    """Return what a run was trained on: "fashion-mnist: 60,000 images, 32x32, under motion_blur-3"."""
    count = f"{data.images:,} images" if data.images is not None else "images"
    return f"{data.name}: {count}, {data.image_size}x{data.image_size}{damage(data, ', under ')}"


def on_data(data: DataConfig) -> str:
    """Return the same in fewer words: "on fashion-mnist 32x32 under motion_blur-3"."""
    return f"on {data.name} {data.image_size}x{data.image_size}{damage(data, ' under ')}"


def damage(data: DataConfig, before: str) -> str:
    """Return the corruption of the data, after these words; nothing if there is none."""
    return "" if data.corruption == "identity" else f"{before}{data.corruption}-{data.severity}"


def trained(folder: Path, training: TrainConfig) -> dict[str, str]:
    """Describe how a run is trained, and how far it is."""
    return {
        "training": f"{training.steps:,} steps of {training.batch_size} images, lr {training.lr:g} "
        f"({training.decay}), EMA {training.ema_decay:g}, {'Muon, ' * training.muon}seed {training.seed}",
        "progress": progress(folder, training.steps),
    }


def listed(labels: Labels) -> str:
    """Return how many labels an image may have, and what the first are."""
    names = labels.names
    count = f"{len(names)}, {'one' if labels.one_hot else 'any number of them'} an image"
    return f"{count}: {', '.join(names[:8])}{', ...' * (len(names) > 8)}"


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


def measured(folder: Path) -> str:
    """Say what was measured last."""
    found = [record for record in read_metrics(folder) if is_measurement(record)]
    if not found:
        return "not measured yet"
    values = [
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in found[-1].items() if name != "step" and value is not None
    ]  # fmt: skip
    return f"{', '.join(values)} at step {found[-1]['step']:,}"


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


def progress(folder: Path, steps: int) -> str:
    """Say how far the run has come, and its last loss."""
    records = read_metrics(folder)
    if not records:
        return "not a step logged yet"
    step = records[-1]["step"]
    done = "done" if step >= steps else f"{100 * step / steps:.0f}%"
    losses = [f", last {name_of_loss(record)} {record['loss']:.4f}" for record in records if "loss" in record]
    return f"step {step:,} of {steps:,} ({done}){''.join(losses[-1:])}"


def parameters(path: Path) -> str:
    """Count the numbers of a safetensors file, by its header alone: 8 bytes of length, then JSON."""
    if not path.exists():
        return "no weights yet"
    try:
        regular(path)
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        count = sum(prod(map(int, shape)) for shape in shapes)
        return f"{count:,} in {len(shapes)} tensors"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error):
        return f"{path.name} is damaged"


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
