"""A trained classifier, opened from its run folder."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from minidiff.errors import UserError
from minidiff.networks.resnet import ResNet18
from minidiff.networks.weights import load_exactly
from minidiff.runs import folder as checkpoint


def load_classifier(folder: str | Path, device: str | torch.device = "cpu") -> tuple[dict[str, Any], ResNet18, str]:
    """A classifier's run folder: its config, its network (EMA weights, eval mode), the SHA-256 of its weights' file.

    Raises UserError when the folder is no classifier run, has no weights yet, or has some that do not fit exactly.
    """
    folder = Path(folder).expanduser()
    config = checkpoint.read_config(folder, kind="classifier")
    try:
        model = ResNet18(**config["network"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / checkpoint.CONFIG} lacks what a classifier run has ({error}).") from None
    path = folder / checkpoint.MODEL
    load_exactly(model, checkpoint.read_tensors(path), path)
    model = model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return config, model, hashlib.sha256(path.read_bytes()).hexdigest()
