"""Describe each kind of training from its run folder: what is trained, how, how far it is, and what was measured.

Rests on the records of the trainings, and needs no torch. `describe` asks it, and describes all other kinds of runs.
"""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

from minidiff.classifier.config import read_classifier
from minidiff.data.config import DataConfig, Labels
from minidiff.ddpm.config import UsedPrior, read_ddpm
from minidiff.dehaze.config import read_dehaze
from minidiff.errors import counted, shown
from minidiff.files import regular
from minidiff.gan.config import read_gan
from minidiff.networks.configs import DiTConfig, OwnNetwork, UNetConfig
from minidiff.priors.config import read_dip_prior
from minidiff.runs.folder import CONFIG, MODEL
from minidiff.runs.log import is_measurement, name_of_loss, read_metrics
from minidiff.training.config import TrainConfig


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
        "diffusion": diffusion.describe() + (", zero terminal SNR" if diffusion.zero_terminal_snr else ""),
        **(trained(folder, config.training) if config.training else {}),
    }


def summarise_ddpm(folder: Path, stored: dict[str, Any]) -> str:
    config = read_ddpm(stored, folder / CONFIG)
    if config.source or not config.training:
        return f"{config.data.image_size}x{config.data.image_size}, from {config.source and config.source.place}"
    return f"{on_data(config.data)}, {progress(folder, config.training.steps)}"


def prior_in_words(prior: UsedPrior) -> str:
    """Describe what the prior of a DDPM is for, in a line."""
    shifted = f", shifted by {prior.shift}" * (prior.use == "residual")
    return f"of {prior.run.place}, for {prior.use}{shifted}"


def in_words(network: UNetConfig | DiTConfig | OwnNetwork) -> str:
    """Describe the network of a DDPM in a line."""
    if isinstance(network, OwnNetwork):
        given = ", ".join(f"{name}={shown(value)}" for name, value in network.arguments.items())
        return f"{network.module}({given}), which is not a part of minidiff"
    if isinstance(network, DiTConfig):
        side = network.image_size // network.patch
        return (
            f"DiT, {network.depth} blocks of width {network.width}, {counted(network.heads, 'head')}, "
            f"{side}x{side} patches of {network.patch}x{network.patch}"
        )
    sides = [str(network.image_size >> level) for level, attends in enumerate(network.attention) if attends]
    sides += ["the middle alone"] * (network.mid_attention and not sides)
    attention = f"attention at {', '.join(sides)}" if sides else "no attention"
    norm = {"group": "", "channel": ", channel norm", "none": ", without norms"}[network.norm]
    size = ": takes images of any size" * network.any_size
    return (
        f"UNet, channels {list(network.channels)}, {network.layers_per_block} blocks a level, {attention}{norm}{size}"
    )


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
        told["diffusion"] = diffusion.describe()
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


# --- what several have to say -------------------------------------------------------------------------------------


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


def listed(labels: Labels) -> str:
    """Return how many labels an image may have, and what the first are."""
    names = labels.names
    count = f"{len(names)}, {'one' if labels.one_hot else 'any number of them'} an image"
    return f"{count}: {', '.join(names[:8])}{', ...' * (len(names) > 8)}"


def trained(folder: Path, training: TrainConfig) -> dict[str, str]:
    """Describe how a run is trained, and how far it is."""
    return {
        "training": f"{training.steps:,} steps of {training.batch_size} images, lr {training.lr:g} "
        f"({training.decay}), EMA {training.ema_decay:g}, {'Muon, ' * training.muon}seed {training.seed}",
        "progress": progress(folder, training.steps),
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
