"""What a run folder has to say for itself, read from its files without building the network."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

from minidiff import checkpoint
from minidiff.errors import UserError


def describe_run(folder: str | Path) -> str:
    """Several lines: kind, data, network, parameters, diffusion, training, progress, files. Raises UserError."""
    folder = Path(folder)
    config = checkpoint.read_config(folder)
    try:
        data, network, diffusion, training = (config[key] for key in ("data", "network", "diffusion", "training"))
        attention = [data["image_size"] >> level for level, attends in enumerate(network["attention"]) if attends]
        lines = {
            "run": f"{folder} ({config['kind']}, preset {config['preset']}, minidiff {config['minidiff']})",
            "data": f"{data['name']}: {data['images']:,} images, {data['image_size']}x{data['image_size']}, "
            f"{data['channels']} channel{'s' * (data['channels'] > 1)}",
            "network": f"UNet, channels {network['channels']}, {network['layers_per_block']} blocks a level, "
            f"attention at {', '.join(map(str, attention)) or 'the middle alone'}",
            "parameters": parameters(folder / checkpoint.MODEL),
            "diffusion": f"{diffusion['schedule']} schedule, T = {diffusion['timesteps']}, "
            f"predicts {diffusion['prediction']}" + (", zero terminal SNR" if diffusion["zero_terminal_snr"] else ""),
            "training": f"{training['steps']:,} steps of {training['batch_size']} images, lr {training['lr']:g} "
            f"({training['decay']}), EMA {training['ema_decay']:g}, seed {training['seed']}",
            "progress": progress(folder, training["steps"]),
            "files": files(folder),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a {config['kind']} run has ({error}).") from None
    return "\n".join(f"{name:11} {text}" for name, text in lines.items())


def summarise_run(folder: Path) -> str:
    """One line: name, kind, data, progress."""
    config = checkpoint.read_config(folder)
    try:
        data, size, steps = config["data"]["name"], config["data"]["image_size"], config["training"]["steps"]
        return f"{folder}  {config['kind']} on {data} {size}x{size}, {progress(folder, steps)}"
    except (KeyError, TypeError, ValueError):
        return f"{folder}  {config['kind']}"


def progress(folder: Path, steps: int) -> str:
    """How far the run has come, and its last loss."""
    records = checkpoint.read_metrics(folder)
    if not records:
        return "not a step logged yet"
    last: dict[str, Any] = records[-1]
    done = "done" if last["step"] >= steps else f"{100 * last['step'] / steps:.0f}%"
    return f"step {last['step']:,} of {steps:,} ({done}), last loss {last['loss']:.4f}"


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
    sizes = [f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in sorted(folder.iterdir()) if path.is_file()]
    return ", ".join(sizes) + f", samples/ {len(list((folder / 'samples').glob('*.png')))} grids"
