"""What a ddpm run's config.json describes: the network, the schedule, and the loss they are trained by.

Rests on unet, schedules, diffusion and train. Ho et al. 2020 (DDPM); Ho & Salimans 2022 (labels left untold).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from minidiff.diffusion.predictions import Model, check_prediction
from minidiff.diffusion.process import diffusion_loss
from minidiff.diffusion.schedules import SCHEDULES, Schedule
from minidiff.errors import UserError, lookup
from minidiff.networks.unet import UNet
from minidiff.rng import Draws
from minidiff.training.loop import Loss


def build(config: dict[str, Any]) -> tuple[UNet, Schedule]:
    """The network, with its first weights, and the schedule that a ddpm run's config.json describes."""
    try:
        model = UNet(**config["network"])
        schedule = build_schedule(config["diffusion"])
        model.prediction = config["diffusion"]["prediction"]  # type: ignore[assignment]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the config.json of this run does not describe a network this version can build ({error})."
        ) from None
    return model, schedule


def build_schedule(diffusion: dict[str, Any]) -> Schedule:
    """The schedule named in a run's config, with its zero-terminal-SNR rescaling."""
    name, T = diffusion["schedule"], diffusion["timesteps"]
    given = {end: diffusion[end] for end in ("beta_start", "beta_end") if diffusion.get(end) is not None}
    if given and name not in ("linear", "scaled_linear"):
        option = next(iter(given)).replace("_", "-")
        raise UserError(f"--{option} belongs to the linear schedule, not {name}. Leave it out.")
    schedule = lookup("schedule", name, SCHEDULES)(T, **given)
    return schedule.zero_terminal_snr() if diffusion["zero_terminal_snr"] else schedule


def ddpm_loss(
    schedule: Schedule, prediction: str, min_snr_gamma: float | None, device: torch.device, dropout: float | None = None
) -> Loss:
    """What a DDPM minimises (Ho et al. 2020, algorithm 1), as the closure that `Trainer` calls.

    dropout: None for a network without labels; else the chance that those of an image are not told
    (Ho & Salimans 2022, algorithm 1).
    Raises UserError for eps under zero terminal SNR, from which no image can be predicted at T-1.
    """
    check_prediction(schedule, prediction)
    schedule = schedule.to(device)

    def loss(model: torch.nn.Module, x0: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        t = draws.randint(schedule.T)  # 0 .. T-1, both included
        noise = draws.randn(*x0.shape[1:])
        network: Model = model
        if dropout is not None:
            keep = draws.rand() >= dropout
            network = partial(model, labels=labels, keep=keep)
        return diffusion_loss(network, schedule, x0, t, noise, prediction, min_snr_gamma).mean()

    return loss
