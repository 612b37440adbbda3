"""What a run folder has to say for itself, read from its files without building the network."""

import json
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from minidiff.dip.config import ANSWERS, RESULT, DipConfig, DipFolderConfig, FitResult
from minidiff.errors import UserError
from minidiff.evaluation.config import EvaluateConfig
from minidiff.evaluation.result import read_lists
from minidiff.files import read_json
from minidiff.records import from_json
from minidiff.restoration.config import ANSWER as RESTORED
from minidiff.restoration.config import RestoreConfig
from minidiff.runs import folder as checkpoint
from minidiff.runs.log import read_metrics


def describe_run(folder: str | Path) -> str:
    """Several lines about a run folder of any kind. Raises UserError."""
    folder = Path(folder)
    config = checkpoint.read_config(folder)
    lines = {"run": f"{folder} ({config['kind']}, minidiff {config.get('minidiff', '?')})"} | about(folder, config)
    return "\n".join(f"{name:11} {text}" for name, text in (lines | {"files": files(folder)}).items())


def about(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """What a run is and how far it is, by name. Raises UserError."""
    try:
        return KINDS[config["kind"]][0](folder, config) if config["kind"] in KINDS else {}
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a {config['kind']} run has ({error}).") from None


def summarise_run(folder: Path) -> str:
    """One line: name, kind, data, progress."""
    config = checkpoint.read_config(folder)
    try:
        return f"{folder}  {config['kind']} {KINDS[config['kind']][1](folder, config)}"
    except (KeyError, TypeError, ValueError):
        return f"{folder}  {config['kind']}"


# --- what each kind has to say ------------------------------------------------------------------------------------


def describe_ddpm(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    data, network, diffusion, training = (config[key] for key in ("data", "network", "diffusion", "training"))
    if config.get("source"):
        made = {"source": f"{config['source']['place']}, of {config['source']['format']}"}
        seen = f"{data['image_size']}x{data['image_size']}"
    else:
        made = {"preset": config["preset"]}
        seen = seen_of(data)
    attention = [data["image_size"] >> level for level, attends in enumerate(network["attention"]) if attends]
    labels = config.get("labels")
    told = labels and {"labels": f"{listed(labels)}; not told of {100 * labels['dropout']:g}% of the images"}
    return {
        **made,
        "data": f"{seen}, {data['channels']} channel{'s' * (data['channels'] > 1)}",
        **(told or {}),
        "network": f"UNet, channels {network['channels']}, {network['layers_per_block']} blocks a level, "
        f"attention at {', '.join(map(str, attention)) or 'the middle alone'}",
        "parameters": parameters(folder / checkpoint.MODEL),
        "diffusion": f"{diffusion['schedule']} schedule, T = {diffusion['timesteps']}, "
        f"predicts {diffusion['prediction']}" + (", zero terminal SNR" if diffusion["zero_terminal_snr"] else ""),
        **trained(folder, training),
    }


def seen_of(data: dict[str, Any]) -> str:
    """What a run was trained on: "fashion-mnist: 60,000 images, 32x32, under motion_blur-3"."""
    size = f"{data['image_size']}x{data['image_size']}"
    return f"{data['name']}: {data['images']:,} images, {size}{damage(data, ', under ')}"


def damage(data: dict[str, Any], before: str) -> str:
    """The corruption of the data, after these words; nothing where there is none."""
    return (
        f"{before}{data['corruption']}-{data['severity']}" if data.get("corruption", "identity") != "identity" else ""
    )


def trained(folder: Path, training: dict[str, Any]) -> dict[str, str]:
    """How, and how far; nothing of a run that was imported."""
    return training and {
        "training": f"{training['steps']:,} steps of {training['batch_size']} images, lr {training['lr']:g} "
        f"({training['decay']}), EMA {training['ema_decay']:g}, seed {training['seed']}",
        "progress": progress(folder, training["steps"]),
    }


def summarise_ddpm(folder: Path, config: dict[str, Any]) -> str:
    data = config["data"]
    if config.get("source"):
        return f"{data['image_size']}x{data['image_size']}, from {config['source']['place']}"
    return (
        f"on {data['name']} {data['image_size']}x{data['image_size']}{damage(data, ' under ')}, "
        f"{progress(folder, config['training']['steps'])}"
    )


def describe_gan(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    data, network, gan, training = (config[key] for key in ("data", "network", "gan", "training"))
    turns = f"{counted(gan['critic_steps'], 'step')} to each of the generator's, by {gan['optimizer']}"
    limits = f", weights clipped to {gan['clip']:g}" if gan.get("clip") else ""
    limits += f", gradient penalty {gan['penalty']:g}" if gan.get("penalty") else ""
    return {
        "preset": config["preset"],
        "data": f"{seen_of(data)}, {data['channels']} channel{'s' * (data['channels'] > 1)}",
        "network": f"generator of width {network['width']}, from {network['latent_dim']} numbers of noise",
        "parameters": parameters(folder / checkpoint.MODEL),
        "critic": f"{turns}{limits}",
        **trained(folder, training),
        "measured": measured(folder),
    }


def summarise_gan(folder: Path, config: dict[str, Any]) -> str:
    return f"{summarise_ddpm(folder, config)}, {measured(folder)}"


def describe_classifier(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    data, network, labels, training = (config[key] for key in ("data", "network", "labels", "training"))
    return {
        "preset": config["preset"],
        "data": f"{seen_of(data)}, {data['channels']} channel{'s' * (data['channels'] > 1)}",
        "labels": listed(labels),
        "network": f"ResNet-18, width {network['width']}",
        "parameters": parameters(folder / checkpoint.MODEL),
        "training": f"{training['steps']:,} steps of {training['batch_size']} images, lr {training['lr']:g} "
        f"({training['decay']}), EMA {training['ema_decay']:g}, seed {training['seed']}, "
        f"images moved by up to {config['shift']} pixels",
        "progress": progress(folder, training["steps"]),
        "measured": measured(folder),
    }


def listed(labels: dict[str, Any]) -> str:
    """How many labels an image may have, and what the first are."""
    names = labels["names"]
    count = f"{len(names)}, {'one' if labels['one_hot'] else 'any number of them'} an image"
    return f"{count}: {', '.join(names[:8])}{', ...' * (len(names) > 8)}"


def describe_dip(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """A fit of one picture, or of all pictures of a folder."""
    read = read_dip(folder, config)
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


def read_dip(folder: Path, config: dict[str, Any]) -> DipConfig | DipFolderConfig:
    """The config of a dip run as a record. Raises UserError."""
    where = folder / checkpoint.CONFIG
    return from_json(DipFolderConfig, config, where) if "images" in config else from_json(DipConfig, config, where)


def summarise_classifier(folder: Path, config: dict[str, Any]) -> str:
    return f"{summarise_ddpm(folder, config)}, {measured(folder)}"


def measured(folder: Path) -> str:
    """What was measured last."""
    found = [record for record in read_metrics(folder) if "loss" not in record]
    if not found:
        return "not measured yet"
    values = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in found[-1].items() if name != "step"]
    return f"{', '.join(values)} at step {found[-1]['step']:,}"


def summarise_dip(folder: Path, config: dict[str, Any]) -> str:
    read = read_dip(folder, config)
    if isinstance(read, DipFolderConfig):
        return f"of the pictures in {read.images}, {len(list((folder / ANSWERS).glob('*.png')))} fitted"
    return f"of {read.image}, {fit_progress(folder, read.fit.steps)}"


def fit_progress(folder: Path, steps: int) -> str:
    """How a fit ended, or how far it is. Raises UserError for a damaged result."""
    if not (folder / RESULT).exists():
        return progress(folder, steps)
    result = from_json(FitResult, read_json(folder / RESULT), folder / RESULT)
    found = "" if result.psnr is None else f", PSNR {result.psnr:.2f} dB"
    return f"done at step {result.steps:,}, its answer is from step {result.best_step:,}{found}"


def describe_restore(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """A restoration: its picture, its model, and whether it is done."""
    read = from_json(RestoreConfig, config, folder / checkpoint.CONFIG)
    return {"image": read.image, "model": read.model, "progress": restore_progress(folder)}


def summarise_restore(folder: Path, config: dict[str, Any]) -> str:
    return f"of {from_json(RestoreConfig, config, folder / checkpoint.CONFIG).image}, {restore_progress(folder)}"


def restore_progress(folder: Path) -> str:
    return "done" if (folder / RESTORED).exists() else "not finished"


def describe_evaluation(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Tell what is looked at, by what, and the score of each list."""
    evaluation = from_json(EvaluateConfig, config, folder / checkpoint.CONFIG)
    shown = f"{evaluation.data.name}: {evaluation.data.images:,} images" if evaluation.data else ""
    if sampling := evaluation.sampling:
        how = f"{sampling.sampler}, {sampling.calls} calls, guidance {sampling.guidance_scale:g}"
        shown = f"{evaluation.run}: {how}"
    size = evaluation.classifier.image_size
    told = {"shown": shown, "looked at": f"by {evaluation.classifier.place}, {size}x{size}"}
    for name, figures in read_lists(folder).items():
        conditions, seeds = counted(figures["conditions"], "condition"), counted(len(figures["seeds"]), "seed")
        told[name] = f"score {figures['score']['value']:.3f}, {conditions}, {seeds}"
    return told


def summarise_evaluation(folder: Path, config: dict[str, Any]) -> str:
    """Tell what is looked at, and the scores, in one line."""
    evaluation = from_json(EvaluateConfig, config, folder / checkpoint.CONFIG)
    shown = evaluation.data.name if evaluation.data else evaluation.run
    scores = [f"{name} {figures['score']['value']:.3f}" for name, figures in read_lists(folder).items()]
    return f"of {shown}: {', '.join(scores) or 'not finished'}"


Lines = Callable[[Path, dict[str, Any]], dict[str, str]]
Line = Callable[[Path, dict[str, Any]], str]
KINDS: dict[str, tuple[Lines, Line]] = {
    "ddpm": (describe_ddpm, summarise_ddpm),
    **dict.fromkeys(("dcgan", "wgan", "wgan-gp"), (describe_gan, summarise_gan)),  # gan.GANS, without its torch
    "classifier": (describe_classifier, summarise_classifier),
    "evaluate": (describe_evaluation, summarise_evaluation),
    "dip": (describe_dip, summarise_dip),
    "restore": (describe_restore, summarise_restore),
}


def progress(folder: Path, steps: int) -> str:
    """How far the run has come, and its last loss."""
    records = read_metrics(folder)
    if not records:
        return "not a step logged yet"
    step = records[-1]["step"]
    done = "done" if step >= steps else f"{100 * step / steps:.0f}%"
    losses = [f", last loss {record['loss']:.4f}" for record in records if "loss" in record]
    return f"step {step:,} of {steps:,} ({done}){''.join(losses[-1:])}"


def parameters(path: Path) -> str:
    """How many numbers a safetensors file holds, from its header alone: 8 bytes of length, then JSON."""
    if not path.exists():
        return "no weights yet"
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error):
        return f"{path.name} is damaged"
    count = sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return f"{count:,} in {len(header) - ('__metadata__' in header)} tensors"


def files(folder: Path) -> str:
    """The sizes of what is in the folder."""
    shown = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]
    sizes = [f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in shown]
    within = [f"{path.name}/ {contents(path)}" for path in folder.iterdir() if path.is_dir()]
    return ", ".join([*sizes, *sorted(within)])


def contents(folder: Path) -> str:
    """How many pictures, or other files, are in it."""
    pictures = len(list(folder.glob("*.png")))
    others = len([path for path in folder.iterdir() if path.is_file()]) - pictures
    both = [counted(pictures, "picture")] * bool(pictures or not others) + [counted(others, "file")] * bool(others)
    return " and ".join(both)


def counted(count: int, what: str) -> str:
    """A number and a noun: "1 seed", "3 seeds"."""
    return f"{count:,} {what}{'s' * (count != 1)}"
